"""What requests saw of a server, by formula: first token, time a token, whole answer; percentiles and goodput."""

from typing import NamedTuple

import numpy as np

from simulator.costs.step import Floats

# Consecutive requests are told apart into so many batches, whose spread makes intervals (batch means).
BATCHES = 10
PERCENTILES = 50, 90, 99
# Requests of a batch beyond a percentile, at least: of fewer, batches' percentiles make intervals that are too narrow.
LEAST_BEYOND = 2
# Which of these are told, by their names in files.
MEASURES = "ttft", "tpot", "e2e", "queueing"


class Seen(NamedTuple):
    """Requests of one run, [n], in order of sending; NaN of those that were refused.

    ttft_s: first token - sent. tpot_s: (end - first token) / (tokens - 1), as vLLM's benchmark has it; NaN of answers
    of one token. e2e_s: end - sent. queueing_s: begun - sent. end_s: on the clock of the run.
    """

    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats
    queueing_s: Floats
    end_s: Floats

    def behind(self, warm: int) -> "Seen":
        """Return those behind a warm-up of so many."""
        return Seen(*(values[warm:] for values in self))


def seen_of(sent_s: Floats, begun_s: Floats, first_s: Floats, end_s: Floats, output: Floats) -> Seen:
    """Return what requests saw."""
    after = np.where(output > 1, output - 1.0, np.nan)
    return Seen(first_s - sent_s, (end_s - first_s) / after, end_s - sent_s, begun_s - sent_s, end_s)


class Limit(NamedTuple):
    """A promise to users: `measure` of `MEASURES` within `most_s` seconds."""

    measure: str
    most_s: float


def meets(seen: Seen, limits: tuple[Limit, ...]) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
    """Return which requests are within all limits; an answer of one token has no time a token that could be late."""
    within = ~np.isnan(seen.end_s)
    for limit in limits:
        taken = getattr(seen, f"{limit.measure}_s")
        within &= np.isnan(taken) | (taken <= limit.most_s)
    return np.asarray(within)


class Told(NamedTuple):
    """A figure with both ends of its 95 % interval; NaN where it cannot be told."""

    value: float
    low: float
    high: float


def percentile(values: Floats, q: float) -> float:
    """Return a percentile of what is there, NaN of nothing."""
    there = values[~np.isnan(values)]
    return float(np.percentile(there, q)) if len(there) else np.nan


def of_batch(values: Floats, q: float) -> float:
    """Return a percentile of a batch, NaN where it has too few requests for it."""
    return percentile(values, q) if len(values) * (100 - q) / 100 >= LEAST_BEYOND else np.nan


def mean(values: Floats) -> float:
    """Return the mean of what is there, NaN of nothing."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else np.nan


def with_interval(value: float, batches: Floats, most: float = np.inf) -> Told:
    """Return a figure, from 0 to `most`, with the interval that its batches tell: Student's, of their mean."""
    from scipy.special import stdtrit

    there = batches[~np.isnan(batches)]
    if len(there) < 2 or np.isnan(value):
        return Told(value, np.nan, np.nan)
    half = float(stdtrit(len(there) - 1, 0.975) * there.std(ddof=1) / np.sqrt(len(there)))
    return Told(value, max(value - half, 0.0), min(value + half, most))


def ms(seconds: float) -> str:
    """Return milliseconds of a table as text of three digits, or whole ones; from ten seconds on, seconds and "s"."""
    if not np.isfinite(seconds):
        return "-"
    if seconds >= 10:
        return f"{seconds:.3g}s" if seconds < 999.5 else f"{seconds:,.0f}s"
    return f"{1e3 * seconds:.3g}" if seconds < 0.9995 else f"{1e3 * seconds:,.0f}"


def time_text(seconds: float) -> str:
    """Return a time of a sentence, with its unit."""
    number = ms(seconds).rstrip("s")
    return number if number == "-" else f"{number} {unit_of_time(seconds)}"


def time_beside(seconds: float, other_s: float) -> str:
    """Return a time of a sentence that tells another with its unit, without one where it has the same."""
    return ms(seconds) if unit_of_time(seconds) == unit_of_time(other_s) == "ms" else time_text(seconds)


def unit_of_time(seconds: float) -> str:
    """Return what a time is told in."""
    return "s" if seconds >= 10 else "ms"
