"""The statistics of repeated timings against hand-worked samples, SciPy, and known laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from cuda_probe.probe import stats
from simulator.ground.statistics import median_error, quartiles

POSITIVE = st.floats(1e-9, 1e3)
SAMPLES = st.lists(POSITIVE, min_size=4, max_size=60)


def test_quartiles_and_noise_of_a_series_worked_by_hand() -> None:
    assert quartiles([1, 2, 3, 4, 5]) == (2, 3, 4)
    assert stats.relative_iqr([1, 2, 3, 4, 5]) == pytest.approx(2 / 3)
    assert stats.relative_iqr([7, 7, 7, 7]) == 0
    assert stats.relative_iqr([0, 0, 0, 5]) == math.inf
    quiet = [10.0, 10.1, 10.2, 10.3, 10.4] * 4
    assert stats.relative_iqr([*quiet, 1000]) == pytest.approx(stats.relative_iqr(quiet), rel=0.5)
    assert (stats.far_out([*quiet, 1000]), stats.far_out(quiet)) == (1, 0)


def test_the_error_of_the_median_takes_the_order_statistics_half_a_root_from_the_middle() -> None:
    # 16 samples: the median is at 8.5, the error is from 2 ranks below to 2 above.
    assert median_error(np.arange(1, 17)) == 2
    assert median_error([5.0]) == 0
    # n = 4: ranks at 1/4 and 3/4, by Hazen between the 1st and 2nd, and the 3rd and 4th sample.
    assert median_error([1.0, 3.0, 5.0, 9.0]) == pytest.approx((7.0 - 2.0) / 2)


@pytest.mark.statistical
@pytest.mark.parametrize("law", ["normal", "exponential", "uniform"])
def test_the_error_of_the_median_is_the_spread_of_medians(law: str) -> None:
    rng, shape = np.random.default_rng(11), (3000, 101)
    draw = {"normal": rng.standard_normal, "exponential": rng.standard_exponential, "uniform": rng.random}[law]
    runs = draw(shape) + (10 if law == "normal" else 0)
    actual = np.median(runs, axis=1).std()
    # 3000 medians tell their spread to 1.3 %, and the mean of 500 estimates is known to 2 %.
    assert np.mean([median_error(run) for run in runs[:500]]) == pytest.approx(actual, rel=0.08)
    # The negative control: half as many samples are not as sure.
    assert np.mean([median_error(run[:51]) for run in runs[:500]]) > 1.25 * actual


@given(SAMPLES)
def test_the_median_lies_between_the_quartiles_and_noise_is_free_of_the_unit(samples: list[float]) -> None:
    low, middle, high = quartiles(samples)
    assert min(samples) <= low <= middle <= high <= max(samples)
    scaled = [1024 * s for s in samples]
    assert stats.relative_iqr(scaled) == pytest.approx(stats.relative_iqr(samples), rel=1e-9, abs=1e-12)
    assert 0 <= median_error(samples) <= (max(samples) - min(samples)) / 2 + 1e-12


@given(SAMPLES)
def test_the_trend_is_kendalls_statistic_and_turns_with_the_series(samples: list[float]) -> None:
    forward, backward = stats.trend_z(samples), stats.trend_z(samples[::-1])
    assert forward == pytest.approx(-backward, abs=1e-12)
    tau = scipy_stats.kendalltau(range(len(samples)), samples).statistic
    if len(set(samples)) > 1 and forward != 0:
        assert math.copysign(1, forward) == math.copysign(1, tau)


def test_the_trend_of_a_rising_series_worked_by_hand() -> None:
    # 10 rising values: S = 45, Var = 10 * 9 * 25 / 18 = 125, z = (45 - 1) / sqrt(125).
    assert stats.trend_z(range(10)) == pytest.approx(44 / math.sqrt(125))
    assert stats.trend_z([3, 3, 3, 3]) == 0
    assert stats.trend_z([1, 2]) == 0


def test_verdicts_quiet_noisy_too_short_and_too_few() -> None:
    quiet = stats.judge(1e-3 * (1 + 0.001 * np.random.default_rng(1).standard_normal(50)), 0.01)
    assert quiet.word == "quiet"
    assert "of the median" in quiet.reason
    samples = [1.0, 1.1, 0.9, 1.05, 0.95, 1.02, 0.98, 1.0, 1.1, 0.9]
    noise = stats.relative_iqr(samples)  # the limit is inclusive
    assert [stats.judge(samples, limit).word for limit in (noise * 0.999, noise)] == ["noisy", "quiet"]
    assert stats.judge(1 + 1e-5 * np.arange(30), 0.01).word == "quiet"  # a drift within the noise that is allowed
    assert stats.judge([0.0] * 20, 0.01).word == "too short"
    below, at = (stats.judge([seconds] * 20, 0.01, resolvable_s=1e-7).word for seconds in (1e-8, 1e-7))
    assert (below, at) == ("too short", "quiet")
    assert stats.judge([1.0] * 7, 0.01).word == "too few"


def test_verdict_drifting_says_how_far_and_which_way() -> None:
    rising = 1 + 0.01 * np.arange(30)
    assert str(stats.judge(rising, 0.01)).startswith("drifting: the last third is +17")
    assert "-" in stats.judge(rising[::-1], 0.01).reason
    assert stats.judge(np.random.default_rng(0).permutation(rising), 0.01).word == "noisy"


def test_verdict_two_levels_names_both_and_a_few_outliers_are_no_second_level() -> None:
    samples = np.array([1.0, 2.0] * 15) + 0.001 * np.random.default_rng(2).standard_normal(30)
    assert stats.judge(samples, 0.01).word == "two levels"
    assert stats.two_levels(samples) == (pytest.approx(1, abs=1e-3), pytest.approx(2, abs=1e-3))
    outliers = [1.0, 1.001, 0.999] * 10 + [5.0, 5.0]
    assert stats.two_levels(outliers) is None
    verdict = stats.judge(np.random.default_rng(0).permutation(outliers), 0.01)
    assert verdict.word == "quiet"
    assert "2 of 32 far above the rest" in verdict.reason


@pytest.mark.statistical
def test_one_level_is_seldom_called_two() -> None:
    rng = np.random.default_rng(3)
    assert sum(stats.two_levels(rng.standard_normal(30) + 10) is not None for _ in range(500)) <= 5
    assert stats.two_levels(rng.standard_normal(7)) is None


@given(st.floats(1e-6, 1), st.floats(1e-9, 1e-3), st.lists(st.integers(1, 10**9), min_size=2, max_size=9, unique=True))
def test_the_line_through_points_on_a_line_is_that_line(intercept: float, slope: float, work: list[int]) -> None:
    times = intercept + slope * np.array(work)
    fit = stats.fit_line(work, times)
    assert fit.max_relative_residual < 1e-6
    assert fit(work) == pytest.approx(times, rel=1e-6)


def test_residuals_are_relative_and_found_by_an_independent_fit() -> None:
    work, times = np.array([1, 2, 4, 8.0]), np.array([1.2, 1.9, 4.3, 7.7])
    fit = stats.fit_line(work, times)
    slope, intercept = np.polyfit(work, times, 1, w=1 / times)
    assert (fit.slope_s, fit.intercept_s) == (pytest.approx(slope), pytest.approx(intercept))
    residuals = (times - intercept - slope * work) / times
    assert fit.max_relative_residual == pytest.approx(np.abs(residuals).max())
    assert fit.rms_relative_residual == pytest.approx(np.sqrt((residuals**2).mean()))


def test_a_curve_is_not_taken_for_a_line() -> None:
    work = np.array([1, 2, 4, 8, 16.0])
    assert stats.fit_line(work, work**2).max_relative_residual > 0.3


@pytest.mark.parametrize(
    ("work", "times"), [([1], [1]), ([2, 2], [1, 1]), ([1, 2], [0, 1]), ([1, 2], [1, math.nan]), ([1, 2, 3], [1, 2])]
)
def test_what_has_no_line_is_refused(work: list[float], times: list[float]) -> None:
    with pytest.raises(ValueError, match="fit_line"):
        stats.fit_line(work, times)


def test_the_knee_is_the_largest_fast_size() -> None:
    sizes = [1, 2, 4, 8, 16, 32]
    assert stats.knee(sizes, [100, 98, 99, 97, 22, 20]) == 8
    assert stats.knee(sizes[::-1], [20, 22, 97, 99, 98, 100]) == 8
    assert stats.knee(sizes, [20, 21, 20, 22, 20, 20]) is None
