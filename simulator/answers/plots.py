"""Pictures of a sweep: speedup as a surface, as curves by K, or as small multiples. Computes no results."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulator.costs.parameters import BY_NAME
from simulator.costs.step import Floats
from simulator.ground.pictures import HATCH_COLOUR, MARKERS, OFF_HATCH, PALETTE, new_figure, set_title
from simulator.rounds.grid import Columns, Grid

from .layout import Layout
from .sweep_answers import has_ranges, named_lengths

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = ("-", "--", "-.", ":")
# Diverging about 1x; the colour-blind tell its ends apart.
COLOURS = "PuOr_r"
UNFIT_HATCH = "xxxx"
NUMBER_BOX = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
# Values of an axis up to which a surface is drawn as cells; rows and columns of cells up to which each says its number.
MOST_CELLS, MOST_NUMBERS = 24, (12, 12)
# Where the mark of the best K stands in a cell, and its number below it.
BEST_ABOVE, NUMBER_BELOW = 0.3, 0.15
# Points of a curve up to which each has a marker; labels of an axis of a panel alone, and of one of several.
MOST_MARKERS, MOST_LABELS = 32, (14, 5)
# Pixels that marks, and labels of contours, are apart at least; least share of the height that shows what does not pay.
APART, LABEL_APART, LEAST_OFF = 11.0, 20.0, 0.07
BEST_STYLE: dict[str, Any] = {"linestyle": "none", "color": "white", "markeredgecolor": "black"}
# Ends of the colour scale, the same in every picture.
LEAST_COLOUR, MOST_COLOUR = 1 / 3, 3.0
AT_EDGE = "best K, the longest looked at"
# Low and high, [points] each.
Ends = tuple[Floats, Floats]


def is_clients(name: str, grid: Grid) -> bool:
    """Whether a parameter counts the clients of a load."""
    return name == "batch" and "isl" in grid.values


def axis_label(name: str, grid: Grid) -> str:
    return "concurrency (clients)" if is_clients(name, grid) else f"{BY_NAME[name].label} ({BY_NAME[name].unit})"


def value_label(name: str, value: float, grid: Grid) -> str:
    key = "concurrency" if is_clients(name, grid) else BY_NAME[name].key.replace("_", " ")
    short = {"draft_length": "K", "alpha": "α"}.get(name, key)
    return f"{short} = {value:,.10g}"


def cube(grid: Grid, columns: Columns, key: str) -> Floats:
    """Return a result column as an array over the grid's axes, one-valued parameters dropped."""
    return np.asarray(columns[key], np.float64).reshape([n for n in grid.shape if n > 1])


def moved(grid: Grid, values: Floats, order: list[str | None]) -> Floats:
    """Transpose a cube to the axes in `order`; None stands for an axis of length one."""
    named = [o for o in order if o is not None]
    turned = values.transpose([grid.axes.index(o) for o in named])
    return turned.reshape([1 if o is None else len(grid.values[o]) for o in order])


