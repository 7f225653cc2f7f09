"""The file `profile.json`: reading, checking and writing hardware profiles, and those that come along (model §8)."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from simulator.ground.artefacts import UserError, check_kind, envelope, write_json
from simulator.ground.fields import Field, read_json
from simulator.ground.names import Found, Names, find_name, nearest

from .datasheet import sheet_names, sheet_of
from .engine import MOST_ERROR, engine_json, parse_engine
from .fitted import parse_serving_fit, serving_fit_json
from .formats import FORMATS
from .profile import (
    RANGES,
    STATUSES,
    BurnUnits,
    Curve,
    Decoding,
    Link,
    PassCost,
    Power,
    Profile,
    Source,
    constant,
)
from .ranges import parse_range

KIND = "hardware_profile"
# 1: first version. 2: `uncertainty` may be `relative_errors` by parameter, where nothing is known of correlations.
SCHEMA_VERSIONS = (1, 2)
# What we write has covariances, which readers of version 1 take too.
SCHEMA_VERSION = 1
# Of a FLOP or a byte: far beyond any device, and far enough within a float that no pass leaves it.
MOST_SECONDS = 1e6
# Beyond any device: launches of a layer, bytes or bytes a second, watts.
MOST_LAUNCHES, MOST_BYTES, MOST_WATTS, MOST_DEVICES = 1e6, 1e21, 1e9, 10**6
PRESETS = Path(__file__).parent / "presets"
# What a device is called besides, where a name alone means several or says more than ours.
ALSO_CALLED = {
    other: name
    for name, others in {
        "h100-sxm": ("h100", "h100 80gb", "h100 sxm 80gb", "hgx h100"),
        "h100-pcie": ("h100 pcie 80gb",),
        "h200": ("h200 sxm", "h200 141gb", "h200 sxm 141gb", "hgx h200"),
        "b200": ("b200 sxm", "hgx b200", "b200 180gb", "b200 192gb"),
        "b300": ("b300 sxm", "hgx b300"),
        "gb200": ("gb200 nvl72",),
        "gb300": ("gb300 nvl72",),
        "a100-80gb": ("a100", "a100 sxm", "a100 sxm 80gb"),
        "a100-40gb": ("a100 sxm 40gb",),
        "a100-80gb-pcie": ("a100 pcie",),
        "mi300x": ("mi300", "mi300x oam"),
        "rtx-pro-6000": ("rtx pro 6000 blackwell", "rtx pro 6000 blackwell workstation edition"),
        "tpu-v6e": ("trillium", "tpu v6"),
        "tpu-v5e": ("tpu v5 lite",),
        "tpu-v7": ("tpu7x", "ironwood", "tpu v7x"),
    }.items()
    for other in others
}
# Parts of a device's name that tell it from no other.
IDLE = frozenset(
    [
        "nvidia",
        "geforce",
        "tesla",
        "amd",
        "instinct",
        "apple",
        "google",
        "cloud",
        "gpu",
        "tensor",
        "accelerator",
        "card",
    ]
)
UNTOLD = re.compile(r"\bhbm\d\w*|(?<=sxm)\d", re.IGNORECASE)
# Parts that make another device of one: an L40 is no L40S.
TELLING = frozenset(
    [
        "max",
        "pro",
        "ultra",
        "ti",
        "super",
        "laptop",
        "mobile",
        "s",
        "x",
        "g",
        "e",
        "p",
        "d",
    ]
)


def presets() -> tuple[str, ...]:
    """Return the names of the profiles that come along."""
    return tuple(sorted((*(p.stem for p in PRESETS.glob("*.json")), *sheet_names())))


def find_profile(path_or_name: str | Path) -> Found:
    """Find a file of a profile, or one that comes along by its name; a file goes before a name.

    Raises:
        UserError: There is no such file, and the name means none of those that come along, or several.
    """
    text = str(path_or_name)
    if Path(path_or_name).exists():
        return Found(text)
    if text.endswith(".json"):
        raise UserError(f"{text}: no such file")
    names = Names(kind="device", known=presets(), also=ALSO_CALLED, idle=IDLE, telling=TELLING)
    found = find_name(UNTOLD.sub("", text), names)
    if found is None:
        those = ", ".join(nearest(text, presets()))
        raise UserError(
            f"{text}: no such file, nor a device that comes along (nearest: {those}; all: profiles list); "
            "profiles new makes one from its data sheet"
        )
    return Found(found.name, f"{text}: {found.said}" if found.said else "")


def load_profile(path_or_name: str | Path) -> Profile:
    """Read a profile, or one that comes along, by what `find_profile` takes.

    Raises:
        UserError: There is no such file or name, or a value is missing or odd; names file, field and value.
    """
    found = find_profile(path_or_name)
    path = Path(found.name)
    if path.exists():
        return read_profile(path)
    is_sheet = found.name in sheet_names()
    preset = sheet_of(found.name).profile() if is_sheet else read_profile(PRESETS / f"{found.name}.json")
    return replace(preset, assumed=found.said)


def read_profile(path: Path) -> Profile:
    """Read a file of a profile; see `load_profile`."""
    field = read_json(path)
    kind = field["kind"]
    if kind.value == "calibration_report":
        raise UserError(f"{path}: is the report of a fit that failed its checks, not a profile")
    if not kind.is_stated:
        kind.refuse(repr(KIND))
    check_kind(path, field.object(), KIND, SCHEMA_VERSIONS)
    return parse_profile(field)


def parse_profile(field: Field) -> Profile:
    """Read the payload of a profile; a UserError names a value that is missing or odd."""
    field["passes"].only(tuple(FORMATS))
    memory, link, power, units, timed = (field[k] for k in ("memory_bytes", "link", "power", "units", "timed"))
    share = field["memory_share"]
    if timed.is_given:
        timed.only(RANGES)
    profile = Profile(
        name=field["name"].text(),
        device=field["device"].text(),
        status=field["status"].choice(STATUSES),
        passes={dtype: parse_cost(entry) for dtype, entry in field["passes"].items()},
        units=parse_units(units) if units.is_given else None,
        decoding=parse_decoding(field["decoding"]) if field["decoding"].is_given else None,
        launches_per_layer=field["launches_per_layer"].number(0.0, MOST_LAUNCHES),
        launches_per_layer_error=field["launches_per_layer_error"].number(0.0, MOST_ERROR, default=0.0),
        engine=parse_engine(field["engine"]) if field["engine"].is_given else None,
        round_overhead_s=field["round_overhead_s"].number(0.0, MOST_SECONDS),
        round_overhead_error=field["round_overhead_error"].number(0.0, MOST_ERROR),
        memory_bytes=memory.whole(1, int(MOST_BYTES)) if memory.is_given else None,
        memory_share=share.number(0.0, 1.0, above=True) if share.is_given else None,
        link=parse_link(link) if link.is_given else None,
        power=parse_power(power) if power.is_given else None,
        timed={name: parse_range(entry) for name, entry in timed.items()} if timed.is_given else {},
        sources=tuple(
            Source(**{name: source[name].text() for name in ("what", "title", "url")})
            for source in field["sources"].elements()
        ),
        notes=tuple(entry.text() for entry in field["notes"].elements()),
        fitted=parse_serving_fit(field["fitted"]) if field["fitted"].is_given else None,
    )
    if not (profile.passes or profile.units or profile.decoding):
        field["passes"].refuse("at least one number format, burn units or a decoding pair")
    return profile


def parse_power(field: Field) -> Power:
    """Read watts at rest and under load."""
    idle_w = field["idle_w"].number(0.0, MOST_WATTS)
    return Power(idle_w=idle_w, load_w=field["load_w"].number(idle_w, MOST_WATTS))


def parse_link(field: Field) -> Link:
    """Read a link."""
    return Link(
        bytes_per_s=field["bytes_per_s"].number(0.0, MOST_BYTES, above=True),
        latency_s=field["latency_s"].number(0.0, MOST_SECONDS),
        mesh=field["mesh"].flag(False),
        error=field["error"].number(0.0, MOST_ERROR, default=0.0),
        devices=field["devices"].whole(2, MOST_DEVICES) if field["devices"].is_given else None,
    )


def parse_units(field: Field) -> BurnUnits:
    """Read burn units."""
    sizes = {name: field[name].whole(1, int(MOST_BYTES)) for name in ("workflops_flop", "workmem_bytes")}
    return BurnUnits(**sizes, cost=parse_cost(field["cost"]))


def parse_decoding(field: Field) -> Decoding:
    """Read two models that were timed together."""
    lengths = field["draft_lengths"]
    if not lengths.elements():
        lengths.refuse("a list of at least one")
    return Decoding(
        target=field["target"].text(),
        draft=field["draft"].text(),
        dtype=field["dtype"].text(),
        batch=field["batch"].whole(1),
        baseline_s=field["baseline_s"].number(0.0, MOST_SECONDS, above=True),
        baseline_error=field["baseline_error"].number(0.0, MOST_ERROR),
        draft_step_s=field["draft_step_s"].number(0.0, MOST_SECONDS),
        draft_step_error=field["draft_step_error"].number(0.0, MOST_ERROR),
        verify=parse_cost(field["verify"]),
        draft_lengths=tuple(entry.whole(1) for entry in lengths.elements()),
        draft_overhead_correlation=field["draft_overhead_correlation"].number(-1.0, 1.0, default=0.0),
        source_sha256=field["source_sha256"].text() if field["source_sha256"].is_given else "",
    )


def parse_cost(field: Field) -> PassCost:
    """Read what a pass costs in one number format."""
    exponent = field["overlap_exponent"]
    cost = PassCost(
        flop_scale=parse_curve(field["flop_scale_s"], "tokens"),
        mem_scale=parse_curve(field["mem_scale_s"], "bytes"),
        launch_s=field["launch_s"].number(0.0, MOST_SECONDS),
        fixed_s=field["fixed_s"].number(0.0, MOST_SECONDS),
        overlap_exponent=math.inf if exponent.value == "inf" else exponent.number(1.0),
    )
    return with_uncertainty(cost, field["uncertainty"])


def parse_curve(field: Field, axis: str) -> Curve:
    """Read a constant, or seconds at rising sizes."""
    if not isinstance(field.value, dict):
        return constant(field.number(0.0, MOST_SECONDS, above=True))
    sizes, seconds = (
        np.array([entry.number(0.0, most, above=True) for entry in field[key].elements()], np.float64)
        for key, most in ((axis, MOST_BYTES), ("seconds", MOST_SECONDS))
    )
    if len(sizes) < 1 or np.any(np.diff(sizes) <= 0):
        field[axis].refuse("rising sizes")
    if len(seconds) != len(sizes):
        field["seconds"].refuse(f"as many as {axis}, {len(sizes)}")
    return Curve(sizes, seconds)


def with_uncertainty(cost: PassCost, field: Field) -> PassCost:
    """Add how well the parameters are known, where the file says so."""
    if not field.is_given:
        return cost
    known = [name for name, value in cost.parameters().items() if 0 < value < math.inf]
    if field["relative_errors"].is_given:
        errors = field["relative_errors"]
        errors.only(known)
        names = tuple(name for name in known if name in errors.object())
        # In decimals, where the square of 0.1 is 0.01.
        variances = [float(Decimal(repr(errors[name].number(0.0, MOST_ERROR))) ** 2) for name in names]
        return replace(cost, uncertain=names, covariance=np.diag(variances))
    names = tuple(name.text() for name in field["parameters"].elements())
    for name in field["parameters"].elements():
        if name.value not in known or names.count(name.value) > 1:
            name.refuse("the name of a parameter that is neither 0 nor infinite, each once")
    most = MOST_ERROR**2
    rows = [[entry.number(-most, most) for entry in row.elements()] for row in field["covariance"].elements()]
    if [len(row) for row in rows] != [len(names)] * len(names):
        field["covariance"].refuse(f"{len(names)} x {len(names)} numbers")
    covariance = np.array(rows, np.float64).reshape(len(names), len(names))
    tolerance = 1e-9 * max(1.0, float(np.abs(covariance).max(initial=0)))
    symmetric = np.allclose(covariance, covariance.T, rtol=0, atol=tolerance)
    if not symmetric or np.linalg.eigvalsh(covariance).min(initial=0) < -tolerance:
        field["covariance"].refuse("a symmetric matrix without negative eigenvalues")
    return replace(cost, uncertain=names, covariance=covariance)


def save_profile(path: Path, profile: Profile, parameters: Mapping[str, Any]) -> None:
    """Write a profile without samples and its provenance; overwrites a file that exists."""
    write_json(path, envelope(KIND, SCHEMA_VERSION, parameters) | profile_json(profile))


def profile_json(profile: Profile) -> dict[str, Any]:
    """Return a profile under the names of its file, without provenance."""
    units, decoding, link, power = profile.units, profile.decoding, profile.link, profile.power
    plain = ("name", "device", "status", "launches_per_layer", "launches_per_layer_error", "round_overhead_error")
    engine = {"engine": engine_json(profile.engine)} if profile.engine else {}
    fitted = {"fitted": serving_fit_json(profile.fitted)} if profile.fitted else {}
    share = {} if profile.memory_share is None else {"memory_share": profile.memory_share}
    return (
        {name: getattr(profile, name) for name in plain}
        | engine
        | fitted
        | share
        | {
            "passes": {dtype: cost_json(cost) for dtype, cost in profile.passes.items()},
            "units": units and asdict(units) | {"cost": cost_json(units.cost)},
            "decoding": decoding
            and asdict(decoding)
            | {
                "verify": cost_json(decoding.verify),
                "draft_lengths": list(decoding.draft_lengths),
                "source_sha256": decoding.source_sha256 or None,
            },
            "round_overhead_s": float(profile.round_overhead_s),
            "memory_bytes": profile.memory_bytes,
            "link": link and asdict(link),
            "power": power and asdict(power),
            "timed": {name: asdict(ends) for name, ends in profile.timed.items()} or None,
            "sources": [asdict(source) for source in profile.sources],
            "notes": list(profile.notes),
        }
    )


def cost_json(cost: PassCost) -> dict[str, Any]:
    """Return a cost under the names of its file."""
    uncertainty = {"parameters": list(cost.uncertain), "covariance": cost.covariance.tolist()}
    return {
        "flop_scale_s": curve_json(cost.flop_scale, "tokens"),
        "mem_scale_s": curve_json(cost.mem_scale, "bytes"),
        "launch_s": float(cost.launch_s),
        "fixed_s": float(cost.fixed_s),
        "overlap_exponent": "inf" if np.isinf(cost.overlap_exponent) else float(cost.overlap_exponent),
        "uncertainty": uncertainty if cost.uncertain else None,
    }


def curve_json(curve: Curve, axis: str) -> float | dict[str, list[float]]:
    """Return a constant, or seconds at sizes."""
    if len(curve.sizes) == 1:
        return float(curve.seconds[0])
    return {axis: curve.sizes.tolist(), "seconds": curve.seconds.tolist()}
