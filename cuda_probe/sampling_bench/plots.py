"""Pictures of a benchmark: time against vocabulary by backend, and share of the copy bandwidth against data size."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cuda_probe.probe.plots import style, tick_numbers
from cuda_probe.probe.report import device_text
from simulator.ground.artefacts import UserError
from simulator.ground.pictures import PALETTE, new_figure, set_title
from simulator.ground.statistics import quartiles

from .report import headline
from .runner import BenchPoint, BenchResults
from .shapes import BACKENDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Panel
    from matplotlib.figure import Figure

MAX_TIME_PANELS = 3
# From here on a device is expected to move logits at the speed at which it copies.
MARK_BYTES = 64_000_000
LABELS = {
    "cuda": "cuda kernels",
    "torch": "torch",
    "numpy": "numpy",
    "compiled": "compiled torch",
    "transformers": "transformers",
}


def bench_figure(results: BenchResults) -> "Figure":
    """Return the figure: time against vocabulary for up to three batches, then the share of copy bandwidth."""
    if not results.points:
        raise UserError("--plot: nothing was timed, expected a backend that runs here")
    batches = spread(sorted({int(p.point.axes["batch"]) for p in results.points}))
    columns = len(batches) + 1
    with new_figure(4.3 * columns + 0.4, 4.9) as figure:
        panels = figure.subplots(1, columns)
        for panel, batch in zip(panels, batches, strict=False):
            panel.sharey(panels[0])
            time_panel(panel, time_points(results, batch))
        share_panel(panels[-1], results)
        legend(figure, results)
        set_title(figure, headline(results), f"{device_text(results.device)}; bars: quartiles")
    return figure


def spread(values: Sequence[int]) -> list[int]:
    """Return the first, the middle and the last of the values, or all where there are no more."""
    if len(values) <= MAX_TIME_PANELS:
        return list(values)
    return [values[0], values[len(values) // 2], values[-1]]


def time_points(results: BenchResults, batch: int) -> list[BenchPoint]:
    """Return the points of a batch that differ in backend and vocabulary alone: the first type, the largest K."""
    shown = [p for p in results.points if p.point.axes["batch"] == batch]
    dtype, k = shown[0].point.axes["dtype"], max(int(p.point.axes["k"]) for p in shown)
    shown = [p for p in shown if (p.point.axes["dtype"], p.point.axes["k"]) == (dtype, k)]
    return sorted(shown, key=lambda p: int(p.point.axes["vocabulary"]))


def look(backend: str) -> dict[str, Any]:
    """Return colour and marker of a backend, the same in every picture."""
    return style(BACKENDS.index(backend))


def reach(values: Sequence[tuple[float, float, float]]) -> list[list[float]]:
    """Return from quartiles how far intervals reach below and above their medians."""
    return [[middle - low for low, middle, _ in values], [high - middle for _, middle, high in values]]


def time_panel(panel: "Panel", points: Sequence[BenchPoint]) -> None:
    """Time against vocabulary, quartiles as bars."""
    for name in BACKENDS:
        shown = [p for p in points if p.point.probe == name]
        if shown:
            times = [tuple(1e3 * t for t in quartiles(p.point.measurement.samples_s)) for p in shown]
            at = [int(p.point.axes["vocabulary"]) for p in shown]
            bars: Any = reach(times)  # type: ignore[arg-type]
            panel.errorbar(at, [t[1] for t in times], yerr=bars, capsize=3, linewidth=1.2, **look(name))
    axes = points[0].point.axes
    panel.set(xscale="log", yscale="log", xlabel="vocabulary (tokens)", ylabel="time (ms)")
    tick_numbers(panel, sorted({int(p.point.axes["vocabulary"]) for p in points}))
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    plain_numbers(panel.yaxis)
    panel.margins(0.08)
    panel.set_title(f"Time: batch {axes['batch']}, K = {axes['k']}, {axes['dtype']}", fontsize=10)


def share_panel(panel: "Panel", results: BenchResults) -> None:
    """Bytes a second over those of a copy, against the bytes that sampling needs; every point there is."""
    for name in BACKENDS:
        for wide in (True, False):
            shown = [p for p in results.points if p.point.probe == name and results.share(p)]
            shown = [p for p in shown if (p.point.axes["dtype"] == "float32") == wide]
            fill = {} if wide else {"markerfacecolor": "white"}
            if shown:
                at = [p.point.bytes / 1e6 for p in shown]
                quartile_shares = [shares(results, p) for p in shown]
                bars: Any = reach(quartile_shares)
                drawn = {**look(name), **fill, "linestyle": "none", "capsize": 3, "linewidth": 1.2}
                panel.errorbar(at, [share[1] for share in quartile_shares], yerr=bars, **drawn)
    panel.axhline(100, color="black", linewidth=1.0, zorder=1)
    panel.axvline(MARK_BYTES / 1e6, color=PALETTE[7], linestyle="--", linewidth=1.2, zorder=1)
    panel.set(xscale="log", yscale="log", xlabel="bytes that sampling needs (MB)", ylabel="of copy bandwidth (%)")
    panel.margins(0.08)
    left, right = panel.get_xlim()
    panel.set_xlim(min(left, MARK_BYTES / 4e6), max(right, 4 * MARK_BYTES / 1e6))
    low, high = panel.get_ylim()
    panel.set_ylim(low, max(high, 100) * 1.9)
    for axis in (panel.xaxis, panel.yaxis):
        plain_numbers(axis)
    rate = results.copy and results.copy.bytes_per_s
    words = f"copy: {rate / 1e9:.4g} GB/s" if rate else "no copy was measured"
    panel.annotate(
        words, (0.02, 100), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8
    )
    mark = (MARK_BYTES / 1e6, 0.02)
    panel.annotate("64 MB", mark, (3, 0), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8)
    panel.set_title("Share of copy bandwidth (hollow: 16 bits a logit)", fontsize=10)


def plain_numbers(axis: Any) -> None:
    """Write 0.1, 1, 10 on a logarithmic axis, and 2 and 5 between them where it is a short one."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1,) if high / low > 300 else (1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def shares(results: BenchResults, bench_point: BenchPoint) -> tuple[float, float, float]:
    """Return the share in percent at the upper quartile of the time, the median and the lower quartile."""
    copied = results.copy.bytes_per_s if results.copy else None
    low, middle, high = (
        100 * bench_point.point.bytes / t / (copied or 1)
        for t in quartiles(bench_point.point.measurement.samples_s)[::-1]
    )
    return low, middle, high


def legend(figure: "Figure", results: BenchResults) -> None:
    """Name the backends once, under the panels."""
    from matplotlib.lines import Line2D

    names = [name for name in BACKENDS if any(p.point.probe == name for p in results.points)]
    handles = [Line2D([], [], label=LABELS[name], **look(name)) for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False)
