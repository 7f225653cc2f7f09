"""The monitor against analytic power curves under a clock of its own, and NVML's names against the real package.

Long because every number of NVML is asked on a clock and a driver of its own.
"""

import importlib.util
import inspect
import json
import re
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from cuda_probe.monitor.csv_file import COLUMNS, logging_to
from cuda_probe.monitor.energy import Tally
from cuda_probe.monitor.monitor import Monitor
from simulator.ground import nvml as nvml_module
from simulator.ground.artefacts import UserError
from simulator.ground.nvml import CLOCK_EVENT_REASONS, Gpu, Nvml, Reading, reason_names

FAKE = Path(__file__).parent / "fake_nvml" / "pynvml.py"
EPOCH = datetime(2026, 3, 4, 5, 6, 7, 89_000)
GPU = Gpu(index=0, name="G")

# A power curve with its corners on the grid of the samples, so that the trapezoid rule is exact.
CORNERS_S, CORNERS_W = [0.0, 2.0, 3.0, 4.0, 5.0, 6.0], [50.0, 50.0, 50.0, 300.0, 100.0, 100.0]
IDLE_S, END_S, IDLE_W = 2.0, 6.0, 50.0
AFTER_IDLE_J = 50 * 1 + 175 * 1 + 200 * 1 + 100 * 1

# What the stand-in for NVML says of its first GPU, beside its shares.
POWER = {
    "power_w": 100.0,
    "total_energy_mj": 5_000_000,
    "memory_total_bytes": 80 * 2**30,
    "temperature_c": 41,
    "sm_clock_mhz": 1980,
    "memory_clock_mhz": 2619,
    "power_limit_w": 700.0,
    "clock_event_reasons": 4,
}


def power_w(time_s: float) -> float:
    return float(np.interp(time_s, CORNERS_S, CORNERS_W))


def consumed_j(time_s: float) -> float:
    grid = np.union1d(CORNERS_S, np.linspace(0, time_s, 3))
    grid = grid[grid <= time_s]
    return float(np.trapezoid([power_w(t) for t in grid], grid))


class FakeClock:
    """Jumps to whatever is waited for; from `end_s` on, waits for the event alone and says that it does."""

    def __init__(self, end_s: float = END_S) -> None:
        self.now_s, self.end_s, self.arrived = 0.0, end_s, threading.Event()
        self.waits: list[float] = []

    def monotonic_s(self) -> float:
        return self.now_s

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.now_s)

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        self.waits.append(timeout_s)
        if self.now_s + timeout_s > self.end_s:
            self.arrived.set()
            return event.wait()
        self.now_s += timeout_s
        return False


Values = Mapping[str, float | None]


class FakeReader:
    """GPUs whose readings are functions of the time."""

    def __init__(self, *readings: Callable[[float], Values]) -> None:
        self.readings, self.closed = readings, 0

    def gpus(self) -> tuple[Gpu, ...]:
        return tuple(Gpu(index=i, name=f"G{i}") for i in range(len(self.readings)))

    def read(self, gpu: Gpu, time_s: float, timestamp: datetime) -> Reading:
        return Reading(time_s=time_s, timestamp=timestamp, **self.readings[gpu.index](time_s))

    def unavailable(self, gpu: Gpu) -> Mapping[str, str]:
        return {}

    def close(self) -> None:
        self.closed += 1


def counter(time_s: float) -> Values:
    return {"power_w": power_w(time_s), "total_energy_mj": 10**12 + round(consumed_j(time_s) * 1000)}


def sampled(time_s: float) -> Values:
    return {"power_w": power_w(time_s)}


def watch(*readings: Callable[[float], Values], **more: object) -> Monitor:
    """Run a monitor under the fake clock, to the end of the power curve."""
    settings = {"interval_s": 0.25, "idle_s": IDLE_S, "reader": FakeReader(*readings), "clock": FakeClock()} | more
    with Monitor(**settings) as monitor:
        assert settings["clock"].arrived.wait(30)
    return monitor


