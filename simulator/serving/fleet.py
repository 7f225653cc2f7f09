"""Replicas side by side behind a router, which sends each request to one of them as it comes.

In turn; to the one with the fewest requests; or by prefix, in the order of rules that vLLM's router, SGLang's gateway
(`cache_aware`) and NVIDIA Dynamo document: where the fullest has far more than the emptiest, to the emptiest; else to
whose cache holds the longest prefix, where that is much of the prompt; else to the emptiest. Of equals, in turn.
"""

from typing import Any, NamedTuple

from simulator.ground.compiled import lean

from .blocks import Blocks, Texts, find, key_of
from .handover import IS_READ
from .queues import RUN, WAIT, Queues
from .settings import Settings
from .state import OTHERS_TURN, PROMPT, READERS, RULE, SHARED, TURN, Log, Plans
from .steps import NOW, Run

Array = Any
ROUND_ROBIN, LEAST_LOADED, PREFIX_AWARE = range(3)
# By prefix: of the prompt at least; and how many requests more, and times as many, make a replica too full.
SHARE, MORE, TIMES_AS_MANY = 0.3, 64, 1.5
# A row of `desk` is a replica: whether what comes next is the end of a step, not a plan; of those that were sent to it
# and that it has not seen, the first, the last and how many; how many were sent to it in all.
ENDS, FIRST, LAST, UNSEEN, ROUTED, DESK = range(6)
NEVER = float("inf")


class Replicas(NamedTuple):
    """How many servers there are, all alike, and what stands before them.

    Attributes:
        servers: All of them.
        router: ROUND_ROBIN, LEAST_LOADED or PREFIX_AWARE.
        readers: So many of them, the first, read prompts, and the others decode; 0: all do both.
        latency_s, token_s: What it takes to bring KV from one to another: at least, and for each token.
    """

    servers: int = 1
    router: int = ROUND_ROBIN
    readers: int = 0
    latency_s: float = 0.0
    token_s: float = 0.0


ONE = Replicas()


class Fleet(NamedTuple):
    """Replicas that serve requests of one list. Made by `run.started`.

    Attributes:
        all: What a replica has, of all replicas behind one another; see `replica` for what they share.
        due: When something comes next of each; NEVER: nothing, until something is sent to it.
        desk: As above.
        line: Of each request that its replica has not seen, which was sent there next.
        owner: The replica that each request was sent to, at last; where there is one, it alone.
    """

    all: Run
    due: Array
    desk: Array
    line: Array
    owner: Array


@lean
def replica(fleet: Fleet, place: int) -> Run:
    """Return one of the replicas."""
    a = fleet.all
    kv, q, plans, log = a.kv, a.queues, a.plans, a.log
    return Run(
        a.settings,
        a.acceptance,
        a.costs,
        a.policy,
        a.texts,
        a.arrival_s,
        a.after,
        a.think_s,
        Blocks(kv.block[place], kv.table[place], kv.key[place], kv.chain[place], kv.spare[place], kv.free[place]),
        Queues(q.running[place], q.waiting[place], q.coming, q.skipped, q.size[place], q.track, q.times),
        Plans(plans.rows[place], plans.flights[place], plans.times[place], plans.left[place], plans.seats),
        Log(log.entries[place], log.steps[place], log.size[place]),
        a.front,
        a.hands,
        a.hands_s,
        a.link,
        a.kin,
        a.clock[place],
        a.count[place],
        a.memory[place],
        a.words,
        a.left,
        a.scores,
        a.totals,
        a.gaps,
        a.edges,
        a.series[place],
    )


@lean
def choose(fleet: Fleet, request: int) -> int:
    """Return the replica that a request is sent to."""
    a, front = fleet.all, fleet.all.front
    first, count, rule, turn = 0, len(fleet.due), front[RULE], TURN
    if front[READERS] > 0 and a.hands[request][IS_READ] == 0:
        count = front[READERS]
    elif front[READERS] > 0:
        # What of a prompt is in a cache no longer matters: none of it is read.
        first, count, rule, turn = front[READERS], count - front[READERS], min(rule, LEAST_LOADED), OTHERS_TURN
    place = front[turn] % count
    if rule != ROUND_ROBIN:
        place = by_load(fleet, request, first, count, place, rule == PREFIX_AWARE and a.settings.prefix_caching)
    front[turn] = place + 1
    return int(first + place)


@lean
def by_load(fleet: Fleet, request: int, first: int, count: int, begin: int, by_prefix: bool) -> int:
    """Return the emptiest of some replicas, or who has most of a prompt; of equals the first from a beginning on."""
    found, fewest, most = begin, -1, 0
    for nth in range(count):
        place = (begin + nth) % count
        load = load_of(fleet, first + place)
        most = max(most, load)
        if fewest < 0 or load < fewest:
            fewest = load
            found = place
    if not by_prefix or (most - fewest > MORE and most > TIMES_AS_MANY * fewest):
        return int(found)
    s, t = fleet.all.settings, fleet.all.queues.track[request]
    longest, least = int(SHARE * t[PROMPT]) // s.block_size, -1
    for nth in range(count):
        place = (begin + nth) % count
        known = matched(s, fleet.all.texts, replica(fleet, first + place).kv, request, t[SHARED], t[PROMPT])
        load = load_of(fleet, first + place)
        if known > longest or (known == longest and 0 <= load < least):
            longest = known
            least = load
            found = place
    return int(found)


@lean
def load_of(fleet: Fleet, place: int) -> int:
    """Return the requests that a replica has, seen or not."""
    size = fleet.all.queues.size[place]
    return int(size[RUN] + size[WAIT] + fleet.desk[place][UNSEEN])


@lean
def matched(s: Settings, texts: Texts, kv: Blocks, request: int, shared: int, tokens: int) -> int:
    """Return how many whole blocks of a prompt a cache holds."""
    count = 0
    while (count + 1) * s.block_size < tokens and find(kv, key_of(texts, s.block_size, request, shared, count)) > 0:
        count += 1
    return count


@lean
def send(fleet: Fleet, request: int, place: int, when: float) -> None:
    """Send a request to a replica, which sees it before it plans its next step."""
    desk = fleet.desk[place]
    if desk[UNSEEN] == 0:
        desk[FIRST] = request
    else:
        fleet.line[desk[LAST]] = request
    desk[LAST] = request
    desk[UNSEEN] += 1
    desk[ROUTED] += 1
    if len(fleet.due) > 1:
        fleet.owner[request] = place
    wake(fleet, place, when)


@lean
def wake(fleet: Fleet, place: int, when: float) -> None:
    """Have a replica that waits for something plan a step."""
    if fleet.due[place] == NEVER:
        fleet.due[place] = max(fleet.all.clock[place][NOW], when)


@lean
def next_due(fleet: Fleet) -> int:
    """Return the replica of which something comes next; at one time the ends of steps, then the first."""
    due, desk, found = fleet.due, fleet.desk, 0
    for place in range(1, len(due)):
        if due[place] < due[found] or (due[place] == due[found] and desk[place][ENDS] > desk[found][ENDS]):
            found = place
    return found
