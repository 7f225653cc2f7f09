"""What repeated measurements say of the middle of their law, free of any assumption on it."""

import math

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
