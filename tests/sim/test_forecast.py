"""Uncertainty of a forecast, what it hangs on, and the draft length by batch size: coverage, brute force, ranges."""

import json
import math
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from simulator.answers.schedule import LARGEST_BATCH, Range, off_above, ranges, schedule
from simulator.answers.uncertainty import sensitivities, speedups, uncertainty
from simulator.costs.drafters.draft_model import METHOD
from simulator.costs.engines.settings import Recommended
from simulator.costs.engines.vllm import written
from simulator.costs.model_costs import SEPARATE, ModelPair
from simulator.costs.profile import Link, PassCost
from simulator.costs.profile_file import load_profile
from simulator.costs.room import largest_batch
from simulator.costs.shapes import read_shape
from simulator.costs.step import Costs, Knobs
from simulator.costs.timed_pair import timed_tokens
from simulator.ground.histogram import AcceptanceHistogram, load_histogram, variance
from simulator.rounds.acceptance_law import AcceptanceModel, HistogramAcceptance, IidAcceptance, iid_laws
from simulator.rounds.analytic import closed_form

from .builders import device, model_pair, pass_cost

COST = pass_cost(2e-15, 4e-13, launch_s=2e-6, fixed_s=1e-4, overlap_exponent=4.0)
NAMES = ("flop_scale[0]", "mem_scale[0]", "launch_s", "fixed_s", "overlap_exponent")
ERRORS = np.array([0.1, 0.05, 0.2, 0.2, 0.1])
DEVICE = device({"bfloat16": COST}, launches_per_layer=8, link=Link(bytes_per_s=1e11, latency_s=1e-5))
PAIR = model_pair(DEVICE, "llama-3.1-8b", "llama-3.2-1b", batch=32, round_overhead_s=5e-4)
KNOBS = Knobs(work_flops=1.0, work_mem=1.0, flop_scale_s=1e-3, mem_scale_s=2e-3, draft_cost=0.1)
LAW = np.array([0.28, 0.2, 0.1, 0.08, 0.34])


def gain(costs: Costs, law: np.ndarray, k: int, *, rate: float = 0.0, overlap: bool = False) -> float:
    return float(closed_form(costs.round_cost(k), law, rate, overlap=overlap).speedup)


def stated(cost: PassCost, scale: float = 1.0) -> PassCost:
    return replace(cost, uncertain=NAMES, covariance=np.diag((scale * ERRORS) ** 2))


def coverage(cases: int, *, shrink: float = 1.0) -> float:
    """How often the 95 % interval holds the truth, where both constants and histogram are measured with noise.

    `shrink` divides the errors that are stated, not those that are made.
    """
    truth = gain(PAIR, LAW, 4)
    rng, held = np.random.default_rng(11), 0
    for _ in range(cases):
        made = dict(zip(NAMES, np.exp(ERRORS * rng.standard_normal(len(NAMES))), strict=True))
        passes = {"bfloat16": stated(COST.scaled(made), 1 / shrink)}
        overhead_s = PAIR.round_overhead_s * float(np.exp(0.2 * rng.standard_normal()))
        pair = replace(PAIR, profile=replace(DEVICE, passes=passes), round_overhead_s=overhead_s)
        pair = replace(pair, round_overhead_error=0.2 / shrink)
        rounds = np.bincount(rng.choice(5, 400, p=LAW), minlength=5)
        measured = AcceptanceHistogram(tuple(map(float, rounds)), design_effect=1 / shrink**2)
        sure = uncertainty(pair, HistogramAcceptance((measured,)), 4, 4, rng, overlap=False, samples=400)
        low, high = sure.interval(4)
        held += low <= truth <= high
    return held / cases


def test_the_interval_of_the_speedup_holds_the_truth_as_often_as_it_says() -> None:
    assert abs(coverage(400) - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 400)
    # Negative control: errors stated at a third of what they are would be noticed.
    assert coverage(150, shrink=3) < 0.95 - 10 * np.sqrt(0.95 * 0.05 / 150)


# Places of a text are easy or hard, so that the best draft length hangs on the tail, not on the mean.
TWO_KINDS = 0.5 * iid_laws(0.95, 8, 9) + 0.5 * iid_laws(0.4, 8, 9)
SLOW_DRAFT = Knobs(work_flops=1, work_mem=1, flop_scale_s=1e-4, mem_scale_s=1e-2, draft_cost=0.25)


