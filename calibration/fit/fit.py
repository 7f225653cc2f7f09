"""Fits the one cost function to timed passes: bounded, robust least squares on relative errors (model §2).

Time of a run = passes x step_s(flops, bytes). Parameters are fitted as logarithms, a curve as its last value and rises
towards the first, so that it is monotone: seconds a FLOP fall with the tokens of a pass, seconds a byte grow with its
bytes (caches). A parameter that ends at its bound is taken out: a launch at no time at all, an exponent at infinity.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calibration.sources.probe import Observations
from calibration.sources.timed import MAD_FACTOR
from simulator.costs.profile import Curve, PassCost

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

Floats = NDArray[np.float64]
# Seconds, far outside of any device: where a bound is reached, the parameter plays no part.
LEAST_S, MOST_S = 1e-9, 1.0
LARGEST_RISE = 12.0
# Tokens at which a curve may bend: where products turn from vectors to tiles, and where those fill the device.
KNOTS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)
STARTING_EXPONENTS = (0.05, 0.5, 0.95)
# What the model itself is off by at least, relative; noise of the samples comes on top.
LEAST_DISCREPANCY = 0.005
# Relative standard error; of a knot of a curve.
LARGEST_KNOT_ERROR = 0.35
# Of a parameter's logarithm: what is open by more is not drawn from further away.
LARGEST_DRAWN = 1.0
# Change of all residuals together, in standard errors, by a factor of e: less is none.
NO_EFFECT = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Which parameters a fit has: knots of the curves, and whether launches and a fixed time are told apart."""

    flop_knots: tuple[float, ...] = (1.0,)
    mem_knots: tuple[float, ...] = (1.0,)
    launch: bool = True
    fixed: bool = False

    @property
    def flop_names(self) -> tuple[str, ...]:
        """The knots of seconds a FLOP."""
        return tuple(f"flop_scale[{i}]" for i in range(len(self.flop_knots)))

    @property
    def mem_names(self) -> tuple[str, ...]:
        """The knots of seconds a byte."""
        return tuple(f"mem_scale[{i}]" for i in range(len(self.mem_knots)))

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters in the order of the vector; 1/m stands for the overlap exponent."""
        seconds = [*["launch_s"] * self.launch, *["fixed_s"] * self.fixed]
        return (*self.flop_names, *self.mem_names, *seconds, "overlap_exponent")


CONSTANTS = Form()


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

    def knows(self, names: Sequence[str]) -> bool:
        """Whether the points leave none of these knots open."""
        return all(self.relative_errors.get(name, np.inf) <= LARGEST_KNOT_ERROR for name in names)


def run_s(cost: PassCost, seen: Observations) -> Floats:
    """Return the seconds of each run under a cost, [*samples, points]."""
    return cost.pass_s(seen.flops, seen.bytes, seen.tokens, seen.launches) * seen.passes


def unpack(vector: Floats, form: Form) -> PassCost:
    """Return the cost that a vector of parameters stands for."""
    flops, memory = len(form.flop_knots), len(form.mem_knots)
    seconds = iter(vector[flops + memory :])
    return PassCost(
        flop_scale=Curve(np.array(form.flop_knots), np.exp(np.cumsum(vector[:flops][::-1])[::-1])),
        mem_scale=Curve(np.array(form.mem_knots), np.exp(np.cumsum(vector[flops : flops + memory]))),
        launch_s=np.exp(next(seconds)) if form.launch else 0.0,
        fixed_s=np.exp(next(seconds)) if form.fixed else 0.0,
        overlap_exponent=1 / np.maximum(next(seconds), 1e-6),
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


def start(seen: Observations, form: Form, exponent: float, *, curved: bool) -> Floats:
    """Return where to begin: each resource as if it alone took the time of its best point.

    exponent: 1/m. curved: whether that goes for each knot of seconds a FLOP, or they are nearly one value.
    """
    flop, byte = fastest(seen)
    flops = [0.1] * (len(form.flop_knots) - 1) + [flop]
    if curved:
        at_knots = np.maximum.accumulate(fastest_at(seen, form.flop_knots)[::-1])[::-1]
        flops = [*-np.diff(at_knots), at_knots[-1]]
    memory = [byte] + [0.1] * (len(form.mem_knots) - 1)
    least_s = float((seen.seconds / seen.passes / seen.launches).min())
    launch = float(np.log(np.clip(least_s, 2 * LEAST_S, MOST_S / 2)))
    return np.array([*flops, *memory, *[launch] * form.launch, *[launch] * form.fixed, exponent], np.float64)


def fastest_at(seen: Observations, knots: Sequence[float]) -> Floats:
    """Return the logarithms of the least seconds a FLOP near each knot: of the points nearest to it, or of all."""
    working = seen.select(seen.flops > 0)
    if not len(working):
        return np.full(len(knots), fastest(seen)[0])
    nearest = np.abs(np.log(working.tokens)[:, None] - np.log(knots)).argmin(1)
    groups = (working.select(nearest == i) for i in range(len(knots)))
    return np.array([fastest(group if len(group) else working)[0] for group in groups])


def solve(seen: Observations, form: Form, discrepancy: float, firsts: Sequence[Floats]) -> "OptimizeResult":
    """Return the best of what several starts lead to."""
    from scipy.optimize import least_squares

    weight = 1 / np.hypot(seen.error_s / seen.seconds, discrepancy)

    def residuals(vector: Floats) -> Floats:
        return np.asarray((np.log(run_s(unpack(vector, form), seen)) - np.log(seen.seconds)) * weight)

    low, high = bounds(form, seen)
    fits = []
    for first in firsts:
        inside = np.clip(first, low + 1e-9, high - 1e-9)
        fits.append(least_squares(residuals, inside, bounds=(low, high), loss="soft_l1", x_scale="jac", max_nfev=400))
    return min(fits, key=lambda r: float(r.cost))


def fit(observations: Observations, form: Form) -> Fit:
    """Fit the cost function to points that are not held out, as many as parameters; the others get their residuals."""
    seen = observations.fitted
    if len(seen) < len(form.names):
        raise ValueError(f"{len(seen)} points to fit, expected at least {len(form.names)}")
    # A curve that begins flat may hide behind the memory's time, where nothing pulls it up.
    shapes = (False, True) if len(form.flop_knots) > 1 else (False,)
    firsts = [start(seen, form, exponent, curved=curved) for exponent, curved in product(STARTING_EXPONENTS, shapes)]
    discrepancy = LEAST_DISCREPANCY
    for _ in range(3):
        # The model's own error is what is left after the noise: the points say how much.
        solved = solve(seen, form, discrepancy, firsts)
        firsts = [solved.x]
        cost = unpack(solved.x, form)
        off = np.log(seen.seconds / run_s(cost, seen))
        free = max(1, len(seen) - int((solved.active_mask == 0).sum()))
        spread = MAD_FACTOR * float(np.median(np.abs(off))) * np.sqrt(len(seen) / free)
        noise = float(np.median(seen.error_s / seen.seconds))
        discrepancy = max(LEAST_DISCREPANCY, float(np.sqrt(max(0.0, spread**2 - noise**2))))
    return described(observations, form, solved, discrepancy)


def described(observations: Observations, form: Form, solved: "OptimizeResult", discrepancy: float) -> Fit:
    """Return a solution with what it says of itself."""
    cost, at_bounds = without_idle(unpack(solved.x, form), form, solved)
    jacobian = np.asarray(solved.jac) @ np.linalg.inv(to_logs(form, solved.x))
    unseen = np.linalg.norm(jacobian, axis=0) < NO_EFFECT
    undetermined = tuple(n for n, none in zip(form.names, unseen, strict=True) if none and n not in at_bounds)
    kept = [i for i, name in enumerate(form.names) if name not in (*at_bounds, *undetermined)]
    names = tuple(form.names[i] for i in kept)
    covariance, condition = covariance_of(jacobian[:, kept], float(solved.cost))
    errors = np.sqrt(np.diag(covariance))
    scale = np.where(errors > 0, errors, 1.0)
    drawn = np.minimum(1.0, LARGEST_DRAWN / scale)
    seen = observations.fitted
    noise = np.hypot(seen.error_s / seen.seconds, discrepancy)
    log_likelihood = -float(solved.cost) - float(np.log(noise).sum())
    fitted_s = run_s(cost, observations)
    return Fit(
        form=form,
        observations=observations,
        cost=replace(cost, uncertain=names, covariance=covariance * np.outer(drawn, drawn)),
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


def covariance_of(jacobian: Floats, cost: float) -> tuple[Floats, float]:
    """Return the covariance of parameters, and the condition of the scaled normal equations.

    Rises of a curve that ended at 0 are free here: they are not known to be 0. A pseudo-inverse keeps what the points
    cannot tell apart finite, and the condition tells of it. jacobian: of the weighted residuals by the parameters'
    logarithms, [points, parameters]. cost: half the robust sum of squares.
    """
    points, free = jacobian.shape
    if not free:
        return np.zeros((0, 0)), 1.0
    size = np.linalg.norm(jacobian, axis=0)
    scaled = jacobian / size
    misfit = max(1.0, 2 * cost / max(1, points - free))
    return np.linalg.pinv(scaled.T @ scaled) / np.outer(size, size) * misfit, float(np.linalg.cond(scaled))


def to_logs(form: Form, vector: Floats) -> Floats:
    """Return the derivative of the parameters' logarithms by the vector."""
    flops, memory = len(form.flop_knots), len(form.mem_knots)
    change = np.eye(len(vector))
    change[:flops, :flops] = np.triu(np.ones((flops, flops)))
    change[flops : flops + memory, flops : flops + memory] = np.tril(np.ones((memory, memory)))
    # m = 1 / u: d log m = -du / u.
    change[-1, -1] = -1 / max(float(vector[-1]), 1e-6)
    return change


