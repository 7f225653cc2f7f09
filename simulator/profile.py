"""Hardware profiles: what a pass costs on one device, in each number format, and how well that is known (model §2, §8).

`profile.json` is written by `calibrate` or comes along in `profiles/`, from data sheets. NumPy alone.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .artefacts import UserError, check_kind, read_json_object
from .cost_model import Real, step_s
from .model_work import BYTES_PER_WEIGHT

Floats = NDArray[np.float64]
KIND = "hardware_profile"
# 1: first version.
SCHEMA_VERSION = 1
PRESETS = Path(__file__).parent / "profiles"
DATASHEET, MEASURED = "datasheet, uncalibrated", "measured"
KERNELS_MEASURED = "kernels measured; launches a layer and round overhead assumed"
STATUSES = (DATASHEET, MEASURED, KERNELS_MEASURED)


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
            return np.asarray(self.seconds[..., 0].reshape(shape) * np.ones(size.shape))
        place = np.interp(np.log(size), np.log(self.sizes), np.arange(len(self.sizes)))
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

        Args:
            flops: FLOP of the pass.
            bytes_: Bytes it moves.
            tokens: Tokens it computes, of all sequences.
            launches: Kernels it launches.
        """
        flops, bytes_, tokens, launches = np.broadcast_arrays(
            *(np.asarray(v, np.float64) for v in (flops, bytes_, tokens, launches))
        )

        def spread(value: Real) -> Floats:
            found = np.asarray(value, np.float64)
            return found.reshape((*found.shape, *(1,) * flops.ndim))

        return step_s(
            flops,
            bytes_,
            flop_scale=self.flop_scale.at(tokens),
            mem_scale=self.mem_scale.at(bytes_),
            overlap_exponent=spread(self.overlap_exponent),
            launches=launches,
            launch_s=spread(self.launch_s),
            fixed_s=spread(self.fixed_s),
        )

    def parameters(self) -> dict[str, float]:
        """Return every parameter by name; knots of a curve are numbered."""
        found: dict[str, float] = {}
        for name in ("flop_scale", "mem_scale"):
            found |= {f"{name}[{i}]": float(v) for i, v in enumerate(getattr(self, name).seconds)}
        return found | {name: float(getattr(self, name)) for name in SCALARS}

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
        own = [np.asarray(factors.get(f"{name}[{i}]", 1.0), np.float64) * every for i in range(len(curve.sizes))]
        return Curve(curve.sizes, curve.seconds * np.stack(np.broadcast_arrays(*own), -1))

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
    errors, relative. draft_lengths: whose times were fitted. source_sha256: of the file they were fitted to.
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
    source_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What joins devices that share a model: bytes a second of one direction, and the latency of an all-reduce.

    mesh: whether a device has such a link to each other one, rather than one to a switch. error: standard error of
    the time, relative. A sampled link has arrays of samples.
    """

    bytes_per_s: Real
    latency_s: Real
    mesh: bool = False
    error: float = 0.0

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
    that a layer of a model launches; launches_per_layer_error: its standard error, relative.
    round_overhead_s: what a round costs besides its passes; round_overhead_error: its standard error, relative.
    notes: what a reader should know, a sentence each. A
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
    round_overhead_s: Real = 0.0
    round_overhead_error: float = 0.0
    memory_bytes: int | None = None
    link: Link | None = None
    power: Power | None = None
    sources: tuple[Source, ...] = ()
    notes: tuple[str, ...] = ()

    def cost(self, dtype: str) -> PassCost:
        """Return what a pass costs in a number format.

        Raises:
            UserError: The profile does not say.
        """
        if dtype not in self.passes:
            fitted_to = "a pair that decoded" if self.decoding else "burn kernels"
            known = ", ".join(self.passes) or f"none: it was fitted to {fitted_to} alone"
            raise UserError(f"--dtype: {dtype!r} is not in the profile {self.name}, which has {known}")
        return self.passes[dtype]


def presets() -> tuple[str, ...]:
    """Return the names of the profiles that come along."""
    return tuple(sorted(p.stem for p in PRESETS.glob("*.json")))


def load_profile(path_or_name: str | Path) -> Profile:
    """Read a profile, or one that comes along by its name; a file goes before a name.

    Raises:
        UserError: There is no such file or name, or a value is missing or odd; names file, field and value.
    """
    path = Path(path_or_name)
    if not path.exists() and str(path_or_name) in presets():
        path = PRESETS / f"{path_or_name}.json"
    elif not path.exists():
        raise UserError(f"{path_or_name}: no such file, nor a profile that comes along ({', '.join(presets())})")
    found = read_json_object(path)
    if found.get("kind") == "calibration_report":
        raise UserError(f"{path}: is the report of a fit that failed its checks, not a profile")
    if "kind" not in found:
        raise UserError(f"{path}: kind is missing, expected {KIND!r}")
    check_kind(path, found, KIND, (SCHEMA_VERSION,))
    return parse_profile(Field(path, "", found))


class Field:
    """A value of a file and its place in there, so that errors name it."""

    def __init__(self, path: Path, where: str, value: Any) -> None:
        """Take the value at `where`."""
        self.path, self.where, self.value = path, where, value

    def refuse(self, expected: str) -> NoReturn:
        """Raise.

        Raises:
            UserError: Always.
        """
        found = "is missing" if self.value is None else f"is {repr(self.value)[:80]}"
        raise UserError(f"{self.path}: {self.where or 'the file'} {found}, expected {expected}")

    def __getitem__(self, key: str) -> "Field":
        """Return a field of an object; its value is None where it is missing."""
        if not isinstance(self.value, dict):
            self.refuse("an object")
        return Field(self.path, f"{self.where}.{key}" if self.where else key, self.value.get(key))

    def __bool__(self) -> bool:
        """Whether there is a value."""
        return self.value is not None

    def items(self) -> list[tuple[str, "Field"]]:
        """Return the fields of an object."""
        if not isinstance(self.value, dict):
            self.refuse("an object")
        return [(key, self[key]) for key in self.value]

    def elements(self) -> list["Field"]:
        """Return the elements of a list."""
        if not isinstance(self.value, list):
            self.refuse("a list")
        return [Field(self.path, f"{self.where}[{i}]", v) for i, v in enumerate(self.value)]

    def text(self) -> str:
        """Return text."""
        if not isinstance(self.value, str) or not self.value:
            self.refuse("text")
        return self.value

    def number(self, least: float = 0.0, *, above: bool = False) -> float:
        """Return a finite number of at least, or above, `least`."""
        value = math.nan
        if isinstance(self.value, int | float) and not isinstance(self.value, bool):
            with suppress(OverflowError):
                value = float(self.value)
        if not math.isfinite(value) or value < least or (above and value == least):
            self.refuse(f"a number {'above' if above else 'of at least'} {least:g}")
        return value


def parse_profile(found: Field) -> Profile:
    """Read the payload of a profile.

    Raises:
        UserError: A value is missing or odd.
    """
    for dtype, own in found["passes"].items():
        if dtype not in BYTES_PER_WEIGHT:
            own.refuse(f"a number format of {', '.join(BYTES_PER_WEIGHT)} as its name")
    status = found["status"]
    if status.value not in STATUSES:
        status.refuse(" or ".join(map(repr, STATUSES)))
    memory, link, power, units = (found[key] for key in ("memory_bytes", "link", "power", "units"))
    profile = Profile(
        name=found["name"].text(),
        device=found["device"].text(),
        status=status.value,
        passes={dtype: parse_cost(own) for dtype, own in found["passes"].items()},
        units=parse_units(units) if units else None,
        decoding=parse_decoding(found["decoding"]) if found["decoding"] else None,
        launches_per_layer=found["launches_per_layer"].number(),
        launches_per_layer_error=optional_error(found["launches_per_layer_error"]),
        round_overhead_s=found["round_overhead_s"].number(),
        round_overhead_error=found["round_overhead_error"].number(),
        memory_bytes=int(memory.number(1)) if memory else None,
        link=parse_link(link) if link else None,
        power=parse_power(power) if power else None,
        sources=tuple(map(parse_source, found["sources"].elements())),
        notes=tuple(own.text() for own in found["notes"].elements()),
    )
    if not (profile.passes or profile.units or profile.decoding):
        found["passes"].refuse("at least one number format, burn units or a decoding pair")
    return profile


def parse_link(found: Field) -> Link:
    """Read a link."""
    mesh = found["mesh"]
    if mesh and not isinstance(mesh.value, bool):
        mesh.refuse("true or false")
    return Link(
        bytes_per_s=found["bytes_per_s"].number(above=True),
        latency_s=found["latency_s"].number(),
        mesh=bool(mesh.value),
        error=optional_error(found["error"]),
    )


def optional_error(found: Field) -> float:
    """Read a relative standard error; 0 where older files have none."""
    return found.number() if found else 0.0


def parse_power(found: Field) -> Power:
    """Read the power of a device."""
    idle_w = found["idle_w"].number()
    return Power(idle_w=idle_w, load_w=found["load_w"].number(idle_w))


def parse_source(found: Field) -> Source:
    """Read a source."""
    return Source(**{name: found[name].text() for name in ("what", "title", "url")})


def parse_units(found: Field) -> BurnUnits:
    """Read burn units."""
    sizes = {name: int(found[name].number(1)) for name in ("workflops_flop", "workmem_bytes")}
    return BurnUnits(**sizes, cost=parse_cost(found["cost"]))


def parse_decoding(found: Field) -> Decoding:
    """Read two models that were timed together."""
    lengths = [own.number(1) for own in found["draft_lengths"].elements()]
    return Decoding(
        target=found["target"].text(),
        draft=found["draft"].text(),
        dtype=found["dtype"].text(),
        batch=int(found["batch"].number(1)),
        baseline_s=found["baseline_s"].number(above=True),
        baseline_error=found["baseline_error"].number(),
        draft_step_s=found["draft_step_s"].number(),
        draft_step_error=found["draft_step_error"].number(),
        verify=parse_cost(found["verify"]),
        draft_lengths=tuple(int(k) for k in lengths),
        source_sha256=found["source_sha256"].text() if found["source_sha256"] else "",
    )


def parse_cost(found: Field) -> PassCost:
    """Read what a pass costs in one number format."""
    exponent = found["overlap_exponent"]
    cost = PassCost(
        flop_scale=parse_curve(found["flop_scale_s"], "tokens"),
        mem_scale=parse_curve(found["mem_scale_s"], "bytes"),
        launch_s=found["launch_s"].number(),
        fixed_s=found["fixed_s"].number(),
        overlap_exponent=math.inf if exponent.value == "inf" else exponent.number(1.0),
    )
    return with_uncertainty(cost, found["uncertainty"])


def parse_curve(found: Field, axis: str) -> Curve:
    """Read a constant, or seconds at rising sizes."""
    if not isinstance(found.value, dict):
        return constant(found.number(above=True))
    sizes, seconds = (
        np.array([own.number(above=True) for own in found[key].elements()], np.float64) for key in (axis, "seconds")
    )
    if len(sizes) < 1 or np.any(np.diff(sizes) <= 0):
        found[axis].refuse("rising sizes")
    if len(seconds) != len(sizes):
        found["seconds"].refuse(f"as many as {axis}, {len(sizes)}")
    return Curve(sizes, seconds)


def with_uncertainty(cost: PassCost, found: Field) -> PassCost:
    """Add how well the parameters are known, where the file says so."""
    if not found:
        return cost
    names = tuple(own.text() for own in found["parameters"].elements())
    for name, own in zip(names, found["parameters"].elements(), strict=True):
        value = cost.parameters().get(name)
        if value is None or not 0 < value < math.inf or names.count(name) > 1:
            own.refuse("the name of a parameter that is neither 0 nor infinite, each once")
    rows = [[entry.number(-math.inf) for entry in row.elements()] for row in found["covariance"].elements()]
    if [len(row) for row in rows] != [len(names)] * len(names):
        found["covariance"].refuse(f"{len(names)} x {len(names)} numbers")
    covariance = np.array(rows, np.float64).reshape(len(names), len(names))
    tolerance = 1e-9 * max(1.0, float(np.abs(covariance).max(initial=0)))
    symmetric = np.allclose(covariance, covariance.T, rtol=0, atol=tolerance)
    if not symmetric or np.linalg.eigvalsh(covariance).min(initial=0) < -tolerance:
        found["covariance"].refuse("a symmetric matrix without negative eigenvalues")
    return replace(cost, uncertain=names, covariance=covariance)


def decoding_json(decoding: Decoding) -> dict[str, Any]:
    """Return two models that were timed together under the names of the file."""
    plain = ("target", "draft", "dtype", "batch", "baseline_s", "baseline_error", "draft_step_s", "draft_step_error")
    told = {name: getattr(decoding, name) for name in plain}
    return (
        told
        | {"verify": cost_json(decoding.verify), "draft_lengths": list(decoding.draft_lengths)}
        | {"source_sha256": decoding.source_sha256 or None}
    )


def profile_json(profile: Profile) -> dict[str, Any]:
    """Return a profile under the names of its file, without provenance."""
    units, link, power = profile.units, profile.link, profile.power
    return {
        "name": profile.name,
        "device": profile.device,
        "status": profile.status,
        "passes": {dtype: cost_json(cost) for dtype, cost in profile.passes.items()},
        "units": units
        and {
            "workflops_flop": units.workflops_flop,
            "workmem_bytes": units.workmem_bytes,
            "cost": cost_json(units.cost),
        },
        "decoding": profile.decoding and decoding_json(profile.decoding),
        "launches_per_layer": profile.launches_per_layer,
        "launches_per_layer_error": profile.launches_per_layer_error,
        "round_overhead_s": float(profile.round_overhead_s),
        "round_overhead_error": profile.round_overhead_error,
        "memory_bytes": profile.memory_bytes,
        "link": link and asdict(link),
        "power": power and {"idle_w": power.idle_w, "load_w": power.load_w},
        "sources": [{"what": s.what, "title": s.title, "url": s.url} for s in profile.sources],
        "notes": list(profile.notes),
    }


def cost_json(cost: PassCost) -> dict[str, Any]:
    """Return a cost under the names of its file."""
    return {
        "flop_scale_s": curve_json(cost.flop_scale, "tokens"),
        "mem_scale_s": curve_json(cost.mem_scale, "bytes"),
        "launch_s": float(cost.launch_s),
        "fixed_s": float(cost.fixed_s),
        "overlap_exponent": "inf" if np.isinf(cost.overlap_exponent) else float(cost.overlap_exponent),
        "uncertainty": {"parameters": list(cost.uncertain), "covariance": cost.covariance.tolist()}
        if cost.uncertain
        else None,
    }


def curve_json(curve: Curve, axis: str) -> float | dict[str, list[float]]:
    """Return a constant, or seconds at sizes."""
    if len(curve.sizes) == 1:
        return float(curve.seconds[0])
    return {axis: curve.sizes.tolist(), "seconds": curve.seconds.tolist()}
