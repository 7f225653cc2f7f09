"""What rounds of a pair cost that was timed: while it decoded, or as a server tells times a token (model §2)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from simulator.ground.artefacts import UserError

from .profile import Decoding
from .step import Floats, Real, RoundCost


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedPair:
    """The costs of a profile's `decoding`; factors scale what was fitted, and may be samples.

    round_overhead_s: what a round costs besides its passes; round_overhead_error: its standard error, relative.
    """

    decoding: Decoding
    round_overhead_s: Real
    round_overhead_error: float = 0.0
    baseline_factor: Real = 1.0
    draft_factor: Real = 1.0

    @property
    def longest(self) -> int:
        """The longest draft that was timed: what a longer verification takes is not known."""
        return max(self.decoding.draft_lengths)

    def round_cost(self, draft_length: Real) -> RoundCost:
        """Return the phases' seconds; a leading axis of samples where the costs are samples."""
        k = np.asarray(draft_length, np.int64)
        decoding, ones = self.decoding, np.ones(k.shape)
        draft_step_s = np.asarray(decoding.draft_step_s * self.draft_factor * ones)
        return RoundCost(
            draft_length=k,
            baseline_s=np.asarray(decoding.baseline_s * self.baseline_factor * ones),
            draft_step_s=draft_step_s,
            draft_s=draft_step_s * k,
            verify_s=decoding.verify.pass_s(k + 1, ones, k + 1, 0),
            overhead_s=np.asarray(self.round_overhead_s * ones),
        )

    def scaled(self, factors: Mapping[str, float]) -> "DecodedPair":
        """Multiply constants of the target's passes, a plain step among them, by name; or `round_overhead_s`."""
        before = self.decoding.verify
        verify = before.scaled(factors)
        step = np.asarray(verify.pass_s(1, 1, 1, 0) / before.pass_s(1, 1, 1, 0), np.float64)
        return replace(
            self,
            decoding=replace(self.decoding, verify=verify),
            baseline_factor=np.asarray(self.baseline_factor * step, np.float64),
            round_overhead_s=np.asarray(self.round_overhead_s, np.float64) * factors.get("round_overhead_s", 1.0),
        )

    def sample(self, rng: np.random.Generator, samples: int) -> "DecodedPair":
        """Draw what was fitted anew; results get a leading axis of samples."""
        decoding, rho = self.decoding, self.decoding.draft_overhead_correlation
        errors = (decoding.baseline_error, decoding.draft_step_error, self.round_overhead_error)
        normals = rng.standard_normal((3, samples, 1))
        normals[2] = rho * normals[1] + np.sqrt(1 - rho**2) * normals[2]
        plain, draft, overhead = (np.exp(e * z) for e, z in zip(errors, normals, strict=True))
        return replace(
            self,
            decoding=replace(decoding, verify=decoding.verify.sample(rng, samples)),
            round_overhead_s=np.asarray(self.round_overhead_s, np.float64) * overhead,
            baseline_factor=plain,
            draft_factor=draft,
        )


# Of what a round takes beyond a plain step, how much grows with K, where nobody says: the middle of all or nothing.
DRAFTED_SHARE = 0.5
# Least time of a round over that of a plain step: verification reads what a step reads.
LEAST_ROUND = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedTokens:
    """Costs from two times a token of a server, plain and speculative at one draft length.

    What a round takes beyond a plain step is split between drafted tokens, which K multiplies, and the rest: where only
    one draft length was timed, how it is split is not known. drafted_share: of drafts in it; it and round_s may be
    samples, [samples, 1].
    """

    baseline_s: float
    round_s: Real
    draft_length: int
    drafted_share: Real = DRAFTED_SHARE
    factors: Mapping[str, float] | None = None

    @property
    def longest(self) -> None:
        """Any draft length."""
        return None

    def round_cost(self, draft_length: Real) -> RoundCost:
        """Return the phases' seconds; a leading axis of samples where the share is samples."""
        k = np.asarray(draft_length, np.int64)
        ones, excess_s = np.ones(k.shape), np.maximum(0.0, self.round_s - self.baseline_s)
        step_s = np.asarray(self.drafted_share * excess_s / self.draft_length * ones)
        more = (self.factors or {}).get("round_overhead_s", 1.0)
        return RoundCost(
            draft_length=k,
            baseline_s=self.baseline_s * ones,
            draft_step_s=step_s,
            draft_s=step_s * k,
            # Noise may make a round a little shorter than a step.
            verify_s=np.asarray(np.minimum(self.baseline_s, self.round_s) * ones),
            overhead_s=np.asarray((1 - self.drafted_share) * excess_s * more * ones),
        )

    def scaled(self, factors: Mapping[str, float]) -> "TimedTokens":
        """Multiply the overhead of a round; of passes nothing is known but their sum."""
        return replace(self, factors=factors)

    def sample(self, rng: np.random.Generator, samples: int) -> "TimedTokens":
        """Draw the share of drafts anew, [samples, 1]: from nothing to all of it."""
        return replace(self, drafted_share=rng.random((samples, 1)))

    def with_tokens(self, relative: Floats) -> "TimedTokens":
        """Return the costs if rounds had so many times the tokens, [samples, 1]: the time a token is what was timed."""
        return replace(self, round_s=np.asarray(self.round_s * relative))


def timed_tokens(baseline_s: float, speculative_s: float, tokens_per_round: float, draft_length: int) -> TimedTokens:
    """Return the costs that two times a token tell of.

    Args:
        baseline_s: Of a token without speculation.
        speculative_s: Of a token with it.
        tokens_per_round: That were committed while it was timed.
        draft_length: K that it was timed with.

    Raises:
        UserError: A round would take less than a plain step.
    """
    round_s = speculative_s * tokens_per_round
    if round_s < LEAST_ROUND * baseline_s:
        raise UserError(
            f"--speculative-tpot: {1e3 * speculative_s:g} ms a token at {tokens_per_round:.2f} a round are rounds of "
            f"{1e3 * round_s:.3g} ms, below a plain step of {1e3 * baseline_s:g} ms, "
            f"expected at least {1e3 * LEAST_ROUND * baseline_s / tokens_per_round:.3g}"
        )
    return TimedTokens(baseline_s=baseline_s, round_s=round_s, draft_length=draft_length)
