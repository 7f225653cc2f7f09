"""The kernels' own source, run on the CPU, against the NumPy law: the same tokens from the same numbers.

fp16 and bf16 round the logits, not the arithmetic: kernel and reference start from the same rounded logits and the
kernel computes in fp32. Log-probabilities agree to 2e-6 of their size (`test_laws_are_right_to_fp32`), and so do all
decisions but about one in 10^6: the results compared here are equal.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cuda_probe.sampling import (
    cuda_backend,
    kv_append,
    reference,
    registry,
    sigmoid_sample,
    speculative_sample,
    verify_prefix,
)
from cuda_probe.sampling.cuda_backend import CudaSampling, geometry, span_of

from .sampling_cases import Round, a_round, assert_same
from .sampling_device import ShimDevice, kernels_on_cpu
from .shim.shim import Launch, SanitizerError

ADDRESS = ("address", "undefined")
# batch, drafts, vocabulary, then what `a_round` takes
SHAPES: list[tuple[int, int, int, dict[str, Any]]] = [
    (1, 1, 1, {}),
    (1, 1, 2, {"kind": "tied"}),
    (3, 2, 5, {}),
    (2, 3, 33, {"kind": "masked"}),
    (5, 4, 257, {"ragged": True}),
    (1, 32, 40, {}),
    (2, 33, 17, {"kind": "equal", "ragged": True}),
    (1, 2, 2047, {"kind": "disjoint"}),
    (1, 2, 2048, {}),
    (2, 1, 2051, {"kind": "masked"}),
    (1, 3, 4096, {"kind": "equal"}),
    (2, 2, 5003, {"kind": "unknown"}),
    (2, 0, 300, {}),
]
HALVES = [
    (2, 2, 5, {}),
    (3, 2, 1001, {"ragged": True}),
    (1, 2, 2056, {"kind": "tied"}),
    (2, 1, 4099, {"kind": "masked"}),
]


def three_results(case: Round, backend: str, **how: Any) -> tuple[Any, ...]:
    """Run the exact and the sigmoid sampler and the verification."""
    return (
        speculative_sample(*case.arrays, lengths=case.lengths, seed=5, backend=backend, **how),
        sigmoid_sample(*case.arrays, lengths=case.lengths, seed=6, scale=5.0, backend=backend, **how),
        verify_prefix(case.target, case.ids, lengths=case.lengths, backend=backend),
    )


def assert_all_same(one: Iterable[Any], other: Iterable[Any]) -> None:
    for results in zip(one, other, strict=True):
        assert_same(*results)


def assert_kernels_follow(case: Round, **how: Any) -> tuple[Any, ...]:
    """Compare the kernels' results with the reference's, and return them."""
    results = three_results(case, "cuda", **how)
    assert_all_same(results, three_results(case, "numpy", **how))
    return results


def sampled(case: Round, backend: str = "cuda", **how: Any) -> Any:
    with kernels_on_cpu():
        return speculative_sample(*case.arrays, seed=1, backend=backend, **how)


def halved(case: Round) -> Round:
    return Round(case.target.astype(np.float16), case.draft.astype(np.float16), case.ids, case.lengths)


def cuda() -> CudaSampling:
    backend = registry.cuda_sampling()
    assert isinstance(backend, CudaSampling)
    return backend


def exact_laws() -> NDArray[np.float32]:
    """The laws of the exact sampler's last call: reference, log2 of the sum, log2 probability of the draft, nothing."""
    plans = [plan for workspace in cuda().workspaces.values() for plan in workspace.plans.values()]
    laws: NDArray[np.float32] = [plan for plan in plans if getattr(plan, "way", "") == "spec"][-1].scratch[2]
    return laws


@pytest.mark.parametrize(("batch", "drafts", "vocabulary", "how"), SHAPES)
def test_kernels_follow_the_reference(batch: int, drafts: int, vocabulary: int, how: dict[str, Any]) -> None:
    with kernels_on_cpu():
        assert_kernels_follow(a_round(batch * 100 + drafts, batch, drafts, vocabulary, **how))


@pytest.mark.parametrize("heat", [1e-6, 1e-3, 1e6, 1e30])
def test_kernels_follow_the_reference_at_any_temperature(heat: float) -> None:
    with kernels_on_cpu():
        assert_kernels_follow(a_round(7, 6, 3, 130, ragged=True, temperature=heat), temperature=heat)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("batch", "drafts", "vocabulary", "how"), HALVES)
