"""What a step of an engine takes, from sums over its sequences: tables by tokens, coefficients for all else.

Equal to what `costs` says of the same pass and drafts; made by `pass_tables`. Functions that `lean` takes.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.costs.step import Floats
from simulator.ground.compiled import lean

Ints = NDArray[np.int64]

# Sums over sequences that decode, and over prompts: sequences, new tokens, tokens in the KV cache, pairs of a new token
# and one that the cache holds, and of new ones. ENDED: prompts that give a token. Behind them two of each slot.
COUNT, TOKENS, HELD, SEEN, AMONG = range(5)
PROMPT, ENDED, SUMS = 5, 10, 11
# Of each pass at each K: tokens of a sequence through layers and output head, passes, whose table, whether it reads
# prompts too.
ROWS, HEADS, TIMES, TABLE, READS, PLAN = range(6)
# Of each number of tokens: seconds of compute without attention and output head, of a FLOP; bytes without KV cache,
# states, logits, and experts where they overlap; seconds of links; of the host without prompts and with, and of each
# sequence there.
FLOPS_S, FLOP_S, MOVED, LINK_S, HOST_S, HOST_MIXED_S, HOST_SEQUENCE_S, HOST_MIXED_SEQUENCE_S, COLUMNS = range(9)
# Of each table: FLOPs of a pair and of a logit; bytes of a token in the KV cache, a sequence, a logit; seconds of
# kernels and of a pass besides; the exponent that joins compute and memory; by how much a further token counts less as
# experts are touched; knots of the curve of seconds a byte; kinds of experts; the first of its kinds of attention to no
# more than some tokens, and the first behind.
PAIR_FLOPS, LOGIT_FLOPS, KV_BYTES, SEQUENCE_BYTES, LOGIT_BYTES, CONSTANT_S, EXPONENT, OVERLAP, KNOTS, EXPERTS = range(
    10
)
KINDS, KINDS_END, NUMBERS = 10, 11, 12
# Of each slot: tokens that are seen at most, whether a window keeps no more, and rows: of so many tokens of each
# sequence that decodes; 0: own tokens of all, -1: of prompts.
MOST, IS_WINDOW, SLOT_ROWS, SLOT = range(4)


class StepCosts(NamedTuple):
    """Everything that a step's seconds hang on, in two arrays: each costs time as functions are called.

    longest: the longest draft. passes: of a step, of the target, 0, and of a round's drafts in order. tokens: of the
    largest pass. ints: PLAN numbers of each pass at each K from 0 on. floats: COLUMNS of each number of tokens, table
    behind table; then, from the index that is the name's: NUMBERS of each table; `knots` logarithms of sizes and as
    many of seconds a byte of each; `experts` shares of them that a token leaves out, and their bytes, of each; of each
    kind of attention FLOPs of a pair, bytes of a token, and whose sums are of so many rows, 0: of own tokens, `rows` in
    all; SLOT numbers of each of `slots`; of each K, seconds of a round besides its passes, and of each sequence; of
    each pass, what is added once device and host have joined; of each K, tokens of a sequence that are verified.
    load_s, load_sequence_s: of a pass under load. source_s: of a prompt's source that encoders read. watts: of
    all devices at work; NaN: not known.
    """

    ints: Ints
    floats: Floats
    longest: int
    passes: int
    tokens: int
    knots: int
    experts: int
    rows: int
    slots: int
    at_numbers: int
    at_curves: int
    at_experts: int
    at_kinds: int
    at_slots: int
    at_rounds: int
    at_after: int
    at_widths: int
    load_s: float
    load_sequence_s: float
    source_s: float
    watts: float


def no_totals(costs: StepCosts) -> Floats:
    """Return the sums of a step without sequences, for `add`."""
    return np.zeros(SUMS + 2 * costs.slots)


@lean
def add(
    costs: StepCosts, totals: Floats, new_tokens: float, context: float, drafts: int, is_prompt: bool, samples: bool
) -> None:
    """Add a sequence to a step.

    Args:
        costs: Of the step.
        totals: Sums so far.
        new_tokens: That it computes.
        context: Tokens of it that the KV cache holds.
        drafts: Of the new tokens, those that were drafted.
        is_prompt: Whether it reads its prompt, or what it lost, rather than decode.
        samples: Whether it gives a token.
    """
    n, s, at = float(new_tokens), float(context), 0
    if is_prompt:
        at = PROMPT
        if samples:
            totals[ENDED] += 1.0
    totals[at + COUNT] += 1.0
    totals[at + TOKENS] += n
    totals[at + HELD] += s
    totals[at + SEEN] += n * s
    totals[at + AMONG] += n * (n + 1) / 2
    for slot in range(costs.slots):
        add_bounded(costs.floats, costs.at_slots + SLOT * slot, totals, SUMS + 2 * slot, n, s, is_prompt)


@lean
def add_bounded(f: Floats, slot: int, totals: Floats, into: int, n: float, s: float, is_prompt: bool) -> None:
    """Add a sequence to one slot, as `costs.layers.Attention` has it."""
    rows, most = f[slot + SLOT_ROWS], f[slot + MOST]
    if rows == 0 or (rows < 0) == is_prompt:
        if rows > 0:
            n = rows
        growing = min(max(most - s, 0.0), n)
        totals[into] += growing * s + growing * (growing + 1) / 2 + (n - growing) * most
        totals[into + 1] += n + (min(s, most - 1) if f[slot + IS_WINDOW] > 0 else min(s, most * n))


@lean
def nodes(costs: StepCosts, k: int) -> int:
    """Return how many drafts are verified of a round at K = k: k, or the nodes of a tree so deep."""
    return k if k > costs.longest else int(costs.floats[costs.at_widths + max(k, 0)]) - 1


@lean
def seconds(costs: StepCosts, totals: Floats, k: int) -> float:
    """Return the seconds of a step: the target's pass, and what drafts the next k tokens; k < 0: nothing drafts."""
    f, decoding, prompts = costs.floats, totals[COUNT], totals[PROMPT + COUNT]
    total_s = pass_s(costs, totals, 0, 0) + costs.load_s + costs.load_sequence_s * (decoding + prompts)
    total_s += costs.source_s * totals[ENDED]
    if k < 0:
        return float(total_s)
    k = min(k, costs.longest)
    for q in range(1, costs.passes):
        times = costs.ints[(k * costs.passes + q) * PLAN + TIMES]
        if times > 0:
            total_s += times * pass_s(costs, totals, k, q)
    return float(total_s + f[costs.at_rounds + 2 * k] + f[costs.at_rounds + 2 * k + 1] * decoding)


