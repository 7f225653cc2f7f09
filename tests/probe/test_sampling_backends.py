"""Which backend runs, that all agree, that arrays go in and out uncopied, and what is said about mistakes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cuda_probe.sampling import kv_append, registry, sigmoid_sample, speculative_sample, torch_backend, verify_prefix
from cuda_probe.sampling.cuda_backend import CudaSampling
from simulator.ground.artefacts import UserError

from .sampling_cases import Round, a_round, assert_same
from .sampling_device import kernels_on_cpu


def as_torch(case: Round) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.from_numpy(case.target), torch.from_numpy(case.draft), torch.from_numpy(case.ids)


@pytest.mark.parametrize("kind", ["usual", "masked", "tied", "equal", "disjoint", "unknown"])
@pytest.mark.parametrize(("batch", "drafts", "vocabulary"), [(40, 4, 50), (3, 1, 1003), (2, 0, 9), (5, 32, 3)])
def test_torch_and_numpy_agree(kind: str, batch: int, drafts: int, vocabulary: int) -> None:
    case = a_round(vocabulary, batch, drafts, vocabulary, kind=kind, ragged=True)
    arrays = (case.target, case.draft, case.ids)
    for seed, temperature in ((1, 1.0), (2**64 - 1, 0.3), (3, 1e30)):
        for run, how in ((speculative_sample, {}), (sigmoid_sample, {"scale": 30.0})):
            found = [
                run(*arrays, seed=seed, step=4, temperature=temperature, lengths=case.lengths, backend=b, **how)  # type: ignore[operator]
                for b in ("torch", "numpy")
            ]
            assert_same(*found)
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
    wide, given = arrays_of(operation, torch.from_numpy, "float64"), arrays_of(operation, torch.from_numpy)
    first = next(iter(given))
    strided = given | {first: torch.zeros((*given[first].shape[:-1], 10))[..., ::2]}
    refused = [strided, *([] if operation == "kv_append" else [wide])]
    refused += [given | {"draft_logits": given["draft_logits"].half()}] if "draft_logits" in given else []
    how = {"seed": 1} if "sample" in operation else {}
    run = {"verify_prefix": verify_prefix, "kv_append": kv_append, "sigmoid_sample": sigmoid_sample}.get(
        operation, speculative_sample
    )
    with kernels_on_cpu() as device:
        assert registry.pick(operation, given).backend == "cuda"
        for arrays in refused:
            assert registry.pick(operation, arrays).backend == "torch"
            run(**arrays, **how)  # type: ignore[operator]
            with pytest.raises(UserError, match=f"backend: 'cuda' cannot run {operation}: .*expected"):
                run(**arrays, **how, backend="cuda")  # type: ignore[operator]
        assert device.names == []


def test_arrays_that_no_backend_takes_are_refused_with_each_reason() -> None:
    case = a_round(1, 1, 1, 5)
    halves = torch.from_numpy(case.draft).bfloat16()
    with pytest.raises(UserError, match="nothing runs on ndarray, numpy: NumPy has no bfloat16"):
        speculative_sample(case.target, halves, case.ids, seed=1)


def test_priorities_are_cuda_torch_numpy() -> None:
    known = {i.backend: i.priority for i in registry._implementations if i.operation == "kv_append"}
    assert known == {"cuda": 100, "torch": 50, "numpy": 10}


def test_a_further_implementation_takes_its_place_by_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_implementations", list(registry._implementations))

    def add(priority: int) -> None:
        registry.register(registry.Implementation("kv_append", "mine", priority, print, lambda a: None, lambda a: True))

    add(5)
    given = arrays_of("kv_append", np.asarray)
    assert registry.pick("kv_append", given).backend == "numpy"
    add(11)
    assert registry.pick("kv_append", given).backend == "mine"
    assert [i.backend for i in registry._implementations if i.operation == "kv_append"].count("mine") == 1


@pytest.mark.parametrize("given", ["numpy", "torch"])
@pytest.mark.parametrize("backend", ["numpy", "torch", "cuda"])
def test_results_are_of_the_callers_own_kind(given: str, backend: str) -> None:
    case = a_round(1, 2, 2, 20)
    arrays: Any = (case.target, case.draft, case.ids) if given == "numpy" else as_torch(case)
    with kernels_on_cpu():
        found = speculative_sample(*arrays, seed=1, backend=backend)
        verified = verify_prefix(arrays[0], arrays[2], backend=backend)
    for part in (*vars(found).values(), *vars(verified).values()):
        assert registry.family(part) == given
        assert str(part.dtype).endswith("int64")
    assert_same(found, speculative_sample(case.target, case.draft, case.ids, seed=1))


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
    wanted = speculative_sample(case.target, case.draft, case.ids, seed=1)
    assert_same(speculative_sample(longer, draft, ids.int(), seed=1), wanted)
    assert longer.stride() == (7 * 30, 30, 1)


def test_bfloat16_runs_in_torch_and_not_in_numpy() -> None:
    target, draft, ids = as_torch(a_round(6, 2, 2, 30))
    halves = (target.bfloat16(), draft.bfloat16())
    wide = [x.float().numpy() for x in halves]
    assert_same(speculative_sample(*halves, ids, seed=1), speculative_sample(*wide, ids.numpy(), seed=1))
    with pytest.raises(UserError, match="cannot run speculative_sample: NumPy has no bfloat16"):
        speculative_sample(*halves, ids, seed=1, backend="numpy")


def test_a_backend_that_is_unknown_or_cannot_run_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    case = a_round(1, 1, 1, 5)
    arrays = (case.target, case.draft, case.ids)
    with pytest.raises(
        UserError, match=r"backend: 'triton' is not one for speculative_sample, expected cuda, torch, numpy"
    ):
        speculative_sample(*arrays, seed=1, backend="triton")
    with pytest.raises(UserError, match="backend: 'cuda' cannot run speculative_sample: the tensors are on the CPU"):
        speculative_sample(*arrays, seed=1, backend="cuda")
    monkeypatch.setattr(torch_backend, "is_installed", lambda: False)
    with pytest.raises(UserError, match=r"backend: 'torch' cannot run .*: torch is not installed"):
        speculative_sample(*arrays, seed=1, backend="torch")
    with pytest.raises(UserError, match="kv_append: nothing runs on list, expected a NumPy, torch or CuPy array"):
        registry.pick("kv_append", {"cache": [1]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_logits": np.zeros((2, 3, 9))}, r"target_logits: shape \(2, 3, 9\) for 1 drafts of 2 sequences"),
        ({"target_logits": np.zeros((2, 9))}, "2 and 2 dimensions, expected 3 and 2"),
        ({"draft_logits": np.zeros((2, 1, 8))}, r"draft_logits: shape \(2, 1, 8\), expected \(2, 1, 9\)"),
        ({"lengths": np.zeros(3, int)}, r"lengths: shape \(3,\), expected \(2,\)"),
        ({"temperature": 0}, "temperature: 0, expected 1e-06 to 1e.30"),
        ({"temperature": float("nan")}, "temperature: nan"),
        ({"temperature": "1"}, "temperature: '1', expected"),
        ({"temperature": np.ones(2)}, "temperature: array.*, expected"),
        ({"seed": -1}, r"seed: -1, expected a whole number from 0 to 2\^64 - 1"),
        ({"seed": 1.5}, "seed: 1.5, expected a whole number"),
        ({"seed": None}, "seed: None, expected a whole number"),
        ({"step": 0.5}, "step: 0.5, expected a whole number"),
        ({"draft_ids": np.zeros((2, 1))}, "draft_ids: float64, expected integers"),
        ({"draft_ids": torch.zeros((2, 1))}, "draft_ids: float32, expected integers"),
        ({"draft_ids": np.zeros((2, 1), bool)}, "draft_ids: bool, expected integers"),
        ({"draft_ids": [[0], [1]]}, "draft_ids: list, expected a NumPy, torch or CuPy array"),
        ({"draft_ids": None}, "draft_ids: NoneType, expected a NumPy"),
        ({"target_logits": [[[0.0]]]}, "target_logits: list, expected a NumPy"),
        ({"draft_logits": [[[0.0]]]}, "draft_logits: list, expected a NumPy"),
        ({"target_logits": np.zeros((2, 2, 9), complex)}, "target_logits: complex128, expected real numbers"),
        ({"lengths": np.ones(2)}, "lengths: float64, expected integers"),
        ({"lengths": [1, 1]}, "lengths: list, expected"),
        ({"step": 2**32}, "step: 4294967296, expected"),
        ({"step": np.array([1])}, r"step: int64 of shape \(1,\), expected an integer or an array of just one"),
        ({"step": np.array(1.0)}, r"step: float64 of shape \(\), expected an integer"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    right = {
        "target_logits": np.zeros((2, 2, 9)),
        "draft_logits": np.zeros((2, 1, 9)),
        "draft_ids": np.zeros((2, 1), int),
    }
    with pytest.raises(UserError, match=message):
        speculative_sample(**(right | {"seed": 1} | change))


def test_mistakes_about_types_and_caches_are_named() -> None:
    logits = np.zeros((1, 2, 9))
    with kernels_on_cpu(), pytest.raises(UserError, match="logits: float64, expected float32, float16, bfloat16"):
        verify_prefix(logits, np.zeros((1, 1), int), backend="cuda")
    wide = np.zeros((1, 2, 27), np.float32)[..., ::3]
    with kernels_on_cpu(), pytest.raises(UserError, match="target_logits: stride 3 within a row, expected 1"):
        verify_prefix(wide, np.zeros((1, 1), int), backend="cuda")
    with pytest.raises(UserError, match=r"scale: 0, expected 0\.001 to 1e\+30"):
        sigmoid_sample(logits, logits[:, :1], np.zeros((1, 1), int), seed=1, scale=0)
    cache, counts = np.zeros((1, 2, 5, 4), np.float32), np.zeros(1, int)
    with pytest.raises(UserError, match="fresh: float64, expected float32 as in cache"):
        kv_append(cache, np.zeros((1, 2, 3, 4)), counts, counts)
    for name, wrong, words in (
        ("accepted", np.zeros(1), "accepted: float64, expected integers"),
        ("lengths", [0], "lengths: list, expected"),
        ("cache", [[[[0.0]]]], "cache: list, expected"),
        ("accepted", None, "accepted: NoneType, expected"),
    ):
        given = {"cache": cache, "fresh": cache[:, :, :3], "lengths": counts, "accepted": counts} | {name: wrong}
        with pytest.raises(UserError, match=words):
            kv_append(**given)
    with pytest.raises(UserError, match=r"fresh: shape \(1, 3, 3, 4\), expected \(1, 2, 3, 4\)"):
        kv_append(cache, np.zeros((1, 3, 3, 4), np.float32), counts, counts)


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
@pytest.mark.parametrize("make", [read_only, backwards, swapped])
def test_numpy_arrays_of_every_layout_are_taken(make: Callable[..., Any], backend: str) -> None:
    case = a_round(7, 3, 2, 30, ragged=True)
    assert case.lengths is not None
    wanted = speculative_sample(case.target, case.draft, case.ids, lengths=case.lengths, seed=1)
    arrays = [make(array) for array in (case.target, case.draft, case.ids)]
    found = speculative_sample(*arrays, lengths=make(case.lengths), seed=1, backend=backend)
    assert_same(found, wanted)
    cache, fresh, counts = np.zeros((2, 1, 4, 3)), np.ones((2, 1, 2, 3)), np.array([1, 0])
    grown = kv_append(cache, make(fresh), make(counts), make(counts), backend=backend)
    assert (grown.tolist(), cache.sum()) == ([2, 0], 3)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_cache_is_written_where_it_lies_or_refused(backend: str) -> None:
    fresh, counts = np.ones((2, 1, 2, 3)), np.array([1, 0])
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
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "uint64"])
def test_counts_and_ids_of_every_integer_type_are_taken(dtype: str, backend: str) -> None:
    case = a_round(7, 3, 2, 100, ragged=True)
    assert case.lengths is not None
    wanted = speculative_sample(case.target, case.draft, case.ids, lengths=case.lengths, seed=1)
    ids, lengths = case.ids.astype(dtype), case.lengths.astype(dtype)
    cache, fresh, counts = np.zeros((2, 1, 400, 3)), np.ones((2, 1, 2, 3)), np.array([100, 0], dtype)
    with kernels_on_cpu():
        found = speculative_sample(case.target, case.draft, ids, lengths=lengths, seed=1, backend=backend)
        assert_same(found, wanted)
        assert np.asarray(kv_append(cache, fresh, counts, counts, backend=backend)).tolist() == [102, 0]


@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 1e-2])
def test_drafts_too_improbable_for_a_float_are_decided_alike(temperature: float) -> None:
    # The drafted token is far below the best one of both models: both probabilities underflow, their ratio does not.
    target, draft = np.zeros((4, 3, 8), np.float32), np.zeros((4, 2, 8), np.float32)
    target[..., 0], draft[..., 0] = 64, 64
    target[2:, :, 1] = -2  # beside the draft's 0: far less probable still, so rejected
    ids = np.ones((4, 2), np.int64)
    with kernels_on_cpu():
        for backend in ("cuda", "torch", "numpy"):
            found = speculative_sample(target, draft, ids, seed=3, temperature=temperature, backend=backend)
            assert np.asarray(found.accepted).tolist() == [2, 2, 0, 0]
            assert np.asarray(found.token).tolist() == [0] * 4


class Elsewhere(np.ndarray[Any, Any]):
    """An array that says it lies on the second GPU."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 1


