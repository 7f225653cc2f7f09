"""The events of a run: requests come, steps are planned and end, time passes. One after another, of all replicas."""

from typing import Any

from simulator.ground.compiled import lean

from . import state
from .blocks import BLOCKS, release
from .fleet import ENDS, FIRST, NEVER, UNSEEN, Fleet, choose, next_due, replica, send, wake
from .handover import HOLDER, PLACE, pull_waiting, pulled
from .policies import ALL, next_k
from .queues import HOLDS, LOADS, RUN, WAIT, next_coming, nth_waiting, wait_last
from .settings import SGLANG
from .sglang import plan_by_sglang
from .state import (
    CLIENTS,
    COMING,
    COUNT,
    DONE_S,
    EVICTED,
    HANDED,
    LOADING,
    NEXT,
    NEXT_K,
    PLANNED_S,
    PROMPT,
    REFUSED,
    REQUEST,
    SENT,
    SIZE,
    STATUS,
    TOTAL,
    VERIFIES,
    Log,
    note,
)
from .step_costs import seconds
from .steps import (
    BLOCK_AREA,
    BUSY,
    BUSY_UNTIL,
    CONTEXT,
    DECODER,
    FLUSH,
    IN_FLIGHT,
    MOST,
    NOW,
    PART,
    READER,
    RUN_AREA,
    STEPS,
    WAIT_AREA,
    Run,
    cut,
    end_step,
    follow,
    next_sent,
    sample,
    settle,
)
from .vllm import plan_step

Array = Any
# What `advance` says of replicas.
DONE, MORE, STUCK = range(3)
# A request that comes this little later still makes a step.
TOGETHER_S = 1e-12


@lean
def advance(fleet: Fleet, steps: int) -> int:
    """Go on for so many plans, ends and requests: DONE, MORE, or STUCK plus the replica where one never fits."""
    due, desk = fleet.due, fleet.desk
    for _ in range(steps):
        place = next_due(fleet)
        ends = desk[place][ENDS] > 0
        when = next_time(fleet.all)
        # What is sent at the end of a step may follow from it; what is sent as one is planned belongs to it.
        if when < due[place] if ends else when <= due[place] + TOGETHER_S and when < NEVER:
            hand_out(fleet, when)
            continue
        if due[place] == NEVER:
            return DONE
        run = replica(fleet, place)
        if not has_room(run.log, 9 * run.plans.seats + run.queues.size[WAIT] + desk[place][UNSEEN]):
            return MORE
        if not ends:
            plan(fleet, run, place)
        elif not finish(fleet, run, place):
            return STUCK + place
    return MORE


@lean
def plan(fleet: Fleet, run: Run, place: int) -> None:
    """Let a replica see what was sent to it, or else plan a step if it has any work, and run it or wait."""
    count, size, desk = run.count, run.queues.size, fleet.desk[place]
    if run.clock[NOW] < fleet.due[place]:
        pass_time(run.clock, size, run.settings.num_blocks - run.kv.free[BLOCKS], fleet.due[place])
    if desk[UNSEEN] > 0:
        receive_all(fleet, run, desk)
        return
    if has_work(size, count):
        total = begin_step(run)
        depth = 2 if run.settings.async_scheduling else 1
        if count[IN_FLIGHT] < depth and (total > 0 or has_work(size, count)):
            return
    elif count[IN_FLIGHT] == 0:
        fleet.due[place] = NEVER
        return
    step = count[STEPS] - count[IN_FLIGHT]
    desk[ENDS] = 1
    fleet.due[place] = max(run.clock[NOW], run.plans.times[step % 2][DONE_S])


@lean
def finish(fleet: Fleet, run: Run, place: int) -> bool:
    """End a replica's step; False: who waits never fits, and nothing comes that would change it."""
    count, size, desk = run.count, run.queues.size, fleet.desk[place]
    step = count[STEPS] - count[IN_FLIGHT]
    count[IN_FLIGHT] -= 1
    pass_time(run.clock, size, run.settings.num_blocks - run.kv.free[BLOCKS], fleet.due[place])
    end_step(run, step)
    desk[ENDS] = 0
    fleet.due[place] = run.clock[NOW]
    if flights_tokens(run.plans.flights, step, count[IN_FLIGHT]) > 0 or size[RUN] > size[LOADS]:
        return True
    if size[WAIT] > 0 and size[LOADS] + size[HOLDS] == 0:
        return False
    if size[WAIT] + size[LOADS] > 0 and desk[UNSEEN] == 0:
        # Until KV has come, or what was read is gone.
        fleet.due[place] = NEVER
    return True


@lean
def flights_tokens(flights: Array, step: int, in_flight: int) -> int:
    """Return the tokens of a step, and of the one behind it where that is in flight."""
    behind = flights[(step + 1) % 2][TOTAL] if in_flight > 0 else 0
    return int(flights[step % 2][TOTAL] + behind)


@lean
def has_room(log: Log, most: int) -> bool:
    """Say whether the log takes all that a step can write."""
    entries, steps, size = log.entries, log.steps, log.size
    return len(entries) == 0 or bool(size[0] + most < len(entries) and size[1] < len(steps))


@lean
def has_work(size: Array, count: Array) -> bool:
    """Say whether a step is planned: requests are there, or the last that ended have yet to be told to the workers."""
    return bool(size[RUN] - size[LOADS] + size[WAIT] + count[FLUSH] > 0)


@lean
def pass_time(clock: Array, size: Array, blocks: int, until: float) -> None:
    """Let the time pass until then, while so many blocks are held."""
    span = until - clock[NOW]
    clock[WAIT_AREA] += size[WAIT] * span
    clock[RUN_AREA] += size[RUN] * span
    clock[BLOCK_AREA] += blocks * span
    clock[NOW] = until


