"""Hardware profiles: what a pass costs on one device, in each number format, and how well that is known (model §2)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike

from simulator.ground.artefacts import UserError

from .engine import Engine
from .fitted import ServingFit
from .ranges import TimedRange
from .step import Floats, Real, spread, step_s

# What fits and comparisons call the costs of `BurnUnits`, beside those of number formats.
BURN_UNITS = "burn units"
DATASHEET, MEASURED = "datasheet, uncalibrated", "measured"
CALIBRATED = "calibrated to rows of a server"
KERNELS_MEASURED = "kernels measured; launches a layer and round overhead assumed"
# Of a device's memory: what engines use, weights and KV cache together, where nobody says another share.
USABLE_MEMORY = 0.9
# What rows of servers are off by on a data sheet besides what it leaves open, time a token and to the first: standard
# errors of logarithms, as rows of 13 models were (docs/validation.md).
SHEET_TPOT_ERROR, SHEET_TTFT_ERROR = 0.12, 0.8
# Of parameters, relative: what slopes are taken over.
STEP = 1e-4
# Of passes that were timed: sequences, tokens that the cache holds for each, tokens computed in all, weights.
RANGES = ("batch", "context", "tokens", "weights")
STATUSES = (DATASHEET, MEASURED, KERNELS_MEASURED, CALIBRATED)


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds a unit of work over the size of the work: log-log between the sizes, constant beyond them.

    sizes: [knots], rising; one knot makes a constant. seconds: [..., knots], axes in front are samples.
    """

    sizes: Floats
    seconds: Floats

    def at(self, size: ArrayLike) -> Floats:
        """Return the seconds a unit at sizes of shape S; shape [..., *S]."""
        size = np.asarray(size, np.float64)
        if len(self.sizes) == 1:
            shape = (*self.seconds.shape[:-1], *(1,) * size.ndim)
            samples = self.seconds[..., 0].reshape(shape)
            return np.broadcast_to(samples, (*self.seconds.shape[:-1], *size.shape))
        place = np.interp(np.log(np.maximum(size, self.sizes[0])), np.log(self.sizes), np.arange(len(self.sizes)))
        below = np.minimum(place.astype(np.int64), len(self.sizes) - 2)
        part = place - below
        logs = np.log(self.seconds)
        return np.asarray(np.exp(logs[..., below] * (1 - part) + logs[..., below + 1] * part))


def constant(seconds: float) -> Curve:
    """Return a curve that is the same everywhere."""
    return Curve(np.ones(1), np.array([seconds], np.float64))


