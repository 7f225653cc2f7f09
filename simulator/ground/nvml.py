"""The one client of NVML: what the NVIDIA driver says of GPUs; None where it does not say.

pynvml is imported when a client is made. A GPU is known by NVML's index, which is nvidia-smi's: CUDA_VISIBLE_DEVICES
changes neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .artefacts import UserError
from .dependency import Dependency, require

PYNVML = Dependency(import_name="pynvml", purpose="watching GPUs", extra="gpu")
# What NVML writes into an unsigned number that it does not know.
NOT_AVAILABLE = (2**32 - 1, 2**64 - 1)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU by NVML's index."""

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


class Nvml:
    """NVML, opened; a UserError says that pynvml is not installed, or that there is no driver."""

    def __init__(self) -> None:
        self._api: Any = require(PYNVML)
        try:
            self._api.nvmlInit()
        except self._api.NVMLError as error:
            raise UserError(f"no NVIDIA driver to ask (NVML says: {error}); watching GPUs needs one") from None
        self._handles: dict[int, Any] = {}
        self._unavailable: dict[int, dict[str, str]] = {}

    def gpus(self) -> tuple[Gpu, ...]:
        """List the GPUs; a UserError says that there is none, or that one cannot be opened."""
        try:
            gpus = tuple(self._open(index) for index in range(self._api.nvmlDeviceGetCount()))
        except self._api.NVMLError as error:
            raise UserError(f"the NVIDIA driver lists no GPUs (NVML says: {error})") from None
        if not gpus:
            raise UserError("the NVIDIA driver finds no GPU on this machine")
        return gpus

    def gpu_at(self, pci_bus_id: str) -> Gpu:
        """Return the GPU at a PCI address, as CUDA writes it; a UserError says that NVML does not know it."""
        return self._find("nvmlDeviceGetHandleByPciBusId", pci_bus_id.encode(), f"at {pci_bus_id}")

    def gpu_named(self, uuid: str) -> Gpu:
        """Return the GPU of a UUID, `GPU-...`; a UserError says that NVML does not know it."""
        return self._find("nvmlDeviceGetHandleByUUID", uuid, f"named {uuid}")

    def _find(self, function: str, key: str | bytes, words: str) -> Gpu:
        try:
            handle = getattr(self._api, function)(key)
            return self._open(int(self._api.nvmlDeviceGetIndex(handle)))
        except self._api.NVMLError as error:
            raise UserError(f"the NVIDIA driver knows no GPU {words} (NVML says: {error})") from None

    def _open(self, index: int) -> Gpu:
        handle = self._api.nvmlDeviceGetHandleByIndex(index)
        self._handles[index], self._unavailable[index] = handle, {}
        name, uuid = (self._ask(index, what, (f"nvmlDeviceGet{what}",)) for what in ("Name", "UUID"))
        self._unavailable[index].clear()
        return Gpu(index=index, name=str(name or "unknown"), uuid=uuid)

    def _ask(self, index: int, what: str, *calls: tuple[Any, ...]) -> Any:
        """Make the first call (function, arguments) that answers; None where none does, and the reason is kept."""
        reason = "not in this pynvml"
        for name, *arguments in calls:
            function = getattr(self._api, name, None)
            if function is None:
                continue
            try:
                value = function(self._handles[index], *arguments)
            except self._api.NVMLError as error:
                reason = str(error)
                continue
            if value not in NOT_AVAILABLE:
                return value
            reason = "not available"
        self._unavailable[index][what] = reason
        return None

    def driver_version(self) -> str | None:
        """Return the version of the driver."""
        try:
            version = self._api.nvmlSystemGetDriverVersion()
        except self._api.NVMLError:
            return None
        return version.decode() if isinstance(version, bytes) else str(version)

    def total_energy_mj(self, gpu: Gpu) -> int | None:
        """Return the millijoules that a GPU has taken since the driver was loaded."""
        energy_mj: int | None = self._ask(gpu.index, "total energy", ("nvmlDeviceGetTotalEnergyConsumption",))
        return energy_mj

    def clock_mhz(self, gpu: Gpu, kind: str, *, largest: bool = False) -> int | None:
        """Return the clock of `SM` or `memory` as it is, or the largest that it may have."""
        number = {"SM": self._api.NVML_CLOCK_SM, "memory": self._api.NVML_CLOCK_MEM}[kind]
        call = "nvmlDeviceGetMaxClockInfo" if largest else "nvmlDeviceGetClockInfo"
        clock: int | None = self._ask(gpu.index, f"{'largest ' * largest}{kind} clock", (call, number))
        return clock

    def _limit_w(self, gpu: Gpu, call: str, what: str) -> float | None:
        limit_mw = self._ask(gpu.index, what, (call,))
        return None if limit_mw is None else limit_mw / 1000

    def power_limit_w(self, gpu: Gpu) -> float | None:
        """Return the power at which the driver slows a GPU."""
        return self._limit_w(gpu, "nvmlDeviceGetPowerManagementLimit", "power limit")

    def processes(self, gpu: Gpu) -> set[int] | None:
        """Return the processes that use a GPU, as far as the driver tells of them: not those of other containers."""
        calls = [f"nvmlDeviceGet{kind}RunningProcesses" for kind in ("Compute", "Graphics")]
        answers = [self._ask(gpu.index, "processes", (call,)) for call in calls]
        return None if None in answers else {process.pid for processes in answers for process in processes}

    def facts(self, gpu: Gpu) -> dict[str, Any]:
        """Say what does not change from one moment to the next: driver, clocks at most, power limits, modes."""
        ecc = self._ask(gpu.index, "ECC", ("nvmlDeviceGetEccMode",))
        most = "nvmlDeviceGetPowerManagementDefaultLimit"
        return {
            "driver": self.driver_version(),
            "uuid": gpu.uuid,
            "max_sm_clock_mhz": self.clock_mhz(gpu, "SM", largest=True),
            "max_memory_clock_mhz": self.clock_mhz(gpu, "memory", largest=True),
            "memory_bus_bits": self._ask(gpu.index, "memory bus", ("nvmlDeviceGetMemoryBusWidth",)),
            "power_limit_w": self.power_limit_w(gpu),
            "default_power_limit_w": self._limit_w(gpu, most, "default power limit"),
            "ecc": None if ecc is None else bool(ecc[0]),
            "persistence": self._ask(gpu.index, "persistence mode", ("nvmlDeviceGetPersistenceMode",)),
        }

    def _memory(self, index: int) -> Any:
        """Used and total bytes; version 2 leaves out what the driver reserves, as nvidia-smi does."""
        plain: tuple[Any, ...] = ("nvmlDeviceGetMemoryInfo",)
        version = getattr(self._api, "nvmlMemory_v2", None)
        return self._ask(index, "memory", *([(*plain, version)] if version else []), plain)

    def read(self, gpu: Gpu, time_s: float, timestamp: datetime) -> Reading:
        """Ask one GPU for everything, the energy first; never raises for a value that cannot be had."""
        i, energy_mj = gpu.index, self.total_energy_mj(gpu)
        power_mw = self._ask(i, "power", ("nvmlDeviceGetPowerUsage",))
        busy, memory = self._ask(i, "utilization", ("nvmlDeviceGetUtilizationRates",)), self._memory(i)
        reasons = [(f"nvmlDeviceGetCurrentClocks{word}Reasons",) for word in ("Event", "Throttle")]
        sensor = self._api.NVML_TEMPERATURE_GPU
        return Reading(
            time_s=time_s,
            timestamp=timestamp,
            power_w=None if power_mw is None else power_mw / 1000,
            total_energy_mj=energy_mj,
            utilization_gpu_percent=known(busy, "gpu"),
            utilization_memory_percent=known(busy, "memory"),
            memory_used_bytes=known(memory, "used"),
            memory_total_bytes=known(memory, "total"),
            temperature_c=self._ask(i, "temperature", ("nvmlDeviceGetTemperature", sensor)),
            sm_clock_mhz=self.clock_mhz(gpu, "SM"),
            memory_clock_mhz=self.clock_mhz(gpu, "memory"),
            power_limit_w=self.power_limit_w(gpu),
            clock_event_reasons=self._ask(i, "clock event reasons", *reasons),
        )

    def unavailable(self, gpu: Gpu) -> Mapping[str, str]:
        """Return what could not be had so far, with NVML's reason."""
        return dict(self._unavailable[gpu.index])

    def close(self) -> None:
        """Shut NVML down; it counts how often it was opened, so others in this process keep theirs."""
        try:
            self._api.nvmlShutdown()
        except self._api.NVMLError:
            return  # the driver is gone, and so is what was to be closed


def known(values: Any, name: str) -> int | None:
    """Return a field of what NVML answered; None where it gave no answer or does not know this part."""
    value = getattr(values, name, None)
    return None if value is None or value in NOT_AVAILABLE else int(value)


def reason_names(bits: int) -> tuple[str, ...]:
    """Name the set bits of clock event reasons; bits of a newer driver as hexadecimal numbers."""
    named = tuple(name for bit, name in CLOCK_EVENT_REASONS.items() if bits & bit)
    rest = bits & ~sum(CLOCK_EVENT_REASONS)
    return (*named, hex(rest)) if rest else named