def test_trapezoid_is_exact_on_a_piecewise_linear_curve_and_idle_is_subtracted() -> None:
    (gpu,) = watch(sampled).summary().gpus
    assert (gpu.energy_source, gpu.peak_power_w) == ("power samples", 300)
    assert gpu.idle_power_w == pytest.approx(IDLE_W, rel=1e-12)
    assert gpu.energy_window_s == gpu.duration_s == END_S - IDLE_S
    assert gpu.energy_j == pytest.approx(AFTER_IDLE_J, rel=1e-12)
    assert gpu.energy_above_idle_j == pytest.approx(AFTER_IDLE_J - IDLE_W * (END_S - IDLE_S), rel=1e-12)
    assert gpu.average_power_w == pytest.approx(AFTER_IDLE_J / (END_S - IDLE_S), rel=1e-12)
    (gap,) = watch(lambda t: {"power_w": None if t == 3.5 else power_w(t)}).summary().gpus
    assert gap.energy_j == pytest.approx(AFTER_IDLE_J, rel=1e-12)
    # Negative control: it does see where the samples lie.
    (off_the_corners,) = watch(sampled, interval_s=0.8).summary().gpus
    assert off_the_corners.energy_j != pytest.approx(AFTER_IDLE_J, rel=1e-3)


def test_counter_is_used_where_it_is_and_does_not_depend_on_the_samples() -> None:
    for power in ({}, {"power_w": 1.0}):
        (gpu,) = watch(lambda t, power=power: counter(t) | power, interval_s=0.8).summary().gpus
        assert (gpu.energy_source, gpu.counter_resets) == ("total-energy counter", 0)
        assert gpu.energy_j == pytest.approx(consumed_j(IDLE_S + gpu.duration_s) - consumed_j(IDLE_S), abs=2e-3)
        assert gpu.idle_power_w == pytest.approx(IDLE_W, abs=2e-3)
    (alone,) = watch(lambda t: counter(t) | {"power_w": None}).summary().gpus
    assert alone.energy_j == pytest.approx(AFTER_IDLE_J, abs=2e-3)
    assert alone.peak_power_w is None


def test_counter_that_is_reset_is_bridged_by_power_and_one_that_stands_still_is_not_believed() -> None:
    def reset(time_s: float) -> Values:
        before_j = consumed_j(3.5) if time_s >= 3.5 else -1e9
        return {"power_w": power_w(time_s), "total_energy_mj": round((consumed_j(time_s) - before_j) * 1000)}

    summary, still = watch(reset).summary(), watch(lambda t: sampled(t) | {"total_energy_mj": 7}).summary()
    assert summary.gpus[0].counter_resets == 1
    assert summary.gpus[0].energy_j == pytest.approx(AFTER_IDLE_J, abs=5e-3)
    assert any("reset" in note for note in summary.notes)
    assert still.gpus[0].energy_source == "power samples"
    assert still.energy_j == pytest.approx(AFTER_IDLE_J)
    assert any("trapezoid" in note for note in still.notes)


def test_nothing_known_is_none_never_zero() -> None:
    summary = watch(lambda t: {}).summary()
    (gpu,) = summary.gpus
    whole = {k: v for k, v in summary.as_json()["gpus"][0].items() if v is not None}
    assert set(whole) == {"index", "name", "samples", "duration_s", "counter_resets"}
    assert summary.energy_j is summary.energy_above_idle_j is summary.average_power_w is summary.idle_power_w is None
    assert any("energy not known" in note for note in summary.notes)
    assert gpu.samples == 1 + 16 + 1


def test_several_gpus_are_summed_and_one_unknown_makes_the_sum_unknown() -> None:
    both = watch(counter, sampled).summary()
    assert [gpu.energy_source for gpu in both.gpus] == ["total-energy counter", "power samples"]
    assert both.energy_j == pytest.approx(2 * AFTER_IDLE_J, abs=2e-3)
    assert both.idle_power_w == pytest.approx(2 * IDLE_W, abs=2e-3)
    partly = watch(counter, lambda t: {}).summary()
    assert partly.gpus[0].energy_j is not None
    assert partly.energy_j is None


def test_choice_of_gpus() -> None:
    monitor = watch(sampled, counter, sampled, gpus=[2, 1, 2])
    assert [gpu.index for gpu in monitor.summary().gpus] == [2, 1]
    reader = FakeReader(sampled)
    with pytest.raises(UserError, match="no GPU 3, expected one of 0"):
        Monitor(gpus=[3], reader=reader)
    assert reader.closed == 1


def test_without_idle_window_nothing_is_above_it() -> None:
    monitor = watch(counter, idle_s=0.0)
    (gpu,) = monitor.summary().gpus
    assert gpu.duration_s == END_S
    assert gpu.idle_power_w is gpu.energy_above_idle_j is None


