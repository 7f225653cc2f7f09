"""One step's plan by SGLang's rules: prompts come first, and who is admitted leaves room for what others may write.

A step reads prompts, in parts of `max_num_batched_tokens` at most, or it decodes; with mixed chunks it does both. Who
runs is counted with a share of the tokens that it may still write; where that was too little, some lose their KV, the
share rises, and falls again step by step. What is read can be found by others once its step has ended.
"""

from typing import Any

from simulator.ground.compiled import lean

from . import state
from .blocks import BLOCKS, HELD, SLOTS, Blocks, Texts, extend, hits, key_of, occupy, publish, unused
from .queues import HEAD, RUN, WAIT, Queues, nth_waiting, serve_next, wait_first, wait_last
from .settings import Settings
from .state import (
    BEGUN,
    BUDGET,
    CHUNKED,
    COMPUTED,
    CONTINUED,
    DONE_S,
    DRAFTS,
    EVICTED,
    FLIGHTS,
    FULL,
    OFFSET,
    OUTPUT,
    PREEMPTIONS,
    PROMPT,
    RATIO,
    READS,
    ROOM,
    RUNNING,
    SEEN,
    SHARED,
    SIZE,
    SLOT,
    STALE,
    STATUS,
    TOKENS,
    Log,
    Plans,
    note,
)
from .vllm import lose, put, wanted

Array = Any
# Tokens to come of a request that are counted at most; that each one that stays has room for after a retraction.
MOST_COUNTED, AFTER_RETRACTION = 4096, 20
# Requests that are sorted by what the cache has of them; tokens of a text by which one waits for another with the same.
MOST_SORTED, ALIKE = 128, 32
NO_LIMIT = 1 << 40
# What comes of one that waits: it does not fit into KV, or into this step.
NO_ROOM, NO_BUDGET = -1, 0


@lean
def plan_by_sglang(
    s: Settings, texts: Texts, kv: Blocks, q: Queues, plans: Plans, log: Log, step: int, now: float
) -> None:
    """Plan a step: fill its rows, and move those that are admitted or lose their KV."""
    left, share, running = plans.left, plans.times[FLIGHTS], q.size[RUN]
    plans.flights[step % 2][SIZE] = 0
    left[READS] = 0
    left[EVICTED] = 0
    left[CONTINUED] = 0
    if step == 0 or (running == 0 and now > plans.times[(step + 1) % 2][DONE_S]):
        share[RATIO] = s.ratio
    if running < left[SEEN]:
        left[FULL] = 0
    chunked = left[CHUNKED] - 1
    if chunked >= 0 or (q.size[WAIT] > 0 and left[FULL] == 0):
        plan_prompts(s, texts, kv, q, plans, log, step, now)
    if plans.flights[step % 2][SIZE] == 0:
        plan_decoding(s, kv, q, plans, log, step)
    elif s.mixed_chunk:
        mix(s, kv, q, plans, step, running, chunked)
    left[SEEN] = q.size[RUN]


@lean
def plan_prompts(
    s: Settings, texts: Texts, kv: Blocks, q: Queues, plans: Plans, log: Log, step: int, now: float
) -> None:
    """Plan prompts: the rest of one that was begun, and those that wait."""
    left, share, running = plans.left, plans.times[FLIGHTS], q.size[RUN]
    chunked = left[CHUNKED] - 1
    beside = 0
    if s.mixed_chunk:
        beside = running - (1 if chunked >= 0 else 0)
    left[BUDGET] = (s.max_num_batched_tokens if s.chunked_prefill else NO_LIMIT) - beside
    left[ROOM] = s.max_prefill_tokens - beside
    counted = 0.0
    for place in range(running):
        if q.running[place] != chunked:
            counted += to_come(s, q.track[q.running[place]]) * share[RATIO]
    share[OFFSET] = beside + counted
    if chunked >= 0:
        go_on(s, texts, kv, plans, step, chunked, q.track[chunked])
    if q.size[WAIT] > 0 and left[FULL] == 0:
        plan_waiting(s, texts, kv, q, plans, log, step, now)