def best_coverage(rounds: int, cases: int, *, design_effect: float = 1.0) -> tuple[float, np.ndarray]:
    """How often the intervals of best K and of each K's speedup hold the truth if only the histogram is uncertain."""
    gains = [gain(SLOW_DRAFT, AcceptanceHistogram(tuple(TWO_KINDS)).cut(k).law, k) for k in range(1, 9)]
    best = int(np.argmax(gains)) + 1
    rng, of_best, of_each = np.random.default_rng(17), 0, np.zeros(8)
    for _ in range(cases):
        counts = tuple(map(float, rng.multinomial(rounds, TWO_KINDS)))
        measured = HistogramAcceptance((AcceptanceHistogram(counts, design_effect=design_effect),))
        found = uncertainty(SLOW_DRAFT, measured, best, 8, rng, overlap=False, samples=400)
        first, last = found.best_draft_length_ci95
        of_best += first <= best <= last
        of_each += (np.array(found.speedup_low95) <= gains) & (gains <= np.array(found.speedup_high95))
    return of_best / cases, of_each / cases


def test_intervals_of_the_best_and_of_each_draft_length_hold_the_truth_of_few_rounds_too() -> None:
    for rounds in (60, 400):
        of_best, of_each = best_coverage(rounds, 200)
        # Draft lengths are whole: their interval may hold the truth more often than it says.
        assert of_best > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 200)
        assert np.abs(of_each - 0.95).max() < 3.5 * np.sqrt(0.95 * 0.05 / 200)
    # Negative control: a histogram taken for nine times its rounds would be noticed.
    assert np.max(np.hstack(best_coverage(60, 80, design_effect=1 / 9))) < 0.95 - 6 * np.sqrt(0.95 * 0.05 / 80)


@pytest.mark.parametrize("costs", [KNOBS, replace(PAIR, placement=SEPARATE)], ids=["knobs", "models"])
@pytest.mark.parametrize("acceptance", [IidAcceptance(0.8), HistogramAcceptance((AcceptanceHistogram(tuple(LAW)),))])
def test_without_errors_every_draw_is_the_closed_form_overlapped_or_not(
    costs: Costs, acceptance: AcceptanceModel
) -> None:
    lengths = np.arange(1, 5)
    laws = [(acceptance.law(k), k, acceptance.bonus_guess_rate(k)) for k in range(1, 5)]
    for overlap in (False, True):
        single = [gain(costs, law, k, rate=rate, overlap=overlap) for law, k, rate in laws]
        assert speedups(costs, acceptance, lengths, overlap=overlap) == pytest.approx(single)
        drawn = costs.sample(np.random.default_rng(0), 3)
        tau = [1 + law @ np.arange(k + 1) for law, k, _ in laws]
        found = speedups(drawn, acceptance, lengths, np.broadcast_to(tau, (3, 4)), overlap=overlap)
        assert found == pytest.approx(np.broadcast_to(single, (3, 4)))


def near_tie(scale: float) -> ModelPair:
    """Models whose best draft lengths lie close together, with errors of `scale` times the usual."""
    passes = {"bfloat16": stated(COST, scale)}
    return replace(PAIR, profile=replace(DEVICE, passes=passes), round_overhead_error=0.2 * scale)


def test_the_best_draft_length_grows_certain_as_the_errors_vanish() -> None:
    shares, widths = [], []
    for scale in (3.0, 1.0, 0.3, 1e-4):
        rng = np.random.default_rng(5)
        found = uncertainty(near_tie(scale), IidAcceptance(0.7), 4, 12, rng, overlap=False)
        best = max(range(1, 13), key=lambda k: gain(PAIR, IidAcceptance(0.7).law(k), k))
        assert found.best_draft_length == best
        first, last = found.best_draft_length_ci95
        assert first <= best <= last
        shares.append(found.best_share)
        low, high = found.interval(4)
        widths.append(high - low)
    assert shares[0] < 0.7 < shares[-1] == 1
    assert (first, last) == (best, best)
    assert (shares, widths) == (sorted(shares), sorted(widths, reverse=True))
    assert widths[-1] < 1e-3


