"""The timing harness: given a launch, a clock and a stop rule, take samples and say why it stopped."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simulator.ground.statistics import median_error, quartiles

from .stats import Floats, Verdict, judge, relative_iqr, relative_median_error

Launch = Callable[[], object]

MAX_BATCH = 1 << 20
# A sample this many times the clock's resolution is told to 0.1 %; a median below a tenth of it is not believed.
RESOLUTIONS_A_SAMPLE = 1000
RESOLUTIONS_A_LAUNCH = 100
# The noise has stopped changing when all samples and their first half agree on it to this share.
SETTLED_CHANGE = 0.1

QUIET, SETTLED, MAX_SAMPLES, TIME_LIMIT = "quiet", "noise settled", "max samples", "time limit"
REASONS = (QUIET, SETTLED, MAX_SAMPLES, TIME_LIMIT)


class Clock(Protocol):
    """Times launches. On a GPU: an event, the launches, an event, wait for it; on the host: a counter."""

    @property
    def resolution_s(self) -> float:
        """The smallest difference that the clock can show."""

    def now_s(self) -> float:
        """Return the host's time, for time limits alone."""

    def elapsed_s(self, launch: Launch, count: int) -> float:
        """Launch `count` times back to back, wait until all is done, return the seconds of all together."""


class HostClock:
    """The processor's own counter, for launches that are done when they return."""

    def __init__(self) -> None:
        ticks = np.array([time.perf_counter() for _ in range(2000)])
        steps = np.diff(ticks)
        self._resolution_s = float(steps[steps > 0].min())

    @property
    def resolution_s(self) -> float:
        return self._resolution_s

    def now_s(self) -> float:
        return time.perf_counter()

    def elapsed_s(self, launch: Launch, count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            launch()
        return time.perf_counter() - began


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRule:
    """When a point has been measured enough.

    Attributes:
        max_noise: Stop as quiet when IQR / median is at most this.
        max_median_error: Noise that has stopped changing ends a point only if the median's relative standard error
            is at most this.
        min_samples: Samples before either may stop a point.
        max_samples: Samples after which a point ends in any case.
        time_limit_s: Sampling time after which a point ends in any case, after one sample at least.
        warm_ups: Launches before the first sample, at least.
        warm_up_s: Time spent on warming up, at least; but never more than the time limit.
        sample_s: How long a sample should last: shorter launches are taken in batches.
    """

    max_noise: float = 0.005
    max_median_error: float = 0.005
    min_samples: int = 20
    max_samples: int = 1000
    time_limit_s: float = 5.0
    warm_ups: int = 3
    warm_up_s: float = 0.1
    sample_s: float = 1e-4

    def __post_init__(self) -> None:
        if not 4 <= self.min_samples <= self.max_samples:
            raise ValueError(
                f"min_samples, max_samples: {self.min_samples}, {self.max_samples}, expected 4 <= min <= max"
            )
        if self.warm_ups < 0:
            raise ValueError(f"warm_ups: {self.warm_ups}, expected at least 0")
        for name in ("max_noise", "max_median_error", "time_limit_s", "warm_up_s", "sample_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: {value}, expected a finite number of at least 0")

    def reason(self, samples: Floats, spent_s: float) -> str | None:
        """Return why to stop after these samples, or None to go on."""
        if len(samples) >= self.min_samples:
            if relative_iqr(samples) <= self.max_noise:
                return QUIET
            if self.has_settled(samples):
                return SETTLED
        if len(samples) >= self.max_samples:
            return MAX_SAMPLES
        return TIME_LIMIT if spent_s >= self.time_limit_s else None

    def has_settled(self, samples: Floats) -> bool:
        """Say whether more samples would tell no more: the noise stays the same, and the median is known well."""
        if len(samples) < 2 * self.min_samples or relative_median_error(samples) > self.max_median_error:
            return False
        noise, before = relative_iqr(samples), relative_iqr(samples[: len(samples) // 2])
        return abs(noise - before) <= SETTLED_CHANGE * noise


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measurement:
    """A point's samples, in order, and what they say; all times are seconds of one launch.

    iqr_s: interquartile range. median_error_s: standard error of the median. warm_ups_s: of launches before the first
    sample; those that chose the batch among them. batch: times the work is done in a sample. flushed: whether the cache
    was, before every sample. reason: why sampling stopped, one of REASONS.
    """

    median_s: float
    iqr_s: float
    median_error_s: float
    samples_s: NDArray[np.float64]
    warm_ups_s: NDArray[np.float64]
    batch: int
    flushed: bool
    reason: str
    verdict: Verdict


def measure(launch: Launch, clock: Clock, rule: StopRule, flush: Launch | None = None, works: int = 1) -> Measurement:
    """Time a launch, which does the work `works` times and allocates nothing, until the rule is met.

    flush: empties the cache, before every sample; then a sample is one launch, however short.
    """
    warm_ups = warm_up(launch, clock, rule)
    batch = 1
    if flush is None:
        batch, tried = choose_batch(launch, clock, rule, warm_ups)
        warm_ups += tried
    samples: list[float] = []
    began_s, reason = clock.now_s(), None
    while reason is None:
        if flush is not None:
            flush()
        samples.append(clock.elapsed_s(launch, batch) / batch)
        reason = rule.reason(np.array(samples), clock.now_s() - began_s)
    once, before = ([s / works for s in times] for times in (samples, warm_ups))
    return summarise(once, before, batch * works, flush is not None, reason, clock, rule)


def warm_up(launch: Launch, clock: Clock, rule: StopRule) -> list[float]:
    """Launch until caches, clocks and lazy loading have settled; returns the time of each launch."""
    taken: list[float] = []
    began_s = clock.now_s()

    def goes_on() -> bool:
        spent_s = clock.now_s() - began_s
        if spent_s >= rule.time_limit_s and taken:
            return False
        return len(taken) < rule.warm_ups or (spent_s < rule.warm_up_s and len(taken) < MAX_BATCH)

    while goes_on():
        taken.append(clock.elapsed_s(launch, 1))
    return taken


def choose_batch(launch: Launch, clock: Clock, rule: StopRule, known: list[float]) -> tuple[int, list[float]]:
    """Return how many launches make a sample long enough to be told, and the times of one launch seen meanwhile."""
    wanted_s = max(rule.sample_s, RESOLUTIONS_A_SAMPLE * clock.resolution_s)
    if known and known[-1] >= 2 * wanted_s:
        return 1, []
    count, tried = 1, []
    while True:
        elapsed_s = clock.elapsed_s(launch, count)
        tried.append(elapsed_s / count)
        if elapsed_s >= wanted_s or count >= MAX_BATCH:
            return count, tried
        wanted = math.ceil(1.2 * count * wanted_s / elapsed_s) if elapsed_s > 0 else 10 * count
        count = min(max(wanted, 2 * count), 10 * count, MAX_BATCH)


def summarise(
    samples: list[float], warm_ups: list[float], batch: int, flushed: bool, reason: str, clock: Clock, rule: StopRule
) -> Measurement:
    """Return what the samples say."""
    values, before = np.array(samples, np.float64), np.array(warm_ups, np.float64)
    for array in (values, before):
        array.setflags(write=False)
    low, middle, high = quartiles(values)
    return Measurement(
        median_s=middle,
        iqr_s=high - low,
        median_error_s=median_error(values),
        samples_s=values,
        warm_ups_s=before,
        batch=batch,
        flushed=flushed,
        reason=reason,
        verdict=judge(values, rule.max_noise, RESOLUTIONS_A_LAUNCH * clock.resolution_s / batch),
    )
