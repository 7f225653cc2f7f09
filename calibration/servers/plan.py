"""What is run, and in which order: at each load the same requests on every arm, in blocks that take turns."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from simulator.workloads.requests import Requests, first


class Turn(NamedTuple):
    """A request of a session; row: which. think_s: between the answer before and it. further: those behind it."""

    row: int
    think_s: float
    further: tuple["Turn", ...]


class Session(NamedTuple):
    """A request, and those that wait for its answer. due_s: when it is sent, from the beginning of its block."""

    turn: Turn
    due_s: float


class Block(NamedTuple):
    """A part of the requests at one load on one arm."""

    load: float
    arm: str
    part: int
    sessions: tuple[Session, ...]

    @property
    def name(self) -> tuple[float, str, int]:
        """What tells it from all others of a run."""
        return self.load, self.arm, self.part


def sessions_of(requests: Requests) -> list[Session]:
    """Return requests by the one that each session begins with, in their order."""
    behind: dict[int, list[Turn]] = {}
    roots: list[Session] = []
    for row in range(len(requests.prompt) - 1, -1, -1):
        waits = int(requests.after[row])
        turn = Turn(row, float(requests.think_s[row]), tuple(reversed(behind.pop(row, []))))
        if waits < 0:
            roots.append(Session(turn, float(requests.arrival_s[row])))
        else:
            behind.setdefault(waits, []).append(turn)
    return roots[::-1]


def parts_of(requests: Requests, parts: int) -> list[tuple[Session, ...]]:
    """Return sessions in so many parts of one size, at most; each begins a clock of its own."""
    found = sessions_of(requests)
    ends = np.unique(np.linspace(0, len(found), min(parts, len(found)) + 1).astype(int))
    divided = []
    for begin, end in pairwise(ends.tolist()):
        # The gap before the first arrival of a part is its own too.
        before_s = found[begin - 1].due_s if begin else 0.0
        divided.append(tuple(s._replace(due_s=s.due_s - before_s) for s in found[begin:end]))
    return divided


def within(requests: Requests, seconds: float) -> Requests:
    """Return those that are sent within a time."""
    began_s = np.maximum.accumulate(np.where(requests.after >= 0, 0, requests.arrival_s))
    return first(requests, max(int(np.searchsorted(began_s, seconds)), 1))


def fitting(requests: Requests, longest: int) -> Requests:
    """Return requests whose prompts are cut to leave a place for an answer: a server refuses others."""
    prompt = np.minimum(requests.prompt, longest - 1)
    return requests._replace(prompt=prompt, shared=np.minimum(requests.shared, prompt))


def blocks_of(loads: Sequence[float], arms: Sequence[str], parts: Sequence[list[tuple[Session, ...]]]) -> list[Block]:
    """Return all blocks in the order in which they are run: of every second part the arms the other way round.

    parts: of each load, its sessions.
    """
    return [
        Block(load, arm, part, sessions)
        for load, divided in zip(loads, parts, strict=True)
        for part, sessions in enumerate(divided)
        for arm in (arms if part % 2 == 0 else arms[::-1])
    ]


def size_of(turn: Turn) -> int:
    """Return how many requests a turn is, with those behind it."""
    count, left = 0, [turn]
    while left:
        count += 1
        left += left.pop().further
    return count
