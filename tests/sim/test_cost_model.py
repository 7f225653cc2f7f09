"""The cost function: limits of the overlap exponent, scaling laws, and the phases of a round."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.step import Knobs, step_s

sizes = st.floats(0, 1e12)


@given(sizes, sizes)
def test_infinite_exponent_is_the_roofline_and_one_is_the_sum(compute: float, memory: float) -> None:
    scales = {"flop_scale": 1.0, "mem_scale": 1.0}
    assert step_s(compute, memory, **scales) == max(compute, memory)
    assert step_s(compute, memory, overlap_exponent=1, **scales) == pytest.approx(compute + memory)


@given(sizes, sizes, st.floats(1, 50))
def test_any_exponent_lies_between_and_matches_the_norm(compute: float, memory: float, m: float) -> None:
    found = step_s(compute, memory, flop_scale=1.0, mem_scale=1.0, overlap_exponent=m)
    assert max(compute, memory) * (1 - 1e-12) <= found <= (compute + memory) * (1 + 1e-12)
    top = max(compute, memory, 1e-300)
    norm = top * ((compute / top) ** m + (memory / top) ** m) ** (1 / m)
    assert found == pytest.approx(norm, rel=1e-9, abs=1e-200)


def test_launches_and_fixed_time_are_added() -> None:
    found = step_s(2, 3, flop_scale=1, mem_scale=1, launches=10, launch_s=0.5, fixed_s=0.25)
    assert found == 3 + 5 + 0.25


def knobs(**changes: float) -> Knobs:
    defaults = {"work_flops": 2.0, "work_mem": 3.0, "flop_scale_s": 0.5, "mem_scale_s": 2.0, "draft_cost": 0.25}
    return Knobs(**defaults | changes)


def test_the_phases_of_a_round_by_hand() -> None:
    # One token: compute 1 s, memory 6 s. K = 7: eight tokens compute 8 s. A quarter of the work a draft step.
    cost = knobs(round_overhead_s=0.125).round_cost(7)
    assert cost.baseline_s == 6
    assert cost.verify_s == 8
    assert cost.draft_step_s == 1.5
    assert cost.draft_s == 7 * 1.5
    assert cost.after_miss_s == 8 + 0.125 + 10.5
    assert cost.after_hit_s == max(8 + 0.125, 8 * 1.5)


@given(st.integers(1, 64), st.floats(1, 8))
def test_a_draft_costs_something_and_verification_is_less_than_its_tokens_apart(k: int, m: float) -> None:
    cost = knobs(overlap_exponent=m).round_cost(k)
    assert cost.draft_s == pytest.approx(k * cost.draft_step_s)
    assert cost.draft_step_s == pytest.approx(0.25 * cost.baseline_s)
    assert cost.baseline_s <= cost.verify_s <= (k + 1) * cost.baseline_s


def test_arrays_give_what_scalars_give() -> None:
    draft_costs, lengths = np.array([0.05, 0.1, 0.4]), np.array([1, 4, 9])
    together = knobs(draft_cost=draft_costs).round_cost(lengths)
    for i, (draft_cost, k) in enumerate(zip(draft_costs, lengths, strict=True)):
        alone = knobs(draft_cost=float(draft_cost)).round_cost(int(k))
        assert together.after_miss_s[i] == alone.after_miss_s
