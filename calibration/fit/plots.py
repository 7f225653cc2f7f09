"""The picture of a calibration: measured against fitted times, and the residuals. Computes nothing."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from simulator.ground.pictures import FAILED, HATCH_COLOUR, OFF_HATCH, PALETTE, fitted, log_axis, new_figure, set_title

from .diagnostics import CheckedFit
from .fit import Fit, run_s
from .report import headline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FITTED, HELD_OUT = PALETTE[:2]
COLUMN_IN = 4.2


def fit_figure(fits: Mapping[str, CheckedFit], source: str) -> "Figure":
    """Return a column for each fit: times above, residuals in percent below; points held out are hollow.

    A fit that fails its checks is hatched, and says so in red; so is the title where none passes. source: what was
    fitted, for the title.
    """
    with new_figure(1.5 + COLUMN_IN * max(len(fits), 1), 6.9, parse_math=False) as figure:
        grid = figure.subplots(2, max(len(fits), 1), squeeze=False, height_ratios=(2, 1), sharex="col")
        for column, (name, checked) in enumerate(fits.items()):
            draw_checked(grid[0, column], grid[1, column], name, checked)
        grid[0, 0].set_ylabel("measured, ms")
        grid[1, 0].set_ylabel("measured - fitted, %")
        handles = {label: h for axes in grid[0] for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        if handles:
            figure.legend(handles.values(), handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        set_title(figure, headline(fits), source, failed=not any(checked.passed for checked in fits.values()))
    return figure


def draw_checked(above: "Axes", below: "Axes", name: str, checked: CheckedFit) -> None:
    """Draw one fit, or that there is none, and whether it passes."""
    if checked.fit is not None:
        draw_fit(above, below, checked.fit)
    words = name if checked.passed else f"{name} FAILS\n{'; '.join(checked.reasons)}"
    above.set_title(fitted(words, COLUMN_IN, 9), fontsize=9, color="black" if checked.passed else FAILED)
    if not checked.passed:
        for axes in (above, below):
            axes.patch.set(hatch=OFF_HATCH, edgecolor=HATCH_COLOUR, linewidth=0, alpha=0.5)


def draw_fit(above: "Axes", below: "Axes", fit: Fit) -> None:
    """Draw one fit."""
    seen = fit.observations
    fitted_ms, measured_ms = 1e3 * run_s(fit.cost, seen), 1e3 * seen.seconds
    for mask, color, label, face in (
        (~seen.held_out, FITTED, "fitted", FITTED),
        (seen.held_out, HELD_OUT, "held out", "none"),
    ):
        if mask.any():
            at, off = fitted_ms[mask], 100 * fit.residuals[mask]
            above.plot(at, measured_ms[mask], "o", color=color, markerfacecolor=face, label=label)
            below.plot(at, off, "o", color=color, markerfacecolor=face)
    ends = np.array([min(fitted_ms.min(), measured_ms.min()), max(fitted_ms.max(), measured_ms.max())])
    above.plot(ends, ends, color="black", linewidth=1, zorder=1)
    below.axhline(0, color="black", linewidth=1, zorder=1)
    room = (ends[1] / ends[0]) ** 0.04
    for which in "xy":
        log_axis(above, which, ends[0] / room, ends[1] * room)
    below.set_xlabel("fitted, ms")
