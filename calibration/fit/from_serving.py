"""From rows of a server to a profile: constants of passes, links, host and front, with a data sheet as their prior.

A row tells a mean over many passes, so a few rows cannot tell all constants: each begins as the sheet has it, and what
the rows do not say stays there, with the sheet's error. Rows that the closed form misses, such as those that wait for
what it does not know, count for less (soft L1).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.costs.datasheet import PCIE_S
from simulator.costs.engine import Engine
from simulator.costs.fitted import ServingFit
from simulator.costs.moved import moved
from simulator.costs.profile import CALIBRATED, DATASHEET, Profile
from simulator.costs.step import Floats
from simulator.ground.artefacts import UserError

from .loads import Loads
from .told import Rows, Told
from .told import told as rows_told

# Of the logarithms of what sheets state no error of, or no value: standard errors.
LATENCY_ERROR, LOAD_ERROR, FRONT_ERROR, FIRST_ERROR = 1.0, 1.0, 1.0, 1.5
# Passes that a first token waits for besides, before rows tell.
FIRST_PASSES = 0.3
# What a round takes for each sequence besides, before rows tell: published rounds of engines took 0.07 to 0.28 ms.
ROUND_SEQUENCE_S, SEQUENCE_ERROR = 1.4e-4, 0.7
# Of rows, by what rows of other models are off by.
TPOT_NOISE, TTFT_NOISE = 0.03, 0.12
# The kind of rows that wait for what no form knows: first tokens.
TTFT = 1
# Of those that no fit has seen, before rows tell: few of them may agree by chance.
TPOT_SPREAD, TTFT_SPREAD = 0.05, 0.25
LEAST_LOADS = 3
# Of what data sheets assume, about halfway to what rows of other models were found at: factors, and errors of their
# logarithms where those of passes alone are too small. Where few rows tell a constant, it is nearer to these.
USUAL = {
    "flop_scale": (1.2, 0.25),
    "mem_scale": (0.87, 0.15),
    "launch_s": (1.15, 0.0),
    "host_layer_s": (0.6, 0.0),
    "load_layer_s": (1.25, 0.0),
    "load_layer_sequence_s": (0.8, 0.0),
    "link_bytes_per_s": (0.7, 0.6),
    "link_latency_s": (0.5, 0.0),
}
# Of the error of a constant before: known to less, rows tell of it; moved by less, it is as it was.
KNOWN, HARDLY = 2 / 3, 0.25


class Constant(NamedTuple):
    """A constant that rows may tell: its name, and the standard error of its logarithm before they do.

    usual: the logarithm of its factor in servers of other rows, which is where it begins.
    """

    name: str
    error: float
    usual: float = 0.0


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
    def found(self) -> Iterator[tuple[Constant, float, float]]:
        """Each constant, the logarithm of its factor, and how well that is known."""
        yield from zip(self.constants, self.logs.tolist(), np.sqrt(np.diag(self.covariance)).tolist(), strict=True)

    @property
    def told(self) -> tuple[str, ...]:
        """Constants that are known better than before by a third at least."""
        return tuple(c.name for c, _, error in self.found if error < c.error * KNOWN)

    @property
    def still(self) -> tuple[str, ...]:
        """Constants of which rows tell nothing: known about as before, and hardly moved."""
        still = [c for c, log, _ in self.found if abs(log - c.usual) <= c.error * HARDLY and c.name not in self.told]
        return tuple(c.name for c in still)


def constants_of(profile: Profile, loads: Loads) -> tuple[Constant, ...]:
    """Return what rows may tell, with the errors that the profile states."""
    shared = any(p.devices > 1 for p in loads.placings)
    found = pass_constants(profile, shared=shared, drafts=loads.has_drafts)
    found += tuple(c for c in FRONT if np.isfinite(loads.column("ttft_s")).any())
    if profile.status != DATASHEET:
        return found
    usual = ((c, *USUAL.get(c.name, (1.0, 0.0))) for c in found)
    return tuple(Constant(c.name, max(c.error, error), float(np.log(factor))) for c, factor, error in usual)


def pass_constants(profile: Profile, *, shared: bool, drafts: bool) -> tuple[Constant, ...]:
    """Return what passes may tell; shared: whether several devices share a model; drafts: whether rounds have any."""
    cost = next(iter(profile.passes.values()))
    link_error = profile.link.error if profile.link else 0.0
    host_error = profile.engine.host_error if profile.engine else 0.0
    found = [
        Constant("flop_scale", cost.error("flop_scale[0]")),
        Constant("mem_scale", cost.error("mem_scale[0]")),
        Constant("launch_s", cost.error("launch_s")),
        Constant("fixed_s", cost.error("fixed_s")),
        Constant("overlap_exponent", cost.error("overlap_exponent")),
        Constant("host_layer_s", host_error),
        Constant("load_layer_s", LOAD_ERROR),
        Constant("load_layer_sequence_s", LOAD_ERROR),
    ]
    if shared:
        found += [Constant("link_bytes_per_s", link_error), Constant("link_latency_s", LATENCY_ERROR)]
    if drafts:
        found += [
            Constant("round_overhead_s", profile.round_overhead_error),
            Constant("round_sequence_s", SEQUENCE_ERROR),
        ]
    return tuple(c for c in found if c.error > 0)


FRONT = (
    Constant("front_s", FRONT_ERROR),
    Constant("front_client_s", FRONT_ERROR),
    Constant("first_passes", FIRST_ERROR),
)


def before_rows(profile: Profile, *, drafts: bool) -> Profile:
    """Return a profile with what rows move from where it says nothing of a server."""
    engine = profile.engine or Engine()
    engine = replace(engine, first_passes=engine.first_passes or FIRST_PASSES)
    if drafts:
        engine = replace(engine, round_sequence_s=engine.round_sequence_s or ROUND_SEQUENCE_S)
    return replace(profile, engine=engine)


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
    prior = before_rows(prior, drafts=loads.has_drafts)
    if prior.engine and prior.link and prior.link.latency_s < PCIE_S:
        prior = replace(prior, engine=prior.engine.summing_as(loads.engine))
    fits = np.isfinite(loads.priced(prior).tpot_s)
    loads = loads.fitting(fits)
    if (count := loads.distinct) < LEAST_LOADS:
        fit = f"{count} load{'s' * (count != 1)} of these rows fit{'s' * (count == 1)} into memory"
        raise UserError(f"{fit}, expected at least {LEAST_LOADS} (--tp, --dtype?)")
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
        covariance=told.draws.T @ told.draws / len(told.draws),
        tpot=found.tpot_s / loads.column("tpot_s") - 1,
        ttft=found.ttft_s / loads.column("ttft_s") - 1,
        held_out_tpot=np.expm1(told.held_out[0]),
        held_out_ttft=np.expm1(told.held_out[1]),
    )
    return replace(calibration, profile=profile_of(calibration, told, name, source_sha256))


def factors_of(constants: Sequence[Constant], logs: Floats) -> dict[str, float]:
    """Return factors by name."""
    return {c.name: float(np.exp(value)) for c, value in zip(constants, logs, strict=True)}


def fit_rows(loads: Loads, prior: Profile, constants: Sequence[Constant]) -> Told:
    """Return what rows tell of constants."""
    measured = np.log([loads.column("tpot_s"), loads.column("ttft_s")])

    usual = np.array([c.usual for c in constants])

    def off(logs: Floats) -> Floats:
        factors = {c.name: np.exp(usual[i] + logs[..., i]) for i, c in enumerate(constants)}
        found = loads.priced(moved(prior, factors))
        return np.asarray(np.log(np.stack([found.tpot_s, found.ttft_s], -2)) - measured)

    errors, noises = np.array([c.error for c in constants]), np.array([TPOT_NOISE, TTFT_NOISE])
    told = rows_told(Rows(off, noises, errors, loads.numbers(), np.array([TPOT_SPREAD, TTFT_SPREAD]), far=(TTFT,)))
    return told._replace(logs=usual + told.logs)


def profile_of(calibration: ServingCalibration, told: Told, name: str, source_sha256: str) -> Profile:
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
    round_s, round_error = float(fitted.round_overhead_s), errors.get("round_overhead_s", fitted.round_overhead_error)
    fitted = replace(fitted, round_overhead_s=round_s, round_overhead_error=float(round_error))
    tpot_error, ttft_error = (None if np.isnan(s) else float(s) for s in told.spreads)
    fit = ServingFit(
        sheet=calibration.prior.name,
        model=loads.shape.name,
        engine=loads.engine,
        rows=len(loads),
        constants=tuple(c.name for c in calibration.constants),
        covariance=calibration.covariance,
        draws=told.draws,
        loads=told.loads,
        tpot_error=tpot_error or TPOT_SPREAD,
        ttft_error=ttft_error,
        source_sha256=source_sha256,
        dtype=loads.dtype,
        kv_dtype=loads.kv_dtype,
        tp=loads.tp,
        served=loads.served,
        formats=loads.formats,
        ranges=loads.ranges(),
    )
    what = f"{loads.engine or 'an engine'} serving {loads.shape.name}"
    note = f"Fitted to {len(loads)} rows of {what}; what they do not tell is as {calibration.prior.name} has it."
    notes = (note, *(n for n in fitted.notes if not n.startswith("Assumed")))
    return replace(
        fitted,
        name=name,
        status=CALIBRATED,
        passes=passes,
        link=link,
        engine=engine,
        memory_share=loads.memory_share or fitted.memory_share,
        notes=notes,
        fitted=fit,
    )


def rows_off(found: Floats, measured: Floats) -> NDArray[np.float64]:
    """Return relative errors, without rows that lack either."""
    off = found / measured - 1
    return np.asarray(off[np.isfinite(off)])
