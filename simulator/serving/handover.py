"""Prompts that one replica reads and another answers: their KV goes over a link, with a place at both ends meanwhile.

As vLLM's NIXL connector does it: the reader is asked for one token, which is thrown away, and keeps the KV until it was
pulled. Who decodes gives a prompt its places before it pulls, computes its last token again, and writes the first.
What a reader sends goes one after another: bytes over the bandwidth of its link, and a latency.
"""

from typing import TYPE_CHECKING, Any

from simulator.ground.compiled import lean

from . import state
from .blocks import SLOTS, extend, hits, occupy, publish
from .queues import HOLDS, LOADS, RUN, WAIT, Queues, come, nth_waiting, serve_next
from .state import (
    COMPUTED,
    HANDED,
    LOADING,
    OUTPUT,
    PREEMPTED,
    PROMPT,
    RUNNING,
    SENT,
    SHARED,
    SLOT,
    STATUS,
    TOKENS,
    UNSENT,
)
from .vllm import fits

if TYPE_CHECKING:
    from .steps import Run

Array = Any
# A row of `hands`: tokens of the whole answer; whether the prompt was read; the reader that holds the KV, and 1; where.
OWED, IS_READ, HOLDER, PLACE, HANDS = range(5)
# A row of `hands_s`: when it was sent at first; when its prompt was read; when its KV was where it is decoded.
SENT_FIRST_S, READ_S, THERE_S, HANDS_S = range(4)
# Of the link: its latency, seconds of a token; then, of each reader, until when it sends.
LATENCY_S, TOKEN_S, LINK = range(3)


@lean
def hand_over(q: Queues, front: Array, hands: Array, hands_s: Array, request: int, reader: int, now: float) -> None:
    """Let one whose prompt was read be sent on; who lost its KV meanwhile is read again where it is decoded."""
    t, hand = q.track[request], hands[request]
    hand[IS_READ] = 1
    hands_s[request][SENT_FIRST_S] = q.times[request][SENT]
    hands_s[request][READ_S] = now
    hands_s[request][THERE_S] = now
    if t[STATUS] == PREEMPTED:
        t[STATUS] = UNSENT
    else:
        hand[HOLDER] = reader + 1
        hand[PLACE] = t[SLOT]
        q.size[HOLDS] += 1
        t[STATUS] = HANDED
    t[OUTPUT] = hand[OWED]
    t[COMPUTED] = 0
    t[state.AHEAD] = 0
    t[state.DRAFTS] = 0
    t[state.IS_CHUNK] = 0
    come(q, front, request, now)


@lean
def pull_waiting(run: "Run", now: float) -> None:
    """Give those that wait and were read elsewhere their places, as long as these fit, and begin to pull their KV.

    What the replica has of a prompt it does not pull. Whose KV is on its way counts as one that runs.
    """
    s, kv, q = run.settings, run.kv, run.queues
    while q.size[WAIT] > 0 and q.size[RUN] < s.max_num_active_seqs and kv.free[SLOTS] > 0:
        request = nth_waiting(q, 0, s.by_priority)
        t = q.track[request]
        if t[STATUS] != HANDED:
            return
        slot = kv.spare[kv.free[SLOTS] - 1]
        found = hits(s, run.texts, kv, request, t, t[TOKENS], slot) if s.prefix_caching else 0
        rest = t[PROMPT] - found * s.block_size
        if not fits(s, kv, q, t, slot, found, rest):
            return
        serve_next(q, s.by_priority)
        t[SLOT] = occupy(kv, found)
        places = min(t[PROMPT] + s.lookahead, s.max_model_len)
        extend(kv, t[SLOT], max(0, (places + s.block_size - 1) // s.block_size - found))
        t[STATUS] = LOADING
        # Nothing of it is left to compute, until it is there.
        t[COMPUTED] = t[TOKENS]
        q.running[q.size[RUN]] = request
        q.size[RUN] += 1
        q.size[LOADS] += 1
        sender = LINK + run.hands[request][HOLDER] - 1
        run.link[sender] = max(run.link[sender], now) + rest * run.link[TOKEN_S]
        come(q, run.front, request, run.link[sender] + run.link[LATENCY_S])


@lean
def pulled(run: "Run", request: int) -> None:
    """Let one whose KV is there run; its last token is computed again, as that gives the first of the answer."""
    s, t = run.settings, run.queues.track[request]
    t[STATUS] = RUNNING
    t[COMPUTED] = t[PROMPT] - 1
    run.queues.size[LOADS] -= 1
    run.hands_s[request][THERE_S] = run.queues.times[request][SENT]
    if s.prefix_caching:
        publish(s.block_size, run.texts, run.kv, request, t[SHARED], t[SLOT], t[PROMPT])
