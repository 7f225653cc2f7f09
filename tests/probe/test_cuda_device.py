"""The CUDA device over an emulated CuPy: real kernels on the processor, counted time, faults on demand.

Long because one emulated device stands in for every fault that a real one may have.
"""

import gc
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cuda_probe import devices
from cuda_probe.kernels import probe_kernels
from cuda_probe.kernels.probe_kernels import Geometry
from cuda_probe.probe.probes import PROBES, DeviceFault, select_probes
from cuda_probe.probe.report import load_probe
from cuda_probe.probe.runner import QUICK, plan, run_probes, timed_ms
from simulator.ground.artefacts import UserError

HERE = Path(__file__).parent
FAKES = (HERE / "fake_cupy", HERE / "fake_nvml")
Run = Callable[..., subprocess.CompletedProcess[str]]
RULE = replace(QUICK, warm_up_s=0.0, warm_ups=1)
T, LAP, LAUNCH_S = 64, 64, 2e-3
AXES: dict[str, tuple[Any, ...]] = {
    "draft_n": (1, 2, 5),
    "work_flops": (3, 8, 70),
    "work_mem": (1, 20, 70),
    "buffer_bytes": (4 * 5003,),
    "size": (48,),
    "weight": ("96x130",),
    "dtype": ("float32", "float16", "bfloat16"),
    "tokens": (1, 5),
}
STEP = {"work_flops": 3, "work_mem": 3}
PLACES: dict[str, dict[str, Any]] = {
    "burn_flops": {"work_flops": 5},
    "burn_memory": {"work_mem": 20},
    "draft": STEP | {"draft_n": 4},
    "draft_graph": STEP | {"draft_n": 4},
    "verify": STEP | {"draft_n": 4},
    "baseline": STEP,
    **{name: {"buffer_bytes": 4 * 5003} for name in ("read", "write", "copy", "triad")},
}


