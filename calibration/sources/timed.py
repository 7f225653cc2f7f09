"""A time that was measured, with its standard error."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Standard error of a median over that of a mean, for normal noise; and MAD to standard deviation.
MEDIAN_FACTOR, MAD_FACTOR = 1.2533, 1.4826


class Timed(NamedTuple):
    """Median seconds, and their standard error."""

    seconds: float
    error_s: float


def median_time(seconds: Sequence[float]) -> Timed:
    """Return the median and its standard error, from the median deviation."""
    values = np.array(seconds, np.float64)
    middle = float(np.median(values))
    spread = MAD_FACTOR * float(np.median(np.abs(values - middle)))
    return Timed(middle, float(MEDIAN_FACTOR * spread / np.sqrt(len(values))))