@dataclass(frozen=True, slots=True, kw_only=True)
class PassCost:
    """What a pass costs in one number format (model §2).

    flop_scale: seconds a FLOP over the tokens of the pass. mem_scale: seconds a byte over the bytes it moves.
    launch_s: of a launch; fixed_s: of a pass; overlap_exponent: m. The last three may be arrays of samples.
    uncertain: names of the parameters that have an uncertainty; covariance: of their natural logarithms.
    """

    flop_scale: Curve
    mem_scale: Curve
    launch_s: Real = 0.0
    fixed_s: Real = 0.0
    overlap_exponent: Real = np.inf
    uncertain: tuple[str, ...] = ()
    covariance: Floats = field(default_factory=lambda: np.zeros((0, 0)))

    def pass_s(self, flops: Real, bytes_: Real, tokens: Real, launches: Real) -> Floats:
        """Return the seconds of passes; arguments broadcast to shape S, the result is [*samples, *S].

        tokens: that a pass computes, of all sequences. launches: of kernels.
        """
        flops, bytes_, tokens, launches = (np.asarray(v, np.float64) for v in (flops, bytes_, tokens, launches))
        if not flops.shape == bytes_.shape == tokens.shape or (launches.ndim and launches.shape != tokens.shape):
            bytes_, tokens, launches = np.broadcast_arrays(bytes_, tokens, launches)
            if flops.ndim <= tokens.ndim:  # else there are samples of it
                flops, bytes_, tokens, launches = np.broadcast_arrays(flops, bytes_, tokens, launches)
        return step_s(
            flops,
            bytes_,
            flop_scale=self.flop_scale.at(tokens),
            mem_scale=self.mem_scale.at(bytes_),
            overlap_exponent=spread(self.overlap_exponent, tokens.ndim),
            launches=launches,
            launch_s=spread(self.launch_s, tokens.ndim),
            fixed_s=spread(self.fixed_s, tokens.ndim),
        )

    def parameters(self) -> dict[str, float]:
        """Return every parameter by name; knots of a curve are numbered."""
        values: dict[str, float] = {}
        for name in ("flop_scale", "mem_scale"):
            values |= {f"{name}[{i}]": float(v) for i, v in enumerate(getattr(self, name).seconds)}
        return values | {name: float(getattr(self, name)) for name in SCALARS}

    def scaled(self, factors: Mapping[str, Real]) -> "PassCost":
        """Multiply parameters, by name; factors of one shape [samples] give samples.

        An overlap exponent stays at least 1.
        """
        return PassCost(
            flop_scale=self.scaled_curve("flop_scale", factors),
            mem_scale=self.scaled_curve("mem_scale", factors),
            launch_s=np.asarray(self.launch_s) * factors.get("launch_s", 1.0),
            fixed_s=np.asarray(self.fixed_s) * factors.get("fixed_s", 1.0),
            overlap_exponent=np.maximum(np.asarray(self.overlap_exponent) * factors.get("overlap_exponent", 1.0), 1.0),
        )

    def scaled_curve(self, name: str, factors: Mapping[str, Real]) -> Curve:
        """Multiply the knots of one curve; a factor of the bare name multiplies them all."""
        curve: Curve = getattr(self, name)
        every = np.asarray(factors.get(name, 1.0), np.float64)
        knots = [np.asarray(factors.get(f"{name}[{i}]", 1.0), np.float64) * every for i in range(len(curve.sizes))]
        return Curve(curve.sizes, curve.seconds * np.stack(np.broadcast_arrays(*knots), -1))

    def sample(self, rng: np.random.Generator, samples: int) -> "PassCost":
        """Draw the parameters anew, log-normal about what they are."""
        return self.moved({name: rng.standard_normal(samples) for name in self.uncertain})

    def moved(self, normals: Mapping[str, Floats]) -> "PassCost":
        """Return the samples that standard normal draws make, [samples] for each uncertain parameter by name."""
        if not self.uncertain:
            return self
        values, vectors = np.linalg.eigh(self.covariance)
        # The symmetric root: without correlations each parameter hangs on the draws of its own name alone.
        root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
        drawn = np.stack([normals[name] for name in self.uncertain], -1) @ root
        return self.scaled({name: np.exp(drawn[:, i]) for i, name in enumerate(self.uncertain)})

    def pass_errors(self, flops: Real, bytes_: Real, tokens: Real, launches: Real) -> Floats:
        """Return the relative standard errors of passes' seconds, to first order in the parameters; see `pass_s`."""
        work = (flops, bytes_, tokens, launches)
        logs = np.log(self.pass_s(*work))
        moved = [np.log(self.scaled({name: 1 + STEP}).pass_s(*work)) - logs for name in self.uncertain]
        slopes = np.array(moved).reshape(len(moved), *logs.shape) / np.log1p(STEP)
        variance = np.einsum("i...,ij,j...->...", slopes, self.covariance, slopes)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    def error(self, name: str) -> float:
        """Return the relative standard error of a parameter, 0 where none is stated."""
        if name not in self.uncertain:
            return 0.0
        at = self.uncertain.index(name)
        return math.sqrt(self.covariance[at, at])

    def curve_errors(self, name: str, sizes: Floats) -> Floats:
        """Return the relative standard errors of one curve at sizes, shape [sizes]."""
        knots = getattr(self, name).sizes
        # The logarithm between two knots is linear in theirs: the curve of one at e and the others at 1 is its weight.
        weights = np.log(Curve(knots, np.exp(np.eye(len(knots)))).at(sizes))
        known = [i for i in range(len(knots)) if f"{name}[{i}]" in self.uncertain]
        at = [self.uncertain.index(f"{name}[{i}]") for i in known]
        variance = np.einsum("ks,kl,ls->s", weights[known], self.covariance[np.ix_(at, at)], weights[known])
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))


SCALARS = ("launch_s", "fixed_s", "overlap_exponent")


