"""Lists and ranges, grids, the sweep against one point at a time, and its plots: what goes where, always the same."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from simulator.answers.layout import Layout, plan
from simulator.answers.plots import draw
from simulator.answers.schedule import ranges
from simulator.costs.parameters import PARAMETERS, Point
from simulator.costs.priced import knobs
from simulator.ground.artefacts import UserError
from simulator.ground.pictures import save_figure
from simulator.ground.ranges import parse_values
from simulator.rounds.acceptance_law import IidAcceptance
from simulator.rounds.experiment import Setting, replicate, summarise
from simulator.rounds.grid import Acceptance, Columns, Sweep
from simulator.rounds.sweeping import run_sweep

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
    # Each is the number that its decimal reads as.
    assert values.tolist() == [float(f"{first + i * hundredths / 100:.2f}") for i in range(steps + 1)]


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
@pytest.mark.parametrize("overlap", [False, True])
def test_simulated_points_agree_with_the_closed_form_and_their_intervals_cover_it(overlap: bool) -> None:
    plain = sweep(32, total="20000", draft_length="1:8", alpha="0.5:0.9:0.1", draft_cost="0.3")
    columns, without = run_sweep(dataclasses.replace(plain, overlap=overlap)), run_sweep(plain)
    inside = held(columns, columns["closed_form_speedup"])
    assert abs(inside.mean() - 0.95) <= 4 * np.sqrt(0.95 * 0.05 / len(inside))
    # Negative controls: the closed form of a neighbour; where it overlaps, draws and closed form of the plain one.
    assert held(columns, np.roll(columns["closed_form_speedup"], 1)).mean() < 0.2
    for key in ("closed_form_speedup", "speedup"):
        assert (held(columns, without[key]).mean() < 0.3) == overlap
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


K8, ALPHA, COST = {"draft_length": "1:8"}, {"alpha": "0.1:0.9:0.1"}, {"draft_cost": "0.1,0.2"}
MANY = K8 | ALPHA | {"draft_cost": "0.1,0.2,0.3", "workmem": "4,8"}
LAYOUTS = [
    (K8, "auto", "curves", "draft_length"),
    (K8 | {"alpha": "0.5,0.9"}, "auto", "curves", "draft_length", "alpha"),
    (K8 | ALPHA, "auto", "surface", "alpha", "draft_length"),
    (K8 | {"alpha": "0.1:0.8:0.1"}, "curves", "curves", "draft_length", "alpha"),
    (K8 | ALPHA | COST, "auto", "multiples", "alpha", "draft_length", "draft_cost"),
    (MANY, "auto", "multiples", "alpha", "draft_length", "draft_cost", "workmem"),
    (ALPHA | {"draft_cost": "0.1:0.5:0.1"}, "auto", "surface", "alpha", "draft_cost"),
    # One long axis goes along x when the other has few values.
    ({"draft_length": "2,4", "alpha": "0.5:0.95:0.01"}, "auto", "curves", "alpha", "draft_length"),
]


def test_the_layout_puts_the_draft_length_where_it_reads_best() -> None:
    for values, kind, *expected in LAYOUTS:
        names = dict(zip(("kind", "x", "y", "column", "row"), expected, strict=False))
        assert plan(grid(**values), kind) == Layout(**names)


UNDRAWABLE = [
    ({}, "auto", "the grid has one point"),
    (K8, "surface", "1 options vary"),
    ({"draft_length": "1:12", "alpha": "0.1:0.9:0.01"}, "curves", "81 curves over alpha, at most 8"),
    (K8 | {"alpha": "0:1:0.1", "draft_cost": "0.01:0.9:0.1", "workmem": "1:4"}, "auto", "36 panels"),
    (K8 | COST | {"alpha": "0,1", "workmem": "1,2", "mem_scale_ms": "1,2"}, "auto", "5 options vary"),
]


def test_what_cannot_be_drawn_is_refused() -> None:
    for values, kind, message in UNDRAWABLE:
        with pytest.raises(UserError, match=f"--plot: .*{message}"):
            plan(grid(**values), kind)


def figure(kind: str = "auto", replications: int = 2, **values: str):
    task = sweep(replications, **values)
    return draw(task.grid, run_sweep(task), plan(task.grid, kind), "a test")


SHAPES = {
    "curves": {"draft_length": "1:4", "alpha": "0.5,0.9"},
    "surface": {"draft_length": "1:4", "draft_cost": "0.1:0.9:0.1"},
    "multiples": {"draft_length": "1:4", "draft_cost": "0.1:0.9:0.1", "alpha": "0.2,0.5,0.8,0.85,0.9"},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_plot_is_a_picture_on_white_and_the_same_every_time(tmp_path: Path, kind: str) -> None:
    shape = SHAPES[kind] | ({"alpha": "0.2,0.8"} if kind == "multiples" else {})
    for name in ("first.svg", "second.svg", "first.png"):
        save_figure(tmp_path / name, figure(kind, **shape))
    assert b"<svg" in (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
    pixels = np.asarray(Image.open(tmp_path / "first.png").convert("RGB"))
    assert min(pixels.shape[:2]) > 400
    assert (pixels[0] == 255).all()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def leviathan(alpha: float, k: int, c: float) -> float:
    return sum(alpha**i for i in range(k + 1)) / (k * c + 1)


def test_cells_say_their_speedup_are_off_below_1_and_mark_the_best_k_that_pays() -> None:
    drawn = figure(replications=0, draft_length="1:8", draft_cost="0.1:0.9:0.1", alpha="0.61")
    axes = drawn.axes[0]
    gains = np.array([[leviathan(0.61, k, c / 10) for c in range(1, 10)] for k in range(1, 9)])
    said = {tuple(map(round, text.get_position())): float(text.get_text()) for text in axes.texts}
    assert said == pytest.approx({(x, y): gains[y, x] for y, x in np.ndindex(gains.shape)}, abs=0.0051)
    hatched = {(round(p.get_x() + 0.5), round(p.get_y() + 0.5)) for p in axes.patches if p.get_hatch()}
    assert hatched == {(x, y) for y, x in np.ndindex(gains.shape) if gains[y, x] < 1}
    marks = {(round(x), round(y - 0.3)) for line in axes.lines for x, y in line.get_xydata()}
    assert marks == {(x, int(gains[:, x].argmax())) for x in range(9) if gains[:, x].max() > 1}
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert labels == ["off: below 1x", "best K"]
    assert axes.get_xlabel() == "draft cost (of a target pass)"
    assert axes.get_ylabel() == "draft length K (tokens)"
    # Marks stand clear of numbers, which are white where cells are dark; the legend follows upon the axis below.
    drawn.canvas.draw()
    marks_px = [axes.transData.transform(place) for line in axes.lines for place in line.get_xydata()]
    boxes = [text.get_window_extent().padded(4 * drawn.dpi / 100) for text in axes.texts]
    assert not any(box.contains(*place) for box in boxes for place in marks_px)
    below = axes.get_tightbbox().y0 - drawn.legends[0].get_window_extent().y1
    assert 0 <= below < 20
    bright = figure(replications=0, draft_length="4:7", draft_cost="0.01,0.02,0.03,0.5", alpha="0.95").axes[0].texts
    assert {text.get_color() for text in bright} == {"white", "black"}
    # A best K at the edge of what was looked at is another mark.
    edge = figure(replications=0, draft_length="1:4", draft_cost="0.01,0.02,0.03,0.04", alpha="0.9")
    assert [text.get_text() for text in edge.legends[0].get_texts()] == ["best K, the longest looked at"]


def test_a_picture_marks_the_draft_lengths_that_the_table_names() -> None:
    """Ranges of batch sizes, of a schedule that does not switch for a little; 0 is off."""
    sizes = np.arange(1, 41)
    of_grid = grid(batch="1:40", draft_length="1:4")
    gains = np.array([5 * (1 - 0.8 ** (k + 1)) / (1 + 0.1 * k + 0.02 * sizes * k) for k in range(1, 5)])
    columns = dict(of_grid.columns(np.arange(of_grid.points)))
    order = [of_grid.axes.index(name) for name in ("draft_length", "batch")]
    columns["closed_form_speedup"] = (gains if order == [0, 1] else gains.T).ravel()
    plan_of_table = ranges(np.vstack([np.ones(40), gains]), sizes)
    assert len(plan_of_table) > 2
    assert plan_of_table[-1].draft_length == 0
    named = {int(b): r.draft_length for r in plan_of_table for b in range(r.first, r.last + 1)}
    assert any(named[b] != g for b, g in zip(sizes, 1 + gains.argmax(0), strict=True) if named[b])
    drawn = draw(of_grid, columns, plan(of_grid, "surface"), "a test")
    marks = {(round(x), round(y)) for line in drawn.axes[0].lines for x, y in line.get_xydata()}
    assert {k for _, k in marks} == set(named.values()) - {0}
    assert all(named[b] == k for b, k in marks)
    assert "best K, of ranges" in [text.get_text() for text in drawn.legends[0].get_texts()]


def test_a_best_k_at_the_edge_of_curves_has_a_mark_of_its_own() -> None:
    for alpha, kind, places in (
        ("0.5,0.9", {"draft_length": "1:4", "draft_cost": "0.1"}, {(4, leviathan(0.9, 4, 0.1))}),
        (
            "0.9",
            {"draft_length": "1,4", "draft_cost": "0.05:0.85:0.1"},
            {(c, leviathan(0.9, 4, c)) for c in np.arange(0.05, 0.6, 0.1)},
        ),
        ("0.5", {"draft_length": "1:8", "draft_cost": "0.1"}, set()),
        ("0.9", {"draft_length": "4", "draft_cost": "0.1,0.2"}, set()),
    ):
        drawn = figure(replications=0, alpha=alpha, kind="curves", **kind)
        marks = [
            xy
            for line in drawn.axes[0].lines
            if line.get_marker() == "^" and line.get_markeredgecolor() == "black"
            for xy in line.get_xydata()
        ]
        assert np.sort(marks, 0) == pytest.approx(np.sort(sorted(places), 0))
        said = [text.get_text() for legend in drawn.legends for text in legend.get_texts()]
        assert said == ["best K, the longest looked at"] * bool(places)


def test_many_values_are_contours_with_break_even_where_it_is() -> None:
    axes = figure(replications=0, draft_length="1:8", draft_cost="0.1:0.9:0.02", alpha="0.6").axes[0]
    (line,) = [c for c in axes.collections if getattr(c, "levels", np.zeros(0)).tolist() == [1.0]]
    for path in line.get_paths():
        for c, k in path.vertices:
            # On the line 1 = tau(K) / (K c + 1) up to interpolation between whole K and the values of c.
            assert (1 - 0.6 ** (k + 1)) / 0.4 / (k * c + 1) == pytest.approx(1, abs=0.03)


def test_what_does_not_fit_is_hatched_has_no_number_and_no_best_k() -> None:
    task = sweep(0, draft_length="1:4", draft_cost="0.1:0.4:0.1")
    columns = run_sweep(task)
    columns["fits"] = (columns["draft_cost"] < 0.25).astype(np.int64)
    drawn = draw(task.grid, columns, plan(task.grid, "surface"), "a test")
    axes = drawn.axes[0]
    assert {round(p.get_x() + 0.5) for p in axes.patches if p.get_hatch() == "xxxx"} == {2, 3}
    assert {t.get_position()[0] for t in axes.texts if t.get_text() == "-"} == {2, 3}
    assert {round(x) for line in axes.lines for x in line.get_xdata()} == {0, 1}
    assert "does not fit into memory" in [text.get_text() for text in drawn.legends[0].get_texts()]


def test_curves_end_where_nothing_fits_and_marks_of_many_sizes_do_not_lie_upon_each_other() -> None:
    task = sweep(0, total="1,8,64,512", alpha="0.5,0.7")
    columns = run_sweep(task)
    columns["fits"] = (columns["total"] < 100).astype(np.int64)
    axes = draw(task.grid, columns, plan(task.grid, "curves"), "a test").axes[0]
    (end,) = [p for p in axes.patches if p.get_hatch() == "xxxx"]
    (low, _), (high, _) = axes.transData.inverted().transform(end.get_window_extent())
    assert 64 < low < 512 < high
    assert "does not fit into memory" in [text.get_text() for text in axes.texts]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["0.5", "0.7"]
    columns["fits"] = (columns["alpha"] < 0.6).astype(np.int64)
    axes = draw(task.grid, columns, plan(task.grid, "curves"), "a test").axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["0.5", "0.7: does not fit into memory"]
    # Marks of the best K, at every draft length that is the best somewhere.
    axes = figure(replications=0, draft_length="1:8", draft_cost="0.02:0.6:0.001", alpha="0.73").axes[0]
    places = np.concatenate([line.get_xydata() for line in axes.lines])
    best = {1 + int(np.argmax([leviathan(0.73, k, c) for k in range(1, 9)])) for c in np.arange(0.02, 0.6, 0.001)}
    assert set(places[:, 1].astype(int)) == best
    apart = np.abs(np.diff(axes.transData.transform(places[np.argsort(places[:, 0])]), axis=0)).max(1)
    assert apart.min() > 8


def test_no_contour_label_is_cut_by_the_frame(tmp_path: Path) -> None:
    axes = figure(replications=0, draft_length="1:8", draft_cost="0.02:0.6:0.02", alpha="0.73").axes[0]
    frame = axes.get_window_extent()
    for text in axes.texts:
        box = text.get_window_extent()
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1
    # A flat surface, without contours, can be drawn too.
    save_figure(tmp_path / "flat.png", figure(replications=0, workmem="1:4", mem_scale_ms="1:4", draft_cost="0.1"))
    assert (tmp_path / "flat.png").stat().st_size > 0


def test_sizes_double_from_tick_to_tick_in_plain_figures() -> None:
    axes = figure(total="1,10,100,1000", draft_length="1:4", kind="curves").axes[0]
    assert (axes.get_xscale(), axes.get_xlabel()) == ("linear", "draft length K (tokens)")
    axes = figure(total="1,10,100,1000,10000", draft_length="4", replications=0).axes[0]
    assert axes.get_xscale() == "log"
    axes.figure.canvas.draw()
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert labels[:4] == ["1", "2", "4", "8"]
    assert labels[-1] == "8,192"


def test_curves_carry_a_band_only_where_something_is_not_known() -> None:
    task = sweep(0, draft_length="1:4", alpha="0.5,0.9")
    columns, layout = run_sweep(task), plan(task.grid, "auto")
    gains = columns["closed_form_speedup"]
    known, unsure = (
        draw(task.grid, columns, layout, "a test", ends).axes[0] for ends in (None, (gains - 0.1, gains + 0.1))
    )
    assert len(known.collections) == 0
    assert len(unsure.collections) == 2
    for band, line in zip(unsure.collections, unsure.lines, strict=False):
        heights = band.get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == pytest.approx(
            (line.get_ydata().min() - 0.1, line.get_ydata().max() + 0.1)
        )


def test_panels_share_one_colour_scale_and_hide_what_is_unused() -> None:
    drawn = figure(**SHAPES["multiples"])
    panels = [a for a in drawn.axes if a.get_title()]
    assert [p.get_title() for p in panels] == ["α = 0.2", "α = 0.5", "α = 0.8", "α = 0.85", "α = 0.9"]
    assert sum(not a.get_visible() for a in drawn.axes) == 3
    assert {(a.collections[0].norm.vmin, a.collections[0].norm.vcenter) for a in panels} == {(1 / 3, 1)}
