"""The picture of a measurement: what is drawn is what was measured, at every shape a trace can have."""

import io
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from acceptance.estimate.analysis import analyse
from acceptance.estimate.estimators import alpha_by, alpha_estimates, category_metrics, expected_rounds, metrics
from acceptance.estimate.plots import acceptance_figure
from acceptance.trace.trace import Trace
from simulator.ground.artefacts import UserError
from simulator.ground.histogram import tokens_per_round_iid
from simulator.ground.pictures import check_format, save_figure

from .traces import make_trace

UNKNOWN = ("log_p", "max_q", "entropy_p", "entropy_q", "overlap", "p_argmax_q")
LONG = [f"category {i} with a very long name_that_nobody_can_break {'x' * i}" for i in range(13)]


def trace_of(outputs: list[np.ndarray], categories: list[str], context: int = 30) -> Trace:
    """A trace of one output a prompt, of a draft about which nothing else is known."""
    unknown = dict.fromkeys(UNKNOWN, np.full(sum(map(len, outputs)), np.nan))
    lengths = np.concatenate([np.arange(len(o)) + context for o in outputs])
    return make_trace(outputs, categories=categories, context_length=lengths, **unknown)


def random_trace(categories: list[str], tokens: int = 40, seed: int = 0) -> Trace:
    rng = np.random.default_rng(seed)
    outputs = [rng.beta(a, 2, tokens) for a in rng.uniform(1, 8, len(categories))]
    return trace_of(outputs, categories)


def drawn(trace: Trace, k: int = 4, q_kind: str = "sampled", **options: Any):
    seed = options.get("seed", 0)
    analysis = analyse(trace, [k], temperature=0, q_kind=q_kind, seed=seed, with_policies=False)
    return acceptance_figure(trace, analysis, q_kind=q_kind, **{"title": "target with draft"} | options)


def spans(axes: Any, along: int) -> dict[float, tuple[float, float]]:
    """Intervals that are drawn: their ends by where they stand; `along` is 1 for vertical ones, 0 for horizontal."""
    (lines,) = axes.collections
    return {s[0, 1 - along]: (s[0, along], s[1, along]) for s in lines.get_segments()}


@pytest.mark.parametrize("q_kind", ["sampled", "greedy"])
def test_bars_and_survival_are_the_law_beside_the_iid_law_of_the_same_tokens_per_round(q_kind: str) -> None:
    trace = random_trace(["a", "b"] * 4)
    rounds = expected_rounds(trace, 5, q_kind)
    intervals = metrics(rounds, alpha_estimates(trace, np.random.default_rng(0))[q_kind])["ci95"]
    bars, curves, *_ = drawn(trace, 5, q_kind).axes
    counts = rounds.counts.sum(0)
    assert [b.get_height() for b in bars.patches] == pytest.approx(counts / counts.sum())
    assert [b.get_x() + b.get_width() / 2 for b in bars.patches] == pytest.approx(range(6))
    (iid,) = bars.lines
    law = iid.get_ydata()
    tau = 1 + counts @ np.arange(6) / counts.sum()
    assert law.sum() == pytest.approx(1)
    assert 1 + law @ np.arange(6) == pytest.approx(tau)
    # Geometric up to the last bucket, which holds all that got through.
    alpha = law[1] / law[0]
    assert tokens_per_round_iid(alpha, 5) == pytest.approx(tau)
    assert law[:5] == pytest.approx((1 - alpha) * alpha ** np.arange(5))
    low, high = intervals["tokens_per_round"]
    assert f"K = 5\n{tau:.2f} tokens per round (95 %: {low:.2f} to {high:.2f})" in bars.get_title()
    assert bars.get_xlabel() == f"A: accepted of 5 drafted tokens ({counts.sum():,.0f} rounds expected)"
    iid, survival = curves.lines
    expected = [counts[j:].sum() / counts.sum() for j in range(1, 6)]
    assert survival.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert survival.get_ydata() == pytest.approx(expected)
    assert iid.get_ydata() == pytest.approx(alpha ** np.arange(1, 6))
    ends = spans(curves, along=1)
    assert ends == {j: pytest.approx(e) for j, e in enumerate(intervals["survival"], 1)}
    assert all(low < value < high for (low, high), value in zip(ends.values(), expected, strict=True))
    # The seed is that of the bootstrap.
    assert ends != spans(drawn(trace, 5, q_kind, seed=4).axes[1], along=1)


