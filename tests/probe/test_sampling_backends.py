"""Which backend runs, that all agree, that arrays go in and out uncopied, and what is said about mistakes.

Long because each backend stands the same calls.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cuda_probe import sampling
from cuda_probe.sampling import kv_append, registry, sigmoid_sample, speculative_sample, torch_backend, verify_prefix
from cuda_probe.sampling.cuda_backend import CudaSampling
from simulator.ground.artefacts import UserError

from .sampling_cases import Round, a_round, assert_same
from .sampling_device import kernels_on_cpu


def as_torch(case: Round) -> tuple[torch.Tensor, ...]:
    return tuple(map(torch.from_numpy, case.arrays))


@pytest.mark.parametrize("kind", ["usual", "masked", "tied", "equal", "disjoint", "unknown"])
@pytest.mark.parametrize(("batch", "drafts", "vocabulary"), [(40, 4, 50), (3, 1, 1003), (2, 0, 9), (5, 32, 3)])
def test_torch_and_numpy_agree(kind: str, batch: int, drafts: int, vocabulary: int) -> None:
    case = a_round(vocabulary, batch, drafts, vocabulary, kind=kind, ragged=True)
    for seed, heat in ((1, 1.0), (2**64 - 1, 0.3), (3, 1e30)):
        how = {"seed": seed, "step": 4, "temperature": heat, "lengths": case.lengths}
        for run in (speculative_sample, partial(sigmoid_sample, scale=30.0)):
            assert_same(*(run(*case.arrays, **how, backend=b) for b in ("torch", "numpy")))
    assert_same(*(verify_prefix(case.target, case.ids, lengths=case.lengths, backend=b) for b in ("torch", "numpy")))


def arrays_of(operation: str, make: Callable[..., Any], dtype: str = "float32") -> dict[str, Any]:
    """What an operation takes: two sequences of one draft and a vocabulary of 5, or caches of as many."""
    if operation == "kv_append":
        cache, fresh, counts = np.zeros((2, 3, 4, 5), dtype), np.zeros((2, 3, 2, 5), dtype), np.ones(2, int)
        return {"cache": make(cache), "fresh": make(fresh), "lengths": make(counts), "accepted": make(counts)}
    target, ids = make(np.zeros((2, 2, 5), dtype)), make(np.zeros((2, 1), int))
    given = {"target_logits": target, "draft_logits": target[:, :1], "draft_ids": ids, "lengths": None}
    return {name: given[name] for name in registry.ARRAYS[operation]}


def test_the_best_that_suits_is_picked_and_another_can_be_forced() -> None:
    for operation in registry.OPERATIONS:
        tensors, arrays = arrays_of(operation, torch.from_numpy), arrays_of(operation, np.asarray)
        assert registry.pick(operation, tensors).backend == "torch"
        assert registry.pick(operation, arrays).backend == "numpy"
        assert registry.pick(operation, tensors, "numpy").backend == "numpy"
        assert registry.pick(operation, arrays, "torch").backend == "torch"
        with kernels_on_cpu():
            assert registry.pick(operation, tensors).backend == "cuda"
            assert registry.pick(operation, arrays).backend == "numpy"
            assert registry.pick(operation, tensors, "torch").backend == "torch"


@pytest.mark.parametrize("operation", registry.OPERATIONS)
def test_what_the_kernels_cannot_take_falls_through_to_torch(operation: str) -> None:
    given = arrays_of(operation, torch.from_numpy)
    first = next(iter(given))
    refused = [given | {first: torch.zeros((*given[first].shape[:-1], 10))[..., ::2]}]  # strided
    if operation != "kv_append":
        refused.append(arrays_of(operation, torch.from_numpy, "float64"))
    if "draft_logits" in given:
        refused.append(given | {"draft_logits": given["draft_logits"].half()})
    run = partial(getattr(sampling, operation), **({"seed": 1} if "sample" in operation else {}))
    with kernels_on_cpu() as device:
        assert registry.pick(operation, given).backend == "cuda"
        for arrays in refused:
            assert registry.pick(operation, arrays).backend == "torch"
            run(**arrays)
            with pytest.raises(UserError, match=f"backend: 'cuda' cannot run {operation}: .*expected"):
                run(**arrays, backend="cuda")
        assert device.names == []


def test_bfloat16_runs_in_torch_and_not_in_numpy() -> None:
    case = a_round(6, 2, 2, 30)
    target, draft, ids = as_torch(case)
    halves = (target.bfloat16(), draft.bfloat16())
    wide = [x.float().numpy() for x in halves]
    assert_same(speculative_sample(*halves, ids, seed=1), speculative_sample(*wide, ids.numpy(), seed=1))
    with pytest.raises(UserError, match="cannot run speculative_sample: NumPy has no bfloat16"):
        speculative_sample(*halves, ids, seed=1, backend="numpy")
    with pytest.raises(UserError, match="nothing runs on ndarray, numpy: NumPy has no bfloat16"):
        speculative_sample(case.target, halves[1], case.ids, seed=1)


def test_a_further_implementation_takes_its_place_by_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_implementations", list(registry._implementations))

    def known() -> list[tuple[str, int]]:
        return [(i.backend, i.priority) for i in registry._implementations if i.operation == "kv_append"]

    assert sorted(known()) == [("cuda", 100), ("numpy", 10), ("torch", 50)]
    for priority, picked in ((5, "numpy"), (11, "mine")):
        registry.register(registry.Implementation("kv_append", "mine", priority, print, lambda a: None, lambda a: True))
        assert registry.pick("kv_append", arrays_of("kv_append", np.asarray)).backend == picked
    assert [backend for backend, _ in known()].count("mine") == 1


@pytest.mark.parametrize("backend", ["numpy", "torch", "cuda"])
def test_results_are_of_the_callers_own_kind(backend: str) -> None:
    case = a_round(1, 2, 2, 20)
    for kind, arrays in (("numpy", case.arrays), ("torch", as_torch(case))):
        with kernels_on_cpu():
            sampled = speculative_sample(*arrays, seed=1, backend=backend)
            verified = verify_prefix(arrays[0], arrays[2], backend=backend)
        for part in (*vars(sampled).values(), *vars(verified).values()):
            assert registry.family(part) == kind
            assert str(part.dtype).endswith("int64")
        assert_same(sampled, speculative_sample(*case.arrays, seed=1))


def test_a_cache_is_written_in_place_by_every_backend_whoever_made_it() -> None:
    fresh, counts = np.ones((1, 2, 3, 4), np.float32), np.array([2])
    for backend in ("numpy", "torch", "cuda"):
        for make in (np.array, torch.tensor):
            cache = make(np.zeros((1, 2, 5, 4), np.float32))
            with kernels_on_cpu():
                kv_append(cache, make(fresh), make(counts), make(counts), backend=backend)
            assert np.asarray(cache)[0, :, 2:4].all()
            assert float(cache.sum()) == 2 * 2 * 4


def test_tensors_with_gradients_and_slices_of_longer_logits_are_taken() -> None:
    case = a_round(5, 2, 2, 30)
    target, draft, ids = as_torch(case)
    longer = torch.cat([torch.full((2, 4, 30), torch.nan), target], 1)[:, 4:].requires_grad_()
    assert longer.stride() == (7 * 30, 30, 1)
    wanted = speculative_sample(*case.arrays, seed=1)
    assert_same(speculative_sample(longer, draft, ids.int(), seed=1), wanted)


def test_a_backend_that_is_unknown_or_cannot_run_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_backend, "is_installed", lambda: False)
    for backend, message in (
        ("triton", "backend: 'triton' is not one for speculative_sample, expected cuda, torch, numpy"),
        ("cuda", "backend: 'cuda' cannot run speculative_sample: the tensors are on the CPU"),
        ("torch", "backend: 'torch' cannot run .*: torch is not installed"),
    ):
        with pytest.raises(UserError, match=message):
            speculative_sample(*a_round(1, 1, 1, 5).arrays, seed=1, backend=backend)
    with pytest.raises(UserError, match="kv_append: nothing runs on list, expected a NumPy, torch or CuPy array"):
        registry.pick("kv_append", {"cache": [1]})


MISTAKES: list[tuple[str, Any, str]] = [
    ("target_logits", np.zeros((2, 3, 9)), r"target_logits: shape \(2, 3, 9\) for 1 drafts of 2 sequences"),
    ("target_logits", np.zeros((2, 9)), "2 and 2 dimensions, expected 3 and 2"),
    ("draft_logits", np.zeros((2, 1, 8)), r"draft_logits: shape \(2, 1, 8\), expected \(2, 1, 9\)"),
    ("lengths", np.zeros(3, int), r"lengths: shape \(3,\), expected \(2,\)"),
    ("temperature", 0, "temperature: 0, expected 1e-06 to 1e.30"),
    ("temperature", float("nan"), "temperature: nan"),
    ("temperature", "1", "temperature: '1', expected"),
    ("temperature", np.ones(2), "temperature: array.*, expected"),
    ("seed", -1, r"seed: -1, expected a whole number from 0 to 2\^64 - 1"),
    ("seed", 1.5, "seed: 1.5, expected a whole number"),
    ("seed", None, "seed: None, expected a whole number"),
    ("step", 0.5, "step: 0.5, expected a whole number"),
    ("draft_ids", np.zeros((2, 1)), "draft_ids: float64, expected integers"),
    ("draft_ids", torch.zeros((2, 1)), "draft_ids: float32, expected integers"),
    ("draft_ids", np.zeros((2, 1), bool), "draft_ids: bool, expected integers"),
    ("draft_ids", [[0], [1]], "draft_ids: list, expected a NumPy, torch or CuPy array"),
    ("draft_ids", None, "draft_ids: NoneType, expected a NumPy"),
    ("target_logits", [[[0.0]]], "target_logits: list, expected a NumPy"),
    ("draft_logits", [[[0.0]]], "draft_logits: list, expected a NumPy"),
    ("target_logits", np.zeros((2, 2, 9), complex), "target_logits: complex128, expected real numbers"),
    ("lengths", np.ones(2), "lengths: float64, expected integers"),
    ("lengths", [1, 1], "lengths: list, expected"),
    ("step", 2**32, "step: 4294967296, expected"),
    ("step", np.array([1]), r"step: int64 of shape \(1,\), expected an integer or an array of just one"),
    ("step", np.array(1.0), r"step: float64 of shape \(\), expected an integer"),
]


def test_mistakes_are_named() -> None:
    logits = np.zeros((2, 2, 9))
    right = {"target_logits": logits, "draft_logits": logits[:, :1], "draft_ids": np.zeros((2, 1), int), "seed": 1}
    for name, wrong, message in MISTAKES:
        with pytest.raises(UserError, match=message):
            speculative_sample(**(right | {name: wrong}))


def test_mistakes_about_types_and_caches_are_named() -> None:
    logits, ids = np.zeros((1, 2, 9)), np.zeros((1, 1), int)
    wide = np.zeros((1, 2, 27), np.float32)[..., ::3]
    for wrong, message in (
        (logits, "logits: float64, expected float32, float16, bfloat16"),
        (wide, "target_logits: stride 3 within a row, expected 1"),
    ):
        with kernels_on_cpu(), pytest.raises(UserError, match=message):
            verify_prefix(wrong, ids, backend="cuda")
    with pytest.raises(UserError, match=r"scale: 0, expected 0\.001 to 1e\+30"):
        sigmoid_sample(logits, logits[:, :1], ids, seed=1, scale=0)
    cache, counts = np.zeros((1, 2, 5, 4), np.float32), np.zeros(1, int)
    right = {"cache": cache, "fresh": cache[:, :, :3], "lengths": counts, "accepted": counts}
    for name, wrong, message in (
        ("fresh", np.zeros((1, 2, 3, 4)), "fresh: float64, expected float32 as in cache"),
        ("fresh", np.zeros((1, 3, 3, 4), np.float32), r"fresh: shape \(1, 3, 3, 4\), expected \(1, 2, 3, 4\)"),
        ("accepted", np.zeros(1), "accepted: float64, expected integers"),
        ("lengths", [0], "lengths: list, expected"),
        ("cache", [[[[0.0]]]], "cache: list, expected"),
        ("accepted", None, "accepted: NoneType, expected"),
    ):
        with pytest.raises(UserError, match=message):
            kv_append(**(right | {name: wrong}))


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array = array.copy()
    array.flags.writeable = False
    return array


def backwards(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same numbers in memory that is gone through backwards."""
    return array[::-1].copy()[::-1]


