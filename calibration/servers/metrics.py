"""What requests saw, by formula: first token, time a token, gaps of chunks, whole answers; rates; gains of arms.

TTFT is the first chunk with a token after the request was sent. TPOT is (last chunk - first chunk) / (tokens - 1). A
gap is what lies between two chunks, of which one holds all tokens of a round: others call it ITL. E2E is the last chunk
after the request was sent.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from acceptance.servers.answer import Answer
from simulator.answers.latency import Limit, Seen, Told, mean, meets, percentile, seen_of, with_interval
from simulator.costs.step import Floats

PERCENTILES = 50, 90, 95, 99
MEASURES = "ttft", "tpot", "gap", "e2e"
# Groups of consecutive requests that intervals are drawn from (a bootstrap by groups: neighbours share their batches),
# at most and at least; requests of one; draws; requests beyond a percentile that has an interval.
GROUPS, LEAST_GROUPS, LEAST_IN_GROUP, DRAWS, LEAST_BEYOND = 20, 5, 2, 400, 5
# Values times draws, of which there are fewer where there are many values, and that are held at once.
MOST_WORK, FEWEST_DRAWS, AT_ONCE = 40_000_000, 60, 1_000_000
# Parts of a load's time, whose rates make the interval of a rate (Student's, of their mean).
SLICES = 10
INTERVALS = (
    "95 % intervals: of latencies a bootstrap over up to 20 groups of consecutive requests, of rates Student's over "
    "ten parts of the time"
)


class Part(NamedTuple):
    """What came of a block; times of answers from its beginning.

    rows: which requests, in the order in which they were sent. duration_s: to the last chunk. warm: requests, the
    first, that count in no latency.
    """

    load: float
    arm: str
    part: int
    rows: tuple[int, ...]
    answers: tuple[Answer, ...]
    duration_s: float
    warm: int

    @property
    def counted(self) -> list[tuple[int, Answer]]:
        """Requests that count in latencies: behind the warm-up, and answered."""
        pairs = zip(self.rows[self.warm :], self.answers[self.warm :], strict=True)
        return [(row, answer) for row, answer in pairs if not answer.error]


def warm_of(count: int, clients: int, share: float) -> int:
    """Return how many requests of a block are left out; of clients, who all come at once, the first of each."""
    return max(int(share * count), min(clients, count // 2)) if share else 0


def seen_by(answers: Sequence[Answer]) -> Seen:
    """Return what answered requests saw; when an engine began with them is not known here."""
    sent, first, last = (np.array([getattr(a, name) for a in answers], np.float64) for name in TIMES)
    output = np.array([a.tokens for a in answers], np.float64)
    return seen_of(sent, np.full(len(answers), np.nan), first, last, output)


TIMES = "sent_s", "first_s", "last_s"


def figures(parts: Sequence[Part], limits: tuple[Limit, ...], rng: np.random.Generator) -> dict[str, Told]:
    """Return all figures of one arm at one load, seconds and per second, each with its interval where that is known."""
    counted = [answer for part in parts for _, answer in part.counted]
    found = latencies(counted, rng)
    found |= rates(parts, limits)
    return found


def latencies(counted: Sequence[Answer], rng: np.random.Generator) -> dict[str, Told]:
    """Return means and percentiles of latencies."""
    seen = seen_by(counted)
    groups = groups_of(len(counted))
    gaps = [np.array(a.gaps_s) for a in counted]
    values = {name: (getattr(seen, f"{name}_s"), groups) for name in ("ttft", "tpot", "e2e")}
    values["gap"] = (np.concatenate(gaps) if gaps else np.empty(0)), np.repeat(groups, [len(g) for g in gaps])
    found: dict[str, Told] = {}
    for name in MEASURES:
        told = described(*values[name], rng, len(counted))
        found |= {f"{name}_{which}": figure for which, figure in told.items()}
    chunks = sum(a.chunks for a in counted)
    found["tokens_per_chunk"] = Told(sum(a.tokens for a in counted) / chunks if chunks else np.nan, np.nan, np.nan)
    return found


def groups_of(count: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    """Return the group of each of so many requests; one for all where there are too few."""
    groups = min(GROUPS, count // LEAST_IN_GROUP)
    return np.arange(count) * (groups if groups >= LEAST_GROUPS else 1) // max(count, 1)


def described(
    values: Floats, groups: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]", rng: np.random.Generator, requests: int
) -> dict[str, Told]:
    """Return mean and percentiles of values, with intervals by groups."""
    there = ~np.isnan(values)
    values, groups = values[there], groups[there]
    names = ("mean", *(f"p{q}" for q in PERCENTILES))
    point = [mean(values), *(percentile(values, q) for q in PERCENTILES)]
    several = int(groups.max(initial=0)) + 1
    if several < LEAST_GROUPS:
        return {name: Told(value, np.nan, np.nan) for name, value in zip(names, point, strict=True)}
    order = np.argsort(values, kind="stable")
    drawn = redrawn(values[order], groups[order], several, rng)
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    known = [True, *(requests * (100 - q) / 100 >= LEAST_BEYOND for q in PERCENTILES)]
    return {
        name: Told(value, min(low[i], value), max(high[i], value)) if known[i] else Told(value, np.nan, np.nan)
        for i, (name, value) in enumerate(zip(names, point, strict=True))
    }


def redrawn(
    values: Floats, groups: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]", several: int, rng: np.random.Generator
) -> Floats:
    """Return mean and percentiles of rising values whose groups are drawn anew, [draws, 1 + percentiles]."""
    draws = int(min(DRAWS, max(MOST_WORK // len(values), FEWEST_DRAWS)))
    drawn = rng.multinomial(several, np.full(several, 1 / several), draws)
    found = np.empty((draws, 1 + len(PERCENTILES)))
    at_once = max(AT_ONCE // len(values), 1)
    for first in range(0, draws, at_once):
        weights = drawn[first : first + at_once, groups]
        ends = np.cumsum(weights, axis=1)
        total = np.maximum(ends[:, -1:], 1)
        found[first : first + at_once, 0] = weights @ values / total[:, 0]
        for at, q in enumerate(PERCENTILES, 1):
            places = (ends < q / 100 * total).sum(axis=1)
            found[first : first + at_once, at] = values[np.minimum(places, len(values) - 1)]
    return found


def rates(parts: Sequence[Part], limits: tuple[Limit, ...]) -> dict[str, Told]:
    """Return what was done a second, of all requests that were answered, warm-up among them."""
    whole_s = sum(part.duration_s for part in parts)
    done = [a for part in parts for a in part.answers if not a.error]
    tokens, prompts = sum(a.tokens for a in done), sum(a.prompt_tokens or 0 for a in done)
    each = np.array([rate for part in parts for rate in sliced(part, max(SLICES // len(parts), 2))])
    a_second = 1 / whole_s if whole_s > 0 else np.nan
    rate = with_interval(tokens * a_second, each)
    found = {
        "output_tokens_per_s": rate._replace(low=max(rate.low, 0.0) if np.isfinite(rate.low) else rate.low),
        "requests_per_s": Told(len(done) * a_second, np.nan, np.nan),
        "all_tokens_per_s": Told((tokens + prompts) * a_second, np.nan, np.nan),
        "mean_output_tokens": Told(tokens / len(done) if done else np.nan, np.nan, np.nan),
        "mean_prompt_tokens": Told(prompts / len(done) if done else np.nan, np.nan, np.nan),
    }
    if limits:
        good, tried = 0, sum(len(part.answers) for part in parts)
        if done:
            good = int(meets(seen_by(done), limits).sum())
        found["goodput"] = Told(good * a_second, np.nan, np.nan)
        found["within"] = Told(good / tried if tried else np.nan, np.nan, np.nan)
    return found


def sliced(part: Part, slices: int) -> Floats:
    """Return the tokens a second of each part of a block's time, to the last request that was sent."""
    done = [a for a in part.answers if not a.error and a.first_s is not None]
    end_s = min(max((a.sent_s for a in part.answers), default=0.0), part.duration_s)
    if not done or end_s <= 0:
        return np.empty(0)
    times = np.concatenate([np.cumsum([a.first_s, *a.gaps_s]) for a in done])
    weights = np.concatenate([np.full(a.chunks, a.tokens / a.chunks) for a in done])
    counts, _ = np.histogram(times, bins=slices, range=(0, end_s), weights=weights)
    return np.asarray(counts, np.float64) * slices / end_s


