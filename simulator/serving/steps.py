"""What a step does to its requests: it is drawn and priced as it is planned, and its tokens leave when it ends."""

from typing import Any, NamedTuple

from simulator.ground.compiled import lean

from . import state
from .blocks import Blocks, Texts, publish, release
from .draws import Acceptance, accepted, offered
from .handover import hand_over
from .policies import Policy, learn, verify
from .queues import RUN, Queues, come, leave_waiting
from .settings import SGLANG, Settings
from .state import (
    AHEAD,
    CATEGORY,
    CLIENTS,
    COMPUTED,
    COUNT,
    DRAFTS,
    ENDED,
    FLYING,
    GIVEN,
    GIVES,
    HANDED,
    IS_FRESH,
    KEPT,
    LAST,
    NEXT,
    PREEMPTED,
    PROMPT,
    REQUEST,
    RUNNING,
    SHARED,
    SIZE,
    SLOT,
    STALE,
    STATUS,
    TOKENS,
    TOTAL,
    VERIFIES,
    Log,
    Plans,
    note,
)
from .step_costs import StepCosts, add, nodes

Array = Any
# Places of `clock`: now and when the engine is free, in seconds; sums over time of requests that wait, that run, and of
# blocks that are held; seconds in which a step ran; the gap between tokens that was last looked up; mean context of a
# sequence in the last step; seconds between a client's sending and a request's coming.
NOW, BUSY_UNTIL, WAIT_AREA, RUN_AREA, BLOCK_AREA, BUSY, GAP, CONTEXT, ON_WAY, CLOCK = range(10)
# Places of `count`: steps so far, and in flight; whether requests ended since the last; the seed; the first request
# whose gaps count; the bin of the gap above; steps to a row of the series, and rows; most requests that ran at once;
# preemptions; requests and tokens that it answered; its number and its part.
STEPS, IN_FLIGHT, FLUSH, SEED, WARM, BIN, STRIDE, SERIES, MOST, LOST, SERVED, WRITTEN, SELF, PART, COUNTS = range(15)
# Parts of a replica: it does everything, reads prompts for others, or decodes what others have read.
WHOLE, READER, DECODER = range(3)
# A row of `kin`: the first of those that wait for this one to end, and the next that waits for the same; -1: none.
CHILD, SIBLING, KIN = range(3)


class Run(NamedTuple):
    """A replica that goes on: what it was given, and all that it knows. Made by `run.started`.

    Attributes:
        settings, acceptance, costs, policy: As given.
        texts, arrival_s, after, think_s: Of `Requests`.
        kv, queues, plans, log: See there; of the queues are `track` and `times` of all requests.
        front: What all replicas have together, see `state`.
        hands, hands_s, link: See `handover`; without rows where no replica reads for others.
        kin, clock, count: As above; kin without rows: no request waits for another.
        memory: Of the policy; words, left, scores: room for it to cut drafts in.
        totals: Of the step that is priced.
        gaps, edges: Gaps between tokens of a request that left one after another, in bins that begin at edges.
        series: Rows over time: time, requests that run and that wait, blocks held, tokens of a step, its seconds;
            where they became too many, every second is gone.
    """

    settings: Settings
    acceptance: Acceptance
    costs: StepCosts
    policy: Policy
    texts: Texts
    arrival_s: Array
    after: Array
    think_s: Array
    kv: Blocks
    queues: Queues
    plans: Plans
    log: Log
    front: Array
    hands: Array
    hands_s: Array
    link: Array
    kin: Array
    clock: Array
    count: Array
    memory: Array
    words: Array
    left: Array
    scores: Array
    totals: Array
    gaps: Array
    edges: Array
    series: Array


SERIES_ROW = 6


@lean
def settle(run: Run, step: int, k: int) -> None:
    """Move the requests of a plan on as if all of their drafts were taken; draw how many are, and add up the step."""
    plans, is_async = run.plans, run.settings.async_scheduling
    flight = plans.flights[step % 2]
    start, total, contexts = step % 2 * plans.seats, 0, 0
    for place in range(len(run.totals)):
        run.totals[place] = 0.0
    for place in range(start, start + flight[SIZE]):
        row = plans.rows[place]
        t, drafts = run.queues.track[row[REQUEST]], row[KEPT]
        computed = t[COMPUTED] + row[COUNT]
        count = row[COUNT] - row[VERIFIES] + drafts
        is_chunk = computed < t[TOKENS] + t[AHEAD]
        written = t[TOKENS] + t[GIVEN]
        is_prompt = is_chunk or count > 1 + drafts
        gives = 0
        if not is_chunk:
            gives = 1
            if drafts > 0 and row[IS_FRESH] == 0:
                gives += taken_of(run.acceptance, run.count[SEED], row[REQUEST], t, written - t[PROMPT], drafts)
            if is_async:
                t[AHEAD] += 1 + row[VERIFIES]
                t[DRAFTS] = nodes(run.costs, max(k, 0))
        context = computed - count if is_prompt else written - 1
        add(run.costs, run.totals, count, context, drafts, is_prompt, gives > 0)
        t[COMPUTED] = computed
        t[FLYING] += row[COUNT]
        t[GIVEN] += gives
        t[state.IS_CHUNK] = is_chunk
        row[GIVES] = gives
        total += row[COUNT]
        contexts += context
    flight[TOTAL] = total
    run.clock[CONTEXT] = contexts / max(flight[SIZE], 1)


