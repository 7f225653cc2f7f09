"""The picture of a validation by decoding: speedup over draft length, measured and forecast. Computes nothing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from simulator.ground.pictures import PALETTE, fitted, new_figure, set_title

from .rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORECAST, MEASURED = PALETTE[:2]


def decode_figure(rows: Sequence[Row], title: str, *, failed: bool) -> "Figure":
    """Return a panel for each target of at least one row; what was fitted is hollow.

    title: whether the forecasts hold; in red where they `failed` to.
    """
    targets = list(dict.fromkeys(r.target for r in rows))
    with new_figure(max(5.8, 1.2 + 3.0 * len(targets)), 4.3, parse_math=False) as figure:
        panels = figure.subplots(1, len(targets), squeeze=False, sharey=True)[0]
        for panel, target in zip(panels, targets, strict=True):
            draw_target(panel, [r for r in rows if r.target == target])
        panels[0].set_ylabel("speedup of decoding (x)")
        handles = {label: h for panel in panels for h, label in zip(*panel.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        set_title(figure, title, failed=failed)
    return figure


def draw_target(panel: "Axes", rows: Sequence[Row]) -> None:
    """Draw the rows of one target."""
    lengths = [r.draft_length for r in rows]
    panel.plot(lengths, [r.forecast for r in rows], color=FORECAST, label="forecast")
    low, high = ([r.forecast_ci95[end] for r in rows] for end in (0, 1))
    panel.fill_between(lengths, low, high, color=FORECAST, alpha=0.2, linewidth=0, label="95 % of the forecast")
    for hollow, face, label in ((True, "white", "measured, fitted"), (False, MEASURED, "measured, not fitted")):
        shown = [r for r in rows if r.fitted is hollow]
        if not shown:
            continue
        at = [r.draft_length for r in shown]
        panel.plot(at, [r.measured for r in shown], "o", color=MEASURED, markerfacecolor=face, label=label, zorder=3)
    spans = [(r.draft_length, *r.measured_ci95) for r in rows if r.measured_ci95 is not None]
    if spans:
        panel.vlines(*zip(*spans, strict=True), color=MEASURED, linewidth=1, label="95 % over prompts")
    panel.axhline(1, color="black", linewidth=1)
    panel.set_xticks(lengths[:: -(-len(lengths) // 12)])
    panel.set_xlabel("draft length K")
    panel.set_title(fitted(rows[0].target, 2.8, 10), fontsize=10)
