"""Where the time of decoding goes: phases between marks, by CUDA events on a GPU and a monotonic clock elsewhere."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from simulator.artefacts import writing

PHASES = ("prefill", "draft", "verify", "sample", "kv", "other")
# Name of the phase, start and end in seconds since the clock was started.
Span = tuple[str, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Seconds in each phase, which add up to total_s; first_token_s: from the start to the first round's end."""

    prefill_s: float
    draft_s: float
    verify_s: float
    sample_s: float
    kv_s: float
    other_s: float
    total_s: float
    first_token_s: float


class Clock:
    """Notes when each phase ended, and works out the rest when it is stopped."""

    def __init__(
        self,
        stamp: Callable[[], Any] = perf_counter,
        seconds: Callable[[Sequence[Any]], Sequence[float]] = lambda stamps: stamps,
    ) -> None:
        """Take a source of time.

        Args:
            stamp: Returns the present time, at once.
            seconds: Turns stamps into seconds since any moment.
        """
        self.stamp, self.seconds = stamp, seconds
        self.phases: list[str] = []
        self.stamps: list[Any] = []

    def start(self) -> None:
        """Begin anew."""
        self.phases, self.stamps = [], [self.stamp()]

    def mark(self, phase: str) -> None:
        """Say what has been done since the last mark."""
        self.phases.append(phase)
        self.stamps.append(self.stamp())

    def stop(self) -> Phases:
        """Return what each phase took, up to the last mark."""
        spans = self.timeline()
        sums = dict.fromkeys(PHASES, 0.0)
        for phase, begin, end in spans:
            sums[phase] += end - begin
        return Phases(
            **{f"{phase}_s": time_s for phase, time_s in sums.items()},
            total_s=spans[-1][2] if spans else 0.0,
            first_token_s=next((end for phase, _, end in spans if phase == "other"), 0.0),
        )

    def timeline(self) -> list[Span]:
        """Return every phase with its start and end."""
        times = self.seconds(self.stamps)
        since_start = [t - times[0] for t in times]
        return list(zip(self.phases, since_start[:-1], since_start[1:], strict=True))


def clock_for(device: str) -> Clock:
    """Return the clock of a torch device, which need not be waited for at every mark."""
    if not device.startswith("cuda"):
        return Clock()
    import torch

    stream = torch.cuda.current_stream(device)

    def stamp() -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(stream)
        return event

    def seconds(stamps: Sequence[Any]) -> list[float]:
        stamps[-1].synchronize()
        return [stamps[0].elapsed_time(event) / 1e3 for event in stamps]

    return Clock(stamp, seconds)


def write_chrome_trace(path: Path, tracks: Iterable[tuple[str, Sequence[Span]]]) -> None:
    """Write timelines in the format that Perfetto and chrome://tracing open, one track a name.

    Args:
        path: The file; overwritten.
        tracks: Name and spans of each.
    """
    events: list[dict[str, Any]] = []
    for track, (name, spans) in enumerate(tracks, 1):
        events.append({"ph": "M", "name": "thread_name", "pid": 1, "tid": track, "args": {"name": name}})
        for phase, begin_s, end_s in spans:
            begin_us, end_us = round(begin_s * 1e6, 3), round(end_s * 1e6, 3)
            events.append(
                {"ph": "X", "name": phase, "pid": 1, "tid": track, "ts": begin_us, "dur": round(end_us - begin_us, 3)}
            )
    with writing(path) as file:
        json.dump({"displayTimeUnit": "ms", "traceEvents": events}, file)