def test_half_precision_follows_the_reference_on_the_same_logits(
    dtype: torch.dtype, batch: int, drafts: int, vocabulary: int, how: dict[str, Any]
) -> None:
    case = a_round(vocabulary, batch, drafts, vocabulary, **how)
    rounded = [torch.from_numpy(x).to(dtype) for x in (case.target, case.draft)]
    lengths = None if case.lengths is None else torch.from_numpy(case.lengths)
    half = Round(*rounded, torch.from_numpy(case.ids), lengths)
    wide = Round(rounded[0].float().numpy(), rounded[1].float().numpy(), case.ids, case.lengths)
    with kernels_on_cpu():
        assert_all_same(three_results(half, "cuda"), three_results(wide, "numpy"))


def test_a_vocabulary_of_256k_is_read_to_its_end() -> None:
    vocabulary = 262_147
    case = a_round(3, 1, 1, vocabulary)
    case.target[0, 0, -1] = case.target[0, 0].max() + 1
    with kernels_on_cpu():
        assert verify_prefix(case.target, np.array([[vocabulary - 1]]), backend="cuda").accepted.tolist() == [1]
    assert_same(sampled(case), sampled(case, "numpy"))


def assert_laws_are_right(case: Round, **how: Any) -> None:
    """Compare the kernels' log2 probabilities of the drafts with the reference's."""
    batch, drafts = case.ids.shape
    with kernels_on_cpu():
        kernels = speculative_sample(*case.arrays, seed=1, backend="cuda", **how)
        laws = exact_laws().reshape(batch, drafts, 2, 4)
    for side, logits in enumerate((case.target[:, :drafts], case.draft)):
        law = reference.log2_softmax(logits, how.get("temperature", 1.0))
        wanted = np.take_along_axis(law, case.ids[..., None], -1)[..., 0]
        np.testing.assert_allclose(laws[:, :, side, 2], wanted, rtol=2e-6, atol=2e-6)
    assert_same(kernels, sampled(case, "numpy", **how))


def test_laws_are_right_to_fp32() -> None:
    assert_laws_are_right(a_round(4, 2, 3, 4099), temperature=0.7)


def test_a_lane_that_joins_several_chunks_rescales_to_the_largest() -> None:
    # 32 lanes join 43 chunks: the first ones have two each, the larger logits before or behind.
    case = a_round(6, 2, 1, 43 * 2048 - 3)
    for array in (case.target[0], case.draft[1]):
        array[..., 66_000:] += 4
    for array in (case.target[1], case.draft[0]):
        array[..., :20_000] += 4
    assert_laws_are_right(case)


@pytest.mark.parametrize("backend", ["cuda", "torch", "numpy"])
def test_draft_lengths_outside_are_clipped_to_none_and_all(backend: str) -> None:
    case = a_round(15, 6, 3, 300, kind="equal")
    case.ids[:3] = case.target[:3, :3].argmax(-1)
    outside, inside = np.array([-1, 4, 2**40, -(2**40), 5, 3]), np.array([0, 3, 3, 0, 3, 3])
    with kernels_on_cpu():
        results = three_results(replace(case, lengths=outside), backend)
    assert_all_same(results, three_results(replace(case, lengths=inside), "numpy"))
    for found in results[:2]:
        assert np.asarray(found.accepted)[[0, 3]].tolist() == [0, 0]
    assert np.asarray(results[2].accepted)[:3].tolist() == [0, 3, 3]


class ShimOfViews(ShimDevice):
    """Gives the shim, which wants contiguous arrays, the whole array that a view begins with."""

    def _array(self, kernel: str, owner: Any) -> Any:
        begins = isinstance(owner, np.ndarray) and not owner.flags.c_contiguous
        return super()._array(kernel, owner.base if begins else owner)


@pytest.mark.parametrize("backend", ["cuda", "torch", "numpy"])
def test_logits_of_both_models_may_be_views_of_longer_ones(backend: str) -> None:
    case = a_round(16, 4, 3, 2500)
    target, draft = (np.full((4, rows, 2500), np.nan, np.float32) for rows in (7, 5))
    target[:, :4], draft[:, :3] = case.target, case.draft
    registry.use_device(ShimOfViews())
    try:
        results = three_results(Round(target[:, :4], draft[:, :3], case.ids), backend)
    finally:
        registry.use_device(None)
    assert_all_same(results, three_results(case, "numpy"))
    assert 0 < results[0].accepted.sum() < 12


