"""The picture of a workload: how long prompts and answers are, and when requests are sent."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simulator.ground.pictures import PALETTE, log_axis, new_figure, save_figure, set_title

from .readers.columns import Workload
from .requests import Array
from .statistics import Lengths, Statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of a panel: bars of lengths, steps of time.
BARS, STEPS = 48, 120
# Round lengths of such a step, in seconds.
ROUND_S = (
    *(m * 10.0**e for e in range(-6, 1) for m in (1, 2, 5)),
    10,
    20,
    30,
    60,
    120,
    300,
    600,
    1800,
    3600,
    7200,
    21600,
    86400,
)


def draw(path: Path, workload: Workload, found: Statistics) -> None:
    """Draw it and write it."""
    panels = 3 if found.span_s else 2
    with new_figure(4.8 * panels, 3.8) as figure:
        all_axes = figure.subplots(1, panels)
        requests = workload.requests
        draw_lengths(all_axes[0], "prompt, tokens", requests.prompt, found.prompt, PALETTE[0])
        draw_lengths(all_axes[1], "answer, tokens", requests.output, found.output, PALETTE[2])
        if found.span_s:
            draw_arrivals(all_axes[2], requests.arrival_s[requests.after < 0], found)
        shared = f", {found.shareable:.0%} of prompts' tokens seen before" if found.shareable else ""
        set_title(figure, f"{workload.path.name}: {found.requests:,} requests, {workload.format}{shared}")
        save_figure(path, figure)


def draw_lengths(axes: "Axes", name: str, tokens: Array, found: Lengths, colour: str) -> None:
    """Draw a histogram over a logarithmic axis, with the lognormal law that comes closest."""
    low, high = max(found.least * 0.9, 0.9), found.most * 1.1 + 1
    # Between whole numbers, so that no bar lacks those that its neighbours have.
    edges = np.unique(np.floor(np.geomspace(low, high, BARS + 1)) + 0.5)
    edges[0] = low
    share = np.histogram(tokens, edges)[0] / len(tokens) / np.log2(edges[1:] / edges[:-1])
    axes.stairs(share, edges, fill=True, color=colour, alpha=0.5, label="recorded")
    if found.sigma:
        at = np.geomspace(low, high, 200)
        middle = math.log(found.mean) - found.sigma**2 / 2
        law = np.exp(-((np.log(at) - middle) ** 2) / 2 / found.sigma**2) / found.sigma / math.sqrt(2 * math.pi)
        axes.plot(at, law * math.log(2), color="black", linewidth=1, label=found.law)
    for height, (p, value) in zip((1, 0.94, 0.88), found.percentiles.items(), strict=True):
        axes.axvline(value, color=colour, linewidth=0.8, linestyle=":")
        axes.annotate(f"p{p}", (value, height), xycoords=("data", "axes fraction"), ha="left", va="top", fontsize=8)
    log_axis(axes, "x", low, high)
    axes.set_ylim(0, share.max() * 1.25)
    axes.set_xlabel(name)
    axes.set_ylabel("share of requests, by doubling of tokens")
    above(axes)


def draw_arrivals(axes: "Axes", times: Array, found: Statistics) -> None:
    """Draw requests a second over time, in even steps."""
    span_s = found.span_s or 1.0
    step_s = next((s for s in ROUND_S if s >= span_s / STEPS), span_s / STEPS)
    edges = np.arange(math.ceil(span_s / step_s) + 1) * step_s
    # The last step is as long as what is left.
    edges[-1] = max(span_s, edges[-2] + step_s / 1000)
    counts = np.histogram(times, edges)[0]
    scale, unit = next(
        ((s, u) for s, u in ((86400, "days"), (3600, "hours"), (60, "minutes")) if span_s > 3 * s), (1, "seconds")
    )
    rates = counts / np.diff(edges)
    # What is left at the end may be too short to tell a rate.
    whole = max(len(rates) - 1, 1)
    axes.stairs(rates[:whole], edges[: whole + 1] / scale, color=PALETTE[0], baseline=None)
    rate = found.rate or 0
    axes.axhline(rate, color=PALETTE[1], linewidth=1, label=f"mean {rate:.3g}/s, gaps' CV {found.gaps_cv:.2f}")
    axes.set_ylim(0, None)
    axes.set_xlabel(f"time, {unit} (in steps of {step_s:g} s)")
    axes.set_ylabel("requests a second")
    above(axes)


def above(axes: "Axes") -> None:
    """Name what is drawn, above it."""
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
