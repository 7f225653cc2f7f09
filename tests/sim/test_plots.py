"""Plots: what goes on which axis, and that the files are pictures of the right kind and always the same."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simulator.answers.plots import Layout, draw, plan
from simulator.ground.artefacts import UserError
from simulator.ground.pictures import save_figure
from simulator.rounds.grid import Acceptance, Sweep, run_sweep

from .builders import grid

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
    points = grid(**values)
    task = Sweep(grid=points, acceptance=Acceptance(), overlap=False, replications=replications, seed=0)
    return draw(points, run_sweep(task), plan(points, kind), "a test")


SHAPES = {
    "curves": {"draft_length": "1:4", "alpha": "0.5,0.9"},
    "surface": {"draft_length": "1:4", "draft_cost": "0.1:0.9:0.1"},
    "multiples": {"draft_length": "1:4", "draft_cost": "0.1:0.9:0.1", "alpha": "0.2,0.5,0.8,0.85,0.9"},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_plot_is_a_picture_on_white_and_the_same_every_time(tmp_path: Path, kind: str) -> None:
    shape = SHAPES[kind] | ({"alpha": "0.2,0.8"} if kind == "multiples" else {})
    for suffix in (".svg", ".png"):
        for name in ("first", "second"):
            save_figure(tmp_path / f"{name}{suffix}", figure(kind, **shape))
        first = (tmp_path / f"first{suffix}").read_bytes()
        assert first == (tmp_path / f"second{suffix}").read_bytes()
        assert b"<svg" in first or suffix == ".png"
    pixels = np.asarray(Image.open(io.BytesIO(first)).convert("RGB"))
    assert min(pixels.shape[:2]) > 400
    assert (pixels[0] == 255).all()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_the_surface_draws_break_even_where_it_is_and_the_best_k_at_every_x() -> None:
    drawn = figure(replications=0, draft_length="1:8", draft_cost="0.1:0.9:0.1", alpha="0.6")
    axes = drawn.axes[0]
    (ridge,) = axes.lines
    for c, k in zip(ridge.get_xdata(), ridge.get_ydata(), strict=True):
        gains = [sum(0.6**i for i in range(n + 1)) / (n * c + 1) for n in range(1, 9)]
        assert k == 1 + int(np.argmax(gains))
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert labels == ["break-even (1x)", "best K (closed form)"]
    assert axes.get_xlabel() == "draft cost (of a target pass)"
    assert axes.get_ylabel() == "draft length K (tokens)"
    lines = [c for c in axes.collections if c.levels.tolist() == [1.0]]
    assert len(lines) == 2
    for path in lines[0].get_paths():
        for c, k in path.vertices:
            # On the line 1 = tau(K) / (K c + 1) up to interpolation between whole K and the values of c.
            tau = (1 - 0.6 ** (k + 1)) / 0.4
            assert tau / (k * c + 1) == pytest.approx(1, abs=0.03)


def test_no_contour_label_is_cut_by_the_frame(tmp_path: Path) -> None:
    axes = figure(replications=0, draft_length="1:8", draft_cost="0.02:0.5:0.02", alpha="0.73").axes[0]
    frame = axes.get_window_extent()
    for text in axes.texts:
        box = text.get_window_extent()
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1
    # A flat surface, without contours, can be drawn too.
    save_figure(tmp_path / "flat.png", figure(replications=0, workmem="1:4", mem_scale_ms="1:4", draft_cost="0.1"))
    assert (tmp_path / "flat.png").stat().st_size > 0


def test_values_over_decades_get_a_logarithmic_axis() -> None:
    axes = figure(total="1,10,100,1000", draft_length="1:4", kind="curves").axes[0]
    assert (axes.get_xscale(), axes.get_xlabel()) == ("linear", "draft length K (tokens)")
    axes = figure(total="1,10,100,1000,10000", draft_length="1:4", replications=0).axes[0]
    assert axes.get_xscale() == "log"


def test_curves_carry_a_band_only_where_there_was_simulation() -> None:
    simulated, exact = (figure(replications=r, draft_length="1:4", alpha="0.5,0.9").axes[0] for r in (4, 0))
    assert len(simulated.collections) == 2
    assert len(exact.collections) == 0
    for band in simulated.collections:
        heights = band.get_paths()[0].vertices[:, 1]
        assert np.ptp(heights[: len(heights) // 2] - heights[: len(heights) // 2].mean()) > 0
        assert band.get_datalim(simulated.transData).height > 0.05


def test_panels_share_one_colour_scale_and_hide_what_is_unused() -> None:
    drawn = figure(**SHAPES["multiples"])
    panels = [a for a in drawn.axes if a.get_title()]
    assert [p.get_title() for p in panels] == ["α = 0.2", "α = 0.5", "α = 0.8", "α = 0.85", "α = 0.9"]
    assert sum(not a.get_visible() for a in drawn.axes) == 3
    assert len({tuple(a.collections[0].levels.tolist()) for a in panels}) == 1