@pytest.mark.parametrize("wrong", ["draft_logits", "draft_ids", "lengths"])
def test_an_array_on_another_device_than_the_logits_is_named(wrong: str) -> None:
    case = a_round(1, 2, 2, 20)
    arrays = {
        "target_logits": case.target,
        "draft_logits": case.draft,
        "draft_ids": case.ids,
        "lengths": np.ones(2, int),
    }
    arrays[wrong] = arrays[wrong].view(Elsewhere)
    message = f"{wrong}: on CUDA device 1, expected the CPU as for target_logits"
    with kernels_on_cpu() as device:
        for backend in ("cuda", "torch"):
            with pytest.raises(UserError, match=message):
                speculative_sample(**arrays, seed=1, backend=backend)
    assert device.names == []
    with pytest.raises(UserError, match=f"nothing runs on ndarray, numpy: {wrong}: on CUDA device 1, expected the CPU"):
        speculative_sample(**arrays, seed=1)


def test_arrays_of_several_libraries_on_one_device_go_together() -> None:
    case = a_round(3, 4, 3, 40, ragged=True)
    target, draft, ids = as_torch(case)
    with kernels_on_cpu():
        for arrays in ((target, draft, case.ids), (case.target, case.draft, ids), (case.target, draft, ids)):
            found = speculative_sample(*arrays, seed=1, lengths=case.lengths, backend="cuda")
            assert_same(found, speculative_sample(case.target, case.draft, case.ids, seed=1, lengths=case.lengths))
            assert registry.family(found.token) == registry.family(arrays[0])


