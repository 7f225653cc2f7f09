"""The picture of a benchmark: speedup by method, where the time of a token goes, and tokens a round against their cost.

White background, marks that differ in shape so that they read in grey, axes labelled with what they mean.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from acceptance.estimate.plots import shortened
from simulator.ground.pictures import HATCH_COLOUR, OFF_HATCH, PALETTE, TITLE_SIZE, log_axis, new_figure, set_title

from .report import by_speed, delta_text, headline, shows_speed
from .settings import BASELINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Summary = Mapping[str, Any]
BLUE, ORANGE, SKY, YELLOW = (PALETTE[i] for i in (0, 1, 4, 5))
GREY = "#595959"
EXACT: dict[str, Any] = {"color": BLUE, "marker": "o", "markersize": 6}
LOSSY: dict[str, Any] = {
    "color": ORANGE,
    "marker": "s",
    "markersize": 6,
    "markerfacecolor": "white",
    "markeredgewidth": 1.6,
}
PLAIN: dict[str, Any] = {"color": "black", "marker": "D", "markersize": 6}
# Light to dark in grey as well; hatches tell neighbours apart.
PARTS = (
    ("prefill", "#D9D9D9", ""),
    ("draft", SKY, ""),
    ("verify", BLUE, ""),
    ("sample", "#F0E442", "//"),
    ("kv", YELLOW, "\\\\"),
    ("other", GREY, ""),
)


LINES = (0.25, 0.35, 0.5, 0.7, 1, 1.4, 2, 2.8, 4, 5.6, 8)
# About what the panel of rounds measures, and what a number of two digits takes.
PANEL_POINTS = np.array([330.0, 300.0])
CLEAR_POINTS = 12.0


def decode_figure(summaries: Sequence[Summary], *, title: str) -> "Figure":
    """Return the picture of a benchmark in three panels; title: what was measured, for the reader of the picture.

    Methods without a speed, and lossy ones whose quality is not known, are left out.
    """
    shown = [s for s in by_speed(summaries) if shows_speed(s)]
    height = max(5.2, 0.36 * len(shown) + 2.4) + 0.6
    with new_figure(15, height, pads_in=0.08, parse_math=False) as figure:
        speed, split, rounds = figure.subplots(1, 3, width_ratios=(1.15, 0.9, 1.15))
        draw_speedups(speed, shown)
        draw_latency(split, shown)
        draw_rounds(rounds, shown)
        handles = legend_handles(shown)
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(handles), 6), frameon=False, fontsize=9
        )
        set_title(figure, headline(summaries), title)
    return figure


def style_of(summary: Summary) -> dict[str, Any]:
    """Return the mark of a method."""
    if summary["algorithm"] == BASELINE:
        return PLAIN
    return EXACT if summary["is_exact"] else LOSSY


def set_rows(axes: "Axes", shown: Sequence[Summary], *, named: bool) -> None:
    """Give each method a row, the fastest on top; its number stands for it where there is no room for a name."""
    labels = [f"{shortened(s['method'])}  {i}" if named else str(i) for i, s in enumerate(shown, 1)]
    axes.set_yticks(range(len(shown)), labels, fontsize=9)
    room = max(0.6, (3 - len(shown)) / 2)
    axes.set_ylim(len(shown) - 1 + room, -room)
    axes.grid(False, axis="y")


def draw_speedups(axes: "Axes", shown: Sequence[Summary]) -> None:
    """Bars from 1x, points and intervals; of a lossy method what it does to the output stands beside its speed."""
    exact = all(s["is_exact"] for s in shown)
    axes.axvline(1, color=GREY, linestyle=":", linewidth=1.6)
    for place, s in enumerate(shown):
        style, gain = style_of(s), s["speedup"]["value"] - 1
        off = {"hatch": OFF_HATCH, "edgecolor": HATCH_COLOUR} if gain < 0 else {"alpha": 0.25}
        axes.barh(place, gain, left=1, height=0.5, facecolor="none" if gain < 0 else style["color"], linewidth=0, **off)
        span = s["speedup"]["ci95"]
        if span is not None and s["algorithm"] != BASELINE:
            axes.hlines(place, span[0], span[1], colors=style["color"], linewidth=2.2)
        axes.plot(s["speedup"]["value"], place, linestyle="none", **style)
        words = f"{s['speedup']['value']:.2f}x"
        if not s["is_exact"]:
            words += f"\n{delta_text(s['quality_delta']['mean_logp_nats'], 2)}"
        axes.text(1.015, place, words, transform=axes.get_yaxis_transform(), va="center", fontsize=8, linespacing=1.2)
    set_rows(axes, shown, named=True)
    ends = [max(s["speedup"]["ci95"] or [s["speedup"]["value"]]) for s in shown]
    axes.set_xlim(0, 1.05 * max([1.0, *ends]))
    axes.set_title(
        "Speedup by method\ntime a token of plain decoding over the method's, end to end", fontsize=TITLE_SIZE
    )
    axes.set_xlabel("speedup" + ("" if exact else "; below it log p a token less plain decoding's, nats"))


def draw_latency(axes: "Axes", shown: Sequence[Summary]) -> None:
    """Bars of what a token takes, by phase."""
    left = np.zeros(len(shown))
    for name, color, hatch in PARTS:
        width = np.array([float(1e3 / s["tokens_per_s"] * s["phase_share"][name]) for s in shown])
        axes.barh(
            range(len(shown)), width, left=left, height=0.7, color=color, hatch=hatch, edgecolor="white", linewidth=0.5
        )
        left += width
    set_rows(axes, shown, named=False)
    axes.set_xlim(0, 1.04 * left.max(initial=1e-9))
    axes.set_title("Where the time of a token goes\nmean over all tokens, the prompt among them", fontsize=TITLE_SIZE)
    axes.set_xlabel("ms a token")


def draw_rounds(axes: "Axes", shown: Sequence[Summary]) -> None:
    """What a round yields against what it costs, both on log axes; lines of equal speedup of decoding."""
    drawn = [(i, s) for i, s in enumerate(shown, 1) if s["step_cost"] and s["tokens_per_round"]]
    points = np.array([(s["step_cost"], s["tokens_per_round"]["value"]) for _, s in drawn]).reshape(-1, 2)
    low = np.minimum(points.min(0, initial=1), 1) / 1.25
    high = np.maximum(points.max(0, initial=1), 1.5) * 1.25
    for which, first, last in zip("xy", low, high, strict=True):
        log_axis(axes, which, first, last)
    for speedup in LINES:
        draw_line(axes, speedup, low, high)
    inside = np.log(points / low) / np.log(high / low)
    for (rank, s), (x, y), shift in zip(drawn, points.tolist(), label_shifts(inside), strict=True):
        axes.plot(x, y, linestyle="none", **style_of(s))
        axes.annotate(
            str(rank), (x, y), xytext=shift, textcoords="offset points", ha="center", va="center", fontsize=9, zorder=5
        )
    axes.set_title(
        "What a round yields and costs\nlines: equal speedup of decoding, without the prompt", fontsize=TITLE_SIZE
    )
    axes.set_xlabel("cost of a round (steps of plain decoding)")
    axes.set_ylabel("tokens a round commits")


def draw_line(axes: "Axes", speedup: float, low: Any, high: Any) -> None:
    """Draw a line of equal speedup across the panel, named near its upper end."""
    left, right = max(low[0], low[1] / speedup), min(high[0], high[1] / speedup)
    if left * 1.1 >= right:
        return
    bold = speedup == 1
    axes.plot(
        (left, right),
        (speedup * left, speedup * right),
        color=GREY,
        linewidth=1.6 if bold else 0.7,
        linestyle=":" if bold else "-",
        zorder=1,
    )
    inset = high / (high / low) ** 0.05
    at = min(inset[0], inset[1] / speedup)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    if at > left:
        words = f"{speedup:g}x"
        axes.text(at, speedup * at, words, fontsize=8, color=GREY, ha="center", va="center", bbox=box, zorder=2)


def label_shifts(points: Any) -> list[tuple[float, float]]:
    """Return where each point's number goes, in printer's points: where no other number or mark is, if there is room.

    Points are places in the panel, 0 to 1 along each axis, [n, 2].
    """
    marks = points * PANEL_POINTS
    taken = [tuple(m) for m in marks]
    shifts = []
    for mark in marks:
        angles = np.deg2rad(np.arange(45, 405, 30))
        tried = [(r * np.cos(t), r * np.sin(t)) for r in (10, 15, 22) for t in angles]
        free = [min((np.hypot(mark[0] + x - a, mark[1] + y - b) for a, b in taken), default=99) for x, y in tried]
        # The first that is clear of everything, else the clearest.
        best = next((i for i, room in enumerate(free) if room >= CLEAR_POINTS), int(np.argmax(free)))
        shifts.append(tried[best])
        taken.append((mark[0] + tried[best][0], mark[1] + tried[best][1]))
    return shifts


def legend_handles(shown: Sequence[Summary]) -> list[Any]:
    """Return what the marks of all panels mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks: list[Any] = [Line2D([], [], linestyle="none", label="plain decoding", **PLAIN)]
    marks += [Line2D([], [], linestyle="none", label="exact", **EXACT)]
    if any(not s["is_exact"] for s in shown):
        marks += [Line2D([], [], linestyle="none", label="lossy", **LOSSY)]
    if any(s["speedup"]["value"] < 1 for s in shown):
        marks += [Patch(facecolor="none", edgecolor=HATCH_COLOUR, hatch=OFF_HATCH, label="slower than plain decoding")]
    if any(s["speedup"]["ci95"] for s in shown):
        marks += [Line2D([], [], color=GREY, linewidth=2.2, label="95 % interval (prompts drawn anew)")]
    bars = [Patch(facecolor=color, hatch=hatch, edgecolor="white", label=name) for name, color, hatch in PARTS]
    return marks + bars