def test_peaks_means_and_reasons_over_the_window_alone() -> None:
    def busy(time_s: float) -> Values:
        late = time_s > IDLE_S
        return {
            "temperature_c": 60 if late else 90,
            "memory_used_bytes": int(time_s * 2**20),
            "utilization_gpu_percent": 100 if late else 0,
            "sm_clock_mhz": 2000 - int(time_s),
            "clock_event_reasons": {3.0: 0x4, 4.0: 0x8000}.get(time_s, 0),
        }

    (gpu,) = watch(busy).summary().gpus
    assert gpu.peak_temperature_c == 90  # the first sample of the window is at its beginning
    assert gpu.peak_memory_used_bytes == 6 * 2**20
    assert gpu.average_utilization_gpu == pytest.approx(17 / 18)
    assert (gpu.min_sm_clock_mhz, gpu.max_sm_clock_mhz) == (1994, 1998)
    assert gpu.clock_event_reasons == ("sw_power_cap", "0x8000")


def test_a_busy_gpu_before_the_run_and_short_windows_are_pointed_out() -> None:
    def notes(busy_percent: int, **more: float) -> str:
        busy = lambda t: counter(t) | {"utilization_gpu_percent": busy_percent if t == 1.0 else 0}  # noqa: E731
        return " ".join(watch(busy, **more).summary().notes)

    assert "not idle before the run (30 % busy)" in notes(30)
    assert notes(0) == ""
    assert "1.00 s is short" in notes(0, idle_s=5.0)
    assert "idle power is over 0.5 s only" in notes(0, idle_s=0.5)


def test_samples_lie_on_a_grid_and_missed_ticks_are_left_out() -> None:
    clock, times = FakeClock(), []

    def slow(time_s: float) -> Values:
        times.append(time_s)
        if time_s == 1.0:
            clock.now_s += 0.6  # a driver that hangs for more than two ticks
        return {}

    watch(slow, idle_s=0.0, clock=clock)
    assert times[:9] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.75, 2.0, 2.25, 2.5]
    assert min(clock.waits) >= 0


def test_summary_while_it_runs_and_reader_closed_once_after() -> None:
    reader, clock = FakeReader(counter), FakeClock()
    with Monitor(interval_s=0.25, idle_s=0.0, reader=reader, clock=clock) as monitor:
        assert clock.arrived.wait(30)
        assert (monitor.summary().gpus[0].duration_s, reader.closed) == (END_S, 0)
    assert (monitor.summary().gpus[0].samples, reader.closed) == (26, 1)


def test_an_exception_in_the_block_leaves_a_summary_and_an_interruption_while_idling_closes_the_reader() -> None:
    reader = FakeReader(counter)
    monitor = Monitor(interval_s=0.25, idle_s=0.0, reader=reader, clock=FakeClock())
    with pytest.raises(KeyError), monitor:
        raise KeyError
    assert reader.closed == 1
    assert monitor.summary().gpus[0].samples >= 2
    assert not any(thread.name.endswith("(_watch)") for thread in threading.enumerate())

    def interrupted(_: float) -> Values:
        raise KeyboardInterrupt

    reader = FakeReader(interrupted)
    with pytest.raises(KeyboardInterrupt), Monitor(reader=reader, clock=FakeClock()):
        pytest.fail("the block ran")
    assert reader.closed == 1


def test_a_sink_that_fails_ends_the_log_and_not_the_measurement() -> None:
    calls = []

    def full(gpu: Gpu, reading: Reading) -> None:
        calls.append(reading.time_s)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    monitor = watch(counter, sink=full)
    assert len(calls) == 3
    assert isinstance(monitor.failure, OSError)
    assert monitor.summary().energy_j == pytest.approx(AFTER_IDLE_J, abs=2e-3)
    assert any("log breaks off" in note for note in monitor.summary().notes)


def test_times_that_are_none_are_refused_and_one_sample_has_no_energy() -> None:
    for wrong in ({"interval_s": 0}, {"interval_s": float("nan")}, {"idle_s": -1}, {"idle_s": np.inf}):
        with pytest.raises(UserError, match="not allowed"):
            Monitor(reader=FakeReader(sampled), **wrong)
    tally = Tally(GPU)
    for _ in range(2):
        tally.add(Reading(time_s=1.0, timestamp=EPOCH, power_w=5.0, total_energy_mj=3))
        assert tally.energy() is None


