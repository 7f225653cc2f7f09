"""Is a device as fast as it was: two profiles of it, parameter by parameter, beyond what noise explains."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from simulator.profile import Decoding, PassCost, Profile

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
    """Yield the parameters of one cost that are neither 0 nor infinite in both."""
    for key, new in now.parameters().items():
        old = before.parameters().get(key, 0.0)
        if key != "overlap_exponent" and 0 < old < np.inf and 0 < new < np.inf:
            error = float(np.hypot(error_of(before, key), error_of(now, key)))
            yield Change(name=f"{name} {key}", before=old, now=new, error=error)


def error_of(cost: PassCost, key: str) -> float:
    """Return the standard error of a parameter, relative; 0 where it is taken as certain."""
    return float(np.sqrt(cost.covariance[(i := cost.uncertain.index(key)), i])) if key in cost.uncertain else 0.0


def overall(found: list[Change]) -> str:
    """Return one word for all: what is said of any, unless some are faster and others slower."""
    words = {change.verdict for change in found}
    if FASTER in words and SLOWER in words:
        return "faster in parts, slower in others"
    return next((word for word in (SLOWER, FASTER, UNCLEAR) if word in words), SAME if found else UNCLEAR)
