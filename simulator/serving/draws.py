"""What each round of each request drafts and accepts: counter-based draws, alike in every engine, policy and load.

A draw depends on its words alone, never on what was drawn before: draft lengths, policies and loads are compared on the
same luck. Named tuples of arrays, functions that `lean` takes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.costs.step import Floats
from simulator.ground.compiled import lean

Ints = NDArray[np.int64]

# How rounds of a category accept: by a law; as rounds were recorded; along a text, each place of which is accepted
# with a probability of its own.
LAW, ROUNDS, TEXT = 0, 1, 2
# SplitMix64 (Steele, Lea and Flood 2014), as signed numbers: plain integers grow instead of wrapping, and agree in the
# 64 bits that are looked at.
GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
TIMES_1, TIMES_2 = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
HIGH_34, HIGH_37, HIGH_33, HIGH_53 = (1 << 34) - 1, (1 << 37) - 1, (1 << 33) - 1, (1 << 53) - 1
UNIT = 1 / (1 << 53)
# Places of a round: what is drawn of it whole, of each draft, of how sure the drafter is of each.
PLACES = 1 << 20
WHOLE, OFFERED, OWN, COIN, SURE = 0, 1, 2, 1 << 10, 1 << 15


# Of each category: how; the first of its rows or walks, how many there are, whether a request draws its own among them
# rather than take them in turn; whether rounds draft no more than they find.
HOW, FIRST, CHOICES, DRAWN, VARIES, CATEGORY = range(6)
# Of each walk: where it begins in `ints` (ROUNDS) or `floats` (TEXT), how long it is; the same of offered drafts.
START, LENGTH, OFFERED_START, OFFERED_LENGTH, WALK = range(5)


class Acceptance(NamedTuple):
    """What rounds accept, in two arrays; made by `draw_tables`.

    Rows of laws, or walks, of a category lie one behind another, of which each request has one. longest: the longest
    draft that laws tell of. ints: CATEGORY numbers of each category; from at_walks WALK numbers of each walk, then
    accepted and offered drafts of recorded rounds, repeated from the front.
    floats: how far confidences tell drafts apart, 0 to 1, of each category; from at_survival P(A >= j) of rounds of d
    drafts, [rows, d from 0 to longest, j from 1 to longest]; from at_found P(D >= j), [rows, longest]; then
    P(accepted | all before it) of places of texts.
    """

    ints: Ints
    floats: Floats
    longest: int
    at_walks: int
    at_survival: int
    at_found: int


@lean
def mixed(z: int) -> int:
    """Return a number of which each bit hangs on all 64 of another's."""
    z = (z ^ ((z >> 30) & HIGH_34)) * TIMES_1
    z = (z ^ ((z >> 27) & HIGH_37)) * TIMES_2
    return z ^ ((z >> 31) & HIGH_33)


@lean
def uniform(seed: int, request: int, round_: int, position: int) -> float:
    """Return a number in [0, 1) of 53 bits, which hangs on these words alone; positions lie below `PLACES`."""
    z = mixed(int(seed) + GAMMA * (int(request) + 1))
    z = mixed(z + GAMMA * (int(round_) * PLACES + int(position) + 1))
    return ((z >> 11) & HIGH_53) * UNIT


@lean
def own(ints: Ints, seed: int, request: int, category: int) -> int:
    """Return the row or walk of a request."""
    at = category * CATEGORY
    first, choices = int(ints[at + FIRST]), int(ints[at + CHOICES])
    if choices == 1:
        return first
    if ints[at + DRAWN]:
        return first + int(uniform(seed, request, 0, OWN) * choices)
    return first + int(request) % choices


@lean
def recorded(ints: Ints, walk: int, round_: int) -> int:
    """Return what a round of a walk was; walk: where its begin and length stand."""
    return int(ints[ints[walk] + round_ % ints[walk + 1]])