class Unhashable(np.ndarray[Any, Any]):
    """An array whose device cannot be a dictionary's key, as CuPy's."""

    @property
    def device(self) -> Any:
        return []


def test_arrays_whose_device_is_unhashable_are_taken() -> None:
    case = a_round(4, 2, 2, 30)
    arrays = [array.view(Unhashable) for array in (case.target, case.draft, case.ids)]
    with kernels_on_cpu():
        found = speculative_sample(*arrays, seed=1, backend="cuda")
    assert_same(found, speculative_sample(case.target, case.draft, case.ids, seed=1))


def addresses_of_scratch(case: Round, device: Any) -> set[int]:
    """What the two launches of a call are given beside the arrays of the caller and the results."""
    found = speculative_sample(case.target, case.draft, case.ids, seed=1, backend="cuda")
    theirs = {id(array) for array in (case.target, case.draft, case.ids, *vars(found).values())}
    launches, device.kept = device.kept, []
    arrays = [a for launch in launches for a in launch.args if isinstance(a, np.ndarray) and id(a) not in theirs]
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
            case = a_round(batch, batch, drafts, vocabulary)
            found = speculative_sample(case.target, case.draft, case.ids, seed=1, backend="cuda")
            assert_same(found, speculative_sample(case.target, case.draft, case.ids, seed=1))
        cuda = registry.cuda_sampling()
        assert isinstance(cuda, CudaSampling)
        (workspace,) = cuda.workspaces.values()
    assert len(workspace.plans) == 2  # the growth before the last two calls took the other plans away


