"""The kernels' own source, run on the CPU, against the NumPy law: the same tokens from the same numbers.

fp16 and bf16 round the logits, not the arithmetic: kernel and reference start from the same rounded logits and the
kernel computes in fp32. Log-probabilities agree to 2e-6 of their size (`test_laws_are_right_to_fp32`), and so do all
decisions but about one in 10^6: the results compared here are equal.
"""

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
from .shim.shim import SanitizerError

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


def both_ways(case: Round, **how: Any) -> list[tuple[Any, Any]]:
    """Run the exact and the sigmoid sampler and the verification, by the kernels and by the reference."""
    logits = {"target_logits": case.target, "draft_logits": case.draft}
    common = {"draft_ids": case.ids, "lengths": case.lengths}
    return [
        (
            speculative_sample(**logits, **common, seed=5, backend=b, **how),
            sigmoid_sample(**logits, **common, seed=6, scale=5.0, backend=b, **how),
            verify_prefix(case.target, case.ids, lengths=case.lengths, backend=b),
        )
        for b in ("cuda", "numpy")
    ]


def cuda() -> CudaSampling:
    found = registry.cuda_sampling()
    assert isinstance(found, CudaSampling)
    return found


def exact_laws() -> NDArray[np.float32]:
    """The laws of the exact sampler's last call: reference, log2 of the sum, log2 probability of the draft, nothing."""
    found = [
        plan for w in cuda().workspaces.values() for plan in w.plans.values() if getattr(plan, "way", "") == "spec"
    ]
    laws: NDArray[np.float32] = found[-1].scratch[2]
    return laws


@pytest.mark.parametrize(("batch", "drafts", "vocabulary", "how"), SHAPES)
def test_kernels_follow_the_reference(batch: int, drafts: int, vocabulary: int, how: dict[str, Any]) -> None:
    case = a_round(batch * 100 + drafts, batch, drafts, vocabulary, **how)
    with kernels_on_cpu():
        kernels, law = both_ways(case)
    for found, wanted in zip(kernels, law, strict=True):
        assert_same(found, wanted)


@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 1e6, 1e30])
def test_kernels_follow_the_reference_at_any_temperature(temperature: float) -> None:
    with kernels_on_cpu():
        kernels, law = both_ways(a_round(7, 6, 3, 130, ragged=True, temperature=temperature), temperature=temperature)
    for found, wanted in zip(kernels, law, strict=True):
        assert_same(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("batch", "drafts", "vocabulary", "how"), HALVES)
def test_half_precision_follows_the_reference_on_the_same_logits(
    dtype: torch.dtype, batch: int, drafts: int, vocabulary: int, how: dict[str, Any]
) -> None:
    case = a_round(vocabulary, batch, drafts, vocabulary, **how)
    rounded = [torch.from_numpy(x).to(dtype) for x in (case.target, case.draft)]
    ids, lengths = torch.from_numpy(case.ids), None if case.lengths is None else torch.from_numpy(case.lengths)
    wide = Round(rounded[0].float().numpy(), rounded[1].float().numpy(), case.ids, case.lengths)
    with kernels_on_cpu():
        kernels, _ = both_ways(Round(rounded[0], rounded[1], ids, lengths)) if dtype == torch.float16 else (None, None)
        found = speculative_sample(*rounded, ids, lengths=lengths, seed=5, backend="cuda")
        verified = verify_prefix(rounded[0], ids, lengths=lengths, backend="cuda")
    assert_same(found, speculative_sample(wide.target, wide.draft, wide.ids, lengths=wide.lengths, seed=5))
    assert_same(verified, verify_prefix(wide.target, wide.ids, lengths=wide.lengths))
    if kernels is not None:
        sigmoid = sigmoid_sample(wide.target, wide.draft, wide.ids, lengths=wide.lengths, seed=6, scale=5.0)
        assert_same(kernels[1], sigmoid)


def test_a_vocabulary_of_256k_is_read_to_its_end() -> None:
    vocabulary = 262_147
    case = a_round(3, 1, 1, vocabulary)
    case.target[0, 0, -1] = case.target[0, 0].max() + 1
    ids = np.array([[vocabulary - 1]])
    with kernels_on_cpu():
        assert verify_prefix(case.target, ids, backend="cuda").accepted.tolist() == [1]
        found = speculative_sample(case.target, case.draft, case.ids, seed=5, backend="cuda")
    assert_same(found, speculative_sample(case.target, case.draft, case.ids, seed=5))


def test_laws_are_right_to_fp32() -> None:
    case = a_round(4, 2, 3, 4099)
    with kernels_on_cpu():
        speculative_sample(case.target, case.draft, case.ids, seed=1, temperature=0.7, backend="cuda")
        laws = exact_laws().reshape(2, 3, 2, 4)
    for side, logits in enumerate((case.target[:, :3], case.draft)):
        law = reference.softmax(logits, 0.7)
        wanted = np.log2(np.take_along_axis(law, case.ids[..., None], -1)[..., 0])
        np.testing.assert_allclose(laws[:, :, side, 2], wanted, rtol=2e-6, atol=2e-6)


