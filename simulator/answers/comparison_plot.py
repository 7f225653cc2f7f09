"""A picture of a comparison: the best speedup of each method by batch size, and which to take where."""

from typing import TYPE_CHECKING

import numpy as np

from simulator.ground.pictures import MARKERS, PALETTE, new_figure, set_title

from .comparison import Comparison, name_of, order

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = ("-", "--", "-.", ":")
# Least share of the width of a range that is named above it, and where that stands.
NAMED, NAMES_AT = 0.06, 1.01


def draw_comparison(comparison: Comparison, title: str) -> "Figure":
    """Return the figure; a line a method, its own best K at each batch size, and the ranges of what to take above."""
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    with new_figure(8.2, 4.8) as figure:
        axes, batches = figure.subplots(), comparison.batches
        for number, at in enumerate(order(comparison)):
            best, colour = comparison.best[at], PALETTE[number % len(PALETTE)]
            style = LINES[number // len(PALETTE) % len(LINES)]
            marked = np.unique(np.geomspace(1, max(len(batches), 1), 9).astype(int) - 1)
            axes.plot(
                *(batches, best.speedup),
                label=comparison.contenders[at].name,
                color=colour,
                linestyle=style,
                linewidth=1.6,
                marker=MARKERS[number % len(MARKERS)],
                markersize=4.5,
                markevery=marked.tolist(),
            )
        axes.axhline(1, color="black", linewidth=1.2)
        axes.set_xscale("log", base=2)
        powers = 2.0 ** np.arange(int(np.log2(max(len(batches), 1))) + 1)
        axes.xaxis.set_major_locator(FixedLocator(powers.tolist()))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        size = "concurrency" if comparison.contenders[0].load else "batch size"
        axes.set_xlabel(f"{size} ({'clients' if comparison.contenders[0].load else 'sequences'})")
        axes.set_ylabel("speedup at the best K")
        axes.margins(x=0.01)
        whole = np.log2(max(len(batches), 2))
        for r in comparison.take:
            if r.first > 1:
                axes.axvline(r.first - 0.5, color="#7F7F7F", linewidth=0.8, linestyle=":")
            if np.log2((r.last + 1) / r.first) / whole >= NAMED:
                middle = float(np.sqrt(r.first * max(r.last, r.first)))
                place = axes.get_xaxis_transform()
                axes.text(middle, NAMES_AT, name_of(comparison, r) or "off", transform=place, ha="center", fontsize=8)
        figure.legend(loc="outside right upper", fontsize=8, title="method")
        set_title(figure, f"Best speedup of each method by {size}; above: which to take", title)
    return figure
