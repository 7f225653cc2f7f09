"""Where the time of decoding goes: phases between marks, by CUDA events on GPUs and a monotonic clock elsewhere.

Over several devices a phase ends when the last of them has done what it was given so far: every mark is noted on all of
them, in time since a start at which all were idle. A draft on a GPU of its own counts as drafting even where nobody
waits for it before the target is given its work.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from simulator.ground.artefacts import writing
from simulator.ground.chrome_trace import ChromeTrace

SAMPLE = "sample"
PHASES = ("prefill", "draft", "verify", SAMPLE, "kv", "other")
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
        settle: Callable[[], object] = lambda: None,
    ) -> None:
        """Take a source of time.

        Args:
            stamp: Returns the present time, at once.
            seconds: Turns stamps into seconds since any moment.
            settle: Called before the start: waits until all devices are idle.
        """
        self.stamp, self.seconds, self.settle = stamp, seconds, settle
        self.phases: list[str] = []
        self.stamps: list[Any] = []

    def start(self) -> None:
        """Begin anew."""
        self.settle()
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


@dataclass(frozen=True, slots=True)
class Lane:
    """The time of one device. stamp: notes it, at once; seconds: turns stamps into seconds since the first."""

    stamp: Callable[[], Any]
    seconds: Callable[[Sequence[Any]], Sequence[float]]


def clock_for(devices: Sequence[str], *, by_processor: bool = False) -> Clock:
    """Return the clock of some torch devices, none of which has to be waited for at every mark but Apple's GPUs.

    by_processor: it shows what the processor did for this process, and nothing of other devices.
    """
    if by_processor:
        return Clock(process_time)
    if any(d.startswith("mps") for d in devices):
        return Clock(mps_stamp, settle=mps_stamp)
    lanes = [Lane(perf_counter, since_first)] if any(not d.startswith("cuda") for d in devices) else []
    gpus = sorted({d for d in devices if d.startswith("cuda")})
    if not gpus:
        return Clock()
    import torch

    def settle() -> None:
        for gpu in gpus:
            torch.cuda.synchronize(gpu)

    return clock_of([*lanes, *map(cuda_lane, gpus)], settle)


def clock_of(lanes: Sequence[Lane], settle: Callable[[], None]) -> Clock:
    """Return a clock that shows, at every mark, when the last of some devices was done."""

    def seconds(stamps: Sequence[Sequence[Any]]) -> list[float]:
        times = [lane.seconds(lane_stamps) for lane, lane_stamps in zip(lanes, zip(*stamps, strict=True), strict=True)]
        return [max(each) for each in zip(*times, strict=True)]

    return Clock(lambda: [lane.stamp() for lane in lanes], seconds, settle)


def mps_stamp() -> float:
    """Return the time when all that an Apple GPU was given is done."""
    import torch

    torch.mps.synchronize()
    return perf_counter()


def since_first(stamps: Sequence[float]) -> list[float]:
    """Return times since the first of them."""
    return [s - stamps[0] for s in stamps]


def cuda_lane(device: str) -> Lane:
    """Return the time of a CUDA device, by events on its current stream."""
    import torch

    stream = torch.cuda.current_stream(device)

    def stamp() -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(stream)
        return event

    def seconds(stamps: Sequence[Any]) -> list[float]:
        stamps[-1].synchronize()
        return [stamps[0].elapsed_time(event) / 1e3 for event in stamps]

    return Lane(stamp, seconds)


def write_chrome_trace(path: Path, tracks: Iterable[tuple[str, Sequence[Span]]]) -> None:
    """Write timelines in the format that Perfetto and chrome://tracing open, one track a name."""
    tracks = list(tracks)
    with writing(path) as file:
        trace = ChromeTrace(file, [("decoding", [name for name, _ in tracks])])
        for track, (_, spans) in enumerate(tracks, 1):
            for phase, begin_s, end_s in spans:
                trace.span(1, track, phase, begin_s, end_s)
        trace.close()