def test_a_lane_that_joins_several_chunks_rescales_to_the_largest() -> None:
    # 32 lanes join 43 chunks: the first ones have two each, the larger logits before or behind.
    case = a_round(6, 2, 1, 43 * 2048 - 3)
    for array in (case.target[0], case.draft[1]):
        array[..., 66_000:] += 4
    for array in (case.target[1], case.draft[0]):
        array[..., :20_000] += 4
    with kernels_on_cpu():
        kernels = speculative_sample(case.target, case.draft, case.ids, seed=1, backend="cuda")
        laws = exact_laws().reshape(2, 1, 2, 4)
    for side, logits in enumerate((case.target[:, :1], case.draft)):
        wanted = np.take_along_axis(reference.log2_softmax(logits, 1.0), case.ids[..., None], -1)[..., 0]
        np.testing.assert_allclose(laws[:, :, side, 2], wanted, rtol=2e-6, atol=2e-6)
    assert_same(kernels, speculative_sample(case.target, case.draft, case.ids, seed=1))


@pytest.mark.parametrize("backend", ["cuda", "torch", "numpy"])
def test_draft_lengths_outside_are_clipped_to_none_and_all(backend: str) -> None:
    case = a_round(15, 6, 3, 300, kind="equal")
    case.ids[:3] = case.target[:3, :3].argmax(-1)
    outside, inside = np.array([-1, 4, 2**40, -(2**40), 5, 3]), np.array([0, 3, 3, 0, 3, 3])
    logits = (case.target, case.draft, case.ids)
    with kernels_on_cpu():
        for run, how in ((speculative_sample, {}), (sigmoid_sample, {"scale": 5.0})):
            found = run(*logits, lengths=outside, seed=1, backend=backend, **how)  # type: ignore[operator]
            assert_same(found, run(*logits, lengths=inside, seed=1, backend="numpy", **how))  # type: ignore[operator]
            assert np.asarray(found.accepted)[[0, 3]].tolist() == [0, 0]
        verified = verify_prefix(case.target, case.ids, lengths=outside, backend=backend)
    assert_same(verified, verify_prefix(case.target, case.ids, lengths=inside, backend="numpy"))
    assert np.asarray(verified.accepted)[:3].tolist() == [0, 3, 3]


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
        found = speculative_sample(target[:, :4], draft[:, :3], case.ids, seed=5, backend=backend)
        verified = verify_prefix(target[:, :4], case.ids, backend=backend)
    finally:
        registry.use_device(None)
    assert_same(found, speculative_sample(case.target, case.draft, case.ids, seed=5))
    assert_same(verified, verify_prefix(case.target, case.ids))
    assert 0 < found.accepted.sum() < 12


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
    equal, disjoint = a_round(1, 4, 5, 100, kind="equal"), a_round(1, 4, 5, 100, kind="disjoint")
    with kernels_on_cpu():
        kept = speculative_sample(equal.target, equal.draft, equal.ids, seed=1, backend="cuda")
        lost = speculative_sample(disjoint.target, disjoint.draft, disjoint.ids, seed=1, backend="cuda")
    assert kept.accepted.tolist() == [5] * 4
    assert lost.accepted.tolist() == [0] * 4
    assert (lost.token % 2 == 0).all()


def test_where_nothing_is_left_of_the_residual_the_target_is_drawn_from() -> None:
    case = a_round(2, 3, 1, 4100, kind="unknown")
    with kernels_on_cpu():
        found = speculative_sample(case.target, case.draft, case.ids, seed=8, backend="cuda")
        first = np.ascontiguousarray(case.target[:, :1])
        nothing = np.zeros((3, 0, 4100), np.float32), np.zeros((3, 0), np.int64)
        bonus = speculative_sample(first, *nothing, seed=8, backend="cuda")
    assert found.accepted.tolist() == [0] * 3
    np.testing.assert_array_equal(found.token, bonus.token)


def test_a_rejection_is_found_beyond_the_first_32_drafts() -> None:
    case = a_round(14, 3, 70, 5, kind="equal")
    case.ids[0, 40], case.ids[1, 32], case.ids[1, 66] = -1, -1, -1
    best = case.target.argmax(-1)[:, :70]
    best[0, 69], best[2, 33] = -1, -1
    with kernels_on_cpu():
        found = speculative_sample(case.target, case.draft, case.ids, seed=1, backend="cuda")
        assert verify_prefix(case.target, best, backend="cuda").accepted.tolist() == [69, 70, 33]
    assert found.accepted.tolist() == [40, 32, 70]