def test_csv_has_the_columns_of_nvidia_smi_and_empty_fields_for_what_is_missing(tmp_path: Path) -> None:
    full = Reading(
        time_s=0.0,
        timestamp=EPOCH,
        **POWER | {"power_w": 123.456, "total_energy_mj": 10**15 + 1, "clock_event_reasons": 0x44},
        utilization_gpu_percent=0,
        utilization_memory_percent=7,
        memory_used_bytes=3 * 2**20 + 5,
    )
    path = tmp_path / "new" / "log.csv"
    with logging_to(path) as append:
        assert path.read_bytes().count(b"\n") == 1
        append(Gpu(index=1, name='A "B", C'), full)
        assert path.read_bytes().count(b"\n") == 2  # before it is closed
        append(Gpu(index=0, name="ß"), Reading(time_s=0.0, timestamp=EPOCH))
    assert path.read_text(encoding="utf-8").splitlines() == [
        "timestamp,index,name,power.draw [W],utilization.gpu [%],utilization.memory [%],memory.used [MiB],"
        "memory.total [MiB],temperature.gpu,clocks.current.sm [MHz],clocks.current.memory [MHz],power.limit [W],"
        "clocks_event_reasons.active,total_energy_consumption [mJ]",
        '2026/03/04 05:06:07.089,1,"A ""B"", C",'
        "123.46,0,7,3,81920,41,1980,2619,700.00,0x0000000000000044,1000000000000001",
        "2026/03/04 05:06:07.089,0,ß" + "," * 11,
    ]
    frame = pd.read_csv(path, parse_dates=["timestamp"])
    assert list(frame.columns) == list(COLUMNS)
    assert frame["timestamp"][0] == pd.Timestamp(EPOCH)
    assert frame["utilization.gpu [%]"].isna().tolist() == [False, True]
    assert frame["name"].tolist() == ['A "B", C', "ß"]


def test_csv_overwrites_only_by_force_and_says_when_it_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("mine")
    with pytest.raises(UserError, match="--force"), logging_to(path):
        pass
    assert path.read_text() == "mine"
    with logging_to(path, force=True):
        pass
    assert path.read_text().startswith("timestamp,")
    for nowhere in (path / "below", *(full for full in [Path("/dev/full")] if full.exists())):
        with pytest.raises(UserError, match="cannot be written"), logging_to(nowhere, force=True):
            pass


