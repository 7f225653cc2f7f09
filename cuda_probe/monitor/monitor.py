"""Watches GPUs from a thread while something runs: power, energy, utilisation, memory, temperature, clocks.

    with Monitor(interval_s=0.1, idle_s=2.0) as monitor:
        ...
    monitor.summary().energy_above_idle_j

NVML is called here and nowhere else.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from simulator.ground.artefacts import UserError
from simulator.ground.dependency import Dependency, require

from .energy import IDLE_UTILIZATION_PERCENT, MIN_WINDOW_S, GpuSummary, Tally
from .reading import Gpu, GpuReader, Reading

NVML = Dependency(import_name="pynvml", purpose="watching GPUs", extra="gpu")
# What NVML writes into an unsigned number that it does not know.
NOT_AVAILABLE = (2**32 - 1, 2**64 - 1)
MIB = 2**20

Sink = Callable[[Gpu, Reading], None]


class Nvml:
    """The driver's own numbers, through pynvml.

    Raises:
        UserError: pynvml is not installed, or there is no driver, or no GPU.
    """

    def __init__(self) -> None:
        self._api: Any = require(NVML)
        try:
            self._api.nvmlInit()
        except self._api.NVMLError as error:
            raise UserError(f"no NVIDIA driver to ask (NVML says: {error}); watching GPUs needs one") from None
        self._handles: dict[int, Any] = {}
        self._unavailable: dict[int, dict[str, str]] = {}

    def gpus(self) -> tuple[Gpu, ...]:
        """List the GPUs.

        Raises:
            UserError: There is none, or one cannot be opened.
        """
        try:
            found = tuple(self._open(index) for index in range(self._api.nvmlDeviceGetCount()))
        except self._api.NVMLError as error:
            raise UserError(f"the NVIDIA driver lists no GPUs (NVML says: {error})") from None
        if not found:
            raise UserError("the NVIDIA driver finds no GPU on this machine")
        return found

    def gpu_at(self, pci_bus_id: str) -> Gpu:
        """Return the GPU at a PCI address, as CUDA tells it.

        Raises:
            UserError: NVML does not know it.
        """
        try:
            handle = self._api.nvmlDeviceGetHandleByPciBusId(pci_bus_id.encode())
            return self._open(int(self._api.nvmlDeviceGetIndex(handle)))
        except self._api.NVMLError as error:
            raise UserError(f"the NVIDIA driver knows no GPU at {pci_bus_id} (NVML says: {error})") from None

    def facts(self, gpu: Gpu) -> dict[str, Any]:
        """Say what does not change from one moment to the next: driver, clocks at most, power limits, modes."""
        i, api = gpu.index, self._api
        clock, most = "nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetPowerManagementDefaultLimit"
        limits_mw = [self._ask(i, what, (what,)) for what in ("nvmlDeviceGetPowerManagementLimit", most)]
        ecc = self._ask(i, "ECC", ("nvmlDeviceGetEccMode",))
        try:
            driver = api.nvmlSystemGetDriverVersion()
        except api.NVMLError:
            driver = None
        return {
            "driver": driver.decode() if isinstance(driver, bytes) else driver,
            "uuid": gpu.uuid,
            "max_sm_clock_mhz": self._ask(i, "largest SM clock", (clock, api.NVML_CLOCK_SM)),
            "max_memory_clock_mhz": self._ask(i, "largest memory clock", (clock, api.NVML_CLOCK_MEM)),
            "memory_bus_bits": self._ask(i, "memory bus", ("nvmlDeviceGetMemoryBusWidth",)),
            "power_limit_w": None if limits_mw[0] is None else limits_mw[0] / 1000,
            "default_power_limit_w": None if limits_mw[1] is None else limits_mw[1] / 1000,
            "ecc": None if ecc is None else bool(ecc[0]),
            "persistence": self._ask(i, "persistence mode", ("nvmlDeviceGetPersistenceMode",)),
        }

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

    def _memory(self, index: int) -> Any:
        """Used and total bytes; version 2 leaves out what the driver reserves, as nvidia-smi does."""
        plain: tuple[Any, ...] = ("nvmlDeviceGetMemoryInfo",)
        version = getattr(self._api, "nvmlMemory_v2", None)
        return self._ask(index, "memory", *([(*plain, version)] if version else []), plain)

    def read(self, gpu: Gpu, time_s: float, timestamp: datetime) -> Reading:
        """Ask one GPU for everything, the energy first."""
        i, api = gpu.index, self._api
        energy_mj = self._ask(i, "total energy", ("nvmlDeviceGetTotalEnergyConsumption",))
        power_mw = self._ask(i, "power", ("nvmlDeviceGetPowerUsage",))
        limit_mw = self._ask(i, "power limit", ("nvmlDeviceGetPowerManagementLimit",))
        busy = self._ask(i, "utilization", ("nvmlDeviceGetUtilizationRates",))
        memory = self._memory(i)
        clock = "nvmlDeviceGetClockInfo"
        reasons = [(f"nvmlDeviceGetCurrentClocks{word}Reasons",) for word in ("Event", "Throttle")]
        return Reading(
            time_s=time_s,
            timestamp=timestamp,
            power_w=None if power_mw is None else power_mw / 1000,
            total_energy_mj=energy_mj,
            utilization_gpu_percent=known(busy, "gpu"),
            utilization_memory_percent=known(busy, "memory"),
            memory_used_bytes=known(memory, "used"),
            memory_total_bytes=known(memory, "total"),
            temperature_c=self._ask(i, "temperature", ("nvmlDeviceGetTemperature", api.NVML_TEMPERATURE_GPU)),
            sm_clock_mhz=self._ask(i, "SM clock", (clock, api.NVML_CLOCK_SM)),
            memory_clock_mhz=self._ask(i, "memory clock", (clock, api.NVML_CLOCK_MEM)),
            power_limit_w=None if limit_mw is None else limit_mw / 1000,
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
        self._idle, self._tallies = self._new_tallies(), self._new_tallies()

    def _new_tallies(self) -> dict[int, Tally]:
        return {gpu.index: Tally(gpu) for gpu in self.gpus}

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
        found = [f"idle power is over {self.idle_s:g} s only"] if self.idle_s < MIN_WINDOW_S else []
        for index, tally in self._idle.items():
            busy = tally.peak_utilization_percent
            if busy is not None and busy > IDLE_UTILIZATION_PERCENT:
                found.append(f"GPU {index}: was not idle before the run ({busy:.0f} % busy), energy above idle is low")
        return found

    def _gaps(self) -> list[str]:
        """Say what the driver does not tell, and whether the log broke off."""
        found = [] if self.failure is None else [f"the log breaks off: {self.failure}"]
        for gpu in self.gpus:
            reasons = self._reader.unavailable(gpu)
            if reasons:
                listed = ", ".join(f"{what} ({reason})" for what, reason in reasons.items())
                found.append(f"GPU {gpu.index}: the driver did not give {listed}")
        return found


def choose(present: Sequence[Gpu], wanted: Sequence[int] | None) -> tuple[Gpu, ...]:
    """Pick GPUs by index, each once; all where nothing is wanted.

    Raises:
        UserError: An index that is not there.
    """
    by_index = {gpu.index: gpu for gpu in present}
    for index in wanted or ():
        if index not in by_index:
            raise UserError(f"--gpu: there is no GPU {index}, expected one of {', '.join(map(str, by_index))}")
    return tuple(by_index[index] for index in dict.fromkeys(wanted or by_index))
