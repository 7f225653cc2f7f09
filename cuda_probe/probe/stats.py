"""What repeated timings say: median, spread, how sure the median is, a verdict in words, and the fit of a line.

Pure functions of the samples. Noise is the relative interquartile range, IQR / median: it describes the device and
not our patience, so it compares between runs, and far outliers do not move it. How well the median is known is
another number, its standard error from order statistics, which falls as samples are added.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.ground.statistics import median_error, quartiles

Floats = NDArray[np.float64]

MIN_JUDGED = 8
TREND_Z = 3.3
FAR_OUT_IQRS = 3.0
MIN_SHARE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to think of a series of samples: quiet, noisy, drifting, two levels, too short, or too few."""

    word: str
    reason: str

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFit:
    """`time = intercept + slope * work`, and how far the points lie from it.

    Residuals are relative to the measured time: (measured - fitted) / measured.
    """

    intercept_s: float
    slope_s: float
    rms_relative_residual: float
    max_relative_residual: float

    def __call__(self, work: ArrayLike) -> Floats:
        return np.asarray(self.intercept_s + self.slope_s * np.asarray(work, np.float64))


def relative_iqr(samples: ArrayLike) -> float:
    """Return the noise: IQR / median. Infinite where the median is zero, for then nothing was resolved."""
    low, middle, high = quartiles(samples)
    return (high - low) / middle if middle > 0 else math.inf


def relative_median_error(samples: ArrayLike) -> float:
    """Return the standard error of the median over the median; infinite where the median is zero."""
    middle = float(np.median(np.asarray(samples, np.float64)))
    return median_error(samples) / middle if middle > 0 else math.inf


def trend_z(samples: ArrayLike) -> float:
    """Return Mann and Kendall's z: how many standard errors the samples' order is from no trend, ties allowed."""
    values = np.asarray(samples, np.float64)
    count = len(values)
    if count < 3:
        return 0.0
    later, earlier = np.triu_indices(count, 1)[::-1]
    score = float(np.sign(values[later] - values[earlier]).sum())
    ties = np.unique(values, return_counts=True)[1].astype(np.float64)
    variance = (count * (count - 1) * (2 * count + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    if variance <= 0 or score == 0:
        return 0.0
    return (score - math.copysign(1, score)) / math.sqrt(variance)


def drift(samples: ArrayLike) -> float:
    """Return by how much of the median the last third lies above the first; 0 where the order shows no trend."""
    values = np.asarray(samples, np.float64)
    third = len(values) // 3
    if third == 0 or abs(trend_z(values)) < TREND_Z:
        return 0.0
    change = float(np.median(values[-third:]) - np.median(values[:third]))
    middle = float(np.median(values))
    return change / middle if middle > 0 else 0.0


def two_levels(samples: ArrayLike) -> tuple[float, float] | None:
    """Return the medians of two separate groups, or None where the samples are one.

    Two groups are told apart by the widest gap that leaves a fifth of the samples on either side, if it is wider
    than twice the interquartile range of each.
    """
    ordered = np.sort(np.asarray(samples, np.float64))
    least = max(math.ceil(MIN_SHARE * len(ordered)), 4)
    if len(ordered) < 2 * least:
        return None
    gaps = np.diff(ordered)[least - 1 : len(ordered) - least]
    cut = least + int(gaps.argmax())
    groups = ordered[:cut], ordered[cut:]
    spreads = [high - low for low, _, high in map(quartiles, groups)]
    if gaps.max() <= 2 * max(spreads):
        return None
    return float(np.median(groups[0])), float(np.median(groups[1]))


def far_out(samples: ArrayLike) -> int:
    """Count samples more than three interquartile ranges above the upper quartile."""
    low, _, high = quartiles(samples)
    return int((np.asarray(samples) > high + FAR_OUT_IQRS * (high - low)).sum())


def judge(samples: ArrayLike, max_noise: float, resolvable_s: float = 0.0) -> Verdict:
    """Say what samples, in seconds and in the order in which they were taken, are worth.

    max_noise: the relative interquartile range up to which they are quiet. resolvable_s: the shortest median that the
    clock can tell.
    """
    values = np.asarray(samples, np.float64)
    middle, noise = float(np.median(values)), relative_iqr(values)
    if middle <= 0 or middle < resolvable_s:
        return Verdict(word="too short", reason=f"median {middle:.3g} s, the clock tells {resolvable_s:.3g} s")
    if len(values) < MIN_JUDGED:
        return Verdict(word="too few", reason=f"{len(values)} samples, {MIN_JUDGED} tell noise from chance")
    change = drift(values)
    if abs(change) > max_noise:
        return Verdict(word="drifting", reason=f"the last third is {change:+.1%} from the first")
    levels = two_levels(values)
    if levels and levels[1] - levels[0] > max_noise * middle:
        return Verdict(word="two levels", reason="{:.4g} s and {:.4g} s".format(*levels))
    outliers = far_out(values)
    tail = f", {outliers} of {len(values)} far above the rest" if outliers else ""
    word = "quiet" if noise <= max_noise else "noisy"
    return Verdict(word=word, reason=f"IQR {noise:.2%} of the median{tail}")


def fit_line(work: ArrayLike, times_s: ArrayLike) -> LineFit:
    """Fit time against work by least squares of the relative residuals, so that short and long times count alike.

    A ValueError says that there are fewer than two amounts of work, or a time that is not above zero.
    """
    x, t = np.asarray(work, np.float64), np.asarray(times_s, np.float64)
    if x.shape != t.shape or len(np.unique(x)) < 2:
        raise ValueError(f"fit_line: {len(np.unique(x))} amounts of work for {len(t)} times, expected at least 2")
    if not (np.isfinite(t).all() and (t > 0).all()):
        raise ValueError("fit_line: a time is not above zero")
    scale = float(np.abs(x).max())  # conditions the system where work is counted in bytes
    columns = np.stack([1 / t, x / scale / t], axis=1)
    (intercept, slope), *_ = np.linalg.lstsq(columns, np.ones_like(t), rcond=None)
    residuals = 1 - (intercept + slope * x / scale) / t
    return LineFit(
        intercept_s=float(intercept),
        slope_s=float(slope) / scale,
        rms_relative_residual=float(np.sqrt((residuals**2).mean())),
        max_relative_residual=float(np.abs(residuals).max()),
    )


def knee(sizes: ArrayLike, rates: ArrayLike, least_ratio: float = 1.3) -> Any:
    """Return the largest size that still runs at the fast rate, or None where no two rates can be told apart.

    Fast is above the geometric mean of the best rate and of that at the largest size.
    """
    size, rate = np.asarray(sizes), np.asarray(rates, np.float64)
    order = np.argsort(size)
    size, rate = size[order], rate[order]
    if rate.max() < least_ratio * rate[-1]:
        return None
    return size[rate > math.sqrt(rate.max() * rate[-1])].max().item()