def fake_nvml(monkeypatch: pytest.MonkeyPatch, **script: object) -> ModuleType:
    """Load the stand-in as pynvml, with a script."""
    monkeypatch.setenv("FAKE_NVML", json.dumps(script))
    spec = importlib.util.spec_from_file_location("pynvml", FAKE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def opened(monkeypatch: pytest.MonkeyPatch, **script: object) -> tuple[Nvml, Gpu, Reading]:
    """NVML over the stand-in with a script, its first GPU, and a reading of that."""
    fake_nvml(monkeypatch, **script)
    nvml = Nvml()
    return nvml, nvml.gpus()[0], nvml.read(nvml.gpus()[0], 1.5, EPOCH)


def test_nvml_reads_everything_in_its_units(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml, gpu, reading = opened(monkeypatch)
    assert nvml.gpus() == (Gpu(index=0, name="Fake GPU, 80GB", uuid="GPU-0"),)
    shares = {"utilization_gpu_percent": 0, "utilization_memory_percent": 0, "memory_used_bytes": 3 * 2**30}
    assert reading == Reading(time_s=1.5, timestamp=EPOCH, **POWER, **shares)
    assert nvml.unavailable(gpu) == {}


def test_nvml_values_that_are_not_supported_and_sentinels_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in dir(fake_nvml(monkeypatch)) if name.startswith("nvmlDeviceGet")]
    names = [name for name in names if name.removeprefix("nvmlDeviceGet") not in ("Count", "HandleByIndex")]
    for error in (3, 13, 15):
        nvml, gpu, reading = opened(monkeypatch, fails=dict.fromkeys(names, error))
        assert gpu == Gpu(index=0, name="unknown")
        assert reading == Reading(time_s=1.5, timestamp=EPOCH)
        assert len(nvml.unavailable(gpu)) == 9
    sentinels = {"nvmlDeviceGetPowerUsage": 2**32 - 1, "nvmlDeviceGetTotalEnergyConsumption": 2**64 - 1}
    _, _, reading = opened(monkeypatch, gpus=[sentinels])
    assert (reading.power_w, reading.total_energy_mj, reading.temperature_c) == (None, None, 41)


def test_nvml_older_drivers_and_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = "nvmlDeviceGetCurrentClocksEventReasons"
    for script in (
        {"fails": {"v2": 13}, "absent": [reasons]},
        {"absent": ["nvmlMemory_v2"], "fails": {reasons: 13}},
    ):
        nvml, gpu, reading = opened(monkeypatch, **script)
        assert (reading.memory_used_bytes, reading.clock_event_reasons) == (4 * 2**30, 0x20)
        assert nvml.unavailable(gpu) == {}


def test_a_gpu_is_found_by_its_uuid_and_its_processes_are_those_of_both_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    running = {"nvmlDeviceGetComputeRunningProcesses": [7, 9], "nvmlDeviceGetGraphicsRunningProcesses": [9]}
    nvml, _, _ = opened(monkeypatch, gpus=[{}, running])
    gpu = nvml.gpu_named("GPU-1")
    assert gpu == nvml.gpus()[1] == nvml.gpu_at("0000:19:00.0")
    assert nvml.processes(gpu) == {7, 9}
    assert (nvml.clock_mhz(gpu, "memory"), nvml.clock_mhz(gpu, "memory", largest=True)) == (2619, 3201)
    with pytest.raises(UserError, match="no GPU named GPU-2"):
        nvml.gpu_named("GPU-2")
    nvml, gpu, _ = opened(monkeypatch, fails={"nvmlDeviceGetGraphicsRunningProcesses": 3})
    assert nvml.processes(gpu) is None


def test_nvml_without_driver_or_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, fails={"nvmlInit": 12})
    with pytest.raises(UserError, match="NVML Shared Library Not Found"):
        Nvml()
    fake = fake_nvml(monkeypatch, gpus=[])
    with pytest.raises(UserError, match="finds no GPU"):
        Monitor()
    assert fake._opened == 0


def test_monitor_opens_and_closes_nvml_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_nvml(monkeypatch, gpus=[{}, {}])
    clock = FakeClock(2.0)
    with Monitor(interval_s=0.25, idle_s=1.0, clock=clock) as monitor:
        assert clock.arrived.wait(30)
        assert fake._opened == 1
    assert fake._opened == 0
    summary = monitor.summary()
    # The stand-in counts 1 J a read on GPU 0 and 2 J on GPU 1: 1 + 4 + 1 reads.
    assert [gpu.energy_j for gpu in summary.gpus] == [5.0, 10.0]
    assert [gpu.idle_power_w for gpu in summary.gpus] == [4.0, 8.0]
    assert summary.energy_above_idle_j == 15.0 - 12.0


def test_the_stand_in_and_what_we_ask_of_nvml_are_there_in_the_real_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = pytest.importorskip("pynvml")
    assert Path(real.__file__) != FAKE
    fake = fake_nvml(monkeypatch)
    for name, value in vars(fake).items():
        if name.startswith(("NVML_", "nvmlMemory")):
            assert getattr(real, name) == value, name
        elif name.startswith("nvml"):
            assert list(inspect.signature(getattr(real, name)).parameters) == list(inspect.signature(value).parameters)
        elif name.startswith("NVMLError_"):
            assert issubclass(getattr(real, name), real.NVMLError)
    for code, kind in fake.CLASSES.items():
        assert type(real.NVMLError(code)).__name__ == type(fake.NVMLError(code)).__name__ == kind.__name__
        with pytest.raises(real.NVMLError):
            raise real.NVMLError(code)
    source = Path(inspect.getfile(nvml_module)).read_text(encoding="utf-8")
    names = set(re.findall(r"nvml[A-Z]\w+|NVML_\w+|NVMLError", source))
    names -= {"nvmlDeviceGet", "nvmlDeviceGetCurrentClocks"}
    assert len(names) >= 14
    assert not {name for name in names if not hasattr(real, name)}
    reasons = {value for name, value in vars(real).items() if name.startswith("nvmlClocksEventReason")}
    assert set(CLOCK_EVENT_REASONS) <= reasons


def test_reason_names() -> None:
    assert reason_names(0) == ()
    assert reason_names(0x1 | 0x40) == ("gpu_idle", "hw_thermal_slowdown")
    assert reason_names(0x1000) == ("0x1000",)
