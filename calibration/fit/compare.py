"""Is a device as fast as it was: two profiles of it, parameter by parameter, beyond what noise explains."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from simulator.costs.profile import Curve, Decoding, Floats, PassCost, Profile

STANDARD_ERRORS = 2.0
# Changes below this matter to nobody, however sure they are.
LEAST_CHANGE = 0.02
# Where the errors allow changes beyond this, nothing can be said.
BLIND = 0.25
SAMPLES = 1000
SAME, FASTER, SLOWER, UNCLEAR = "same", "faster", "slower", "cannot tell"


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
    """Return every time that both profiles have."""
    found = []
    pairs = [(dtype, before.passes[dtype], cost) for dtype, cost in now.passes.items() if dtype in before.passes]
    if before.units and now.units:
        pairs.append(("burn units", before.units.cost, now.units.cost))
    if before.decoding and now.decoding:
        found += list(decoding_changes(before.decoding, now.decoding))
    for name, old, new in pairs:
        found += list(cost_changes(name, old, new))
    return found


def decoding_changes(before: Decoding, now: Decoding) -> Iterator[Change]:
    """Yield the times of a pair that decoded; none where it is not the same pair."""
    if any(getattr(before, name) != getattr(now, name) for name in ("target", "draft", "dtype", "batch")):
        return
    for name in ("baseline", "draft_step"):
        old, new = (getattr(own, f"{name}_s") for own in (before, now))
        error = float(np.hypot(getattr(before, f"{name}_error"), getattr(now, f"{name}_error")))
        yield Change(name=name.replace("_", " "), before=old, now=new, error=error)
    for k in sorted({*before.draft_lengths} & {*now.draft_lengths}):
        (old, doubt), (new, own_doubt) = (verify_s(own.verify, k) for own in (before, now))
        yield Change(name=f"verification at K = {k}", before=old, now=new, error=float(np.hypot(doubt, own_doubt)))


def verify_s(cost: PassCost, draft_length: int) -> tuple[float, float]:
    """Return the seconds of a verification, and their standard error, relative: its parameters move together."""
    tokens = draft_length + 1
    drawn = cost.sample(np.random.default_rng(0), SAMPLES).pass_s(tokens, 1, tokens, 0)
    return float(cost.pass_s(tokens, 1, tokens, 0)), float(np.log(drawn).std())


def cost_changes(name: str, before: PassCost, now: PassCost) -> Iterator[Change]:
    """Yield curves at sizes within both, and what is above 0 in both of launches and fixed times."""
    for key, unit in (("flop_scale", "tokens"), ("mem_scale", "bytes")):
        yield from curve_changes(name, key, unit, before, now)
    for key in ("launch_s", "fixed_s"):
        old, new = (float(getattr(own, key)) for own in (before, now))
        if old > 0 and new > 0:
            error = float(np.hypot(before.error(key), now.error(key)))
            yield Change(name=f"{name} {key}", before=old, now=new, error=error)


def curve_changes(name: str, key: str, unit: str, before: PassCost, now: PassCost) -> Iterator[Change]:
    """Yield the seconds a unit of work at sizes within both curves: their knots are chosen anew by every fit."""
    old, new = (getattr(own, key) for own in (before, now))
    sizes = shared_sizes(old, new)
    errors = np.hypot(before.curve_errors(key, sizes), now.curve_errors(key, sizes))
    constants = len(old.sizes) == len(new.sizes) == 1
    for size, then_s, now_s, error in zip(sizes, old.at(sizes), new.at(sizes), errors, strict=True):
        told = f"{name} {key}[0]" if constants else f"{name} {key} at {size:g} {unit}"
        yield Change(name=told, before=float(then_s), now=float(now_s), error=float(error))


def shared_sizes(a: Curve, b: Curve) -> Floats:
    """Return the knots where they are the same, or of the only curve, else three sizes over what both span."""
    if len(b.sizes) == 1 or np.array_equal(a.sizes, b.sizes):
        return a.sizes
    if len(a.sizes) == 1:
        return b.sizes
    low, high = max(a.sizes[0], b.sizes[0]), min(a.sizes[-1], b.sizes[-1])
    return np.unique(np.geomspace(low, high, 3)) if low <= high else np.zeros(0)


def overall(found: list[Change]) -> str:
    """Return one word for all: what is said of any, unless some are faster and others slower."""
    words = {change.verdict for change in found}
    if FASTER in words and SLOWER in words:
        return "faster in parts, slower in others"
    return next((word for word in (SLOWER, FASTER, UNCLEAR) if word in words), SAME if found else UNCLEAR)
