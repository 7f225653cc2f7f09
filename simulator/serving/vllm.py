"""One step's plan by the rules of vLLM V1: those that run first, drafts in the budget, then those that wait.

There is no prefill and no decode: a step gives each request tokens until all of its text, and its drafts, are computed.
"""

from typing import Any

from simulator.ground.compiled import lean

from . import state
from .blocks import BLOCKS, HELD, SLOTS, Blocks, Texts, extend, hits, occupy, publish, release, unused
from .queues import RUN, WAIT, Queues, leave_running, nth_waiting, serve_next, wait_first
from .settings import Settings
from .state import (
    AHEAD,
    BEGUN,
    BUDGET,
    COMPUTED,
    CONTINUED,
    COUNT,
    DRAFTS,
    EVICTED,
    FLYING,
    HANDED,
    IS_CHUNK,
    IS_FRESH,
    OUTPUT,
    PREEMPTED,
    PREEMPTIONS,
    PROMPT,
    RANK,
    READS,
    REQUEST,
    ROOM,
    RUNNING,
    SENT,
    SHARED,
    SIZE,
    SLOT,
    STALE,
    STATUS,
    TOKENS,
    VERIFIES,
    Log,
    Plans,
    note,
)

Array = Any


@lean
def plan_step(s: Settings, texts: Texts, kv: Blocks, q: Queues, plans: Plans, log: Log, step: int, now: float) -> None:
    """Plan a step: fill its rows, and move those that are admitted or preempted."""
    left = plans.left
    plans.flights[step % 2][SIZE] = 0
    left[BUDGET] = s.max_num_batched_tokens
    left[ROOM] = s.max_num_batched_tokens
    left[READS] = 0
    left[EVICTED] = 0
    left[CONTINUED] = 0
    longest = longest_chunk(s, q)
    plan_running(s, texts, kv, q, plans, log, step, longest)
    if left[EVICTED] == 0:
        plan_waiting(s, texts, kv, q, plans, log, step, longest, now)


