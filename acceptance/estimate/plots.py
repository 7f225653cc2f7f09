"""The picture of a measurement: what a round accepts, how far drafts survive, and where single tokens are accepted.

White background, marks that differ in shape so that they read in grey, axes labelled with what they mean.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from acceptance.trace.trace import Q_KINDS, Trace
from simulator.ground.pictures import PALETTE, TITLE_SIZE, new_figure, set_title

from .analysis import Analysis
from .estimators import MIN_PROMPTS, Estimate, RoundCounts, alpha_by, bins_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_ROWS = 16
MAX_NAME = 28
MAX_MARKERS = 24
BLUE = PALETTE[0]
LIGHT = "#8FC1E3"
TITLE: dict[str, Any] = {"fontsize": TITLE_SIZE}
POINT: dict[str, Any] = {"color": BLUE, "marker": "o", "markersize": 5}
SPAN: dict[str, Any] = {"colors": BLUE, "linewidth": 2.2}
IID: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1.2}
IID |= {"marker": "s", "markersize": 7, "markerfacecolor": "white"}
# A number of a panel: what it is of, and the number.
Row = tuple[str, Estimate]
OVERALL: dict[str, Any] = {"color": "#595959", "linestyle": ":", "linewidth": 1.8}


def acceptance_figure(
    trace: Trace, analysis: Analysis, *, q_kind: str, title: str, note: str = "", seed: int = 0
) -> "Figure":
    """Return the picture of a measurement in four panels; the longest draft length of the analysis is drawn.

    title: what was measured, for the reader of the picture; note: what the reader must know, such as that the numbers
    are an approximation. seed: of the bootstrap of groups; that of the records gives their intervals.
    """
    k, overall = analysis.longest, analysis.alpha[q_kind].value
    metrics = analysis.metrics[k]
    # A dollar sign in a model's or category's name is no formula.
    with new_figure(11, 8.4, pads_in=0.1, parse_math=False) as figure:
        (histogram, survival), (groups, positions) = figure.subplots(2, 2)
        draw_histogram(histogram, analysis.rounds[k], metrics)
        draw_survival(survival, metrics)
        draw_groups(groups, trace, q_kind, overall, seed)
        draw_positions(positions, trace, q_kind, overall, seed)
        handles = legend_handles(metrics["alpha_iid"], k, intervals=trace.measured_prompts >= MIN_PROMPTS)
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        set_title(figure, title, note)
    return figure


def iid_survival(alpha: float, k: int) -> NDArray[np.float64]:
    """Return P(A >= j), j = 0..k, where each draft is accepted with probability alpha whatever came before."""
    return np.asarray(alpha ** np.arange(k + 1), np.float64)


def draw_histogram(axes: "Axes", rounds: RoundCounts, metrics: Any) -> None:
    """Bars of P(A = a), and the i.i.d. law of the same tokens per round."""
    k, histogram = rounds.draft_length, rounds.histogram
    accepted = np.arange(k + 1)
    axes.bar(accepted, histogram.law, width=0.8, color=LIGHT, edgecolor=BLUE, linewidth=1.0 if k <= MAX_MARKERS else 0)
    law = -np.diff(iid_survival(metrics["alpha_iid"], k), append=0.0)
    axes.plot(accepted, law, clip_on=False, **thinned(IID, k))
    axes.set_ylim(0, 1.08 * max(histogram.law.max(), law.max()))
    axes.set_xlim(-0.6, k + 0.6)
    whole_ticks(axes, 0, k)
    axes.grid(False, axis="x")
    tokens = f"{metrics['tokens_per_round']:.2f} tokens per round{span_text(metrics['ci95']['tokens_per_round'])}"
    axes.set_title(f"Accepted drafts per round at K = {k}\n{tokens}", **TITLE)
    axes.set_xlabel(
        f"A: accepted of {k} drafted {'token' if k == 1 else 'tokens'} ({histogram.samples:,.0f} rounds expected)"
    )
    axes.set_ylabel("share of rounds")


def draw_survival(axes: "Axes", metrics: Any) -> None:
    """P(A >= j) with intervals, and alpha^j of the i.i.d. law."""
    survival, ends = metrics["survival"], metrics["ci95"]["survival"]
    k = len(survival)
    place = np.arange(1, k + 1)
    axes.plot(place, iid_survival(metrics["alpha_iid"], k)[1:], **thinned(IID, k))
    axes.plot(place, survival, linewidth=1.4, **thinned(POINT, k))
    axes.vlines(*drawn_spans(ends, first=1), **SPAN)
    unit_axis(axes, "y")
    axes.set_xlim(0.5, k + 0.5)
    whole_ticks(axes, 1, k)
    axes.set_title("Survival by position in the draft\nP(A ≥ j): the first j drafts are all accepted", **TITLE)
    axes.set_xlabel("position j in the draft (tokens)")
    axes.set_ylabel("probability")


def draw_groups(axes: "Axes", trace: Trace, q_kind: str, overall: float, seed: int) -> None:
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
        contexts = binned_rows(trace.context_length, trace, q_kind, seed)
        rows = kind_rows(trace, seed) + [(f"{q_kind}, context {edges}", estimate) for edges, estimate in contexts]
        heading = "Acceptance by kind of draft and by context"
        below, label = "context: number of tokens before the drafted one", alpha_label("drafted token")
    draw_rows(axes, rows, overall)
    axes.set_title(f"{heading}\n{below}", **TITLE)
    axes.set_xlabel(label)


def draw_rows(axes: "Axes", rows: Sequence[Row], overall: float) -> None:
    """Points and intervals along x, the first row on top, each number written at the right."""
    heights = range(len(rows))
    axes.axvline(overall, **OVERALL)
    axes.plot([estimate.value for _, estimate in rows], heights, linestyle="none", **POINT)
    axes.hlines(*drawn_spans([estimate.ci95 for _, estimate in rows]), **SPAN)
    size = 9 if len(rows) <= 12 else 8
    for height, (_, estimate) in zip(heights, rows, strict=True):
        beside = axes.get_yaxis_transform()
        axes.text(1.015, height, f"{estimate.value:.2f}", transform=beside, va="center", fontsize=size)
    axes.set_yticks(heights, [label for label, _ in rows], fontsize=size)
    # A single row stands in the middle, not in the whole height.
    room = max(0.6, (3 - len(rows)) / 2)
    axes.set_ylim(len(rows) - 1 + room, -room)
    unit_axis(axes, "x")


def draw_positions(axes: "Axes", trace: Trace, q_kind: str, overall: float, seed: int) -> None:
    """Alpha along the output, by bins that double."""
    rows = binned_rows(trace.position, trace, q_kind, seed, first=1)
    place, labels = range(len(rows)), [label for label, _ in rows]
    axes.axhline(overall, **OVERALL)
    axes.plot(place, [estimate.value for _, estimate in rows], linewidth=1.4, **POINT)
    axes.vlines(*drawn_spans([estimate.ci95 for _, estimate in rows]), **SPAN)
    slanted = max(map(len, labels)) > 7
    turn: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(place, labels, fontsize=9, **turn)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    unit_axis(axes, "y")
    axes.set_title("Acceptance along the output\nby bins that double in width", **TITLE)
    axes.set_xlabel("position in the output (tokens, the first is 1)")
    axes.set_ylabel(alpha_label(f"{q_kind} draft"))


def category_rows(trace: Trace, q_kind: str, seed: int) -> list[Row]:
    """Return alpha of each category, the highest first, with its prompts; those without one are a category too."""
    alphas = alpha_by(trace.category, trace, q_kind, np.random.default_rng(seed))
    of_prompts = [trace.prompts[p].category for p in np.unique(trace.prompt)]
    ordered = sorted(alphas.items(), key=lambda item: (-item[1][0].value, str(item[0])))
    return [
        (f"{shortened(str(name)) or '(none)'} ({of_prompts.count(str(name))})", alpha) for name, (alpha, _) in ordered
    ]


def kind_rows(trace: Trace, seed: int) -> list[Row]:
    """Return alpha of both kinds of draft."""
    everything = np.zeros(trace.size, np.int64)
    alphas = {kind: alpha_by(everything, trace, kind, np.random.default_rng(seed)) for kind in Q_KINDS}
    return [(f"{kind} draft", groups[0][0]) for kind, groups in alphas.items()]


def binned_rows(values: NDArray[np.int32], trace: Trace, q_kind: str, seed: int, first: int = 0) -> list[Row]:
    """Return alpha by bins of `values`, [positions]; a label has the least and the largest in it, 0 being `first`."""
    bins = bins_of(values)
    rows = []
    for edge, (estimate, _) in alpha_by(bins, trace, q_kind, np.random.default_rng(seed)).items():
        inside = values[bins == edge]
        low, high = int(inside.min()) + first, int(inside.max()) + first
        rows.append((f"{low}" if low == high else f"{low}-{high}", estimate))
    return rows


def shortened(name: str) -> str:
    """Return a name that fits beside a panel: where it is long, its beginning and its end."""
    name = " ".join(name.split())
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 12].rstrip()}…{name[-11:].lstrip()}"


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
