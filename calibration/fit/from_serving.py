"""From rows of a server to a profile: constants of passes, links, host and front, with a data sheet as their prior.

A row tells a mean over many passes, so a few rows cannot tell all constants: each begins as the sheet has it, and what
the rows do not say stays there, with the sheet's error. Rows that the closed form misses, such as those that wait for
what it does not know, count for less (soft L1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.costs.engine import Engine
from simulator.costs.fitted import ServingFit
from simulator.costs.profile import CALIBRATED, Profile
from simulator.costs.step import Floats
from simulator.ground.artefacts import UserError

from .loads import Loads

# Of the logarithms of what sheets state no error of, or no value: standard errors.
LATENCY_ERROR, LOAD_ERROR, FRONT_ERROR, FIRST_ERROR = 1.0, 1.0, 1.0, 1.5
# Passes that a first token waits for besides, before rows tell.
FIRST_PASSES = 0.3
# Of rows, by what rows of other models are off by.
TPOT_NOISE, TTFT_NOISE = 0.03, 0.12
LEAST_ROWS = 3
STEP, ENOUGH, MOST_STEPS = 1e-3, 1e-4, 30
# Rows that a fit spends on its constants, beside their priors.
SPENT = 5
# Of a row's error, what others determine at least.
LEAST_SHARE = 0.2


class Constant(NamedTuple):
    """A constant that rows may tell: its name, and the standard error of its logarithm before they do."""

    name: str
    error: float


class Told(NamedTuple):
    """What rows told of constants: logarithms of their factors, covariance, and what each row is off by without it."""

    logs: Floats
    covariance: Floats
    held_out: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingCalibration:
    """A profile that was fitted to rows, and what there is to say of the fit.

    prior: constants before; logs: of their factors; covariance: of these. tpot, ttft: errors of the rows, relative, by
    the fit; held_out: of each by a fit without it.
    """

    profile: Profile
    prior: Profile
    loads: Loads
    constants: tuple[Constant, ...]
    logs: Floats
    covariance: Floats
    tpot: Floats
    ttft: Floats
    held_out_tpot: Floats
    held_out_ttft: Floats

    @property
    def told(self) -> tuple[str, ...]:
        """Constants that are known better than before by a third at least."""
        errors = np.sqrt(np.diag(self.covariance))
        return tuple(c.name for c, error in zip(self.constants, errors, strict=True) if error < c.error * 2 / 3)


def constants_of(profile: Profile, loads: Loads) -> tuple[Constant, ...]:
    """Return what rows may tell, with the errors that the profile states."""
    cost = next(iter(profile.passes.values()))
    link_error = profile.link.error if profile.link else 0.0
    host_error = profile.engine.host_error if profile.engine else 0.0
    found = [
        Constant("flop_scale", cost.error("flop_scale[0]")),
        Constant("mem_scale", cost.error("mem_scale[0]")),
        Constant("launch_s", cost.error("launch_s")),
        Constant("host_layer_s", host_error),
        Constant("load_layer_s", LOAD_ERROR),
        Constant("load_layer_sequence_s", LOAD_ERROR),
    ]
    if any(p.devices > 1 for p in loads.placings):
        found += [Constant("link_bytes_per_s", link_error), Constant("link_latency_s", LATENCY_ERROR)]
    found += FRONT if np.isfinite(loads.column("ttft_s")).any() else ()
    return tuple(c for c in found if c.error > 0)


FRONT = (
    Constant("front_s", FRONT_ERROR),
    Constant("front_client_s", FRONT_ERROR),
    Constant("first_passes", FIRST_ERROR),
)
PASS_CONSTANTS = ("flop_scale", "mem_scale", "launch_s")
ENGINE_CONSTANTS = (
    "host_layer_s",
    "load_layer_s",
    "load_layer_sequence_s",
    "front_s",
    "front_client_s",
    "first_passes",
)


def moved(profile: Profile, factors: Mapping[str, float]) -> Profile:
    """Multiply constants of a profile, by name."""
    of_passes = {name: factors[name] for name in PASS_CONSTANTS if name in factors}
    passes = {}
    for dtype, cost in profile.passes.items():
        scaled = cost.scaled(of_passes)
        passes[dtype] = replace(scaled, uncertain=cost.uncertain, covariance=cost.covariance)
    link, engine = profile.link, profile.engine or Engine()
    if link:
        link = replace(
            link,
            bytes_per_s=float(link.bytes_per_s * factors.get("link_bytes_per_s", 1.0)),
            latency_s=float(link.latency_s * factors.get("link_latency_s", 1.0)),
        )
    of_engine: dict[str, Any] = {
        name: float(getattr(engine, name) * factors[name]) for name in ENGINE_CONSTANTS if name in factors
    }
    return replace(profile, passes=passes, link=link, engine=replace(engine, **of_engine))


def calibrate_serving(loads: Loads, prior: Profile, name: str, source_sha256: str = "") -> ServingCalibration:
    """Fit constants to rows.

    Args:
        loads: The rows.
        prior: The profile of the device before: of its data sheet.
        name: What to call the profile.
        source_sha256: Of the rows' file.

    Raises:
        UserError: There are too few rows that fit into memory.
    """
    engine = prior.engine or Engine()
    prior = replace(prior, engine=replace(engine, first_passes=engine.first_passes or FIRST_PASSES))
    fits = np.isfinite(loads.priced(prior).tpot_s)
    loads = loads.select([int(i) for i in np.flatnonzero(fits)])
    if len(loads) < LEAST_ROWS:
        raise UserError(f"{len(loads)} rows that fit into memory, expected at least {LEAST_ROWS}")
    constants = constants_of(prior, loads)
    told = fit_rows(loads, prior, constants)
    fitted = moved(prior, factors_of(constants, told.logs))
    found = loads.priced(fitted)
    calibration = ServingCalibration(
        profile=fitted,
        prior=prior,
        loads=loads,
        constants=constants,
        logs=told.logs,
        covariance=told.covariance,
        tpot=found.tpot_s / loads.column("tpot_s") - 1,
        ttft=found.ttft_s / loads.column("ttft_s") - 1,
        held_out_tpot=np.expm1(told.held_out[0]),
        held_out_ttft=np.expm1(told.held_out[1]),
    )
    return replace(calibration, profile=profile_of(calibration, name, source_sha256))


def factors_of(constants: Sequence[Constant], logs: Floats) -> dict[str, float]:
    """Return factors by name."""
    return {c.name: float(np.exp(value)) for c, value in zip(constants, logs, strict=True)}


def fit_rows(loads: Loads, prior: Profile, constants: Sequence[Constant]) -> Told:
    """Solve for the logarithms of factors: errors of rows against noise, and factors against their own errors.

    What a row is off by without it follows to first order: its error, over what of it the others do not determine.
    """
    from scipy.optimize import least_squares

    measured = np.concatenate([loads.column("tpot_s"), loads.column("ttft_s")])
    shown = np.isfinite(measured)
    logs_of, noise = np.log(measured[shown]), np.repeat([TPOT_NOISE, TTFT_NOISE], len(loads))[shown]
    errors = np.array([c.error for c in constants])

    def residuals(logs: Floats) -> Floats:
        found = loads.priced(moved(prior, factors_of(constants, logs)))
        off = np.log(np.concatenate([found.tpot_s, found.ttft_s])[shown]) - logs_of
        return np.concatenate([off / noise, logs / errors])

    found = least_squares(
        residuals,
        np.zeros(len(errors)),
        loss="soft_l1",
        x_scale=errors,
        diff_step=STEP,
        ftol=ENOUGH,
        xtol=ENOUGH,
        max_nfev=MOST_STEPS,
    )
    covariance = np.linalg.inv(found.jac.T @ found.jac)
    # Rows take nothing away from what was known before.
    least = np.minimum(1.0, errors / np.sqrt(np.diag(covariance)))
    covariance = covariance * np.outer(least, least)
    rows = found.jac[: len(noise)]
    leverage = np.einsum("ij,jk,ik->i", rows, covariance, rows)
    held_out = np.full(len(measured), np.nan)
    held_out[shown] = residuals(found.x)[: len(noise)] * noise / np.maximum(1 - leverage, LEAST_SHARE)
    return Told(np.asarray(found.x), np.asarray(covariance), held_out.reshape(2, len(loads)))


def profile_of(calibration: ServingCalibration, name: str, source_sha256: str) -> Profile:
    """Return the profile, with how well its constants are known and what it was fitted to."""
    fitted, loads = calibration.profile, calibration.loads
    errors = dict(zip((c.name for c in calibration.constants), np.sqrt(np.diag(calibration.covariance)), strict=True))
    passes = {}
    for dtype, cost in fitted.passes.items():
        scale = [float(errors.get(u.partition("[")[0], cost.error(u)) / cost.error(u)) for u in cost.uncertain]
        passes[dtype] = replace(cost, covariance=cost.covariance * np.outer(scale, scale))
    link, engine = fitted.link, fitted.engine or Engine()
    if link and "link_bytes_per_s" in errors:
        link = replace(link, error=float(errors["link_bytes_per_s"]))
    if "host_layer_s" in errors:
        engine = replace(engine, host_error=float(errors["host_layer_s"]))
    held_out = calibration.held_out_ttft[np.isfinite(calibration.held_out_ttft)]
    fit = ServingFit(
        sheet=calibration.prior.name,
        model=loads.shape.name,
        engine=loads.engine,
        rows=len(loads),
        constants=tuple(c.name for c in calibration.constants),
        covariance=calibration.covariance,
        tpot_error=spread_of(calibration.held_out_tpot),
        ttft_error=spread_of(held_out) if len(held_out) else None,
        source_sha256=source_sha256,
        dtype=loads.dtype,
    )
    what = f"{loads.engine or 'an engine'} serving {loads.shape.name}"
    note = f"Fitted to {len(loads)} rows of {what}; what they do not tell is as {calibration.prior.name} has it."
    notes = (note, *(n for n in fitted.notes if not n.startswith("Assumed")))
    return replace(
        fitted, name=name, status=CALIBRATED, passes=passes, link=link, engine=engine, notes=notes, fitted=fit
    )


def spread_of(off: Floats) -> float:
    """Return the standard error of a row by what rows that were left out were off by, relative."""
    return float(np.sqrt(np.mean(np.log1p(np.maximum(off, -0.9)) ** 2)))


def interval_factor(fit: ServingFit, error: float, level: float = 0.95) -> float:
    """Return by what a forecast is multiplied and divided, so that a row lies within."""
    from scipy.stats import t

    return float(np.exp(t.ppf((1 + level) / 2, max(fit.rows - SPENT, 2)) * error * np.sqrt(1 + 1 / fit.rows)))


def rows_off(found: Floats, measured: Floats) -> NDArray[np.float64]:
    """Return relative errors, without rows that lack either."""
    off = found / measured - 1
    return np.asarray(off[np.isfinite(off)])
