"""The probe kernels, run on the CPU from their source, do what the NumPy references say, to the last bit."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuda_probe.kernels import probe_kernels, reference
from cuda_probe.kernels.probe_kernels import SOURCE, STORE_ALL, Geometry, Knobs, Steps
from cuda_probe.probe.probes import BY_NAME, Axes, Units
from simulator.ground.burn_units import BYTES_PER_WORKMEM, FLOP_PER_WORKFLOPS, FLOP_PER_WORKMEM

from .probe_device import SMALL, ProbeDevice, steps_at
from .shim.shim import ADDRESS, THREAD, Launch, SanitizerError, build, run

T = SMALL.threads
KERNELS = ("empty", "burn_flops", "burn_memory", "draft", "verify", "baseline",
           "stream_read", "stream_write", "stream_copy", "stream_triad")  # fmt: skip


@pytest.fixture(scope="module")
def device() -> ProbeDevice:
    return ProbeDevice()


def test_burn_flops_applies_the_map_three_times_a_unit_and_stores_nothing_by_default(device: ProbeDevice) -> None:
    for units in (0, 1, 15, 16, 17, 100):
        sink, untouched = (np.full(T, np.nan, dtype=np.float32) for _ in range(2))
        probe_kernels.burn_flops(device, SMALL, units, sink, STORE_ALL)
        probe_kernels.burn_flops(device, SMALL, units, untouched)
        device.run()
        assert (sink == reference.burn(reference.start_values(T, 0), units)).all()
        assert np.isnan(untouched).all()


@pytest.mark.parametrize("mem_len", [T, T + 1, 2 * T - 1, 7 * T + 5, 8 * T, 9 * T - 1, 40 * T + 13])
def test_burn_memory_leaves_what_the_reference_leaves(device: ProbeDevice, mem_len: int) -> None:
    before = np.random.default_rng(mem_len).uniform(-1, 1, mem_len).astype(np.float32)
    for first_pass, passes in ((0, 0), (0, 1), (0, 8), (3, 11), (1000, 29)):
        memory = before.copy()
        probe_kernels.burn_memory(device, SMALL, passes, memory, mem_len, first_pass)
        device.run()
        assert (memory == reference.memory_passes(before, T, first_pass, passes)).all()
        assert passes == 0 or (memory != before).sum() >= min(mem_len, passes * T) * 0.99


def test_passes_walk_on_through_the_whole_buffer(device: ProbeDevice) -> None:
    steps = steps_at(device, Knobs(work_flops=0, work_mem=3, mem_len=12 * T), 0)
    first_pass = 0
    for step in range(4):
        assert first_pass == 3 * step
        first_pass = steps.baseline(step, first_pass)
    device.run()
    assert first_pass == 0
    assert (steps.buffers.memory == np.float32(-1.5)).all()  # every float once


CASES = [
    Knobs(draft_n=1, noise_ppm=0, vocab=2, work_flops=3, work_mem=1, mem_len=T),
    Knobs(draft_n=1, noise_ppm=1_000_000, vocab=2, work_flops=0, work_mem=9, mem_len=3 * T + 7),
    Knobs(draft_n=32, noise_ppm=0, vocab=2, work_flops=2, work_mem=2, mem_len=5 * T + 31),
    Knobs(draft_n=32, noise_ppm=30_000, vocab=3, seed=-1, work_flops=1, work_mem=0, mem_len=T),
    Knobs(draft_n=33, noise_ppm=20_000, vocab=32_000, seed=-(2**63), work_flops=1, work_mem=1, mem_len=2 * T),
    Knobs(draft_n=65, noise_ppm=0, vocab=50_257, work_flops=0, work_mem=0, mem_len=1),
    Knobs(draft_n=5, noise_ppm=200_000, vocab=2**31 - 1, seed=2**63 - 1, work_flops=7, work_mem=12, mem_len=9 * T),
    Knobs(draft_n=8, noise_ppm=100_000, vocab=256_000, seed=7, work_flops=20, work_mem=4, mem_len=T),
]
POSITIONS = (1, 2**31 - 3, 2**32 - 2)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("knobs", CASES, ids=lambda knobs: f"K{knobs.draft_n}-V{knobs.vocab}-ppm{knobs.noise_ppm}")
def test_a_round_drafts_and_accepts_what_brute_force_does(device: ProbeDevice, knobs: Knobs, position: int) -> None:
    steps = steps_at(device, knobs, position)
    steps.verify(position, steps.draft(position))
    device.run()
    places = position + np.arange(knobs.draft_n)
    wanted = reference.proposed_tokens(knobs.seed, places, knobs.noise_ppm, knobs.vocab)
    assert (steps.buffers.proposed == wanted).all()
    accepted = int(np.cumprod(wanted == reference.truth_tokens(places, knobs.vocab)).sum())
    following = reference.truth_tokens(position + accepted, knobs.vocab)
    assert steps.buffers.result.tolist() == [accepted, following]
    assert steps.buffers.chain[0] == reference.truth_states(position + accepted)
    assert (steps.buffers.chain[1:] == reference.truth_states(places)).all()


def test_a_position_errs_from_one_above_its_noise_on(device: ProbeDevice) -> None:
    drawn = int(reference.noise(12345, 77))
    tokens = []
    for ppm in (drawn, drawn + 1):
        steps = steps_at(device, Knobs(draft_n=1, noise_ppm=ppm, work_flops=0, work_mem=0), 77)
        steps.draft(77)
        device.run()
        tokens.append(int(steps.buffers.proposed[0]))
    truth = int(reference.truth_tokens(77, 32_000))
    assert tokens == [truth, truth + 1]


def test_every_length_of_prefix_is_found(device: ProbeDevice) -> None:
    knobs = Knobs(draft_n=40, work_flops=0, work_mem=0)
    verified: list[Steps] = []
    for wrong in range(41):
        verified.append(steps_at(device, knobs, 100))
        verified[-1].buffers.proposed[:] = reference.truth_tokens(np.arange(100, 140), knobs.vocab)
        verified[-1].buffers.proposed[wrong:] += 1
        verified[-1].verify(100)
    device.run()
    assert [int(steps.buffers.result[0]) for steps in verified] == list(range(41))


def test_rounds_follow_one_another_through_the_chain(device: ProbeDevice) -> None:
    knobs = Knobs(draft_n=4, noise_ppm=300_000, vocab=11, work_flops=1, work_mem=1, mem_len=3 * T)
    steps = steps_at(device, knobs, 50)
    position, emitted, first_pass = 50, [], 0
    while len(emitted) < 60:
        first_pass = steps.verify(position, steps.draft(position, first_pass))
        device.run()
        accepted, following = steps.buffers.result.tolist()
        emitted += [*steps.buffers.proposed[:accepted].tolist(), following]
        position += accepted + 1
    assert emitted == reference.truth_tokens(50 + np.arange(len(emitted)), 11).tolist()


def test_the_baseline_emits_the_truth_token_by_token(device: ProbeDevice) -> None:
    knobs = Knobs(draft_n=3, vocab=1000, work_flops=2, work_mem=2, mem_len=4 * T)
    for position in POSITIONS:
        steps = steps_at(device, knobs, position)
        emitted = []
        for step in range(10):
            steps.baseline(step)
            device.run()
            emitted.append(int(steps.buffers.tokens[(step + 1) % 4]))
        assert emitted == reference.truth_tokens(position + np.arange(10), 1000).tolist()


def test_a_draft_really_hangs_on_the_launch_before_it(device: ProbeDevice) -> None:
    right = steps_at(device, Knobs(noise_ppm=0, vocab=1000, work_flops=1, work_mem=0), 10)
    wrong = steps_at(device, right.knobs, 10)
    for steps in (right, wrong):
        steps.draft_token(0, 10)
    device.run()
    wrong.buffers.chain[1] += 1
    for steps in (right, wrong):
        steps.draft_token(1, 10)
    device.run()
    assert wrong.buffers.chain[2] == right.buffers.chain[2] + 1
    assert wrong.buffers.proposed[1] != right.buffers.proposed[1]
    assert (wrong.buffers.sink != right.buffers.sink).mean() > 0.9  # every thread began from another word


STEPS: list[tuple[Callable[[Steps], Any], int, int]] = [
    (lambda steps: steps.draft_token(2, 10), 2, 1),
    (lambda steps: steps.verify(10), 4, 5),
    (lambda steps: steps.baseline(1), 1, 1),
]


@pytest.mark.parametrize(("work_flops", "work_mem"), [(0, 0), (11, 0), (0, 5), (11, 5), (3, 20), (40, 17)])
def test_every_thread_of_every_step_does_its_work(device: ProbeDevice, work_flops: int, work_mem: int) -> None:
    knobs = Knobs(draft_n=4, work_flops=work_flops, work_mem=work_mem, mem_len=6 * T + 5)
    zeros = np.zeros(knobs.mem_len, dtype=np.float32)
    for step, slot, tokens in STEPS:
        steps = steps_at(device, knobs, 10)
        steps.buffers.chain[:] = np.arange(1, 6) * 1_000_003
        word = int(steps.buffers.chain[slot])
        step(steps)
        device.run()
        assert (steps.buffers.sink == reference.burn(reference.start_values(T, word), tokens * work_flops)).all()
        assert (steps.buffers.memory == reference.memory_passes(zeros, T, 0, work_mem)).all()


@pytest.mark.parametrize("count", [1, 3, 4, 5, 4 * T - 1, 4 * T, 16 * T + 2, 33 * T + 7])
def test_streams_reach_every_float_once(device: ProbeDevice, count: int) -> None:
    rng = np.random.default_rng(count)
    x, y = (row.copy() for row in rng.integers(-8, 8, (2, count)).astype(np.float32))  # sums are exact
    written, copied, triad = (np.full(count, np.nan, dtype=np.float32) for _ in range(3))
    sink = np.full(T, np.nan, dtype=np.float32)
    probe_kernels.stream_read(device, SMALL, x, count, sink, STORE_ALL)
    probe_kernels.stream_write(device, SMALL, written, count, 2.5)
    probe_kernels.stream_copy(device, SMALL, x, copied, count)
    probe_kernels.stream_triad(device, SMALL, x, y, triad, count, 0.3)
    device.run()
    assert (written == 2.5).all()
    assert (copied == x).all()
    assert (triad == reference.fused_multiply_add(np.float32(0.3), y, x)).all()
    vectors = count // 4
    wanted = np.zeros(T)
    np.add.at(wanted, np.arange(vectors) % T, x[: 4 * vectors].reshape(-1, 4).sum(axis=1))
    np.add.at(wanted, np.arange(count - 4 * vectors), x[4 * vectors :])
    assert (sink == wanted).all()


COUNTERS = """
inline long long counted_fma = 0, counted_read = 0, counted_written = 0;
template <class T> struct Counted {  // an element in memory
    T value;
    operator T() const { __atomic_fetch_add(&counted_read, sizeof(T), __ATOMIC_RELAXED); return value; }
    Counted& operator=(T v) {
        __atomic_fetch_add(&counted_written, sizeof(T), __ATOMIC_RELAXED);
        value = v;
        return *this;
    }
    Counted& operator=(const Counted& other) { return *this = static_cast<T>(other); }
};
inline float counting_fmaf(float a, float b, float c) {
    __atomic_fetch_add(&counted_fma, 1, __ATOMIC_RELAXED);
    return fmaf(a, b, c);
}
extern "C" __global__ void counters(long long* out) {
    out[0] = counted_fma; out[1] = counted_read; out[2] = counted_written;
    counted_fma = counted_read = counted_written = 0;
}
"""


@pytest.fixture(scope="module")
def counting_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels with every float in memory and every multiply-add counted."""
    text = re.sub(r"\bfloat(4?)\*", r"Counted<float\1>*", SOURCE.read_text())
    text = text.replace("fmaf(", "counting_fmaf(")
    source = tmp_path_factory.mktemp("counting") / "counting.cu"
    source.write_text(COUNTERS + text)
    return build(source)