@pytest.mark.parametrize("backend", ["cuda", "torch", "numpy"])
def test_lengths_and_counts_of_a_cache_are_clipped(backend: str) -> None:
    cache, fresh = np.zeros((5, 2, 6, 4), np.float32), np.ones((5, 2, 3, 4), np.float32)
    lengths, accepted = np.array([-2, 8, 2, 1, 5]), np.array([1, 2, 7, -1, 2])
    with kernels_on_cpu():
        grown = kv_append(cache, fresh, lengths, accepted, backend=backend)
    assert np.asarray(grown).tolist() == [1, 6, 5, 1, 6]
    written = cache.any((1, 3)).astype(int).tolist()
    assert written == [[1, 0, 0, 0, 0, 0], [0] * 6, [0, 0, 1, 1, 1, 0], [0] * 6, [0, 0, 0, 0, 0, 1]]


def test_all_drafts_are_kept_of_an_equal_model_and_none_of_a_disjoint_one() -> None:
    kept, lost = (sampled(a_round(1, 4, 5, 100, kind=kind)) for kind in ("equal", "disjoint"))
    assert (kept.accepted.tolist(), lost.accepted.tolist()) == ([5] * 4, [0] * 4)
    assert (lost.token % 2 == 0).all()


def test_where_nothing_is_left_of_the_residual_the_target_is_drawn_from() -> None:
    case = a_round(2, 3, 1, 4100, kind="unknown")
    nothing = np.zeros((3, 0, 4100), np.float32), np.zeros((3, 0), np.int64)
    rejected, bonus = sampled(case), sampled(Round(np.ascontiguousarray(case.target[:, :1]), *nothing))
    assert rejected.accepted.tolist() == [0] * 3
    np.testing.assert_array_equal(rejected.token, bonus.token)


def test_a_rejection_is_found_beyond_the_first_32_drafts() -> None:
    case = a_round(14, 3, 70, 5, kind="equal")
    case.ids[0, 40], case.ids[1, 32], case.ids[1, 66] = -1, -1, -1
    best = case.target.argmax(-1)[:, :70]
    best[0, 69], best[2, 33] = -1, -1
    with kernels_on_cpu():
        assert verify_prefix(case.target, best, backend="cuda").accepted.tolist() == [69, 70, 33]
    assert sampled(case).accepted.tolist() == [40, 32, 70]


def test_a_row_without_any_weight_gives_no_token() -> None:
    target, draft = np.full((1, 2, 70), -np.inf, np.float32), np.zeros((1, 1, 70), np.float32)
    for backend in ("cuda", "numpy", "torch"):
        found = sampled(Round(target, draft, np.array([[3]])), backend)
        assert [part.tolist() for part in (found.accepted, found.token, found.out_ids)] == [[0], [-1], [[-1, -1]]]


def test_ties_go_to_the_lower_token_wherever_they_lie() -> None:
    logits = np.zeros((3, 1, 6001), np.float32)
    logits[0, 0, [5, 4000]] = 1
    logits[1] = -np.inf
    logits[2] = -0.0
    logits[2, 0, 4000:] = 0.0
    with kernels_on_cpu():
        assert verify_prefix(logits, np.zeros((3, 1), int), backend="cuda").ids[:, 0].tolist() == [5, 0, 0]


def test_grid_block_and_order_of_blocks_change_no_bit() -> None:
    case = a_round(9, 3, 3, 6007, ragged=True)
    results, laws = [], set()
    for how in ({}, {"grid": 1}, {"grid": 5, "seed": 3}, {"grid": 7, "concurrent_blocks": 3, "seed": 4}):
        with kernels_on_cpu(**how):
            results.append(three_results(case, "cuda"))
            laws.add(exact_laws().tobytes())
        assert_all_same(results[-1], results[0])
    assert len(laws) == 1


@pytest.mark.parametrize("span", [256, 768, 8192])
def test_how_many_tokens_a_warp_draws_from_changes_no_bit(span: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_backend, "SPANS", (span,))
    words = 9000 if span == 8192 else 2400  # whole spans and a part of one
    for kind in ("usual", "masked", "equal", "unknown")[: 1 if span == 768 else None]:
        # Rows of a length that keeps them aligned have equal sums where they are equal: nothing is left of p - q then.
        case = a_round(9, 3, 2, words if kind == "unknown" else words + 1, kind=kind, ragged=True)
        for each in (case, halved(case)):
            assert_same(*(sampled(each, backend, lengths=each.lengths) for backend in ("cuda", "numpy")))


def test_grids_fill_the_device_and_no_more() -> None:
    for warps, blocks, threads in ((0, 0, 32), (1, 1, 32), (132, 132, 32), (133, 67, 64), (10**7, 132 * 6, 128)):
        assert geometry(warps, 132, 6) == ((blocks,), (threads,))
    assert [span_of(rows, 131_072, 132) for rows in (1, 64, 512)] == [512, 2048, 8192]