def test_categories_are_sorted_with_their_prompts_intervals_and_numbers() -> None:
    outputs = [np.full(9, a) for a in (0.2, 0.3, 0.2, 0.3, 0.9, 0.8, 0.9, 0.8, 0.5, 0.55, 0.6)]
    trace = trace_of(outputs, ["low"] * 4 + ["high"] * 4 + [""] * 3)
    axes = drawn(trace, title="x").axes[2]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["high (4)", "(none) (3)", "low (4)"]
    overall, points = axes.lines
    assert points.get_xdata() == pytest.approx([0.85, 0.55, 0.25])
    assert points.get_ydata() == pytest.approx([0, 1, 2])
    assert axes.yaxis_inverted()
    assert overall.get_xdata() == pytest.approx([np.mean([o.mean() for o in outputs])] * 2)
    assert [t.get_text() for t in axes.texts] == ["0.85", "0.55", "0.25"]
    rounds = expected_rounds(trace, 4, "sampled")
    recorded = category_metrics(trace, rounds, "sampled")
    ends = spans(axes, along=0)
    assert ends[0] == pytest.approx(recorded["high"]["alpha"].ci95)
    assert ends[2] == pytest.approx(recorded["low"]["alpha"].ci95)
    assert 0.1 < ends[2][0] < 0.2 < 0.3 < ends[2][1] < 0.42
    assert axes.get_xlabel() == "α = P(a sampled draft is accepted)"


@pytest.mark.parametrize("category", ["", "all the same"])
def test_without_categories_both_kinds_of_draft_and_the_context_take_their_place(category: str) -> None:
    outputs = [np.array([0.9, 0.6, 0.1, 0.4] * 10), np.array([0.9, 0.8, 0.2, 0.7] * 10)] * 2
    axes = drawn(trace_of(outputs, [category] * 4, context=30)).axes[2]
    contexts = [f"sampled, context {ends}" for ends in ("30-31", "32-63", "64-69")]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["sampled draft", "greedy draft", *contexts]
    joined = np.stack(outputs)
    expected = [part.mean() for part in (joined, joined > 0.5, joined[:, :2], joined[:, 2:34], joined[:, 34:])]
    assert axes.lines[1].get_xdata() == pytest.approx(expected)
    assert set(spans(axes, along=0)) == set(range(5))
    assert "kind of draft" in axes.get_title()


def test_acceptance_along_the_output_is_by_bins_that_say_what_is_in_them() -> None:
    trace = random_trace(["a", "b"] * 3, tokens=21)
    axes = drawn(trace).axes[3]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "3-4", "5-8", "9-16", "17-21"]
    edges = [0, 1, 2, 4, 8, 16, 21]
    accept = trace.accept_sampled.reshape(6, 21)
    expected = [accept[:, a:b].mean() for a, b in pairwise(edges)]
    assert axes.lines[1].get_ydata() == pytest.approx(expected)
    assert len(spans(axes, along=1)) == 6
    groups = np.searchsorted(edges, trace.position, side="right")
    found = alpha_by(groups, trace, "sampled", np.random.default_rng(0))
    assert list(spans(axes, along=1).values()) == [pytest.approx(e.ci95) for e, _ in found.values()]


def test_every_panel_says_what_it_shows() -> None:
    figure = drawn(random_trace(["a", "b"] * 2), q_kind="greedy", note="approximation: by strings")
    assert all(axes.get_title() and axes.get_xlabel() for axes in figure.axes)
    labels = ["share of rounds", "probability", "", "α = P(a greedy draft is accepted)"]
    assert [a.get_ylabel() for a in figure.axes] == labels
    assert figure.get_suptitle() == "target with draft\napproximation: by strings"
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert labels[:2] == ["measured", "95 % interval (bootstrap over prompts)"]
    assert re.fullmatch(r"i\.i\.d\. law of the same tokens per round: .* P = \d\.\d\d", labels[2])
    assert labels[3] == "α of all tokens"


def test_few_prompts_have_no_intervals_and_the_picture_says_so() -> None:
    for prompts in (1, 3):
        figure = drawn(random_trace([""] * prompts))
        assert all(not c.get_segments() for axes in figure.axes for c in axes.collections)
        assert "95 %" not in figure.axes[0].get_title()
        assert "too few prompts for intervals" in [t.get_text() for t in figure.legends[0].get_texts()]
    # A category of few prompts has none beside others that do.
    trace = trace_of([np.full(9, a) for a in (0.2, 0.3, 0.4, 0.1, 0.9)], ["more"] * 4 + ["one"])
    assert set(spans(drawn(trace).axes[2], along=0)) == {1}


