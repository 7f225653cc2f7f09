"""Forecasts of timed passes beside what was measured, for a terminal and as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from .decode_forecast import Row, Verdict
from .decode_report import result_json as decode_json
from .decode_report import rows_text

KIND = "pass_validation"
# 1: first version.
SCHEMA_VERSION = 1
MEDIAN_BOUND = 0.08


def holds(verdict: Verdict, max_error: float | None) -> bool:
    """Whether the bounds hold: the given one for each row, or else ours for the median."""
    if verdict.median is None or verdict.largest is None:
        return True
    return verdict.largest <= max_error if max_error is not None else verdict.median <= MEDIAN_BOUND


def result_json(rows: Sequence[Row], verdict: Verdict, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return every row with its error, and what follows."""
    found = decode_json(rows, verdict, (), parameters)
    del found["ablation"]
    return found | {"kind": KIND, "schema_version": SCHEMA_VERSION, "bounds": {"median": MEDIAN_BOUND}}


def result_text(rows: Sequence[Row], verdict: Verdict, max_error: float | None) -> str:
    """Return the table of rows, and the verdict."""
    return f"{rows_text(rows)}\n\n{verdict_text(verdict, max_error)}"


def verdict_text(verdict: Verdict, max_error: float | None) -> str:
    """Return the errors of the rows that were not fitted, in a sentence each."""
    if verdict.median is None or verdict.p90 is None or verdict.largest is None:
        return "every row was fitted: nothing was forecast"
    ours = f" (bound {MEDIAN_BOUND:.0%})" if max_error is None else ""
    given = f" (bound {100 * max_error:g}%)" if max_error is not None else ""
    return (
        f"{verdict.rows} rows not fitted: median error {verdict.median:.2%}{ours}, "
        f"90th percentile {verdict.p90:.2%}, largest {verdict.largest:.2%}{given}\n"
        f"the forecast's best K is at most {verdict.best_k_loss:.1%} slower than the measured best"
    )
