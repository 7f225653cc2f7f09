"""The picture of a validation: forecast against measurement, and the error, a column a unit. Computes nothing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from calibration.published.cases import UNITS
from simulator.ground.pictures import MARKERS, PALETTE, log_axis, new_figure, set_title

from .fit import CaseResult, RowResult
from .report import headline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def validation_figure(results: Sequence[CaseResult]) -> "Figure":
    """Return the scatter of every row of at least one case: forecast rows filled, fitted rows hollow."""
    units = [unit for unit in UNITS if any(r.row.measured_as == unit for result in results for r in result.rows)]
    columns = max(2, len(units))
    with new_figure(1.5 + 4.5 * len(units), 7.4 + 0.32 * len(results) / columns, parse_math=False) as figure:
        grid = figure.subplots(2, len(units), squeeze=False, height_ratios=(2, 1), sharex="col")
        for column, unit in enumerate(units):
            draw_unit(grid[0, column], grid[1, column], unit, results)
        figure.legend(
            handles=legend_handles(results), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
        )
        set_title(figure, "Forecast against measurement", headline(results), failed=not all(r.holds for r in results))
    return figure


def draw_unit(above: "Axes", below: "Axes", unit: str, results: Sequence[CaseResult]) -> None:
    """Draw the rows of one unit: forecast over measured, and the errors below."""
    points: list[float] = []
    for i, result in enumerate(results):
        for r in result.rows:
            if r.row.measured_as == unit:
                points += [r.row.measured, r.forecast]
                above.plot(r.row.measured, r.forecast, **style(i, r))
                below.plot(r.row.measured, 100 * r.error, **style(i, r))
    low, high = min(points) / 1.1, max(points) * 1.1
    above.plot([low, high], [low, high], color="black", linewidth=1, zorder=1)
    below.axhline(0, color="black", linewidth=1, zorder=1)
    for which in "xy":
        log_axis(above, which, low, high)
    name = "speedup (x)" if unit == "speedup" else UNITS[unit]
    above.set_ylabel(f"forecast, {name}")
    below.set_xlabel(f"measured, {name}")
    below.set_ylabel("error, %")


def style(case: int, result: RowResult) -> dict[str, Any]:
    """Colour and shape tell the case, the filling whether the row was forecast."""
    colour = PALETTE[case % len(PALETTE)]
    filled = result.row.use == "forecast"
    # Cases beyond the palette's length get other pairs of colour and shape.
    marker = MARKERS[(case + case // len(PALETTE)) % len(MARKERS)]
    look = {"color": colour, "markerfacecolor": colour if filled else "white", "zorder": 3 if filled else 2}
    return look | {"marker": marker, "markersize": 6, "linestyle": ""}


def legend_handles(results: Sequence[CaseResult]) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = []
    for i, result in enumerate(results):
        forecast_row = next(r for r in result.rows if r.row.use == "forecast")
        label = f"{result.case.name}, largest error {result.largest_error:.1%}"
        handles.append(Line2D([], [], label=label, **style(i, forecast_row)))
    grey: dict[str, Any] = {"color": "#595959", "marker": "o", "linestyle": "", "markersize": 6}
    handles.append(Line2D([], [], label="filled: forecast", **grey))
    handles.append(Line2D([], [], label="hollow: fitted", markerfacecolor="white", **grey))
    return handles
