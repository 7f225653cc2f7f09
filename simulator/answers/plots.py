"""Pictures of a sweep: speedup as a surface, as curves by K, or as small multiples. Computes no results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulator.costs.parameters import BY_NAME
from simulator.costs.step import Floats
from simulator.ground.artefacts import UserError
from simulator.ground.pictures import MARKERS, PALETTE, new_figure
from simulator.rounds.grid import Columns, Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CURVES = 8
MAX_PANELS = 16
LINES = ("-", "--", "-.", ":")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What goes where: kind is surface, curves or multiples; the rest are names of parameters (None: not used)."""

    kind: str
    x: str
    y: str | None = None
    column: str | None = None
    row: str | None = None


def plan(grid: Grid, kind: str) -> Layout:
    """Choose what goes on which axis; refuses a grid without one, with too many, or too many values to tell apart."""
    axes = sorted(grid.axes, key=lambda name: (name != "draft_length", -len(grid.values[name])))
    if not axes:
        raise UserError("--plot: the grid has one point, expected a list or range for at least one option")
    endless = [name for name in axes if not np.isfinite(grid.values[name]).all()]
    if endless:
        raise UserError(
            f"--plot: {BY_NAME[endless[0]].key} includes inf, which has no place on an axis; expected finite values"
        )
    chosen = kind if kind != "auto" else natural_kind(grid, axes)
    allowed = {"curves": (1, 2), "surface": (2,), "multiples": (3, 4)}[chosen]
    if len(axes) not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise UserError(
            f"--plot: {len(axes)} options vary ({keys_of(axes)}), expected {wanted} for {chosen}; "
            "vary fewer and plot again, or read the table"
        )
    if chosen == "curves":
        return curves_layout(grid, axes)
    # Draft length goes up the y axis, so that the best K reads as a line across.
    y, x, *panels = axes if axes[0] == "draft_length" else (axes[1], axes[0], *axes[2:])
    panel_count = int(np.prod([len(grid.values[p]) for p in panels]))
    if panel_count > MAX_PANELS:
        raise UserError(f"--plot: {panel_count} panels over {keys_of(panels)}, at most {MAX_PANELS} are legible")
    column, row = [*panels, None, None][:2]
    return Layout(kind=chosen, x=x, y=y, column=column, row=row)


def keys_of(names: Sequence[str]) -> str:
    """Return parameters as results call them."""
    return ", ".join(BY_NAME[name].key for name in names)


def natural_kind(grid: Grid, axes: list[str]) -> str:
    """Curves for one axis, or where the second has too few values for a surface; else by the number of axes."""
    if len(axes) > 2:
        return "multiples"
    return "surface" if len(axes) == 2 and min(len(grid.values[a]) for a in axes) >= 4 else "curves"


def curves_layout(grid: Grid, axes: list[str]) -> Layout:
    x, *others = axes
    if others and len(grid.values[x]) <= MAX_CURVES < len(grid.values[others[0]]):
        x, others = others[0], [x]
    if others and len(grid.values[others[0]]) > MAX_CURVES:
        count = len(grid.values[others[0]])
        raise UserError(f"--plot: {count} curves over {keys_of(others)}, at most {MAX_CURVES} can be told apart")
    return Layout(kind="curves", x=x, y=others[0] if others else None)


def axis_label(name: str) -> str:
    return f"{BY_NAME[name].label} ({BY_NAME[name].unit})"


def value_label(name: str, value: float) -> str:
    short = {"draft_length": "K", "alpha": "α"}.get(name, BY_NAME[name].key.replace("_", " "))
    return f"{short} = {value:g}"


def cube(grid: Grid, columns: Columns, key: str) -> Floats:
    """Return a result column as an array over the grid's axes, one-valued parameters dropped."""
    return np.asarray(columns[key], np.float64).reshape([n for n in grid.shape if n > 1])


def speedup_key(columns: Columns) -> str:
    return "speedup" if "speedup" in columns else "closed_form_speedup"


def moved(grid: Grid, values: Floats, order: list[str | None]) -> Floats:
    """Transpose a cube to the axes in `order`; None stands for an axis of length one."""
    named = [o for o in order if o is not None]
    turned = values.transpose([grid.axes.index(o) for o in named])
    return turned.reshape([1 if o is None else len(grid.values[o]) for o in order])


