"""The processor as a device: every probe is right, counts its work, and fails its own check when it is not."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Barrier, Lock, get_ident
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from cuda_probe.devices import cpu as cpu_device
from cuda_probe.devices import cpu_facts
from cuda_probe.devices.cpu import CpuDevice
from cuda_probe.devices.cpu_products import BURN_CYCLES, BURN_SIZE, burn_rows, is_product, small_numbers
from cuda_probe.devices.workers import Workers
from cuda_probe.probe.probes import BY_NAME, PROBES, Unsupported

STEP = {"work_flops": 3, "work_mem": 2}
ROUND = {"draft_n": 4, **STEP}
STREAMS = ("read", "write", "copy", "triad")
PLACES = {
    "empty": {},
    "burn_flops": {"work_flops": 5},
    "burn_memory": {"work_mem": 7},
    "draft": ROUND,
    "verify": ROUND,
    "baseline": STEP,
    **{name: {"buffer_bytes": 3 << 18} for name in STREAMS},
    "matmul": {"size": 37, "dtype": "float32"},
    "skinny": {"weight": "96x130", "dtype": "float32", "tokens": 5},
}
STEPS = ("draft", "verify", "baseline")


@pytest.fixture
def device() -> Iterator[CpuDevice]:
    with closing(CpuDevice(threads=3, cache_bytes=1 << 16, slice_bytes=12 << 10)) as small:
        yield small


class Counter:
    """Stands in for a NumPy function, counts what its calls do, and can be told to leave one out."""

    def __init__(self, function) -> None:
        self.function, self.lock = function, Lock()
        self.calls, self.flop, self.elements, self.omit = 0, 0, 0, -1

    def __getattr__(self, name: str):
        return getattr(self.function, name)

    def __call__(self, *operands, out):
        with self.lock:
            self.calls += 1
            call = self.calls
            self.elements += out.size
            if len(operands[0].shape) == len(np.shape(operands[1])) == 2:
                self.flop += 2 * operands[0].shape[0] * operands[0].shape[1] * operands[1].shape[1]
        return None if call == self.omit else self.function(*operands, out=out)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counter]:
    """Count matrix products, additions and multiplications as they happen, whatever the formulas say."""
    counters = {name: Counter(getattr(np, name)) for name in ("matmul", "add", "multiply")}
    for name, counter in counters.items():
        monkeypatch.setattr(np, name, counter)
    return counters


def refused(device: CpuDevice, error: type[Exception], words: str | None, name: str, **axes: object) -> None:
    with pytest.raises(error, match=words), device.prepare(name, axes, seed=0):
        pass


def test_what_cannot_run_is_refused_with_the_reason(device: CpuDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(PLACES) | {"draft_graph", "empty_graph"} == {probe.name for probe in PROBES}
    refused(device, Unsupported, "graph", "draft_graph", **ROUND)
    refused(device, Unsupported, "graph", "empty_graph")
    for dtype in ("float16", "bfloat16"):
        refused(device, Unsupported, "NumPy", "skinny", weight="64x64", dtype=dtype, tokens=1)
    refused(device, Unsupported, "3 equal parts", "copy", buffer_bytes=16)
    monkeypatch.setattr(cpu_facts, "available_memory", lambda: 1 << 20)
    refused(device, MemoryError, None, "triad", buffer_bytes=3 << 18)
    refused(device, MemoryError, None, "skinny", weight="1024x1024", dtype="float32", tokens=1)


@pytest.mark.parametrize("name", PLACES)
def test_every_probe_passes_its_own_check_before_and_after_launches(device: CpuDevice, name: str) -> None:
    with device.prepare(name, PLACES[name], seed=3) as job:
        assert job.check() is None
        for _ in range(3):
            job.launch()
        assert job.check() is None


@pytest.mark.parametrize("name", ["burn_flops", "burn_memory", *STEPS, "matmul", "skinny"])
def test_flop_and_bytes_are_those_of_the_calls_that_were_made(device: CpuDevice, counted, name: str) -> None:
    axes, probe = PLACES[name], BY_NAME[name]
    with device.prepare(name, axes, seed=0) as job:
        for counter in counted.values():
            counter.__init__(counter.function)
        job.launch()
        products, additions = counted["matmul"], counted["add"].elements
    assert probe.flop(axes, device.units) == products.flop + additions
    if name in ("matmul", "skinny"):
        rows, inputs, outputs = (37, 37, 37) if name == "matmul" else (5, 96, 130)
        assert probe.bytes(axes, device.units) == 4 * (rows * inputs + inputs * outputs + rows * outputs)
    else:
        assert probe.bytes(axes, device.units) == 2 * 4 * additions


def test_draft_verify_and_baseline_do_the_work_of_the_model(device: CpuDevice) -> None:
    """Model section 2: K passes over one token, one pass over K + 1 tokens, one pass over one token."""
    units = device.units
    compute, memory, flop_with_memory = 3 * units.workflops_flop, 2 * units.workmem_bytes, 2 * units.workmem_flop
    for name, work in {
        "baseline": (compute + flop_with_memory, memory),
        "draft": (4 * (compute + flop_with_memory), 4 * memory),
        "draft_graph": (4 * (compute + flop_with_memory), 4 * memory),
        "verify": (5 * compute + flop_with_memory, memory),
    }.items():
        assert (BY_NAME[name].flop(ROUND, units), BY_NAME[name].bytes(ROUND, units)) == work, name


@pytest.mark.parametrize("name", sorted(set(PLACES) - {"empty"}))
def test_every_part_of_a_launch_has_a_thread_of_its_own_the_same_each_time(
    device: CpuDevice, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    seen: dict[int, set[int]] = {}
    together = device.together

    def watched(work, parts=None) -> None:
        together(lambda index: (seen.setdefault(index, set()).add(get_ident()), work(index)), parts)

    monkeypatch.setattr(device, "together", watched)
    with device.prepare(name, PLACES[name], seed=0) as job:
        for _ in range(20):
            job.launch()
    threads = [ids for index, ids in sorted(seen.items())]
    assert [len(ids) for ids in threads] == [1, 1, 1]
    assert len(set.union(*threads)) == 3


def test_parts_run_side_by_side_and_an_error_in_any_comes_out_after_all_are_done() -> None:
    workers, meeting = Workers(4), Barrier(4)
    workers.run(lambda index: meeting.wait(10))  # each part waits for all the others
    workers.run(lambda index: None, 2)
    for failing in range(4):
        done = []

        def part(index: int, failing: int = failing, done: list[int] = done) -> None:
            done.append(index)
            if index == failing:
                raise ArithmeticError("part")

        with pytest.raises(ArithmeticError, match="part"):
            workers.run(part)
        assert sorted(done) == [0, 1, 2, 3]
    workers.close()
    assert not any(thread.is_alive() for thread in workers.threads)


def test_the_steps_of_a_draft_wait_for_one_another(device: CpuDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    together = device.together
    monkeypatch.setattr(device, "together", lambda *given: (together(*given), waits.append(1)))
    for name, steps in (("draft", 4), ("verify", 1), ("baseline", 1)):
        with device.prepare(name, ROUND, seed=0) as job:
            waits.clear()
            job.launch()
            assert len(waits) == steps, name


@pytest.mark.parametrize(
    ("function", "name"),
    [
        *(("matmul", name) for name in ("burn_flops", *STEPS, "matmul", "skinny")),
        *(("add", name) for name in ("burn_memory", *STEPS, "triad")),
    ],
)
def test_a_product_or_an_addition_left_out_is_found(device: CpuDevice, counted, function: str, name: str) -> None:
    with device.prepare(name, PLACES[name], seed=0) as job:
        assert job.check() is None
        counted[function].omit = counted[function].calls + 2
        assert job.check() is not None


@pytest.mark.parametrize("name", ["empty", *STREAMS, "burn_flops", "burn_memory", "matmul"])
def test_a_thread_that_does_nothing_is_found(device: CpuDevice, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with device.prepare(name, PLACES[name], seed=0) as job:
        assert job.check() is None
        together = device.together
        lazy = lambda work, parts=None: together(lambda index: index == 1 or work(index), parts)  # noqa: E731
        monkeypatch.setattr(device, "together", lazy)
        assert job.check() is not None


@pytest.mark.parametrize("name", ["burn_flops", "burn_memory", *STEPS])
def test_a_check_of_any_work_takes_no_more_than_a_bounded_part_of_it(device: CpuDevice, counted, name: str) -> None:
    huge = {"draft_n": 1000, "work_flops": 100_000_000, "work_mem": 100_000_000}
    with device.prepare(name, {axis: huge[axis] for axis in PLACES[name]}, seed=0) as job:
        assert job.check() is None
    most = cpu_device.CHECKED_STEPS * device.threads
    assert counted["matmul"].calls <= most * cpu_device.CHECKED_PRODUCTS
    assert counted["add"].calls <= most * (device.ring_slices + 1)


def test_every_slice_of_the_ring_is_passed_in_turn_and_a_flush_touches_all_of_it(device: CpuDevice) -> None:
    slices = device.ring_slices
    with device.prepare("burn_memory", {"work_mem": slices + 1}, seed=0) as job:
        ring = device.ring().reshape(slices, -1)
        for start in ([2.0], [3.0, 3.0]):
            job.launch()
            assert (ring == np.array(start + [start[0] - 1] * (slices - len(start)))[:, None]).all()
    assert device.ring().nbytes > 4 * (1 << 16)
    before = device.ring().copy()
    device.flush()
    assert (device.ring() != before).all()


def test_the_burn_takes_long_to_come_round_and_each_power_is_that_of_its_matrix() -> None:
    assert sum(BURN_CYCLES) == BURN_SIZE
    assert np.lcm.reduce(np.array(BURN_CYCLES, np.int64)) == 3_234_846_615
    matrix = np.zeros((BURN_SIZE, BURN_SIZE), int)
    matrix[np.arange(BURN_SIZE), burn_rows(1)] = 1
    for power in (0, 1, 2, 7, 128, 1000):
        product = np.linalg.matrix_power(matrix, power) @ np.arange(BURN_SIZE)
        assert product.tolist() == burn_rows(power).tolist()


def test_a_product_with_one_wrong_element_is_not_the_product() -> None:
    rng = np.random.default_rng(0)
    x, weights = (rng.integers(-1, 2, shape).astype(np.float32) for shape in ((4, 300), (300, 50)))
    right = x @ weights
    assert is_product(x, weights, right, 0)
    changes = [(place, right[place] + 1) for place in np.ndindex(4, 50)]
    for place, value in [*changes, *(((1, 1), strange) for strange in (np.nan, np.inf, 0.5))]:
        wrong = right.copy()
        wrong[place] = value
        assert not is_product(x, weights, wrong, 0)
    assert not is_product(x, weights, right[:, ::-1].copy(), 0)
    first, again, other = (small_numbers((20, 20), [seed]) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert set(np.unique(first)) == {-1.0, 0.0, 1.0}


def test_default_values_cover_every_axis_and_every_stream_size_can_be_shared() -> None:
    with closing(CpuDevice(threads=2, cache_bytes=1 << 20)) as device:
        for quick in (True, False):
            for probe in PROBES:
                values = device.axis_values(probe.name, quick=quick)
                assert all(values[axis] for axis in probe.axes)
            assert all(size % (4 * device.threads) == 0 for size in values["buffer_bytes"])
            assert max(values["buffer_bytes"]) > 4 * device.cache_bytes


def test_blas_runs_one_thread_in_each_of_ours_and_is_left_as_it_was() -> None:
    def threads() -> list[int]:
        return [library["num_threads"] for library in cpu_facts.find_blas().info()]

    before = threads()
    assert before, "the BLAS of NumPy's wheel was not found in this process"
    with closing(CpuDevice(cache_bytes=1 << 20)) as device:
        assert set(threads()) == {1}
        facts = device.environment()
        assert (facts["blas_threads_found"], facts["blas_threads"]) == (max(before), 1)
    assert threads() == before


def test_a_blas_that_cannot_be_told_keeps_its_threads_and_gets_whole_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_facts, "find_blas", lambda: ThreadpoolController().select(user_api="none"))
    with closing(CpuDevice(threads=4, cache_bytes=1 << 16, slice_bytes=1 << 12)) as device:
        assert device.environment()["blas_threads"] is None
        assert device.units.workflops_flop == 2 * BURN_SIZE**3
        for name in ("burn_flops", "draft", "matmul", "skinny"):
            with device.prepare(name, PLACES[name], seed=0) as job:
                assert job.check() is None


def test_caches_are_as_linux_lists_them_or_the_knee_or_an_assumption(tmp_path: Path, monkeypatch) -> None:
    for knee, expected in ((8 << 20, (8 << 20, "measured knee")), (None, (cpu_facts.ASSUMED_CACHE_BYTES, "assumed"))):
        monkeypatch.setattr(cpu_facts, "measured_cache", lambda knee=knee: knee)
        assert cpu_facts.last_level_cache(tmp_path) == expected
    listed = [("1", "Data", "48K"), ("1", "Instruction", "64K"), ("2", "Unified", "2M"), ("3", "Unified", "36608K")]
    for index, texts in enumerate(listed):
        (tmp_path / f"index{index}").mkdir()
        for name, text in zip(("level", "type", "size"), texts, strict=True):
            (tmp_path / f"index{index}" / name).write_text(text + "\n")
    assert cpu_facts.cache_sizes(tmp_path) == {1: 48 << 10, 2: 2 << 20, 3: 36608 << 10}
    assert cpu_facts.last_level_cache(tmp_path) == (36608 << 10, "/sys")


def test_what_other_processes_take_is_told_apart_from_what_we_take(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {"now": 100.0, "own": 5.0, "busy": 50.0}
    monkeypatch.setattr(cpu_facts.time, "perf_counter", lambda: clocks["now"])
    monkeypatch.setattr(cpu_facts.time, "process_time", lambda: clocks["own"])
    monkeypatch.setattr(cpu_facts, "busy_s", lambda: clocks["busy"])
    others = cpu_facts.Others()

    def after(now: float, own: float, busy: float) -> float | None:
        clocks.update(now=clocks["now"] + now, own=clocks["own"] + own, busy=clocks["busy"] + busy)
        return others.cores_taken()

    assert after(1.0, 1.5, 1.5) == pytest.approx(0)
    assert after(1.0, 0.5, 1.25) == pytest.approx(0.75)
    assert after(0.01, 0.01, 0.5) is None  # too short for a counter of hundredths
    assert after(0.99, 0.99, 0.5) == pytest.approx(0)  # and counted on from where it was


def test_busy_time_is_that_of_our_cores_and_of_all_but_idling(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"user": 100, "nice": 20, "system": 30, "idle": 9999, "iowait": 8888, "irq": 4, "softirq": 5, "steal": 6}
    cores = [SimpleNamespace(**one, guest=77), SimpleNamespace(user=1000, nice=0, system=0, idle=3)]
    monkeypatch.setattr(cpu_facts.psutil, "cpu_times", lambda percpu: cores)
    monkeypatch.setattr(cpu_facts, "cores", lambda: {0})
    assert cpu_facts.busy_s() == 165
    monkeypatch.setattr(cpu_facts, "cores", lambda: {0, 1})
    assert cpu_facts.busy_s() == 1165


def test_memory_is_the_containers_where_that_is_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cpu_facts.total_memory()
    for name, text in (("MEMORY_LIMIT", "5000000"), ("MEMORY_TAKEN", "2000000")):
        (tmp_path / name).write_text(text + "\n")
        monkeypatch.setattr(cpu_facts, name, tmp_path / name)
    assert (cpu_facts.total_memory(), cpu_facts.available_memory()) == (5_000_000, 3_000_000)
    (tmp_path / "MEMORY_LIMIT").write_text("max\n")
    assert cpu_facts.total_memory() == whole


def test_other_work_is_said_to_disturb(device: CpuDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    for taken, disturbed in ((0.5, True), (0.05, False), (None, False)):
        monkeypatch.setattr(device.others, "cores_taken", lambda taken=taken: taken)
        state = device.state()
        assert (state.get("cores_taken_by_others"), "disturbed" in state) == (taken, disturbed)