def foreign(name: str) -> bool:
    ours = ("cuda_probe.devices.cuda", "cuda_probe.devices.products")
    return name.split(".")[0] in ("cupy", "pynvml") or name in ours


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the CUDA device and the emulated machine, in a grid of 64 threads."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if foreign(name)}
    for folder in FAKES:
        monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("FAKE_NVML", json.dumps({"fails": {"nvmlInit": 9}}))
    monkeypatch.setattr(Geometry, "filling", classmethod(lambda cls, multiprocessors: Geometry(2, 32)))
    device: ModuleType = importlib.import_module("cuda_probe.devices.cuda")
    emulation = sys.modules["cupy.cuda.emulation"]
    emulation.restart(l2_bytes=4 * T * LAP // 4)
    monkeypatch.setattr(device.CudaDevice, "axis_values", lambda self, probe, quick: AXES)
    yield SimpleNamespace(
        module=device, machine=emulation.machine, restart=emulation.restart, cupy=sys.modules["cupy"],
        open=lambda index=0: device.open_device(index),
    )  # fmt: skip
    for name in [name for name in sys.modules if foreign(name)]:
        del sys.modules[name]
        if name.startswith("cuda_probe."):
            delattr(devices, name.rpartition(".")[2])  # `from . import` asks the package first
    sys.modules.update(before)


@pytest.fixture
def device(cuda: Any) -> Iterator[Any]:
    opened = cuda.open()
    yield opened
    opened.close()


def fault_of(device: Any, probe: str, axes: dict[str, Any]) -> str | None:
    with device.prepare(probe, axes, seed=0) as job:
        return job.check()


def test_every_point_of_every_probe_is_right_and_takes_its_launches(cuda: Any, device: Any) -> None:
    planned = plan(device, PROBES, {}, quick=True)
    results = run_probes(device, planned, RULE, seed=1)
    assert results.left_out == ()
    assert len(results.points) == len(planned) > 100
    for point in results.points:
        launches = point.axes["draft_n"] if point.probe in ("draft", "draft_graph") else 1
        assert point.measurement.median_s == pytest.approx(LAUNCH_S * launches), point
        assert point.measurement.batch == (100 if point.probe == "empty_graph" else 1)
        assert not point.measurement.flushed
    assert json.loads(json.dumps(results.device)) == results.device
    seven_s = device.clock.elapsed_s(lambda: probe_kernels.empty(device, device.geometry), 7)
    assert seven_s == pytest.approx(7 * LAUNCH_S)


def test_the_grid_the_buffer_and_the_units_follow_the_device(cuda: Any, device: Any) -> None:
    assert (device.geometry.threads, device.mem_len) == (T, T * LAP)
    assert 4 * device.mem_len >= 4 * device.cache_bytes
    assert (device.units.workmem_bytes, device.units.workflops_flop) == (8 * T, 6 * T)
    cuda.restart(l2_bytes=0)  # a device that tells no cache still has a float for every thread
    cacheless = cuda.open()
    assert cacheless.mem_len == T
    assert fault_of(cacheless, "burn_memory", {"work_mem": 3}) is None
    with cacheless.prepare("burn_memory", {"work_mem": 3}, seed=0) as job:
        job.launch()
        job.launch()


def test_points_give_their_memory_back(cuda: Any, device: Any) -> None:
    gc.collect()
    before = cuda.machine.used_bytes
    for planned in plan(device, PROBES, {}, quick=True)[::5]:
        with device.prepare(planned.probe.name, planned.axes, seed=0) as job:
            assert job.check() is None
        del job
    gc.collect()
    assert cuda.machine.used_bytes == before


def test_timed_wrappers_return_milliseconds_and_refuse_a_wrong_result(cuda: Any, device: Any) -> None:
    assert timed_ms(device, "draft", draft_n=5, **STEP) == pytest.approx(5e3 * LAUNCH_S)
    assert timed_ms(device, "empty_graph") == pytest.approx(1e3 * LAUNCH_S)
    cuda.machine.fails["wrong gemm"] = True
    with pytest.raises(ArithmeticError, match=r"^matmul: not the product"):
        timed_ms(device, "matmul", size=8, dtype="float32")


def test_the_checks_of_a_step_are_made_once_a_seed(cuda: Any, device: Any) -> None:
    assert fault_of(device, "draft", PLACES["draft"]) is None
    first = len(cuda.machine.log)
    assert fault_of(device, "verify", PLACES["verify"]) is None
    assert len(cuda.machine.log) - first < 10 < first


@pytest.mark.parametrize(("draft_n", "work_mem", "graphs"), [(2, 3, 11), (1, 1, 64), (4, LAP, 1), (1, 0, 1)])
def test_a_graph_walks_on_through_the_whole_buffer(
    device: Any, cuda: Any, monkeypatch: pytest.MonkeyPatch, draft_n: int, work_mem: int, graphs: int
) -> None:
    made: list[Any] = []
    allocate = cuda.module.Buffers.allocate
    monkeypatch.setattr(cuda.module.Buffers, "allocate", lambda *given: made.append(allocate(*given)) or made[-1])
    axes = {"draft_n": draft_n, "work_flops": 1, "work_mem": work_mem}
    touched = []
    with device.prepare("draft_graph", axes, seed=0) as job:
        for _ in range(graphs + 1):  # and round again
            made[0].memory.fill(0)
            job.launch()
            touched.append(set(np.flatnonzero(made[0].memory.get())))
    assert touched.pop() == touched[0]
    assert all(len(places) == min(draft_n * work_mem, LAP) * T for places in touched)
    if graphs > 1:
        assert all(not one & other for one, other in pairwise(touched))
    if work_mem:
        assert set.union(*touched) == set(range(T * LAP))


def test_a_graph_of_a_long_walk_is_many_graphs_but_not_too_many(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    captured: list[int] = []
    take = device.captured
    monkeypatch.setattr(device, "captured", lambda run, count=1: captured.append(count) or take(run, count))
    device.mem_len = 1000 * T
    with device.prepare("draft_graph", {"draft_n": 1, "work_flops": 1, "work_mem": 1}, seed=0) as job:
        assert job.check() is None
    assert captured == [256]


STEPS = ("draft", "draft_graph", "verify", "baseline")
MUTANTS = {
    "an iteration less": ("i < iterations; ++i", "i + 1 < iterations; ++i", ("burn_flops", *STEPS)),
    "a step of the map less": ("advance(advance(advance(x)))", "advance(advance(x))", ("burn_flops", *STEPS)),
    "begins anywhere": ("start_value(previous)", "start_value(previous & 0u)", STEPS),
    "one accepted too many": ("__ffs(~matches) - 1", "__ffs(~matches)", STEPS),
    "the first lanes alone": ("base < draft_n && matches", "base < 1 && matches", STEPS),
    "another seed": ("noise(seed, position)", "noise(seed + 1, position)", STEPS),
    "no errors": ("errs ? (token + 1 == vocab ? 0 : token + 1) : token", "errs ? token : token", STEPS),
    "the token before": ("tokens[to] = token_of(state", "tokens[to] = token_of(previous", STEPS),
    "no token to go on from": ("chain[0] = state;", "", STEPS),
    "arithmetic of K tokens": ("work_flops * (draft_n + 1)", "work_flops * draft_n", STEPS),
    "a pass too few": ("passes -= count;", "passes -= count + 1;", ("burn_memory",)),
    "no walk": ("at += count * stride;", "at += 0;", ("burn_memory",)),
    "always from the front": ("long long at = own + first_pass * stride;", "long long at = own;", STEPS),
    "a stale buffer": ("j * stride] = advance(value[j]);", "j * stride] = value[j];", ("burn_memory", *STEPS)),
    "no tail": ("i = 4 * vectors + own;", "i = 4 * vectors + own + 3;", ("read", "write", "copy", "triad")),
    "half the vectors": ("i < vectors; i += stride)", "i < vectors / 2; i += stride)",
                         ("read", "write", "copy", "triad")),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_kernel_is_found(cuda: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    old, new, probes = MUTANTS[name]
    source = probe_kernels.SOURCE.read_text()
    assert old in source
    (tmp_path / "probe.cu").write_text(source.replace(old, new))
    monkeypatch.setattr(probe_kernels, "SOURCE", tmp_path / "probe.cu")
    device = cuda.open()
    assert [probe for probe in probes if fault_of(device, probe, PLACES[probe]) is None] == []


def test_a_wrong_product_is_found(cuda: Any, device: Any) -> None:
    for probe, axes in (("matmul", {"size": 37}), ("skinny", {"weight": "96x130", "tokens": 5})):
        for dtype in AXES["dtype"]:
            cuda.machine.fails.pop("wrong gemm", None)
            assert fault_of(device, probe, axes | {"dtype": dtype}) is None
            cuda.machine.fails["wrong gemm"] = True
            assert fault_of(device, probe, axes | {"dtype": dtype}) == "not the product of activations and weights"


def test_one_wrong_element_is_found_however_the_matrices_are_cut(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    products = importlib.import_module("cuda_probe.devices.products")
    monkeypatch.setattr(products, "CHECKED_ELEMENTS", 100)
    x, weights = (products.small_numbers(shape, seed) for seed, shape in enumerate([(7, 30), (30, 40)]))
    right = x.get() @ weights.get()
    assert products.is_product(x, weights, cuda.cupy.asarray(right), "float32", 0)
    for place in np.ndindex(7, 40):
        for change in (1, 0.5, np.nan):
            wrong = right.copy()
            wrong[place] += change
            assert not products.is_product(x, weights, cuda.cupy.asarray(wrong), "float32", 0)


def test_numbers_are_spread_evenly_and_differ_by_seed(cuda: Any) -> None:
    products = importlib.import_module("cuda_probe.devices.products")
    values, small = products.uniform((100_000,), 1).get(), products.small_numbers((90_000,), 1).get()
    assert -1 <= values.min() < values.max() < 1
    assert abs(values.mean()) < 5 * np.sqrt(1 / 3 / 100_000)
    assert abs((values**2).mean() - 1 / 3) < 5 * np.sqrt(4 / 45 / 100_000)
    counts = np.unique(small, return_counts=True)[1]
    assert len(counts) == 3
    assert abs(counts - 30_000).max() < 5 * np.sqrt(90_000 * 2 / 9)
    assert abs(np.corrcoef(values, products.uniform((100_000,), 2).get())[0, 1]) < 5 / np.sqrt(100_000)


def test_weights_go_round_so_that_no_cache_holds_them(cuda: Any, device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    cublas = cuda.cupy.cuda.cublas
    gemm = cublas.gemmEx
    monkeypatch.setattr(cublas, "gemmEx", lambda *given: used.append(given[7]) or gemm(*given))
    for probe, axes in (("skinny", {"weight": "16x32", "tokens": 2}), ("matmul", {"size": 16})):
        with device.prepare(probe, axes | {"dtype": "float16"}, seed=0) as job:
            assert job.misses_cache
            used.clear()
            for _ in range(40):
                job.launch()
        copies = -(-4 * device.cache_bytes // (2 * 16 * 32)) if probe == "skinny" else 1
        assert len(set(used)) == copies
        assert used[:copies] == used[copies : 2 * copies]


def run_quick(device: Any, *names: str) -> tuple[set[str], list[tuple[str, str, bool]]]:
    """The probes that were measured; and what was left out, why, and whether that is a failure."""
    results = run_probes(device, plan(device, select_probes(names), {}, quick=True), RULE)
    return {p.probe for p in results.points}, [(left.probe, left.reason, left.failed) for left in results.left_out]


@pytest.mark.parametrize(
    ("fault", "failing", "others", "reason"),
    [
        (
            {"compile": "probe.cu(12): error: no such thing"},
            "empty draft_graph",
            "matmul",
            "probe.cu(12): error: no such",
        ),
        ({"cublas": "Failure finding libcublasLt"}, "skinny matmul", "write", "Failure finding libcublasLt"),
        ({"gemm": 13}, "matmul", "copy triad", "CUBLAS_STATUS_EXECUTION_FAILED"),
        ({"stream_copy": 9}, "copy", "triad matmul", "cudaErrorInvalidC"),
    ],
)
def test_a_fault_fails_what_needs_it_alone(cuda: Any, fault: dict[str, Any], failing: str, others: str, reason: str):
    cuda.restart(fails=fault)
    device = cuda.open()
    measured, left_out = run_quick(device, *failing.split(), *others.split())
    assert measured == set(others.split())
    assert {probe for probe, _, _ in left_out} == set(failing.split())
    assert all(failed and why.startswith(reason) for _, why, failed in left_out)
    assert not device.stream.is_capturing()


def test_what_does_not_fit_is_left_out_and_no_failure(cuda: Any) -> None:
    cuda.restart(memory_bytes=75_000, l2_bytes=4096)  # two buffers, the tile they are filled from, and the scrub
    measured, left_out = run_quick(cuda.open(), "write", "copy", "triad", "empty")
    assert measured == {"write", "copy", "empty"}
    assert left_out == [("triad", "does not fit into memory", False)]


@pytest.mark.parametrize("kernel", ["stream_read", "draft", "burn_memory"])
def test_a_lost_device_ends_the_rest_and_keeps_what_was_measured(cuda: Any, kernel: str) -> None:
    cuda.restart(fails={kernel: 700}, l2_bytes=4096)
    device = cuda.open()
    done: list[int] = []
    planned = plan(device, select_probes(["burn_flops", "burn_memory", "draft_graph", "read", "write"]), {}, quick=True)
    results = run_probes(device, planned, RULE, progress=done.append)
    measured = {p.probe for p in results.points}
    assert "burn_flops" in measured
    assert "write" not in measured
    reasons = [left.reason for left in results.left_out]
    error = "cudaErrorIllegalAddress: an illegal memory access was encountered"
    assert reasons.count(error) == 1
    assert set(reasons) == {error, f"not run after: {error}"}
    assert all(left.failed for left in results.left_out)
    assert sum(done) == len(planned) == len(results.points) + len(results.left_out)
    assert results.device["model"] == "Emulated GPU"
    device.close()


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, RuntimeError])
def test_a_capture_that_fails_is_ended_and_its_own_error_comes_out(device: Any, error: type[BaseException]) -> None:
    calls: list[bool] = []

    def launch() -> None:
        calls.append(device.stream.is_capturing())
        if calls[-1]:
            raise error("mine")

    with pytest.raises(error, match="mine"):
        device.captured(launch)
    assert calls == [False, True]
    assert not device.stream.is_capturing()
    assert fault_of(device, "draft_graph", PLACES["draft_graph"]) is None


def test_errors_of_ours_are_no_faults_of_the_device(device: Any) -> None:
    with pytest.raises(AssertionError), device.prepare("empty", {}, seed=0):
        raise AssertionError
    with pytest.raises(DeviceFault, match="theirs"), device.prepare("empty", {}, seed=0):
        raise RuntimeError("theirs\nand more")


def test_a_device_that_cannot_be_had_is_a_users_error(cuda: Any, run: Run, user_error: Callable[..., None]) -> None:
    for machine, index, words in (
        ({"devices": 0}, 0, "no CUDA device can be used .*no CUDA-capable device"),
        ({"devices": 2}, 2, "there are 2 CUDA devices, expected cuda:0 to cuda:1"),
        ({"fails": {"open": 46}}, 0, "cuda:0 cannot be used .*busy or unavailable"),
    ):
        cuda.restart(**machine)
        with pytest.raises(UserError, match=words):
            cuda.open(index)
    done = run("probe-gpu", "--device", "cuda:0", "--only", "empty")
    user_error(done, "cuda:0 cannot be used", "busy or unavailable", "--device cpu")


GPUS = [
    {"pci": "0000:3B:00.0", "nvmlDeviceGetUUID": "GPU-other"},
    {"pci": "0000:18:00.0", "nvmlDeviceGetUUID": "GPU-ours", "nvmlDeviceGetPowerManagementLimit": 650_000,
     "nvmlDeviceGetCurrentClocksEventReasons": 0x8 | 0x4},
]  # fmt: skip


@pytest.fixture
def nvml(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def script(**answers: Any) -> Any:
        monkeypatch.setenv("FAKE_NVML", json.dumps(answers))
        sys.modules.pop("pynvml", None)
        return importlib.import_module("pynvml")

    return script


def test_nvml_is_asked_about_the_gpu_at_the_devices_address(cuda: Any, nvml: Callable[..., Any]) -> None:
    api = nvml(gpus=GPUS)
    device = cuda.open()
    assert device.environment()["nvml"] == {
        "driver": "580.65.06",
        "uuid": "GPU-ours",
        "max_sm_clock_mhz": 1980,
        "max_memory_clock_mhz": 3201,
        "memory_bus_bits": 6144,
        "power_limit_w": 650.0,
        "default_power_limit_w": 700.0,
        "ecc": True,
        "persistence": 1,
    }
    state = device.state()
    assert state["disturbed"] == "the GPU slowed its clocks: sw_power_cap, hw_slowdown"
    assert (state["power_w"], state["power_limit_w"], state["sm_clock_mhz"]) == (200.0, 650.0, 1980)
    device.close()
    assert api._opened == 0


def test_the_gpu_is_asked_while_it_works(cuda: Any, nvml: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    nvml(gpus=[{"nvmlDeviceGetCurrentClocksEventReasons": 0}])
    device = cuda.open()
    at: list[int] = []
    now = device.nvml.now
    monkeypatch.setattr(device.nvml, "now", lambda: at.append(len(cuda.machine.log)) or now())
    state = device.state(lambda: probe_kernels.empty(device, device.geometry))
    assert at == [1 + 26]  # one to learn that it takes two milliseconds, then enough for a twentieth of a second
    assert state["clock_event_reasons"] == []
    assert "disturbed" not in state


def test_a_gpu_that_nvml_does_not_know_and_answers_it_does_not_give(cuda: Any, nvml: Callable[..., Any]) -> None:
    api = nvml(gpus=GPUS[:1])
    device = cuda.open()
    assert (device.environment()["nvml"], device.state(), api._opened) == (None, {}, 0)
    refused = ("nvmlDeviceGetEccMode", "nvmlDeviceGetPowerManagementDefaultLimit", "nvmlSystemGetDriverVersion")
    nvml(gpus=GPUS, fails=dict.fromkeys(refused, 3), absent=["nvmlDeviceGetMemoryBusWidth"])
    facts = cuda.open().environment()["nvml"]
    unknown = ("ecc", "default_power_limit_w", "driver", "memory_bus_bits")
    assert [facts[name] for name in unknown] == [None] * 4
    assert facts["power_limit_w"] == 650


SOME = ("empty", "empty_graph", "burn_memory", "draft", "draft_graph", "verify")
ONLY = (
    *("--device", "cuda:0", "--draftN", "1:2", "--workflops", "2", "--workmem", "1"),
    *(word for name in SOME for word in ("--only", name)),
)


def test_the_command_measures_into_every_kind_of_file(cuda: Any, nvml: Any, run: Run, tmp_path: Path) -> None:
    nvml(gpus=[{"nvmlDeviceGetCurrentClocksEventReasons": 0x40}])
    done = run("probe-gpu", *ONLY, "--csv", "p.csv", "--plot", "p.svg")
    assert done.returncode == 0, done.stderr
    found = load_probe(tmp_path / "probe.json")
    assert {p.probe for p in found.points} == set(SOME)
    assert found.left_out == ()
    assert found.device["nvml"]["max_memory_clock_mhz"] == 3201
    slowed = "the GPU slowed its clocks: hw_thermal_slowdown"
    assert f"{slowed}, at {len(found.points)} of {len(found.points)} points" in done.stdout
    assert all((tmp_path / name).stat().st_size for name in ("probe.npz", "p.csv", "p.svg"))


def test_the_command_writes_what_it_has_when_the_device_fails(cuda: Any, run: Run, tmp_path: Path) -> None:
    for fails, measured in (({"compile": "error"}, set()), ({"draft": 700}, {"empty", "empty_graph", "burn_memory"})):
        cuda.restart(fails=fails, l2_bytes=4096)
        done = run("probe-gpu", *ONLY, "--csv", "p.csv", "--force")
        assert done.returncode == 1
        expected = "probe-gpu: points failed and were not timed, see FAILED above or in the file"
        assert done.stderr.splitlines()[0] == expected
        found = load_probe(tmp_path / "probe.json")
        assert {p.probe for p in found.points} == measured
        assert {left.probe for left in found.left_out} == set(SOME) - measured
        assert "FAILED" in done.stdout
        assert (tmp_path / "p.csv").read_text().count("\n") == 1 + len(found.points)
