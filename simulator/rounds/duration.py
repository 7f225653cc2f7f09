"""About how long draws take, said before they start: from the blocks of rounds that a run needs (see `engine`)."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from simulator.costs.step import Floats
from simulator.ground.machine import cores

from .acceptance_law import Ints
from .experiment import Setting

if TYPE_CHECKING:
    from .grid import Sweep

# Of one core of a server of 2024, to a factor of three: a block of rounds of a run, each bucket of its law, each
# binomial draw in it; a point, and each of its runs, priced.
BLOCK_S, BUCKET_S, BINOMIAL_S, POINT_S, PRICED_S = 60e-9, 5e-9, 50e-9, 5e-7, 2e-8
# Values of each parameter that stand for all of them.
LOOKED_AT = 32
UNITS = (("minutes", 60), ("hours", 60), ("days", 24), ("years", 365))


def run_s(tokens_per_round: Floats, draft_length: ArrayLike, total: ArrayLike) -> Floats:
    """Return about how many seconds it takes to draw a run; all broadcast.

    While many tokens are missing a block leaves 1 - tau / (K + 1) of them; the last few come in rounds one by one. A
    block draws a binomial for each count up to the largest that its rounds accept.
    """
    k, tau = np.asarray(draft_length, np.float64), tokens_per_round
    blocks = np.maximum(np.asarray(total) / (k + 1), 1.0)
    shrinking = np.log(blocks) / -np.log1p(-np.minimum(tau / (k + 1), 1 - 1e-12))
    one_by_one = np.minimum(2 * (k + 1), np.asarray(total)) / tau + 1
    of_block, of_round = BLOCK_S + k * BUCKET_S, np.minimum(k, tau) * BINOMIAL_S
    drawn = np.minimum(k, tau * (1 + np.log(blocks))) * BINOMIAL_S
    return np.asarray(shrinking * (of_block + drawn) + one_by_one * (of_block + of_round), np.float64)


def simulation_s(setting: Setting, replications: int) -> float:
    """Return about how many seconds the runs of one setting take."""
    k: Ints = np.asarray(setting.draft_length)
    return replications * float(run_s(setting.acceptance.tokens_per_round(k), k, setting.total))


def sweep_s(sweep: "Sweep") -> float:
    """Return about how many seconds a sweep takes on the cores there are; some values stand for many."""
    from .grid import ACCEPTANCE_NAMES

    if not sweep.replications:
        return sweep.grid.points * POINT_S / cores()
    ranges = []
    for name, values in sweep.grid.values.items():
        step = -(-len(values) // LOOKED_AT) if name in ACCEPTANCE_NAMES else len(values)
        ranges.append(slice(0, None, step))
    columns = sweep.grid.box(tuple(ranges))
    each_s = run_s(sweep.acceptance.tokens_per_round(columns), columns["draft_length"], columns["total"])
    drawn_s = sweep.replications * sweep.drawn_grid.points * float(each_s.mean())
    return (drawn_s + sweep.grid.points * (POINT_S + sweep.replications * PRICED_S)) / cores()


def in_words(seconds: float) -> str:
    """Return a time as people say it, to one figure or two."""
    time, unit = seconds, "seconds"
    for following, size in UNITS:
        if time >= 2 * size:
            time, unit = time / size, following
        else:
            break
    whole = max(round(time), 1)
    return f"{whole:,} {unit if whole > 1 else unit[:-1]}"
