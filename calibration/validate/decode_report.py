"""Forecasts of real decoding beside what was measured, for a terminal and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from simulator.ground.artefacts import envelope
from simulator.ground.command import table

from .decode_forecast import ABLATIONS, BEST_K_BOUND, MEDIAN_BOUND, P90_BOUND, Row, Verdict

KIND = "decode_validation"
# 1: first version.
SCHEMA_VERSION = 1


def result_json(
    rows: Sequence[Row],
    verdict: Verdict,
    ablations: Sequence[Mapping[str, Mapping[int, float]]],
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    """Return every row with its error, and what follows."""
    return envelope(KIND, SCHEMA_VERSION, parameters) | {
        "rows": [asdict(r) | {"error": r.error} for r in rows],
        "verdict": asdict(verdict),
        "ablation": [{name: {str(k): e for k, e in own.items()} for name, own in each.items()} for each in ablations],
        "bounds": {"median": MEDIAN_BOUND, "p90": P90_BOUND, "best_k_loss": BEST_K_BOUND},
    }


def result_text(
    rows: Sequence[Row],
    verdict: Verdict,
    ablations: Sequence[Mapping[str, Mapping[int, float]]] = (),
    max_error: float | None = None,
) -> str:
    """Return the table of rows, the ablation where there is one, and the verdict."""
    return "\n\n".join(filter(None, [rows_text(rows), ablation_text(ablations), verdict_text(verdict, max_error)]))


def rows_text(rows: Sequence[Row]) -> str:
    """Return a row for each draft length."""
    cells = [
        (
            "target",
            "K",
            "use",
            "tokens/round",
            "seen",
            "measured",
            "95 % interval",
            "forecast",
            "95 % interval",
            "error",
        )
    ]
    for r in rows:
        numbers = (f"{r.tokens_per_round:.3f}", f"{r.measured_tokens_per_round:.3f}")
        gains = (f"{r.measured:.3f}x", span(r.measured_ci95), f"{r.forecast:.3f}x", span(r.forecast_ci95))
        cells.append(
            (r.target, f"{r.draft_length}", "fit" if r.fitted else "forecast", *numbers, *gains, f"{r.error:+.1%}")
        )
    return table(cells, left=(0, 2))


def span(ends: Sequence[float] | None) -> str:
    """Return an interval."""
    return "" if ends is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]"


def ablation_text(ablations: Sequence[Mapping[str, Mapping[int, float]]]) -> str:
    """Say how far forecasts are off that use less of a trace."""
    if not ablations:
        return ""
    cells = [("the same costs, acceptance as", "median error", "90th percentile", "mean, signed")]
    for name in ABLATIONS:
        errors = np.array([e for own in ablations for e in own[name].values()])
        p90 = np.quantile(np.abs(errors), 0.9)
        cells.append((name, f"{np.median(np.abs(errors)):.2%}", f"{p90:.2%}", f"{errors.mean():+.2%}"))
    return table(cells)


def verdict_text(verdict: Verdict, max_error: float | None = None) -> str:
    """Return the errors of the rows that were not fitted, in a sentence each.

    Args:
        verdict: What was found.
        max_error: The bound on each row that stands in place of ours.
    """
    if verdict.median is None or verdict.p90 is None or verdict.largest is None:
        return "every row was fitted: nothing was forecast"
    errors = {"median error": verdict.median, "90th percentile": verdict.p90, "largest": verdict.largest}
    bounds = {"median error": MEDIAN_BOUND, "90th percentile": P90_BOUND}
    if max_error is not None:
        bounds = {"largest": max_error}
    said = (
        f"{name} {e:.2%}" + (f" (bound {100 * bounds[name]:g}%)" if name in bounds else "")
        for name, e in errors.items()
    )
    limit = f" (bound {BEST_K_BOUND:.0%})" if max_error is None else ""
    return (
        f"{verdict.rows} rows not fitted: {', '.join(said)}\n"
        f"the forecast's best K, of all rows, is at most {verdict.best_k_loss:.1%} slower than the measured best{limit}"
    )
