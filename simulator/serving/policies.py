"""Which draft length a live engine takes for its next round, and how many of its drafts each sequence has verified.

What an engine decides while it serves, from what it knows at that moment. Functions that `lean` takes; policies are
made by `policy_tables`.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.costs.step import Floats
from simulator.ground.compiled import lean

from .draws import Acceptance, confidence

Ints = NDArray[np.int64]

# Where draft lengths come from: a table; an average of what was accepted (SGLang's adaptive steps).
TABLE, AVERAGE = 0, 1
# Which drafts are verified: all; those that are worth their time, by confidences a step old (vLLM's adaptive
# verification) or of now; those before the first that the drafter is not sure of.
ALL, WORTH_A_STEP_OLD, WORTH, SURE = 0, 1, 2, 3
# Of each slot of `AVERAGE`, in `floats`: the batch size from which it holds, where it begins, how fast the average
# moves, batches between choices and before the first, hysteresis upwards and downwards, the ceiling's coefficient, how
# many candidates.
SIZE, INITIAL, SPEED, INTERVAL, WARM_UP, UP, DOWN, CEILING, CANDIDATES, SLOT = range(10)
# Of each slot, in memory: the candidate that holds, the average, batches so far. Before them: steps so far.
AT, MEAN, BATCHES, REMEMBERED = range(4)
# What draws of a sequence hang on: request, category, rounds with drafts before this one, tokens of its answer so far.
WORDS = 4
# Numbers that are sorted by insertion, before they are merged.
AT_ONCE = 8


class Policy(NamedTuple):
    """How draft lengths are chosen; `off`: K where a load is too high: 0: the drafter keeps up, -1: it rests.

    ints: K by whether requests wait, range of contexts, and sequences from 0 to `batches`. floats: where each range of
    contexts but the first begins; from at_slots SLOT numbers and `candidates` draft lengths, rising, of each slot; from
    at_draft seconds of drafts, by sequences to `batches`; from at_verify of verification, by tokens to `tokens`.
    most_waiting: requests beyond which nothing is drafted. verifies: one of ALL, ... threshold: of SURE. warm_up: steps
    in which all drafts are verified.
    """

    ints: Ints
    floats: Floats
    kind: int
    longest: int
    contexts: int
    batches: int
    slots: int
    candidates: int
    at_slots: int
    at_draft: int
    at_verify: int
    tokens: int
    most_waiting: int
    off: int
    verifies: int
    threshold: float
    warm_up: int


def new_memory(policy: Policy) -> Floats:
    """Return what a policy remembers before the first step, for `next_k` and `learn`."""
    memory, width = np.zeros(1 + REMEMBERED * policy.slots), SLOT + policy.candidates
    for slot in range(policy.slots):
        numbers = policy.floats[policy.at_slots + slot * width :][:width]
        steps = numbers[SLOT:][: int(numbers[CANDIDATES])].tolist()
        at = steps.index(numbers[INITIAL]) if numbers[INITIAL] in steps else len(steps) // 2
        memory[1 + slot * REMEMBERED :][:2] = at, steps[at] - 1
    return memory


@lean
def next_k(policy: Policy, memory: Floats, scheduled: int, waiting: int, mean_context: float) -> int:
    """Return the draft length of the next round.

    Args:
        policy: Whose.
        memory: Of it.
        scheduled: Sequences of this step.
        waiting: Requests that are not.
        mean_context: Tokens that the KV cache holds of a sequence.
    """
    if waiting > policy.most_waiting:
        return policy.off
    if policy.kind == AVERAGE:
        slot = slot_of(policy, scheduled)
        at = int(memory[1 + slot * REMEMBERED + AT])
        return int(policy.floats[policy.at_slots + slot * (SLOT + policy.candidates) + SLOT + at])
    context, batch = 0, min(scheduled, policy.batches)
    while context < policy.contexts - 1 and mean_context >= policy.floats[context]:
        context += 1
    row = context + (policy.contexts if waiting > 0 else 0)
    return int(policy.ints[row * (policy.batches + 1) + batch])


@lean
def slot_of(policy: Policy, batch: int) -> int:
    """Return what holds for a batch: the last slot that begins at or below it, or the first."""
    slot = 0
    while slot < policy.slots - 1 and batch >= policy.floats[policy.at_slots + (slot + 1) * (SLOT + policy.candidates)]:
        slot += 1
    return slot


@lean
def learn(policy: Policy, memory: Floats, batch: int, accepted: float) -> None:
    """Take note of a step: what so many sequences had accepted on average."""
    memory[0] += 1
    if policy.kind != AVERAGE or batch <= 0:
        return
    slot = slot_of(policy, batch)
    by, own, f = policy.at_slots + slot * (SLOT + policy.candidates), 1 + slot * REMEMBERED, policy.floats
    if f[by + SLOT + int(memory[own + AT])] > 0:
        memory[own + MEAN] += f[by + SPEED] * (accepted - memory[own + MEAN])
    memory[own + BATCHES] += 1
    since = memory[own + BATCHES] - f[by + WARM_UP]
    if since > 0 and since % f[by + INTERVAL] == 0:
        choose(f, by, memory, own)


@lean
def choose(f: Floats, by: int, memory: Floats, own: int) -> None:
    """Move along the candidates: down as far as the average lies below, else up as far as it lies above."""
    steps, last, mean = by + SLOT, int(f[by + CANDIDATES]) - 1, memory[own + MEAN]
    began = at = int(memory[own + AT])
    if f[steps + began] == 0:  # tries the shortest draft again
        memory[own + AT] = at = min(1, last)
        if f[steps + at] > 0 and mean < 0:
            memory[own + MEAN] = f[steps + at] - 1
        return
    while at > 0 and mean <= max(f[steps + at - 1] - 0.5, 0.5 if f[steps + at - 1] == 0 else 0.0) + f[by + DOWN]:
        at -= 1
    if at == began:
        while at < last and mean > f[steps + at] - 0.5 + f[by + UP]:
            at += 1
    if f[by + CEILING] > 0 and at <= began:
        ceiling = max(1, math.ceil(mean * f[by + CEILING]))
        while at > 0 and f[steps + at] > ceiling:
            at -= 1
    memory[own + AT] = at


@lean
def verify(
    policy: Policy,
    memory: Floats,
    acceptance: Acceptance,
    seed: int,
    words: Ints,
    drafts: Ints,
    sequences: int,
    others: int,
    scores: Floats,
) -> int:
    """Cut drafts to those that a step verifies; returns how many these are.

    Args:
        policy: Whose.
        memory: Of it.
        acceptance: What confidences are drawn from.
        seed: Of the run.
        words: WORDS of each sequence, [n, 4].
        drafts: Of each sequence; written over, [n].
        sequences: n.
        others: Tokens of the pass besides: of prompts.
        scores: Room to work in, [2, n * longest] at least.
    """
    total = 0
    for i in range(sequences):
        total += drafts[i]
    if policy.verifies == ALL or total == 0 or memory[0] < policy.warm_up:
        return total
    if policy.verifies == SURE:
        return cut_at(policy.threshold, acceptance, seed, words, drafts, sequences)
    found = survivals(acceptance, seed, words, drafts, sequences, scores, 0, policy.verifies == WORTH_A_STEP_OLD)
    sort_falling(scores, found)
    most = worth(policy, scores, found, sequences, others)
    survivals(acceptance, seed, words, drafts, sequences, scores, 1, False)
    # The smallest that is among so many; of those that are as small the first.
    for j in range(found):
        scores[0, j] = scores[1, j]
    least = nth_largest(scores, found, most - 1) if most > 0 else 2.0
    left = most
    for j in range(found):
        left -= scores[1, j] > least
    at = 0
    for i in range(sequences):
        drafted, drafts[i] = drafts[i], 0
        for j in range(at, at + drafted):
            if scores[1, j] > least:
                drafts[i] += 1
            elif scores[1, j] == least and left > 0:
                drafts[i] += 1
                left -= 1
        at += drafted
    return most


@lean
def cut_at(threshold: float, acceptance: Acceptance, seed: int, words: Ints, drafts: Ints, sequences: int) -> int:
    """Cut drafts before the first whose confidence is below a threshold; returns how many are left."""
    total = 0
    for i in range(sequences):
        kept = 0
        while kept < drafts[i] and threshold <= confidence(
            acceptance, seed, words[i, 0], words[i, 1], words[i, 2], words[i, 3], drafts[i], kept
        ):
            kept += 1
        drafts[i] = kept
        total += kept
    return total


@lean
def survivals(
    acceptance: Acceptance, seed: int, words: Ints, drafts: Ints, sequences: int, scores: Floats, row: int, old: bool
) -> int:
    """Write how likely each draft is reached and accepted, sequence by sequence; returns how many there are.

    old: by the confidences of each sequence's round before; 1 before there is any.
    """
    at = 0
    for i in range(sequences):
        reached, round_ = 1.0, words[i, 2] - (1 if old else 0)
        for place in range(drafts[i]):
            if round_ >= 0:
                reached *= confidence(acceptance, seed, words[i, 0], words[i, 1], round_, words[i, 3], drafts[i], place)
            scores[row, at] = reached
            at += 1
    return at


@lean
def worth(policy: Policy, scores: Floats, found: int, sequences: int, others: int) -> int:
    """Return how many drafts to verify: so many that the most tokens a second are expected, of scores that fall."""
    draft_s = policy.floats[policy.at_draft + min(sequences, policy.batches)]
    tokens, best, most = float(sequences), -1.0, 0
    for b in range(found + 1):
        if b > 0:
            tokens += scores[0, b - 1]
        verify_s = policy.floats[policy.at_verify + min(sequences + others + b, policy.tokens)]
        if tokens / (draft_s + verify_s) > best:
            best, most = tokens / (draft_s + verify_s), b
    return most


@lean
def sort_falling(scores: Floats, count: int) -> None:
    """Sort the first numbers of the first row, the largest first; the second row is room to merge in."""
    for start in range(0, count, AT_ONCE):
        for place in range(start + 1, min(start + AT_ONCE, count)):
            moving, at = scores[0, place], place
            while at > start and scores[0, at - 1] < moving:
                scores[0, at] = scores[0, at - 1]
                at -= 1
            scores[0, at] = moving
    width, row = AT_ONCE, 0
    while width < count:
        for start in range(0, count, 2 * width):
            merge(scores, row, start, min(start + width, count), min(start + 2 * width, count))
        width, row = 2 * width, 1 - row
    if row == 1:
        for place in range(count):
            scores[0, place] = scores[1, place]


@lean
def merge(scores: Floats, row: int, start: int, middle: int, end: int) -> None:
    """Merge two sorted parts of a row into the other."""
    one, other = start, middle
    for place in range(start, end):
        if other == end or (one < middle and scores[row, one] >= scores[row, other]):
            scores[1 - row, place] = scores[row, one]
            one += 1
        else:
            scores[1 - row, place] = scores[row, other]
            other += 1


@lean
def nth_largest(scores: Floats, count: int, nth: int) -> float:
    """Return which of the first numbers of the first row is the n-th largest, from 0 on; they change places."""
    low, high = 0, count - 1
    while low < high:
        pivot, left, right = scores[0, (low + high) // 2], low, high
        while left <= right:
            while scores[0, left] > pivot:
                left += 1
            while scores[0, right] < pivot:
                right -= 1
            if left <= right:
                scores[0, left], scores[0, right] = scores[0, right], scores[0, left]
                left, right = left + 1, right - 1
        if nth <= right:
            high = right
        elif nth >= left:
            low = left
        else:
            break
    return float(scores[0, nth])