@dataclass(frozen=True, slots=True, kw_only=True)
class BurnUnits:
    """What the burn units of `simulate` are on this device, and what they cost (model §7)."""

    workflops_flop: int
    workmem_bytes: int
    cost: PassCost


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """Two models as they were timed while they decoded together, without a look inside.

    target, draft, dtype, batch: what was timed. baseline_s: a step of plain decoding. draft_step_s: a drafted token.
    verify: a target pass, whose work is its tokens a sequence (for FLOP) and 1 (for bytes). The errors are standard
    errors, relative; draft_overhead_correlation: of those of a drafted token and of a round's overhead, two ends of one
    line. draft_lengths: whose times were fitted. source_sha256: of the file they were fitted to.
    """

    target: str
    draft: str
    dtype: str
    batch: int
    baseline_s: float
    baseline_error: float
    draft_step_s: float
    draft_step_error: float
    verify: PassCost
    draft_lengths: tuple[int, ...]
    draft_overhead_correlation: float = 0.0
    source_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What joins devices that share a model: bytes a second of one direction, and the latency of an all-reduce.

    mesh: whether a device has such a link to each other one, rather than one to a switch. error: standard error of
    the time, relative. devices: that it joins; None: not known. A sampled link has arrays of samples.
    """

    bytes_per_s: Real
    latency_s: Real
    mesh: bool = False
    error: float = 0.0
    devices: int | None = None

    def slower(self, factor: Real) -> "Link":
        """Multiply the time of all that it does."""
        latency_s = np.asarray(self.latency_s * factor, np.float64)
        return replace(self, bytes_per_s=self.bytes_per_s / factor, latency_s=latency_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Watts of one device at rest and under load."""

    idle_w: float
    load_w: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a number of a data sheet comes from."""

    what: str
    title: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A device as a forecast needs it.

    status: one of `STATUSES`. passes: by number format. decoding: of one pair of models. launches_per_layer: kernels
    that a layer of a model launches; launches_per_layer_error: its standard error, relative. engine: None: nothing is
    known of it.
    round_overhead_s: what a round costs besides its passes; round_overhead_error: its standard error, relative.
    memory_bytes: of a device; memory_share: of these, what the engine uses; None: as engines do by default.
    timed: what passes were timed over, by `RANGES`. notes: what a reader should know, a sentence each. assumed: for
    what its name was taken; "" where it is plain. A
    sampled profile has arrays of samples in its costs and overhead.
    """

    name: str
    device: str
    status: str
    passes: Mapping[str, PassCost]
    units: BurnUnits | None = None
    decoding: Decoding | None = None
    launches_per_layer: float = 1.0
    launches_per_layer_error: float = 0.0
    engine: Engine | None = None
    round_overhead_s: Real = 0.0
    round_overhead_error: float = 0.0
    memory_bytes: int | None = None
    memory_share: float | None = None
    link: Link | None = None
    power: Power | None = None
    timed: Mapping[str, TimedRange] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    notes: tuple[str, ...] = ()
    assumed: str = ""
    fitted: ServingFit | None = None

    @property
    def is_timed(self) -> bool:
        """Whether passes were timed one by one, rather than read off a sheet or off whole requests."""
        return self.status not in (DATASHEET, CALIBRATED)

    @property
    def served_errors(self) -> tuple[float, float | None] | None:
        """What served rows are off by besides, time a token and to the first; None where nobody looked."""
        if self.fitted is not None:
            return self.fitted.tpot_error, self.fitted.ttft_error
        return (SHEET_TPOT_ERROR, SHEET_TTFT_ERROR) if self.status == DATASHEET else None

    @property
    def usable_bytes(self) -> float | None:
        """Bytes of a device that weights and KV cache may take; None where it is not known how many it has."""
        share = USABLE_MEMORY if self.memory_share is None else self.memory_share
        return None if self.memory_bytes is None else share * self.memory_bytes

    def cost(self, dtype: str) -> PassCost:
        """Return what a pass costs in a number format; a UserError says that the profile does not tell."""
        if dtype not in self.passes:
            self.refuse_format("--dtype", dtype)
        return self.passes[dtype]

    def refuse_format(self, option: str, dtype: str) -> NoReturn:
        """Refuse a number format that the profile lacks."""
        fitted_to = "a pair that decoded" if self.decoding else "burn kernels"
        known = ", ".join(self.passes) or f"none: it was fitted to {fitted_to} alone"
        raise UserError(f"{option}: {dtype!r} is not in the profile {self.name}, which has {known}")
