"""Forecasts of methods beside what was measured, and what their rounds are made of, for a terminal and as JSON."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from simulator.ground.artefacts import envelope
from simulator.ground.command import table

from .methods import MethodValidation
from .row_report import ENDS, span

# 1: first version.
SCHEMA_VERSION = 1
NAMES = ("draft", "verify", "rest")


def method_json(validation: MethodValidation, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return every row with its error, the verdict and its bounds."""
    rows = [
        asdict(r) | {"error": r.error, "round_s": r.round_s._asdict(), "parts_s": r.parts_s._asdict()}
        for r in validation.rows
    ]
    steps = [
        {"target": target, "step_s": took._asdict(), "parts_s": parts._asdict()}
        for target, took, parts in validation.steps
    ]
    verdict = {"verdict": asdict(validation.verdict), "bounds": validation.bounds.stated()}
    found = {"rows": rows, "plain_steps": steps, "remarks": list(validation.remarks)}
    found["headline"] = headline(validation, parameters.get("max_error"))
    return envelope("method_validation", SCHEMA_VERSION, parameters) | found | verdict


def headline(validation: MethodValidation, max_error: float | None = None) -> str:
    """Say whether the forecasts hold."""
    verdict = validation.verdict
    holds = "The forecasts hold" if verdict.holds(validation.bounds, max_error) else "The forecasts do not hold"
    return f"{holds}: median error {verdict.median:.2%} of {verdict.rows} methods, from parts of their rounds."


def method_text(validation: MethodValidation, max_error: float | None = None) -> str:
    """Return the verdict, the table of rows, that of their parts, and the remarks."""
    verdict, bounds = validation.verdict, validation.bounds.stated()
    told = {
        "median": f" (bound {bounds['median']:.0%})",
        "best": f" (bound {bounds['best_k_loss']:.0%})",
        "largest": "",
    }
    if max_error is not None:
        told = {"median": "", "best": "", "largest": f" (bound {100 * max_error:g}%)"}
    errors = f"median error {verdict.median:.2%}{told['median']}, 90th percentile {verdict.p90:.2%}"
    lines = [
        headline(validation, max_error),
        f"{errors}, largest {verdict.largest:.2%}{told['largest']}",
        f"the forecast's best method is at most {verdict.best_k_loss:.1%} slower than the measured best{told['best']}",
    ]
    parts = ["\n".join(lines), rows_text(validation), phases_text(validation), "\n".join(validation.remarks)]
    return "\n\n".join(filter(None, parts))


def rows_text(validation: MethodValidation) -> str:
    """Return a row for each arm, the fastest of each target first."""
    rows = [("target", "method", "K", "tokens/round", "measured", ENDS, "forecast", "error")]
    targets = list(dict.fromkeys(r.target for r in validation.rows))
    for r in sorted(validation.rows, key=lambda r: (targets.index(r.target), -r.measured)):
        gains = (f"{r.measured:.3f}x", span(r.measured_ci95), f"{r.forecast:.3f}x", f"{r.error:+.1%}")
        rows.append((r.target, r.method, r.drafts, f"{r.tokens_per_round:.3f}", *gains))
    return table(rows, left=(0, 1, 2), keys=3)


def phases_text(validation: MethodValidation) -> str:
    """Return where the time of a round goes, as it was decoded and by its parts: what a forecast lacks shows here."""
    rows = [("ms a round", *(what for name in NAMES for what in (name, "of parts")))]
    for target, took, parts in validation.steps:
        rows.append((f"{target}, plain", *cells(took, parts)))
        for r in validation.rows:
            if r.target == target:
                rows.append((r.name, *cells(r.round_s, r.parts_s)))
    return table(rows)


def cells(took: tuple[float, ...], parts: tuple[float, ...]) -> Iterator[str]:
    """Write phases side by side: decoded, of parts."""
    for pair in zip(1e3 * np.array(took), 1e3 * np.array(parts), strict=True):
        yield from (f"{ms:.2f}" for ms in pair)
