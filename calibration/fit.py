"""Fits the one cost function to timed passes: bounded, robust least squares on relative errors (model §2).

Time of a run = passes x step_s(flops, bytes). Parameters are fitted as logarithms, a curve as its last value and rises
towards the first, so that it is monotone: seconds a FLOP fall with the tokens of a pass, seconds a byte grow with its
bytes (caches). A parameter that ends at its bound is taken out: a launch at no time at all, an exponent at infinity.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.profile import Curve, PassCost

from .observations import Observations

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

Floats = NDArray[np.float64]
# Seconds, far outside of any device: where a bound is reached, the parameter plays no part.
LEAST_S, MOST_S = 1e-9, 1.0
LARGEST_RISE = 12.0
STARTING_EXPONENTS = (0.05, 0.5, 0.95)
# What the model itself is off by at least, relative; noise of the samples comes on top.
LEAST_DISCREPANCY = 0.005
# Change of all residuals together, in standard errors, by a factor of e: less is none.
NO_EFFECT = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Which parameters a fit has: knots of the curves, and whether launches and a fixed time are told apart."""

    flop_knots: tuple[float, ...] = (1.0,)
    mem_knots: tuple[float, ...] = (1.0,)
    launch: bool = True
    fixed: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters in the order of the vector; 1/m stands for the overlap exponent."""
        flops = [f"flop_scale[{i}]" for i in range(len(self.flop_knots))]
        memory = [f"mem_scale[{i}]" for i in range(len(self.mem_knots))]
        return (*flops, *memory, *(["launch_s"] * self.launch), *(["fixed_s"] * self.fixed), "overlap_exponent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What was found.

    relative_errors: standard errors over values, of free parameters. correlations: of free parameters, in the order of
    `cost.uncertain`. at_bounds: parameters that play no part. undetermined: those that no point depends on. residuals:
    (measured - fitted) / fitted of all points, those held out among them. discrepancy: relative, of the model itself.
    condition: of the scaled normal equations.
    """

    form: Form
    observations: Observations
    cost: PassCost
    relative_errors: dict[str, float]
    correlations: Floats
    at_bounds: tuple[str, ...]
    undetermined: tuple[str, ...]
    residuals: Floats
    discrepancy: float
    condition: float
    converged: bool
    message: str
    bic: float


def run_s(cost: PassCost, seen: Observations) -> Floats:
    """Return the seconds of each run under a cost, [*samples, points]."""
    return cost.pass_s(seen.flops, seen.bytes, seen.tokens, seen.launches) * seen.passes


def unpack(vector: Floats, form: Form) -> PassCost:
    """Return the cost that a vector of parameters stands for."""
    flops, memory = len(form.flop_knots), len(form.mem_knots)
    told = iter(vector[flops + memory :])
    return PassCost(
        flop_scale=Curve(np.array(form.flop_knots), np.exp(np.cumsum(vector[:flops][::-1])[::-1])),
        mem_scale=Curve(np.array(form.mem_knots), np.exp(np.cumsum(vector[flops : flops + memory]))),
        launch_s=np.exp(next(told)) if form.launch else 0.0,
        fixed_s=np.exp(next(told)) if form.fixed else 0.0,
        overlap_exponent=1 / np.maximum(next(told), 1e-6),
    )


def fastest(seen: Observations) -> tuple[float, float]:
    """Return the logarithms of the least seconds a FLOP and a byte that any pass shows, if all its time were theirs."""
    a_pass = seen.seconds / seen.passes

    def least(work: Floats) -> float:
        return float(np.log((a_pass[work > 0] / work[work > 0]).min())) if np.any(work > 0) else np.log(LEAST_S)

    return least(seen.flops), least(seen.bytes)


