"""What repeated measurements say of the middle of their law, free of any assumption on it; and Student's t."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike


def quartiles(samples: ArrayLike) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile, interpolated linearly."""
    values = np.asarray(samples, np.float64)
    low, high = np.percentile(values, (25, 75))
    middle = float(np.median(values))  # percentile(50) differs from it in the last bit
    return min(float(low), middle), middle, max(float(high), middle)


def median_error(samples: ArrayLike) -> float:
    """Return the standard error of the median, free of any assumption on the distribution.

    Half the distance between the order statistics of ranks n/2 -+ sqrt(n)/2: the number of samples below the true
    median is binomial with standard deviation sqrt(n)/2.
    """
    values = np.asarray(samples, np.float64)
    half = 0.5 / math.sqrt(len(values))
    low, high = np.quantile(values, (0.5 - half, 0.5 + half), method="hazen")
    return float(high - low) / 2


# The quantile of the normal law at 0.975, and what Student's adds to it in powers of 1 / degrees of freedom (Abramowitz
# and Stegun 1972, 26.7.5).
NORMAL_95 = 1.959963984540054
EXPANSION = (
    (NORMAL_95**3 + NORMAL_95) / 4,
    (5 * NORMAL_95**5 + 16 * NORMAL_95**3 + 3 * NORMAL_95) / 96,
    (3 * NORMAL_95**7 + 19 * NORMAL_95**5 + 17 * NORMAL_95**3 - 15 * NORMAL_95) / 384,
    (79 * NORMAL_95**9 + 776 * NORMAL_95**7 + 1482 * NORMAL_95**5 - 1920 * NORMAL_95**3 - 945 * NORMAL_95) / 92160,
)
MANY_FREEDOMS = 1000


@lru_cache
def student95(freedoms: int) -> float:
    """Return Student's t of so many degrees of freedom, >= 1, that 95 % of its law lie within (-t, t).

    To 1e-12, without SciPy, whose import takes longer than a forecast.
    """
    t = NORMAL_95
    if freedoms >= MANY_FREEDOMS:
        return t + sum(term / float(freedoms) ** power for power, term in enumerate(EXPANSION, 1))
    log_gammas = math.lgamma((freedoms + 1) / 2) - math.lgamma(freedoms / 2)
    density = 2 * math.exp(log_gammas) / math.sqrt(freedoms * math.pi)
    # The law is concave, so Newton's steps rise to the quantile.
    while True:
        slope: float = density * (1 + t * t / freedoms) ** (-(freedoms + 1) / 2)
        step = (0.95 - within(t, freedoms)) / slope
        t += step
        if abs(step) < 1e-13 * t:
            return t


def within(t: float, freedoms: int) -> float:
    """Return P(-t < T < t) for Student's T (Abramowitz and Stegun 1972, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedoms))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedoms % 2
    terms = [sine * math.cos(angle)] if odd else [sine]
    for j in range(2 + odd, freedoms - odd, 2):
        terms.append(terms[-1] * square * (j - 1) / j)
    if not odd:
        return math.fsum(terms)
    return 2 / math.pi * (angle + (math.fsum(terms) if freedoms > 1 else 0.0))