@lean
def next_time(all: Run) -> float:
    """Return when the next request is sent; NEVER: none is."""
    when, q = NEVER, all.queues
    if all.front[CLIENTS] == 0:
        request = next_sent(all.front, all.after)
        if request < len(all.after):
            when = all.arrival_s[request]
    if all.front[COMING] > 0:
        when = min(when, q.times[q.coming[0]][SENT])
    return when


@lean
def hand_out(fleet: Fleet, when: float) -> None:
    """Send the next request to a replica, or let one whose KV has come there run.

    One whose prompt leaves no place for an answer is refused.
    """
    all, q = fleet.all, fleet.all.queues
    if all.front[COMING] > 0 and q.times[q.coming[0]][SENT] <= when:
        request = next_coming(q, all.front)
        if q.track[request][STATUS] == LOADING:
            there(fleet, request, when)
            return
    else:
        request = all.front[NEXT]
        q.times[request][SENT] = when
        all.front[NEXT] += 1
    if q.track[request][PROMPT] >= all.settings.max_model_len:
        q.track[request][STATUS] = REFUSED
        follow(replica(fleet, 0), request, when)
    else:
        send(fleet, request, choose(fleet, request), when)


@lean
def there(fleet: Fleet, request: int, when: float) -> None:
    """Let the KV of a request be where it is decoded, and no longer where it was read."""
    pulled(replica(fleet, fleet.owner[request]), request)
    wake(fleet, fleet.owner[request], when)
    hand = fleet.all.hands[request]
    reader = hand[HOLDER] - 1
    run = replica(fleet, reader)
    if run.clock[NOW] < when:
        pass_time(run.clock, run.queues.size, run.settings.num_blocks - run.kv.free[BLOCKS], when)
    release(run.kv, hand[PLACE])
    run.queues.size[HOLDS] -= 1
    wake(fleet, reader, when)


@lean
def receive_all(fleet: Fleet, run: Run, desk: Array) -> None:
    """Let those wait that were sent to a replica, in their order."""
    request = desk[FIRST]
    for _ in range(desk[UNSEEN]):
        following = fleet.line[request]
        receive(run, request)
        request = following
    desk[UNSEEN] = 0


@lean
def receive(run: Run, request: int) -> None:
    """Let a request that was sent wait."""
    q = run.queues
    t = q.track[request]
    if t[STATUS] != HANDED:
        t[STATUS] = state.WAITING
    t[state.TOKENS] = t[PROMPT]
    run.clock[WAIT_AREA] += run.clock[NOW] - q.times[request][SENT]
    wait_last(q, request, run.settings.by_priority)


@lean
def begin_step(run: Run) -> int:
    """Plan a step, draw what it gives and price it; return its tokens."""
    s, count, clock, size = run.settings, run.count, run.clock, run.queues.size
    step = count[STEPS]
    flight, times = run.plans.flights[step % 2], run.plans.times[step % 2]
    if s.scheduler == SGLANG:
        plan_by_sglang(s, run.texts, run.kv, run.queues, run.plans, run.log, step, clock[NOW])
    else:
        plan_step(s, run.texts, run.kv, run.queues, run.plans, run.log, step, clock[NOW])
    if count[PART] == DECODER and run.plans.left[EVICTED] == 0:
        pull_waiting(run, clock[NOW])
    k = -1
    if s.k > 0:
        k = next_k(run.policy, run.memory, flight[SIZE], size[WAIT], clock[CONTEXT])
        if count[PART] == READER:
            # Its drafter reads prompts too, and drafts nothing.
            k = min(k, 0)
        if run.policy.verifies != ALL:
            cut(run, step)
    settle(run, step, k)
    begun = max(clock[NOW], clock[BUSY_UNTIL])
    taken = seconds(run.costs, run.totals, k) if flight[TOTAL] > 0 else 0.0
    clock[BUSY_UNTIL] = begun + taken
    clock[BUSY] += taken
    times[PLANNED_S] = clock[NOW]
    times[DONE_S] = begun + taken
    flight[NEXT_K] = max(k, 0)
    count[STEPS] += 1
    count[IN_FLIGHT] += 1
    count[FLUSH] = 0
    count[MOST] = max(count[MOST], size[RUN])
    if len(run.log.entries) > 0:
        write_step(run, step)
    used = s.num_blocks - run.kv.free[BLOCKS]
    sample(run.series, count, step, clock[NOW], size[RUN], size[WAIT], used, flight[TOTAL], taken)
    return int(flight[TOTAL])


@lean
def write_step(run: Run, step: int) -> None:
    """Log a step that was planned."""
    log, plans, q = run.log, run.plans, run.queues
    flight, times, row = plans.flights[step % 2], plans.times[step % 2], log.steps[log.size[1]]
    row[0] = step
    row[1] = times[PLANNED_S]
    row[2] = times[DONE_S]
    row[3] = flight[TOTAL]
    row[4] = run.kv.free[BLOCKS]
    row[5] = flight[NEXT_K]
    log.size[1] += 1
    start = step % 2 * plans.seats
    for place in range(start, start + flight[SIZE]):
        planned = plans.rows[place]
        note(log, state.PLANS, step, planned[REQUEST], planned[COUNT])
        if planned[VERIFIES] > 0:
            note(log, state.VERIFY, step, planned[REQUEST], planned[VERIFIES])
    for place in range(q.size[RUN]):
        note(log, state.RUNS, step, q.running[place], 0)
    for nth in range(q.size[WAIT]):
        note(log, state.WAITS, step, nth_waiting(q, nth, run.settings.by_priority), nth)
