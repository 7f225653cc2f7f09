"""The picture of a measurement: what a round accepts, how far drafts survive, and where single tokens are accepted.

White background, marks that differ in shape so that they read in grey, axes labelled with what they mean.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from acceptance.trace.trace import Q_KINDS, Trace
from simulator.ground.pictures import PALETTE, new_figure

from .estimators import MIN_PROMPTS, Estimate, RoundCounts, alpha_by, bins_of, metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_ROWS = 16
MAX_NAME = 28
MAX_MARKERS = 24
MAX_LINE = 105
BLUE = PALETTE[0]
LIGHT = "#8FC1E3"
TITLE: dict[str, Any] = {"fontsize": 10.5}
POINT: dict[str, Any] = {"color": BLUE, "marker": "o", "markersize": 5}
SPAN: dict[str, Any] = {"colors": BLUE, "linewidth": 2.2}
IID: dict[str, Any] = {
    "color": "black",
    "linestyle": "--",
    "linewidth": 1.2,
    "marker": "s",
    "markersize": 7,
    "markerfacecolor": "white",
}
OVERALL: dict[str, Any] = {"color": "#595959", "linestyle": ":", "linewidth": 1.8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number of a panel, and what it is of."""

    label: str
    estimate: Estimate


def acceptance_figure(
    trace: Trace, rounds: RoundCounts, *, q_kind: str, title: str, note: str = "", seed: int = 0
) -> "Figure":
    """Return the picture of a measurement in four panels.

    Args:
        trace: What was measured.
        rounds: Its expected rounds of one draft length, the largest measured.
        q_kind: "sampled" or "greedy" draft; of which the panels speak.
        title: What was measured, for the reader of the picture.
        note: What the reader must know, such as that the numbers are an approximation; stands below the title.
        seed: Of the bootstrap; that of the records gives their intervals.
    """
    lines = [line for text in (title, note) for line in textwrap.wrap(text, MAX_LINE)]
    found: Any = metrics(trace, rounds, q_kind, seed)
    (overall, _), *_ = alpha_by(np.zeros(trace.size, np.int64), trace, q_kind, np.random.default_rng(seed)).values()
    # A dollar sign in a model's or category's name is no formula.
    with new_figure(11, 8 + 0.2 * len(lines), pads_in=0.1, parse_math=False) as figure:
        (histogram, survival), (groups, positions) = figure.subplots(2, 2)
        draw_histogram(histogram, rounds, found)
        draw_survival(survival, found)
        draw_groups(groups, trace, q_kind, overall, seed)
        draw_positions(positions, trace, q_kind, overall, seed)
        handles = legend_handles(
            found["alpha_iid"], rounds.draft_length, intervals=trace.measured_prompts >= MIN_PROMPTS
        )
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        figure.suptitle("\n".join(lines), fontsize=11.5)
    return figure


def iid_survival(alpha: float, k: int) -> NDArray[np.float64]:
    """Return P(A >= j), j = 0..k, where each draft is accepted with probability alpha whatever came before."""
    return np.asarray(alpha ** np.arange(k + 1), np.float64)


def draw_histogram(axes: "Axes", rounds: RoundCounts, found: Any) -> None:
    """Bars of P(A = a), and the i.i.d. law of the same tokens per round."""
    k, histogram = rounds.draft_length, rounds.histogram
    accepted = np.arange(k + 1)
    axes.bar(accepted, histogram.law, width=0.8, color=LIGHT, edgecolor=BLUE, linewidth=1.0 if k <= MAX_MARKERS else 0)
    law = -np.diff(iid_survival(found["alpha_iid"], k), append=0.0)
    axes.plot(accepted, law, clip_on=False, **thinned(IID, k))
    axes.set_ylim(0, 1.08 * max(histogram.law.max(), law.max()))
    axes.set_xlim(-0.6, k + 0.6)
    whole_ticks(axes, 0, k)
    axes.grid(False, axis="x")
    tokens = f"{found['tokens_per_round']:.2f} tokens per round{span_text(found['ci95']['tokens_per_round'])}"
    axes.set_title(f"Accepted drafts per round at K = {k}\n{tokens}", **TITLE)
    axes.set_xlabel(f"A: accepted of {k} drafted {plural('token', k)} ({histogram.samples:,.0f} rounds expected)")
    axes.set_ylabel("share of rounds")


