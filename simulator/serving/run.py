"""A run from its beginning to its end: arrays are laid out, the loop goes on until all have ended, the rest is read."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.ground.artefacts import UserError
from simulator.ground.compiled import IS_COMPILED
from simulator.workloads.requests import Requests

from . import state, steps
from .blocks import BLOCK, FREE, LEAST, NO_KEY, TABLE, Blocks, Texts
from .draws import Acceptance
from .loop import DONE, STUCK, advance
from .policies import Policy, new_memory
from .queues import QUEUES, Queues, come, nth_waiting
from .settings import Settings
from .state import ENTRY, FLIGHT, FLIGHTS, LEFT, ROW, STEP, TIMES, TRACK, Log, Plans
from .step_costs import StepCosts, no_totals
from .steps import CHILD, CLOCK, COUNTS, KIN, SERIES_ROW, SIBLING, Run

Array = Any
BINS, BINS_DECADE, LEAST_GAP_S = 512, 64, 1e-5
SERIES_ROWS = 4096
# Steps between two looks at whether somebody wants to stop.
STEPS_AT_ONCE = 1 << (16 if IS_COMPILED else 10)
LOG_ENTRIES = 1 << 12


class Outcome(NamedTuple):
    """What came out of a run.

    Attributes:
        sent_s, begun_s, first_s, end_s: Of each request: sent, first scheduled, first and last token left. NaN:
            refused, as its prompt leaves no place for an answer.
        rounds: Steps that gave it tokens after the first.
        drafted, accepted: Drafts that were verified, and taken.
        preempted, cached: How often it was preempted; tokens of its prompt that were in the prefix cache.
        gaps: Gaps between tokens of a request that left one after another, by the bins of `gap_edges_s`.
        n_steps, busy_s: Steps, and seconds in which one ran.
        waiting_s, running_s, block_s: Sums over time of requests that wait and run, and of blocks that are held.
        end_of_run_s: When the last step ended.
        most_running, most_blocks, preemptions: The most at once of each; all preemptions.
        joules: Energy of all steps, at the power of work; NaN where the profile has none.
        series: time, running, waiting, blocks held, tokens of the step, seconds of it; thinned.
        log: Entries of what happened, where it was asked for: see `state.Log`; else empty.
    """

    sent_s: Array
    begun_s: Array
    first_s: Array
    end_s: Array
    rounds: Array
    drafted: Array
    accepted: Array
    preempted: Array
    cached: Array
    gaps: Array
    n_steps: int
    busy_s: float
    waiting_s: float
    running_s: float
    block_s: float
    end_of_run_s: float
    most_running: int
    most_blocks: int
    preemptions: int
    joules: float
    series: Array
    log: Log


def gap_edges_s() -> NDArray[np.float64]:
    """Return where each bin of `Outcome.gaps` begins; the first takes what is less, the last what is more."""
    return np.asarray(LEAST_GAP_S * 10 ** (np.arange(BINS) / BINS_DECADE))


def run(
    settings: Settings,
    requests: Requests,
    acceptance: Acceptance,
    costs: StepCosts,
    policy: Policy,
    *,
    clients: int = 0,
    seed: int = 0,
    warm: int = 0,
    is_logged: bool = False,
    is_off: Callable[[], bool] | None = None,
) -> Outcome:
    """Serve requests to their ends.

    Args:
        settings: Of the scheduler.
        requests: As they are sent.
        acceptance: What their rounds accept.
        costs: What steps take.
        policy: How many drafts the next round has.
        clients: So many send a request each at the start, and the next when it ends; 0: all are sent by the clock.
        seed: Of all draws.
        warm: The first request whose gaps count.
        is_logged: Every plan is kept.
        is_off: Asked now and then whether nobody wants the outcome any more.

    Raises:
        UserError: A request waits that can never be served under these settings.
        KeyboardInterrupt: Nobody wants it.
    """
    ran = started(settings, requests, acceptance, costs, policy, clients=clients, seed=seed, warm=warm)
    if is_logged:
        return finished(*logged(ran))
    while (state := advance(ran, STEPS_AT_ONCE)) != DONE:
        refuse_stuck(ran, state)
        if is_off is not None and is_off():
            raise KeyboardInterrupt
    return finished(ran, ran.log)


def refuse_stuck(ran: Run, said: int) -> None:
    """Refuse settings under which nobody can be served any more."""
    if said == STUCK:
        request = nth_waiting(ran.queues, 0, ran.settings.by_priority)
        prompt = int(ran.queues.track[request][state.PROMPT])
        raise UserError(f"request {request + 1} with a prompt of {prompt:,} tokens never fits under these settings")


def logged(ran: Run) -> tuple[Run, Log]:
    """Run to the end, and keep every plan."""
    entries, steps_taken, said = list[Array](), list[Array](), -1
    size = LOG_ENTRIES + 2 * (9 * ran.plans.seats + len(ran.after))
    while said != DONE:
        log = Log(table(size, ENTRY, np.int64), table(LOG_ENTRIES, STEP, np.float64), row(2, np.int64))
        ran = ran._replace(log=log)
        said = advance(ran, LOG_ENTRIES)
        refuse_stuck(ran, said)
        entries.append(np.array(log.entries[: log.size[0]], np.int64).reshape(-1, ENTRY))
        steps_taken.append(np.array(log.steps[: log.size[1]], np.float64).reshape(-1, STEP))
    return ran, Log(np.concatenate(entries), np.concatenate(steps_taken), ran.log.size)


def started(
    settings: Settings,
    requests: Requests,
    acceptance: Acceptance,
    costs: StepCosts,
    policy: Policy,
    *,
    clients: int = 0,
    seed: int = 0,
    warm: int = 0,
) -> Run:
    """Return a run at its beginning."""
    size, seats = len(requests.prompt), settings.max_num_seqs
    sessions = bool((requests.after >= 0).any())
    clock, count = np.zeros(CLOCK), np.zeros(COUNTS, np.int64)
    count[[steps.SEED, steps.CLIENTS, steps.WARM, steps.STRIDE]] = seed, clients, warm, 1
    clock[steps.GAP] = -1.0
    ran = Run(
        settings=settings,
        acceptance=acceptance,
        costs=costs,
        policy=policy,
        texts=Texts(
            listed(requests.stream), listed(requests.units_start), listed(requests.units), requests.unit_tokens
        ),
        arrival_s=listed(requests.arrival_s),
        after=listed(requests.after),
        think_s=listed(requests.think_s),
        kv=empty_blocks(settings),
        queues=empty_queues(requests, seats, size if sessions or clients else 1),
        plans=empty_plans(seats),
        log=Log(table(0, ENTRY, np.int64), table(0, STEP, np.float64), row(2, np.int64)),
        kin=listed(families(requests) if sessions else np.zeros((0, KIN), np.int32)),
        clock=listed(clock),
        count=listed(count),
        memory=listed(new_memory(policy)),
        words=np.zeros((seats, 4), np.int64),
        left=row(seats, np.int64),
        scores=np.zeros((2, seats * max(settings.k, 1))),
        totals=listed(no_totals(costs)),
        gaps=row(BINS, np.int64),
        edges=listed(gap_edges_s()),
        series=table(SERIES_ROWS, SERIES_ROW, np.float64),
    )
    send_first(ran, min(clients, size))
    return ran


def send_first(ran: Run, clients: int) -> None:
    """Have every client send a request."""
    for _ in range(clients):
        request = steps.next_sent(ran.count, ran.after)
        if request < len(ran.after):
            ran.count[steps.NEXT] = request + 1
            come(ran.queues, request, 0.0)


def empty_queues(requests: Requests, seats: int, coming: int) -> Queues:
    """Return all requests, of which none was sent; so many can be to come at once."""
    size = len(requests.prompt)
    track = np.zeros((size, TRACK), np.int32)
    first = (requests.prompt, requests.output, requests.priority, requests.category, requests.shared)
    for field, column in enumerate(first):
        track[:, field] = column
    return Queues(
        running=row(seats, np.int64),
        waiting=row(size + 1, np.int32),
        coming=row(coming, np.int32),
        skipped=row(max(3 * seats, 256), np.int64),
        size=row(QUEUES, np.int64),
        track=listed(track),
        times=listed(np.full((size, TIMES), np.nan)),
    )


def empty_plans(seats: int) -> Plans:
    """Return plans of no step."""
    return Plans(
        rows=table(FLIGHTS * seats, ROW, np.int64),
        flights=table(FLIGHTS, FLIGHT, np.int64),
        times=table(FLIGHTS + 1, 2, np.float64),
        left=row(LEFT, np.int64),
        seats=seats,
    )


def empty_blocks(s: Settings) -> Blocks:
    """Return a KV of which nobody has anything: block 1 is the first to be given out."""
    size, seats = s.num_blocks + 1, s.max_num_seqs
    block = np.zeros((size, BLOCK), np.int32)
    block[:, 0], block[:, 1] = np.roll(np.arange(size), -1), np.roll(np.arange(size), 1)
    free = np.zeros(FREE, np.int64)
    free[:] = s.num_blocks, seats, s.num_blocks
    return Blocks(
        block=listed(block),
        table=table(seats, TABLE - (-s.max_model_len // s.block_size), np.int32),
        key=listed(np.full(size, NO_KEY, np.int64)),
        chain=table(1 << max(4, s.num_blocks.bit_length()), 2, np.int32),
        spare=listed(np.arange(seats)),
        free=listed(free),
    )


def families(requests: Requests) -> NDArray[np.int32]:
    """Return of each request the first that waits for its end, and the next that waits for the same."""
    kin = np.full((len(requests.after), KIN), -1, np.int32)
    for request in np.flatnonzero(requests.after >= 0)[::-1]:
        parent = requests.after[request]
        kin[request, SIBLING], kin[parent, CHILD] = kin[parent, CHILD], request
    return kin


def finished(ran: Run, log: Log) -> Outcome:
    """Read what came out of a run that has ended."""
    track, times = np.asarray(ran.queues.track, np.int32), np.asarray(ran.queues.times)
    count, clock, busy_s = ran.count, ran.clock, float(ran.clock[steps.BUSY])
    is_refused = track[:, state.STATUS] == state.REFUSED
    times[is_refused, state.SENT] = np.nan
    # Columns of what there is already: of many requests copies would take as much memory again.
    return Outcome(
        sent_s=times[:, state.SENT],
        begun_s=times[:, state.BEGUN],
        first_s=times[:, state.FIRST],
        end_s=times[:, state.LAST],
        rounds=track[:, state.CHUNKS],
        drafted=track[:, state.DRAFTED],
        accepted=track[:, state.ACCEPTED],
        preempted=track[:, state.PREEMPTIONS],
        cached=track[:, state.CACHED],
        gaps=np.array(ran.gaps, np.int64),
        n_steps=int(count[steps.STEPS]),
        busy_s=busy_s,
        waiting_s=float(clock[steps.WAIT_AREA]),
        running_s=float(clock[steps.RUN_AREA]),
        block_s=float(clock[steps.BLOCK_AREA]),
        end_of_run_s=float(clock[steps.NOW]),
        most_running=int(count[steps.MOST]),
        most_blocks=ran.settings.num_blocks - int(ran.kv.free[LEAST]),
        preemptions=int(count[steps.LOST]),
        joules=busy_s * ran.costs.watts,
        series=np.array(ran.series[: count[steps.SERIES]], np.float64).reshape(-1, SERIES_ROW),
        log=log,
    )


def listed(array: NDArray[Any]) -> Array:
    """Return an array as the engine reads it fastest: Python itself reads lists, of rows where there are any."""
    return np.ascontiguousarray(array) if IS_COMPILED else array.tolist()


def row(size: int, kind: type[np.generic]) -> Array:
    """Return zeros."""
    return listed(np.zeros(size, kind))


def table(size: int, fields: int, kind: type[np.generic]) -> Array:
    """Return rows of zeros."""
    return listed(np.zeros((size, fields), kind))