@lean
def to_come(s: Settings, t: Array) -> int:
    """Return the tokens that a request may still write, as they are counted."""
    most = min(t[OUTPUT], s.max_model_len - t[PROMPT])
    return int(min(max(most + t[PROMPT] - t[TOKENS], 0), MOST_COUNTED))


@lean
def in_pages(s: Settings, tokens: int) -> int:
    """Return tokens in whole pages."""
    return (tokens + s.block_size - 1) // s.block_size * s.block_size


@lean
def remaining(s: Settings, kv: Blocks, plans: Plans) -> float:
    """Return the tokens that KV has room for beside what those that were admitted may write."""
    return float(kv.free[BLOCKS] * s.block_size - plans.times[FLIGHTS][OFFSET])


@lean
def go_on(s: Settings, texts: Texts, kv: Blocks, plans: Plans, step: int, request: int, t: Array) -> None:
    """Plan the next part of a prompt that was begun; where no KV is free, it has to wait for some."""
    left, slot, computed = plans.left, t[SLOT], t[COMPUTED]
    if s.prefix_caching:
        publish(s.block_size, texts, kv, request, t[SHARED], slot, computed)
    rest, count, room = t[TOKENS] - computed, left[BUDGET], remaining(s, kv, plans)
    if 0 < room < count:
        count = int(room)
    count = min(rest, count, (kv.table[slot][HELD] + kv.free[BLOCKS]) * s.block_size - computed)
    if count > 0:
        take(s, kv, plans, step, request, t, count, rest)


