"""The arrays of a run of replicas before it begins: requests, memory, plans, and what counts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.ground.compiled import IS_COMPILED
from simulator.workloads.requests import Requests

from . import steps
from .blocks import BLOCK, FREE, NO_KEY, TABLE, Blocks
from .fleet import Replicas
from .handover import HANDS, LATENCY_S, LINK, OWED, TOKEN_S
from .queues import QUEUES, Queues
from .settings import Settings
from .state import (
    CLIENTS,
    ENTRY,
    FLIGHT,
    FLIGHTS,
    FRONT,
    LEFT,
    READERS,
    ROW,
    RULE,
    STEP,
    TIMES,
    TRACK,
    Log,
    Plans,
)
from .steps import CHILD, CLOCK, COUNTS, DECODER, KIN, READER, SIBLING, WHOLE

Array = Any


def first_clocks(count: int, front_s: float) -> NDArray[np.float64]:
    """Return the clocks of so many replicas at their beginning."""
    clocks = np.zeros((count, CLOCK))
    clocks[:, [steps.GAP, steps.ON_WAY]] = -1.0, front_s
    return clocks


def first_counts(replicas: Replicas, seed: int, warm: int) -> NDArray[np.int64]:
    """Return what replicas count, at their beginning."""
    count, readers = np.zeros((replicas.servers, COUNTS), np.int64), replicas.readers
    count[:, [steps.SEED, steps.WARM, steps.STRIDE]] = seed, warm, 1
    count[:, steps.SELF] = np.arange(replicas.servers)
    count[:, steps.PART] = np.where(count[:, steps.SELF] < readers, READER, DECODER) if readers else WHOLE
    return count


def first_front(replicas: Replicas, clients: int) -> NDArray[np.int64]:
    """Return what replicas have together, at their beginning."""
    front = np.zeros(FRONT, np.int64)
    front[[CLIENTS, RULE, READERS]] = clients, replicas.router, replicas.readers
    return front


def empty_hands(requests: Requests) -> NDArray[np.int32]:
    """Return what is known of requests that one replica reads and another answers."""
    hands = np.zeros((len(requests.output), HANDS), np.int32)
    hands[:, OWED] = requests.output
    return hands


def first_link(replicas: Replicas) -> NDArray[np.float64]:
    """Return a link over which nothing was sent."""
    link = np.zeros(LINK + replicas.readers)
    link[[LATENCY_S, TOKEN_S]] = replicas.latency_s, replicas.token_s
    return link


def empty_log(count: int, entries: int, steps_taken: int) -> Log:
    """Return a log for each of so many replicas."""
    return Log(
        listed(np.zeros((count, entries, ENTRY), np.int64)),
        listed(np.zeros((count, steps_taken, STEP))),
        table(count, 2, np.int64),
    )


def empty_queues(requests: Requests, seats: int, coming: int, count: int) -> Queues:
    """Return all requests, of which none was sent; so many can be to come at once."""
    size = len(requests.prompt)
    track = np.zeros((size, TRACK), np.int32)
    first = (requests.prompt, requests.output, requests.priority, requests.category, requests.shared)
    for field, column in enumerate(first):
        track[:, field] = column
    return Queues(
        running=table(count, seats, np.int64),
        waiting=table(count, size + 1, np.int32),
        coming=row(coming, np.int32),
        skipped=row(max(3 * seats, 256), np.int64),
        size=table(count, QUEUES, np.int64),
        track=listed(track),
        times=listed(np.full((size, TIMES), np.nan)),
    )


def empty_plans(seats: int, count: int) -> Plans:
    """Return plans of no step."""
    return Plans(
        rows=listed(np.zeros((count, FLIGHTS * seats, ROW), np.int64)),
        flights=listed(np.zeros((count, FLIGHTS, FLIGHT), np.int64)),
        times=listed(np.zeros((count, FLIGHTS + 1, 2))),
        left=table(count, LEFT, np.int64),
        seats=seats,
    )


def empty_blocks(s: Settings, count: int) -> Blocks:
    """Return a KV of which nobody has anything: block 1 is the first to be given out."""
    size, seats = s.num_blocks + 1, s.max_num_seqs
    block = np.zeros((size, BLOCK), np.int32)
    block[:, 0], block[:, 1] = np.roll(np.arange(size), -1), np.roll(np.arange(size), 1)
    free = np.zeros(FREE, np.int64)
    free[:] = s.num_blocks, seats, s.num_blocks
    return Blocks(
        block=many(block, count),
        table=listed(np.zeros((count, seats, TABLE - (-s.max_model_len // s.block_size)), np.int32)),
        key=listed(np.full((count, size), NO_KEY, np.int64)),
        chain=listed(np.zeros((count, 1 << max(4, s.num_blocks.bit_length()), 2), np.int32)),
        spare=many(np.arange(seats), count),
        free=many(free, count),
    )


def families(requests: Requests) -> NDArray[np.int32]:
    """Return of each request the first that waits for its end, and the next that waits for the same."""
    kin = np.full((len(requests.after), KIN), -1, np.int32)
    for request in np.flatnonzero(requests.after >= 0)[::-1]:
        parent = requests.after[request]
        kin[request, SIBLING], kin[parent, CHILD] = kin[parent, CHILD], request
    return kin


def many(array: NDArray[Any], count: int) -> Array:
    """Return so many copies of an array behind one another, as `listed`."""
    return listed(np.repeat(array[np.newaxis], count, axis=0))


def listed(array: NDArray[Any]) -> Array:
    """Return an array as the engine reads it fastest: Python itself reads lists, of rows where there are any."""
    return np.ascontiguousarray(array) if IS_COMPILED else array.tolist()


def row(size: int, kind: type[np.generic]) -> Array:
    """Return zeros."""
    return listed(np.zeros(size, kind))


def table(size: int, fields: int, kind: type[np.generic]) -> Array:
    """Return rows of zeros."""
    return listed(np.zeros((size, fields), kind))