def test_the_share_of_the_best_length_is_what_pricing_each_draw_alone_gives() -> None:
    model, samples = IidAcceptance(0.7), 300
    pair = near_tie(2.0)
    found = uncertainty(pair, model, 4, 8, np.random.default_rng(9), overlap=False, samples=samples)
    drawn = pair.sample(np.random.default_rng(9), samples)
    best = []
    for i in range(samples):
        alone = replace(
            pair, profile=replace(DEVICE, passes={"bfloat16": sample_of(drawn.profile.cost("bfloat16"), i)})
        )
        alone = replace(alone, round_overhead_s=float(drawn.round_cost(np.array([1])).overhead_s[i, 0]))
        best.append(max(range(1, 9), key=lambda k, alone=alone: gain(alone, model.law(k), k)))
    assert found.best_share == pytest.approx(np.mean(np.array(best) == found.best_draft_length))
    assert 0 < found.best_share < 1


def sample_of(cost: PassCost, i: int) -> PassCost:
    scalars = {n: float(np.asarray(getattr(cost, n))[i]) for n in ("launch_s", "fixed_s", "overlap_exponent")}
    return pass_cost(float(cost.flop_scale.seconds[i, 0]), float(cost.mem_scale.seconds[i, 0]), **scalars)


def test_a_histogram_file_brings_the_error_of_its_own_interval(tmp_path: Path) -> None:
    path = tmp_path / "h.json"
    hist = {"k": 4, "hist": {"0": 28, "1": 20, "2": 10, "3": 8, "4": 34}, "samples": 100}
    path.write_text(json.dumps(hist | {"metrics": {"ci95": {"tokens_per_round": [2.5, 3.5]}}}))
    model = HistogramAcceptance((load_histogram(path),))
    (one,) = model.histograms
    assert one.design_effect * variance(one.law) / one.samples == pytest.approx((0.5 / 1.959964) ** 2)
    found = uncertainty(KNOBS, model, 4, 4, np.random.default_rng(1), overlap=False, samples=20_000)
    low, high = found.interval(4)
    middle = gain(KNOBS, LAW, 4)
    tau = 1 + float(LAW @ np.arange(5))
    assert (low, high) == pytest.approx(((tau - 0.5) / tau * middle, (tau + 0.5) / tau * middle), rel=0.04)


# The elasticity of tau B / (K d + V + o) in a constant is its share of B less its share of the round.
def test_sensitivities_of_a_round_by_hand() -> None:
    # A step of 1 + 2 ms of which 2 are memory; K = 4: drafts of 0.2 + 1 ms, verification as a step, 0.5 ms besides.
    base = Knobs(work_flops=1e-3, work_mem=1, flop_scale_s=1e-3, mem_scale_s=2e-3, draft_cost=0.1, pass_overhead_s=1e-3)
    found = sensitivities(replace(base, round_overhead_s=5e-4), IidAcceptance(0.8), 4, overlap=False)
    step, round_ms = 3.0, 4 * 1.2 + 3.0 + 0.5
    memory, fixed, over = (2 / step, 2.8 / round_ms), (1 / step, 5 / round_ms), (0, 0.5 / round_ms)
    for name, (of_step, of_round) in (("mem_scale", memory), ("fixed_s", fixed), ("round_overhead_s", over)):
        assert found[name] == pytest.approx((of_step - of_round) / (1 + 0.01 * of_round), rel=1e-9)
        assert found[name] == pytest.approx(of_step - of_round, abs=0.01)
    assert found["flop_scale"] == found["launch_s"] == 0
    tau = (1 - 0.8**5) / 0.2
    assert found["mean_accepted"] == pytest.approx((tau - 1) / tau)
    # Arithmetic alone: a step of 4 ms and 1 ms besides, drafts of 0.4 + 1 ms, verification of 5 tokens 20 + 1 ms.
    found = sensitivities(replace(base, work_flops=4, work_mem=1e-6), IidAcceptance(0.8), 4, overlap=False)
    of_step, of_round = 4 / 5, (4 * 0.4 + 20) / (4 * 1.4 + 21)
    assert found["flop_scale"] == pytest.approx((of_step - of_round) / (1 + 0.01 * of_round), rel=1e-9)
    assert found["mem_scale"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("batch", "devices"), [(1, 1), (64, 1), (512, 2)])
