"""The closed loop event by event: both arms on one clock, every span handed to a trace.

Decides nothing random: it plays out the rounds that `engine` drew.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

from simulator.ground.chrome_trace import ChromeTrace

from .event_queue import EventQueue, Priority

LANES = (("baseline", ("decode",)), ("speculative", ("draft", "verify", "commit")))
T = TypeVar("T")
# What an arm does from one instant to the next, which it yields; and what it did in all.
Arm = Generator[tuple[float, Priority], None, T]
Rounds = Iterator[tuple[int, bool]]  # accepted drafts, and whether the draft made ahead is a hit


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTimes:
    """Seconds of one run's phases, as plain floats (see `step.RoundCost`)."""

    baseline_s: float
    drafted_ahead_s: float
    draft_s: float
    verify_s: float
    overhead_s: float


def baseline_arm(queue: EventQueue, trace: ChromeTrace, step_s: float, total: int) -> Arm[float]:
    """Plain decoding: one token after another until the budget is spent; returns when that was."""
    for token in range(total):
        began_s = queue.now_s
        yield began_s + step_s, Priority.END
        trace.span(1, 1, "decode", began_s, queue.now_s, f'"token":{token}')
    return queue.now_s


def speculative_arm(
    queue: EventQueue, trace: ChromeTrace, times: PhaseTimes, total: int, rounds: Rounds, overlap: bool
) -> Arm[tuple[int, int, int, float]]:
    """Rounds of draft, verify and commit; with overlap the next draft is made while the target verifies.

    A hit is a round whose drafts were all accepted and whose bonus token the draft had guessed: only then does the
    next round find its draft made. Otherwise what was drafted ahead is thrown away at the commit. Returns tokens,
    rounds, accepted drafts and the time of the end.
    """
    tokens = accepted = 0
    is_drafted = False
    for number, (kept, hit) in enumerate(rounds):
        if not is_drafted:
            began_s = queue.now_s
            yield began_s + times.draft_s, Priority.END
            trace.span(2, 1, "draft", began_s, queue.now_s, f'"round":{number}')
        verify_began_s = queue.now_s
        yield verify_began_s + times.verify_s, Priority.END
        trace.span(2, 2, "verify", verify_began_s, queue.now_s, f'"round":{number}')
        yield queue.now_s + times.overhead_s, Priority.END
        committed = min(kept + 1, total - tokens)
        detail = f'"round":{number},"accepted":{kept},"committed":{committed}'
        trace.span(2, 3, "commit", verify_began_s + times.verify_s, queue.now_s, detail)
        tokens, accepted = tokens + committed, accepted + kept
        if tokens >= total:
            return tokens, number + 1, accepted, queue.now_s
        is_drafted = overlap and hit
        ahead_s = verify_began_s + times.drafted_ahead_s
        if is_drafted:
            trace.span(2, 1, "draft ahead", verify_began_s, ahead_s, f'"round":{number + 1}')
            yield max(queue.now_s, ahead_s), Priority.BEGIN
        elif overlap:
            ended_s = min(queue.now_s, ahead_s)
            trace.span(2, 1, "draft ahead, discarded", verify_began_s, ended_s, f'"round":{number + 1}')
    raise ValueError(f"the rounds end after {tokens} of {total} tokens")


def begin(queue: EventQueue, arm: Arm[T], end: Callable[[T], object]) -> None:
    """Go on with an arm at each instant that it yields; `end` takes what it returns."""

    def go_on() -> None:
        try:
            queue.at(*next(arm), go_on)
        except StopIteration as stop:
            end(stop.value)

    go_on()


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What the two arms did, by the event clock."""

    tokens: int
    rounds: int
    accepted: int
    baseline_s: float
    speculative_s: float


def play(times: PhaseTimes, total: int, rounds: Rounds, trace: ChromeTrace, *, overlap: bool) -> Played:
    """Run both arms side by side to `total` tokens each and log every span.

    rounds: (accepted, hit), at least as many as needed. overlap: whether the next draft is made during verification.
    """
    queue = EventQueue()
    plain_ends_s: list[float] = []
    ends: list[tuple[int, int, int, float]] = []
    begin(queue, baseline_arm(queue, trace, times.baseline_s, total), plain_ends_s.append)
    begin(queue, speculative_arm(queue, trace, times, total, rounds, overlap), ends.append)
    queue.run()
    tokens, count, accepted, end_s = ends[0]
    return Played(tokens=tokens, rounds=count, accepted=accepted, baseline_s=plain_ends_s[0], speculative_s=end_s)
