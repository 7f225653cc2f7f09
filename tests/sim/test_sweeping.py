"""A sweep in parts, on one core or several: the same columns, the same bytes, and little of it in memory."""

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.answers.sweep_answers import drawn_tokens, ends_at
from simulator.ground.histogram import AcceptanceHistogram
from simulator.ground.tables import write_table, writing_table
from simulator.rounds import sweeping
from simulator.rounds.acceptance_law import (
    AcceptanceModel,
    EquivalentAcceptance,
    HistogramAcceptance,
    IidAcceptance,
    law_table,
)
from simulator.rounds.grid import Acceptance, Grid, Sweep
from simulator.rounds.sweeping import overview, run_sweep

from .builders import grid

MEASURED = HistogramAcceptance((AcceptanceHistogram((3, 2, 4)), AcceptanceHistogram((3, 2, 1, 0, 0, 4))))
MANY = {"total": "9,40", "draft_length": "1:5", "alpha": "0.2,0.7,0.9", "draft_cost": "0.1:0.7:0.1", "workmem": "4,8"}


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 60))
def test_boxes_part_a_grid_in_order(shape: list[int], most: int) -> None:
    names = ("total", "draft_length", "workmem", "draft_cost")
    grid = Grid(values={name: np.arange(1.0, n + 1) for name, n in zip(names, shape, strict=False)})
    whole = np.arange(grid.points).reshape(grid.shape)
    boxes = [whole[ranges].ravel() for ranges in grid.boxes(most)]
    assert np.concatenate(boxes).tolist() == list(range(grid.points))
    assert max(map(len, boxes)) <= most
    # Hardly more boxes than it takes: each but the last along an axis is at least half full, or all of the axes inside.
    assert len(boxes) <= max(1, 4 * math.ceil(grid.points / most) + grid.points // most)


@pytest.mark.parametrize("replications", [0, 3])
@pytest.mark.parametrize("acceptance", [None, MEASURED, EquivalentAcceptance(MEASURED)])
def test_parts_and_cores_change_nothing(
    replications: int, acceptance: AcceptanceModel | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "ROWS_A_CHUNK", 12)
    task = Sweep(grid=grid(**MANY), acceptance=Acceptance(model=acceptance), overlap=True, replications=replications)
    whole = run_sweep(task)
    monkeypatch.setattr(sweeping, "POINTS_A_PART", 17)
    monkeypatch.setattr(sweeping, "RUNS_A_PART", 70)
    found = []
    for cores in (1, 3):
        monkeypatch.setattr(sweeping, "cores", lambda cores=cores: cores)
        units: list[int] = []
        found.append(run_sweep(task, units.append))
        assert (list(found[-1]), sum(units)) == (list(whole), task.steps)
    one, three = found
    assert all(np.array_equal(one[key], three[key], equal_nan=True) for key in whole)
    # Powers of few numbers and of many may differ in the last digit.
    assert all(one[key] == pytest.approx(whole[key], rel=1e-14, nan_ok=True) for key in whole)
    assert not replications or (one["rounds"] == whole["rounds"]).all()
    # Negative control: other streams, other draws.
    if replications:
        assert (run_sweep(replace(task, seed=1))["rounds"] != whole["rounds"]).any()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_is_written_and_said_of_a_sweep_is_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    task = Sweep(grid=grid(**MANY), acceptance=Acceptance(), replications=0)
    whole = run_sweep(task)
    write_table(tmp_path / f"whole{suffix}", whole | {"seed": 0})
    monkeypatch.setattr(sweeping, "POINTS_A_PART", 1 << 16 if suffix == ".parquet" else 17)
    with writing_table(tmp_path / f"parts{suffix}") as table:
        seen = overview(task, lambda _: None, table, {"seed": 0}, keep=True)
    if suffix == ".csv":
        written = [(tmp_path / f"{name}.csv").read_text().splitlines() for name in ("parts", "whole")]
        assert [line.split(",")[:6] for line in written[0]] == [line.split(",")[:6] for line in written[1]]
    gains = whole["closed_form_speedup"]
    assert (seen.best, seen.speedup) == (int(gains.argmax()), pytest.approx(gains.max(), rel=1e-14))
    assert (seen.above_1, seen.unfit) == (int((gains > 1).sum()), 0)
    assert seen.columns["closed_form_speedup"] == pytest.approx(gains, rel=1e-14)


def test_a_sweep_holds_some_parts_of_itself_alone(tmp_path: Path) -> None:
    task = Sweep(
        grid=grid(alpha="0.001:1:0.001", draft_cost="0.001:0.4:0.001"), acceptance=Acceptance(), replications=0
    )
    tracemalloc.start()
    overview(task, lambda _: None, None, {}, keep=False)
    _, streamed = tracemalloc.get_traced_memory()
    columns = run_sweep(task)
    _, held = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held > sum(values.nbytes for values in columns.values()) > 5 * streamed


def test_a_sweep_that_is_interrupted_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "POINTS_A_PART", 17)

    def interrupt(units: int) -> None:
        raise KeyboardInterrupt

    task = Sweep(grid=grid(**MANY), acceptance=Acceptance(), replications=2)
    with pytest.raises(KeyboardInterrupt), writing_table(tmp_path / "s.csv") as table:
        overview(task, interrupt, table, {}, keep=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", [IidAcceptance(0.7), IidAcceptance(1.0), MEASURED, EquivalentAcceptance(MEASURED)])
def test_closed_expressions_are_the_sums_over_the_laws(model: AcceptanceModel) -> None:
    lengths = np.array([[1, 2], [5, 3]])
    laws, rates = law_table(model, lengths, 6)
    full = np.take_along_axis(laws, lengths[..., None], -1)[..., 0]
    assert model.tokens_per_round(lengths) == pytest.approx(1 + laws @ np.arange(6), rel=1e-12)
    assert model.hit_rates(lengths) == pytest.approx(full * rates, rel=1e-12)


def test_intervals_of_a_histogram_are_drawn_once_and_hang_on_no_other_point() -> None:
    def ends(effect: float, lengths: str, k: int) -> tuple[float, float]:
        measured = HistogramAcceptance((AcceptanceHistogram((30, 20, 10, 40), design_effect=effect),))
        task = Sweep(grid=grid(draft_length=lengths), acceptance=Acceptance(model=measured), replications=0)
        point = {name: float(values[0]) for name, values in task.grid.values.items()}
        return ends_at(task, {**point, "draft_length": float(k)})

    drawn_tokens.cache_clear()
    found = {k: ends(1.0, "1:3", k) for k in (1, 2, 3)}
    assert drawn_tokens.cache_info().misses == 1
    assert found == {k: ends(1.0, str(k), k) for k in (1, 2, 3)}
    # Rounds that are alike leave more open.
    low, high = ends(4.0, "1:3", 3)
    assert high - low > 1.5 * (found[3][1] - found[3][0])
