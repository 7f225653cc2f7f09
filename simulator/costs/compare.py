"""The numbers of profiles, and two profiles number by number: what differs beyond what the errors of both explain."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .engine import HOST, LOAD, LONGER, ROUND, Engine
from .profile import BURN_UNITS, Curve, Decoding, PassCost, Profile
from .step import Floats

STANDARD_ERRORS = 2.0
# Changes below this matter to nobody, however sure they are.
LEAST_CHANGE = 0.02
# Where the errors allow changes beyond this, nothing can be said.
BLIND = 0.25
SAME, FASTER, SLOWER, UNCLEAR = "same", "faster", "slower", "cannot tell"


class Number(NamedTuple):
    """A number of a profile, in SI units as its file has it.

    key: its name there. error: standard error, relative; 0 where none is stated. of: the number format, burn units or
    pair that it belongs to; "" for the device. size: of the work at which a curve is read; None for a constant.
    faster: 1 if more is faster, -1 if less is, 0 if neither.
    """

    key: str
    value: float
    error: float = 0.0
    of: str = ""
    size: float | None = None
    faster: int = -1


def device_numbers(profile: Profile) -> Iterator[Number]:
    """Yield the numbers of a device that do not depend on the number format."""
    if profile.memory_bytes:
        yield Number("memory_bytes", profile.memory_bytes, faster=0)
    if profile.memory_share is not None:
        yield Number("memory_share", profile.memory_share, faster=0)
    if profile.power:
        yield Number("load_w", profile.power.load_w, faster=0)
        yield Number("idle_w", profile.power.idle_w, faster=0)
    if profile.link:
        key = "mesh_bytes_per_s" if profile.link.mesh else "link_bytes_per_s"
        yield Number(key, float(profile.link.bytes_per_s), profile.link.error, faster=1)
        yield Number("latency_s", float(profile.link.latency_s), profile.link.error)
    yield Number("launches_per_layer", profile.launches_per_layer, profile.launches_per_layer_error)
    if profile.engine:
        yield from engine_numbers(profile.engine, profile.launches_per_layer_error)
    yield Number("round_overhead_s", float(profile.round_overhead_s), profile.round_overhead_error)
    if profile.decoding:
        yield from pair_numbers(profile.decoding)
    if profile.units:
        yield Number("workflops_flop", profile.units.workflops_flop, faster=0)
        yield Number("workmem_bytes", profile.units.workmem_bytes, faster=0)


def engine_numbers(engine: Engine, launches_error: float) -> Iterator[Number]:
    """Yield what an engine adds, as far as it is stated."""
    for kind, launches in engine.layer_launches.items():
        yield Number(f"launches_{kind}", launches, launches_error)
    stated = [n for n in ("expert_overlap", *HOST, *LOAD, "first_passes", "logit_bytes", *ROUND) if getattr(engine, n)]
    for key in (*stated, *(name for name in LONGER if getattr(engine, name) != 1)):
        error = engine.host_error if key in (*HOST, *LOAD) else 0.0
        yield Number(key, float(getattr(engine, key)), error, faster=1 if key == "expert_overlap" else -1)
    if engine.graph_tokens:
        yield Number("graph_tokens", engine.graph_tokens[-1], faster=1)


def pair_numbers(pair: Decoding) -> Iterator[Number]:
    """Yield the times of a pair that decoded; verification by its tokens, at the draft lengths that were fitted."""
    of = f"{pair.draft} for {pair.target}, {pair.dtype}"
    yield Number("baseline_s", pair.baseline_s, pair.baseline_error, of)
    yield Number("draft_step_s", pair.draft_step_s, pair.draft_step_error, of)
    tokens = np.array(pair.draft_lengths, np.float64) + 1
    work = (tokens, 1.0, tokens, 0.0)
    for size, seconds, error in zip(tokens, pair.verify.pass_s(*work), pair.verify.pass_errors(*work), strict=True):
        yield Number("verify_s", float(seconds), float(error), of, float(size))


def cost_numbers(
    of: str, cost: PassCost, tokens: Floats | None = None, bytes_: Floats | None = None
) -> Iterator[Number]:
    """Yield the numbers of a pass; curves at given sizes, or at their own."""
    for key, given in (("flop_scale", tokens), ("mem_scale", bytes_)):
        curve: Curve = getattr(cost, key)
        sizes = curve.sizes if given is None else given
        is_constant = len(sizes) == len(curve.sizes) == 1
        for size, seconds, error in zip(sizes, curve.at(sizes), cost.curve_errors(key, sizes), strict=True):
            yield Number(key, float(seconds), float(error), of, None if is_constant else float(size))
    for key, faster in (("launch_s", -1), ("fixed_s", -1), ("overlap_exponent", 1)):
        yield Number(key, float(getattr(cost, key)), cost.error(key), of, faster=faster)


def costs_by_name(profile: Profile) -> dict[str, PassCost]:
    """Return what passes cost by number format, and what burn units do."""
    return {**profile.passes, **({BURN_UNITS: profile.units.cost} if profile.units else {})}


def joint_sizes(a: Curve, b: Curve) -> Floats:
    """Return the sizes of either curve; those of a constant mean nothing."""
    curves = [curve.sizes for curve in (a, b) if len(curve.sizes) > 1]
    return np.unique(np.concatenate(curves)) if curves else a.sizes


def shared_sizes(a: Curve, b: Curve) -> Floats:
    """Return the knots where they are the same, or of the only curve, else three sizes over what both span."""
    if len(b.sizes) == 1 or np.array_equal(a.sizes, b.sizes):
        return a.sizes
    if len(a.sizes) == 1:
        return b.sizes
    low, high = max(a.sizes[0], b.sizes[0]), min(a.sizes[-1], b.sizes[-1])
    return np.unique(np.geomspace(low, high, 3)) if low <= high else np.zeros(0)


def matched(a: Iterable[Number], b: Iterable[Number]) -> Iterator[tuple[Number | None, Number | None]]:
    """Yield the numbers of either side, those of the same name and size beside one another."""
    first, second = ({(n.of, n.key, n.size): n for n in numbers} for numbers in (a, b))
    for place in dict.fromkeys([*first, *second]):
        yield first.get(place), second.get(place)


def verdict(a: Number, b: Number) -> str:
    """Say whether B is faster or slower than A by more than the errors of both together."""
    if not a.faster or a.value == b.value:
        return ""
    if not (a.error and b.error and a.value > 0 and b.value > 0):
        return "no uncertainty stated"
    apart = a.faster * math.log(b.value / a.value) / math.hypot(a.error, b.error)
    if abs(apart) <= STANDARD_ERRORS:
        return "same within the uncertainty"
    return FASTER if apart > 0 else SLOWER


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One time, then and now. ratio: now over then; error: its standard error, relative."""

    name: str
    before: float
    now: float
    error: float

    @property
    def ratio(self) -> float:
        """Now over then."""
        return self.now / self.before

    @property
    def verdict(self) -> str:
        """ "same", "faster", "slower" or "cannot tell"."""
        change, doubt = abs(np.log(self.ratio)), STANDARD_ERRORS * self.error
        if change > max(doubt, LEAST_CHANGE):
            return SLOWER if self.ratio > 1 else FASTER
        return UNCLEAR if doubt > BLIND else SAME