def bounds(form: Form, seen: Observations) -> tuple[Floats, Floats]:
    """Return the least and largest vector; no resource is slower than if it took all the time."""
    rise = (0.0, LARGEST_RISE)
    flop, byte = fastest(seen)
    flops = [*[rise] * (len(form.flop_knots) - 1), (flop - LARGEST_RISE, flop + 1)]
    memory = [(byte - LARGEST_RISE, byte + 1), *[rise] * (len(form.mem_knots) - 1)]
    seconds = [(np.log(LEAST_S), np.log(MOST_S))] * (form.launch + form.fixed)
    low, high = zip(*flops, *memory, *seconds, (0.0, 1.0), strict=True)
    return np.array(low, np.float64), np.array(high, np.float64)


def start(seen: Observations, form: Form, exponent: float) -> Floats:
    """Return where to begin: each resource as if it alone took the time of its best point."""
    flop, byte = fastest(seen)
    flops = [0.1] * (len(form.flop_knots) - 1) + [flop]
    memory = [byte] + [0.1] * (len(form.mem_knots) - 1)
    least_s = float((seen.seconds / seen.passes / seen.launches).min())
    launch = float(np.log(np.clip(least_s, 2 * LEAST_S, MOST_S / 2)))
    return np.array([*flops, *memory, *[launch] * form.launch, *[launch] * form.fixed, exponent], np.float64)


def solve(seen: Observations, form: Form, discrepancy: float) -> "OptimizeResult":
    """Return the best of several starts."""
    from scipy.optimize import least_squares

    weight = 1 / np.hypot(seen.error_s / seen.seconds, discrepancy)

    def residuals(vector: Floats) -> Floats:
        return np.asarray((np.log(run_s(unpack(vector, form), seen)) - np.log(seen.seconds)) * weight)

    low, high = bounds(form, seen)
    found = []
    for exponent in STARTING_EXPONENTS:
        first = np.clip(start(seen, form, exponent), low + 1e-9, high - 1e-9)
        found.append(least_squares(residuals, first, bounds=(low, high), loss="soft_l1", x_scale="jac", max_nfev=400))
    return min(found, key=lambda r: float(r.cost))


def fit(observations: Observations, form: Form) -> Fit:
    """Fit the cost function to the points that are not held out.

    Args:
        observations: Timed runs; those held out only get their residuals.
        form: Which parameters there are.

    Raises:
        ValueError: Fewer points than parameters.
    """
    seen = observations.fitted
    if len(seen) < len(form.names):
        raise ValueError(f"{len(seen)} points to fit, expected at least {len(form.names)}")
    discrepancy = LEAST_DISCREPANCY
    for _ in range(3):
        # The model's own error is what is left after the noise: the points say how much.
        solved = solve(seen, form, discrepancy)
        cost = unpack(solved.x, form)
        off = np.log(seen.seconds / run_s(cost, seen))
        free = max(1, len(seen) - int((solved.active_mask == 0).sum()))
        spread = 1.4826 * float(np.median(np.abs(off))) * np.sqrt(len(seen) / free)
        noise = float(np.median(seen.error_s / seen.seconds))
        discrepancy = max(LEAST_DISCREPANCY, float(np.sqrt(max(0.0, spread**2 - noise**2))))
    return described(observations, form, solved, discrepancy)


