"""What a GPU says about itself at one moment, in the units of NVML; None where the driver does not say."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU by NVML's index, which is nvidia-smi's: CUDA_VISIBLE_DEVICES does not change it."""

    index: int
    name: str
    uuid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One sample of one GPU."""

    time_s: float  # monotonic, from any origin
    timestamp: datetime  # wall clock, for the log
    power_w: float | None = None
    total_energy_mj: int | None = None  # since the driver was loaded
    utilization_gpu_percent: int | None = None
    utilization_memory_percent: int | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_c: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    power_limit_w: float | None = None
    clock_event_reasons: int | None = None  # bits, see CLOCK_EVENT_REASONS


class GpuReader(Protocol):
    """What a monitor needs of a driver; `cuda_probe.monitor.Nvml` is the real one."""

    def gpus(self) -> tuple[Gpu, ...]:
        """List the GPUs of this machine."""

    def read(self, gpu: Gpu, time_s: float, timestamp: datetime) -> Reading:
        """Ask one GPU for everything; never raises for a value that cannot be had."""

    def unavailable(self, gpu: Gpu) -> Mapping[str, str]:
        """Return what could not be had so far, and the driver's reason."""

    def close(self) -> None:
        """Let go of the driver."""


# The bits of nvmlDeviceGetCurrentClocksEventReasons, by the names of nvidia-smi.
CLOCK_EVENT_REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}


def reason_names(bits: int) -> tuple[str, ...]:
    """Name the set bits; bits of a newer driver as hexadecimal numbers."""
    named = tuple(name for bit, name in CLOCK_EVENT_REASONS.items() if bits & bit)
    rest = bits & ~sum(CLOCK_EVENT_REASONS)
    return (*named, hex(rest)) if rest else named
