"""A run of replicas from its beginning to its end: arrays are laid out, the loop goes on, what came of it is read."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.ground.artefacts import UserError
from simulator.ground.compiled import IS_COMPILED
from simulator.workloads.requests import Requests, first

from . import state, steps
from .blocks import LEAST, Texts
from .draws import Acceptance
from .fleet import DESK, NEVER, ONE, ROUTED, Fleet, Replicas, replica
from .handover import HANDS_S, READ_S, SENT_FIRST_S, THERE_S
from .layout import (
    empty_blocks,
    empty_hands,
    empty_log,
    empty_plans,
    empty_queues,
    families,
    first_clocks,
    first_counts,
    first_front,
    first_link,
    listed,
    many,
    row,
    table,
)
from .loop import DONE, STUCK, advance
from .policies import Policy, new_memory
from .queues import come, nth_waiting
from .settings import Settings
from .state import ENTRY, STEP, Log
from .step_costs import StepCosts, no_totals
from .steps import KIN, SERIES_ROW, Run

Array = Any
BINS, BINS_DECADE, LEAST_GAP_S = 512, 64, 1e-5
SERIES_ROWS = 4096
# Steps between two looks at whether somebody wants to stop.
STEPS_AT_ONCE = 1 << (16 if IS_COMPILED else 10)
LOG_ENTRIES = 1 << 12
# Columns of `Outcome.each`.
USED = ("busy_s", "running_s", "waiting_s", "block_s")
EACH = ("routed", "served", "tokens", *USED, "most_running", "most_blocks", "preemptions", "n_steps")


class Outcome(NamedTuple):
    """What came out of a run.

    Attributes:
        sent_s, begun_s, first_s, end_s: Of each request: sent, first scheduled, first and last token left. NaN:
            refused, as its prompt leaves no place for an answer.
        rounds: Steps that gave it tokens after the first.
        drafted, accepted: Drafts that were verified, and taken.
        preempted, cached: How often it was preempted; tokens of its prompt that were in the prefix cache.
        gaps: Gaps between tokens of a request that left one after another, by the bins of `gap_edges_s`.
        n_steps, busy_s: Steps, and seconds in which one ran; of all replicas, as all that follows.
        waiting_s, running_s, block_s: Sums over time of requests that wait and run, and of blocks that are held.
        end_of_run_s: When the last step ended.
        most_running, most_blocks: The most at once of each, on any replica.
        preemptions: All of them.
        joules: Energy of all steps, at the power of work; NaN where the profile has none.
        series: time, running, waiting, blocks held, tokens of the step, seconds of it; thinned. Of one replica, the
            first that answers.
        logs: Of each replica entries of what happened, where it was asked for: see `state.Log`; else empty.
        replica: Of each request, who answered it.
        handing_s: Between the end of its prompt on one replica and its KV on another; without such replicas, empty.
        each: A row of each replica, of columns EACH.
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
    logs: tuple[Log, ...]
    replica: Array
    handing_s: Array
    each: Array

    @property
    def log(self) -> Log:
        """What happened on the first replica."""
        return self.logs[0]

    def of_each(self, name: str) -> Array:
        """Return a column of `each`."""
        return self.each[:, EACH.index(name)]


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
    replicas: Replicas = ONE,
    front_s: float = 0.0,
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
        replicas: Servers, and how requests go to them.
        front_s: How long after the end that it waits for a request comes to the scheduler, besides what a user thinks.
        is_logged: Every plan is kept.
        is_off: Asked now and then whether nobody wants the outcome any more.

    Raises:
        UserError: A request waits that can never be served under these settings.
        KeyboardInterrupt: Nobody wants it.
    """
    told: dict[str, Any] = {"clients": clients, "seed": seed, "warm": warm, "replicas": replicas}
    told |= {"front_s": front_s}
    fleet = started(settings, requests, acceptance, costs, policy, **told)
    if is_logged:
        return finished(*logged(fleet))
    while (state := advance(fleet, STEPS_AT_ONCE)) != DONE:
        refuse_stuck(fleet, state)
        if is_off is not None and is_off():
            raise KeyboardInterrupt
    return finished(fleet, tuple(run.log for run in all_of(fleet)))


def all_of(fleet: Fleet) -> Iterator[Run]:
    """Yield each replica; as Python sees it, its arrays are rows of those of all."""
    seen = getattr(replica, "py_func", replica)
    return (seen(fleet, place) for place in range(len(fleet.due)))


def refuse_stuck(fleet: Fleet, said: int) -> None:
    """Refuse settings under which nobody can be served any more."""
    if said >= STUCK:
        ran = tuple(all_of(fleet))[said - STUCK]
        request = nth_waiting(ran.queues, 0, ran.settings.by_priority)
        prompt = int(ran.queues.track[request][state.PROMPT])
        raise UserError(f"request {request + 1} with a prompt of {prompt:,} tokens never fits under these settings")


def logged(fleet: Fleet) -> tuple[Fleet, tuple[Log, ...]]:
    """Run to the end, and keep every plan of every replica."""
    count, said = len(fleet.due), -1
    kept = [(list[Array](), list[Array]()) for _ in range(count)]
    size = LOG_ENTRIES + 2 * (9 * fleet.all.plans.seats + len(fleet.all.after))
    while said != DONE:
        fleet = fleet._replace(all=fleet.all._replace(log=empty_log(count, size, LOG_ENTRIES)))
        said = advance(fleet, LOG_ENTRIES)
        refuse_stuck(fleet, said)
        for (entries, steps_taken), run in zip(kept, all_of(fleet), strict=True):
            entries.append(np.array(run.log.entries[: run.log.size[0]], np.int64).reshape(-1, ENTRY))
            steps_taken.append(np.array(run.log.steps[: run.log.size[1]], np.float64).reshape(-1, STEP))
    return fleet, tuple(Log(np.concatenate(e), np.concatenate(s), np.zeros(2, np.int64)) for e, s in kept)


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
    replicas: Replicas = ONE,
    front_s: float = 0.0,
) -> Fleet:
    """Return replicas at the beginning of a run."""
    size, seats, count = len(requests.prompt), settings.max_num_seqs, replicas.servers
    sessions, apart = bool((requests.after >= 0).any()), replicas.readers > 0
    run = Run(
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
        kv=empty_blocks(settings, count),
        queues=empty_queues(requests, seats, size if sessions or clients or apart else 1, count),
        plans=empty_plans(seats, count),
        log=empty_log(count, 0, 0),
        front=listed(first_front(replicas, clients)),
        hands=listed(empty_hands(requests if apart else first(requests, 0))),
        hands_s=listed(np.full((size if apart else 0, HANDS_S), np.nan)),
        link=listed(first_link(replicas)),
        kin=listed(families(requests) if sessions else np.zeros((0, KIN), np.int32)),
        clock=listed(first_clocks(count, front_s)),
        count=listed(first_counts(replicas, seed, warm)),
        memory=many(new_memory(policy), count),
        words=np.zeros((seats, 4), np.int64),
        left=row(seats, np.int64),
        scores=np.zeros((2, seats * max(settings.k, 1))),
        totals=listed(no_totals(costs)),
        gaps=row(BINS, np.int64),
        edges=listed(gap_edges_s()),
        series=listed(np.zeros((count, SERIES_ROWS, SERIES_ROW))),
    )
    if apart:
        for tokens in run.queues.track:
            # A reader is asked for one token.
            tokens[state.OUTPUT] = 1
    send_first(run, min(clients, size), front_s)
    return Fleet(
        all=run,
        due=listed(np.full(count, NEVER)),
        desk=table(count, DESK, np.int64),
        line=row(size, np.int32),
        owner=row(size if count > 1 else 1, np.int32),
    )


def send_first(run: Run, clients: int, front_s: float) -> None:
    """Have every client send a request."""
    for _ in range(clients):
        request = steps.next_sent(run.front, run.after)
        if request < len(run.after):
            run.front[state.NEXT] = request + 1
            come(run.queues, run.front, request, front_s)


def finished(fleet: Fleet, logs: tuple[Log, ...]) -> Outcome:
    """Read what came out of a run that has ended."""
    ran = fleet.all
    track, times = np.asarray(ran.queues.track, np.int32), np.asarray(ran.queues.times)
    count, clock = np.asarray(ran.count), np.asarray(ran.clock)
    is_refused = track[:, state.STATUS] == state.REFUSED
    handed, answers = np.asarray(ran.hands_s).reshape(-1, HANDS_S), ran.front[state.READERS]
    if answers:
        times[:, state.SENT] = handed[:, SENT_FIRST_S]
    times[is_refused, state.SENT] = np.nan
    each = each_of(fleet)
    busy_s, running_s, waiting_s, block_s = each[:, [EACH.index(name) for name in USED]].sum(axis=0)
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
        n_steps=int(count[:, steps.STEPS].sum()),
        busy_s=float(busy_s),
        waiting_s=float(waiting_s),
        running_s=float(running_s),
        block_s=float(block_s),
        end_of_run_s=float(clock[:, steps.NOW].max()),
        most_running=int(count[:, steps.MOST].max()),
        most_blocks=int(each[:, EACH.index("most_blocks")].max()),
        preemptions=int(count[:, steps.LOST].sum()),
        joules=float(busy_s) * ran.costs.watts,
        series=np.array(ran.series[answers][: count[answers, steps.SERIES]], np.float64).reshape(-1, SERIES_ROW),
        logs=logs,
        replica=np.broadcast_to(np.asarray(fleet.owner, np.int32), len(times)),
        handing_s=handed[:, THERE_S] - handed[:, READ_S],
        each=each,
    )


def each_of(fleet: Fleet) -> NDArray[np.float64]:
    """Return a row of each replica, of columns EACH."""
    ran = fleet.all
    count, clock, free = (np.asarray(table, np.float64) for table in (ran.count, ran.clock, ran.kv.free))
    columns = {
        "routed": np.asarray(fleet.desk)[:, ROUTED],
        "served": count[:, steps.SERVED],
        "tokens": count[:, steps.WRITTEN],
        "busy_s": clock[:, steps.BUSY],
        "running_s": clock[:, steps.RUN_AREA],
        "waiting_s": clock[:, steps.WAIT_AREA],
        "block_s": clock[:, steps.BLOCK_AREA],
        "most_running": count[:, steps.MOST],
        "most_blocks": ran.settings.num_blocks - free[:, LEAST],
        "preemptions": count[:, steps.LOST],
        "n_steps": count[:, steps.STEPS],
    }
    return np.column_stack([columns[name] for name in EACH])
