"""What of a sweep goes where in its picture: which option on which axis, as curves, a surface or panels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator.costs.parameters import BY_NAME
from simulator.ground.artefacts import UserError
from simulator.rounds.grid import Grid

MAX_CURVES = 8
MAX_PANELS = 16


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
