"""The error table of forecasts against measurements, for a terminal and as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calibration.published.cases import UNITS, row_json
from simulator.ground.artefacts import envelope
from simulator.ground.command import table

from .fit import CaseResult, RowResult
from .turning import Turn

KIND = "published_validation"
# 1: first version.
SCHEMA_VERSION = 1
# Of bounds on a row's error: where those are parted that are told of.
WIDTHS = (0.1, 0.5)
HEADS = ("row", "use", "K", "tokens/round", "measured", "forecast", "unit", "error")


def result_text(results: Sequence[CaseResult]) -> str:
    """Return the summary, and a table for each case."""
    return "\n\n".join([summary_text(results), *map(case_text, results)])


def case_text(result: CaseResult) -> str:
    """Return what one case states, what was fitted, and its rows with their errors."""
    case = result.case
    head = [f"{case.name}: {case.models}; {case.hardware}", f"from {case.citation}"]
    head += [case.notes]
    head += [parameters_text(group, values) for group, values in result.parameters.items() if values]
    rows = [HEADS, *map(row_cells, result.rows)]
    if case.groups == ("",):
        return "\n".join([*head, "", table(rows, left=(0, 1, 6))])
    groups = ["group", *(r.row.group for r in result.rows)]
    grouped = [(group, *cells) for group, cells in zip(groups, rows, strict=True)]
    return "\n".join([*head, "", table(grouped, left=(0, 1, 2, 7))])


def parameters_text(group: str, values_ms: Mapping[str, float]) -> str:
    """Say what was fitted."""
    values = ", ".join(f"{name} {value:.4g}" for name, value in values_ms.items())
    return f"fitted{f' for {group}' if group else ''}: {values}"


def row_cells(result: RowResult) -> tuple[str, ...]:
    """Write a row: measured, forecast, and the error in percent."""
    row = result.row
    k = "" if row.drafted is None else f"{row.drafted:.3g}" if row.drafted < 100 else f"{row.drafted:.0f}"
    numbers = (f"{row.tau:.3f}", f"{row.measured:.4g}", f"{result.forecast:.4g}")
    return (row.name, row.use, k, *numbers, UNITS[row.measured_as], percent(result.error))


def percent(error: float) -> str:
    """Write an error with its sign; a rounded zero has none."""
    return "0.00%" if abs(error) < 5e-5 else f"{error:+.2%}"


def headline(results: Sequence[CaseResult]) -> str:
    """Say how far the forecasts are off, and how many cases are beyond their bounds."""
    broken, errors = sum(not r.holds for r in results), np.concatenate([r.errors for r in results])
    off = f"Median error {np.median(errors):.2%}, 90 % within {np.quantile(errors, 0.9):.1%}, the largest"
    bound = sum(verdict(r) != "no bound" for r in results)
    cases = f"{broken} of {len(results)} cases beyond their bounds" if broken else "every case within its bounds"
    cases = cases if bound == len(results) or broken else f"{bound} of {len(results)} cases have bounds, and hold"
    return f"{off} {errors.max():.1%}, of {len(errors)} rows that were not fitted; {cases if bound else 'no bounds'}."


def bounds_text(results: Sequence[CaseResult]) -> str:
    """Say how wide the bounds are: each case states its own, so that a case within its bounds may be far off."""
    bounds = sorted(((r.bound, r.case.name) for r in results if r.bound is not None), reverse=True)
    if len({bound for bound, _ in bounds}) < 2:
        return ""
    parts, low = [], 0.0
    for most in (*WIDTHS, np.inf):
        inside = [(bound, name) for bound, name in bounds if low < bound <= most or bound == low == 0]
        span = f"beyond {low:.0%}" if most == np.inf else f"{low:.0%} to {most:.0%}" if low else f"up to {most:.0%}"
        named = ", ".join(f"{name} {bound:.0%}" for bound, name in inside) if most == np.inf else ""
        parts += [f"{span} in {len(inside)}" + (f" ({named})" if named else "")] if inside else []
        low = most
    return f"Bounds on a row's error are each case's own: {', '.join(parts)}."


def summary_text(results: Sequence[CaseResult]) -> str:
    """Return a line for each case: its errors on the rows that were not fitted, the bounds, and whether they hold."""
    rows = [("case", "fitted rows", "forecast", "median error", "90 %", "largest", "bound", "")]
    for r in results:
        fits, bound = len(r.case.rows) - len(r.errors), "/".join(f"{100 * bound:g}" for *_, bound in r.bounds)
        far = (f"{r.median_error:.2%}", f"{r.p90_error:.2%}", f"{r.largest_error:.2%}")
        rows.append((r.case.name, str(fits), str(len(r.errors)), *far, bound and f"{bound}%", verdict(r)))
    said = [right_text(r) for r in results if r.case.min_right is not None]
    said += [turn_text(r.case.name, turn) for r in results for turn in r.turns]
    broken = "\n".join([*said, *(broken_text(r) for r in results if not r.holds)])
    first = "\n".join(filter(None, [headline(results), bounds_text(results)]))
    return "\n\n".join(filter(None, [first, table(rows, left=(0, 7)), broken]))


def right_text(result: CaseResult) -> str:
    """Say of how many speedups the forecast says rightly whether they pay."""
    right = f"whether speculation pays is said rightly of {result.right:.1%} of {len(result.errors)} rows"
    return f"{result.case.name}: {right}, {result.case.min_right:.0%} wanted"


def turn_text(name: str, turn: Turn) -> str:
    """Say from which load speculation no longer pays."""
    where = f"{name}, {turn.group}" if turn.group else name
    said = [
        f"pays with {most} clients, the most" if at is None else f"stops paying at {at} clients"
        for at, most in ((turn.forecast, turn.grid[-1]), (turn.measured, turn.grid[-1]))
    ]
    return (
        f"{where}: speculation {said[0]}; measured, it {said[1]}"
        if said[0] != said[1]
        else f"{where}: speculation {said[0]}, as measured"
    )


def broken_text(result: CaseResult) -> str:
    """Say which row breaks the bound."""
    worst = max((r for r in result.rows if r.row.use == "forecast"), key=lambda r: abs(r.error))
    where = f"{worst.row.group}, {worst.row.name}" if worst.row.group else worst.row.name
    middle = [] if result.is_right else [f"{1 - (result.right or 0):.1%} wrong whether it pays"]
    middle += [] if result.turns_hold else ["the load at which it stops paying"]
    middle += [f"{of} {error:.2%} > {bound:.2%}" for of, error, bound in result.bounds[:-1] if error > bound]
    return f"{result.case.name}: BROKEN by {', '.join([*middle, f'{where} ({worst.error:+.2%})'])}"


def verdict(result: CaseResult) -> str:
    """Say whether the bounds hold."""
    is_bound = bool(result.bounds) or result.case.min_right is not None or result.case.max_steps is not None
    return "no bound" if not is_bound else "holds" if result.holds else "BROKEN"


def result_json(results: Sequence[CaseResult], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results with their provenance; errors are fractions."""
    told = {"headline": headline(results), "cases": [case_result_json(r) for r in results]}
    return envelope(KIND, SCHEMA_VERSION, parameters) | told


def case_result_json(result: CaseResult) -> dict[str, Any]:
    case = result.case
    head = {name: getattr(case, name) for name in ("name", "citation", "hardware", "models", "notes")}
    rows = [row_json(r.row) | {"tau": r.row.tau, "forecast": r.forecast, "error": r.error} for r in result.rows]
    return head | {
        "fixed": dict(case.fixed),
        "fitted": {group: dict(values) for group, values in result.parameters.items()},
        "rows": rows,
        "median_error": result.median_error,
        "p90_error": result.p90_error,
        "largest_error": result.largest_error,
        "max_error": result.bound,
        "max_median": case.max_median,
        "max_p90": case.max_p90,
        "right": result.right,
        "min_right": case.min_right,
        "turns": [turn._asdict() | {"steps": turn.steps} for turn in result.turns],
        "max_steps": case.max_steps,
        "profile": case.profile,
        "curve": case.curve,
        "acceptance": case.acceptance,
        "holds": result.holds,
    }
