"""What a fit has to pass before it becomes a profile, and what it says of itself."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .fit import Fit, run_s

# Relative; of points that the fit did not see, where there are any.
HELD_OUT_MEDIAN = 0.10
HELD_OUT_LARGEST = 0.35
FITTED_MEDIAN = 0.10
RELATIVE_ERROR = 0.35
CORRELATION = 0.995
CONDITION = 1e4
SPARE_POINTS = 2
# Of the time of the point that hangs most on a resource.
LEAST_SHARE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What is wrong with a fit, a sentence each; nothing where it may become a profile.

    held_out_median, held_out_largest: relative errors of points that it did not see; None where there are none.
    """

    reasons: tuple[str, ...]
    fitted_points: int
    held_out_points: int
    fitted_median: float
    held_out_median: float | None
    held_out_largest: float | None

    @property
    def passed(self) -> bool:
        """Whether it may become a profile."""
        return not self.reasons


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFit:
    """A fit and what was found out about it; no fit where there were too few points, and why."""

    fit: Fit | None
    diagnosis: Diagnosis | None
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether it may become part of a profile."""
        return self.diagnosis is not None and self.diagnosis.passed

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why not."""
        return self.diagnosis.reasons if self.diagnosis else (self.reason,)


def checked(fit: Callable[[], Fit]) -> CheckedFit:
    """Fit and check."""
    try:
        fitted = fit()
    except ValueError as error:
        return CheckedFit(fit=None, diagnosis=None, reason=str(error))
    return CheckedFit(fit=fitted, diagnosis=diagnose(fitted))


def diagnose(fit: Fit) -> Diagnosis:
    """Check a fit."""
    held_out = fit.observations.held_out
    seen, unseen = np.abs(fit.residuals[~held_out]), np.abs(fit.residuals[held_out])
    reasons = [*solver_reasons(fit), *error_reasons(fit), *parameter_reasons(fit)]
    if len(unseen) and np.median(unseen) > HELD_OUT_MEDIAN:
        reasons.append(beyond("the median error of points held out", float(np.median(unseen)), HELD_OUT_MEDIAN))
    if len(unseen) and unseen.max() > HELD_OUT_LARGEST:
        where = np.array(fit.observations.labels, object)[held_out][int(unseen.argmax())]
        reasons.append(beyond(f"the error of {where}, held out,", float(unseen.max()), HELD_OUT_LARGEST))
    if np.median(seen) > FITTED_MEDIAN:
        reasons.append(beyond("the median error of fitted points", float(np.median(seen)), FITTED_MEDIAN))
    return Diagnosis(
        reasons=tuple(reasons),
        fitted_points=len(seen),
        held_out_points=len(unseen),
        fitted_median=float(np.median(seen)),
        held_out_median=float(np.median(unseen)) if len(unseen) else None,
        held_out_largest=float(unseen.max()) if len(unseen) else None,
    )


def beyond(what: str, value: float, limit: float) -> str:
    """Return a reason."""
    return f"{what} is {value:.1%}, expected at most {limit:.0%}"


def solver_reasons(fit: Fit) -> list[str]:
    """Say whether the solver came to an end, and had points enough."""
    reasons = []
    if not fit.converged:
        reasons.append(f"the solver did not converge ({fit.message})")
    free, points = len(fit.cost.uncertain), int((~fit.observations.held_out).sum())
    if points < free + SPARE_POINTS:
        reasons.append(f"{points} points for {free} parameters, expected at least {free + SPARE_POINTS}")
    if fit.condition > CONDITION:
        reasons.append(f"the points do not tell the parameters apart (condition {fit.condition:.2g})")
    return reasons


def error_reasons(fit: Fit) -> list[str]:
    """Say which parameters the points leave open."""
    reasons = [f"no point depends on {name}" for name in fit.undetermined if needed(name, fit)]
    for name, error in fit.relative_errors.items():
        if needed(name, fit) and error > RELATIVE_ERROR:
            reasons.append(beyond(f"the standard error of {name}", error, RELATIVE_ERROR))
    size = len(fit.cost.uncertain)
    for i, j in zip(*np.triu_indices(size, 1), strict=True):
        one, other = fit.cost.uncertain[i], fit.cost.uncertain[j]
        # Neighbours of one curve may well be one value.
        if one.partition("[")[0] != other.partition("[")[0] and abs(fit.correlations[i, j]) > CORRELATION:
            reasons.append(f"{one} and {other} move together (correlation {fit.correlations[i, j]:+.4f})")
    return reasons


def needed(name: str, fit: Fit) -> bool:
    """Whether a forecast hangs on a parameter: the ends of the curves.

    How the two overlap and what a launch costs may be open where they hardly count.
    """
    flops = len(fit.form.flop_knots)
    return name in (f"flop_scale[{flops - 1}]", "mem_scale[0]")


def parameter_reasons(fit: Fit) -> list[str]:
    """Say which resource no point spends much of its time on: what such points say of its scale is mostly noise."""
    seen = fit.observations.fitted
    pass_s = run_s(fit.cost, seen) / seen.passes
    reasons = []
    for name, work, size in (("flop_scale", seen.flops, seen.tokens), ("mem_scale", seen.bytes, seen.bytes)):
        spent_s = getattr(fit.cost, name).at(np.maximum(size, 1)) * work
        largest = float((spent_s / pass_s).max())
        if largest < LEAST_SHARE:
            reasons.append(f"{name} is at most {largest:.0%} of any point's time, expected at least {LEAST_SHARE:.0%}")
    return reasons
