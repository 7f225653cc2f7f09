"""The harness on a fake clock: exact samples, batches, reasons and verdicts for quiet, noisy and strange devices."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, cycle, repeat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuda_probe.probe import timing
from cuda_probe.probe.timing import StopRule, measure


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
    max_noise=0.01,
    max_median_error=0.01,
    min_samples=10,
    max_samples=100,
    time_limit_s=1e6,
    warm_ups=3,
    warm_up_s=0,
    sample_s=0,
)


def nothing() -> None:
    pass


def series(*values: float) -> Iterator[float]:
    """Return three warm-ups, then these values over and over."""
    return chain([9.0] * 3, cycle(values))


def test_a_quiet_device_is_done_after_the_least_samples() -> None:
    found = measure(nothing, FakeClock(repeat(2.0)), RULE)
    assert found.samples_s.tolist() == [2.0] * 10
    assert (found.median_s, found.iqr_s, found.median_error_s) == (2.0, 0.0, 0.0)
    assert (found.reason, found.verdict.word, found.batch, found.flushed) == (timing.QUIET, "quiet", 1, False)


def test_warm_ups_are_kept_apart_from_the_samples() -> None:
    found = measure(nothing, FakeClock(chain([50.0, 40.0, 30.0], repeat(2.0))), RULE)
    assert found.warm_ups_s.tolist()[:3] == [50.0, 40.0, 30.0]
    assert found.samples_s.max() == 2.0


def test_noise_that_stays_the_same_ends_a_point_once_the_median_is_known() -> None:
    # Six in ten samples are off by a tenth, so the quartiles are; the middle is equal, so the median is known.
    values = (1.0, 0.9, 1.1, 1.0, 0.9, 1.1, 1.0, 0.9, 1.1, 1.0)
    found = measure(nothing, FakeClock(series(*values)), RULE)
    # From 20 samples on, the first count whose IQR is within a tenth of that of its first half.
    iqr = [float(np.subtract(*np.percentile((values * 10)[:count], (75, 25)))) for count in range(1, 101)]
    first = next(count for count in range(20, 101) if abs(iqr[count // 2 - 1] / iqr[count - 1] - 1) <= 0.1)
    assert (found.reason, len(found.samples_s), found.verdict.word) == (timing.SETTLED, first, "noisy")
    assert (found.median_s, found.median_error_s) == (1.0, 0.0)
    assert found.iqr_s == pytest.approx(0.2)


def test_noise_without_a_known_median_runs_to_the_most_samples() -> None:
    rule = StopRule(max_noise=0.01, max_median_error=1e-6, min_samples=10, max_samples=64, time_limit_s=1e6, sample_s=0)
    noise = 1 + 0.2 * np.random.default_rng(5).random(1000)
    found = measure(nothing, FakeClock(noise), rule)
    assert (found.reason, len(found.samples_s), found.verdict.word) == (timing.MAX_SAMPLES, 64, "noisy")


def test_the_time_limit_ends_a_point_even_below_the_least_samples() -> None:
    rule = StopRule(min_samples=10, max_samples=100, time_limit_s=7.0, warm_ups=1, warm_up_s=0, sample_s=0)
    found = measure(nothing, FakeClock(repeat(2.0)), rule)
    # 2, 4, 6, 8 seconds: the fourth sample is the first at or after the limit.
    assert (found.reason, len(found.samples_s), found.verdict.word) == (timing.TIME_LIMIT, 4, "too few")


def test_a_launch_longer_than_the_limit_gets_one_warm_up_and_one_sample() -> None:
    rule = StopRule(min_samples=10, max_samples=100, time_limit_s=1.0, warm_ups=5, warm_up_s=9, sample_s=1e-3)
    clock = FakeClock(repeat(60.0))
    found = measure(nothing, clock, rule)
    assert (len(found.warm_ups_s), len(found.samples_s), clock.counts) == (1, 1, [1, 1])


def test_a_drifting_device_is_said_to_drift_and_not_to_have_settled() -> None:
    rising = (1 + 0.02 * i for i in range(1000))
    found = measure(nothing, FakeClock(rising), RULE)
    assert (found.reason, found.verdict.word) == (timing.MAX_SAMPLES, "drifting")


def test_two_levels_are_told() -> None:
    found = measure(nothing, FakeClock(series(1.0, 1.0, 1.0, 1.5, 1.5)), RULE)
    assert found.verdict.word == "two levels"
    assert found.median_s == 1.0


def test_an_outlier_neither_moves_the_median_nor_hides() -> None:
    found = measure(nothing, FakeClock(chain([1.0] * 6, [80.0], repeat(1.0))), RULE)
    assert (found.median_s, found.iqr_s, found.reason) == (1.0, 0.0, timing.QUIET)
    assert found.samples_s.max() == 80.0
    assert "1 of 10 far above the rest" in found.verdict.reason


def test_zero_times_end_at_the_largest_batch_and_are_called_too_short() -> None:
    clock = FakeClock(repeat(0.0), resolution_s=1e-6)
    found = measure(nothing, clock, RULE)
    assert (found.batch, found.median_s, found.verdict.word) == (timing.MAX_BATCH, 0.0, "too short")
    assert found.reason == timing.MAX_SAMPLES


def test_short_launches_are_batched_until_the_clock_tells_a_thousandth() -> None:
    clock = FakeClock(repeat(2e-6), resolution_s=1e-6)
    found = measure(nothing, clock, RULE)
    assert found.batch * 2e-6 >= 1000 * 1e-6
    assert found.batch <= 1000
    assert clock.counts[-1] == found.batch
    assert found.median_s == pytest.approx(2e-6)
    assert found.warm_ups_s == pytest.approx(2e-6)


def test_a_sample_lasts_as_long_as_asked() -> None:
    rule = StopRule(min_samples=10, max_samples=10, warm_up_s=0, sample_s=0.5)
    assert measure(nothing, FakeClock(repeat(0.01)), rule).batch == pytest.approx(60, abs=10)
    assert measure(nothing, FakeClock(repeat(0.6)), rule).batch == 1


def test_a_flush_comes_before_every_sample_and_forbids_batches() -> None:
    events: list[str] = []
    clock = FakeClock(repeat(1e-9), resolution_s=1e-6)
    found = measure(lambda: events.append("launch"), clock, RULE, lambda: events.append("flush"))
    assert events == ["launch"] * 3 + ["flush", "launch"] * len(found.samples_s)
    assert (found.batch, found.flushed, found.verdict.word) == (1, True, "too short")


def test_flushing_counts_towards_the_limit_but_not_as_the_launch() -> None:
    clock = FakeClock(repeat(1.0))

    def flush() -> None:
        clock.time_s += 9.0

    rule = StopRule(min_samples=10, max_samples=100, time_limit_s=25.0, warm_ups=0, warm_up_s=0)
    found = measure(nothing, clock, rule, flush)
    assert found.samples_s.tolist() == [1.0] * 3


def test_samples_cannot_be_changed_afterwards() -> None:
    found = measure(nothing, FakeClock(repeat(2.0)), RULE)
    with pytest.raises(ValueError, match="read-only"):
        found.samples_s[0] = 1
    with pytest.raises(AttributeError):
        found.median_s = 1  # type: ignore[misc]


@given(
    st.lists(st.floats(1e-6, 10), min_size=1, max_size=30),
    st.integers(4, 20),
    st.integers(0, 60),
    st.floats(0.1, 50),
    st.booleans(),
)
def test_every_series_ends_for_a_reason_that_holds(
    times: list[float], least: int, more: int, limit_s: float, flushed: bool
) -> None:
    rule = StopRule(
        max_noise=0.01, min_samples=least, max_samples=least + more, time_limit_s=limit_s, warm_up_s=0, sample_s=0
    )
    clock = FakeClock(cycle(times))
    found = measure(nothing, clock, rule, nothing if flushed else None)
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


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"min_samples": 3}, "min_samples"),
        ({"min_samples": 30, "max_samples": 20}, "max_samples"),
        ({"warm_ups": -1}, "warm_ups"),
        ({"max_noise": float("nan")}, "max_noise"),
        ({"time_limit_s": float("inf")}, "time_limit_s"),
        ({"sample_s": -1.0}, "sample_s"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(given: dict[str, float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        StopRule(**given)  # type: ignore[arg-type]


def test_the_host_clock_launches_as_often_as_told_and_goes_forward() -> None:
    clock, calls = timing.HostClock(), []
    assert 0 < clock.resolution_s < 0.1
    assert clock.elapsed_s(lambda: calls.append(clock.now_s()), 5) > 0
    assert len(calls) == 5
    assert calls == sorted(calls)