def assert_counted(library: Path, probe: str, axes: Axes, fill: Callable[[ProbeDevice], Any]) -> tuple[int, int]:
    """Compare what a launch does with what the registry states; return the bytes read and written."""
    device = ProbeDevice()
    fill(device)
    counts = np.zeros(3, dtype=np.int64)
    changed = [Launch(item.kernel, item.grid, item.block, item.args) for item in device.launches]
    run(library, [*changed, Launch("counters", 1, 1, (counts,))])
    multiply_adds, read, written = map(int, counts)
    units = Units(
        workflops_flop=FLOP_PER_WORKFLOPS * T,
        workmem_bytes=BYTES_PER_WORKMEM * T,
        workmem_flop=FLOP_PER_WORKMEM * T,
        workflops_means="",
        workmem_means="",
    )
    flop = 0 if probe == "read" else 2 * multiply_adds  # the sum that keeps the loads is not counted as work
    assert (flop, read + written) == (BY_NAME[probe].flop(axes, units), BY_NAME[probe].bytes(axes, units))
    return read, written


def test_formulas_are_what_the_steps_do(counting_library: Path) -> None:
    knobs = Knobs(draft_n=3, work_flops=7, work_mem=10, mem_len=4 * T + 9)
    buffers = steps_at(ProbeDevice(), knobs, 5).buffers
    axes = {"draft_n": knobs.draft_n, "work_flops": knobs.work_flops, "work_mem": knobs.work_mem}
    for name, step in (
        ("draft", lambda steps: steps.draft(5)),
        ("verify", lambda steps: steps.verify(5)),
        ("baseline", lambda steps: steps.baseline(0)),
    ):
        fill = lambda device, step=step: step(Steps(device, SMALL, buffers, knobs))  # noqa: E731
        read, written = assert_counted(counting_library, name, axes, fill)
        assert read == written