def draw(grid: Grid, columns: Columns, layout: Layout, subtitle: str) -> "Figure":
    """Return the figure of what `run_sweep` found on a grid, laid out by `plan`; subtitle: what was held fixed."""
    if layout.kind == "curves":
        with new_figure(7.2, 4.6) as figure:
            draw_curves(figure, grid, columns, layout, subtitle)
        return figure
    rows, cols = (1 if name is None else len(grid.values[name]) for name in (layout.row, layout.column))
    if layout.row is None and cols > 4:  # one long row is folded
        rows, cols = -(-cols // 4), 4
    with new_figure(*((7.2, 4.8) if rows == cols == 1 else (2.9 * cols + 1.6, 2.5 * rows + 1.5))) as figure:
        panels = figure.subplots(rows, cols, sharex=True, sharey=True, squeeze=False)
        draw_surfaces(figure, panels, grid, columns, layout, subtitle)
    return figure


def title(first: str, second: str) -> str:
    """Join two lines; a dollar sign in a file's name is no formula."""
    return f"{first}\n{second}".replace("$", r"\$")


def set_scale(axes: "Axes", name: str, values: Floats, which: str) -> None:
    """Put ticks on whole numbers, and use a logarithm where values span two decades."""
    if values[0] > 0 and np.isfinite(values[-1]) and values[-1] / values[0] >= 100:
        getattr(axes, f"set_{which}scale")("log")
    elif BY_NAME[name].whole and len(values) <= 16 and values[-1] - values[0] <= 32:
        axis = getattr(axes, f"{which}axis")
        axis.set_ticks(values)
        axis.set_ticks([], minor=True)
        axis.set_ticklabels([f"{v:g}" for v in values])


def draw_curves(figure: "Figure", grid: Grid, columns: Columns, layout: Layout, subtitle: str) -> None:
    """Draw speedup against x, one curve a value of y, with 95 % intervals where there was simulation."""
    axes, order = figure.subplots(), [layout.y, layout.x]
    speedup = moved(grid, cube(grid, columns, speedup_key(columns)), order)
    ends = None
    if "simulation_noise_low95" in columns and np.isfinite(columns["simulation_noise_low95"]).any():
        ends = [moved(grid, cube(grid, columns, f"simulation_noise_{e}95"), order) for e in ("low", "high")]
    x = grid.values[layout.x]
    for i, line in enumerate(speedup):
        colour = PALETTE[i % len(PALETTE)]
        name = None if layout.y is None else value_label(layout.y, grid.values[layout.y][i])
        style: dict[str, Any] = {"marker": MARKERS[i % len(MARKERS)], "linestyle": LINES[i % len(LINES)]}
        axes.plot(x, line, label=name, color=colour, markersize=4.5, linewidth=1.6, **style)
        if ends is not None:
            axes.fill_between(x, ends[0][i], ends[1][i], color=colour, alpha=0.2, linewidth=0)
    axes.axhline(1, color="black", linewidth=1.2)
    axes.annotate("break-even", (1, 1), (-4, 3), ("axes fraction", "data"), "offset points", ha="right", fontsize=9)
    set_scale(axes, layout.x, x, "x")
    axes.set_xlabel(axis_label(layout.x))
    axes.set_ylabel("speedup over plain decoding (x)")
    if layout.y is not None:
        axes.legend(title=BY_NAME[layout.y].label, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1))
    kind = "simulated" if "speedup" in columns else "closed form"
    band = "band: 95 % interval" if ends is not None else kind
    figure.suptitle(title("Speedup of speculative decoding", f"{subtitle}; {band}"), fontsize=11)