def changes(before: Profile, now: Profile) -> list[Change]:
    """Return every time above 0 that both profiles have: of a pair only where it is the same, curves where both are."""
    numbers: list[tuple[Number | None, Number | None]] = []
    pairs = before.decoding, now.decoding
    if pairs[0] and pairs[1] and pairs[0].batch == pairs[1].batch:
        numbers += matched(pair_numbers(pairs[0]), pair_numbers(pairs[1]))
    costs = costs_by_name(before), costs_by_name(now)
    for name in (name for name in costs[1] if name in costs[0]):
        old, new = (by_name[name] for by_name in costs)
        sizes = shared_sizes(old.flop_scale, new.flop_scale), shared_sizes(old.mem_scale, new.mem_scale)
        numbers += matched(cost_numbers(name, old, *sizes), cost_numbers(name, new, *sizes))
    return [
        Change(name=change_name(b), before=a.value, now=b.value, error=math.hypot(a.error, b.error))
        for a, b in numbers
        if a and b and a.value > 0 and b.value > 0 and b.key != "overlap_exponent"
    ]


def change_name(number: Number) -> str:
    """Return what a time is called."""
    if number.key == "verify_s":
        return f"verification at K = {(number.size or 1) - 1:g}"
    if number.key in ("baseline_s", "draft_step_s"):
        return number.key.removesuffix("_s").replace("_", " ")
    if number.key in ("launch_s", "fixed_s"):
        return f"{number.of} {number.key}"
    unit = "tokens" if number.key == "flop_scale" else "bytes"
    return f"{number.of} {number.key}" + ("[0]" if number.size is None else f" at {number.size:g} {unit}")


def overall(times: list[Change]) -> str:
    """Return one word for all: what is said of any, unless some are faster and others slower."""
    words = {change.verdict for change in times}
    if FASTER in words and SLOWER in words:
        return "faster in parts, slower in others"
    return next((word for word in (SLOWER, FASTER, UNCLEAR) if word in words), SAME if times else UNCLEAR)
