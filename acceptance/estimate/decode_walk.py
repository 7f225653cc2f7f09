"""The rounds of the decode walk over outputs, counted by one forward recursion (model §3): arrays in, arrays out."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# What is added to a probability with less weight than this changes none that matters, nor a float beside 1.
NEGLIGIBLE = 2.0**-64
# Of all places: so many are reached one by one in less time than all of them are passed over.
FEW = 0.05


def run_products(accept: Floats, width: int) -> Floats:
    """Return the product of `width` neighbours from each position on, [positions - width + 1], by doubling."""
    size = len(accept) - width + 1
    found, taken, span = np.ones(size), 0, 1
    while True:
        if width & span:
            found *= accept[taken : taken + size]
            taken += span
        if 2 * span > width:
            return found
        accept, span = accept[:-span] * accept[span:], 2 * span


def recursion(free: Floats, factor: Floats, lag: int) -> Floats:
    """Return x[u] = free[u] + factor[u] x[u - lag], x of negative places being 0; overwrites both, shape [size] each.

    By doubling: each pass substitutes the equation in itself, until no path is likely enough to change a float. The
    last passes touch few places.
    """
    spare = np.empty(len(free))
    while lag < len(free) and np.count_nonzero(factor > NEGLIGIBLE) > FEW * len(free):
        np.multiply(factor[lag:], free[:-lag], out=spare[lag:])
        free[lag:] += spare[lag:]
        np.multiply(factor[lag:], factor[:-lag], out=spare[lag:])
        spare[:lag] = 0
        factor, spare, lag = spare, factor, 2 * lag
    at = np.flatnonzero(factor > NEGLIGIBLE)
    while at.size:
        weights = factor[at]
        free[at] += weights * free[at - lag]
        factor[at] = weights * factor[at - lag]
        at, lag = at[factor[at] > NEGLIGIBLE], 2 * lag
    return free


def count_rounds(
    accept: Floats, starts: NDArray[np.int64], k: int, beyond: int, inside: NDArray[np.bool_] | None = None
) -> tuple[Floats, Floats]:
    """Return the expected rounds of each output that accept 0..k, [outputs, k + 1], and those cut, [outputs] (§3).

    f[u], the probability that a round starts at u, is 1 where an output begins. Elsewhere a round starts unless u - 1
    was drafted and accepted, or with u - 1 the last of the k + 1 tokens of a round that accepted all:
    f[u] = 1 - a[u-1] + a[u-1] a[u-2] ... a[u-k-1] f[u-k-1]. The rounds that accept at least j are the sum of
    f[s] a[s] ... a[s+j-1] over their starts s. inside: the places whose rounds are counted; None: all.
    """
    size, lag = len(accept), k + 1
    within = accept.copy()
    within[starts[1:] - 1] = 0
    free, factor = np.ones(size), np.zeros(size)
    free[1:] -= accept[:-1]
    free[starts[:-1]] = 1
    if size > lag:
        factor[lag:] = run_products(within, lag)[:-1]
    flow = recursion(free, factor, lag)
    if inside is not None:
        flow *= inside
    all_rounds = np.add.reduceat(flow, starts[:-1])
    for left in range(1, k + beyond):
        flow[np.maximum(starts[1:] - left, starts[:-1])] = 0
    at_least = np.zeros((k + 2, len(starts) - 1))
    for j in range(lag):
        if j:
            flow[: size - j + 1] *= accept[j - 1 :]
        at_least[j] = np.add.reduceat(flow, starts[:-1])
    return (at_least[:-1] - at_least[1:]).T, all_rounds - at_least[0]
