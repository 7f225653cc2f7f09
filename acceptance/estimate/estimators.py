"""From a trace to numbers: the exact law of every draft length by one forward recursion, and intervals by prompts.

Runs no model. Prompts are the independent unit: intervals come from a bootstrap that draws whole prompts (model §3).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acceptance.trace.trace import Q_KINDS, Trace
from simulator.ground.artefacts import UserError
from simulator.ground.histogram import (
    HALF_A_ROUND,
    AcceptanceHistogram,
    alpha_iid,
    conditional_rates,
    mean_accepted,
    survival_rates,
    tail_sums,
)

from .decode_walk import count_rounds

Floats = NDArray[np.float64]
RESAMPLES = 2000
DRAWS_AT_ONCE = 2**20
MAX_UNITS = 1024
# From fewer an interval would say little, and cover less than it claims.
MIN_PROMPTS = 4
PERCENTILES = np.array((0.025, 0.975))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundCounts:
    """Expected rounds of one draft length, for each prompt.

    counts: rounds that accepted 0..k drafts, [prompts, k + 1]. cut: rounds that an output's end cut, which are not
    among them, [prompts].
    """

    counts: Floats
    cut: Floats

    @property
    def draft_length(self) -> int:
        """Tokens that each round drafted."""
        return int(self.counts.shape[1]) - 1

    @property
    def histogram(self) -> AcceptanceHistogram:
        """All prompts together."""
        counts = self.counts.sum(0)
        # Certain acceptances (greedy) make whole counts; sums of products may miss them by rounding.
        whole = counts.round()
        return AcceptanceHistogram(tuple(np.where(np.isclose(counts, whole, rtol=0, atol=1e-9), whole, counts)))


def expected_rounds(
    trace: Trace, k: int, q_kind: str, beyond: int = 0, inside: NDArray[np.bool_] | None = None
) -> RoundCounts:
    """Return the expected rounds of draft length k, counted along the decode walk.

    A round is counted when all k positions it drafts lie within the output, whatever it accepts; so the output's end
    does not favour short runs. The others are the cut ones: where they are many, the counts speak of the outputs'
    beginnings.

    Args:
        trace: What was measured.
        k: Draft length, >= 1.
        q_kind: "sampled" or "greedy" draft.
        beyond: Tokens behind the k that have to lie within the output as well, for a round to count. 1 counts as a
            decoding loop does that never drafts into the last token of its budget.
        inside: Positions whose rounds are counted, [positions]; None: all.

    Raises:
        UserError: No output of the trace is as long as k.
    """
    starts, accept = trace.starts, trace.kept_accept(q_kind)
    longest = int(np.diff(starts).max(initial=0))
    if longest < k:
        raise UserError(f"--k: {k} is above the longest output, {longest} tokens; expected 1 to {longest}")
    counts, cut = (by_prompt(found, trace, starts) for found in count_rounds(accept, starts, k, beyond, inside))
    return RoundCounts(counts=counts, cut=cut)


def by_prompt(of_outputs: Floats, trace: Trace, starts: NDArray[np.int64]) -> Floats:
    """Add up what was found for each output, [outputs, ...], over the turns of each prompt, [prompts, ...]."""
    first = np.flatnonzero(np.diff(trace.prompt[starts[:-1]], prepend=-1))
    if len(first) == len(of_outputs):
        return of_outputs
    return np.asarray(np.add.reduceat(of_outputs, first), np.float64)


def sums_by_prompt(values: ArrayLike, trace: Trace) -> Floats:
    """Add up values of positions, [positions], over each prompt, [prompts]."""
    starts = trace.starts
    return by_prompt(np.add.reduceat(np.asarray(values, np.float64), starts[:-1]), trace, starts)


def bootstrap(sums: Floats, rng: np.random.Generator, resamples: int = RESAMPLES) -> Floats:
    """Return sums over prompts drawn with replacement, [resamples, columns]; sums: of each prompt, [prompts, columns].

    The same state of the generator draws the same prompts. More than MAX_UNITS of them are shuffled into so many groups
    of equal size, and groups are drawn: independent units too, whose spread is known to 1 / sqrt(2 MAX_UNITS), 2 %.
    """
    if len(sums) > MAX_UNITS:
        shuffled = sums[rng.permutation(len(sums))]
        sums = np.add.reduceat(shuffled, np.linspace(0, len(sums), MAX_UNITS, endpoint=False).astype(np.int64))
    prompts = len(sums)
    resampled = np.empty((resamples, sums.shape[1]))
    step = max(1, DRAWS_AT_ONCE // prompts)
    for first in range(0, resamples, step):
        n = min(step, resamples - first)
        drawn = rng.integers(prompts, size=(n, prompts)) + prompts * np.arange(n)[:, None]
        times = np.bincount(drawn.ravel(), minlength=n * prompts).reshape(n, prompts)
        resampled[first : first + n] = times @ sums
    return resampled


def interval95(samples: Floats, prompts: int, least: float = -np.inf, most: float = np.inf) -> list[float] | None:
    """Return the 95 % interval of bootstrap samples over so many prompts; None from fewer than MIN_PROMPTS of them.

    It holds both percentiles, expanded as Student's t is wider than the normal law (Hesterberg 2015, section 5.3), and
    the t interval of the samples' spread: of few prompts the first cannot reach beyond their extremes, and the second
    is not skewed. Of prompts whose acceptance spreads by 0.1 to 0.2 about 0.7 it covers 92 to 94 % at
    4 prompts, 93 to 95 at 8, 94 to 95 at 30, by simulation.

    Args:
        samples: Of a quantity; where none is below 0, neither is the interval.
        prompts: That were drawn from.
        least: What the quantity cannot fall below.
        most: What it cannot exceed.
    """
    from scipy.special import ndtr, stdtrit

    samples = samples[np.isfinite(samples)]
    if len(samples) < 2 or prompts < MIN_PROMPTS:
        return None
    wider, t = np.sqrt(prompts / (prompts - 1)), stdtrit(prompts - 1, 0.975)
    tail = float(ndtr(-wider * t))
    low, high = np.quantile(samples, (tail, 1 - tail))
    middle, half = samples.mean(), t * wider * samples.std()
    low, high = min(low, middle - half), max(high, middle + half)
    least = max(least, 0.0) if samples.min() >= 0 else least
    return [float(max(low, min(least, samples.min()))), float(min(high, max(most, samples.max())))]


def widened(ci95: list[float] | None, low: float, high: float) -> list[float] | None:
    """Return an interval that reaches at least from low to high, where there is one."""
    return None if ci95 is None or np.isnan(low) else [min(ci95[0], float(low)), max(ci95[1], float(high))]


def rounds_anew(counts: Floats, rng: np.random.Generator) -> Floats:
    """Draw the law of rounds as well as so many independent ones tell it, [RESAMPLES, k + 1]; counts: [k + 1].

    Prompts that happen to be alike are no certainty, which is all that a bootstrap of them can see. The conditional
    rates of positions have beta laws with half a round each way (Jeffreys), as in forecasts from a histogram.
    """
    tails = tail_sums(counts)
    rates = rng.beta(tails[1:] + HALF_A_ROUND, counts[:-1] + HALF_A_ROUND, (RESAMPLES, len(counts) - 1))
    return np.asarray(-np.diff(np.cumprod(rates, axis=1), prepend=1.0, append=0.0), np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number and its 95 % interval over prompts; no interval from fewer than MIN_PROMPTS of them."""

    value: float
    ci95: list[float] | None

    def as_json(self) -> dict[str, object]:
        """Return it under plain keys; what nothing was counted for is null."""
        return {"value": None if np.isnan(self.value) else self.value, "ci95": self.ci95}


