"""Who waits and who runs: a ring or a heap of those that wait, a list of those that run, a heap of those to come."""

from typing import Any, NamedTuple

from simulator.ground.compiled import lean

from .state import COMING, RANK, SENT

Array = Any
# Of a replica: those that run, those that wait and where their ring begins; of those that run, whose KV is on its way
# here; those that it has read and whose KV is on its way to others.
RUN, WAIT, HEAD, LOADS, HOLDS, QUEUES = range(6)


class Queues(NamedTuple):
    """Indices of requests.

    Attributes:
        running: Those that run, in order.
        waiting: Those that wait: a ring, or by priority a heap.
        coming: A heap of those that will be sent when their time comes, to whichever replica.
        skipped: Those that a step passed by.
        size: As above.
        track, times: Of all requests. In a heap they stand by priority, by time of sending and by index.
    """

    running: Array
    waiting: Array
    coming: Array
    skipped: Array
    size: Array
    track: Array
    times: Array


@lean
def is_before(q: Queues, one: int, other: int, by_rank: bool) -> bool:
    """Say whether one request comes before another."""
    if by_rank and q.track[one][RANK] != q.track[other][RANK]:
        return bool(q.track[one][RANK] < q.track[other][RANK])
    if q.times[one][SENT] != q.times[other][SENT]:
        return bool(q.times[one][SENT] < q.times[other][SENT])
    return one < other


@lean
def sift_up(q: Queues, heap: Array, place: int, by_rank: bool) -> None:
    """Let the request at this place rise in its heap."""
    request = heap[place]
    while place > 0:
        above = (place - 1) // 2
        if not is_before(q, request, heap[above], by_rank):
            break
        heap[place] = heap[above]
        place = above
    heap[place] = request


@lean
def sift_down(q: Queues, heap: Array, size: int, place: int, by_rank: bool) -> None:
    """Let the request at this place sink in its heap."""
    request = heap[place]
    while 2 * place + 1 < size:
        below = 2 * place + 1
        if below + 1 < size and is_before(q, heap[below + 1], heap[below], by_rank):
            below += 1
        if not is_before(q, heap[below], request, by_rank):
            break
        heap[place] = heap[below]
        place = below
    heap[place] = request


@lean
def come(q: Queues, front: Array, request: int, when_s: float) -> None:
    """Let a request be sent at that time."""
    q.times[request][SENT] = when_s
    q.coming[front[COMING]] = request
    front[COMING] += 1
    sift_up(q, q.coming, front[COMING] - 1, False)


@lean
def next_coming(q: Queues, front: Array) -> int:
    """Take out the request that is sent next."""
    request: int = q.coming[0]
    front[COMING] -= 1
    q.coming[0] = q.coming[front[COMING]]
    if front[COMING] > 0:
        sift_down(q, q.coming, front[COMING], 0, False)
    return request


@lean
def wait_last(q: Queues, request: int, by_priority: bool) -> None:
    """Let a request wait behind those that came before it."""
    size = q.size[WAIT]
    q.size[WAIT] = size + 1
    if by_priority:
        q.waiting[size] = request
        sift_up(q, q.waiting, size, True)
    else:
        place = q.size[HEAD] + size
        if place >= len(q.waiting):
            place -= len(q.waiting)
        q.waiting[place] = request


@lean
def wait_first(q: Queues, request: int, by_priority: bool) -> None:
    """Let a request wait in front of all; by priority, at its place."""
    if by_priority:
        wait_last(q, request, by_priority)
        return
    head = q.size[HEAD] - 1
    if head < 0:
        head += len(q.waiting)
    q.waiting[head] = request
    q.size[HEAD] = head
    q.size[WAIT] += 1


@lean
def serve_next(q: Queues, by_priority: bool) -> None:
    """Take out who is served next."""
    size = q.size[WAIT] - 1
    q.size[WAIT] = size
    if by_priority:
        q.waiting[0] = q.waiting[size]
        if size > 0:
            sift_down(q, q.waiting, size, 0, True)
    else:
        head = q.size[HEAD] + 1
        q.size[HEAD] = 0 if head == len(q.waiting) else head


@lean
def nth_waiting(q: Queues, nth: int, by_priority: bool) -> int:
    """Return who stands at this place of the ring, or of the heap; at 0: who is served next."""
    place = nth if by_priority else q.size[HEAD] + nth
    request: int = q.waiting[place - len(q.waiting) if place >= len(q.waiting) else place]
    return request


@lean
def leave_waiting(q: Queues, request: int, by_priority: bool) -> None:
    """Take one that waits out from wherever it stands."""
    nth = 0
    while nth_waiting(q, nth, by_priority) != request:
        nth += 1
    if by_priority:
        size = q.size[WAIT] - 1
        q.size[WAIT] = size
        if nth < size:
            q.waiting[nth] = q.waiting[size]
            sift_down(q, q.waiting, size, nth, True)
            sift_up(q, q.waiting, nth, True)
        return
    for place in range(nth, 0, -1):
        here = q.size[HEAD] + place
        if here >= len(q.waiting):
            here -= len(q.waiting)
        q.waiting[here] = nth_waiting(q, place - 1, by_priority)
    serve_next(q, by_priority)


@lean
def leave_running(q: Queues, place: int) -> None:
    """Take out the one at this place of the list of those that run."""
    q.size[RUN] -= 1
    for behind in range(place, q.size[RUN]):
        q.running[behind] = q.running[behind + 1]