def test_counters_are_back_at_zero_so_that_the_next_call_needs_no_clearing() -> None:
    case = a_round(10, 3, 4, 2500, ragged=True)
    with kernels_on_cpu():
        assert_all_same(three_results(case, "cuda"), three_results(case, "cuda"))
        (workspace,) = cuda().workspaces.values()
    assert len(workspace.counters) == 3 * (2 * 4 + 1)
    assert not workspace.counters.any()


def test_a_sequence_decides_the_same_whatever_batch_it_is_in() -> None:
    case = a_round(12, 4, 3, 2100)
    first = Round(*(array[:1] for array in case.arrays))
    assert sampled(case).out_ids[0].tolist() == sampled(first).out_ids[0].tolist()


@pytest.mark.whole
@pytest.mark.parametrize(
    ("sanitizers", "how"), [(ADDRESS, {}), (("thread",), {"concurrent_blocks": 3, "seed": 5, "grid": 4})]
)
def test_sanitizers_have_nothing_to_say(sanitizers: tuple[str, ...], how: dict[str, int]) -> None:
    cases = [a_round(i, b, k, v, **kind) for i, (b, k, v, kind) in enumerate(SHAPES) if v * b * k < 10_000]
    cases.append(a_round(20, 1, 1, 4500))  # three chunks a row: three warps meet in its end
    cases = [each for case in cases[2:] for each in (case, halved(case))]
    with kernels_on_cpu(sanitizers=sanitizers, keep=True, **how) as device:
        results = [three_results(case, "cuda") for case in cases]
        device.run_kept()
    for case, found in zip(cases, results, strict=True):
        assert_all_same(found, three_results(case, "numpy"))


def relaunched(launch: Launch, changes: dict[int, Any]) -> Launch:
    """The launch with other arguments at some places."""
    return replace(launch, args=tuple(changes.get(i, arg) for i, arg in enumerate(launch.args)))


def test_the_address_sanitizer_sees_a_row_that_is_too_short() -> None:
    with kernels_on_cpu(sanitizers=ADDRESS, keep=True) as device:
        speculative_sample(*a_round(1, 1, 1, 100).arrays, seed=1, backend="cuda")
        device.kept[:] = [replace(relaunched(device.kept[0], {10: np.int32(101)}), grid=1, block=32)]  # the vocabulary
        with pytest.raises(SanitizerError, match="heap-buffer-overflow"):
            device.run_kept()


def cache_case(dtype: Any, width: int, capacity: int = 9) -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(width)
    cache = rng.normal(size=(4, 3, capacity, width)).astype(dtype)
    fresh = rng.normal(size=(4, 3, 5, width)).astype(dtype)
    return cache, fresh, np.array([0, 4, 7, 2]), np.array([5, 0, 4, 3])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
@pytest.mark.parametrize("width", [1, 6, 8, 64])
def test_append_writes_the_accepted_positions_and_touches_nothing_else(dtype: Any, width: int) -> None:
    cache, fresh, lengths, accepted = cache_case(dtype, width)
    wanted = cache.copy()
    for b, (at, n) in enumerate(zip(lengths, [5, 0, 2, 3], strict=True)):  # of 4, two fit behind position 7 of 9
        wanted[b, :, at : at + n] = fresh[b, :, :n]
    with kernels_on_cpu(sanitizers=ADDRESS if width == 6 else ()) as device:
        for backend in ("cuda", "torch", "numpy"):
            found = cache.copy()
            grown = kv_append(found, fresh, lengths, accepted, backend=backend)
            np.testing.assert_array_equal(found, wanted)
            assert np.asarray(grown).tolist() == [5, 4, 9, 5]
        assert len(device.names) == 1


def test_append_copies_in_the_widest_units_that_fit() -> None:
    with kernels_on_cpu() as device:
        for dtype, width in ((np.float32, 64), (np.float16, 4), (np.float32, 1), (np.float16, 3), (np.uint8, 5)):
            cache, fresh, lengths, accepted = cache_case(dtype, width)
            kv_append(cache, fresh, lengths, accepted, backend="cuda")
    # malloc aligns to 16 bytes or more
    assert device.names == [f"kv_append_{n}" for n in (16, 8, 4, 2, 1)]


def test_rows_may_be_strided() -> None:
    case = a_round(13, 2, 2, 100)
    wide = np.full((2, 3, 107), np.nan, np.float32)
    wide[..., :100] = case.target
    with kernels_on_cpu(keep=True) as device:
        found = speculative_sample(*case.arrays, seed=1, backend="cuda")
        strided = {0: wide, 2: np.int64(3 * 107), 3: np.int64(107)}
        device.kept[:] = [relaunched(launch, strided) for launch in device.kept]
        device.run_kept()
    assert_same(found, sampled(case, "numpy"))
