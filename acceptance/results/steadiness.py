"""Whether the machine was left alone: how far times of the same step lie apart between turns."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from acceptance.estimate.estimators import MIN_PROMPTS

from .records import latest
from .settings import BASELINE
from .summary import AT, Floats, units_of

# The 90th percentile of the times of a step over their median; above it, the machine did something else too.
MOST_SPREAD = 1.5
# Passes over so nearly as many tokens count as the same step.
ALIKE = 0.1


def steadiness_notes(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say that the machine was busy, where the times of one step vary between turns."""
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for record in latest(records):
        if record["status"] == "ok":
            by_method.setdefault(record["method"], []).append(record)
    most = max((spread_of(rows) for rows in by_method.values()), default=1.0)
    if most <= MOST_SPREAD:
        return []
    spread = f"times of the same step vary {most:.1f}-fold between turns"
    return [f"{spread}: the machine was busy, take more --runs or a quiet one"]


def spread_of(rows: list[Mapping[str, Any]]) -> float:
    """Return the 90th percentile over the median of one method's step; 1 of too few turns.

    Of the baseline all of a step counts. Of the others the verifying pass does: drafts differ in length, and passes
    over more or fewer tokens than most are not the same step.
    """
    units = np.array([*units_of(rows).values()]).reshape(-1, len(AT))
    units = units[column(units, "steps") > 0]
    if rows[0]["algorithm"] == BASELINE:
        return spread(column(units, "decode_s") / column(units, "steps"))
    width = (column(units, "drafted") + column(units, "rounds")) / column(units, "steps")
    usual = abs(width - np.median(width)) <= ALIKE * np.median(width) if len(width) else width > 0
    return spread(column(units, "verify_s")[usual] / column(units, "steps")[usual])


def column(units: Floats, name: str) -> Floats:
    """Return one column of all units."""
    values: Floats = units[:, AT[name]]
    return values


def spread(times: Floats) -> float:
    """Return the 90th percentile over the median; 1 of too few times."""
    middle = float(np.median(times)) if len(times) >= MIN_PROMPTS else 0.0
    return float(np.quantile(times, 0.9)) / middle if middle else 1.0