def test_formulas_are_what_burns_and_streams_do(counting_library: Path) -> None:
    count = 9 * T + 3
    x, y, z, sink = (np.zeros(count, dtype=np.float32) for _ in range(4))
    for name, all_written, fill in (
        ("read", 0, lambda device: probe_kernels.stream_read(device, SMALL, x, count, sink)),
        ("write", 4 * count, lambda device: probe_kernels.stream_write(device, SMALL, x, count, 1.0)),
        ("copy", 4 * count, lambda device: probe_kernels.stream_copy(device, SMALL, x, y, count)),
        ("triad", 4 * count, lambda device: probe_kernels.stream_triad(device, SMALL, x, y, z, count, 2.0)),
    ):
        _, written = assert_counted(counting_library, name, {"buffer_bytes": 4 * count}, fill)
        assert written == all_written
    for name, axes, fill in (
        ("burn_flops", {"work_flops": 13}, lambda device: probe_kernels.burn_flops(device, SMALL, 13, sink)),
        ("burn_memory", {"work_mem": 21}, lambda device: probe_kernels.burn_memory(device, SMALL, 21, x, count)),
    ):
        assert_counted(counting_library, name, axes, fill)


def everything(device: ProbeDevice) -> list[Steps]:
    """Launches of all kernels, over lengths that do not divide evenly."""
    done = []
    for knobs in CASES:
        steps = steps_at(device, knobs, 2**31 - 3)
        steps.baseline(0, steps.verify(2**31 - 3, steps.draft(2**31 - 3)))
        done.append(steps)
    probe_kernels.empty(device, SMALL)
    for count in (1, 16 * T + 2):
        x, y, z, sink = (np.ones(size, dtype=np.float32) for size in (count, count, count, T))
        probe_kernels.stream_read(device, SMALL, x, count, sink)
        probe_kernels.stream_write(device, SMALL, z, count, 1.0)
        probe_kernels.stream_copy(device, SMALL, x, y, count)
        probe_kernels.stream_triad(device, SMALL, x, y, z, count, 0.5)
    memory = np.zeros(3 * T + 1, dtype=np.float32)
    probe_kernels.burn_memory(device, SMALL, 20, memory, memory.size, 5)
    probe_kernels.burn_flops(device, SMALL, 3, np.zeros(T, dtype=np.float32), STORE_ALL)
    assert {item.kernel for item in device.launches} == set(KERNELS)
    return done