def test_of_many_categories_the_extremes_are_shown() -> None:
    trace = trace_of([np.full(9, i / 40) for i in range(40)], [f"c{i}" for i in range(40)])
    axes = drawn(trace).axes[2]
    expected = [f"c{i} (1)" for i in (*range(39, 31, -1), *range(7, -1, -1))]
    assert [t.get_text() for t in axes.get_yticklabels()] == expected
    assert "8 highest and 8 lowest of 40" in axes.get_title()


SHAPES = {
    "one category, K = 1": (random_trace(["a"] * 3), 1, {}),
    "three categories, K = 16": (random_trace(["a", "b", "c"] * 4), 16, {}),
    "13 long categories": (random_trace(LONG * 2), 4, {"title": "long/name " * 30, "note": "approximation " * 12}),
    "one prompt": (random_trace(["a"]), 4, {"note": "approximation: string-level match"}),
    "one token": (trace_of([np.array([0.5])], [""]), 1, {}),
    "short outputs": (trace_of([np.array([0.5]), np.array([0.2, 0.9])], ["a", "b"]), 2, {}),
    "nothing accepted": (trace_of([np.zeros(9)] * 3, ["a", "b", "c"]), 4, {}),
    "all accepted": (trace_of([np.ones(9)] * 3, ["a", "b", "c"]), 4, {}),
    "long outputs, K = 40": (random_trace(["a", "b"], tokens=5000), 40, {}),
}


def boxes(figure: Any) -> list[tuple[str, Any]]:
    """Text of a drawn figure, and the pixels each covers."""
    from matplotlib.text import Text

    renderer = figure.canvas.get_renderer()
    texts = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
    # Slanted labels overlap as boxes without touching.
    return [(t.get_text(), t.get_window_extent(renderer)) for t in texts if t.get_rotation() in (0, 90)]


@pytest.mark.parametrize("shape", SHAPES)
def test_no_text_runs_into_another_or_out_of_the_picture(shape: str) -> None:
    trace, k, options = SHAPES[shape]
    figure = drawn(trace, k, **options)
    figure.canvas.draw()
    found = boxes(figure)
    assert len(found) > 30
    for i, (text, box) in enumerate(found):
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, text
        for other, theirs in found[:i]:
            width = min(box.x1, theirs.x1) - max(box.x0, theirs.x0)
            height = min(box.y1, theirs.y1) - max(box.y0, theirs.y0)
            assert min(width, height) <= 0.5, (text, other)


@pytest.mark.parametrize(("shape", "suffix"), [("three categories, K = 16", ".png"), ("one token", ".svg")])
def test_a_picture_is_on_white_and_the_same_every_time(tmp_path: Path, shape: str, suffix: str) -> None:
    trace, k, options = SHAPES[shape]
    paths = [tmp_path / f"{i}{suffix}" for i in range(2)]
    for path in paths:
        save_figure(path, drawn(trace, k, **options))
    first, second = (p.read_bytes() for p in paths)
    assert first == second
    if suffix == ".svg":
        assert b"<svg" in first
        return
    pixels = np.asarray(Image.open(io.BytesIO(first)).convert("RGB"))
    assert min(pixels.shape[:2]) > 1000
    assert (pixels[0] == 255).all()
    assert len(np.unique(pixels @ np.array([65536, 256, 1]))) > 20


def test_names_are_no_formulas_and_may_hold_any_character(tmp_path: Path) -> None:
    trace = random_trace(["$x^{", "数学", "two\nlines", "b" * 30 + "the end"])
    figure = drawn(trace, title="a$b_{c$d", note="$\\nothing$")
    save_figure(tmp_path / "names.png", figure)
    labels = {t.get_text() for t in figure.axes[2].get_yticklabels()}
    # A long name keeps both ends.
    assert labels == {"$x^{ (1)", "bbbbbbbbbbbbbbbb…bbbbthe end (1)", "two lines (1)", "数学 (1)"}
    assert (tmp_path / "names.png").stat().st_size > 0


def test_another_suffix_is_refused() -> None:
    for name in ("picture.pdf", "picture", "picture.PNG", ".png"):
        with pytest.raises(UserError, match=r"^--plot .*: suffix '.*', expected \.png or \.svg$") as error:
            check_format(Path(name))
        assert f"--plot {name}: suffix {Path(name).suffix!r}" in str(error.value)
    for path in (None, Path("a.png"), Path("folder.pdf/a.b.svg")):
        check_format(path)


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_figure(tmp_path / "file" / "a.png", drawn(random_trace(["a"])))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
