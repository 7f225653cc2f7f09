"""Which backend runs, that all agree, that arrays go in and out uncopied, and what is said about mistakes."""

from typing import Any

import numpy as np
import pytest
import torch

from cuda_probe.sampling import kv_append, registry, sigmoid_sample, speculative_sample, torch_backend, verify_prefix
from cuda_probe.sampling.dlpack import BFLOAT, CPU, FLOAT, view
from simulator.artefacts import UserError

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


def test_the_best_that_suits_is_picked_and_another_can_be_forced() -> None:
    tensor, array = torch.zeros(2), np.zeros(2)
    for operation in registry.OPERATIONS:
        assert registry.pick(operation, tensor).backend == "torch"
        assert registry.pick(operation, array).backend == "numpy"
        assert registry.pick(operation, tensor, "numpy").backend == "numpy"
        assert registry.pick(operation, array, "torch").backend == "torch"
        with kernels_on_cpu():
            assert registry.pick(operation, tensor).backend == "cuda"
            assert registry.pick(operation, array).backend == "numpy"
            assert registry.pick(operation, tensor, "torch").backend == "torch"


def test_priorities_are_cuda_torch_numpy() -> None:
    known = {i.backend: i.priority for i in registry._implementations if i.operation == "kv_append"}
    assert known == {"cuda": 100, "torch": 50, "numpy": 10}


def test_a_further_implementation_takes_its_place_by_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_implementations", list(registry._implementations))

    def add(priority: int) -> None:
        registry.register(registry.Implementation("kv_append", "mine", priority, print, lambda a: None, lambda a: True))

    add(5)
    assert registry.pick("kv_append", np.zeros(1)).backend == "numpy"
    add(11)
    assert registry.pick("kv_append", np.zeros(1)).backend == "mine"
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
    assert view(longer.detach()).strides == (7 * 30, 30, 1)


def test_dlpack_says_where_arrays_lie() -> None:
    array = np.zeros((3, 4, 5), np.float16)
    seen = view(array[1:, :, 2:])
    assert int(seen.pointer) == array.ctypes.data + (20 + 2) * 2
    assert (seen.shape, seen.strides) == ((2, 4, 3), (20, 5, 1))
    assert (seen.device_type, seen.dtype_code, seen.dtype_bits) == (CPU, FLOAT, 16)
    tensor = torch.zeros(2, 3, dtype=torch.bfloat16).T
    seen = view(tensor)
    assert int(seen.pointer) == tensor.data_ptr()
    assert (seen.strides, seen.dtype_code, seen.itemsize_bytes) == ((1, 3), BFLOAT, 2)
    assert seen.pointer.owner is tensor


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
    with pytest.raises(UserError, match="kv_append: nothing runs on list"):
        registry.pick("kv_append", [1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_logits": np.zeros((2, 3, 9))}, r"target_logits: shape \(2, 3, 9\) for 1 drafts of 2 sequences"),
        ({"target_logits": np.zeros((2, 9))}, "2 and 2 dimensions, expected 3 and 2"),
        ({"draft_logits": np.zeros((2, 1, 8))}, r"draft_logits: shape \(2, 1, 8\), expected \(2, 1, 9\)"),
        ({"lengths": np.zeros(3, int)}, r"lengths: shape \(3,\), expected \(2,\)"),
        ({"temperature": 0}, "temperature: 0, expected 1e-06 to 1e.30"),
        ({"temperature": float("nan")}, "temperature: nan"),
        ({"seed": -1}, r"seed: -1, expected 0 to 2\^64 - 1"),
        ({"step": 2**32}, "step: 4294967296, expected"),
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
    with kernels_on_cpu(), pytest.raises(UserError, match="logits: 64 bits an element, expected float32"):
        verify_prefix(logits, np.zeros((1, 1), int), backend="cuda")
    wide = np.zeros((1, 2, 27), np.float32)[..., ::3]
    with kernels_on_cpu(), pytest.raises(UserError, match="target_logits: stride 3 within a row, expected 1"):
        verify_prefix(wide, np.zeros((1, 1), int), backend="cuda")
    with pytest.raises(UserError, match=r"scale: 0, expected 0\.001 to 1e30"):
        sigmoid_sample(logits, logits[:, :1], np.zeros((1, 1), int), seed=1, scale=0)
    cache, counts = np.zeros((1, 2, 5, 4), np.float32), np.zeros(1, int)
    with pytest.raises(UserError, match="fresh: float64, expected float32 as in cache"):
        kv_append(cache, np.zeros((1, 2, 3, 4)), counts, counts)
    with pytest.raises(UserError, match=r"fresh: shape \(1, 3, 3, 4\), expected \(1, 2, 3, 4\)"):
        kv_append(cache, np.zeros((1, 3, 3, 4), np.float32), counts, counts)
