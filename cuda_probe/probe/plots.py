"""Pictures of a probe: roofline, streams, skinny products, time against work, and rounds by draft length."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.ground.artefacts import UserError
from simulator.ground.pictures import MARKERS, PALETTE, fitted, log_axis, new_figure, set_title
from simulator.ground.statistics import quartiles

from .probes import AXIS_UNITS
from .report import axes_text, disturbed_text, headline, size_text
from .runner import Point, Results, line_fits

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Panel
    from matplotlib.figure import Figure

STREAMS = ("read", "write", "copy", "triad")
PANEL_IN = 4.6
ROUNDS = ("draft", "draft_graph", "verify", "baseline")

Draw = Callable[["Panel"], None]


def probe_figure(results: Results) -> "Figure":
    """Return one figure with a panel for everything measured; a UserError where nothing of it has a picture."""
    panels = panels_of(results)
    if not panels:
        raise UserError("--plot: nothing was measured that has a picture, expected a probe other than empty")
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with new_figure(max(PANEL_IN * columns, 6.4), 3.9 * rows + 0.5) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        for panel in grid.flat[len(panels) :]:
            panel.set_visible(False)
        for panel, draw in zip(grid.flat, panels, strict=False):
            draw(panel)
        disturbed = disturbed_text(results.points).replace("\n", "; ")
        set_title(figure, headline(results), f"Disturbed: {disturbed}" if disturbed else "")
    return figure


def panels_of(results: Results) -> list[Draw]:
    """Return what can be drawn of these results, in reading order."""
    panels: list[Draw] = []
    if roofs(results) and placed(results):
        panels.append(lambda panel: roofline(panel, results))
    if results.of(*STREAMS):
        panels.append(lambda panel: stream_rates(panel, results.of(*STREAMS)))
    if results.of("skinny"):
        panels.append(lambda panel: skinny_curve(panel, results.of("skinny")))
    for name in ("burn_flops", "burn_memory"):
        if results.of(name):
            panels.append(work_panel(results, name))
    if results.of(*ROUNDS):
        panels.append(lambda panel: round_times(panel, results))
    return panels


def style(index: int) -> dict[str, Any]:
    """Return colour and marker of the index-th series."""
    return {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)], "markersize": 5}


def placed(results: Results) -> list[Point]:
    """Return the points that have a place under the roofs: FLOP, bytes and a time, and no stream from cache."""
    flowing = memory_points(results)
    timed = [p for p in results.points if p.flop and p.bytes and p.measurement.median_s > 0]
    return [p for p in timed if p.probe not in STREAMS or p in flowing]


def roofs(results: Results) -> tuple[float, float] | None:
    """Return the best FLOP/s and bytes/s that were measured; None where one is missing.

    Streams and memory burns set the one roof; what runs from cache, such as a product, does not count for it.
    """
    flop_rates = [p.flop_per_s for p in results.points if p.flop_per_s]
    byte_rates = [p.bytes_per_s for p in memory_points(results) if p.bytes_per_s]
    return (max(flop_rates), max(byte_rates)) if flop_rates and byte_rates else None


def memory_points(results: Results) -> list[Point]:
    """Return the points whose traffic cannot stay in cache: memory burns, and streams over the largest buffers."""
    burns = list(results.of("burn_memory"))
    flowing = results.of(*STREAMS)
    largest = max((int(p.axes["buffer_bytes"]) for p in flowing), default=0)
    return burns + [p for p in flowing if p.axes["buffer_bytes"] == largest]


def roofline(panel: "Panel", results: Results) -> None:
    """FLOP/s against FLOP a byte, under the measured roofs."""
    best = roofs(results)
    assert best is not None
    flop_per_s, bytes_per_s = best
    points = placed(results)
    names = list(dict.fromkeys(p.probe for p in points))
    for index, name in enumerate(names):
        shown = [p for p in points if p.probe == name]
        at = [p.flop / p.bytes for p in shown]
        panel.plot(at, [(p.flop_per_s or 0) / 1e9 for p in shown], linestyle="none", label=name, **style(index))
    ridge = flop_per_s / bytes_per_s
    reach = [p.flop / p.bytes for p in points] + [ridge]
    low, high = min(reach) / 2, max(reach) * 2
    heights = [min(flop_per_s, x * bytes_per_s) / 1e9 for x in (low, ridge, high)]
    label = f"roof: {flop_per_s / 1e9:.4g} GFLOP/s, {bytes_per_s / 1e9:.4g} GB/s"
    panel.plot([low, ridge, high], heights, color="black", linewidth=1.2, label=label, zorder=1)
    log_axis(panel, "x", low, high)
    reached = [*heights, *((p.flop_per_s or 0) / 1e9 for p in points)]
    log_axis(panel, "y", min(reached) / 1.5, max(reached) * 1.5)
    panel.set(xlabel="arithmetic intensity (FLOP/byte)", ylabel="GFLOP/s")
    panel.set_title("Roofline", fontsize=10)
    panel.legend(fontsize=7, loc="lower right")


def stream_rates(panel: "Panel", points: Sequence[Point]) -> None:
    """Bytes a second by buffer; bars where there is one size."""
    sizes = sorted({int(p.axes["buffer_bytes"]) for p in points})
    names = list(dict.fromkeys(p.probe for p in points))
    for index, name in enumerate(names):
        shown = sorted((p for p in points if p.probe == name), key=lambda p: int(p.axes["buffer_bytes"]))
        rates = [(p.bytes_per_s or 0) / 1e9 for p in shown]
        if len(sizes) == 1:
            panel.bar([name], rates, color=PALETTE[index])
            panel.annotate(f"{rates[0]:.4g}", (index, rates[0]), (0, 2), textcoords="offset points", ha="center")
        else:
            panel.plot([int(p.axes["buffer_bytes"]) / 2**20 for p in shown], rates, label=name, **style(index))
    if len(sizes) == 1:
        panel.margins(y=0.12)
        panel.set_xlabel(f"buffers of {size_text(sizes[0])}")
    else:
        panel.set(xscale="log", xlabel="each buffer (MiB)")
        panel.set_ylim(bottom=0)
        panel.legend(fontsize=8)
    panel.set_ylabel("GB/s")
    panel.set_title("Streams", fontsize=10)


def skinny_curve(panel: "Panel", points: Sequence[Point]) -> None:
    """Time of a product over that of one token, by tokens: what verification costs."""
    series = list(dict.fromkeys((p.axes["weight"], p.axes["dtype"]) for p in points))
    for index, (weight, dtype) in enumerate(series):
        shown = [p for p in points if (p.axes["weight"], p.axes["dtype"]) == (weight, dtype)]
        shown.sort(key=lambda p: int(p.axes["tokens"]))
        times = [p.measurement.median_s * 1e3 for p in shown]
        at = [int(p.axes["tokens"]) for p in shown]
        panel.errorbar(
            at, times, yerr=quartiles_ms(shown), label=f"{weight}, {dtype}", capsize=2, linewidth=1.2, **style(index)
        )
    panel.set(xscale="log", xlabel="tokens", ylabel="time (ms)")
    log_times(panel, points)
    tick_numbers(panel, sorted({int(p.axes["tokens"]) for p in points}))
    panel.set_title("Tokens by a weight matrix, weights not in cache", fontsize=10)
    panel.legend(fontsize=7)


def quartiles_ms(points: Sequence[Point]) -> Any:
    """Return how far below and above their medians the quartiles of points lie, [2, points]; not below 0."""
    ends = [quartiles(p.measurement.samples_s) for p in points]
    return [[1e3 * (middle - low) for low, middle, _ in ends], [1e3 * (high - middle) for _, middle, high in ends]]


def log_times(panel: "Panel", points: Sequence[Point]) -> None:
    """Make the y axis logarithmic, over the quartiles of the points."""
    ends = [1e3 * s for p in points for s in quartiles(p.measurement.samples_s) if s > 0]
    if ends:
        log_axis(panel, "y", min(ends) / 1.3, max(ends) * 1.3)


def tick_numbers(panel: "Panel", values: Sequence[int]) -> None:
    """Name the values themselves on a logarithmic axis, as far as they have room."""
    chosen: list[int] = []
    for value in values:
        if value > 0 and (not chosen or value >= 1.4 * chosen[-1]):
            chosen.append(value)
    panel.set_xticks(chosen[:: max(-(-len(chosen) // 10), 1)])
    panel.set_xticks([], minor=True)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def work_panel(results: Results, name: str) -> Draw:
    """Time against work, with its line."""
    (axis,) = results.of(name)[0].axes

    def draw(panel: "Panel") -> None:
        points = sorted(results.of(name), key=lambda p: int(p.axes[axis]))
        work = [int(p.axes[axis]) for p in points]
        times = [p.measurement.median_s * 1e3 for p in points]
        bars = quartiles_ms(points)
        panel.errorbar(work, times, yerr=bars, linestyle="none", capsize=2, label="median, quartiles", **style(0))
        for fit in (fit for fit in line_fits(results) if fit.probe == name):
            label = f"line, off by {fit.line.max_relative_residual:.1%} at most"
            along = np.geomspace(max(work[0], work[-1] / 1000, 1e-3), work[-1], 100)
            panel.plot(along, fit.line(along) * 1e3, color=PALETTE[1], linewidth=1.2, label=label)
        panel.set(xlabel=AXIS_UNITS[axis], ylabel="time (ms)", xscale="log")
        log_times(panel, points)
        tick_numbers(panel, work)
        panel.set_title(f"{name}: time against work", fontsize=10)
        panel.legend(fontsize=8)

    return draw


def round_times(panel: "Panel", results: Results) -> None:
    """Draft and verification by draft length, beside one token of plain decoding."""
    points = results.of(*ROUNDS)
    held = list(dict.fromkeys((p.axes["work_flops"], p.axes["work_mem"]) for p in points))[:2]
    for index, (work_flops, work_mem) in enumerate(held):
        here = [p for p in points if (p.axes["work_flops"], p.axes["work_mem"]) == (work_flops, work_mem)]
        for number, name in enumerate(ROUNDS):
            shown = sorted((p for p in here if p.probe == name), key=lambda p: int(p.axes.get("draft_n", 0)))
            times = [p.measurement.median_s * 1e3 for p in shown]
            look: dict[str, Any] = {"label": name if index == 0 else None, "linestyle": "--" if index else "-"}
            if name == "baseline" and shown:
                panel.axhline(times[0], color=PALETTE[6], **look)
            elif shown:
                panel.plot([int(p.axes["draft_n"]) for p in shown], times, **style(number), **look)
    words = " and ".join(
        axes_text({"work_flops": flops, "work_mem": mem}) + (" (dashed)" if index else "")
        for index, (flops, mem) in enumerate(held)
    )
    panel.set(xlabel="draft length K", ylabel="time (ms)")
    panel.set_ylim(bottom=0)
    lengths = sorted({int(p.axes["draft_n"]) for p in points if "draft_n" in p.axes})
    panel.set_xticks(lengths[:: -(-len(lengths) // 10) or 1])
    panel.set_title(fitted(f"A round's parts, {words}", PANEL_IN - 0.8, 10), fontsize=10)
    panel.legend(fontsize=8)
