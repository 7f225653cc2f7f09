"""What a workload is like: lengths, arrivals, how much text is shared, and the laws that come closest."""

import math
from typing import NamedTuple

import numpy as np

from .readers.columns import Workload
from .requests import Array, Requests, unit_counts

PERCENTILES = (50, 90, 99)


class Lengths(NamedTuple):
    """Tokens of prompts, or of answers.

    Attributes:
        mean, least, most, percentiles: Of tokens; the last by their number.
        sigma: Standard deviation of the logarithms.
        off_by: How far the lognormal law of this mean and sigma is from them: the largest difference in the share of
            requests that are as short, over the percentiles from 1 to 99.
    """

    mean: float
    least: int
    most: int
    percentiles: dict[int, float]
    sigma: float
    off_by: float

    @property
    def law(self) -> str:
        """The lognormal law, as `--isl` and `--osl` take it."""
        mean = f"{self.mean:.0f}" if self.mean >= 100 else f"{self.mean:.3g}"
        return f"lognormal:{mean}:{self.sigma:.3g}"


class Statistics(NamedTuple):
    """Of a workload.

    Attributes:
        requests: How many.
        sessions: How many the file tells, or how many of those that are sent at a time of their own others wait for.
        prompt, output: Their lengths.
        shareable: Share of all tokens of prompts that an earlier request has at the same place behind the same text.
        span_s: Seconds from the first sending to the last; None, as all below, where times are not told.
        rate: Requests a second, waiting ones not counted.
        gaps_cv: Coefficient of variation of the gaps between sendings: 1 of a Poisson process.
        together: Share of requests that are sent at the time of the one before them.
        burstiness: Shape of the gamma law of gaps that varies as much.
        prompt_tokens_per_s, output_tokens_per_s: Tokens that are asked for.
    """

    requests: int
    sessions: int
    prompt: Lengths
    output: Lengths
    shareable: float
    span_s: float | None = None
    rate: float | None = None
    gaps_cv: float | None = None
    together: float | None = None
    burstiness: float | None = None
    prompt_tokens_per_s: float | None = None
    output_tokens_per_s: float | None = None


def statistics_of(workload: Workload) -> Statistics:
    """Return the statistics of recorded requests."""
    requests = workload.requests
    waited_for = np.unique(requests.after[requests.after >= 0])
    sessions = workload.sessions or int((requests.after[waited_for] < 0).sum())
    found = Statistics(
        len(requests.prompt), sessions, lengths_of(requests.prompt), lengths_of(requests.output), shareable(requests)
    )
    times = requests.arrival_s[requests.after < 0]
    span_s = float(times[-1] - times[0])
    if not workload.is_timed or len(times) < 3 or span_s <= 0:
        return found
    gaps = np.diff(times)
    cv = float(gaps.std() / gaps.mean())
    return found._replace(
        span_s=span_s,
        rate=(len(times) - 1) / span_s,
        gaps_cv=cv,
        together=float((gaps == 0).mean()),
        burstiness=1 / cv**2 if cv > 0 else math.inf,
        prompt_tokens_per_s=float(requests.prompt.sum(dtype=np.float64)) / span_s,
        output_tokens_per_s=float(requests.output.sum(dtype=np.float64)) / span_s,
    )


def lengths_of(tokens: Array) -> Lengths:
    """Return the statistics of lengths."""
    mean, sigma = float(tokens.mean(dtype=np.float64)), float(np.log(tokens).std())
    at = np.percentile(tokens, np.arange(1, 100), method="inverted_cdf")
    ordered = np.sort(tokens)
    # As short as these or shorter, half of those that are just as long with them: a law has no steps.
    below = (np.searchsorted(ordered, at, "left") + np.searchsorted(ordered, at, "right")) / 2 / len(ordered)
    off_by = max(abs(b - lognormal_share(t, mean, sigma)) for t, b in zip(at.tolist(), below.tolist(), strict=True))
    percentiles = {p: float(at[p - 1]) for p in PERCENTILES}
    return Lengths(mean, int(ordered[0]), int(ordered[-1]), percentiles, sigma, off_by)


def lognormal_share(tokens: float, mean: float, sigma: float) -> float:
    """Return the share of a lognormal law that is at most so large; mean: of the values themselves."""
    over = math.log(tokens / mean) + sigma**2 / 2
    return 0.5 * (1 + math.erf(over / sigma / math.sqrt(2))) if sigma else 0.5 * (1 + math.copysign(over != 0, over))


def shareable(requests: Requests) -> float:
    """Return the share of prompts' tokens that an earlier request has, of those that are named and of its session."""
    named, own = shareable_units(requests), shareable_own(requests)
    return float((named + own).sum() / requests.prompt.sum(dtype=np.float64))


def shareable_units(requests: Requests) -> Array:
    """Return for each request how many tokens of its units stood in an earlier one."""
    counts = unit_counts(requests)
    rows = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    names = requests.units[requests.units_start[rows] + within]
    tokens = np.minimum(requests.shared[rows] - within * requests.unit_tokens, requests.unit_tokens)
    # An earlier one may hold less of a unit that is not full.
    order = np.lexsort((rows, names))
    is_first = np.ones(len(rows), np.bool_)
    is_first[1:] = names[order][1:] != names[order][:-1]
    seen = np.zeros(len(rows), np.int64)
    seen[order] = np.minimum(tokens[order], most_before(tokens[order], is_first))
    return np.bincount(rows, seen, len(counts))


def shareable_own(requests: Requests) -> Array:
    """Return for each request how many tokens of its own text stood in an earlier one of its stream."""
    order = np.argsort(requests.stream, kind="stable")
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = np.diff(requests.stream[order]) != 0
    held = (requests.prompt.astype(np.int64) + requests.output)[order]
    shared = np.zeros(len(order), np.int64)
    shared[order] = np.minimum(requests.prompt[order], most_before(held, is_first)) - requests.shared[order]
    return np.maximum(shared, 0)


def most_before(values: Array, is_first: Array) -> Array:
    """Return the largest value before each within its group, 0 for the first; groups lie one behind the other."""
    lift = np.cumsum(is_first) << 40
    highest = np.maximum.accumulate(values + lift)
    before = np.zeros(len(values), np.int64)
    before[1:] = highest[:-1]
    return np.where(is_first, 0, before - lift)
