"""What a forward pass and a round cost: the one cost function of the project (model §2). Pure and array-friendly."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Real = float | NDArray[np.float64] | NDArray[np.int64]


def step_s(
    flops: Real,
    bytes_: Real,
    *,
    flop_scale: Real,
    mem_scale: Real,
    overlap_exponent: Real = np.inf,
    launches: Real = 0.0,
    launch_s: Real = 0.0,
    fixed_s: Real = 0.0,
) -> Floats:
    """Return the seconds of one forward pass; all arguments broadcast.

    Args:
        flops: Compute work, in FLOP or burn units.
        bytes_: Memory work, in bytes or burn units.
        flop_scale: Seconds per unit of compute work.
        mem_scale: Seconds per unit of memory work.
        overlap_exponent: m of the m-norm that joins the two: inf is the roofline maximum, 1 no overlap at all.
        launches: Kernel launches of the pass.
        launch_s: Seconds a launch.
        fixed_s: Seconds a pass costs besides.
    """
    compute_s = np.asarray(flops, np.float64) * flop_scale
    memory_s = np.asarray(bytes_, np.float64) * mem_scale
    longer, shorter = np.maximum(compute_s, memory_s), np.minimum(compute_s, memory_s)
    # (c^m + b^m)^(1/m) with the longer term taken out, so that no power overflows; m = inf needs no case of its own.
    ratio = (
        shorter / longer if longer.all() else np.divide(shorter, longer, out=np.zeros(longer.shape), where=longer > 0)
    )
    exponent = np.asarray(overlap_exponent, np.float64)
    if exponent.ndim:
        joined = longer * (1 + ratio**exponent) ** (1 / exponent)
    else:
        # In place: to ask for memory takes as long as to reckon.
        ratio **= exponent
        ratio += 1
        ratio **= 1 / exponent
        ratio *= longer
        joined = ratio
    return np.asarray(joined + np.asarray(launches) * launch_s + fixed_s, np.float64)


def spread(samples: Real, axes: int) -> Floats:
    """Put so many axes of length 1 behind those of samples."""
    array = np.asarray(samples, np.float64)
    return array.reshape((*array.shape, *(1,) * axes))


def is_nothing(value: Real) -> bool:
    """Whether a number, or each of an array, is 0."""
    return not (value.any() if isinstance(value, np.ndarray) else value)


class Costs(Protocol):
    """Anything that says what rounds cost."""

    @property
    def longest(self) -> int | None:
        """The longest draft length that it says anything of; None: any."""

    def round_cost(self, draft_length: Real) -> "RoundCost":
        """Return the phases' seconds for draft lengths >= 1."""

    def scaled(self, factors: Mapping[str, float]) -> "Costs":
        """Multiply constants by name: flop_scale, mem_scale, launch_s, fixed_s, round_overhead_s."""

    def sample(self, rng: np.random.Generator, samples: int) -> "Costs":
        """Draw what is uncertain anew; results get a leading axis of samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """The work of one target pass over one token, in burn units, and what a unit costs (model §2, §7).

    pass_overhead_s: what a pass costs besides, of target and draft alike. Every field may be an array; all broadcast
    together. uncertain: constants that were fitted, by the names of `scaled`; covariance: of their logarithms. guesses:
    outcomes that drafts ahead are made for.
    """

    work_flops: Real
    work_mem: Real
    flop_scale_s: Real
    mem_scale_s: Real
    draft_cost: Real
    overlap_exponent: Real = np.inf
    pass_overhead_s: Real = 0.0
    round_overhead_s: Real = 0.0
    uncertain: tuple[str, ...] = ()
    covariance: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    guesses: int = 1

    @property
    def longest(self) -> None:
        """Any draft length."""
        return None

    def pass_s(self, tokens: Real, scale: Real = 1.0) -> Floats:
        """Seconds of one pass over `tokens` tokens: compute grows with them, memory work (weights) does not."""
        return step_s(
            np.asarray(self.work_flops, np.float64) * scale * tokens,
            np.asarray(self.work_mem, np.float64) * scale,
            flop_scale=self.flop_scale_s,
            mem_scale=self.mem_scale_s,
            overlap_exponent=self.overlap_exponent,
            fixed_s=self.pass_overhead_s,
        )

    def round_cost(self, draft_length: Real) -> "RoundCost":
        """Return the phases' seconds for K >= 1: baseline 1 token, K sequential draft steps, verify K + 1."""
        k = np.asarray(draft_length, np.int64)
        draft_step_s = self.pass_s(1, scale=self.draft_cost)
        return RoundCost(
            draft_length=k,
            baseline_s=self.pass_s(1),
            draft_step_s=draft_step_s,
            draft_s=draft_step_s * k,
            verify_s=self.pass_s(k + 1),
            overhead_s=np.asarray(self.round_overhead_s, np.float64),
            ahead_s=None if self.guesses == 1 else draft_step_s + k * self.pass_s(self.guesses, scale=self.draft_cost),
        )

    def scaled(self, factors: Mapping[str, Real]) -> "Knobs":
        """Multiply constants by name; a launch is part of what a pass costs besides."""
        return replace(
            self,
            flop_scale_s=np.asarray(self.flop_scale_s) * factors.get("flop_scale", 1.0),
            mem_scale_s=np.asarray(self.mem_scale_s) * factors.get("mem_scale", 1.0),
            pass_overhead_s=np.asarray(self.pass_overhead_s) * factors.get("fixed_s", 1.0),
            round_overhead_s=np.asarray(self.round_overhead_s) * factors.get("round_overhead_s", 1.0),
        )

    def sample(self, rng: np.random.Generator, samples: int) -> "Knobs":
        """Draw what was fitted anew, log-normal, [samples, 1]; knobs that were given stay."""
        if not self.uncertain:
            return self
        drawn = rng.multivariate_normal(np.zeros(len(self.uncertain)), self.covariance, samples, method="eigh")
        factors = {name: np.exp(drawn[:, [i]]) for i, name in enumerate(self.uncertain)}
        return replace(self.scaled(factors), uncertain=(), covariance=np.zeros((0, 0)))