def gains(plain: Sequence[Part], other: Sequence[Part], rng: np.random.Generator) -> dict[str, Told]:
    """Return how many times as fast an arm is as another, of the requests that both answered: those of each, in pairs.

    Of means of latencies; of the rate of tokens, by blocks.
    """
    rows = {(p.part, row): a for p in plain for row, a in p.counted}
    pairs = [(rows[p.part, row], a) for p in other for row, a in p.counted if (p.part, row) in rows]
    if not pairs:
        return {}
    found: dict[str, Told] = {}
    groups = groups_of(len(pairs))
    several = int(groups.max()) + 1
    weights = rng.multinomial(several, np.full(several, 1 / several), DRAWS) if several >= LEAST_GROUPS else None
    sides = [seen_by(side) for side in zip(*pairs, strict=True)]
    for name in ("ttft", "tpot", "e2e"):
        before, after = (getattr(side, f"{name}_s") for side in sides)
        both = ~(np.isnan(before) | np.isnan(after))
        if not both.any():
            continue
        sums = [np.bincount(groups[both], side[both], several) for side in (before, after)]
        if sums[1].sum() == 0:
            continue
        value, low, high = float(sums[0].sum() / sums[1].sum()), np.nan, np.nan
        if weights is not None:
            drawn = np.stack([weights @ side for side in sums])
            low, high = np.quantile(drawn[0, drawn[1] > 0] / drawn[1, drawn[1] > 0], (0.025, 0.975))
        found[name] = Told(value, float(low), float(high))
    found["output_tokens_per_s"] = gain_of_rates(plain, other)
    return found


def gain_of_rates(plain: Sequence[Part], other: Sequence[Part]) -> Told:
    """Return the ratio of tokens a second, its interval from that of each pair of blocks."""
    a_second: Mapping[int, list[float]] = {
        p.part: [sum(a.tokens for a in p.answers if not a.error) / p.duration_s] for p in plain if p.duration_s > 0
    }
    both = [p for p in other if p.part in a_second and p.duration_s > 0]
    done = [sum(a.tokens for a in p.answers if not a.error) for p in both]
    ratios = np.array([d / p.duration_s / a_second[p.part][0] for d, p in zip(done, both, strict=True)])
    before = [p for p in plain if p.part in {b.part for b in both}]
    rate = sum(done) / sum(p.duration_s for p in both) if both else np.nan
    tokens, taken = sum(a.tokens for p in before for a in p.answers if not a.error), sum(p.duration_s for p in before)
    value = rate / (tokens / taken) if tokens and taken else np.nan
    return with_interval(float(value), ratios)