def test_sensitivities_of_models_are_shares_of_their_parts(batch: int, devices: int) -> None:
    pair = replace(PAIR, batch=batch, context=200, devices=devices)
    pair = replace(pair, profile=replace(DEVICE, passes={"bfloat16": replace(COST, overlap_exponent=np.inf)}))
    k = 3
    step, verify = (pair.placed_target.parts(batch, n, 200) for n in (1, k + 1))
    draft = pair.placed_draft.parts(batch, 1, 200)
    step_s, round_s = float(step.total_s), float(k * draft.total_s + verify.total_s) + 5e-4
    found = sensitivities(pair, IidAcceptance(0.7), k, overlap=False)

    def bound_s(parts: object, binds: str) -> float:
        longer = "compute" if parts.compute_s > parts.memory_s else "memory"
        return float(getattr(parts, f"{binds}_s")) if longer == binds else 0.0

    for name, binds in (("flop_scale", "compute"), ("mem_scale", "memory")):
        of_step = bound_s(step, binds) / step_s
        of_round = (k * bound_s(draft, binds) + bound_s(verify, binds)) / round_s
        assert found[name] == pytest.approx((of_step - of_round) / (1 + 0.01 * of_round), abs=1e-9)
    of_step, of_round = float(step.link_s) / step_s, float(k * draft.link_s + verify.link_s) / round_s
    assert found["link_s"] == pytest.approx((of_step - of_round) / (1 + 0.01 * of_round), abs=1e-9)
    tau = 1 + IidAcceptance(0.7).law(k) @ np.arange(k + 1)
    assert gain(pair, IidAcceptance(0.7).law(k), k) == pytest.approx(tau * step_s / round_s)
    # 1 % more accepted: a hundredth of A tokens' worth of mean.
    assert found["mean_accepted"] == pytest.approx(((1 + 1.01 * (tau - 1)) / tau - 1) / 0.01)


ON_H100 = model_pair(load_profile("h100-sxm"), "llama-3.1-8b", "llama-3.2-1b", context=1024, round_overhead_s=6e-4)
ROOMY = replace(ON_H100, profile=replace(ON_H100.profile, memory_bytes=2**42))
MEASURED = HistogramAcceptance((AcceptanceHistogram((552, 412, 168, 145, 654)),))


def gains_by_hand(
    pair: ModelPair, acceptance: IidAcceptance | HistogramAcceptance, longest: int, overlap: bool
) -> list[float]:
    """The speedups of draft lengths from 0 at one batch size; one scalar call for each length."""
    laws = [(acceptance.law(k), k, acceptance.bonus_guess_rate(k)) for k in range(1, longest + 1)]
    return [1.0, *(gain(pair, law, k, rate=rate, overlap=overlap) for law, k, rate in laws)]


def test_two_times_a_token_know_their_own_speedup_and_lean_on_acceptance_elsewhere() -> None:
    timed = timed_tokens(25e-3, 15e-3, MEASURED.nearest(4).tokens_per_round, 4)
    lengths, rng = np.arange(1, 5), np.random.default_rng(0)
    tokens = MEASURED.sample_tokens_per_round(lengths, rng, 4000)
    drawn = speedups(timed.sample(rng, 4000), MEASURED, lengths, tokens, overlap=False)
    assert drawn[:, 3] == pytest.approx(np.full(4000, 25 / 15), rel=1e-12)
    # By hand: the round at 4 is 15 ms for each of its tokens, of what that has over a step an unknown share is drafts.
    rounds = 15e-3 * tokens[:, 3]
    none, all_ = (tokens[:, 1] * 25e-3 / (25e-3 + (rounds - 25e-3) * share) for share in (1, 2 / 4))
    assert (none <= drawn[:, 1] * (1 + 1e-9)).all()
    assert (drawn[:, 1] <= all_ * (1 + 1e-9)).all()
    known = uncertainty(timed, MEASURED, 4, 4, np.random.default_rng(0), overlap=False)
    assert known.interval(4) is None
    assert known.interval(3) is not None