@pytest.mark.parametrize(("sanitizers", "concurrent_blocks"), [(ADDRESS, 1), (THREAD, 3)], ids=["address", "thread"])
def test_sanitizers_find_nothing(sanitizers: tuple[str, ...], concurrent_blocks: int) -> None:
    device = ProbeDevice(sanitizers, concurrent_blocks)
    done = everything(device)
    device.run()
    assert [int(steps.buffers.result[0]) for steps in done[:3]] == [1, 0, 32]  # and the kernels ran


def test_a_grid_of_more_threads_than_floats_touches_nothing_else() -> None:
    device = ProbeDevice(ADDRESS)
    memory = np.zeros(T - 5, dtype=np.float32)
    device.launch("burn_memory", (3,), (32,), (memory, np.int64(memory.size), np.int64(9), np.int64(4)))
    device.run()
    assert (memory == reference.memory_passes(np.zeros_like(memory), T, 9, 4)).all()


def test_a_buffer_shorter_than_its_length_is_noticed() -> None:
    device = ProbeDevice(ADDRESS)
    short = np.zeros(4 * T - 1, dtype=np.float32)
    device.launch("burn_memory", (3,), (32,), (short, np.int64(4 * T), np.int64(0), np.int64(4)))
    with pytest.raises(SanitizerError, match="heap-buffer-overflow"):
        device.run()


def test_knobs_buffers_and_grids_out_of_range_are_refused(device: ProbeDevice) -> None:
    for name, value in (
        *(("vocab", 1), ("draft_n", 0), ("noise_ppm", -1), ("noise_ppm", 1_000_001)),
        *(("work_flops", -1), ("work_mem", -1), ("seed", 2**63), ("mem_len", 0)),
    ):
        with pytest.raises(ValueError, match=name):
            Knobs(**{name: value})
    with pytest.raises(ValueError, match="mem_len 95"):
        steps_at(device, Knobs(mem_len=T - 1), 0)
    for blocks, threads in ((0, 32), (1, 33), (1, 0), (1, 512)):
        with pytest.raises(ValueError, match=r"grid|block"):
            Geometry(blocks, threads)