def ratio(numerator: Floats, denominator: Floats, rng: np.random.Generator) -> Estimate:
    """Return sum over sum, with the interval of prompts drawn anew; both [prompts]."""
    value = float(numerator.sum() / denominator.sum()) if denominator.sum() else float("nan")
    if len(numerator) < MIN_PROMPTS:
        return Estimate(value=value, ci95=None)
    drawn = bootstrap(np.stack((numerator, denominator), axis=1), rng)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Estimate(value=value, ci95=interval95(drawn[:, 0] / drawn[:, 1], len(numerator)))


def share(accepted: Floats, tokens: Floats, rng: np.random.Generator) -> Estimate:
    """Return the share of tokens that are accepted, both [prompts]; no surer than so many independent tokens tell."""
    from scipy.special import betaincinv

    estimate = ratio(accepted, tokens, rng)
    if estimate.ci95 is None:
        return estimate
    part, whole = accepted.sum() + HALF_A_ROUND, tokens.sum() + 2 * HALF_A_ROUND
    low, high = widened(estimate.ci95, *betaincinv(part, whole - part, PERCENTILES)) or estimate.ci95
    return Estimate(value=estimate.value, ci95=[max(low, 0.0), min(high, 1.0)])


def tokens_per_round(counts: Floats, rng: np.random.Generator, *, macro: bool = False) -> Estimate:
    """Return 1 + E[A] from rounds of each prompt by accepted drafts, [prompts, k + 1].

    macro: of the mean prompt in place of the mean round; prompts without a round are left out.
    """
    tokens, sizes = 1 + np.arange(counts.shape[1]), counts.sum(1)
    there = sizes > 0
    each = counts[there] @ tokens / sizes[there]
    estimate = ratio(each, np.ones(len(each)), rng) if macro else ratio(counts @ tokens, sizes, rng)
    if estimate.ci95 is None:
        return estimate
    alone = rounds_anew(counts.sum(0), rng) @ tokens + estimate.value - counts.sum(0) @ tokens / sizes.sum()
    ends = widened(estimate.ci95, *np.quantile(alone, PERCENTILES)) or estimate.ci95
    return Estimate(value=estimate.value, ci95=np.clip(ends, 1, counts.shape[1]).tolist())