def test_a_row_without_any_weight_gives_no_token() -> None:
    target, draft = np.full((1, 2, 70), -np.inf, np.float32), np.zeros((1, 1, 70), np.float32)
    with kernels_on_cpu():
        for backend in ("cuda", "numpy", "torch"):
            found = speculative_sample(target, draft, np.array([[3]]), seed=1, backend=backend)
            assert (found.accepted.tolist(), found.token.tolist()) == ([0], [-1])
            assert found.out_ids.tolist() == [[-1, -1]]


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
    results, laws = [], []
    for how in ({}, {"grid": 1}, {"grid": 5, "seed": 3}, {"grid": 7, "concurrent_blocks": 3, "seed": 4}):
        with kernels_on_cpu(**how):
            results.append(both_ways(case)[0])
            laws.append(exact_laws().tobytes())
    assert len(set(laws)) == 1
    for other in results[1:]:
        for found, wanted in zip(other, results[0], strict=True):
            assert_same(found, wanted)


@pytest.mark.parametrize("span", [256, 768, 2048, 8192])
def test_how_many_tokens_a_warp_draws_from_changes_no_bit(span: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_backend, "SPANS", (span,))
    for kind in ("usual", "masked", "equal", "unknown"):
        # Rows of a length that keeps them aligned have equal sums where they are equal: nothing is left of p - q then.
        case = a_round(9, 3, 2, 9000 if kind == "unknown" else 9001, kind=kind, ragged=True)
        half = Round(case.target.astype(np.float16), case.draft.astype(np.float16), case.ids, case.lengths)
        with kernels_on_cpu():
            for each in (case, half):
                kernels, law = both_ways(each)
                assert_same(kernels[0], law[0])


def test_grids_fill_the_device_and_no_more() -> None:
    assert geometry(0, 132, 6) == ((0,), (32,))
    assert geometry(1, 132, 6) == ((1,), (32,))
    assert geometry(132, 132, 6) == ((132,), (32,))
    assert geometry(133, 132, 6) == ((67,), (64,))
    assert geometry(10**7, 132, 6) == ((132 * 6,), (128,))
    assert span_of(1, 131_072, 132) == 512
    assert span_of(64, 131_072, 132) == 2048
    assert span_of(512, 131_072, 132) == 8192


def test_counters_are_back_at_zero_so_that_the_next_call_needs_no_clearing() -> None:
    case = a_round(10, 3, 4, 2500, ragged=True)
    with kernels_on_cpu():
        first, second = both_ways(case)[0], both_ways(case)[0]
        (workspace,) = cuda().workspaces.values()
    for found, wanted in zip(second, first, strict=True):
        assert_same(found, wanted)
    assert len(workspace.counters) == 3 * (2 * 4 + 1)
    assert not workspace.counters.any()


def test_a_sequence_decides_the_same_whatever_batch_it_is_in() -> None:
    case = a_round(12, 4, 3, 2100)
    with kernels_on_cpu():
        together = speculative_sample(case.target, case.draft, case.ids, seed=2, backend="cuda")
        first = speculative_sample(case.target[:1], case.draft[:1], case.ids[:1], seed=2, backend="cuda")
    assert together.out_ids[0].tolist() == first.out_ids[0].tolist()


@pytest.mark.parametrize("sanitizers", [ADDRESS, ("thread",)])
def test_sanitizers_have_nothing_to_say(sanitizers: tuple[str, ...]) -> None:
    cases = [a_round(i, b, k, v, **how) for i, (b, k, v, how) in enumerate(SHAPES) if v * b * k < 10_000]
    cases.append(a_round(20, 1, 1, 4500))  # three chunks a row: three warps meet in its end
    concurrent = {"concurrent_blocks": 3, "seed": 5, "grid": 4} if sanitizers == ("thread",) else {}
    results = []
    with kernels_on_cpu(sanitizers=sanitizers, keep=True, **concurrent) as device:
        for case in cases[2:]:
            half = Round(case.target.astype(np.float16), case.draft.astype(np.float16), case.ids, case.lengths)
            results += [both_ways(case), both_ways(half)]
        device.run_kept()
    for kernels, law in results:
        for found, wanted in zip(kernels, law, strict=True):
            assert_same(found, wanted)


def test_the_address_sanitizer_sees_a_row_that_is_too_short() -> None:
    case = a_round(1, 1, 1, 100)
    device = ShimDevice(ADDRESS, keep=True)
    registry.use_device(device)
    try:
        speculative_sample(case.target, case.draft, case.ids, seed=1, backend="cuda")
        args = list(device.kept[0].args)
        args[10] = np.int32(101)  # the vocabulary
        device.kept[:] = [type(device.kept[0])(device.kept[0].kernel, 1, 32, tuple(args))]
        with pytest.raises(SanitizerError, match="heap-buffer-overflow"):
            device.run_kept()
    finally:
        registry.use_device(None)


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
        found = speculative_sample(case.target, case.draft, case.ids, seed=5, backend="cuda")
        for i, launch in enumerate(device.kept):
            args = list(launch.args)
            args[0], args[2:4] = wide, [np.int64(3 * 107), np.int64(107)]
            device.kept[i] = type(launch)(launch.kernel, launch.grid, launch.block, tuple(args))
        device.run_kept()
    assert_same(found, speculative_sample(case.target, case.draft, case.ids, seed=5))