def draw_survival(axes: "Axes", found: Any) -> None:
    """P(A >= j) with intervals, and alpha^j of the i.i.d. law."""
    survival, ends = found["survival"], found["ci95"]["survival"]
    k = len(survival)
    place = np.arange(1, k + 1)
    axes.plot(place, iid_survival(found["alpha_iid"], k)[1:], **thinned(IID, k))
    axes.plot(place, survival, linewidth=1.4, **thinned(POINT, k))
    axes.vlines(*drawn_spans(ends, first=1), **SPAN)
    unit_axis(axes, "y")
    axes.set_xlim(0.5, k + 0.5)
    whole_ticks(axes, 1, k)
    axes.set_title("Survival by position in the draft\nP(A ≥ j): the first j drafts are all accepted", **TITLE)
    axes.set_xlabel("position j in the draft (tokens)")
    axes.set_ylabel("probability")


def draw_groups(axes: "Axes", trace: Trace, q_kind: str, overall: Estimate, seed: int) -> None:
    """Alpha by category; where there is one or none, by kind of draft and by context length."""
    rows = category_rows(trace, q_kind, seed)
    if len(rows) > 1:
        heading, below, label = "Acceptance by category", "highest first", alpha_label(f"{q_kind} draft")
        if len(rows) > MAX_ROWS:
            half = MAX_ROWS // 2
            below = f"{half} highest and {half} lowest of {len(rows)}"
            rows = [*rows[:half], *rows[-half:]]
            axes.axhline(half - 0.5, color="black", linewidth=0.8)
        below += "; in brackets: prompts"
    else:
        rows = [*kind_rows(trace, seed), *context_rows(trace, q_kind, seed)]
        heading, below = (
            "Acceptance by kind of draft and by context",
            "context: number of tokens before the drafted one",
        )
        label = alpha_label("drafted token")
    draw_rows(axes, rows, overall)
    axes.set_title(f"{heading}\n{below}", **TITLE)
    axes.set_xlabel(label)


def draw_rows(axes: "Axes", rows: Sequence[Row], overall: Estimate) -> None:
    """Points and intervals along x, the first row on top, each number written at the right."""
    heights = range(len(rows))
    axes.axvline(overall.value, **OVERALL)
    axes.plot([r.estimate.value for r in rows], heights, linestyle="none", **POINT)
    axes.hlines(*drawn_spans([r.estimate.ci95 for r in rows]), **SPAN)
    size = 9 if len(rows) <= 12 else 8
    for height, row in zip(heights, rows, strict=True):
        beside = axes.get_yaxis_transform()
        axes.text(1.015, height, f"{row.estimate.value:.2f}", transform=beside, va="center", fontsize=size)
    axes.set_yticks(heights, [r.label for r in rows], fontsize=size)
    # A single row stands in the middle, not in the whole height.
    room = max(0.6, (3 - len(rows)) / 2)
    axes.set_ylim(len(rows) - 1 + room, -room)
    unit_axis(axes, "x")


def draw_positions(axes: "Axes", trace: Trace, q_kind: str, overall: Estimate, seed: int) -> None:
    """Alpha along the output, by bins that double."""
    rows = position_rows(trace, q_kind, seed)
    place = range(len(rows))
    axes.axhline(overall.value, **OVERALL)
    axes.plot(place, [r.estimate.value for r in rows], linewidth=1.4, **POINT)
    axes.vlines(*drawn_spans([r.estimate.ci95 for r in rows]), **SPAN)
    slanted = max(len(r.label) for r in rows) > 7
    turn: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(place, [r.label for r in rows], fontsize=9, **turn)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    unit_axis(axes, "y")
    axes.set_title("Acceptance along the output\nby bins that double in width", **TITLE)
    axes.set_xlabel("position in the output (tokens, the first is 1)")
    axes.set_ylabel(alpha_label(f"{q_kind} draft"))


def category_rows(trace: Trace, q_kind: str, seed: int) -> list[Row]:
    """Return alpha of each category, the highest first, with its prompts; those without one are a category too."""
    found = alpha_by(trace.category, trace, q_kind, np.random.default_rng(seed))
    of_prompts = [trace.prompts[p].category for p in np.unique(trace.prompt)]
    ordered = sorted(found.items(), key=lambda item: (-item[1][0].value, str(item[0])))
    return [
        Row(label=f"{shortened(str(name)) or '(none)'} ({of_prompts.count(str(name))})", estimate=estimate)
        for name, (estimate, _) in ordered
    ]


