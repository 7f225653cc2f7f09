"""Where the costs of a forecast come from: knobs in burn units, a profile's burn units, or two models on a profile."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simulator.ground.artefacts import UserError

from .model_costs import PLACEMENTS, SAME, ModelPair
from .parameters import BY_KEY, MODEL_KEYS, PARAMETERS, UNIT_KEYS
from .profile import BurnUnits, Decoding, Profile
from .profile_file import load_profile
from .shapes import read_shape
from .step import Costs, Knobs
from .timed_pair import DecodedPair
from .work import BYTES_PER_WEIGHT, ModelShape

# Parameters of a profile's burn units: their names in `Knobs.scaled`, and the options that state them.
FITTED = {
    "flop_scale[0]": ("flop_scale", "flopScale"),
    "mem_scale[0]": ("mem_scale", "memScale"),
    "launch_s": ("fixed_s", "pass_overhead_ms"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Two models and how they run; the fields are those of `ModelPair`."""

    target: ModelShape
    draft: ModelShape
    dtype: str
    draft_dtype: str
    kv_dtype: str | None
    devices: int
    placement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pricing:
    """Costs from the parameters of a point; without models, from its burn units."""

    profile: Profile | None = None
    models: Models | None = None

    @property
    def decoding(self) -> Decoding | None:
        """The pair that the profile was fitted to, where no models are named."""
        return None if self.models or self.profile is None else self.profile.decoding

    @property
    def keys(self) -> tuple[str, ...]:
        """The parameters that count."""
        unused: tuple[str, ...] = UNIT_KEYS if self.models else MODEL_KEYS
        if self.decoding is not None:
            unused = (*UNIT_KEYS, *MODEL_KEYS)
        return tuple(p.key for p in PARAMETERS if p.key not in unused)

    def defaults(self) -> dict[str, float]:
        """Return what the profile says of parameters that have other values without one."""
        found: dict[str, float] = {}
        if self.profile is not None:
            found["round_overhead_ms"] = float(self.profile.round_overhead_s) * 1e3
            if self.models is None and self.decoding is None and self.profile.units is not None:
                found |= unit_defaults(self.profile.units)
        return found

    def overhead_error(self, values: Mapping[str, Any]) -> float:
        """Return how well the overhead of a round is known, relative: one that the user states is taken as known."""
        if self.profile is None or np.any(values["round_overhead_ms"] != self.defaults()["round_overhead_ms"]):
            return 0.0
        return self.profile.round_overhead_error

    def unit_uncertainty(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return how well the profile's burn units are known, as `Knobs` has it; what the user states is known."""
        if self.profile is None or self.profile.units is None:
            return {}
        cost, there = self.profile.units.cost, self.defaults()
        told = {n: FITTED[n] for n in cost.uncertain if n in FITTED}
        kept = {name: key for name, (_, key) in told.items() if np.all(values[key] == there[key])}
        at = [cost.uncertain.index(name) for name in kept]
        return {"uncertain": tuple(FITTED[name][0] for name in kept), "covariance": cost.covariance[np.ix_(at, at)]}

    def costs(self, values: Mapping[str, Any]) -> Costs:
        """Return the costs at values by key; arrays of points stay arrays."""
        if self.profile is not None and self.decoding is not None:
            pair = DecodedPair(
                decoding=self.decoding,
                round_overhead_s=np.asarray(values["round_overhead_ms"], np.float64) / 1e3,
                round_overhead_error=self.overhead_error(values),
            )
            asked = int(np.max(values["draftN"]))
            if asked > pair.longest:
                known = f"the longest that {self.profile.name} was fitted to"
                raise UserError(f"--draftN: {asked} is above {pair.longest}, {known}, expected 1 to {pair.longest}")
            return pair
        if self.models is None or self.profile is None:
            return replace(knobs(values), **self.unit_uncertainty(values))
        told = {name: getattr(self.models, name) for name in Models.__dataclass_fields__}
        return ModelPair(
            profile=self.profile,
            **told,
            batch=values["batch"],
            context=values["context"],
            round_overhead_s=np.asarray(values["round_overhead_ms"], np.float64) / 1e3,
            round_overhead_error=self.overhead_error(values),
        )


def knobs(values: Mapping[str, Any]) -> Knobs:
    """Return the cost knobs in SI units from the parameters by key; arrays stay arrays."""
    return Knobs(
        work_flops=values["workflops"],
        work_mem=values["workmem"],
        flop_scale_s=np.asarray(values["flopScale"], np.float64) / 1e3,
        mem_scale_s=np.asarray(values["memScale"], np.float64) / 1e3,
        draft_cost=values["draft_cost"],
        overlap_exponent=values["overlap_exponent"],
        pass_overhead_s=np.asarray(values["pass_overhead_ms"], np.float64) / 1e3,
        round_overhead_s=np.asarray(values["round_overhead_ms"], np.float64) / 1e3,
    )


def unit_defaults(units: BurnUnits) -> dict[str, float]:
    """Return the parameters that a calibrated device has for burn units, in ms."""
    cost = units.cost
    return {
        "flopScale": float(cost.flop_scale.seconds[0]) * units.workflops_flop * 1e3,
        "memScale": float(cost.mem_scale.at(units.workmem_bytes)) * units.workmem_bytes * 1e3,
        "overlap_exponent": float(cost.overlap_exponent),
        "pass_overhead_ms": float(cost.launch_s + cost.fixed_s) * 1e3,
    }


def load_pricing(options: Mapping[str, Any]) -> Pricing:
    """Read the files that the options of a command name.

    Args:
        options: profile, target_model, draft_model, dtype, draft_dtype, kv_dtype, tp, placement; None where not given;
            overlap, a flag.

    Raises:
        UserError: A file or name is wrong, or options are missing or at odds.
    """
    names = {key: options[key] for key in ("target_model", "draft_model")}
    if options["profile"] is None:
        for key in (*names, "dtype", "draft_dtype", "kv_dtype", "tp", "placement"):
            if options[key] is not None:
                raise UserError(f"{flag(key)}: {options[key]} without a device, expected --profile NAME beside it")
        return Pricing()
    profile = load_profile(options["profile"])
    given = [key for key, name in names.items() if name is not None]
    if not given:
        return Pricing(profile=units_only(profile, options))
    if len(given) == 1:
        missing = next(key for key in names if key not in given)
        raise UserError(f"{flag(given[0])}: {names[given[0]]} alone, expected {flag(missing)} beside it")
    return Pricing(profile=profile, models=load_models(profile, options))


def units_only(profile: Profile, options: Mapping[str, Any]) -> Profile:
    """Refuse a profile without burn units where no models are named, and options that belong to models."""
    for key in ("dtype", "draft_dtype", "kv_dtype", "tp", "placement"):
        if options[key] is not None:
            raise UserError(f"{flag(key)}: {options[key]} without models, expected --target-model and --draft-model")
    if profile.units is None and profile.decoding is None:
        raise UserError(
            f"--profile {profile.name}: says nothing of burn units, expected --target-model and --draft-model beside it"
        )
    return profile


def load_models(profile: Profile, options: Mapping[str, Any]) -> Models:
    """Read two shapes and check how they are to run."""
    dtype = options["dtype"] or default_dtype(profile)
    draft_dtype = options["draft_dtype"] or dtype
    check_formats(profile, dtype, draft_dtype, options["kv_dtype"])
    devices, placement = options["tp"] or 1, options["placement"] or SAME
    if devices > 1 and profile.link is None:
        raise UserError(f"--tp: {devices} devices, but the profile {profile.name} names no link, expected 1")
    if options["overlap"] and placement == SAME:
        raise UserError("--overlap: draft and target are on the same devices, expected --placement separate beside it")
    target, draft = read_shape(options["target_model"]), read_shape(options["draft_model"])
    for shape in (target, draft) if placement == SAME else (target,):
        check_heads(shape, devices)
    return Models(
        target=target,
        draft=draft,
        dtype=dtype,
        draft_dtype=draft_dtype,
        kv_dtype=options["kv_dtype"],
        devices=devices,
        placement=placement,
    )


def check_formats(profile: Profile, dtype: str, draft_dtype: str, kv_dtype: str | None) -> None:
    """Refuse a number format that the profile lacks, or a KV cache's that nobody knows."""
    profile.cost(dtype)
    if draft_dtype not in profile.passes:
        known = ", ".join(profile.passes)
        raise UserError(f"--draft-dtype: {draft_dtype!r} is not in the profile {profile.name}, which has {known}")
    if kv_dtype is not None and kv_dtype not in BYTES_PER_WEIGHT:
        raise UserError(f"--kv-dtype: {kv_dtype!r} is not known, expected one of {', '.join(BYTES_PER_WEIGHT)}")


def check_heads(shape: ModelShape, devices: int) -> None:
    """Refuse devices among which the attention heads cannot be divided."""
    if shape.heads % devices:
        raise UserError(
            f"--tp: {devices} devices cannot share the {shape.heads} heads of {shape.name}, "
            f"expected a divisor of {shape.heads}"
        )


def default_dtype(profile: Profile) -> str:
    """Return bfloat16 where the profile has it, else its first number format."""
    return "bfloat16" if "bfloat16" in profile.passes else next(iter(profile.passes), "bfloat16")


def flag(key: str) -> str:
    """Return the option of a key."""
    return f"--{key.replace('_', '-')}"


def refuse_unused(pricing: Pricing, given: list[str]) -> None:
    """Refuse parameters that the user set and that have no part in these costs.

    Raises:
        UserError: Names the first, and why.
    """
    for key in given:
        if key in BY_KEY and key not in pricing.keys:
            why = "needs --profile and --target-model, expected those beside it"
            if pricing.models:
                why = "has no part in models on a profile, expected one or the other"
            elif pricing.decoding:
                why = "is not told by a profile of a pair that decoded, expected no such option"
            raise UserError(f"{BY_KEY[key].flags[0]}: {why}")


__all__ = ["PLACEMENTS", "Pricing", "knobs", "load_pricing", "refuse_unused"]
