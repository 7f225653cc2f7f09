"""What rounds of a pair cost that was timed while it decoded: no sizes, only seconds (model §2)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .profile import Decoding
from .step import Real, RoundCost


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