def kind_rows(trace: Trace, seed: int) -> list[Row]:
    """Return alpha of both kinds of draft."""
    everything = np.zeros(trace.size, np.int64)
    found = {kind: alpha_by(everything, trace, kind, np.random.default_rng(seed)) for kind in Q_KINDS}
    return [Row(label=f"{kind} draft", estimate=groups[0][0]) for kind, groups in found.items()]


def context_rows(trace: Trace, q_kind: str, seed: int) -> list[Row]:
    """Return alpha by bins of the context length."""
    rows = binned_rows(trace.context_length, trace, q_kind, seed)
    return [Row(label=f"{q_kind}, context {r.label}", estimate=r.estimate) for r in rows]


def position_rows(trace: Trace, q_kind: str, seed: int) -> list[Row]:
    """Return alpha by bins of the position in the output, the first being 1."""
    return binned_rows(trace.position, trace, q_kind, seed, first=1)


def binned_rows(values: NDArray[np.int32], trace: Trace, q_kind: str, seed: int, first: int = 0) -> list[Row]:
    """Return alpha by bins of a whole number, labelled with the least and the largest value found in each.

    Args:
        values: What is binned, [positions].
        trace: What was measured.
        q_kind: "sampled" or "greedy" draft.
        seed: Of the bootstrap.
        first: What the labels call 0.
    """
    bins = bins_of(values)
    rows = []
    for edge, (estimate, _) in alpha_by(bins, trace, q_kind, np.random.default_rng(seed)).items():
        inside = values[bins == edge]
        low, high = int(inside.min()) + first, int(inside.max()) + first
        rows.append(Row(label=f"{low}" if low == high else f"{low}-{high}", estimate=estimate))
    return rows


def shortened(name: str) -> str:
    """Return a name that fits beside a panel: where it is long, its beginning and its end."""
    name = " ".join(name.split())
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 12].rstrip()}…{name[-11:].lstrip()}"


def plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def alpha_label(drafted: str) -> str:
    return f"α = P(a {drafted} is accepted)"


def span_text(span: list[float] | None) -> str:
    """Say an interval; nothing where there is none."""
    return "" if span is None else f" (95 %: {span[0]:.2f} to {span[1]:.2f})"


def drawn_spans(spans: Sequence[list[float] | None], first: int = 0) -> tuple[list[int], list[float], list[float]]:
    """Return place, lower and upper end of the intervals that there are; places count from `first`."""
    there = [(place, span[0], span[1]) for place, span in enumerate(spans, first) if span is not None]
    return [place for place, _, _ in there], [low for _, low, _ in there], [high for _, _, high in there]


def thinned(style: dict[str, Any], k: int) -> dict[str, Any]:
    """Return a style without markers where they would run into each other."""
    return style if k <= MAX_MARKERS else style | {"marker": ""}


def whole_ticks(axes: "Axes", low: int, high: int) -> None:
    """Put ticks on whole numbers, all of them where they fit."""
    from matplotlib.ticker import MaxNLocator

    ticks = np.arange(low, high + 1)
    if len(ticks) > 17:
        ticks = np.intersect1d(ticks, MaxNLocator(integer=True).tick_values(low, high))
    axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])


def unit_axis(axes: "Axes", which: str) -> None:
    """Show all of 0..1, so that panels compare."""
    getattr(axes, f"set_{which}lim")(-0.03, 1.03)
    getattr(axes, f"set_{which}ticks")(np.arange(6) / 5)


def legend_handles(alpha: float, k: int, *, intervals: bool) -> list[Any]:
    """Return what the marks of all panels mean."""
    from matplotlib.lines import Line2D

    measured = Line2D([], [], label="measured", linewidth=1.4, **POINT)
    law = f"i.i.d. law of the same tokens per round: each draft accepted with P = {alpha:.2f}"
    iid = Line2D([], [], label=law, **thinned(IID, k))
    if intervals:
        spans = Line2D([], [], color=BLUE, linewidth=2.2, label="95 % interval (bootstrap over prompts)")
    else:
        spans = Line2D([], [], linestyle="none", label="too few prompts for intervals")
    return [measured, spans, iid, Line2D([], [], label="α of all tokens", **OVERALL)]