@lean
def pass_s(costs: StepCosts, totals: Floats, k: int, q: int) -> float:
    """Return the seconds of one pass of a step."""
    f, plan, is_target = costs.floats, (k * costs.passes + q) * PLAN, q == 0
    rows, heads, reads = costs.ints[plan + ROWS], costs.ints[plan + HEADS], costs.ints[plan + READS] > 0
    t = costs.ints[plan + TABLE]
    of, sequences, held = costs.at_numbers + NUMBERS * t, totals[COUNT], totals[HELD]
    tokens, logits, seen, among = totals[TOKENS], totals[TOKENS], totals[SEEN], totals[AMONG]
    if not is_target:
        tokens, logits, seen, among = (
            sequences * rows,
            sequences * heads,
            held * rows,
            sequences * rows * (rows + 1) / 2,
        )
    if reads:
        sequences, held = sequences + totals[PROMPT + COUNT], held + totals[PROMPT + HELD]
        tokens, logits = tokens + totals[PROMPT + TOKENS], logits + totals[ENDED]
        seen, among = seen + totals[PROMPT + SEEN], among + totals[PROMPT + AMONG]
    at = (t * (costs.tokens + 1) + min(int(tokens), costs.tokens)) * COLUMNS
    flops = f[of + PAIR_FLOPS] * (seen + among) + f[of + LOGIT_FLOPS] * logits
    size = f[at + MOVED] + f[of + KV_BYTES] * (held + tokens)
    size += f[of + SEQUENCE_BYTES] * sequences + f[of + LOGIT_BYTES] * logits
    for kind in range(int(f[of + KINDS]), int(f[of + KINDS_END])):
        here = costs.at_kinds + kind * (2 + costs.rows)
        pairs = touched = 0.0
        if reads:
            slot = SUMS + 2 * int(f[here + 2])
            pairs, touched = totals[slot], totals[slot + 1]
        if not is_target:
            slot = SUMS + 2 * int(f[here + 2 + rows])
            pairs, touched = pairs + totals[slot], touched + totals[slot + 1]
        flops, size = flops + f[here] * pairs, size + f[here + 1] * touched
    # What stands behind another token of its own sequence chooses experts alike.
    choosing = tokens - f[of + OVERLAP] * (tokens - sequences)
    for e in range(int(f[of + EXPERTS])):
        here = costs.at_experts + (t * costs.experts + e) * 2
        size += f[here + 1] * (1 - f[here] ** choosing)
    memory_s = size * byte_s(f, costs.at_curves + 2 * t * costs.knots, costs.knots, int(f[of + KNOTS]), size)
    device_s = joined_s(f[at + FLOPS_S] + f[at + FLOP_S] * flops, memory_s, f[of + EXPONENT])
    device_s += f[of + CONSTANT_S] + f[at + LINK_S]
    mixes = 1 if is_target and totals[PROMPT + COUNT] > 0 else 0
    host_s = f[at + HOST_S + mixes] + f[at + HOST_SEQUENCE_S + mixes] * sequences
    if host_s > 0:
        device_s = (device_s * device_s * device_s + host_s * host_s * host_s) ** (1 / 3)
    return float(device_s + f[costs.at_after + q])


@lean
def joined_s(compute_s: float, memory_s: float, exponent: float) -> float:
    """Return the seconds of compute and memory that overlap, as `costs.step` has it."""
    longer, shorter = max(compute_s, memory_s), min(compute_s, memory_s)
    if longer <= 0 or math.isinf(exponent):
        return float(longer)
    if exponent == 4:  # of all data sheets: roots are quicker than powers
        ratio = shorter / longer
        return float(longer * math.sqrt(math.sqrt(1 + ratio * ratio * ratio * ratio)))
    return float(longer * (1 + (shorter / longer) ** exponent) ** (1 / exponent))


@lean
def byte_s(f: Floats, curve: int, width: int, knots: int, size: float) -> float:
    """Return the seconds a byte of passes that move so many, as `costs.profile.Curve` has it. One knot is as it is."""
    if knots == 1:
        return float(f[curve + width])
    at, below, seconds = math.log(max(size, 1.0)), 0, curve + width
    while below < knots - 1 and at >= f[curve + below + 1]:
        below += 1
    if below == knots - 1 or at <= f[curve]:
        return math.exp(f[seconds + below])
    part = (at - f[curve + below]) / (f[curve + below + 1] - f[curve + below])
    return math.exp(f[seconds + below] * (1 - part) + f[seconds + below + 1] * part)