def swapped(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same numbers, their bytes the other way round."""
    return array.astype(array.dtype.newbyteorder("S"))


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_numpy_arrays_of_every_layout_are_taken_and_caches_written_where_they_lie(backend: str) -> None:
    case = a_round(7, 3, 2, 30, ragged=True)
    wanted = speculative_sample(*case.arrays, lengths=case.lengths, seed=1)
    fresh, counts = np.ones((2, 1, 2, 3)), np.array([1, 0])
    for make in (read_only, backwards, swapped):
        arrays = map(make, case.arrays)
        assert_same(speculative_sample(*arrays, lengths=make(case.lengths), seed=1, backend=backend), wanted)
        cache = np.zeros((2, 1, 4, 3))
        grown = kv_append(cache, make(fresh), make(counts), make(counts), backend=backend)
        assert (grown.tolist(), cache.sum()) == ([2, 0], 3)
    with pytest.raises(UserError, match="cache: read-only, expected an array that can be written"):
        kv_append(read_only(np.zeros((2, 1, 4, 3))), fresh, counts, counts, backend=backend)
    cache = backwards(np.zeros((2, 1, 4, 3)))
    if backend == "torch":
        with pytest.raises(UserError, match="cache: torch has no strides below 0, expected what torch can view"):
            kv_append(cache, fresh, counts, counts, backend=backend)
    else:
        kv_append(cache, fresh, counts, counts, backend=backend)
    assert cache.sum() == (0 if backend == "torch" else 3)


@pytest.mark.parametrize("backend", ["numpy", "torch", "cuda"])
def test_counts_and_ids_of_every_integer_type_are_taken(backend: str) -> None:
    case = a_round(7, 3, 2, 100, ragged=True)
    wanted = speculative_sample(*case.arrays, lengths=case.lengths, seed=1)
    for dtype in ("uint8", "int8", "int32", "uint64"):
        ids, lengths = case.ids.astype(dtype), case.lengths.astype(dtype)
        cache, fresh, counts = np.zeros((2, 1, 400, 3)), np.ones((2, 1, 2, 3)), np.array([100, 0], dtype)
        with kernels_on_cpu():
            how = {"lengths": lengths, "seed": 1, "backend": backend}
            assert_same(speculative_sample(case.target, case.draft, ids, **how), wanted)
            assert np.asarray(kv_append(cache, fresh, counts, counts, backend=backend)).tolist() == [102, 0]


def test_drafts_too_improbable_for_a_float_are_decided_alike() -> None:
    # The drafted token is far below the best one of both models: both probabilities underflow, their ratio does not.
    target, draft = np.zeros((4, 3, 8), np.float32), np.zeros((4, 2, 8), np.float32)
    target[..., 0], draft[..., 0] = 64, 64
    target[2:, :, 1] = -2  # beside the draft's 0: far less probable still, so rejected
    ids = np.ones((4, 2), np.int64)
    with kernels_on_cpu():
        for backend, heat in product(("cuda", "torch", "numpy"), (1e-6, 1e-3, 1e-2)):
            sampled = speculative_sample(target, draft, ids, seed=3, temperature=heat, backend=backend)
            assert np.asarray(sampled.accepted).tolist() == [2, 2, 0, 0]
            assert np.asarray(sampled.token).tolist() == [0] * 4


class Elsewhere(np.ndarray[Any, Any]):
    """An array that says it lies on the second GPU."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 1


@pytest.mark.parametrize("wrong", ["draft_logits", "draft_ids", "lengths"])
def test_an_array_on_another_device_than_the_logits_is_named(wrong: str) -> None:
    arrays = dict(zip(("target_logits", "draft_logits", "draft_ids"), a_round(1, 2, 2, 20).arrays, strict=True))
    arrays["lengths"] = np.ones(2, int)
    arrays[wrong] = arrays[wrong].view(Elsewhere)
    message = f"{wrong}: on CUDA device 1, expected the CPU"
    with kernels_on_cpu() as device:
        for backend in ("cuda", "torch"):
            with pytest.raises(UserError, match=f"{message} as for target_logits"):
                speculative_sample(**arrays, seed=1, backend=backend)
    assert device.names == []
    with pytest.raises(UserError, match=f"nothing runs on ndarray, numpy: {message}"):
        speculative_sample(**arrays, seed=1)


def test_arrays_of_several_libraries_on_one_device_go_together() -> None:
    case = a_round(3, 4, 3, 40, ragged=True)
    target, draft, ids = as_torch(case)
    wanted = speculative_sample(*case.arrays, seed=1, lengths=case.lengths)
    with kernels_on_cpu():
        for arrays in ((target, draft, case.ids), (case.target, case.draft, ids), (case.target, draft, ids)):
            sampled = speculative_sample(*arrays, seed=1, lengths=case.lengths, backend="cuda")
            assert_same(sampled, wanted)
            assert registry.family(sampled.token) == registry.family(arrays[0])


class Unhashable(np.ndarray[Any, Any]):
    """An array whose device cannot be a dictionary's key, as CuPy's."""

    @property
    def device(self) -> Any:
        return []


def test_arrays_whose_device_is_unhashable_are_taken() -> None:
    arrays = a_round(4, 2, 2, 30).arrays
    with kernels_on_cpu():
        sampled = speculative_sample(*(array.view(Unhashable) for array in arrays), seed=1, backend="cuda")
    assert_same(sampled, speculative_sample(*arrays, seed=1))


def addresses_of_scratch(case: Round, device: Any) -> set[int]:
    """What the two launches of a call are given beside the arrays of the caller and the results."""
    sampled = speculative_sample(*case.arrays, seed=1, backend="cuda")
    known = {id(array) for array in (*case.arrays, *vars(sampled).values())}
    launches, device.kept = device.kept, []
    arrays = [a for launch in launches for a in launch.args if isinstance(a, np.ndarray) and id(a) not in known]
    return {array.ctypes.data for array in arrays}


def test_streams_and_graphs_share_no_scratch_and_calls_of_one_stream_do() -> None:
    case = a_round(5, 2, 2, 3000)
    with kernels_on_cpu(keep=True) as device:
        on_first = addresses_of_scratch(case, device)
        assert addresses_of_scratch(case, device) == on_first
        device.stream = 7
        on_second = addresses_of_scratch(case, device)
        device.capturing = True
        graphs = [addresses_of_scratch(case, device) for _ in range(2)]
        device.capturing = False
        assert addresses_of_scratch(case, device) == on_second
    assert [place.ptr for place in device.places] == [0] * 4 + [7] * 8
    known = [on_first, on_second, *graphs]
    assert len(set().union(*known)) == sum(len(some) for some in known) == 4 * 5


def test_scratch_grows_and_calls_of_other_shapes_go_on() -> None:
    with kernels_on_cpu():
        for batch, drafts, vocabulary in ((1, 1, 10), (3, 4, 2500), (1, 1, 10), (2, 6, 5000), (3, 4, 2500)):
            arrays = a_round(batch, batch, drafts, vocabulary).arrays
            assert_same(*(speculative_sample(*arrays, seed=1, backend=b) for b in ("cuda", "numpy")))
        cuda = registry.cuda_sampling()
        assert isinstance(cuda, CudaSampling)
        (workspace,) = cuda.workspaces.values()
    assert len(workspace.plans) == 2  # the growth before the last two calls took the other plans away


def test_a_round_number_in_an_array_counts_as_the_number_and_kernels_read_it_when_they_run() -> None:
    arrays = a_round(6, 8, 3, 40).arrays

    def decided(step: int) -> Any:
        return speculative_sample(*arrays, seed=1, step=step)

    with kernels_on_cpu():
        for backend, make in product(("numpy", "torch", "cuda"), (np.array, torch.tensor)):
            sampled = speculative_sample(*arrays, seed=1, step=make(2**32 - 5), backend=backend)
            assert_same(sampled, decided(2**32 - 5))
    step = np.array(3)
    with kernels_on_cpu(keep=True) as device:
        sampled = speculative_sample(*arrays, seed=1, step=step, backend="cuda")
        step += 1
        device.run_kept()
    assert_same(sampled, decided(4))
    assert not np.array_equal(sampled.token, decided(3).token)


@pytest.mark.parametrize("backend", ["numpy", "torch", "cuda"])
def test_nothing_drafted_and_no_row_accepts_nothing(backend: str) -> None:
    with kernels_on_cpu():
        for batch, rows in product((3, 0), (0, 1)):
            verified = verify_prefix(np.ones((batch, rows, 9), np.float32), np.zeros((batch, 0), int), backend=backend)
            assert np.asarray(verified.accepted).tolist() == [0] * batch
            assert np.asarray(verified.ids).tolist() == [[0] * rows] * batch
        empty = np.zeros((0, 3, 9), np.float32)
        none = speculative_sample(empty, empty[:, :2], np.zeros((0, 2), int), seed=1, backend=backend)
        assert [np.asarray(part).shape for part in vars(none).values()] == [(0,), (0,), (0, 3)]


def test_a_cupy_that_cannot_be_imported_is_a_reason_and_torch_serves(tmp_path: Path) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('no libcuda.so.1')")
    code = """
import torch
from cuda_probe.sampling import registry

class OnGpu(torch.Tensor):
    def __dlpack_device__(self):
        return 2, 0

like = torch.zeros(1).as_subclass(OnGpu)
OnGpu.__module__ = "torch"
given = {"target_logits": like, "draft_ids": like, "lengths": None}
print(registry.pick("verify_prefix", given).backend)
try:
    registry.pick("verify_prefix", given, "cuda")
except registry.UserError as error:
    print(error)
"""
    paths = os.pathsep.join([str(tmp_path), str(Path(registry.__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    assert done.stdout.splitlines() == [
        "torch",
        "backend: 'cuda' cannot run verify_prefix: CuPy cannot be imported (no libcuda.so.1)",
    ], done.stderr
