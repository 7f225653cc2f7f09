"""The file `profile.json`: reading, checking and writing hardware profiles, and those that come along (model §8).

Written by `calibrate`, or in `profiles/` from data sheets.
"""

import math
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from simulator.ground.artefacts import UserError, check_kind
from simulator.ground.fields import read_json_object

from .profile import STATUSES, BurnUnits, Curve, Decoding, Link, PassCost, Power, Profile, Source, constant
from .work import BYTES_PER_WEIGHT

KIND = "hardware_profile"
# 1: first version.
SCHEMA_VERSION = 1
PRESETS = Path(__file__).parent / "presets"


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