def draw(grid: Grid, columns: Columns, layout: Layout, subtitle: str, ends: Ends | None = None) -> "Figure":
    """Return the figure of what `run_sweep` found on a grid, laid out by `plan`; subtitle: what was held fixed."""
    if layout.kind == "curves":
        with new_figure(7.2, 4.6) as figure:
            draw_curves(figure, grid, columns, layout, subtitle, ends)
        return figure
    rows, cols = (1 if name is None else len(grid.values[name]) for name in (layout.row, layout.column))
    if layout.row is None and cols > 4:  # one long row is folded
        rows, cols = -(-cols // 4), 4
    with new_figure(*((7.2, 4.8) if rows == cols == 1 else (2.9 * cols + 1.6, 2.5 * rows + 1.5))) as figure:
        panels = figure.subplots(rows, cols, sharex=True, sharey=True, squeeze=False)
        draw_surfaces(figure, panels, grid, columns, layout, subtitle)
    return figure


def set_scale(axes: "Axes", name: str, values: Floats, which: str, most: int = MOST_LABELS[0]) -> None:
    """Put ticks on whole numbers in plain figures; double from tick to tick where sizes span an order of magnitude."""
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    axis, doubles = getattr(axes, f"{which}axis"), name in ("batch", "context", "total")
    if values[0] > 0 and np.isfinite(values[-1]) and values[-1] / values[0] >= (8 if doubles else 100):
        getattr(axes, f"set_{which}scale")("log", base=2 if doubles else 10)
        if doubles:
            powers = 2.0 ** np.arange(np.ceil(np.log2(values[0])), np.floor(np.log2(values[-1])) + 1)
            axis.set_major_locator(FixedLocator(powers[:: -(-len(powers) // most)].tolist()))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    elif BY_NAME[name].whole and len(values) <= 16 and values[-1] - values[0] <= 32:
        axis.set_ticks(values)
        axis.set_ticks([], minor=True)
        axis.set_ticklabels([f"{v:g}" for v in values])


def draw_curves(
    figure: "Figure", grid: Grid, columns: Columns, layout: Layout, subtitle: str, ends: Ends | None
) -> None:
    """Draw speedup against x, one curve a value of y, by the closed form; bands where something is not known."""
    axes, order = figure.subplots(), [layout.y, layout.x]
    speedup = moved(grid, cube(grid, columns, "closed_form_speedup"), order)
    bands = None if ends is None else [moved(grid, cube(grid, {"": end}, ""), order) for end in ends]
    x, fits = grid.values[layout.x], moved(grid, fitting(grid, columns), order) > 0
    for i, line in enumerate(speedup):
        colour = PALETTE[i % len(PALETTE)]
        name = None if layout.y is None else f"{grid.values[layout.y][i]:,.10g}"
        if name and not fits[i].any():
            name += ": does not fit into memory"
        marker = MARKERS[i % len(MARKERS)] if len(x) <= MOST_MARKERS else ""
        style: dict[str, Any] = {"marker": marker, "linestyle": LINES[i % len(LINES)]}
        axes.plot(x, np.where(fits[i], line, np.nan), label=name, color=colour, markersize=4.5, linewidth=1.6, **style)
        if bands is not None:
            axes.fill_between(x, bands[0][i], bands[1][i], where=fits[i], color=colour, alpha=0.2, linewidth=0)
    axes.axhline(1, color="black", linewidth=1.2)
    place: Any = ("axes fraction", "data"), "offset points"
    axes.annotate("break-even", (1, 1), (-4, 5), *place, ha="right", fontsize=9, bbox=NUMBER_BOX)
    if "draft_length" in (layout.x, layout.y):
        mark_edge(figure, axes, layout, x, speedup, best_rows(grid, columns, layout))
    set_scale(axes, layout.x, x, "x")
    some = np.atleast_1d(fits.any(0))
    if some.any() and not some[-1]:
        mark_unfit(axes, x, some)
    axes.set_xlabel(axis_label(layout.x, grid))
    axes.set_ylabel("speedup over plain decoding (x)")
    low, high = axes.get_ylim()
    if low < 1:
        low = min(low, 1 - LEAST_OFF * (high - 1))
        axes.axhspan(low, 1, facecolor="none", edgecolor=HATCH_COLOUR, hatch=OFF_HATCH, linewidth=0, zorder=0)
        axes.annotate("off", (0.01, 1), (0, -5), *place, va="top", fontsize=9, bbox=NUMBER_BOX)
        axes.set_ylim(low, high)
    if layout.y is not None:
        axes.legend(
            title=axis_label(layout.y, grid).partition(" (")[0], fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1)
        )
    band = "; band: 95 %, of what is not known" if bands is not None else ""
    set_title(figure, "Speedup of speculative decoding", f"{subtitle}{band}")


def mark_edge(
    figure: "Figure", axes: "Axes", layout: Layout, x: Floats, speedup: Floats, best: NDArray[np.int64]
) -> None:
    """Mark the points of curves, [curves, x], where the best K is the longest that was looked at."""
    along = layout.x == "draft_length"
    edge = np.flatnonzero(best == speedup.shape[along] - 1)
    if len(edge):
        places = (np.full(len(edge), x[-1]), speedup[edge, -1]) if along else (x[edge], speedup[-1, edge])
        (mark,) = axes.plot(*places, "^", markersize=7, zorder=5, **BEST_STYLE)
        figure.legend([mark], [AT_EDGE], loc="outside lower center", frameon=False, fontsize=9)


def best_rows(grid: Grid, columns: Columns, layout: Layout) -> NDArray[np.int64]:
    """Return which of the draft lengths answers name as the best, a row each panel where these go up; -1: none does."""
    named, names = named_lengths(grid, columns), [name for name in grid.axes if name != "draft_length"]
    order = [name for name in (layout.row, layout.column, layout.x, layout.y) if name in names]
    turned = named.transpose([names.index(name) for name in order])
    lengths = grid.values["draft_length"]
    rows = np.where(turned > 0, np.searchsorted(lengths, np.nan_to_num(turned)), -1)
    return rows.reshape(-1, turned.shape[-1]) if layout.kind != "curves" else np.atleast_1d(rows)


def mark_unfit(axes: "Axes", x: Floats, fits: NDArray[np.bool_]) -> None:
    """Hatch the end of an axis, from between the last value that fits into memory and the next."""
    last = int(np.flatnonzero(fits)[-1])
    is_log, right = axes.get_xscale() == "log", float(x[-1]) * 1.05
    start = np.sqrt(x[last] * x[last + 1]) if is_log else (x[last] + x[last + 1]) / 2
    axes.set_xlim(axes.get_xlim()[0], right)
    axes.axvspan(start, right, facecolor="none", edgecolor=HATCH_COLOUR, hatch=UNFIT_HATCH, linewidth=0, zorder=0)
    style: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": 9, "bbox": NUMBER_BOX}
    axes.annotate("does not fit into memory", (1, 1), (-4, -4), "axes fraction", "offset points", **style)


def fitting(grid: Grid, columns: Columns) -> Floats:
    """Return 1 where models fit into memory, over the grid's axes; where that is not known as well."""
    return cube(grid, columns, "fits") if "fits" in columns else np.ones([n for n in grid.shape if n > 1])


def draw_surfaces(
    figure: "Figure", grid_axes: NDArray[Any], grid: Grid, columns: Columns, layout: Layout, subtitle: str
) -> None:
    """Draw speedup by the closed form over (x, y), a panel each value of the further axes, on one colour scale."""
    from matplotlib.colors import TwoSlopeNorm

    order = [layout.row, layout.column, layout.y, layout.x]
    panels = moved(grid, cube(grid, columns, "closed_form_speedup"), order)
    panels = np.where(moved(grid, fitting(grid, columns), order) > 0, panels, np.nan)
    flat = panels.reshape(-1, *panels.shape[2:])
    best = np.full((len(flat), flat.shape[2]), -1)
    if layout.y == "draft_length":
        best = best_rows(grid, columns, layout)
    norm = TwoSlopeNorm(1.0, LEAST_COLOUR, MOST_COLOUR)
    draw_panel = draw_cells if max(panels.shape[2:]) <= MOST_CELLS else draw_contours
    for i, axes in enumerate(grid_axes.flat[: len(flat)]):
        drawn = draw_panel(axes, grid, layout, flat[i], norm, best[i], alone=len(flat) == 1)
        axes.set_title(panel_title(grid, layout, i), fontsize=10)
    label_outer_panels(grid, grid_axes, layout, len(flat))
    figure.colorbar(drawn, ax=grid_axes, label="speedup over plain decoding (x)", shrink=0.9, extend="both")
    handles = legend_handles(grid, flat, best)
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    set_title(figure, "Speedup of speculative decoding (closed form)", subtitle)


def label_outer_panels(grid: Grid, grid_axes: NDArray[Any], layout: Layout, used: int) -> None:
    """Label the left column and the lowest used panel of each column; hide what is unused."""
    assert layout.y is not None
    columns = grid_axes.shape[1]
    for i, axes in enumerate(grid_axes.flat):
        axes.set_visible(i < used)
        if i % columns == 0:
            axes.set_ylabel(axis_label(layout.y, grid))
        if i + columns >= used:
            axes.set_xlabel(axis_label(layout.x, grid))
            axes.tick_params(labelbottom=True)


def draw_cells(
    axes: "Axes", grid: Grid, layout: Layout, panel: Floats, norm: Any, best: NDArray[np.int64], *, alone: bool
) -> Any:
    """Draw one panel, [y, x], as cells; alone: whether each may say its speedup. What is no answer is hatched."""
    from matplotlib.patches import Rectangle

    assert layout.y is not None
    x, y = grid.values[layout.x], grid.values[layout.y]
    drawn = axes.pcolormesh(np.arange(len(x)), np.arange(len(y)), np.ma.masked_invalid(panel), cmap=COLOURS, norm=norm)
    numbers = alone and panel.shape[0] <= MOST_NUMBERS[0] and panel.shape[1] <= MOST_NUMBERS[1]
    marked = {(row, column) for column, row in enumerate(best)}
    for (row, column), gain in np.ndenumerate(panel):
        fits = bool(np.isfinite(gain))
        if not fits or gain < 1:
            hatch = OFF_HATCH if fits else UNFIT_HATCH
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch=hatch, edgecolor=HATCH_COLOUR, linewidth=0))
        if numbers:
            words = f"{gain:.2f}" if fits else "-"
            place = column, row - NUMBER_BELOW * ((row, column) in marked)
            colour = "white" if fits and gain >= 1 and is_dark(drawn, gain) else "black"
            box = NUMBER_BOX if not fits or gain < 1 else None
            axes.text(*place, words, ha="center", va="center", fontsize=8, color=colour, bbox=box)
    for which, values, most in (("x", x, MOST_LABELS[not alone]), ("y", y, MOST_MARKERS // 2)):
        every = max(1, -(-len(values) // most))
        getattr(axes, f"set_{which}ticks")(np.arange(len(values))[::every], [f"{v:,.10g}" for v in values[::every]])
    axes.grid(False)
    draw_best(axes, np.arange(float(len(x))), np.arange(float(len(y))), best, BEST_ABOVE * numbers)
    return drawn


def is_dark(drawn: Any, gain: float) -> bool:
    """Whether a black number on the colour of a speedup is hard to read."""
    red, green, blue, _ = drawn.to_rgba(gain)
    return bool(0.299 * red + 0.587 * green + 0.114 * blue < 0.45)


def draw_contours(
    axes: "Axes", grid: Grid, layout: Layout, panel: Floats, norm: Any, best: NDArray[np.int64], *, alone: bool
) -> Any:
    """Draw one panel, [y, x], of many values as filled contours and the break-even line."""
    assert layout.y is not None
    x, y = grid.values[layout.x], grid.values[layout.y]
    # Scales first: contour labels are placed on the scale that they find.
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    set_scale(axes, layout.x, x, "x", MOST_LABELS[not alone])
    set_scale(axes, layout.y, y, "y")
    known = np.ma.masked_invalid(panel)
    shading: Any = "nearest" if np.ma.is_masked(known) else "gouraud"
    drawn = axes.pcolormesh(x, y, known, cmap=COLOURS, norm=norm, shading=shading)
    low, high = (float(v) for v in (known.min(), known.max()))
    if high - low > 1e-9:
        lines = axes.contour(x, y, known, levels=10 if alone else 5, colors="#404040", linewidths=0.5)
        # Where drafting is off, hatches would cross a label.
        axes.clabel(lines, [level for level in lines.levels if level > 1], fontsize=8, fmt="%g")
        drop_cut_labels(axes, lines, np.column_stack([x[best >= 0], y[best[best >= 0]]]))
    if low < 1 < high:
        axes.contourf(x, y, known, levels=[0, 1], colors="none", hatches=[OFF_HATCH])
        axes.contour(x, y, known, levels=[1.0], colors="black", linewidths=2.0)
    if np.ma.is_masked(known):
        axes.contourf(x, y, np.isnan(panel) * 1.0, levels=[0.5, 1.5], colors="none", hatches=[UNFIT_HATCH])
    axes.grid(False)
    draw_best(axes, x, y, best)
    return drawn


def drop_cut_labels(axes: "Axes", lines: Any, marks: Floats) -> None:
    """Remove contour labels so near the frame that it would cut them, or so near a mark or another one."""
    taken = [axes.transData.transform(place) for place in marks]
    for text in list(lines.labelTexts):
        place = axes.transData.transform(text.get_position())
        x, y = axes.transAxes.inverted().transform(place)
        is_near = any(np.abs(place - other).max() < LABEL_APART for other in taken)
        if is_near or not (0.03 < x < 0.97 and 0.03 < y < 0.97):
            text.remove()
        else:
            taken.append(place)


def draw_best(axes: "Axes", x: Floats, y: Floats, best: NDArray[np.int64], above: float = 0.0) -> None:
    """Mark the best K at each x where it pays; a triangle where it is the longest that was looked at.

    Of marks that would lie upon each other some are left out.
    """
    columns = np.flatnonzero(best >= 0)
    rows = best[columns]
    at_px = axes.transData.transform(np.column_stack([x[columns], y[rows]])) if len(columns) else np.zeros((0, 2))
    kept: list[int] = []
    for i in range(len(columns)):
        if not kept or np.abs(at_px[i] - at_px[kept[-1]]).max() >= APART:
            kept.append(i)
    columns, rows = columns[kept], rows[kept]
    at_edge = rows == len(y) - 1
    for where, marker in ((~at_edge, "o"), (at_edge, "^")):
        # A line without points would take place at the corner of the picture.
        if where.any():
            places = x[columns[where]], y[rows[where]] + above
            axes.plot(*places, marker, markersize=6, clip_on=False, zorder=5, **BEST_STYLE)


def panel_title(grid: Grid, layout: Layout, i: int) -> str:
    if layout.column is None:
        return ""
    columns = grid.values[layout.column]
    title = value_label(layout.column, columns[i % len(columns)], grid)
    if layout.row is None:
        return title
    return f"{value_label(layout.row, grid.values[layout.row][i // len(columns)], grid)}\n{title}"


def legend_handles(grid: Grid, panels: Floats, best: NDArray[np.int64]) -> list[Any]:
    """Return what the legend explains: whatever is drawn, once."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    if (panels < 1).any():
        handles.append(Patch(facecolor="none", edgecolor=HATCH_COLOUR, hatch=OFF_HATCH, label="off: below 1x"))
    if np.isnan(panels).any():
        words = "does not fit into memory"
        handles.append(Patch(facecolor="none", edgecolor=HATCH_COLOUR, hatch=UNFIT_HATCH, label=words))
    edge, ranged = len(grid.values["draft_length"]) - 1, ", of ranges" if has_ranges(grid) else ""
    if ((best >= 0) & (best < edge)).any():
        handles.append(Line2D([], [], marker="o", label=f"best K{ranged}", **BEST_STYLE))
    if (best == edge).any():
        handles.append(Line2D([], [], marker="^", label=f"{AT_EDGE}{ranged}", **BEST_STYLE))
    return handles
