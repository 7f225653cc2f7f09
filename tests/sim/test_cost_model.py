"""The cost function: limits of the overlap exponent, phases of a round, and rounds of a pair timed decoding."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.profile import Decoding
from simulator.costs.step import Knobs, step_s
from simulator.costs.timed_pair import DecodedPair, timed_tokens
from simulator.ground.artefacts import UserError

from .builders import pass_cost

sizes = st.floats(0, 1e12)


@given(sizes, sizes, st.floats(1, 50))
def test_any_exponent_lies_between_roofline_and_sum(compute: float, memory: float, m: float) -> None:
    scales = {"flop_scale": 1.0, "mem_scale": 1.0}
    assert step_s(compute, memory, **scales) == max(compute, memory)
    assert step_s(compute, memory, overlap_exponent=1, **scales) == pytest.approx(compute + memory)
    found = step_s(compute, memory, overlap_exponent=m, **scales)
    assert max(compute, memory) * (1 - 1e-12) <= found <= (compute + memory) * (1 + 1e-12)
    top = max(compute, memory, 1e-300)
    norm = top * ((compute / top) ** m + (memory / top) ** m) ** (1 / m)
    assert found == pytest.approx(norm, rel=1e-9, abs=1e-200)
    # Launches and fixed time are added.
    assert step_s(2, 3, **scales, launches=10, launch_s=0.5, fixed_s=0.25) == 3 + 5 + 0.25


def knobs(**changes: float) -> Knobs:
    defaults = {"work_flops": 2.0, "work_mem": 3.0, "flop_scale_s": 0.5, "mem_scale_s": 2.0, "draft_cost": 0.25}
    return Knobs(**defaults | changes)


def test_the_phases_of_a_round_by_hand() -> None:
    # One token: compute 1 s, memory 6 s. K = 7: eight tokens compute 8 s. A quarter of the work a draft step.
    cost = knobs(round_overhead_s=0.125).round_cost(7)
    assert (cost.baseline_s, cost.verify_s, cost.draft_step_s, cost.draft_s) == (6, 8, 1.5, 7 * 1.5)
    assert cost.after_miss_s == 8 + 0.125 + 10.5
    assert cost.after_hit_s == max(8 + 0.125, 8 * 1.5)


@given(st.integers(1, 64), st.floats(1, 8))
def test_a_draft_costs_something_and_verification_is_less_than_its_tokens_apart(k: int, m: float) -> None:
    cost = knobs(overlap_exponent=m).round_cost(k)
    assert cost.draft_s == pytest.approx(k * cost.draft_step_s)
    assert cost.draft_step_s == pytest.approx(0.25 * cost.baseline_s)
    assert cost.baseline_s <= cost.verify_s <= (k + 1) * cost.baseline_s


VERIFY = pass_cost(3e-4, 8e-3, overlap_exponent=1.0)
SECONDS = {"baseline_s": 9e-3, "baseline_error": 0.02, "draft_step_s": 1e-3, "draft_step_error": 0.03}
DECODING = Decoding(target="t", draft="d", dtype="bfloat16", batch=1, verify=VERIFY, draft_lengths=(1, 4), **SECONDS)
PAIR = DecodedPair(decoding=DECODING, round_overhead_s=5e-4, round_overhead_error=0.1)


def test_a_round_by_hand() -> None:
    cost = PAIR.round_cost(4)
    seconds = {"draft_s": 4e-3, "verify_s": 5 * 3e-4 + 8e-3, "baseline_s": 9e-3, "overhead_s": 5e-4}
    for name, value in (seconds | {"after_miss_s": 4e-3 + 9.5e-3 + 5e-4}).items():
        assert float(getattr(cost, name)) == pytest.approx(value)
    # Draft lengths broadcast, and nothing drafted costs no draft.
    cost = PAIR.round_cost(np.array([[0, 1], [2, 8]]))
    assert cost.draft_s == pytest.approx(np.array([[0, 1e-3], [2e-3, 8e-3]]))
    assert cost.verify_s.shape == cost.baseline_s.shape == cost.overhead_s.shape == (2, 2)
    assert float(cost.verify_s[0, 0]) == pytest.approx(8.3e-3)


def test_scaling_the_target_moves_its_plain_step_as_its_pass_over_one_token() -> None:
    slow = PAIR.scaled({"mem_scale": 1.5})
    one_token = (3e-4 + 1.5 * 8e-3) / (3e-4 + 8e-3)
    assert float(slow.round_cost(1).baseline_s) == pytest.approx(9e-3 * one_token)
    assert float(slow.round_cost(4).verify_s) == pytest.approx(5 * 3e-4 + 1.5 * 8e-3)
    assert float(slow.round_cost(4).draft_s) == pytest.approx(4e-3)
    twice = PAIR.scaled({"flop_scale": 2, "mem_scale": 2})
    assert float(twice.round_cost(3).baseline_s) == pytest.approx(2 * 9e-3)
    more = PAIR.scaled({"round_overhead_s": 3})
    assert float(more.round_cost(3).overhead_s) == pytest.approx(1.5e-3)
    assert float(more.round_cost(3).verify_s) == pytest.approx(float(PAIR.round_cost(3).verify_s))


@pytest.mark.statistical
def test_draws_have_the_errors_that_are_stated_and_what_is_certain_is_not_drawn() -> None:
    covariance = np.full((2, 2), 0.05**2)
    unsure = replace(VERIFY, uncertain=("flop_scale[0]", "mem_scale[0]"), covariance=covariance)
    pair = replace(PAIR, decoding=replace(DECODING, verify=unsure))
    samples = 20_000
    cost = pair.sample(np.random.default_rng(0), samples).round_cost(np.array([1, 4, 8]))
    plain = pair.round_cost(np.array([1, 4, 8]))
    for name, error in (("baseline_s", 0.02), ("draft_s", 0.03), ("verify_s", 0.05), ("overhead_s", 0.1)):
        drawn = np.log(getattr(cost, name) / getattr(plain, name))
        assert drawn.shape == (samples, 3)
        tolerance = 4 * error / np.sqrt(2 * samples)
        assert drawn.std(0) == pytest.approx(np.full(3, error), abs=tolerance)
        assert np.abs(drawn.mean(0)).max() < 4 * error / np.sqrt(samples)
        # One factor for all lengths.
        assert np.ptp(drawn, axis=1).max() < 1e-9
    baseline, draft = (np.log(getattr(cost, n)[:, 0]) for n in ("baseline_s", "draft_s"))
    assert abs(np.corrcoef(baseline, draft)[0, 1]) < 4 / np.sqrt(samples)
    # The two ends of the draft's line go against each other: a round of some tokens is surer than either.
    tied = replace(DECODING, draft_step_error=0.1, draft_overhead_correlation=-0.83)
    cost = replace(PAIR, decoding=tied).sample(np.random.default_rng(0), samples).round_cost(np.array([1]))
    draft, overhead = (np.log(getattr(cost, n)[:, 0]) for n in ("draft_s", "overhead_s"))
    assert np.corrcoef(draft, overhead)[0, 1] == pytest.approx(-0.83, abs=4 * (1 - 0.83**2) / np.sqrt(samples))
    assert overhead.std() == pytest.approx(0.1, rel=0.03)
    sure = replace(DECODING, baseline_error=0.0, draft_step_error=0.0)
    pair = DecodedPair(decoding=sure, round_overhead_s=5e-4)
    drawn = pair.sample(np.random.default_rng(0), 10).round_cost(np.array([2]))
    for name in ("baseline_s", "draft_s", "overhead_s"):
        assert np.all(getattr(drawn, name) == getattr(pair.round_cost(np.array([2])), name))


def test_two_times_a_token_give_their_own_speedup_back_and_leave_other_lengths_open() -> None:
    # 9 ms plain, 6 ms speculative at 2.5 tokens a round of K = 4: rounds of 15 ms.
    costs = timed_tokens(9e-3, 6e-3, 2.5, 4)
    rng, samples = np.random.default_rng(0), 4000
    drawn = costs.sample(rng, samples).round_cost(np.array([1, 4, 8])).after_miss_s
    # At the length that was timed a round is what it was, however it is split; at others from no to all of 6 ms by K.
    assert drawn[:, 1] == pytest.approx(np.full(samples, 15e-3))
    assert (drawn[:, 0].min(), drawn[:, 0].max()) == pytest.approx((9e-3 + 1.5e-3, 15e-3), abs=1e-5)
    assert (drawn[:, 2].min(), drawn[:, 2].max()) == pytest.approx((15e-3, 9e-3 + 12e-3), abs=1e-5)
    assert float(costs.round_cost(2).after_miss_s) == pytest.approx(9e-3 + 3e-3 / 2 + 3e-3)
    assert float(costs.scaled({"round_overhead_s": 2}).round_cost(4).after_miss_s) == pytest.approx(18e-3)
    # Noise may make a round a little shorter than a step, and no more: the measured ratio stands.
    assert float(timed_tokens(9e-3, 3.4e-3, 2.5, 4).round_cost(4).after_miss_s) == pytest.approx(8.5e-3)
    with pytest.raises(
        UserError, match=r"--speculative-tpot: 3 ms a token at 2.50 a round are rounds of 7.5 ms, .* at least 3.24"
    ):
        timed_tokens(9e-3, 3e-3, 2.5, 4)