def alpha_by_rank(tau: Floats, k: int) -> Floats:
    """Return `alpha_iid` of samples in ascending order, exact where their PERCENTILES lie: it rises with tau."""
    places = PERCENTILES * (len(tau) - 1)
    known = np.unique(np.concatenate((np.floor(places), np.ceil(places))).astype(np.int64))
    nearest = np.searchsorted(known, np.arange(len(tau))).clip(max=len(known) - 1)
    return np.asarray(alpha_iid(np.sort(tau)[known], k)[nearest], np.float64)


def round_metrics(counts: Floats, alpha: Callable[[Floats, int], Floats] = alpha_iid) -> dict[str, Floats]:
    """Return the metrics of model §4 that follow from counts of rounds, [..., k + 1]; each [...] or [..., k].

    alpha: what tells alpha_iid from tau and k.
    """
    k, mean = counts.shape[-1] - 1, mean_accepted(counts)
    tau = 1 + mean
    return {
        "tokens_per_round": tau,
        "mean_accepted": mean,
        "draft_acceptance_rate": mean / k,
        "alpha_iid": np.where(np.isnan(tau), np.nan, alpha(tau, k)),
        "target_calls_per_token": 1 / tau,
        "draft_calls_per_token": k / tau,
        "survival": survival_rates(counts),
        "conditional": conditional_rates(counts),
    }


def metrics(rounds: RoundCounts, alpha: Estimate, seed: int = 0) -> dict[str, Any]:
    """Return the metrics of model §4 for one draft length, by the names of our records, with 95 % intervals.

    alpha: acceptance of a single token, the same for every draft length. Means are over rounds (micro);
    `tokens_per_round_macro` is the mean over prompts. `rounds_cut` are the rounds that an output's end cut and that are
    not in the histogram. `ci95` holds the intervals by the same names; every draft length draws the same prompts.
    """
    rng = np.random.default_rng(seed)
    prompts = len(rounds.counts)
    drawn = bootstrap(rounds.counts, rng) if prompts >= MIN_PROMPTS else np.zeros((0, rounds.draft_length + 1))
    figures: dict[str, object] = {}
    intervals: dict[str, object] = {}
    samples, extremes = round_metrics(drawn), round_metrics(np.eye(rounds.draft_length + 1)[[0, -1]])
    total = rounds.counts.sum(0)
    alone = round_metrics(rounds_anew(total, np.random.default_rng(seed)), alpha_by_rank)
    for name, value in round_metrics(total).items():
        figures[name] = value.tolist()
        least, most = float(extremes[name].min()), float(extremes[name].max())
        floors = np.atleast_2d(np.quantile(alone[name], PERCENTILES, axis=0).T)
        columns = np.atleast_2d(samples[name].T if value.ndim else samples[name])
        ends = [widened(interval95(c, prompts, least, most), *f) for c, f in zip(columns, floors, strict=True)]
        intervals[name] = ends if value.ndim else ends[0]
    for name, estimate in {
        "tokens_per_round_macro": tokens_per_round(rounds.counts, rng, macro=True),
        "alpha": alpha,
    }.items():
        figures[name], intervals[name] = estimate.value, estimate.ci95
    return figures | {"rounds_cut": float(rounds.cut.sum()), "ci95": intervals}