def best_fit(observations: Observations, knots: Sequence[float] = (1.0,), base: Form = CONSTANTS) -> Fit:
    """Return the fit with the least Bayesian information criterion as knots are taken out one by one.

    A curve with a knot that the points leave open is not taken: what hides behind the memory's time would be drawn
    from nothing. knots: tokens at which seconds a FLOP may bend, rising. base: which parameters there are besides.
    """
    left = list(knots)
    fits = []
    while len(left) > 1 and len((form := replace(base, flop_knots=tuple(left))).names) <= len(observations.fitted):
        curved = fit(observations, form)
        if curved.knows(form.flop_names):
            fits.append(curved)
        del left[int(np.argmin(knot_bends(curved)))]
    return min((*fits, fit(observations, base)), key=lambda f: f.bic)


def knot_bends(fitted: Fit) -> Floats:
    """Return how far each knot is off the curve that the others make, in standard errors; 0 where no point shows it."""
    place = {name: i for i, name in enumerate(fitted.cost.uncertain)}
    shown = [name in place for name in fitted.form.flop_names]
    if not all(shown):
        return np.array(shown, np.float64)
    at, values = np.log(fitted.cost.flop_scale.sizes), np.log(fitted.cost.flop_scale.seconds)
    indices = [place[name] for name in fitted.form.flop_names]
    covariance = fitted.cost.covariance[np.ix_(indices, indices)]
    units = np.eye(len(at))
    bends = []
    for i, unit in enumerate(units):
        others = [np.interp(at[i], np.delete(at, i), np.delete(each, i)) for each in units]
        contrast = unit - others
        bends.append(abs(contrast @ values) / np.sqrt(contrast @ covariance @ contrast))
    return np.array(bends)