PLANNED = [
    ("llama-3.1-8b", 1024, MEASURED, 4),
    ("llama-3.1-8b", 8192, IidAcceptance(0.7), 8),
    ("llama-3.2-1b", 2048, IidAcceptance(0.9), 6),
    ("qwen1.5-moe-a2.7b", 1024, MEASURED, 4),
]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("target", "context", "acceptance", "longest"), PLANNED)
def test_the_schedule_loses_little_at_any_batch_that_fits(
    target: str, context: int, acceptance: IidAcceptance | HistogramAcceptance, longest: int, overlap: bool
) -> None:
    pair = replace(ON_H100, target=read_shape(target), context=context, placement=SEPARATE if overlap else "same")
    found, last = schedule(pair, acceptance, longest, overlap=overlap), largest_batch(pair)
    assert (found[0].first, found[-1].last) == (1, last)
    # Some of the batches, and those about every change.
    drawn = np.random.default_rng(0).integers(1, last, 20).tolist()
    batches = {1, last, *(b for r in found for b in (r.first, r.last)), *drawn}
    for batch in sorted(batches):
        (length,) = (r.draft_length for r in found if r.first <= batch <= r.last)
        gains = gains_by_hand(replace(pair, batch=batch), acceptance, longest, overlap)
        assert max(gains) <= gains[length] * 1.03, batch


def test_the_batch_of_the_pair_does_not_count_nor_what_no_engine_runs() -> None:
    assert schedule(ON_H100, MEASURED, 4, overlap=False) == schedule(
        replace(ON_H100, batch=77), MEASURED, 4, overlap=False
    )
    endless = replace(ON_H100, profile=replace(ON_H100.profile, memory_bytes=None))
    assert schedule(endless, MEASURED, 4, overlap=False)[-1].last == LARGEST_BATCH


