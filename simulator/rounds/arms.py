"""The closed loop event by event: both arms on one clock, every span handed to a trace.

Decides nothing random: it plays out the rounds that `engine` drew.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from simulator.ground.chrome_trace import ChromeTrace

from .event_queue import EventQueue, Priority

LANES = (("baseline", ("decode",)), ("speculative", ("draft", "verify", "commit")))


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTimes:
    """Seconds of one run's phases, as plain floats (see `step.RoundCost`)."""

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

    rounds: (accepted, hit), at least as many as needed. overlap: whether the next draft is made during verification.
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
