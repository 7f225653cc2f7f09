"""On a real GPU: probes check themselves, time is linear in work, and no rate is beyond what the hardware can do."""

import time
from typing import Any

import numpy as np
import pytest

from cuda_probe.devices.step_check import wrong_steps
from cuda_probe.kernels import probe_kernels
from cuda_probe.probe.probes import BY_NAME, points, select_probes
from cuda_probe.probe.runner import plan, run_probes
from cuda_probe.probe.stats import fit_line
from cuda_probe.probe.timing import StopRule, measure

RULE = StopRule(max_noise=0.01, max_samples=200, time_limit_s=2.0)
# Where NVML does not tell: no memory moves more, no multiprocessor clocks higher.
MOST_BYTES_PER_S, MOST_CLOCK_HZ = 12e12, 3.5e9
# FLOP a clock of a multiprocessor: two for each lane of float32; tensor cores of the largest parts (float16, bfloat16).
FEW_LANES, MOST_TENSOR_FLOP = ("60", "70", "72", "75", "80"), 16_384


def median_s(device: Any, probe: str, axes: dict[str, Any]) -> float:
    with device.prepare(probe, axes, seed=0) as job:
        wrong = job.check()
        found = measure(job.launch, device.clock, RULE, works=job.works)
    assert wrong is None
    return float(found.median_s)


def told(device: Any, name: str) -> float | None:
    """What NVML says of the device; None where it is not there or does not say."""
    value = (device.environment()["nvml"] or {}).get(name)
    return None if value is None else float(value)


def bandwidth_limit(device: Any) -> float:
    """Both edges of the memory's clock, all bits of its bus."""
    clock_mhz, bits = told(device, "max_memory_clock_mhz"), told(device, "memory_bus_bits")
    return MOST_BYTES_PER_S if clock_mhz is None or bits is None else clock_mhz * 1e6 * 2 * bits / 8


def float32_limit(device: Any) -> float:
    facts, clock_mhz = device.environment(), told(device, "max_sm_clock_mhz")
    lanes = 64 if facts["compute_capability"] in FEW_LANES else 128
    return float(2 * lanes * facts["multiprocessors"] * (MOST_CLOCK_HZ if clock_mhz is None else clock_mhz * 1e6))


@pytest.mark.parametrize("probe", BY_NAME)
def test_every_point_of_the_quick_run_is_right(device: Any, probe: str) -> None:
    for axes in points(BY_NAME[probe], device.axis_values(probe, quick=True)):
        with device.prepare(probe, axes, seed=0) as job:
            wrong = job.check()
        assert wrong is None, axes


