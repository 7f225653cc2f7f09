"""Lists and ranges, grids, and the sweep against one point at a time."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.parameters import PARAMETERS, Point
from simulator.costs.priced import knobs
from simulator.ground.artefacts import UserError
from simulator.ground.ranges import parse_values
from simulator.rounds.acceptance_law import IidAcceptance
from simulator.rounds.experiment import Setting, replicate, summarise
from simulator.rounds.grid import Acceptance, Columns, Sweep, run_sweep

from .builders import grid

VALUES = {
    "4": [4],
    "1:4": [1, 2, 3, 4],
    "0.5:0.95:0.15": [0.5, 0.65, 0.8, 0.95],
    "0.2, 0.05,0.1": [0.05, 0.1, 0.2],
    "1:3,8": [1, 2, 3, 8],
    "1e-7:3e-7:1e-7": [1e-7, 2e-7, 3e-7],
    "0:1:0.3": [0, 0.3, 0.6, 0.9],
    "2,inf": [2, np.inf],
}
REFUSED = {
    **{text: "is not a value" for text in ("", "a", "1:2:3:4", "snan", "0:1:1e-5000")},
    **{text: "holds no values" for text in ("3:1", "1:3:0", "1:3:-1")},
    **{text: "names a value twice" for text in ("1,1", "1:3,2")},
    **{text: "more values than" for text in ("0:1e9:0.001", "1:1e30")},
    "0.5:0.9": "needs a step",
    "0:inf:1": "range without end",
}


def test_values_read_as_lists_and_inclusive_ranges_or_are_refused() -> None:
    for text, expected in VALUES.items():
        assert parse_values("--x", text).tolist() == expected
    for text, message in REFUSED.items():
        with pytest.raises(UserError, match=f"--x: .*{message}"):
            parse_values("--x", text)


@given(st.integers(-50, 50), st.integers(1, 40), st.integers(1, 20))
def test_a_range_has_both_ends_and_even_steps(first: int, steps: int, hundredths: int) -> None:
    step = hundredths / 100
    values = parse_values("--x", f"{first}:{first + steps * step:.2f}:{step:.2f}")
    assert len(values) == steps + 1
    assert np.diff(values) == pytest.approx(step)


def sweep(replications: int = 0, **values: str) -> Sweep:
    return Sweep(grid=grid(**values), acceptance=Acceptance(), overlap=False, replications=replications, seed=3)


def held(columns: Columns, truth: np.ndarray) -> np.ndarray:
    """Whether the intervals of the points hold these speedups."""
    return (columns["simulation_noise_low95"] <= truth) & (truth <= columns["simulation_noise_high95"])


def test_every_point_of_the_product_is_there_once_in_order() -> None:
    columns = run_sweep(sweep(draft_length="1:3", alpha="0.2,0.9"))
    points = list(zip(columns["draftN"].tolist(), columns["alpha"].tolist(), strict=True))
    assert points == [(1, 0.2), (1, 0.9), (2, 0.2), (2, 0.9), (3, 0.2), (3, 0.9)]


def test_the_closed_form_of_each_point_is_that_of_simulate() -> None:
    task = sweep(draft_length="1,5", alpha="0.3,0.8", draft_cost="0.05,0.4", round_overhead_ms="0,0.7")
    columns = run_sweep(task)
    for i in range(task.grid.points):
        values = {p.name: columns[p.key][i] for p in PARAMETERS}
        point = Setting(
            total=int(values["total"]),
            draft_length=int(values["draft_length"]),
            costs=knobs(Point(**values)),
            acceptance=IidAcceptance(float(values["alpha"])),
        )
        assert columns["closed_form_speedup"][i] == pytest.approx(float(point.closed_form.speedup))


@pytest.mark.statistical
def test_simulated_points_agree_with_the_closed_form_and_its_interval_covers_it() -> None:
    columns = run_sweep(sweep(32, total="20000", draft_length="1:8", alpha="0.1:0.9:0.1"))
    inside = held(columns, columns["closed_form_speedup"])
    assert abs(inside.mean() - 0.95) <= 4 * np.sqrt(0.95 * 0.05 / len(inside))
    # Negative control: intervals of one point do not cover the closed form of its neighbour.
    assert held(columns, np.roll(columns["closed_form_speedup"], 1)).mean() < 0.2


@pytest.mark.statistical
def test_an_overlapped_sweep_is_priced_with_its_hits() -> None:
    plain = sweep(32, total="20000", draft_length="1:6", alpha="0.5:0.9:0.1", draft_cost="0.3")
    columns = run_sweep(dataclasses.replace(plain, overlap=True))
    inside = held(columns, columns["closed_form_speedup"])
    assert abs(inside.mean() - 0.95) <= 4 * np.sqrt(0.95 * 0.05 / len(inside))
    # Negative control: neither the draws nor the closed form of plain drafting would do.
    without = run_sweep(plain)
    for key in ("closed_form_speedup", "speedup"):
        assert held(columns, without[key]).mean() < 0.3
    assert (columns["rounds"] == without["rounds"]).all()


def test_points_that_differ_in_cost_alone_share_their_rounds() -> None:
    columns = run_sweep(sweep(4, alpha="0.5,0.7", draft_cost="0.1,0.2,0.3"))
    rounds = columns["rounds"].reshape(2, 3)
    assert (rounds == rounds[:, :1]).all()
    assert rounds[0, 0] != rounds[1, 0]
    # The same seed gives the same columns.
    first, second = (run_sweep(sweep(4, draft_length="1:4")) for _ in range(2))
    for key, column in first.items():
        assert (column == second[key]).all()


def test_a_single_replication_has_no_interval_and_agrees_with_simulate_in_law() -> None:
    columns = run_sweep(sweep(1, draft_length="2"))
    assert np.isnan(columns["simulation_noise_low95"]).all()
    point = Setting(total=512, draft_length=2, costs=knobs(Point()), acceptance=IidAcceptance(0.8))
    spread = [summarise(point, replicate(point, 1, seed)).speedup for seed in range(200)]
    assert min(spread) <= columns["speedup"][0] <= max(spread)