@lean
def cut(run: Run, step: int) -> None:
    """Leave those drafts of a plan that its policy has verified; what the scheduler reserved for the others is lost."""
    plans, count, others = run.plans, 0, 0
    start = step % 2 * plans.seats
    end = start + plans.flights[step % 2][SIZE]
    for place in range(start, end):
        row = plans.rows[place]
        if row[VERIFIES] == 0 or row[IS_FRESH] > 0:
            others += row[COUNT]
            continue
        t = run.queues.track[row[REQUEST]]
        word = run.words[count]
        word[0] = row[REQUEST]
        word[1] = t[CATEGORY]
        word[2] = t[state.ROUNDS]
        word[3] = t[TOKENS] + t[GIVEN] - t[PROMPT]
        run.left[count] = row[VERIFIES]
        count += 1
    verify(run.policy, run.memory, run.acceptance, run.count[SEED], run.words, run.left, count, others, run.scores)
    count = 0
    for place in range(start, end):
        row = plans.rows[place]
        if row[VERIFIES] > 0 and row[IS_FRESH] == 0:
            row[KEPT] = run.left[count]
            count += 1


@lean
def taken_of(acceptance: Acceptance, seed: int, request: int, t: Array, answer: int, drafts: int) -> int:
    """Return how many drafts of a round are taken."""
    taken = accepted(acceptance, seed, request, t[CATEGORY], t[state.ROUNDS], answer, drafts)
    t[state.ROUNDS] += 1
    t[state.DRAFTED] += drafts
    t[state.ACCEPTED] += taken
    return taken


@lean
def end_step(run: Run, step: int) -> None:
    """Let the tokens of a step leave, and its requests end or be drafted for."""
    plans, ended, drafting, taken = run.plans, 0, 0, 0
    start = step % 2 * plans.seats
    for place in range(start, start + plans.flights[step % 2][SIZE]):
        row = plans.rows[place]
        request, gives = row[REQUEST], row[GIVES]
        t = run.queues.track[request]
        is_stale = t[STALE] > 0
        t[FLYING] -= row[COUNT]
        t[GIVEN] -= gives
        if is_stale:
            t[STALE] -= row[COUNT]
        if gives > 0 and row[IS_FRESH] == 0 and row[COUNT] <= 1 + row[VERIFIES]:
            drafting += 1
            taken += gives - 1
        if gives > 0 and t[STATUS] != ENDED:
            ended += leave(run, step, request, t, gives, row[VERIFIES], is_stale)
    if ended > 0:
        drop_ended(run.queues)
    learn(run.policy, run.memory, drafting, taken / max(drafting, 1))


@lean
def leave(run: Run, step: int, request: int, t: Array, gives: int, drafts: int, is_stale: bool) -> int:
    """Let a request's tokens of a step leave, cut at its end; return 1 where one that ran has ended."""
    s, is_running = run.settings, t[STATUS] == RUNNING
    most = min(s.max_model_len, t[PROMPT] + t[state.OUTPUT])
    leaving = min(gives, most - t[TOKENS])
    t[TOKENS] += leaving
    if not is_stale:
        if t[COMPUTED] > 0:
            t[COMPUTED] -= drafts + 1 - gives
        if t[AHEAD] > 0:
            t[AHEAD] -= drafts + 1 - gives + leaving
    if s.prefix_caching and is_running and (s.async_scheduling or s.scheduler == SGLANG):
        known = t[COMPUTED] - t[AHEAD]
        if s.scheduler == SGLANG:
            known = t[TOKENS] - 1 if t[TOKENS] == most else t[PROMPT]
        publish(s.block_size, run.texts, run.kv, request, t[SHARED], t[SLOT], known)
    note(run.log, state.EMITS, step, request, leaving)
    is_first = t[TOKENS] - leaving == t[PROMPT]
    is_counted = request >= run.count[WARM] and not is_first
    stamp(run.queues.times[request], run.clock, run.count, run.gaps, run.edges, is_first, is_counted)
    if not is_first:
        t[state.CHUNKS] += 1
    if t[TOKENS] == most:
        end(run, step, request, t)
        return int(is_running)
    if s.k > 0 and not s.async_scheduling:
        k = run.plans.flights[step % 2][state.NEXT_K]
        found = offered(run.acceptance, run.count[SEED], request, t[CATEGORY], t[state.ASKED], k)
        t[DRAFTS] = nodes(run.costs, found)
        t[state.ASKED] += 1
    return 0