class RoundCost(NamedTuple):
    """Seconds of each phase; fields are arrays of one shape (or 0-d).

    baseline_s: one token of plain decoding. draft_step_s: one drafted token. draft_s: the K of a round, one
    after another. verify_s: one target pass over K + 1 positions. overhead_s: what a round costs besides. drafted:
    tokens that are drafted and verified, where they are others than K. ahead_s: the next draft, made while the target
    verifies, where that is not K + 1 of its steps.
    """

    draft_length: NDArray[np.int64]
    baseline_s: Floats
    draft_step_s: Floats
    draft_s: Floats
    verify_s: Floats
    overhead_s: Floats
    drafted: Floats | None = None
    ahead_s: Floats | None = None

    @property
    def drafted_ahead_s(self) -> Floats:
        """Seconds of the next draft, made ahead: its guess of the bonus token, and K tokens behind each guess."""
        return self.draft_step_s + self.draft_s if self.ahead_s is None else self.ahead_s

    @property
    def tokens_drafted(self) -> Floats:
        """Drafted tokens a round."""
        return np.asarray(self.draft_length if self.drafted is None else self.drafted, np.float64)

    def with_axis(self) -> "RoundCost":
        """Return the same with an axis behind all others."""
        return RoundCost(*(None if v is None else np.asarray(v)[..., None] for v in self))  # type: ignore[arg-type]

    @property
    def after_miss_s(self) -> Floats:
        """From one verification's start to the next one's, when the next draft has to be made first."""
        return self.verify_s + self.overhead_s + self.draft_s

    @property
    def after_hit_s(self) -> Floats:
        """The same, when the next draft was made while the target verified (`--overlap`).

        The draft had to guess the bonus token first: K + 1 of its steps run beside the verification.
        """
        return np.maximum(self.verify_s + self.overhead_s, self.drafted_ahead_s)
