"""Events of a simulation in one total order: (time, priority, serial). The clock is set before an action runs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heappop, heappush


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
        """Schedule an action, not in the past; among equals the one scheduled first runs first."""
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