@lean
def stamp(
    times: Array, clock: Array, count: Array, gaps: Array, edges: Array, is_first: bool, is_counted: bool
) -> None:
    """Write down when tokens of a request left, and the gap since those before."""
    now = clock[NOW]
    if is_first:
        times[state.FIRST] = now
    if is_counted:
        gap = now - times[LAST]
        if gap != clock[GAP]:
            clock[GAP] = gap
            count[BIN] = bin_of(edges, gap)
        gaps[count[BIN]] += 1
    times[LAST] = now


@lean
def bin_of(edges: Array, value: float) -> int:
    """Return the last bin that begins at most here; the first takes what is less."""
    low, high = 0, len(edges)
    while high - low > 1:
        middle = (low + high) // 2
        if edges[middle] <= value:
            low = middle
        else:
            high = middle
    return low


@lean
def end(run: Run, step: int, request: int, t: Array) -> None:
    """End a request that has its last token."""
    note(run.log, state.ENDS, step, request, 0)
    run.count[FLUSH] = 1
    run.count[SERVED] += 1
    run.count[WRITTEN] += t[TOKENS] - t[PROMPT]
    if t[STATUS] == PREEMPTED:
        leave_waiting(run.queues, request, run.settings.by_priority)
    elif run.count[PART] != READER:
        release(run.kv, t[SLOT])
    if run.count[PART] == READER:
        hand_over(run.queues, run.front, run.hands, run.hands_s, request, run.count[SELF], run.clock[NOW])
        return
    t[STATUS] = ENDED
    run.count[LOST] += t[state.PREEMPTIONS]
    follow(run, request, run.clock[NOW])


@lean
def drop_ended(q: Queues) -> None:
    """Take those that have ended out of the list of those that run."""
    kept = 0
    for place in range(q.size[RUN]):
        request = q.running[place]
        if q.track[request][STATUS] < HANDED:
            q.running[kept] = request
            kept += 1
    q.size[RUN] = kept


@lean
def follow(run: Run, request: int, now: float) -> None:
    """Send what waited for this request's end: the next turns of its session, and the next request of its client."""
    if len(run.kin) > 0:
        turn = run.kin[request][CHILD]
        while turn >= 0:
            come(run.queues, run.front, turn, now + run.think_s[turn] + run.clock[ON_WAY])
            turn = run.kin[turn][SIBLING]
    if run.front[CLIENTS] > 0 and is_last(run, request):
        following = next_sent(run.front, run.after)
        if following < len(run.after):
            run.front[NEXT] = following + 1
            come(run.queues, run.front, following, now + run.clock[ON_WAY])


@lean
def is_last(run: Run, request: int) -> bool:
    """Whether a client has sent all of its session: of turns that branch, the first after each."""
    if len(run.kin) == 0:
        return True
    if run.kin[request][CHILD] >= 0:
        return False
    while run.after[request] >= 0:
        before = run.after[request]
        if run.kin[before][CHILD] != request:
            return False
        request = before
    return True


@lean
def next_sent(front: Array, after: Array) -> int:
    """Return the next request that comes by the clock, or that a client sends; as many as there are: none is left."""
    request = front[NEXT]
    while request < len(after) and after[request] >= 0:
        request += 1
    front[NEXT] = request
    return int(request)


@lean
def sample(
    series: Array,
    count: Array,
    step: int,
    now: float,
    running: int,
    waiting: int,
    blocks: int,
    tokens: int,
    taken: float,
) -> None:
    """Write a row of the series; where it is full, every second is dropped, and so on from then."""
    if step % count[STRIDE] != 0:
        return
    if count[SERIES] == len(series):
        half = (len(series) + 1) // 2
        for place in range(1, half):
            for field in range(SERIES_ROW):
                series[place][field] = series[2 * place][field]
        count[STRIDE] *= 2
        count[SERIES] = half
        if step % count[STRIDE] != 0:
            return
    row = series[count[SERIES]]
    row[0] = now
    row[1] = running
    row[2] = waiting
    row[3] = blocks
    row[4] = tokens
    row[5] = taken
    count[SERIES] += 1