@pytest.mark.parametrize("backend", ["numpy", "torch", "cuda"])
def test_a_round_number_in_an_array_counts_as_the_number(backend: str) -> None:
    case = a_round(6, 8, 3, 40)
    arrays = (case.target, case.draft, case.ids)
    with kernels_on_cpu():
        for make in (np.array, torch.tensor):
            found = speculative_sample(*arrays, seed=1, step=make(2**32 - 5), backend=backend)
            assert_same(found, speculative_sample(*arrays, seed=1, step=2**32 - 5))


def test_kernels_read_a_round_number_when_they_run() -> None:
    case, step = a_round(6, 8, 3, 40), np.array(3)
    arrays = (case.target, case.draft, case.ids)
    with kernels_on_cpu(keep=True) as device:
        found = speculative_sample(*arrays, seed=1, step=step, backend="cuda")
        step += 1
        device.run_kept()
    assert_same(found, speculative_sample(*arrays, seed=1, step=4))
    assert not np.array_equal(found.token, speculative_sample(*arrays, seed=1, step=3).token)


@pytest.mark.parametrize("backend", ["numpy", "torch", "cuda"])
def test_nothing_drafted_and_no_row_accepts_nothing(backend: str) -> None:
    with kernels_on_cpu():
        for batch in (3, 0):
            for rows in (0, 1):
                logits = np.ones((batch, rows, 9), np.float32)
                found = verify_prefix(logits, np.zeros((batch, 0), int), backend=backend)
                assert np.asarray(found.accepted).tolist() == [0] * batch
                assert np.asarray(found.ids).tolist() == [[0] * rows] * batch
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
