"""The rounds of the decode walk over outputs, counted by one forward recursion (model §3): arrays in, arrays out.

Many short outputs of one length are counted side by side, [positions, outputs], a very long one part by part. All add
in the order of numpy's pairwise sums, so that how outputs are laid out changes no bit of what is counted.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# As a trace has it, whatever its numbers.
Kept = NDArray[Any]
# What is added to a probability with less weight than this changes none that matters, nor a float beside 1.
NEGLIGIBLE = 2.0**-64
# Of all places: so many are reached one by one in less time than all of them are passed over.
FEW = 0.05
# Positions that are counted at a time: arrays that a processor's cache holds.
AT_ONCE = 2**15
# Outputs up to this length are counted side by side, where those of one length have so many positions. numpy adds
# so many numbers in eight lanes.
SHORT, MANY = 128, 2**14
LANES = 8
# Doublings that are done part by part of a long output, each of which reads back twice as far.
DOUBLINGS = 3


def run_products(accept: Floats, width: int, apart: int = 1) -> Floats:
    """Return the product of `width` neighbours from each position on, by doubling; they lie so far apart.

    Shape [positions - (width - 1) apart].
    """
    size = len(accept) - (width - 1) * apart
    found, taken, span = np.ones(size), 0, 1
    while True:
        if width & span:
            found *= accept[taken * apart : taken * apart + size]
            taken += span
        if 2 * span > width:
            return found
        accept, span = accept[: -span * apart] * accept[span * apart :], 2 * span


def substitute(free: Floats, factor: Floats, spare: Floats, lag: int) -> None:
    """Put the equation of `recursion` into itself: new factors in `spare`, with a lag twice as long."""
    np.multiply(factor[lag:], free[:-lag], out=spare[lag:])
    free[lag:] += spare[lag:]
    np.multiply(factor[lag:], factor[:-lag], out=spare[lag:])
    spare[:lag] = 0


def recursion(free: Floats, factor: Floats, lag: int) -> Floats:
    """Return x[u] = free[u] + factor[u] x[u - lag], x of negative places being 0; overwrites both, shape [size] each.

    By doubling: each pass substitutes the equation in itself, until no path is likely enough to change a float. The
    last passes touch few places.
    """
    spare = np.empty(len(free))
    while lag < len(free) and np.count_nonzero(factor > NEGLIGIBLE) > FEW * len(free):
        substitute(free, factor, spare, lag)
        factor, spare, lag = spare, factor, 2 * lag
    if lag < len(free):
        reach(free, factor, lag, np.flatnonzero(factor > NEGLIGIBLE))
    return free


def reach(free: Floats, factor: Floats, lag: int, at: Ints) -> None:
    """Do the passes of `recursion` that are left in these places, one by one."""
    while at.size:
        weights = factor[at]
        free[at] += weights * free[at - lag]
        factor[at] = weights * factor[at - lag]
        at, lag = at[factor[at] > NEGLIGIBLE], 2 * lag


def count_rounds(
    accept: Kept, starts: Ints, k: int, beyond: int, inside: NDArray[np.bool_] | None = None
) -> tuple[Floats, Floats]:
    """Return the expected rounds of each output that accept 0..k, [outputs, k + 1], and those cut, [outputs] (§3).

    f[u], the probability that a round starts at u, is 1 where an output begins. Elsewhere a round starts unless u - 1
    was drafted and accepted, or with u - 1 the last of the k + 1 tokens of a round that accepted all:
    f[u] = 1 - a[u-1] + a[u-1] a[u-2] ... a[u-k-1] f[u-k-1]. The rounds that accept at least j are the sum of
    f[s] a[s] ... a[s+j-1] over their starts s.

    Args:
        accept: a of all outputs, [positions]; made wide part by part.
        starts: Where each output begins, and the end of the last, [outputs + 1].
        k: Draft length, >= 1.
        beyond: Tokens behind the k that have to lie within the output as well, for a round to count.
        inside: The places whose rounds are counted; None: all.
    """
    lengths = np.diff(starts)
    if inside is not None:
        all_rounds, at_least = one_after_another(accept, starts, k, beyond, inside)
        return (at_least - np.append(at_least[1:], 0 * at_least[:1], 0)).T, all_rounds - at_least[0]
    all_rounds, at_least = np.empty(len(lengths)), np.zeros((k + 2, len(lengths)))

    def keep(at: slice | Ints, found: tuple[Floats, Floats]) -> None:
        all_rounds[at], at_least[:-1, at] = found

    many = np.bincount(lengths, minlength=SHORT + 1)[: SHORT + 1] * np.arange(SHORT + 1) >= MANY
    for length in np.flatnonzero(many).tolist():
        windows, outputs = np.lib.stride_tricks.sliding_window_view(accept, length), np.flatnonzero(lengths == length)
        for some in np.array_split(outputs, -(-len(outputs) * length // AT_ONCE)):
            at, begin = run_of(some), starts[some[0]]
            # Where outputs are no neighbours their positions are gathered.
            rows = accept[begin : begin + some.size * length] if isinstance(at, slice) else windows[starts[some]]
            rows = np.ascontiguousarray(rows.reshape(some.size, length).T, np.float64)
            keep(at, side_by_side(rows, k, beyond))
    for output in np.flatnonzero(lengths > AT_ONCE):
        keep(slice(output, output + 1), part_by_part(accept[starts[output] : starts[output + 1]], k, beyond))
    is_other = (lengths <= AT_ONCE) & ~((lengths <= SHORT) & many[np.minimum(lengths, SHORT)])
    others = np.flatnonzero(is_other)
    if 0 < len(others) < len(lengths):
        accept, starts = accept[np.repeat(is_other, lengths)], np.append(0, np.cumsum(lengths[others]))
    bounds = np.searchsorted(starts, np.arange(0, len(accept) + AT_ONCE, AT_ONCE)).clip(max=len(others))
    for a, b in pairwise(np.unique(bounds)):
        found = one_after_another(accept[starts[a] : starts[b]], starts[a : b + 1] - starts[a], k, beyond)
        keep(run_of(others[a:b]), found)
    return (at_least[:-1] - at_least[1:]).T, all_rounds - at_least[0]


def run_of(outputs: Ints) -> slice | Ints:
    """Return neighbours as a slice, which is faster to read and write."""
    first, last = int(outputs[0]), int(outputs[-1])
    return slice(first, last + 1) if last - first < len(outputs) else outputs


def one_after_another(
    accept: Kept, starts: Ints, k: int, beyond: int, inside: NDArray[np.bool_] | None = None
) -> tuple[Floats, Floats]:
    """Return all rounds, [outputs], and those that accept at least 0..k, [k + 1, outputs]; see `count_rounds`."""
    size, lag, accept = len(accept), k + 1, accept.astype(np.float64)
    within = accept.copy()
    within[starts[1:] - 1] = 0
    free, factor = np.empty(size), np.zeros(size)
    np.subtract(1, accept[:-1], out=free[1:])
    free[starts[:-1]] = 1
    if size > lag:
        factor[lag:] = run_products(within, lag)[:-1]
    flow = recursion(free, factor, lag)
    if inside is not None:
        flow *= inside
    all_rounds = np.add.reduceat(flow, starts[:-1])
    for left in range(1, k + beyond):
        flow[np.maximum(starts[1:] - left, starts[:-1])] = 0
    at_least = np.zeros((lag, len(starts) - 1))
    for j in range(lag):
        if j:
            flow[: max(size - j + 1, 0)] *= accept[j - 1 :]
        at_least[j] = np.add.reduceat(flow, starts[:-1])
    return all_rounds, at_least


def side_by_side(accept: Floats, k: int, beyond: int) -> tuple[Floats, Floats]:
    """Return the same of outputs of one length; accept: [positions, outputs]."""
    (length, outputs), lag = accept.shape, k + 1
    flow = np.empty(accept.shape)
    flow[0] = 1
    np.subtract(1, accept[:-1], out=flow[1:])
    if length > lag:
        factor = np.zeros(accept.size)
        factor[lag * outputs :] = run_products(accept.ravel(), lag, outputs)[:-outputs]
        recursion(flow.reshape(-1), factor, lag * outputs)
    all_rounds, at_least = lanes_added(flow, length), np.zeros((lag, outputs))
    flow = flow[: max(length - k - beyond + 1, 0)]
    for j in range(lag if len(flow) else 0):
        if j:
            flow *= accept[j - 1 : j - 1 + len(flow)]
        at_least[j] = lanes_added(flow, length)
    return all_rounds, at_least


def lanes_added(rows: Floats, length: int) -> Floats:
    """Add up rows, as numpy does along as many positions of which the last may be 0; [rows, outputs], `length` <= 129.

    It adds to the first the sum of the others: by eight lanes, and then what these leave.
    """
    first, others, whole = rows[0], rows[1:], (length - 1) // LANES * LANES
    left, others = others[whole:], others[:whole]
    lanes = others[:LANES].copy()
    for at in range(LANES, len(others), LANES):
        lanes[: len(others) - at] += others[at : at + LANES]
    while len(lanes) > 1:
        halved = lanes[::2].copy()
        halved[: len(lanes) // 2] += lanes[1::2]
        lanes = halved
    total = lanes[0] if len(lanes) else np.zeros(rows.shape[1])
    for row in left:
        total += row
    return np.asarray(first + total, np.float64)


def part_by_part(accept: Kept, k: int, beyond: int) -> tuple[Floats, Floats]:
    """Return the same of one long output, [1] and [k + 1, 1]; accept: [positions]."""
    size, lag = len(accept), k + 1
    free, factor, far, reached = np.empty(size), np.zeros(size), lag * 2**DOUBLINGS, []
    for begin in range(0, size, AT_ONCE):
        # The first positions are computed again: they are what those of this part look back at.
        back = max(begin - far, 0)
        here = accept[max(back - lag, 0) : begin + AT_ONCE].astype(np.float64)
        skipped = min(back, lag)
        some, factors, spare = np.empty((3, len(here) - skipped))
        some[0] = 1
        np.subtract(1, here[max(skipped - 1, 0) : -1], out=some[0 if back else 1 :])
        factors[: lag - skipped] = 0
        factors[lag - skipped :] = run_products(here, lag)[:-1]
        for doubling in range(DOUBLINGS):
            substitute(some, factors, spare, lag << doubling)
            factors, spare = spare, factors
        free[begin : begin + AT_ONCE], factors = some[begin - back :], factors[begin - back :]
        at = np.flatnonzero(factors > NEGLIGIBLE)
        factor[begin + at] = factors[at]
        reached.append(begin + at)
    at, counted, sums = np.concatenate(reached), size - k - beyond + 1, []
    if len(at) > FEW * size:
        recursion(free, factor, lag << DOUBLINGS)
    else:
        reach(free, factor, lag << DOUBLINGS, at)
    for part in parts(0, size):
        some, here = free[part].copy(), accept[part.start : part.stop + k].astype(np.float64)
        found = np.zeros(lag + 1)
        found[-1] = np.add.reduce(some)
        some[max(counted - part.start, 0) :] = 0
        for j in range(lag):
            if j:
                some[: len(here) - j + 1] *= here[j - 1 : j - 1 + len(some)]
            found[j] = np.add.reduce(some)
        sums.append(found)
    total = sums[0] + halves_added(size - 1, iter(sums[1:]))
    return total[-1:], total[:-1, None]


def parts(begin: int, end: int) -> list[slice]:
    """Return the first position, and the parts that numpy's pairwise sum of the others halves them into."""

    def halved(begin: int, end: int) -> list[slice]:
        if end - begin <= AT_ONCE:
            return [slice(begin, end)]
        middle = begin + half(end - begin)
        return halved(begin, middle) + halved(middle, end)

    return [slice(begin, begin + 1), *halved(begin + 1, end)]


def half(size: int) -> int:
    """Return where numpy's pairwise sum halves so many numbers."""
    return size // 2 // LANES * LANES


def halves_added(size: int, sums: Iterator[Floats]) -> Floats:
    """Add up the sums of parts of so many positions, as the pairwise sum does."""
    if size <= AT_ONCE:
        return next(sums)
    left = halves_added(half(size), sums)
    return np.asarray(left + halves_added(size - half(size), sums), np.float64)
