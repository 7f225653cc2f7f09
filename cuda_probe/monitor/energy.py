"""Energy and peaks of a GPU over a window, from its readings.

The energy comes from the driver's total-energy counter where the device has one that moves, else from a trapezoid over
the power samples; the summary says which. What is not known is None, never 0.
"""

from dataclasses import dataclass
from typing import Literal

from simulator.ground.nvml import Gpu, Reading, reason_names

Source = Literal["total-energy counter", "power samples"]

# The driver refreshes counter and power every 20 to 100 ms: an error of up to 5 % at either end of a window of 2 s.
MIN_WINDOW_S = 2.0
# Above this share of busy time, what was measured before the run was not an idle GPU.
IDLE_UTILIZATION_PERCENT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Joules over a window, and where they come from."""

    energy_j: float
    window_s: float
    source: Source
    counter_resets: int = 0

    @property
    def average_power_w(self) -> float | None:
        """Watts over the window; None for a window of no length."""
        return self.energy_j / self.window_s if self.window_s > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSummary:
    """What one GPU did over the window."""

    index: int
    name: str
    uuid: str | None
    samples: int
    duration_s: float
    energy_j: float | None
    energy_source: Source | None
    energy_window_s: float | None
    counter_resets: int
    average_power_w: float | None
    idle_power_w: float | None
    energy_above_idle_j: float | None
    peak_power_w: float | None
    power_limit_w: float | None
    peak_temperature_c: int | None
    peak_memory_used_bytes: int | None
    memory_total_bytes: int | None
    average_utilization_gpu: float | None  # 0 to 1, mean over samples
    average_utilization_memory: float | None
    min_sm_clock_mhz: int | None
    max_sm_clock_mhz: int | None
    clock_event_reasons: tuple[str, ...] | None


class CounterEnergy:
    """Sums the increments of the counter; over a reset it takes the power samples instead."""

    def __init__(self) -> None:
        self._first_s: float | None = None
        self._last = (0.0, 0, 0.0)  # time, counter, energy of the power samples up to there
        self._millijoules = 0
        self._bridged_j = 0.0
        self._resets = 0

    def add(self, time_s: float, counter_mj: int, sampled_j: float) -> None:
        """Take the next value; `sampled_j` is the trapezoid over the power samples up to now."""
        _, before_mj, before_j = self._last
        if self._first_s is None:
            self._first_s = time_s
        elif counter_mj >= before_mj:
            self._millijoules += counter_mj - before_mj
        else:
            self._resets += 1
            self._bridged_j += sampled_j - before_j
        self._last = (time_s, counter_mj, sampled_j)

    def energy(self) -> Energy | None:
        """Return what was counted; None before the second value."""
        if self._first_s is None or self._last[0] <= self._first_s:
            return None
        return Energy(
            energy_j=self._millijoules / 1000 + self._bridged_j,
            window_s=self._last[0] - self._first_s,
            source="total-energy counter",
            counter_resets=self._resets,
        )


class SampledEnergy:
    """The trapezoid rule over power samples; bridges samples without a power."""

    def __init__(self) -> None:
        self._first_s: float | None = None
        self._last = (0.0, 0.0)
        self.joules = 0.0

    def add(self, time_s: float, power_w: float) -> None:
        """Take the next sample."""
        before_s, before_w = self._last
        if self._first_s is None:
            self._first_s = time_s
        else:
            self.joules += (time_s - before_s) * (power_w + before_w) / 2
        self._last = (time_s, power_w)

    def energy(self) -> Energy | None:
        """Return the integral; None before the second sample."""
        if self._first_s is None or self._last[0] <= self._first_s:
            return None
        return Energy(energy_j=self.joules, window_s=self._last[0] - self._first_s, source="power samples")


@dataclass(slots=True)
class Range:
    """Least, greatest and mean of the values that were there."""

    count: int = 0
    total: float = 0
    least: float | None = None
    greatest: float | None = None

    def add(self, value: float | None) -> None:
        """Take a value, or nothing."""
        if value is None:
            return
        self.count += 1
        self.total += value
        self.least = value if self.least is None else min(self.least, value)
        self.greatest = value if self.greatest is None else max(self.greatest, value)

    @property
    def mean(self) -> float | None:
        """The mean; None of nothing."""
        return self.total / self.count if self.count else None


FOLLOWED = (
    "power_w",
    "power_limit_w",
    "temperature_c",
    "memory_used_bytes",
    "memory_total_bytes",
    "utilization_gpu_percent",
    "utilization_memory_percent",
    "sm_clock_mhz",
)


class Tally:
    """Sums up the readings of one GPU as they come, in memory that does not grow."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.samples = 0
        self._first_s = self._last_s = 0.0
        self._counted, self._sampled = CounterEnergy(), SampledEnergy()
        self._ranges = {name: Range() for name in FOLLOWED}
        self._reasons: int | None = None

    def add(self, reading: Reading) -> None:
        """Take the next reading; times must not go back."""
        if not self.samples:
            self._first_s = reading.time_s
        self.samples += 1
        self._last_s = reading.time_s
        if reading.power_w is not None:
            self._sampled.add(reading.time_s, reading.power_w)
        if reading.total_energy_mj is not None:
            self._counted.add(reading.time_s, reading.total_energy_mj, self._sampled.joules)
        for name, values in self._ranges.items():
            values.add(getattr(reading, name))
        if reading.clock_event_reasons is not None:
            self._reasons = (self._reasons or 0) | reading.clock_event_reasons

    @property
    def duration_s(self) -> float:
        """Time between the first and the last reading."""
        return self._last_s - self._first_s

    @property
    def peak_utilization_percent(self) -> float | None:
        """The busiest sample."""
        return self._ranges["utilization_gpu_percent"].greatest

    def energy(self) -> Energy | None:
        """Return the energy up to the last reading; None where neither counter nor power is known.

        That of the counter, unless it stood still under power or saw less of the window than the samples.
        """
        counted, sampled = self._counted.energy(), self._sampled.energy()
        if counted is None or sampled is None:
            return counted or sampled
        stood_still = counted.energy_j == 0 and sampled.energy_j > 0
        return sampled if stood_still or counted.window_s < sampled.window_s else counted

    def summary(self, idle_power_w: float | None = None) -> GpuSummary:
        """Sum up; `idle_power_w` is what the GPU drew before the window."""
        energy, peak = self.energy(), {name: values.greatest for name, values in self._ranges.items()}
        above_idle_j = None  # below 0 where the difference was noise, or the GPU not idle before
        if energy is not None and idle_power_w is not None:
            above_idle_j = energy.energy_j - idle_power_w * energy.window_s
        busy, memory = (self._ranges[f"utilization_{part}_percent"].mean for part in ("gpu", "memory"))
        return GpuSummary(
            index=self.gpu.index,
            name=self.gpu.name,
            uuid=self.gpu.uuid,
            samples=self.samples,
            duration_s=self.duration_s,
            energy_j=energy.energy_j if energy else None,
            energy_source=energy.source if energy else None,
            energy_window_s=energy.window_s if energy else None,
            counter_resets=energy.counter_resets if energy else 0,
            average_power_w=energy.average_power_w if energy else None,
            idle_power_w=idle_power_w,
            energy_above_idle_j=above_idle_j,
            peak_power_w=peak["power_w"],
            power_limit_w=peak["power_limit_w"],
            peak_temperature_c=whole(peak["temperature_c"]),
            peak_memory_used_bytes=whole(peak["memory_used_bytes"]),
            memory_total_bytes=whole(peak["memory_total_bytes"]),
            average_utilization_gpu=None if busy is None else busy / 100,
            average_utilization_memory=None if memory is None else memory / 100,
            min_sm_clock_mhz=whole(self._ranges["sm_clock_mhz"].least),
            max_sm_clock_mhz=whole(peak["sm_clock_mhz"]),
            clock_event_reasons=None if self._reasons is None else reason_names(self._reasons),
        )

    def notes(self) -> tuple[str, ...]:
        """Say what makes the energy worth less than it looks."""
        energy, notes = self.energy(), []
        label = f"GPU {self.gpu.index}"
        if energy is None:
            return (f"{label}: energy not known, the driver gives neither a counter nor power over two samples",)
        if energy.source == "power samples":
            notes.append(f"{label}: no total-energy counter, energy is a trapezoid over power samples")
        if energy.counter_resets:
            notes.append(f"{label}: the counter was reset {energy.counter_resets} x, bridged by power samples")
        if energy.window_s < MIN_WINDOW_S:
            notes.append(f"{label}: {energy.window_s:.2f} s is short for a driver that refreshes every 20-100 ms")
        return tuple(notes)


def whole(value: float | None) -> int | None:
    """Give back as an integer what went in as one."""
    return None if value is None else int(value)
