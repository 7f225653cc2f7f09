"""What a profile says of rows of servers that it was fitted to: how well its constants and forecasts are known."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simulator.ground.fields import Field

from .step import Floats

MOST_ROWS, MOST_VARIANCE = 10**9, 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingFit:
    """The rows that constants were fitted to, and what they tell.

    sheet: the profile that was the prior. model, engine: of the rows; dtype: of weights, where rows do not say, ""
    where nobody does. constants: names, covariance: of their
    logarithms. tpot_error, ttft_error: standard errors of a row besides, relative; None where no row has any.
    """

    sheet: str
    model: str
    engine: str
    rows: int
    constants: tuple[str, ...]
    tpot_error: float
    covariance: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    ttft_error: float | None = None
    source_sha256: str = ""
    dtype: str = ""


def parse_serving_fit(entry: Field) -> ServingFit:
    """Read it."""
    names = tuple(name.text() for name in entry["constants"].elements())
    rows = [
        [cell.number(-MOST_VARIANCE, MOST_VARIANCE) for cell in row.elements()]
        for row in entry["covariance"].elements()
    ]
    if [len(row) for row in rows] != [len(names)] * len(names):
        entry["covariance"].refuse(f"{len(names)} x {len(names)} numbers")
    return ServingFit(
        sheet=entry["sheet"].text(),
        model=entry["model"].text(),
        engine=entry["engine"].text(empty=True),
        rows=entry["rows"].whole(1, MOST_ROWS),
        constants=names,
        covariance=np.array(rows, np.float64).reshape(len(names), len(names)),
        tpot_error=entry["tpot_error"].number(0.0, MOST_VARIANCE),
        ttft_error=entry["ttft_error"].number(0.0, MOST_VARIANCE) if entry["ttft_error"].is_given else None,
        source_sha256=entry["source_sha256"].text(empty=True),
        dtype=entry["dtype"].text(empty=True) if entry["dtype"].is_given else "",
    )


def serving_fit_json(fit: ServingFit) -> dict[str, Any]:
    """Return it under the names of its file."""
    members = {name: getattr(fit, name) for name in ServingFit.__slots__}
    return members | {"constants": list(fit.constants), "covariance": fit.covariance.tolist()}
