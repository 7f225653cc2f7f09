"""Steps and requests of servers as a timeline that Perfetto opens."""

import heapq
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np

from simulator.ground.chrome_trace import ChromeTrace
from simulator.serving.run import Outcome

from .scene import Scene

# Requests that are shown side by side at most: those beyond are left out.
MOST_LANES = 256
# Columns of `Log.steps`.
PLANNED_S, DONE_S, TOKENS, FREE, NEXT_K = range(1, 6)


def write_timeline(file: IO[str], scene: Scene, outcomes: Sequence[Outcome], about: Mapping[str, Any]) -> None:
    """Write a process for each way of serving: a thread of each server's steps, and threads that its requests share."""
    lanes = [f"requests {lane + 1}" for lane in range(MOST_LANES)]
    servers = [range(1, len(outcome.logs) + 1) for outcome in outcomes]
    steps = [["steps"] if len(each) == 1 else [f"steps of server {n}" for n in each] for each in servers]
    ways = [(way.name, [*own, *lanes]) for way, own in zip(scene.arms, steps, strict=True)]
    trace = ChromeTrace(file, ways, about)
    for process, outcome in enumerate(outcomes, 1):
        for thread, log in enumerate(outcome.logs, 1):
            before = 0.0
            for row in np.asarray(log.steps):
                begin = max(float(row[PLANNED_S]), before)
                before = float(row[DONE_S])
                told = f'"tokens":{row[TOKENS]:.0f},"free_blocks":{row[FREE]:.0f},"next_k":{row[NEXT_K]:.0f}'
                trace.span(process, thread, "step", begin, before, told)
        for request, lane in lanes_of(outcome):
            times = [float(getattr(outcome, name)[request]) for name in ("sent_s", "begun_s", "first_s", "end_s")]
            told = f'"request":{request},"drafted":{outcome.drafted[request]},"accepted":{outcome.accepted[request]}'
            for name, begin, end in zip(("waits", "prompt", "answer"), times, times[1:], strict=False):
                if end > begin:
                    trace.span(process, 1 + len(outcome.logs) + lane, name, begin, end, told)
    trace.close()


def lanes_of(outcome: Outcome) -> list[tuple[int, int]]:
    """Return requests with the thread that each has: the first that is free when it is sent."""
    free, busy, found = list(range(MOST_LANES)), list[tuple[float, int]](), list[tuple[int, int]]()
    for request in np.argsort(outcome.sent_s, kind="stable"):
        if np.isnan(outcome.end_s[request]):
            continue
        while busy and busy[0][0] <= outcome.sent_s[request]:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lane = heapq.heappop(free)
            heapq.heappush(busy, (float(outcome.end_s[request]), lane))
            found.append((int(request), lane))
    return found