def token_acceptance(trace: Trace, q_kind: str) -> Floats:
    """Return the probability that a single token drafted at each position is accepted, [positions].

    For a sampled draft sum min(p, q), for a greedy one p(argmax q): before the target's token is known, so with less
    noise than a[t], which has the same mean and stands in where they are unknown.
    """
    before = trace.overlap if q_kind == "sampled" else trace.p_argmax_q
    return trace.accept(q_kind) if np.isnan(before).any() else np.asarray(before, np.float64)


def alpha_estimates(trace: Trace, rng: np.random.Generator) -> dict[str, Estimate]:
    """Return the acceptance of a single drafted token for both kinds of draft: two numbers, both right."""
    sizes = sums_by_prompt(np.ones(trace.size), trace)
    accepted = {kind: sums_by_prompt(token_acceptance(trace, kind), trace) for kind in Q_KINDS}
    return {kind: share(sums, sizes, rng) for kind, sums in accepted.items()}


def alpha_by(
    groups: ArrayLike, trace: Trace, q_kind: str, rng: np.random.Generator
) -> dict[str | int, tuple[Estimate, int]]:
    """Return the acceptance of a token within each group of positions, and how many there are; groups: [positions]."""
    groups = np.asarray(groups)
    accept = token_acceptance(trace, q_kind)
    alphas: dict[str | int, tuple[Estimate, int]] = {}
    for name in np.unique(groups):
        inside = groups == name
        sums = sums_by_prompt(accept * inside, trace), sums_by_prompt(inside, trace)
        there = sums[1] > 0
        alphas[name.item()] = share(sums[0][there], sums[1][there], rng), int(inside.sum())
    return alphas


def bins_of(values: NDArray[np.int32], bins: int = 8) -> NDArray[np.int64]:
    """Return for each value the lower edge of its bin: edges grow by powers of two up to the largest value.

    Acceptance changes fast where an output or its context is short and slowly where it is long.
    """
    edges = np.unique(np.concatenate(([0], 2 ** np.arange(31))))
    used = edges[edges <= max(int(values.max(initial=0)), 1)][-bins:]
    used[0] = min(used[0], int(values.min(initial=0)))
    return np.asarray(used[np.searchsorted(used, values, side="right") - 1], np.int64)


def category_metrics(trace: Trace, rounds: RoundCounts, q_kind: str, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Return prompts, tokens per round and alpha of each category, with intervals; empty without categories."""
    rng = np.random.default_rng(seed)
    measured = np.unique(trace.prompt)
    category = np.array([trace.prompts[p].category for p in measured])
    by_category: dict[str, dict[str, Any]] = {}
    alphas = alpha_by(trace.category, trace, q_kind, rng)
    for name in np.unique(category[category != ""]):
        inside = category == name
        counts = rounds.counts[inside]
        by_category[str(name)] = {
            "prompts": int(inside.sum()),
            "tokens_per_round": tokens_per_round(counts, rng),
            "alpha": alphas[str(name)][0],
        }
    return by_category


def surprise_gap(trace: Trace, rng: np.random.Generator) -> Estimate:
    """Say whether text is the target's own: the mean of -ln p(x) less the entropy of p, in nats.

    It is 0 for text drawn from p, above for text of another model or a higher temperature, below for a lower one. Means
    nothing for greedy text. Tokens that top-k or top-p exclude are left out: see `excluded`.
    """
    allowed = ~excluded(trace)
    gap = np.where(allowed, -trace.log_p.astype(np.float64) - trace.entropy_p, 0.0)
    return ratio(sums_by_prompt(gap, trace), sums_by_prompt(allowed, trace), rng)


def excluded(trace: Trace) -> NDArray[np.bool_]:
    """Return where the text holds a token that the target's own law excludes, [positions].

    Rounding puts a few there, at the edge of top-p; more say that the text is not the target's under this rule.
    """
    return np.isneginf(trace.log_p)