def described(observations: Observations, form: Form, solved: "OptimizeResult", discrepancy: float) -> Fit:
    """Return a solution with what it says of itself."""
    cost, at_bounds = without_idle(unpack(solved.x, form), form, solved)
    covariance, condition = covariance_of(solved, form)
    unseen = np.linalg.norm(np.asarray(solved.jac) @ np.linalg.inv(to_logs(form, solved.x)), axis=0) < NO_EFFECT
    undetermined = tuple(n for n, none in zip(form.names, unseen, strict=True) if none and n not in at_bounds)
    kept = [i for i, name in enumerate(form.names) if name not in (*at_bounds, *undetermined)]
    names = tuple(form.names[i] for i in kept)
    covariance = covariance[np.ix_(kept, kept)]
    errors = np.sqrt(np.diag(covariance))
    scale = np.where(errors > 0, errors, 1.0)
    seen = observations.fitted
    noise = np.hypot(seen.error_s / seen.seconds, discrepancy)
    log_likelihood = -float(solved.cost) - float(np.log(noise).sum())
    fitted_s = run_s(cost, observations)
    return Fit(
        form=form,
        observations=observations,
        cost=replace(cost, uncertain=names, covariance=covariance),
        relative_errors=dict(zip(names, errors.tolist(), strict=True)),
        correlations=covariance / np.outer(scale, scale),
        at_bounds=at_bounds,
        undetermined=undetermined,
        residuals=observations.seconds / fitted_s - 1,
        discrepancy=discrepancy,
        condition=condition,
        converged=bool(solved.success),
        message=str(solved.message),
        bic=float(len(names) * np.log(len(seen)) - 2 * log_likelihood),
    )


def without_idle(cost: PassCost, form: Form, solved: "OptimizeResult") -> tuple[PassCost, tuple[str, ...]]:
    """Take out what ended at its bound and plays no part: no launch, no fixed time, full or no overlap."""
    at_bounds = []
    for name, mask, value in zip(form.names, solved.active_mask, solved.x, strict=True):
        near = name in ("launch_s", "fixed_s") and value < np.log(LEAST_S) + 0.5
        if name == "overlap_exponent" and (value < 1e-3 or value > 1 - 1e-3):
            cost = replace(cost, overlap_exponent=np.inf if value < 1e-3 else 1.0)
            at_bounds.append(name)
        elif name in ("launch_s", "fixed_s") and (mask or near):
            cost = replace(cost, launch_s=0.0) if name == "launch_s" else replace(cost, fixed_s=0.0)
            at_bounds.append(name)
    return cost, tuple(at_bounds)


def covariance_of(solved: "OptimizeResult", form: Form) -> tuple[Floats, float]:
    """Return the covariance of the logarithms of all parameters, and the condition of the scaled normal equations.

    What is at a bound of its own is held; a pseudo-inverse keeps what the points cannot tell apart finite, and the
    condition tells of it.
    """
    free = solved.active_mask == 0
    jacobian = np.asarray(solved.jac)[:, free]
    size = np.linalg.norm(jacobian, axis=0)
    size[size == 0] = 1.0
    scaled = jacobian / size
    condition = float(np.linalg.cond(scaled)) if scaled.size else 1.0
    rows = jacobian.shape[0]
    misfit = max(1.0, 2 * float(solved.cost) / max(1, rows - int(free.sum())))
    inner = np.linalg.pinv(scaled.T @ scaled) / np.outer(size, size) * misfit
    own = np.zeros((len(free), len(free)))
    own[np.ix_(free, free)] = inner
    change = to_logs(form, solved.x)
    return np.asarray(change @ own @ change.T), condition


def to_logs(form: Form, vector: Floats) -> Floats:
    """Return the derivative of the parameters' logarithms by the vector."""
    flops, memory = len(form.flop_knots), len(form.mem_knots)
    change = np.eye(len(vector))
    change[:flops, :flops] = np.triu(np.ones((flops, flops)))
    change[flops : flops + memory, flops : flops + memory] = np.tril(np.ones((memory, memory)))
    # m = 1 / u: d log m = -du / u.
    change[-1, -1] = -1 / max(float(vector[-1]), 1e-6)
    return change


def best_fit(observations: Observations, forms: Sequence[Form]) -> Fit:
    """Return the fit with the least Bayesian information criterion among forms that have points enough.

    Raises:
        ValueError: There are fewer points than the smallest form has parameters.
    """
    seen = observations.fitted
    able = [form for form in forms if len(form.names) <= len(seen)] or [min(forms, key=lambda f: len(f.names))]
    return min((fit(observations, form) for form in able), key=lambda f: f.bic)