@given(st.integers(1, 300), st.integers(1, 4), st.integers(0, 2**31))
def test_ranges_cover_every_batch_once_and_switch_for_a_gain_over_a_width_alone(last: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    slopes = np.exp(rng.normal(0, 0.2, (k, 1)) * np.log1p(np.arange(last)) + rng.normal(0, 0.3, (k, 1)))
    gains = np.vstack([np.ones(last), slopes * np.exp(rng.normal(0, 0.003, (k, last)))])
    sizes = np.arange(1, last + 1)
    found = ranges(gains, sizes)
    assert (found[0].first, found[-1].last) == (1, last)
    assert all(a.last + 1 == b.first and a.draft_length != b.draft_length for a, b in pairwise(found))
    assert none_narrow_but_by_off(found, gains, sizes)
    # Nowhere is off worth a switch and not chosen.
    assert all((gains[r.draft_length, r.first - 1 : r.last] * 1.02 >= 1).all() for r in found)
    # Of some of the sizes, each is in one range, and ranges begin and end at some of them.
    some = np.unique(rng.choice(sizes, min(last, 40)))
    found = ranges(gains[:, some - 1], some)
    assert (found[0].first, found[-1].last) == (some[0], some[-1])
    assert sum(((r.first <= some) & (some <= r.last)).sum() for r in found) == len(some)
    assert all({r.first, r.last} <= set(some.tolist()) for r in found)
    assert none_narrow_but_by_off(found, gains[:, some - 1], some)


def none_narrow_but_by_off(found: tuple[Range, ...], gains: np.ndarray, sizes: np.ndarray) -> bool:
    behind = np.searchsorted(sizes, [r.last for r in found[:-1]]) + 1
    narrow = [(r, i) for r, i in zip(found, behind, strict=False) if r.draft_length and sizes[i] <= 1.2 * r.first]
    return all(gains[r.draft_length, i] * 1.02 < 1 for r, i in narrow)


@given(st.lists(st.floats(1.21, 9), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 2**31))
@example(steps=[2.0], k=2, seed=32120)
def test_ranges_of_sizes_far_apart_lose_no_more_than_a_switch_is_worth(steps: list[float], k: int, seed: int) -> None:
    sizes = np.array(list(accumulate(steps, lambda size, step: math.floor(size * step) + 1, initial=1)))
    gains = np.vstack([np.ones(len(sizes)), np.exp(np.random.default_rng(seed).normal(0.1, 0.5, (k, len(sizes))))])
    for r in ranges(gains, sizes):
        over = (r.first <= sizes) & (sizes <= r.last)
        assert (gains[r.draft_length, over] * 1.02 >= gains[:, over].max(0) * (1 - 1e-12)).all()


def test_a_range_reaches_over_no_gap_for_its_least_width() -> None:
    # Sizes within a fifth stay together; those behind a gap are others, though they are the last.
    gains = np.array([[1, 1, 1, 1, 1], [2, 2, 2, 1.2, 1.2], [1, 1, 1, 1.8, 1.8]])
    found = ranges(gains, np.array([10, 11, 12, 50, 52]))
    assert [(r.first, r.last, r.draft_length) for r in found] == [(10, 12, 1), (50, 52, 2)]
    assert [(r.first, r.last) for r in ranges(gains[:, 1:4], np.array([10, 11, 50]))] == [(10, 11), (50, 50)]


def test_off_is_never_swallowed_by_the_least_width_of_a_range() -> None:
    sizes = np.arange(1, 257)
    # Drafting falls below 1x at 240: what was looked at ends before a fifth of that has passed.
    falling = np.vstack([np.ones(256), 1.3 - 0.3 * (sizes / 240) ** 2])
    found = ranges(falling, sizes)
    at = int(sizes[falling[1] * 1.02 < 1][0])
    assert (found[-1].draft_length, found[-1].first, off_above(found)) == (0, at, at - 1)
    # Nor by a range that has just begun, nor in a dip; a dip costs no more batch sizes than it has.
    cliff = np.vstack([np.ones(256), np.where(sizes < 100, 1.5, 1.2), np.where(sizes < 100, 1.2, 1.4)])
    cliff[1:, 104:] = 0.9
    assert [(r.first, r.draft_length) for r in ranges(cliff, sizes)] == [(1, 1), (100, 2), (105, 0)]
    dip = np.vstack([np.ones(256), np.where(sizes == 100, 0.9, 1.4)])
    assert [(r.first, r.draft_length) for r in ranges(dip, sizes)] == [(1, 1), (100, 0), (101, 1)]


def vllm(found: tuple[Range, ...]) -> dict[str, Any] | None:
    rows = tuple((r.first, r.last, r.draft_length) for r in found)
    return written(Recommended(method=METHOD, draft="small", rows=rows)).settings


def test_the_form_of_vllm() -> None:
    # Both ends of a range are in it; num_speculative_tokens is the largest.
    by_length = np.ones((4, 6)) * 0.5
    by_length[0], by_length[3, :2], by_length[1, 2:4] = 1, 3, 2
    found = ranges(by_length, np.arange(1, 7))
    assert found == (
        Range(first=1, last=2, draft_length=3),
        Range(first=3, last=4, draft_length=1),
        Range(first=5, last=6, draft_length=0),
    )
    assert vllm(found) == {
        "method": "draft_model",
        "model": "small",
        "num_speculative_tokens": 3,
        "num_speculative_tokens_per_batch_size": [[1, 2, 3], [3, 4, 1], [5, 6, 0]],
    }
    assert off_above(found) == 4
    # A switch for a gain of a percent is none.
    nearly = np.vstack([np.ones(9), np.full(9, 2.0), 2.0 * np.linspace(0.99, 1.01, 9)])
    assert len(ranges(nearly, np.arange(1, 10))) == 1
    # Nor is anything drafted for less.
    assert [r.draft_length for r in ranges(np.array([np.ones(64), np.full(64, 1.004)]), np.arange(1, 65))] == [0]
    # It takes none that never drafts.
    never = ranges(np.array([[1.0, 1.0], [0.5, 0.5]]), np.arange(1, 3))
    assert off_above(never) == 0
    assert vllm(never) is None


def test_a_faster_draft_never_turns_speculation_off_earlier() -> None:
    # The memory is large, so that arithmetic binds and speculation stops to pay at all.
    for alpha in (0.5, 0.65, 0.8):
        ends = []
        for layers in (16, 8, 4, 1):
            pair = replace(ROOMY, draft=replace(ON_H100.draft, layers=layers), context=256)
            end = off_above(schedule(pair, IidAcceptance(alpha), 8, overlap=False))
            ends.append(LARGEST_BATCH if end is None else end)
        assert ends == sorted(ends)
        assert 0 < ends[0] < min(LARGEST_BATCH, ends[-1])


def test_a_dense_model_at_a_short_context_drafts_less_the_larger_the_batch() -> None:
    for name in ("llama-3.1-8b", "llama-2-7b", "qwen2.5-7b"):
        pair = replace(ROOMY, target=read_shape(name), context=128)
        lengths = [r.draft_length for r in schedule(pair, IidAcceptance(0.8), 8, overlap=False)]
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] > lengths[-1]
