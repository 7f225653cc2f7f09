"""Watches GPUs from a thread while something runs: power, energy, utilisation, memory, temperature, clocks.

with Monitor(interval_s=0.1, idle_s=2.0) as monitor:
    ...
monitor.summary().energy_above_idle_j
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self

from simulator.ground.artefacts import UserError
from simulator.ground.nvml import Gpu, Nvml, Reading

from .energy import IDLE_UTILIZATION_PERCENT, MIN_WINDOW_S, GpuSummary, Tally

Sink = Callable[[Gpu, Reading], None]


class GpuReader(Protocol):
    """What a monitor needs of a driver: `Nvml`, or a test's own."""

    def gpus(self) -> tuple[Gpu, ...]: ...

    def read(self, gpu: Gpu, time_s: float, timestamp: datetime) -> Reading: ...

    def unavailable(self, gpu: Gpu) -> Mapping[str, str]: ...

    def close(self) -> None: ...


class Clock:
    """The time; tests have their own."""

    def monotonic_s(self) -> float:
        """Return seconds from any origin; never goes back."""
        return time.monotonic()

    def now(self) -> datetime:
        """Return local time, as nvidia-smi logs it."""
        return datetime.now()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait for the event; returns whether it happened."""
        return event.wait(timeout_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSummary:
    """What all the watched GPUs did; a sum is None where a part of it is not known."""

    gpus: tuple[GpuSummary, ...]
    interval_s: float
    idle_s: float
    notes: tuple[str, ...]

    @property
    def energy_j(self) -> float | None:
        """Joules of all GPUs."""
        return total([gpu.energy_j for gpu in self.gpus])

    @property
    def energy_above_idle_j(self) -> float | None:
        """Joules of all GPUs beyond idling."""
        return total([gpu.energy_above_idle_j for gpu in self.gpus])

    @property
    def average_power_w(self) -> float | None:
        """Watts of all GPUs together."""
        return total([gpu.average_power_w for gpu in self.gpus])

    @property
    def idle_power_w(self) -> float | None:
        """Watts of all GPUs together before the run."""
        return total([gpu.idle_power_w for gpu in self.gpus])

    def as_json(self) -> dict[str, Any]:
        """Return it as what a JSON file holds."""
        sums = ("energy_j", "energy_above_idle_j", "average_power_w", "idle_power_w")
        return asdict(self) | {"total": {name: getattr(self, name) for name in sums}}


def total(values: Sequence[float | None]) -> float | None:
    """Add up; None where one is missing."""
    there = [v for v in values if v is not None]
    return math.fsum(there) if values and len(there) == len(values) else None


class Monitor:
    """Reads GPUs at an interval from a thread, between `with` and the end of its block.

    Args:
        gpus: Indices as in nvidia-smi; all where None.
        interval_s: Time between samples.
        idle_s: How long to measure before the block begins, for the idle power; 0 for not at all.
        sink: Called with every sample of the block (not those before it), from the thread. When it raises, it is
            called no more, `failure` holds what it raised, and the sums go on.
        reader: Where the numbers come from; NVML where None.
        clock: The time; the machine's where None.

    Raises:
        UserError: No pynvml, driver or GPU; an index that is not there; an interval or idle time that is no time.
    """

    def __init__(
        self,
        *,
        gpus: Sequence[int] | None = None,
        interval_s: float = 0.1,
        idle_s: float = MIN_WINDOW_S,
        sink: Sink | None = None,
        reader: GpuReader | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not (math.isfinite(interval_s) and interval_s > 0):
            raise UserError(f"interval: {interval_s:g} is not allowed, expected seconds above 0")
        if not (math.isfinite(idle_s) and idle_s >= 0):
            raise UserError(f"idle: {idle_s:g} is not allowed, expected seconds from 0")
        self.interval_s, self.idle_s = interval_s, idle_s
        self.sink: Sink | None = sink
        self.failure: Exception | None = None
        self._clock = clock or Clock()
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._reader: GpuReader = reader or Nvml()
        try:
            self.gpus = choose(self._reader.gpus(), gpus)
        except UserError:
            self._reader.close()
            raise
        self._idle, self._tallies = ({gpu.index: Tally(gpu) for gpu in self.gpus} for _ in range(2))

    def __enter__(self) -> Self:
        """Measure the idle power, take the first sample, and go on in the thread."""
        try:
            if self.idle_s:
                self._watch(self._idle, None, until_s=self._clock.monotonic_s() + self.idle_s)
            self.poll()
        except BaseException:
            self._reader.close()
            raise
        self._thread = threading.Thread(target=self._watch, args=(self._tallies, self._log), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop the thread and take the last sample."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.poll()
        self._reader.close()

    def poll(self) -> None:
        """Take one sample of every GPU now."""
        self._sample(self._tallies, self._log)

    def _watch(self, tallies: dict[int, Tally], sink: Sink | None, until_s: float = math.inf) -> None:
        """Sample on a fixed grid until told to stop or, with a last sample, until the time has come."""
        began_s = now_s = self._clock.monotonic_s()
        ticks = 0
        if math.isfinite(until_s):
            self._sample(tallies, sink)
        while now_s < until_s:
            ticks = max(ticks, math.floor((now_s - began_s) / self.interval_s)) + 1  # missed ticks are left out
            due_s = min(began_s + ticks * self.interval_s, until_s)
            if self._clock.wait(self._stop, max(due_s - now_s, 0.0)):
                return
            self._sample(tallies, sink)
            now_s = max(self._clock.monotonic_s(), due_s)

    def _sample(self, tallies: dict[int, Tally], sink: Sink | None) -> None:
        for gpu in self.gpus:
            reading = self._reader.read(gpu, self._clock.monotonic_s(), self._clock.now())
            with self._lock:
                tallies[gpu.index].add(reading)
            if sink is not None:
                sink(gpu, reading)

    def _log(self, gpu: Gpu, reading: Reading) -> None:
        if self.sink is None:
            return
        try:
            self.sink(gpu, reading)
        except Exception as error:  # a full disk, mostly: what is watched must not suffer from it
            self.sink, self.failure = None, error

    def summary(self) -> MonitorSummary:
        """Sum up what was seen so far; also while it runs."""
        with self._lock:
            idle = {index: tally.energy() for index, tally in self._idle.items()}
            powers = {index: energy.average_power_w if energy else None for index, energy in idle.items()}
            gpus = tuple(tally.summary(powers[index]) for index, tally in self._tallies.items())
            notes = [note for tally in self._tallies.values() for note in tally.notes()]
        notes += [*self._idle_notes(), *self._gaps()]
        return MonitorSummary(gpus=gpus, interval_s=self.interval_s, idle_s=self.idle_s, notes=tuple(notes))

    def _idle_notes(self) -> list[str]:
        """Say what is doubtful about the idle power."""
        if not self.idle_s:
            return []
        notes = [f"idle power is over {self.idle_s:g} s only"] if self.idle_s < MIN_WINDOW_S else []
        for index, tally in self._idle.items():
            busy = tally.peak_utilization_percent
            if busy is not None and busy > IDLE_UTILIZATION_PERCENT:
                notes.append(f"GPU {index}: was not idle before the run ({busy:.0f} % busy), energy above idle is low")
        return notes

    def _gaps(self) -> list[str]:
        """Say what the driver does not tell, and whether the log broke off."""
        notes = [] if self.failure is None else [f"the log breaks off: {self.failure}"]
        for gpu in self.gpus:
            if reasons := self._reader.unavailable(gpu):
                listed = ", ".join(f"{what} ({reason})" for what, reason in reasons.items())
                notes.append(f"GPU {gpu.index}: the driver did not give {listed}")
        return notes


def choose(present: Sequence[Gpu], wanted: Sequence[int] | None) -> tuple[Gpu, ...]:
    """Pick GPUs by index, each once, all where none is named; refuses an index that is not there."""
    by_index = {gpu.index: gpu for gpu in present}
    for index in wanted or ():
        if index not in by_index:
            raise UserError(f"--gpu: there is no GPU {index}, expected one of {', '.join(map(str, by_index))}")
    return tuple(by_index[index] for index in dict.fromkeys(wanted or by_index))
