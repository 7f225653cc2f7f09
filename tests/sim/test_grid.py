"""Lists and ranges, grids, and the sweep against one point at a time."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.parameters import PARAMETERS, Point
from simulator.costs.priced import knobs
from simulator.ground.artefacts import UserError
from simulator.ground.histogram import AcceptanceHistogram
from simulator.ground.ranges import parse_values
from simulator.rounds.acceptance_law import HistogramAcceptance, IidAcceptance
from simulator.rounds.experiment import Setting, replicate, summarise
from simulator.rounds.grid import Acceptance, Columns, Grid, Sweep, run_sweep


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", [4]),
        ("1:4", [1, 2, 3, 4]),
        ("0.5:0.95:0.15", [0.5, 0.65, 0.8, 0.95]),
        ("0.2, 0.05,0.1", [0.05, 0.1, 0.2]),
        ("1:3,8", [1, 2, 3, 8]),
        ("1e-7:3e-7:1e-7", [1e-7, 2e-7, 3e-7]),
        ("0:1:0.3", [0, 0.3, 0.6, 0.9]),
        ("2,inf", [2, np.inf]),
    ],
)
def test_values_read_as_lists_and_inclusive_ranges(text: str, expected: list[float]) -> None:
    assert parse_values("--x", text).tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a value"),
        ("a", "'a' is not a value"),
        ("1:2:3:4", "is not a value"),
        ("0.5:0.9", "needs a step"),
        ("3:1", "holds no values"),
        ("1:3:0", "holds no values"),
        ("1:3:-1", "holds no values"),
        ("1,1", "names a value twice"),
        ("1:3,2", "names a value twice"),
        ("0:inf:1", "range without end"),
        ("0:1e9:0.001", "more values than"),
        ("1:1e30", "more values than"),
        ("snan", "'snan' is not a value"),
        ("0:1:1e-5000", "is not a value"),
    ],
)
def test_values_that_make_no_sense_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match="--x: ") as error:
        parse_values("--x", text)
    assert message in str(error.value)


@given(st.integers(-50, 50), st.integers(1, 40), st.integers(1, 20))
def test_a_range_has_both_ends_and_even_steps(first: int, steps: int, hundredths: int) -> None:
    step = hundredths / 100
    values = parse_values("--x", f"{first}:{first + steps * step:.2f}:{step:.2f}")
    assert len(values) == steps + 1
    assert np.diff(values) == pytest.approx(step)


def sweep(replications: int = 0, measured: HistogramAcceptance | None = None, **values: str) -> Sweep:
    texts = {p.name: f"{p.default:g}" for p in PARAMETERS} | values
    grid = Grid(values={k: parse_values(k, v) for k, v in texts.items()})
    source = Acceptance(model=measured)
    return Sweep(grid=grid, acceptance=source, overlap=False, replications=replications, seed=3)


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
    points = len(inside)
    assert abs(inside.mean() - 0.95) <= 4 * np.sqrt(0.95 * 0.05 / points)
    # Negative control: intervals of one point do not cover the closed form of its neighbour.
    shifted = np.roll(columns["closed_form_speedup"], 1)
    assert held(columns, shifted).mean() < 0.2


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


def test_the_same_seed_gives_the_same_columns() -> None:
    first, second = (run_sweep(sweep(4, draft_length="1:4")) for _ in range(2))
    for key, column in first.items():
        assert (column == second[key]).all()


def test_a_histogram_gives_each_point_its_exact_cut() -> None:
    histogram = AcceptanceHistogram((2, 1, 1, 6))
    columns = run_sweep(sweep(2, HistogramAcceptance((histogram,)), draft_length="1:3"))
    assert columns["closed_form_tokens_per_round"] == pytest.approx([1.8, 2.5, 3.1])
    assert "alpha" not in columns


def test_progress_reports_every_unit() -> None:
    done = []
    task = sweep(2, draft_length="1:3", draft_cost="0.1,0.2")
    run_sweep(task, done.append)
    assert sum(done) == task.steps == 6 + 3


def test_a_single_replication_has_no_interval_and_agrees_with_simulate_in_law() -> None:
    columns = run_sweep(sweep(1, draft_length="2"))
    assert np.isnan(columns["simulation_noise_low95"]).all()
    point = Setting(total=512, draft_length=2, costs=knobs(Point()), acceptance=IidAcceptance(0.8))
    spread = [summarise(point, replicate(point, 1, seed)).speedup for seed in range(200)]
    assert min(spread) <= columns["speedup"][0] <= max(spread)


def test_too_large_a_grid_is_refused_before_anything_is_computed() -> None:
    with pytest.raises(UserError, match="points, at most"):
        sweep(alpha="0:1:0.0001", draft_cost="0.0001:1:0.0001")
