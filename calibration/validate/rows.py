"""What any validation against times comes down to: speedups by draft length, forecast and measured, and a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One draft length of one run: speedups of decoding, prompt left out, and tokens a round.

    fitted: whether its times went into the costs. The measured interval is over prompts, the forecast's over what is
    uncertain in costs and acceptance.
    """

    target: str
    draft_length: int
    fitted: bool
    tokens_per_round: float
    measured_tokens_per_round: float
    forecast: float
    forecast_ci95: tuple[float, float]
    measured: float
    measured_ci95: tuple[float, float] | None

    @property
    def error(self) -> float:
        """Forecast over measured, less 1."""
        return self.forecast / self.measured - 1


class Judged(Protocol):
    """What a verdict is made of: a row of any kind."""

    @property
    def target(self) -> str:
        """What was decoded with."""

    @property
    def fitted(self) -> bool:
        """Whether its times went into the costs."""

    @property
    def forecast(self) -> float:
        """A speedup."""

    @property
    def measured(self) -> float:
        """The same."""

    @property
    def error(self) -> float:
        """Forecast over measured, less 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the errors of `Verdict` may be; None: anything."""

    median: float
    p90: float | None = None
    best_k_loss: float | None = None

    def stated(self) -> dict[str, float]:
        """Return the bounds there are, by name."""
        every = {"median": self.median, "p90": self.p90, "best_k_loss": self.best_k_loss}
        return {name: bound for name, bound in every.items() if bound is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Errors of the rows that were not fitted, and what the choice of K by forecast costs in speed.

    median, p90, largest: of absolute errors; None without such rows. best_k_loss: how much slower the forecast's best
    K was measured than the measured best, the worst of the runs.
    """

    rows: int
    median: float | None
    p90: float | None
    largest: float | None
    best_k_loss: float

    def holds(self, bounds: Bounds, max_error: float | None = None) -> bool:
        """Whether the bounds hold, or in their place the one given for each row; nothing forecast holds nothing."""
        if self.median is None or self.largest is None:
            return False
        if max_error is not None:
            return self.largest <= max_error
        return all(getattr(self, name) <= bound for name, bound in bounds.stated().items())


def judge(rows: Sequence[Judged]) -> Verdict:
    """Return the errors of the rows that were not fitted."""
    errors = np.array([abs(r.error) for r in rows if not r.fitted])
    losses = []
    for target in dict.fromkeys(r.target for r in rows):
        of_target = [r for r in rows if r.target == target]
        chosen, best = max(of_target, key=lambda r: r.forecast), max(of_target, key=lambda r: r.measured)
        losses.append(1 - chosen.measured / best.measured)
    return Verdict(
        rows=len(errors),
        median=float(np.median(errors)) if len(errors) else None,
        p90=float(np.quantile(errors, 0.9)) if len(errors) else None,
        largest=float(errors.max()) if len(errors) else None,
        best_k_loss=max(losses),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Rows, and what they say.

    bounds: on their errors. ablations: of each run, the errors of its rows with coarser acceptance, by what that is and
    by draft length. remarks: what the errors are of, a sentence each.
    """

    rows: tuple[Row, ...]
    bounds: Bounds
    ablations: tuple[Mapping[str, Mapping[int, float]], ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Errors of the rows that were not fitted."""
        return judge(self.rows)
