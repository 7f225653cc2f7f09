"""Milliseconds over verified tokens, as points: what a round takes whatever the batch and K that made them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Points = tuple[tuple[float, float], ...]


def along(points: Points, tokens: Floats) -> Floats:
    """Return a curve at some tokens: level before its first point, straight between two and on beyond the last."""
    x, y = np.array(points, dtype=float).T
    slope = (y[-1] - y[-2]) / (x[-1] - x[-2]) if len(x) > 1 else 0.0
    return np.asarray(np.interp(tokens, x, y) + slope * np.maximum(tokens - x[-1], 0), dtype=float)


def rising(found: Iterable[tuple[float, float]]) -> Points:
    """Return the curve through measured points that never falls: means where tokens are equal, or more took less."""
    blocks: list[tuple[list[float], list[float]]] = []
    for tokens, value in sorted(found):
        blocks.append(([tokens], [value]))
        while len(blocks) > 1 and (blocks[-2][0][-1] == tokens or np.mean(blocks[-2][1]) > np.mean(blocks[-1][1])):
            last = blocks.pop()
            blocks[-1] = (blocks[-1][0] + last[0], blocks[-1][1] + last[1])
    return tuple((x, float(np.mean(values))) for places, values in blocks for x in dict.fromkeys(places))