@lean
def longest_chunk(s: Settings, q: Queues) -> int:
    """Return how many tokens one request computes in this step at most."""
    others = q.size[RUN] + q.size[WAIT]
    if s.long_prefill_token_threshold == 0 or others < 2:
        return s.max_num_batched_tokens
    if s.long_prefill_adaptive:
        return max(s.long_prefill_token_threshold, int(s.max_num_batched_tokens // others))
    return s.long_prefill_token_threshold


@lean
def plan_running(
    s: Settings, texts: Texts, kv: Blocks, q: Queues, plans: Plans, log: Log, step: int, longest: int
) -> None:
    """Plan those that run, in their order; where blocks lack, the last of them is preempted."""
    place, left = 0, plans.left
    while place < q.size[RUN] and left[BUDGET] > 0 and left[ROOM] > s.draft_rows:
        request = q.running[place]
        t = q.track[request]
        count = wanted(s, left, t, longest)
        if count == 0:
            place += 1
            continue
        while not grow(s, kv, t, count):
            victim = preempt(s, kv, q, plans, log, step)
            if victim < place:
                place -= 1
            if t[STATUS] != RUNNING:
                return
        tokens = t[TOKENS]
        if s.prefix_caching:
            known = min(t[COMPUTED] + count, tokens)
            publish(s.block_size, texts, kv, request, t[SHARED], t[SLOT], known)
        drafts = 0
        if t[DRAFTS] > 0:
            drafts = max(0, min(t[DRAFTS], count + t[COMPUTED] - tokens - t[AHEAD]))
            t[DRAFTS] = 0
        if t[IS_CHUNK] > 0:
            left[READS] = 1
        left[CONTINUED] += 1
        put(s, plans, step, request, count, drafts, 0)
        place += 1


@lean
def wanted(s: Settings, left: Array, t: Array, longest: int) -> int:
    """Return how many tokens one that runs computes in this step, were there blocks."""
    computed, ahead = t[COMPUTED], t[AHEAD]
    if ahead > 0 and computed + 2 - ahead >= t[PROMPT] + t[OUTPUT]:
        # What is in flight ends it, though all drafts be rejected.
        return 0
    count = min(t[TOKENS] + t[DRAFTS] + ahead - computed, longest)
    count = min(count, left[BUDGET], left[ROOM] - s.draft_rows)
    return int(min(count, s.max_model_len - 1 - computed))


@lean
def put(s: Settings, plans: Plans, step: int, request: int, count: int, drafts: int, is_fresh: int) -> None:
    """Write a row of the plan and take it from the budget."""
    flight = plans.flights[step % 2]
    row = plans.rows[step % 2 * plans.seats + flight[SIZE]]
    row[REQUEST] = request
    row[COUNT] = count
    row[VERIFIES] = drafts
    row[state.KEPT] = drafts
    row[IS_FRESH] = is_fresh
    flight[SIZE] += 1
    plans.left[BUDGET] -= count
    plans.left[ROOM] -= count + s.draft_rows


@lean
def grow(s: Settings, kv: Blocks, t: Array, count: int) -> bool:
    """Give one that runs the blocks for this many more tokens and the drafter's places; False: there are too few."""
    slot = t[SLOT]
    lacking = min(t[COMPUTED] + count + s.lookahead, s.max_model_len) - kv.table[slot][HELD] * s.block_size
    if lacking > 0:
        more = (lacking + s.block_size - 1) // s.block_size
        if more > kv.free[BLOCKS]:
            return False
        extend(kv, slot, more)
    return True


@lean
def preempt(s: Settings, kv: Blocks, q: Queues, plans: Plans, log: Log, step: int) -> int:
    """Preempt the last of those that run, or of their ranks: it loses its KV and waits again. Return its old place."""
    place: int = lowest(q) if s.by_priority else latest(q)
    request = lose(kv, q, plans, log, step, place)
    if s.by_priority:
        unplan(s, plans, step, request)
    wait_first(q, request, s.by_priority)
    return place


@lean
def lose(kv: Blocks, q: Queues, plans: Plans, log: Log, step: int, place: int) -> int:
    """Take its KV from the one at this place of those that run; return who it is."""
    request: int = q.running[place]
    leave_running(q, place)
    t = q.track[request]
    release(kv, t[SLOT])
    t[STATUS] = PREEMPTED
    t[COMPUTED] = 0
    t[DRAFTS] = 0
    t[AHEAD] = 0
    t[STALE] = t[FLYING]
    t[PREEMPTIONS] += 1
    plans.left[EVICTED] += 1
    note(log, state.EVICTS, step, request, 0)
    return request


@lean
def latest(q: Queues) -> int:
    """Return the place of the last of those that run; whose KV is on its way here does not."""
    place: int = q.size[RUN] - 1
    while q.track[q.running[place]][STATUS] != RUNNING:
        place -= 1
    return place


@lean
def lowest(q: Queues) -> int:
    """Return the place of the first of those that run whose priority and time of sending are greatest."""
    worst = -1
    for place in range(q.size[RUN]):
        one, other = q.running[place], q.running[max(worst, 0)]
        rank, least = q.track[one][RANK], q.track[other][RANK]
        is_worse = rank > least or (rank == least and q.times[one][SENT] > q.times[other][SENT])
        if q.track[one][STATUS] == RUNNING and (worst < 0 or is_worse):
            worst = place
    return worst


@lean
def unplan(s: Settings, plans: Plans, step: int, request: int) -> None:
    """Take a request out of the plan, where it is in, and give back its part of the budget."""
    flight, left = plans.flights[step % 2], plans.left
    start = step % 2 * plans.seats
    row, end = start, start + flight[SIZE]
    while row < end and plans.rows[row][REQUEST] != request:
        row += 1
    if row == end:
        return
    count = plans.rows[row][COUNT]
    left[BUDGET] += count
    left[ROOM] += count + s.draft_rows
    left[CONTINUED] -= 1
    flight[SIZE] -= 1
    for behind in range(row, end - 1):
        for field in range(state.ROW):
            plans.rows[behind][field] = plans.rows[behind + 1][field]


@lean
def plan_waiting(
    s: Settings, texts: Texts, kv: Blocks, q: Queues, plans: Plans, log: Log, step: int, longest: int, now: float
) -> None:
    """Admit those that wait, in their order, until one does not fit.

    Those whose lost output is still in flight are passed by.
    """
    skipped, left = 0, plans.left
    while q.size[WAIT] > 0 and q.size[RUN] < s.max_num_active_seqs and left[BUDGET] > 0 and left[ROOM] > s.draft_rows:
        request = nth_waiting(q, 0, s.by_priority)
        t = q.track[request]
        if t[STATUS] == HANDED or kv.free[SLOTS] == 0:
            break
        if t[STALE] > 0:
            serve_next(q, s.by_priority)
            q.skipped[skipped] = request
            skipped += 1
            continue
        slot = kv.spare[kv.free[SLOTS] - 1]
        found = hits(s, texts, kv, request, t, t[TOKENS], slot) if s.prefix_caching else 0
        computed = found * s.block_size
        count = first_tokens(s, left, t, computed, longest)
        if count == 0 or not fits(s, kv, q, t, slot, found, count):
            break
        serve_next(q, s.by_priority)
        admit(s, texts, kv, request, t, found, count)
        q.running[q.size[RUN]] = request
        q.size[RUN] += 1
        # More than there is to compute: padded with drafts.
        put(s, plans, step, request, count, count - 1 if computed + count > t[TOKENS] else 0, 1)
        note(log, state.RESUMES if t[PREEMPTIONS] > 0 else state.ADMITS, step, request, 0)
        if found > 0:
            note(log, state.HITS, step, request, computed)
        if t[PREEMPTIONS] == 0:
            q.times[request][BEGUN] = now
            t[state.CACHED] = computed
    for place in range(skipped - 1, -1, -1):
        wait_first(q, q.skipped[place], s.by_priority)


@lean
def first_tokens(s: Settings, left: Array, t: Array, computed: int, longest: int) -> int:
    """Return how many tokens one that waits computes in this step, were there blocks; 0: it has to wait."""
    count = t[TOKENS] - computed
    budget = min(left[BUDGET], left[ROOM] - s.draft_rows)
    is_alone = left[CONTINUED] == 0 and computed == 0
    if s.pads and count == 1 and left[READS] == 0 and not is_alone:
        padded = 1 + s.k
        if computed + padded + 1 <= s.max_model_len:
            if padded > budget:
                return 0
            count = padded
    count = min(count, longest)
    if not s.chunked_prefill and count > budget:
        return 0
    return int(min(count, budget))


@lean
def fits(s: Settings, kv: Blocks, q: Queues, t: Array, slot: int, found: int, count: int) -> bool:
    """Say whether there are blocks for one that waits: for this step, and where that is asked for all of its text."""
    room = kv.free[BLOCKS] - unused(kv, slot, found)
    if q.size[RUN] > 0:
        room -= s.watermark_blocks
    places = min(found * s.block_size + count + s.lookahead, s.max_model_len)
    if s.reserve_full_isl:
        places = max(places, min(t[TOKENS], s.max_model_len))
    places = with_answer(s, t, places)
    return bool((places + s.block_size - 1) // s.block_size - found <= room)


@lean
def with_answer(s: Settings, t: Array, places: int) -> int:
    """Return the places that one that waits is given; where nobody loses KV, for all of its answer and last round."""
    if s.reserves_output:
        return int(max(places, min(t[PROMPT] + t[OUTPUT] + 2 * (s.k + 1) + s.lookahead, s.max_model_len)))
    return places


@lean
def admit(s: Settings, texts: Texts, kv: Blocks, request: int, t: Array, found: int, count: int) -> None:
    """Give one that waits a slot, the blocks that were found and those that it needs in this step."""
    t[SLOT] = occupy(kv, found)
    computed = found * s.block_size
    places = with_answer(s, t, min(computed + count + s.lookahead, s.max_model_len))
    extend(kv, t[SLOT], max(0, (places + s.block_size - 1) // s.block_size - found))
    if s.prefix_caching:
        publish(s.block_size, texts, kv, request, t[SHARED], t[SLOT], min(computed + count, t[TOKENS]))
    t[STATUS] = RUNNING
    t[COMPUTED] = computed
