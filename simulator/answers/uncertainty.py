"""How sure a forecast is, and what it hangs on: best draft length by Monte Carlo, sensitivities (model §5)."""

import math
from typing import NamedTuple

import numpy as np

from simulator.costs.kinds import is_timed
from simulator.costs.step import Costs, Floats
from simulator.rounds.acceptance_law import AcceptanceModel, Ints
from simulator.rounds.analytic import expected, speedup

SAMPLES = 1000
CONSTANTS = ("flop_scale", "mem_scale", "launch_s", "fixed_s", "link_s", "round_overhead_s")
STEP = 0.01
# Of sums: draws further apart than this are draws of something.
ROUNDING = 1e-12


class Uncertainty(NamedTuple):
    """What the draws of constants and acceptance say.

    best_draft_length_ci95: 95 % of the draws have their best K in there. best_share: how many of the draws have their
    best K at the forecast's. draft_lengths, speedup_low95, speedup_high95: 95 % of the draws at each draft length.
    """

    best_draft_length: int
    best_draft_length_ci95: tuple[int, int]
    best_share: float
    draft_lengths: tuple[int, ...]
    speedup_low95: tuple[float, ...]
    speedup_high95: tuple[float, ...]

    @property
    def is_open(self) -> bool:
        """Whether anything is uncertain at any draft length."""
        return any(map(is_open, self.speedup_low95, self.speedup_high95))

    def interval(self, draft_length: int) -> tuple[float, float] | None:
        """Return 95 % of the draws at a draft length; None where nothing is uncertain, or nobody knows how much."""
        at = self.draft_lengths.index(draft_length)
        low, high = self.speedup_low95[at], self.speedup_high95[at]
        return (low, high) if is_open(low, high) else None


def speedups(
    costs: Costs,
    acceptance: AcceptanceModel,
    draft_lengths: Ints,
    tokens_per_round: Floats | None = None,
    *,
    overlap: int,
) -> Floats:
    """Return speedups at rising draft lengths, [*samples, draft lengths].

    tokens_per_round: samples of it, [samples, draft lengths], instead of what the acceptance has.
    """
    if tokens_per_round is None:
        return expected(costs, acceptance, draft_lengths, overlap=overlap).speedup
    moved = tokens_per_round / acceptance.tokens_per_round(draft_lengths)
    if is_timed(costs):
        at = draft_lengths.tolist().index(costs.draft_length)
        costs = costs.with_tokens(moved[:, at, None])
    return np.asarray(moved * expected(costs, acceptance, draft_lengths, overlap=overlap).speedup)


def drawn_lengths(costs: Costs, draft_lengths: Ints) -> Ints:
    """Return draft lengths, rising, with the one whose time a token was measured: draws of others hang on it."""
    if not is_timed(costs):
        return draft_lengths
    return np.union1d(draft_lengths, np.array([costs.draft_length], np.int64))


def ends95(drawn: Floats, middle: Floats) -> tuple[Floats, Floats]:
    """Return both ends of 95 % of draws, [samples, ...], and of what is forecast, [...].

    After few rounds, all of one kind, the half counts keep the draws away from what was counted.
    """
    # NumPy's quantile imports as much as all of a forecast.
    alike = bool((drawn == drawn[:1]).all())
    low, high = (drawn[0], drawn[0]) if alike else np.quantile(drawn, (0.025, 0.975), axis=0)
    return np.minimum(low, middle), np.maximum(high, middle)


def is_open(low: float, high: float) -> bool:
    """Whether two ends are those of something that is not known."""
    return not high <= low * (1 + ROUNDING)


def uncertainty(
    costs: Costs,
    acceptance: AcceptanceModel,
    draft_length: int,
    longest: int,
    rng: np.random.Generator,
    *,
    overlap: int,
    samples: int = SAMPLES,
) -> Uncertainty:
    """Draw the uncertain constants so many times, and say what follows for K and for the best K up to the longest."""
    lengths = drawn_lengths(costs, np.arange(1, max(longest, draft_length) + 1, dtype=np.int64))
    sampled = costs.sample(rng, samples)
    tau = acceptance.sample_tokens_per_round(lengths, rng, samples)
    drawn = speedups(sampled, acceptance, lengths, tau, overlap=overlap)
    middle = speedups(costs, acceptance, lengths, overlap=overlap)
    best = lengths[drawn[:, :longest].argmax(1)]
    low, high = ends95(drawn, middle)
    best_length = int(middle[:longest].argmax()) + 1
    ends = np.sort(best)[[math.ceil(share * samples) - 1 for share in (0.025, 0.975)]]
    return Uncertainty(
        best_draft_length=best_length,
        best_draft_length_ci95=(int(ends[0]), int(ends[1])),
        best_share=float((best == best_length).mean()),
        draft_lengths=tuple(int(k) for k in lengths),
        speedup_low95=tuple(low.tolist()),
        speedup_high95=tuple(high.tolist()),
    )


def sensitivities(costs: Costs, acceptance: AcceptanceModel, draft_length: int, *, overlap: int) -> dict[str, float]:
    """Return by how many percent 1 % more of each constant changes the speedup; of the mean acceptance as well."""

    def gain(moved: Costs) -> float:
        return float(speedup(moved, acceptance, draft_length, overlap=overlap))

    plain, law = gain(costs), acceptance.law(draft_length)
    effects = {name: (gain(costs.scaled({name: 1 + STEP})) / plain - 1) / STEP for name in CONSTANTS}
    tau = 1 + float(law @ np.arange(len(law)))
    return effects | {"mean_accepted": (tau - 1) / tau}
