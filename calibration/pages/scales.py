"""Where numbers stand on an axis, in percent of its length, and which of them are written beside it."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .page import Axis

# Of an axis: as many numbers at most, and what it is longer at each end than what stands on it.
MOST_TICKS, ROOM = 6, 0.04
MOST_RATIO = 1e30
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


class Scale(NamedTuple):
    """An axis from `low` to `high`, with the numbers that are written."""

    axis: Axis
    low: float
    high: float
    ticks: Sequence[float]

    def at(self, value: float) -> float:
        """Return where a value stands, from 0 to 100; of what has no place a little beyond."""
        if self.axis.log and value <= 0:
            return -2.0
        low, high, here = (math.log(v) if self.axis.log else v for v in (self.low, self.high, value))
        return 100 * min(max((here - low) / (high - low), -0.02), 1.02)

    def told(self, value: float) -> str:
        """Return a tick in words."""
        return f"{value:,.6g}{self.axis.unit}"


def scale_of(axis: Axis, values: Iterable[float]) -> Scale:
    """Return an axis on which all the values have room."""
    known = [v for v in values if math.isfinite(v) and (v > 0 or not axis.log)] or [1.0]
    low, high = min(known), max(known)
    if axis.log:
        return log_scale(axis, low, high)
    if low == high:
        low, high = low - abs(low or 1) / 2, high + abs(high or 1) / 2
    room = ROOM * (high - low)
    low, high = low - room if low - room >= 0 or low < 0 else 0.0, high + room
    step = step_of((high - low) / MOST_TICKS)
    first = math.ceil(low / step - 1e-9)
    ticks = [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return Scale(axis, low, high, axis.at or ticks)


def log_scale(axis: Axis, low: float, high: float) -> Scale:
    """Return an axis of equal ratios."""
    low = max(low, high / MOST_RATIO)
    if high / low < 1.2:
        low, high = low / 1.2, high * 1.2
    room = (high / low) ** ROOM
    low, high = low / room, high * room
    if axis.at:
        return Scale(axis, low, high, thinned([v for v in axis.at if v > 0]))
    tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [s * 10.0**t for t in tens for s in steps if low <= s * 10.0**t <= high]
        if len(ticks) <= MOST_TICKS:
            break
    return Scale(axis, low, high, thinned(ticks) if len(ticks) > 1 else [low * room, high / room])


def step_of(least: float) -> float:
    """Return a round number of at least so much."""
    ten = 10.0 ** math.floor(math.log10(least))
    return next(ten * s for s in STEPS if ten * s >= least * (1 - 1e-9))


def thinned(ticks: Sequence[float]) -> Sequence[float]:
    """Return every second, third or so on, where there are many."""
    each = math.ceil(len(ticks) / (MOST_TICKS + 1))
    return ticks[::each]
