"""Pictures of loads: latency against load with speculation and without, what is gained, and a server over time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.costs.step import Floats
from simulator.ground.pictures import HATCH_COLOUR, OFF_HATCH, PALETTE, log_axis, new_figure, set_title

from .load_curve import PLAIN, Looked, Point
from .load_search import EARLIER, LATER, Found
from .scene import Scene, loaded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Columns of `Outcome.series`.
TIME, RUNNING, WAITING, BLOCKS = range(4)
# Of as many ways of serving as are compared at most.
COLOURS = (*PALETTE, "#8C510A")
# Loads that are marked one by one, at most; how far apart they are drawn evenly.
MARKED, APART = 24, 30.0


def draw_load_curve(
    scene: Scene, found: Found, looked: Looked, title: str, series: Sequence[Floats], load: float
) -> "Figure":
    """Return the figure.

    Args:
        scene: What was compared.
        found: What was found.
        looked: What each way of serving came to, at all loads that were looked at.
        title: Of what it is.
        series: Of each way of serving at one load, see `Outcome.series`.
        load: That load.
    """
    with new_figure(9.6, 8.2) as figure:
        panels = figure.subplots(3, 2)
        for axes, measure, label in ((panels[0, 0], "ttft", "first token"), (panels[0, 1], "tpot", "time a token")):
            draw_latency(axes, scene, looked, measure)
            axes.set_ylabel(f"{label} (ms)")
            for limit in scene.limits:
                if limit.measure == measure:
                    axes.axhline(1e3 * limit.most_s, color="#C00000", linewidth=1, linestyle=":")
        draw_gain(panels[1, 0], scene, found, looked)
        draw_rates(panels[1, 1], scene, looked)
        for axes in panels[:2].flat:
            load_axis(axes, looked)
            axes.set_xlabel(f"load ({scene.traffic.unit})")
        whose = " of a server" * any(way.replicas.servers > 1 for way in scene.arms)
        at = loaded(load, scene.traffic.unit)
        draw_time(panels[2, 0], scene, series, (RUNNING, WAITING), f"requests{whose}, at {at}")
        draw_time(panels[2, 1], scene, series, (BLOCKS,), f"KV{whose or ' in use'} (%), at {at}")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        set_title(figure, "Serving under load, with speculation and without", title)
    return figure


def load_axis(axes: "Axes", looked: Looked) -> None:
    """Draw loads that are far apart by their ratios."""
    every = [load for of in looked for load in of]
    if max(every) > APART * min(every):
        log_axis(axes, "x", min(every) / 1.1, max(every) * 1.1)


def style(arm: int, loads: int, marker: str = "o") -> dict[str, Any]:
    """Return how a way of serving is drawn, of so many loads."""
    return {"color": COLOURS[arm % len(COLOURS)], "marker": marker if loads <= MARKED else "", "markersize": 3.5}


def draw_latency(axes: "Axes", scene: Scene, looked: Looked, measure: str) -> None:
    """Draw P50 and P99 of every way of serving, on a scale of powers."""
    for arm, (way, of) in enumerate(zip(scene.arms, looked, strict=True)):
        for q, line, marker in ((50, "-", "o"), (99, "--", "s")):
            values = [1e3 * float(figures[f"{measure}_p{q}"][0]) for figures in of.values()]
            axes.plot(list(of), values, line, linewidth=1.5, label=f"{way.name}, P{q}", **style(arm, len(of), marker))
    axes.set_yscale("log")
    plain_numbers(axes)


def plain_numbers(axes: "Axes") -> None:
    """Write plain numbers at an axis of powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def draw_gain(axes: "Axes", scene: Scene, found: Found, looked: Looked) -> None:
    """Draw how much faster answers come, and where that ends."""
    if len(scene.arms) == 1:
        draw_share(axes, looked, "busy", "share of time at work")
        return
    plain = looked[PLAIN]
    for arm, (way, of) in enumerate(zip(scene.arms[1:], looked[1:], strict=True), 1):
        gains = {load: Point(load, (plain[load], of[load])).gain("e2e_mean", 1) for load in of if load in plain}
        loads, look = list(gains), style(arm, len(gains))
        ends = np.array([(g.low, g.high) for g in gains.values()])
        axes.plot(loads, [g.value for g in gains.values()], linewidth=1.6, label=way.name, **look)
        axes.fill_between(loads, *ends.T, color=look["color"], alpha=0.2, linewidth=0)
        if len(loads) == 1:
            axes.vlines(loads, *ends.T, color=look["color"])
    axes.axhline(1, color="black", linewidth=1.2)
    low, high = axes.get_ylim()
    low = min(low, 1 - 0.07 * max(high - 1, 0.1))
    axes.axhspan(low, 1, facecolor="none", edgecolor=HATCH_COLOUR, hatch=OFF_HATCH, linewidth=0, zorder=0)
    axes.set_ylim(low, high)
    for arm, turned in enumerate(found.turnings, 1):
        if turned.pays in (EARLIER, LATER):
            axes.axvline(turned.high, color=style(arm, 0)["color"], linestyle=":", linewidth=1)
    axes.set_ylabel("whole answers faster by (x)")


def draw_rates(axes: "Axes", scene: Scene, looked: Looked) -> None:
    """Draw what is served a second within all limits; without limits, tokens a second."""
    if scene.limits:
        draw_share(axes, looked, "goodput", "requests/s within limits")
    else:
        draw_share(axes, looked, "output_tokens_per_s", "output tokens/s")


def draw_share(axes: "Axes", looked: Looked, name: str, label: str) -> None:
    """Draw one figure of every way of serving."""
    for arm, of in enumerate(looked):
        axes.plot(list(of), [float(figures[name][0]) for figures in of.values()], **style(arm, len(of)))
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)


def draw_time(axes: "Axes", scene: Scene, series: Sequence[Floats], columns: Sequence[int], label: str) -> None:
    """Draw a server over time."""
    words: dict[int, Any] = {RUNNING: ("running", "-"), WAITING: ("waiting", ":"), BLOCKS: ("", "-")}
    for arm, rows in enumerate(series):
        for column in columns:
            scale = 100 / scene.arms[arm].settings.num_blocks if column == BLOCKS else 1.0
            name, line = words[column]
            colour = style(arm, 0)["color"]
            axes.plot(rows[:, TIME], scale * rows[:, column], line, color=colour, linewidth=1, label=name)
    if len(columns) > 1:
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[: len(columns)], labels[: len(columns)], fontsize=9)
    axes.set_xlabel("time (s)")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
