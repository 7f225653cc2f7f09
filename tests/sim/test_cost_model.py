"""The cost function: limits of the overlap exponent, scaling laws, and the phases of a round."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.step import Knobs, step_s

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