@lean
def offered(acceptance: Acceptance, seed: int, request: int, category: int, round_: int, k: int) -> int:
    """Return how many tokens a request drafts at K = k; round_: how often it has drafted before."""
    if k <= 0 or not acceptance.ints[category * CATEGORY + VARIES]:
        return k
    row = own(acceptance.ints, seed, request, category)
    if acceptance.ints[category * CATEGORY + HOW] == ROUNDS:
        return min(k, recorded(acceptance.ints, acceptance.at_walks + row * WALK + OFFERED_START, round_))
    drawn, d, found = uniform(seed, request, round_, OFFERED), 0, acceptance.at_found + row * acceptance.longest
    most = min(k, acceptance.longest)
    while d < most and drawn < acceptance.floats[found + d]:
        d += 1
    return d


@lean
def accepted(
    acceptance: Acceptance, seed: int, request: int, category: int, round_: int, written: int, drafts: int
) -> int:
    """Return how many of a round's drafts are accepted.

    Args:
        acceptance: Of all categories.
        seed: Of the run.
        request: Its number.
        category: Of it.
        round_: How many rounds with drafts it has had verified before.
        written: Tokens of its answer so far.
        drafts: That are verified.
    """
    if drafts <= 0:
        return 0
    ints, floats, longest = acceptance.ints, acceptance.floats, acceptance.longest
    row, how = own(ints, seed, request, category), ints[category * CATEGORY + HOW]
    if how == LAW:
        most = min(drafts, longest)
        law = acceptance.at_survival + (row * (longest + 1) + most) * longest
        return by_law(floats, law, floats[category], seed, request, round_, most)
    walk = acceptance.at_walks + row * WALK
    if how == ROUNDS:
        return min(drafts, recorded(ints, walk, round_))
    return along_text(floats, int(ints[walk + START]), int(ints[walk + LENGTH]), seed, request, written, drafts)


@lean
def by_law(floats: Floats, law: int, sharp: float, seed: int, request: int, round_: int, most: int) -> int:
    """Return how many of so many drafts are accepted; law: where their P(A >= j) begin."""
    taken, drawn = 0, uniform(seed, request, round_, WHOLE)
    if sharp <= 0:
        # They fall: all are counted, as no processor foretells where to stop.
        for place in range(law, law + most):
            taken += 1 if drawn < floats[place] else 0
        return taken
    while taken < most:
        if uniform(seed, request, round_, COIN + taken) >= sure(floats, law, sharp, seed, request, round_, taken):
            break
        taken += 1
    return taken


@lean
def along_text(floats: Floats, start: int, length: int, seed: int, request: int, written: int, drafts: int) -> int:
    """Return how many drafts are accepted from a place of a text on."""
    taken = 0
    while taken < drafts and uniform(seed, request, written + taken, COIN) < floats[start + (written + taken) % length]:
        taken += 1
    return taken


@lean
def confidence(
    acceptance: Acceptance, seed: int, request: int, category: int, round_: int, written: int, drafts: int, place: int
) -> float:
    """Return the drafter's probability that a draft is accepted, if all before it are; place: from 0 on.

    It is what it says: of drafts with a confidence c the share c is accepted. Sharpness 0: that of the place; 1: spread
    evenly about it, as far as probabilities go. Recorded rounds tell none: 1.
    """
    how, floats = acceptance.ints[category * CATEGORY + HOW], acceptance.floats
    if how == ROUNDS:
        return 1.0
    row = own(acceptance.ints, seed, request, category)
    if how == TEXT:
        walk = acceptance.at_walks + row * WALK
        start, length = acceptance.ints[walk + START], acceptance.ints[walk + LENGTH]
        return float(floats[start + (written + place) % length])
    most = min(drafts, acceptance.longest)
    if place >= most:
        return 0.0
    law = acceptance.at_survival + (row * (acceptance.longest + 1) + most) * acceptance.longest
    return sure(floats, law, floats[category], seed, request, round_, place)


@lean
def sure(floats: Floats, law: int, sharp: float, seed: int, request: int, round_: int, place: int) -> float:
    """Return the same of a draft by a law, whose P(A >= j) begin at an index."""
    before = floats[law + place - 1] if place > 0 else 1.0
    chance = floats[law + place] / before if before > 0 else 0.0
    if sharp <= 0:
        return float(chance)
    drawn = uniform(seed, request, round_, SURE + place)
    spread = 2 * drawn * chance if chance < 0.5 else 1 - 2 * drawn * (1 - chance)
    return float((1 - sharp) * chance + sharp * spread)
