"""Forecast speedups beside what was measured, or what was measured alone, for a terminal and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from calibration.sources.decode import DecodeLog
from simulator.ground.artefacts import envelope
from simulator.ground.command import table

from .rows import Row, Validation

# 1: first version.
SCHEMA_VERSION = 1
ENDS = "95 % interval"
HEADS = ("target", "K", "use", "measured", ENDS, "forecast", ENDS, "error")
Ablation = Mapping[str, Mapping[int, float]]


def decode_json(validation: Validation, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return every row of decoding with its error, and what follows."""
    ablation = [
        {name: {str(k): e for k, e in errors.items()} for name, errors in run.items()} for run in validation.ablations
    ]
    return rows_json("decode_validation", validation, parameters) | {
        "ablation": ablation,
        "remarks": list(validation.remarks),
    }


def rows_json(kind: str, validation: Validation, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return every row with its error, the verdict and its bounds."""
    rows = [asdict(r) | {"error": r.error} for r in validation.rows]
    told = {"headline": headline(validation, parameters.get("max_error")), "rows": rows}
    verdict = {"verdict": asdict(validation.verdict), "bounds": validation.bounds.stated()}
    return envelope(kind, SCHEMA_VERSION, parameters) | told | verdict


def validation_text(validation: Validation, max_error: float | None = None) -> str:
    """Return the verdict, the table of rows, the ablation where there is one, and the remarks."""
    first = "\n".join([headline(validation, max_error), *verdict_text(validation, max_error)])
    parts = [first, rows_text(validation.rows), ablation_text(validation.ablations), "\n".join(validation.remarks)]
    return "\n\n".join(filter(None, parts))


def headline(validation: Validation, max_error: float | None = None) -> str:
    """Say whether the forecasts hold."""
    verdict = validation.verdict
    if verdict.median is None:
        return "Nothing holds: every row was fitted, nothing was forecast (calibrate --fit-k leaves rows out)."
    holds = "The forecasts hold" if verdict.holds(validation.bounds, max_error) else "The forecasts do not hold"
    return f"{holds}: median error {verdict.median:.2%} of {verdict.rows} rows that were not fitted."


def rows_text(rows: Sequence[Row]) -> str:
    """Return a row for each draft length: speedups, and below them tokens a round."""
    tokens = [("tokens a round", "K", "forecast", "measured")]
    for row in rows:
        counts = f"{row.tokens_per_round:.3f}", f"{row.measured_tokens_per_round:.3f}"
        tokens.append((row.target, f"{row.draft_length}", *counts))
    return f"{table([HEADS, *map(cells, rows)], left=(0, 2), keys=2)}\n\n{table(tokens, keys=2)}"


def cells(row: Row) -> tuple[str, ...]:
    """Write a row."""
    gains = (f"{row.measured:.3f}x", span(row.measured_ci95), f"{row.forecast:.3f}x", span(row.forecast_ci95))
    use = "fit" if row.fitted else "forecast"
    return (row.target, f"{row.draft_length}", use, *gains, f"{row.error:+.1%}")


def span(ends: Sequence[float] | None) -> str:
    """Return an interval."""
    return "" if ends is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]"


def measured_text(logs: Sequence[DecodeLog]) -> str:
    """Return what runs measured, a row for each draft length, where nothing could be forecast."""
    rows = [("target", "K", "tokens/round", "measured", ENDS)]
    for log in logs:
        for arm in log.arms:
            gain = (f"{arm.speedup:.3f}x", span(arm.speedup_ci95))
            rows.append((log.target, f"{arm.draft_length}", f"{arm.tokens_per_round:.3f}", *gain))
    return f"Nothing is forecast: fits do not pass their checks. What was measured:\n\n{table(rows, keys=2)}"


def measured_json(logs: Sequence[DecodeLog], reasons: Sequence[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same, and why there is no forecast."""
    rows = [
        {
            "target": log.target,
            "draft_length": arm.draft_length,
            "measured_tokens_per_round": arm.tokens_per_round,
            "measured": arm.speedup,
            "measured_ci95": arm.speedup_ci95,
        }
        for log in logs
        for arm in log.arms
    ]
    return envelope("decode_measured", SCHEMA_VERSION, parameters) | {"rows": rows, "reasons": list(reasons)}


def ablation_text(ablations: Sequence[Ablation]) -> str:
    """Say how far forecasts are off that use less of a trace."""
    if not ablations:
        return ""
    rows = [("the same costs, acceptance as", "median error", "90th percentile", "mean, signed")]
    for name in ablations[0]:
        errors = np.array([error for run in ablations for error in run[name].values()])
        p90 = np.quantile(np.abs(errors), 0.9)
        rows.append((name, f"{np.median(np.abs(errors)):.2%}", f"{p90:.2%}", f"{errors.mean():+.2%}"))
    return table(rows)


def verdict_text(validation: Validation, max_error: float | None = None) -> list[str]:
    """Return the errors of the rows that were not fitted, a line each; max_error stands in place of our bounds."""
    verdict, bounds = validation.verdict, validation.bounds.stated() if max_error is None else {"largest": max_error}
    if verdict.median is None:
        return []
    errors = []
    for name, words in (("median", "median error"), ("p90", "90th percentile"), ("largest", "largest")):
        bound = f" (bound {100 * bounds[name]:g}%)" if name in bounds else ""
        errors.append(f"{words} {getattr(verdict, name):.2%}{bound}")
    of_all = "" if validation.bounds.best_k_loss is None else ", of all rows,"
    bound = f" (bound {bounds['best_k_loss']:.0%})" if "best_k_loss" in bounds else ""
    choice = f"the forecast's best K{of_all} is at most {verdict.best_k_loss:.1%} slower than the measured best{bound}"
    return [f"{verdict.rows} rows not fitted: {', '.join(errors)}", choice]