def draw_surfaces(
    figure: "Figure", grid_axes: NDArray[Any], grid: Grid, columns: Columns, layout: Layout, subtitle: str
) -> None:
    """Draw contours of speedup over (x, y), a panel each value of the further axes, on one colour scale."""
    order = [layout.row, layout.column, layout.y, layout.x]
    panels = moved(grid, cube(grid, columns, speedup_key(columns)), order)
    expected = moved(grid, cube(grid, columns, "closed_form_speedup"), order)
    flat, ridge = (cube.reshape(-1, *panels.shape[2:]) for cube in (panels, expected))
    levels = contour_levels(panels)
    for i, axes in enumerate(grid_axes.flat[: len(flat)]):
        filled = draw_surface(axes, grid, layout, flat[i], levels)
        if layout.y == "draft_length":
            # The best K at each x by the closed form, which has no noise to make the line jump.
            best = grid.values["draft_length"][ridge[i].argmax(0)]
            style: dict[str, Any] = {"color": "white", "markeredgecolor": "black", "markersize": 5, "linewidth": 1.2}
            axes.plot(grid.values[layout.x], best, "o-", clip_on=False, zorder=5, **style)
        axes.set_title(panel_title(grid, layout, i), fontsize=10)
    label_outer_panels(grid_axes, layout, len(flat))
    figure.colorbar(filled, ax=grid_axes, label="speedup over plain decoding (x)", shrink=0.9)
    handles = legend_handles(layout, crosses=bool(panels.min() < 1 < panels.max()))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    kind = "simulated" if speedup_key(columns) == "speedup" else "closed form"
    figure.suptitle(title(f"Speedup of speculative decoding ({kind})", subtitle), fontsize=11)


def label_outer_panels(grid_axes: NDArray[Any], layout: Layout, used: int) -> None:
    """Label the left column and the lowest used panel of each column; hide what is unused."""
    assert layout.y is not None
    columns = grid_axes.shape[1]
    for i, axes in enumerate(grid_axes.flat):
        axes.set_visible(i < used)
        if i % columns == 0:
            axes.set_ylabel(axis_label(layout.y))
        if i + columns >= used:
            axes.set_xlabel(axis_label(layout.x))
            axes.tick_params(labelbottom=True)


def contour_levels(values: Floats) -> Floats:
    """About ten round levels over all values."""
    from matplotlib.ticker import MaxNLocator

    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    return np.asarray(MaxNLocator(nbins=10, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))


def draw_surface(axes: "Axes", grid: Grid, layout: Layout, panel: Floats, levels: Floats) -> Any:
    """Draw one panel, shape [y, x]: filled contours and the break-even line."""
    assert layout.y is not None
    x, y = grid.values[layout.x], grid.values[layout.y]
    # Scales first: contour labels are placed on the scale that they find.
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    set_scale(axes, layout.x, x, "x")
    set_scale(axes, layout.y, y, "y")
    filled = axes.contourf(x, y, panel, levels=levels, cmap="cividis")
    inner = [level for level in levels[1:-1] if level != 1]
    lines = axes.contour(x, y, panel, levels=inner, colors="white", linewidths=0.5)
    axes.clabel(lines, fontsize=8, fmt="%g")
    drop_cut_labels(axes, lines)
    if panel.min() < 1 < panel.max():
        # White under black: the line shows on both ends of the palette.
        for width, colour in ((4.0, "white"), (2.0, "black")):
            axes.contour(x, y, panel, levels=[1.0], colors=colour, linewidths=width)
    axes.grid(False)
    return filled


def drop_cut_labels(axes: "Axes", lines: Any) -> None:
    """Remove contour labels so near the frame that it would cut them."""
    for text in list(lines.labelTexts):
        x, y = axes.transAxes.inverted().transform(axes.transData.transform(text.get_position()))
        if not (0.03 < x < 0.97 and 0.03 < y < 0.97):
            text.remove()


def panel_title(grid: Grid, layout: Layout, i: int) -> str:
    if layout.column is None:
        return ""
    columns = grid.values[layout.column]
    title = value_label(layout.column, columns[i % len(columns)])
    if layout.row is None:
        return title
    return f"{value_label(layout.row, grid.values[layout.row][i // len(columns)])}\n{title}"


def legend_handles(layout: Layout, *, crosses: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color="black", linewidth=2, label="break-even (1x)")] if crosses else []
    if layout.y == "draft_length":
        ridge = Line2D([], [], label="best K (closed form)", marker="o", color="#8C8C8C", markerfacecolor="white")
        ridge.set_markeredgecolor("black")
        handles.append(ridge)
    return handles
