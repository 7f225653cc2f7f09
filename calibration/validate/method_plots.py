"""The picture of a validation of methods: speedups, measured and forecast from parts. Computes nothing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from simulator.ground.pictures import PALETTE, fitted, new_figure, set_title

from .methods import MethodRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORECAST, MEASURED = PALETTE[:2]


def method_figure(rows: Sequence[MethodRow], title: str, *, failed: bool) -> "Figure":
    """Return a panel for each target of at least one row, the fastest on top.

    title: whether the forecasts hold; in red where they `failed` to.
    """
    targets = list(dict.fromkeys(r.target for r in rows))
    most = max(sum(r.target == target for r in rows) for target in targets)
    with new_figure(max(5.8, 4.2 * len(targets)), 1.5 + 0.24 * most, parse_math=False) as figure:
        panels = figure.subplots(1, len(targets), squeeze=False)[0]
        for panel, target in zip(panels, targets, strict=True):
            draw_target(panel, sorted((r for r in rows if r.target == target), key=lambda r: r.measured))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        set_title(figure, title, failed=failed)
    return figure


def draw_target(panel: "Axes", rows: Sequence[MethodRow]) -> None:
    """Draw the rows of one target, the slowest first."""
    at = range(len(rows))
    spans = [(i, *r.measured_ci95) for i, r in enumerate(rows) if r.measured_ci95 is not None]
    if spans:
        panel.hlines(*zip(*spans, strict=True), color=MEASURED, linewidth=1, label="95 % over prompts")
    panel.plot([r.measured for r in rows], at, "o", color=MEASURED, label="measured")
    panel.plot([r.forecast for r in rows], at, "x", color=FORECAST, label="forecast from parts", zorder=3)
    panel.axvline(1, color="black", linewidth=1)
    panel.set_yticks(at, [fitted(f"{r.method} {r.drafts}", 2.2, 8) for r in rows], fontsize=8)
    panel.set_xlabel("speedup of decoding (x)")
    panel.set_title(fitted(rows[0].target, 2.8, 10), fontsize=10)
