"""The harness on a fake clock: exact samples, batches, reasons and verdicts for quiet, noisy and strange devices."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, cycle, repeat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuda_probe.probe import timing
from cuda_probe.probe.timing import Measurement, StopRule, measure


class FakeClock:
    """A clock whose launches take the times it is told, and that sees each of them launched."""

    def __init__(self, launch_s: Iterable[float], resolution_s: float = 0.0) -> None:
        self.launch_s: Iterator[float] = iter(launch_s)
        self.resolution_s = resolution_s
        self.time_s = 0.0
        self.counts: list[int] = []

    def now_s(self) -> float:
        return self.time_s

    def elapsed_s(self, launch: Callable[[], object], count: int) -> float:
        self.counts.append(count)
        for _ in range(min(count, 10)):
            launch()
        elapsed = next(self.launch_s) * count
        self.time_s += elapsed
        return elapsed


RULE = StopRule(
    max_noise=0.01, max_median_error=0.01, min_samples=10, max_samples=100, time_limit_s=1e6,
    warm_ups=3, warm_up_s=0, sample_s=0,
)  # fmt: skip


def measured(times: Iterable[float], rule: StopRule = RULE) -> Measurement:
    """Measure launches that take these times."""
    return measure(nothing, FakeClock(times), rule)


def nothing() -> None:
    pass


def series(*values: float) -> Iterator[float]:
    """Return three warm-ups, then these values over and over."""
    return chain([9.0] * 3, cycle(values))


def test_a_quiet_device_is_done_after_the_least_samples_and_warm_ups_are_kept_apart() -> None:
    found = measured(chain([50.0, 40.0, 30.0], repeat(2.0)))
    assert found.warm_ups_s.tolist()[:3] == [50.0, 40.0, 30.0]
    assert found.samples_s.tolist() == [2.0] * 10
    assert (found.median_s, found.iqr_s, found.median_error_s) == (2.0, 0.0, 0.0)
    assert (found.reason, found.verdict.word, found.batch, found.flushed) == (timing.QUIET, "quiet", 1, False)
    with pytest.raises(ValueError, match="read-only"):
        found.samples_s[0] = 1
    with pytest.raises(AttributeError):
        found.median_s = 1  # type: ignore[misc]


def test_noise_that_stays_the_same_ends_a_point_once_the_median_is_known() -> None:
    # Six in ten samples are off by a tenth, so the quartiles are; the middle is equal, so the median is known.
    values = (1.0, 0.9, 1.1, 1.0, 0.9, 1.1, 1.0, 0.9, 1.1, 1.0)
    found = measured(series(*values))
    # From 20 samples on, the first count whose IQR is within a tenth of that of its first half.
    iqr = [float(np.subtract(*np.percentile((values * 10)[:count], (75, 25)))) for count in range(1, 101)]
    first = next(count for count in range(20, 101) if abs(iqr[count // 2 - 1] / iqr[count - 1] - 1) <= 0.1)
    assert (found.reason, len(found.samples_s), found.verdict.word) == (timing.SETTLED, first, "noisy")
    assert (found.median_s, found.median_error_s) == (1.0, 0.0)
    assert found.iqr_s == pytest.approx(0.2)
    # Without a known median it runs to the most samples.
    noise = 1 + 0.2 * np.random.default_rng(5).random(1000)
    found = measured(noise, replace(RULE, max_median_error=1e-6, max_samples=64))
    assert (found.reason, len(found.samples_s), found.verdict.word) == (timing.MAX_SAMPLES, 64, "noisy")


def test_the_time_limit_ends_a_point_even_below_the_least_samples() -> None:
    found = measured(repeat(2.0), replace(RULE, time_limit_s=7.0, warm_ups=1))
    # 2, 4, 6, 8 seconds: the fourth sample is the first at or after the limit.
    assert (found.reason, len(found.samples_s), found.verdict.word) == (timing.TIME_LIMIT, 4, "too few")
    # A launch longer than the limit gets one warm-up and one sample.
    clock = FakeClock(repeat(60.0))
    found = measure(nothing, clock, replace(RULE, time_limit_s=1.0, warm_ups=5, warm_up_s=9, sample_s=1e-3))
    assert (len(found.warm_ups_s), len(found.samples_s), clock.counts) == (1, 1, [1, 1])
    # Flushing counts towards the limit, but not as the launch.
    clock = FakeClock(repeat(1.0))

    def flush() -> None:
        clock.time_s += 9.0

    found = measure(nothing, clock, replace(RULE, time_limit_s=25.0, warm_ups=0), flush)
    assert found.samples_s.tolist() == [1.0] * 3


def test_drifts_levels_and_outliers_are_told() -> None:
    drifting = measured(1 + 0.02 * i for i in range(1000))
    assert (drifting.reason, drifting.verdict.word) == (timing.MAX_SAMPLES, "drifting")
    levels = measured(series(1.0, 1.0, 1.0, 1.5, 1.5))
    assert (levels.verdict.word, levels.median_s) == ("two levels", 1.0)
    outlier = measured(chain([1.0] * 6, [80.0], repeat(1.0)))
    assert (outlier.median_s, outlier.iqr_s, outlier.reason) == (1.0, 0.0, timing.QUIET)
    assert outlier.samples_s.max() == 80.0
    assert "1 of 10 far above the rest" in outlier.verdict.reason


def test_short_launches_are_batched_until_the_clock_tells_a_thousandth_or_a_sample_lasts_as_asked() -> None:
    found = measure(nothing, FakeClock(repeat(0.0), resolution_s=1e-6), RULE)
    assert (found.batch, found.median_s, found.verdict.word) == (timing.MAX_BATCH, 0.0, "too short")
    assert found.reason == timing.MAX_SAMPLES
    clock = FakeClock(repeat(2e-6), resolution_s=1e-6)
    found = measure(nothing, clock, RULE)
    assert 500 <= found.batch == clock.counts[-1] <= 1000
    assert found.median_s == pytest.approx(2e-6)
    assert found.warm_ups_s == pytest.approx(2e-6)
    rule = StopRule(min_samples=10, max_samples=10, warm_up_s=0, sample_s=0.5)
    assert measured(repeat(0.01), rule).batch == pytest.approx(60, abs=10)
    assert measured(repeat(0.6), rule).batch == 1


def test_a_flush_comes_before_every_sample_and_forbids_batches() -> None:
    events: list[str] = []
    clock = FakeClock(repeat(1e-9), resolution_s=1e-6)
    found = measure(lambda: events.append("launch"), clock, RULE, lambda: events.append("flush"))
    assert events == ["launch"] * 3 + ["flush", "launch"] * len(found.samples_s)
    assert (found.batch, found.flushed, found.verdict.word) == (1, True, "too short")


@given(
    times=st.lists(st.floats(1e-6, 10), min_size=1, max_size=30),
    least=st.integers(4, 20),
    more=st.integers(0, 60),
    limit_s=st.floats(0.1, 50),
    flush=st.sampled_from([nothing, None]),
)
def test_every_series_ends_for_a_reason_that_holds(times, least: int, more: int, limit_s: float, flush) -> None:
    limits = {"min_samples": least, "max_samples": least + more, "time_limit_s": limit_s}
    rule = StopRule(max_noise=0.01, warm_up_s=0, sample_s=0, **limits)
    found = measure(nothing, FakeClock(cycle(times)), rule, flush)
    count, middle = len(found.samples_s), float(np.median(found.samples_s))
    assert 1 <= count <= rule.max_samples
    assert found.median_s == middle
    assert found.samples_s.min() <= middle <= found.samples_s.max()
    low, high = np.percentile(found.samples_s, (25, 75))
    holds = {
        timing.QUIET: count >= least and high - low <= 0.01 * middle * (1 + 1e-9),
        timing.SETTLED: count >= 2 * least and found.median_error_s <= rule.max_median_error * middle * (1 + 1e-9),
        timing.MAX_SAMPLES: count == rule.max_samples,
        timing.TIME_LIMIT: found.samples_s.sum() >= limit_s * (1 - 1e-9),
    }
    assert holds[found.reason]


def test_a_rule_that_makes_no_sense_is_refused() -> None:
    for name, value in (
        *(("min_samples", 3), ("max_samples", 20), ("warm_ups", -1), ("sample_s", -1.0)),
        *(("max_noise", float("nan")), ("time_limit_s", float("inf"))),
    ):
        with pytest.raises(ValueError, match=name):
            StopRule(**{"min_samples": 30} | {name: value})


def test_the_host_clock_launches_as_often_as_told_and_goes_forward() -> None:
    clock, calls = timing.HostClock(), []
    assert 0 < clock.resolution_s < 0.1
    assert clock.elapsed_s(lambda: calls.append(clock.now_s()), 5) > 0
    assert len(calls) == 5
    assert calls == sorted(calls)
