"""The closed loop event by event: both arms on one clock, every span handed to a log.

Decides nothing random: it plays out the rounds that `engine` drew. Events have one total order
(time, priority, serial); the clock is set before an event's action runs.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heappop, heappush
from typing import IO, Any


class Priority(IntEnum):
    """Who goes first among events of one instant: what ends, then what begins."""

    END = 0
    BEGIN = 1


@dataclass(slots=True)
class EventQueue:
    """Events in the total order (time, priority, serial)."""

    now_s: float = 0.0
    serial: int = 0
    heap: list[tuple[float, int, int, Callable[[], None]]] = field(default_factory=list)

    def at(self, time_s: float, priority: int, action: Callable[[], None]) -> None:
        """Schedule an action; among equals the one scheduled first runs first.

        Raises:
            ValueError: The time has passed.
        """
        if time_s < self.now_s:
            raise ValueError(f"event at {time_s} s, but the clock is at {self.now_s} s")
        self.serial += 1
        heappush(self.heap, (time_s, priority, self.serial, action))

    def run(self) -> None:
        """Run every event until none is left."""
        heap = self.heap
        while heap:
            self.now_s, _, _, action = heappop(heap)
            action()


class ChromeTrace:
    """Writes spans as Chrome trace events (the JSON format that Perfetto and chrome://tracing open)."""

    LANES = (("baseline", ("decode",)), ("speculative", ("draft", "verify", "commit")))
    FLUSH_AT = 8192

    def __init__(self, file: IO[str], other_data: Mapping[str, Any]) -> None:
        self.file = file
        self.lines: list[str] = []
        file.write(f'{{"displayTimeUnit": "ms", "otherData": {json.dumps(other_data, sort_keys=True)},\n')
        file.write('"traceEvents": [\n')
        names = [
            {"ph": "M", "name": f"{kind}_name", "pid": pid, "tid": tid, "args": {"name": name}}
            for pid, (process, threads) in enumerate(self.LANES, 1)
            for kind, tid, name in (
                ("process", 0, process),
                *(("thread", t, n) for t, n in enumerate(threads, 1)),
            )
        ]
        file.write(",\n".join(map(json.dumps, names)))

    def span(self, pid: int, tid: int, name: str, start_s: float, end_s: float, detail: str) -> None:
        """Log one span; `detail` is the inside of a JSON object. Times are written in microseconds."""
        # The end is rounded as the next span's start will be, so that no two spans of a lane overlap.
        start_us, end_us = round(start_s * 1e6, 3), round(end_s * 1e6, 3)
        self.lines.append(
            f',\n{{"ph":"X","pid":{pid},"tid":{tid},"name":"{name}","ts":{start_us:.3f},'
            f'"dur":{end_us - start_us:.3f},"args":{{{detail}}}}}'
        )
        if len(self.lines) >= self.FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        self.file.write("".join(self.lines))
        self.lines.clear()

    def close(self) -> None:
        """Write what is pending and end the JSON; the file itself stays open."""
        self.flush()
        self.file.write("\n]}\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTimes:
    """Seconds of one run's phases, as plain floats (see `cost_model.RoundCost`)."""

    baseline_s: float
    draft_step_s: float
    draft_s: float
    verify_s: float
    overhead_s: float


class BaselineArm:
    """Plain decoding: one token after another until the budget is spent."""

    def __init__(self, queue: EventQueue, trace: ChromeTrace, times: PhaseTimes, total: int) -> None:
        self.queue, self.trace, self.step_s, self.total = queue, trace, times.baseline_s, total
        self.tokens, self.began_s, self.ended_s = 0, 0.0, 0.0
        self.begin()

    def begin(self) -> None:
        self.began_s = self.queue.now_s
        self.queue.at(self.began_s + self.step_s, Priority.END, self.end)

    def end(self) -> None:
        self.ended_s = self.queue.now_s
        self.trace.span(1, 1, "decode", self.began_s, self.ended_s, f'"token":{self.tokens}')
        self.tokens += 1
        if self.tokens < self.total:
            self.begin()


class SpeculativeArm:
    """Rounds of draft, verify and commit; with overlap the next draft is made while the target verifies.

    A hit is a round whose drafts were all accepted and whose bonus token the draft had guessed: only then does the
    next round find its draft made. Otherwise what was drafted ahead is thrown away at the commit.
    """

    def __init__(
        self,
        queue: EventQueue,
        trace: ChromeTrace,
        times: PhaseTimes,
        total: int,
        rounds: Iterator[tuple[int, bool]],
        overlap: bool,
    ) -> None:
        self.queue, self.trace, self.times, self.total = queue, trace, times, total
        self.rounds, self.overlap = rounds, overlap
        self.round = self.tokens = self.accepted = 0
        self.draft_began_s = self.verify_began_s = self.ended_s = 0.0
        self.begin_draft()

    def begin_draft(self) -> None:
        self.draft_began_s = self.queue.now_s
        self.queue.at(self.draft_began_s + self.times.draft_s, Priority.END, self.end_draft)

    def end_draft(self) -> None:
        now_s = self.queue.now_s
        self.trace.span(2, 1, "draft", self.draft_began_s, now_s, f'"round":{self.round}')
        self.begin_verify()

    def begin_verify(self) -> None:
        self.verify_began_s = self.queue.now_s
        self.queue.at(self.verify_began_s + self.times.verify_s, Priority.END, self.end_verify)

    def end_verify(self) -> None:
        now_s = self.queue.now_s
        self.trace.span(2, 2, "verify", self.verify_began_s, now_s, f'"round":{self.round}')
        self.queue.at(now_s + self.times.overhead_s, Priority.END, self.commit)

    def commit(self) -> None:
        now_s = self.queue.now_s
        accepted, hit = next(self.rounds)
        committed = min(accepted + 1, self.total - self.tokens)
        detail = f'"round":{self.round},"accepted":{accepted},"committed":{committed}'
        self.trace.span(2, 3, "commit", self.verify_began_s + self.times.verify_s, now_s, detail)
        self.tokens, self.accepted = self.tokens + committed, self.accepted + accepted
        self.round, self.ended_s = self.round + 1, now_s
        if self.tokens < self.total:
            self.begin_next(hit)

    def begin_next(self, hit: bool) -> None:
        now_s, began_s = self.queue.now_s, self.verify_began_s
        if not self.overlap:
            self.begin_draft()
            return
        ahead_s = began_s + self.times.draft_step_s + self.times.draft_s
        if hit:
            self.trace.span(2, 1, "draft ahead", began_s, ahead_s, f'"round":{self.round}')
            self.queue.at(max(now_s, ahead_s), Priority.BEGIN, self.begin_verify)
        else:
            self.trace.span(2, 1, "draft ahead, discarded", began_s, min(now_s, ahead_s), f'"round":{self.round}')
            self.begin_draft()


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What the two arms did, by the event clock."""

    tokens: int
    rounds: int
    accepted: int
    baseline_s: float
    speculative_s: float


def play(
    times: PhaseTimes, total: int, rounds: Iterator[tuple[int, bool]], trace: ChromeTrace, *, overlap: bool
) -> Played:
    """Run both arms side by side to `total` tokens each and log every span.

    Args:
        times: Seconds of the phases.
        total: Tokens each arm commits.
        rounds: (accepted, hit) of the rounds, at least as many as needed.
        trace: Takes the spans.
        overlap: Whether the next draft is made while the target verifies.
    """
    queue = EventQueue()
    baseline = BaselineArm(queue, trace, times, total)
    speculative = SpeculativeArm(queue, trace, times, total, rounds, overlap)
    queue.run()
    return Played(
        tokens=speculative.tokens,
        rounds=speculative.round,
        accepted=speculative.accepted,
        baseline_s=baseline.ended_s,
        speculative_s=speculative.ended_s,
    )
