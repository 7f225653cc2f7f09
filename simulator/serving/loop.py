"""The events of a run: requests come, steps are planned and end, time passes. One step after another."""

from typing import Any

from simulator.ground.compiled import lean

from . import state
from .blocks import BLOCKS
from .policies import ALL, next_k
from .queues import COME, RUN, WAIT, next_coming, nth_waiting, wait_last
from .settings import SGLANG
from .sglang import plan_by_sglang
from .state import (
    COUNT,
    DONE_S,
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
    CLIENTS,
    CONTEXT,
    FLUSH,
    IN_FLIGHT,
    MOST,
    NEXT,
    NOW,
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
# What `advance` says of a run.
DONE, MORE, STUCK = range(3)
# A request that comes this little later still makes a step.
TOGETHER_S = 1e-12


@lean
def advance(run: Run, steps: int) -> int:
    """Go on for this many steps, or until all requests have ended: DONE, MORE, or STUCK behind one that never fits."""
    count, plans, size = run.count, run.plans, run.queues.size
    depth = 2 if run.settings.async_scheduling else 1
    last = count[STEPS] + steps
    while count[STEPS] < last and has_room(run.log, 9 * plans.seats + size[WAIT]):
        arrive(run)
        if has_work(size, count):
            total = begin_step(run)
            if count[IN_FLIGHT] < depth and (total > 0 or has_work(size, count)):
                continue
        elif count[IN_FLIGHT] == 0:
            if not await_next(run):
                return DONE
            continue
        step = count[STEPS] - count[IN_FLIGHT]
        count[IN_FLIGHT] -= 1
        pass_time(
            run.clock,
            size,
            run.settings.num_blocks - run.kv.free[BLOCKS],
            max(run.clock[NOW], plans.times[step % 2][DONE_S]),
        )
        end_step(run, step)
        is_idle = plans.flights[step % 2][TOTAL] == 0 and count[IN_FLIGHT] == 0 and size[RUN] == 0
        if is_idle and size[WAIT] > 0:
            return STUCK
    return MORE


@lean
def has_room(log: Log, most: int) -> bool:
    """Say whether the log takes all that a step can write."""
    entries, steps, size = log.entries, log.steps, log.size
    return len(entries) == 0 or bool(size[0] + most < len(entries) and size[1] < len(steps))


@lean
def has_work(size: Array, count: Array) -> bool:
    """Say whether a step is planned: requests are there, or the last that ended have yet to be told to the workers."""
    return bool(size[RUN] + size[WAIT] + count[FLUSH] > 0)


@lean
def pass_time(clock: Array, size: Array, blocks: int, until: float) -> None:
    """Let the time pass until then, while so many blocks are held."""
    span = until - clock[NOW]
    clock[WAIT_AREA] += size[WAIT] * span
    clock[RUN_AREA] += size[RUN] * span
    clock[BLOCK_AREA] += blocks * span
    clock[NOW] = until


@lean
def arrive(run: Run) -> None:
    """Let those requests wait whose time has come, in the order in which they were sent."""
    q, until = run.queues, run.clock[NOW] + TOGETHER_S
    everyone = len(run.after)
    while True:
        request = next_sent(run.count, run.after) if run.count[CLIENTS] == 0 else everyone
        is_next = request < everyone and run.arrival_s[request] <= until
        is_due = q.size[COME] > 0 and q.times[q.coming[0]][SENT] <= until
        if is_due and (not is_next or q.times[q.coming[0]][SENT] <= run.arrival_s[request]):
            request = next_coming(q)
        elif is_next:
            q.times[request][SENT] = run.arrival_s[request]
            run.count[NEXT] += 1
        else:
            return
        receive(run, request)


@lean
def receive(run: Run, request: int) -> None:
    """Let a request that was sent wait; one whose prompt leaves no place for an answer is refused."""
    q = run.queues
    t, late_s = q.track[request], run.clock[NOW] - q.times[request][SENT]
    if t[PROMPT] >= run.settings.max_model_len:
        t[STATUS] = REFUSED
        follow(run, request, max(run.clock[NOW], q.times[request][SENT]))
        return
    t[STATUS] = state.WAITING
    t[state.TOKENS] = t[PROMPT]
    run.clock[WAIT_AREA] += late_s
    wait_last(q, request, run.settings.by_priority)


@lean
def await_next(run: Run) -> bool:
    """Let the time pass until a request comes; False: none does."""
    q, when = run.queues, -1.0
    if run.count[CLIENTS] == 0:
        request = next_sent(run.count, run.after)
        if request < len(run.after):
            when = run.arrival_s[request]
    if q.size[COME] > 0:
        due = q.times[q.coming[0]][SENT]
        if when < 0 or due < when:
            when = due
    if when < 0:
        return False
    pass_time(run.clock, q.size, run.settings.num_blocks - run.kv.free[BLOCKS], max(run.clock[NOW], when))
    return True


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
    k = -1
    if s.k > 0:
        k = next_k(run.policy, run.memory, flight[SIZE], size[WAIT], clock[CONTEXT])
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
