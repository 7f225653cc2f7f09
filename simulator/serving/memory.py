"""Sequences that memory holds under load: how many run, and of whom it takes the place again in mid-answer.

An engine begins a prompt as soon as all of it fits; what runs then grows, and where it no longer fits, who came last
gives up its place and waits for one again, ahead of those who never had one. How many wait, and how many of these in
mid-answer, was fitted to a loop of passes with so many tokens of room (tests/sim/request_loop.py).
"""

from typing import NamedTuple

import numpy as np

from simulator.costs.model_costs import ModelPair, Placed
from simulator.costs.room import room
from simulator.costs.step import Floats

# Of the room: that lies idle where as many come as it holds, by the share that answers add to sequences; by how many
# more come it is used again.
IDLE, USED = 0.14, 0.14
# Of those that wait, in mid-answer: at most, of the room; and of a few.
MOST_HELD, FEW_HELD = 0.6, 0.8


class Places(NamedTuple):
    """Sequences that run at once, NaN where none fits, and that wait in mid-answer, on average."""

    running: Floats
    held: Floats


def places(models: ModelPair | Placed, coming: Floats, isl: Floats, osl: Floats) -> Places:
    """Return who runs of so many that the engine would let run."""
    fits = room(models, isl + osl / 2)
    if np.all(np.isinf(fits)):
        return Places(np.where(coming >= 1, coming, np.nan), np.zeros(()))
    size, whole = np.where(np.isinf(fits), 1e300, np.maximum(fits, 1e-9)), np.floor(fits)
    # Share of a sequence, at half of its answer, that this has added; of a cache that does not grow none.
    grown = np.where(np.isinf(fits), 0.0, 1 - np.minimum(size / np.maximum(room(models, isl), 1e-300), 1.0))
    idle = IDLE * grown**1.5 * np.exp(-np.maximum(coming / size - 1, 0.0) / USED)
    running = np.minimum(coming, np.maximum(np.minimum(whole, size * (1 - idle)), 1.0))
    running = np.where((coming >= 1) & (whole >= 1), running, np.nan)
    most = np.maximum(MOST_HELD * grown**2 * (size + 6), 1e-300)
    few = 1 - (1 - FEW_HELD * grown) * size / (size + 4)
    return Places(running, most * -np.expm1(-few * (coming - running) / most))
