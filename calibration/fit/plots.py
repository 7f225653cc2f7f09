"""The picture of a calibration: measured against fitted times, and the residuals. Computes nothing."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from simulator.ground.pictures import PALETTE, new_figure

from .fit import Fit, run_s

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FITTED, HELD_OUT = PALETTE[:2]


def fit_figure(fits: Mapping[str, Fit]) -> "Figure":
    """Return a column for each fit: times above, residuals in percent below; points held out are hollow."""
    with new_figure(1.5 + 4.2 * len(fits), 6.4, parse_math=False) as figure:
        grid = figure.subplots(2, len(fits), squeeze=False, height_ratios=(2, 1), sharex="col")
        for column, (name, fit) in enumerate(fits.items()):
            draw_fit(grid[0, column], grid[1, column], name, fit)
        grid[0, 0].set_ylabel("measured, ms")
        grid[1, 0].set_ylabel("measured - fitted, %")
        grid[0, 0].legend(loc="upper left", frameon=False, fontsize=9)
    return figure


def draw_fit(above: "Axes", below: "Axes", name: str, fit: Fit) -> None:
    """Draw one fit."""
    seen = fit.observations
    fitted_ms, measured_ms = 1e3 * run_s(fit.cost, seen), 1e3 * seen.seconds
    for mask, color, label, face in (
        (~seen.held_out, FITTED, "fitted", FITTED),
        (seen.held_out, HELD_OUT, "held out", "none"),
    ):
        at, off = fitted_ms[mask], 100 * fit.residuals[mask]
        above.plot(at, measured_ms[mask], "o", color=color, markerfacecolor=face, label=label)
        below.plot(at, off, "o", color=color, markerfacecolor=face)
    ends = np.array([min(fitted_ms.min(), measured_ms.min()), max(fitted_ms.max(), measured_ms.max())])
    above.plot(ends, ends, color="black", linewidth=1, zorder=1)
    below.axhline(0, color="black", linewidth=1, zorder=1)
    above.set_xscale("log")
    above.set_yscale("log")
    above.set_title(name)
    below.set_xlabel("fitted, ms")