@lean
def take(s: Settings, kv: Blocks, plans: Plans, step: int, request: int, t: Array, count: int, rest: int) -> None:
    """Read so much of the rest of a prompt; only who has read all of it is counted with what it may write."""
    left, slot, paged = plans.left, t[SLOT], in_pages(s, count)
    more = max(in_pages(s, t[COMPUTED] + count) // s.block_size - kv.table[slot][HELD], 0)
    extend(kv, slot, more)
    ahead = min(t[OUTPUT], s.max_model_len - t[PROMPT], MOST_COUNTED) if count == rest else 0
    plans.times[FLIGHTS][OFFSET] += paged - more * s.block_size + s.block_size + ahead
    left[CHUNKED] = 0 if count == rest else request + 1
    left[BUDGET] -= paged - count
    left[ROOM] -= paged - count
    left[READS] = 1
    put(s, plans, step, request, count, 0, 1)


@lean
def plan_waiting(
    s: Settings, texts: Texts, kv: Blocks, q: Queues, plans: Plans, log: Log, step: int, now: float
) -> None:
    """Admit those that wait, in their order, until one does not fit; one whose lost output is in flight is passed by.

    Where KV lacks, nobody is looked at again before one that runs has gone.
    """
    if s.by_prefix and s.prefix_caching and q.size[RUN] < s.max_num_active_seqs and q.size[WAIT] <= MOST_SORTED:
        sort_waiting(s, texts, kv, q)
    skipped, left = 0, plans.left
    while q.size[WAIT] > 0 and left[BUDGET] > 0 and left[ROOM] > 0:
        if q.size[RUN] >= s.max_num_active_seqs:
            left[FULL] = 1
            break
        request = nth_waiting(q, 0, False)
        t = q.track[request]
        if t[STALE] > 0:
            serve_next(q, False)
            q.skipped[skipped] = request
            skipped += 1
            continue
        slot = kv.spare[kv.free[SLOTS] - 1]
        found = hits(s, texts, kv, request, t, t[TOKENS], slot) if s.prefix_caching else 0
        count = part(s, kv, plans, step, t, slot, found)
        if count <= 0:
            left[FULL] = 1 if count == NO_ROOM and q.size[RUN] > 0 else 0
            break
        serve_next(q, False)
        admit(s, kv, q, log, step, request, t, found, now)
        take(s, kv, plans, step, request, t, count, t[TOKENS] - t[COMPUTED])
        if remaining(s, kv, plans) <= 0:
            left[FULL] = 1
            break
    for place in range(skipped - 1, -1, -1):
        wait_first(q, q.skipped[place], False)


@lean
def admit(
    s: Settings, kv: Blocks, q: Queues, log: Log, step: int, request: int, t: Array, found: int, now: float
) -> None:
    """Let one that waited run with the blocks that were found for it."""
    computed = found * s.block_size
    t[SLOT] = occupy(kv, found)
    t[STATUS] = RUNNING
    t[COMPUTED] = computed
    q.running[q.size[RUN]] = request
    q.size[RUN] += 1
    note(log, state.RESUMES if t[PREEMPTIONS] > 0 else state.ADMITS, step, request, 0)
    if found > 0:
        note(log, state.HITS, step, request, computed)
    if t[PREEMPTIONS] == 0:
        q.times[request][BEGUN] = now
        t[state.CACHED] = computed


@lean
def part(s: Settings, kv: Blocks, plans: Plans, step: int, t: Array, slot: int, found: int) -> int:
    """Return how much of one that waits is read in this step: NO_ROOM, NO_BUDGET, or its tokens."""
    left, rest = plans.left, t[TOKENS] - found * s.block_size
    room = remaining(s, kv, plans) - unused(kv, slot, found) * s.block_size
    if rest + to_come(s, t) + s.block_size >= room:
        return NO_ROOM
    paged = in_pages(s, rest)
    if plans.flights[step % 2][SIZE] > 0 and paged >= left[ROOM]:
        return NO_BUDGET
    if s.chunked_prefill and paged > left[BUDGET]:
        return int(left[BUDGET] // s.block_size * s.block_size)
    return int(rest)


@lean
def sort_waiting(s: Settings, texts: Texts, kv: Blocks, q: Queues) -> None:
    """Let those wait in front of whom the cache has most; of new texts that begin alike, the first lets others wait."""
    size, slot = q.size[WAIT], kv.spare[kv.free[SLOTS] - 1]
    for nth in range(size):
        request = nth_waiting(q, nth, False)
        t = q.track[request]
        found = hits(s, texts, kv, request, t, t[TOKENS], slot) * s.block_size
        rank, begins = -found, -1
        if found <= ALIKE <= t[TOKENS]:
            begins = key_of(texts, 1, request, t[SHARED], ALIKE - 1)
            for other in range(nth):
                if q.skipped[MOST_SORTED + other] == begins:
                    rank, begins = 1, -1
                    break
        q.skipped[MOST_SORTED + nth] = begins
        q.skipped[nth] = rank
    for nth in range(1, size):
        request, rank, place = nth_waiting(q, nth, False), q.skipped[nth], nth
        while place > 0 and q.skipped[place - 1] > rank:
            put_waiting(q, place, nth_waiting(q, place - 1, False))
            q.skipped[place] = q.skipped[place - 1]
            place -= 1
        put_waiting(q, place, request)
        q.skipped[place] = rank


@lean
def put_waiting(q: Queues, nth: int, request: int) -> None:
    """Put a request at this place of the ring."""
    place = q.size[HEAD] + nth
    q.waiting[place - len(q.waiting) if place >= len(q.waiting) else place] = request


@lean
def growth(s: Settings, kv: Blocks, t: Array, count: int) -> int:
    """Return the blocks that one that decodes lacks: with speculation, for two rounds ahead."""
    places = t[COMPUTED] + count
    if s.k > 0:
        places = max(places, t[TOKENS] - 1 + 2 * (s.k + 1))
    return int(max(in_pages(s, min(places, s.max_model_len)) // s.block_size - kv.table[t[SLOT]][HELD], 0))


@lean
def lacking(s: Settings, kv: Blocks, q: Queues, left: Array, running: int, chunked: int) -> int:
    """Return the blocks that a step lacks that decodes those that run; FULL is 0 where what is in flight ends one."""
    needed = 0
    for place in range(running):
        if q.running[place] != chunked:
            t = q.track[q.running[place]]
            count = wanted(s, left, t, NO_LIMIT)
            if count > 0:
                needed += growth(s, kv, t, count)
            else:
                left[FULL] = 0
    return int(needed - kv.free[BLOCKS])


@lean
def plan_decoding(s: Settings, kv: Blocks, q: Queues, plans: Plans, log: Log, step: int) -> None:
    """Plan a step that decodes; where blocks lack, some lose theirs, unless what is in flight ends one anyway."""
    left, share, chunked = plans.left, plans.times[FLIGHTS], plans.left[CHUNKED] - 1
    left[BUDGET] = NO_LIMIT
    left[ROOM] = NO_LIMIT
    was_full = left[FULL]
    left[FULL] = 1
    lacks = lacking(s, kv, q, left, q.size[RUN], chunked) > 0
    ends = left[FULL] == 0
    left[FULL] = 0 if ends else was_full
    if lacks and ends:
        return
    if lacks:
        retract(s, kv, q, plans, log, step, chunked)
    rows = decode(s, kv, q, plans, step, q.size[RUN], chunked)
    if rows > 0 and not lacks:
        share[RATIO] = max(share[RATIO] - s.ratio_decay, s.least_ratio)


@lean
def retract(s: Settings, kv: Blocks, q: Queues, plans: Plans, log: Log, step: int, chunked: int) -> None:
    """Take KV from those that have written least, of these from the longest prompts, until the others fit."""
    left = plans.left
    while True:
        worst = -1
        for place in range(q.size[RUN]):
            if q.running[place] != chunked and (worst < 0 or not is_kept(q, q.running[place], q.running[worst])):
                worst = place
        if worst < 0:
            break
        wait_last(q, lose(kv, q, plans, log, step, worst), False)
        if lacking(s, kv, q, left, q.size[RUN], chunked) <= 0:
            break
    left[FULL] = 0
    written, most, count = 0, 0, 0
    for place in range(q.size[RUN]):
        if q.running[place] != chunked:
            t = q.track[q.running[place]]
            written += t[TOKENS] - t[PROMPT]
            most += min(t[OUTPUT], s.max_model_len - t[PROMPT])
            count += 1
    plans.times[FLIGHTS][RATIO] = min(1.0, (written + AFTER_RETRACTION * count) / (most + 1))


@lean
def is_kept(q: Queues, one: int, other: int) -> bool:
    """Say whether one request keeps its KV for longer than another that came before it."""
    t, o = q.track[one], q.track[other]
    written, others = t[TOKENS] - t[PROMPT], o[TOKENS] - o[PROMPT]
    return bool(written > others or (written == others and t[PROMPT] < o[PROMPT]))


@lean
def decode(s: Settings, kv: Blocks, q: Queues, plans: Plans, step: int, running: int, chunked: int) -> int:
    """Plan a round of those that run, all of whom fit; return how many."""
    left, rows = plans.left, 0
    for place in range(running):
        request = q.running[place]
        if request == chunked:
            continue
        t = q.track[request]
        count = wanted(s, left, t, NO_LIMIT)
        if count > 0:
            extend(kv, t[SLOT], growth(s, kv, t, count))
            drafts = min(t[DRAFTS], count - 1)
            t[DRAFTS] = 0
            left[CONTINUED] += 1
            put(s, plans, step, request, count, drafts, 0)
            rows += 1
    return rows


@lean
def mix(s: Settings, kv: Blocks, q: Queues, plans: Plans, step: int, running: int, chunked: int) -> None:
    """Let those that ran before write a token each beside the prompts, without drafts, where blocks allow it."""
    left = plans.left
    left[BUDGET] = NO_LIMIT
    left[ROOM] = NO_LIMIT
    if lacking(s, kv, q, left, running, chunked) > 0:
        return
    for place in range(running):
        q.track[q.running[place]][DRAFTS] = 0
    decode(s, kv, q, plans, step, running, chunked)