@pytest.mark.parametrize(
    "change", ["noise(seed + 1, position)", "noise(seed, position + 1)"], ids=["another seed", "another position"]
)
def test_a_wrong_kernel_is_found_on_the_device_too(device: Any, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    import cupy

    source = probe_kernels.SOURCE.read_text()
    assert "noise(seed, position)" in source
    wrong = cupy.RawModule(code=source.replace("noise(seed, position)", change), options=("--std=c++17",))
    monkeypatch.setattr(device, "module", wrong)
    monkeypatch.setattr(device, "functions", {})
    assert "draft" in str(wrong_steps(device, device.geometry, cupy.zeros, 0))


def test_a_wrong_product_is_found_on_the_device_too(device: Any) -> None:
    import cupy

    from cuda_probe.devices import products

    for dtype in ("float32", "float16", "bfloat16"):
        x, w = (products.typed(products.small_numbers(s, 1), dtype) for s in ((5, 300), (300, 1001)))
        out = cupy.full((5, 1001), cupy.nan, cupy.float32)
        products.product(x, w, out, dtype)()
        assert products.is_product(x, w, out, dtype, 0)
        wide = [products.untyped(a, dtype).get() for a in (x, w)]
        assert (out.get() == wide[0] @ wide[1]).all()
        for place in ((0, 0), (2, 500), (4, 1000)):
            wrong = out.copy()
            wrong[place] += 1
            assert not products.is_product(x, w, wrong, dtype, 0)


@pytest.mark.parametrize(("probe", "axis"), [("burn_flops", "work_flops"), ("burn_memory", "work_mem")])
def test_time_is_linear_in_work(device: Any, probe: str, axis: str) -> None:
    least = max(device.axis_values(probe, quick=True)[axis])
    work = [least * n for n in (1, 2, 4, 8)]
    times = [median_s(device, probe, {axis: n}) for n in work]
    assert times[-1] / times[0] == pytest.approx(8, rel=0.1)
    assert fit_line([float(n) for n in work], times).max_relative_residual < 0.05


def test_a_draft_of_eight_takes_eight_passes_and_verification_one_pass_over_nine_tokens(device: Any) -> None:
    work = {"work_flops": 100_000, "work_mem": 0}
    one = median_s(device, "baseline", work)
    for probe in ("draft", "draft_graph"):
        assert median_s(device, probe, work | {"draft_n": 8}) == pytest.approx(8 * one, rel=0.15)
    assert median_s(device, "verify", work | {"draft_n": 8}) == pytest.approx(9 * one, rel=0.15)
    memory = {"work_flops": 0, "work_mem": device.axis_values("burn_memory", quick=True)["work_mem"][-1]}
    one = median_s(device, "baseline", memory)
    assert median_s(device, "verify", memory | {"draft_n": 8}) == pytest.approx(one, rel=0.15)


def test_a_graph_of_short_passes_misses_the_cache_as_the_launches_do(device: Any) -> None:
    lap = device.mem_len // device.geometry.threads
    axes = {"draft_n": 2, "work_flops": 0, "work_mem": max(lap // 8, 1)}
    whole = median_s(device, "draft_graph", axes | {"work_mem": lap}) / lap * axes["work_mem"]
    assert median_s(device, "draft_graph", axes) > 0.8 * whole


def test_a_launch_in_a_graph_costs_less_than_one_by_itself(device: Any) -> None:
    alone, in_graph = (median_s(device, probe, {}) for probe in ("empty", "empty_graph"))
    assert 1e-7 < in_graph < alone < 1e-3


@pytest.mark.parametrize("probe", ["read", "write", "copy", "triad"])
def test_a_stream_is_fast_and_not_faster_than_the_memory(device: Any, probe: str) -> None:
    axes = {"buffer_bytes": device.axis_values(probe, quick=True)["buffer_bytes"][-1]}
    rate = BY_NAME[probe].bytes(axes, device.units) / median_s(device, probe, axes)
    assert rate < 1.02 * bandwidth_limit(device)
    assert rate > (0.5 * bandwidth_limit(device) if told(device, "memory_bus_bits") else 50e9)


def test_a_memory_burn_is_not_faster_than_the_memory(device: Any) -> None:
    axes = {"work_mem": device.axis_values("burn_memory", quick=True)["work_mem"][-1]}
    rate = BY_NAME["burn_memory"].bytes(axes, device.units) / median_s(device, "burn_memory", axes)
    assert 20e9 < rate < 1.02 * bandwidth_limit(device)


def test_a_burn_fills_the_device_and_is_not_faster_than_its_lanes(device: Any) -> None:
    axes = {"work_flops": device.axis_values("burn_flops", quick=True)["work_flops"][-1]}
    rate = BY_NAME["burn_flops"].flop(axes, device.units) / median_s(device, "burn_flops", axes)
    assert rate < 1.02 * float32_limit(device)
    assert rate > (0.3 if told(device, "max_sm_clock_mhz") else 0.1) * float32_limit(device)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_products_are_not_faster_than_the_units_they_run_on(device: Any, dtype: str) -> None:
    axes = {"size": 4096, "dtype": dtype}
    rate = BY_NAME["matmul"].flop(axes, device.units) / median_s(device, "matmul", axes)
    most = float32_limit(device)  # float32 is float32: no tensor core rounds it to fewer bits
    if dtype != "float32":
        lanes = 64 if device.environment()["compute_capability"] in FEW_LANES else 128
        most *= MOST_TENSOR_FLOP / (2 * lanes)
    assert 1e11 < rate < 1.02 * most


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_skinny_products_find_their_weights_in_memory_and_not_in_the_cache(device: Any, dtype: str) -> None:
    axes = {"weight": "4096x11008", "dtype": dtype, "tokens": 1}
    rate = BY_NAME["skinny"].bytes(axes, device.units) / median_s(device, "skinny", axes)
    assert 20e9 < rate < 1.02 * bandwidth_limit(device)
    many = median_s(device, "skinny", axes | {"tokens": 256})
    assert many > 0.9 * median_s(device, "skinny", axes)


def test_events_and_the_host_tell_the_same_time(device: Any) -> None:
    work = device.axis_values("burn_flops", quick=True)["work_flops"][-1]
    with device.prepare("burn_flops", {"work_flops": work}, seed=0) as job:
        device.clock.elapsed_s(job.launch, 10)
        began = time.perf_counter()
        on_events_s = device.clock.elapsed_s(job.launch, 200)
        on_host_s = time.perf_counter() - began
    assert 0.8 * on_host_s < on_events_s <= 1.02 * on_host_s


def test_the_grid_is_resident_as_a_whole(device: Any) -> None:
    attributes = device.module.get_function("burn_flops").attributes
    assert attributes["local_size_bytes"] == 0
    assert (
        attributes["num_regs"] * device.geometry.threads_per_block * probe_kernels.BLOCKS_PER_MULTIPROCESSOR <= 65_536
    )


def test_the_hash_of_the_device_is_that_of_the_host(device: Any) -> None:
    from cuda_probe.devices import products

    def finaliser(z: np.ndarray[Any, np.dtype[np.uint32]]) -> np.ndarray[Any, np.dtype[np.uint32]]:
        z = (z ^ (z >> 16)) * np.uint32(0x85EBCA6B)
        z = (z ^ (z >> 13)) * np.uint32(0xC2B2AE35)
        return z ^ (z >> 16)

    begin = np.uint32(7 * 0x9E3779B9 % 2**32)
    with np.errstate(over="ignore"):
        expected = finaliser(np.arange(1000, dtype=np.uint32) + begin)
    assert (products.hashed((1000,), 7).get() == expected).all()


def test_states_while_busy_are_those_of_a_device_at_work(device: Any) -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    facts = device.environment()["nvml"]
    assert facts is not None
    work = max(device.axis_values("burn_flops", quick=True)["work_flops"])
    with device.prepare("burn_flops", {"work_flops": work}, seed=0) as job:
        state = device.state(job.launch)
    assert 0 < state["sm_clock_mhz"] <= facts["max_sm_clock_mhz"]
    assert "gpu_idle" not in state["clock_event_reasons"]
    assert state["power_w"] > 0


def test_a_run_of_many_probes_leaves_nothing_out(device: Any) -> None:
    names = ["empty", "empty_graph", "burn_flops", "draft", "draft_graph", "verify", "baseline", "copy"]
    results = run_probes(device, plan(device, select_probes(names), {}, quick=True), RULE)
    assert results.left_out == ()
    assert {p.probe for p in results.points} == set(names)
    assert not any(p.measurement.verdict.word == "too short" for p in results.points)
