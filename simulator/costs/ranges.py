"""What was timed, or what rows were of: from least to most, and how far beyond a value lies."""

from dataclasses import dataclass

import numpy as np

from simulator.ground.fields import Field

from .step import Floats, Real


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRange:
    """What was timed at least and at most."""

    least: float
    most: float

    def doublings_beyond(self, value: Real) -> Floats:
        """Return how often the nearer end has to be doubled or halved to come to a value; 0 inside."""
        value = np.maximum(np.asarray(value, np.float64), 1.0)
        return np.maximum(0.0, np.maximum(np.log2(value / max(self.most, 1.0)), np.log2(max(self.least, 1.0) / value)))


def parse_range(field: Field) -> TimedRange:
    """Read what was timed, from least to most."""
    least = field["least"].number()
    return TimedRange(least=least, most=field["most"].number(least))
