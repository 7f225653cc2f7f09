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


# ---- burns -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [0, 1, 15, 16, 17, 100])
def test_burn_flops_applies_the_map_three_times_a_unit(device: ProbeDevice, units: int) -> None:
    sink = np.full(T, np.nan, dtype=np.float32)
    probe_kernels.burn_flops(device, SMALL, units, sink, STORE_ALL)
    device.run()
    assert (sink == reference.burn(reference.start_values(T, 0), units)).all()


def test_burn_flops_stores_nothing_by_default(device: ProbeDevice) -> None:
    sink = np.full(T, np.nan, dtype=np.float32)
    probe_kernels.burn_flops(device, SMALL, 5, sink)
    device.run()
    assert np.isnan(sink).all()


@pytest.mark.parametrize("mem_len", [T, T + 1, 2 * T - 1, 7 * T + 5, 8 * T, 9 * T - 1, 40 * T + 13])
@pytest.mark.parametrize(("first_pass", "passes"), [(0, 0), (0, 1), (0, 8), (3, 11), (1000, 29)])
def test_burn_memory_leaves_what_the_reference_leaves(
    device: ProbeDevice, mem_len: int, first_pass: int, passes: int
) -> None:
    before = np.random.default_rng(mem_len).uniform(-1, 1, mem_len).astype(np.float32)
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


# ---- draft, verify, baseline -----------------------------------------------------------------------------------------

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
    accepted = 0
    while accepted < knobs.draft_n and wanted[accepted] == reference.truth_tokens(position + accepted, knobs.vocab):
        accepted += 1
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
    tokens = reference.truth_tokens(np.arange(100, 140), knobs.vocab)
    found: list[Steps] = []
    for wrong in range(41):
        steps = steps_at(device, knobs, 100)
        steps.buffers.proposed[:] = tokens
        steps.buffers.proposed[wrong:] += 1
        steps.verify(100)
        found.append(steps)
    device.run()
    assert [int(steps.buffers.result[0]) for steps in found] == list(range(41))


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


@pytest.mark.parametrize("position", POSITIONS)
def test_the_baseline_emits_the_truth_token_by_token(device: ProbeDevice, position: int) -> None:
    knobs = Knobs(draft_n=3, vocab=1000, work_flops=2, work_mem=2, mem_len=4 * T)
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


STEPS: list[tuple[str, Callable[[Steps], Any], int, int]] = [
    ("draft", lambda steps: steps.draft_token(2, 10), 2, 1),
    ("verify", lambda steps: steps.verify(10), 4, 5),
    ("baseline", lambda steps: steps.baseline(1), 1, 1),
]


@pytest.mark.parametrize("work", [(0, 0), (11, 0), (0, 5), (11, 5), (3, 20), (40, 17)])
@pytest.mark.parametrize(("name", "step", "slot", "tokens"), STEPS, ids=lambda value: value if value in KERNELS else "")
def test_every_thread_of_every_step_does_its_work(
    device: ProbeDevice, name: str, step: Callable[[Steps], Any], slot: int, tokens: int, work: tuple[int, int]
) -> None:
    knobs = Knobs(draft_n=4, work_flops=work[0], work_mem=work[1], mem_len=6 * T + 5)
    steps = steps_at(device, knobs, 10)
    steps.buffers.chain[:] = np.arange(1, 6) * 1_000_003
    word = int(steps.buffers.chain[slot])
    step(steps)
    device.run()
    assert (steps.buffers.sink == reference.burn(reference.start_values(T, word), tokens * work[0])).all()
    zeros = np.zeros(knobs.mem_len, dtype=np.float32)
    assert (steps.buffers.memory == reference.memory_passes(zeros, T, 0, work[1])).all()


# ---- streams ---------------------------------------------------------------------------------------------------------

COUNTS = [1, 3, 4, 5, 4 * T - 1, 4 * T, 16 * T + 2, 33 * T + 7]


@pytest.mark.parametrize("count", COUNTS)
def test_streams_reach_every_float_once(device: ProbeDevice, count: int) -> None:
    rng = np.random.default_rng(count)
    x, y = rng.integers(-8, 8, (2, count)).astype(np.float32)  # sums are exact
    x, y = x.copy(), y.copy()
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


# ---- FLOP and bytes, counted -----------------------------------------------------------------------------------------

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


def stated(probe: str, axes: Axes) -> tuple[int, int]:
    """FLOP and bytes of a launch as the registry states them, for this grid."""
    units = Units(
        workflops_flop=FLOP_PER_WORKFLOPS * T,
        workmem_bytes=BYTES_PER_WORKMEM * T,
        workmem_flop=FLOP_PER_WORKMEM * T,
        workflops_means="",
        workmem_means="",
    )
    return BY_NAME[probe].flop(axes, units), BY_NAME[probe].bytes(axes, units)


def traffic_of(library: Path, fill: Callable[[ProbeDevice], None]) -> tuple[int, int, int]:
    device = ProbeDevice()
    fill(device)
    counts = np.zeros(3, dtype=np.int64)
    changed = [Launch(item.kernel, item.grid, item.block, item.args) for item in device.launches]
    run(library, [*changed, Launch("counters", 1, 1, (counts,))])
    return int(counts[0]), int(counts[1]), int(counts[2])


def test_formulas_are_what_the_steps_do(counting_library: Path) -> None:
    knobs = Knobs(draft_n=3, work_flops=7, work_mem=10, mem_len=4 * T + 9)
    quiet = steps_at(ProbeDevice(), knobs, 5)

    def steps(device: ProbeDevice) -> Steps:
        return Steps(device, SMALL, quiet.buffers, knobs)

    axes = {"draft_n": knobs.draft_n, "work_flops": knobs.work_flops, "work_mem": knobs.work_mem}
    for name, fill in {
        "draft": lambda device: steps(device).draft(5),
        "verify": lambda device: steps(device).verify(5),
        "baseline": lambda device: steps(device).baseline(0),
    }.items():
        counted, read, written = traffic_of(counting_library, fill)
        assert (2 * counted, read + written) == stated(name, axes)
        assert read == written


def test_formulas_are_what_burns_and_streams_do(counting_library: Path) -> None:
    count = 9 * T + 3
    x, y, z, sink = (np.zeros(count, dtype=np.float32) for _ in range(4))
    for name, fill in {
        "write": lambda device: probe_kernels.stream_write(device, SMALL, x, count, 1.0),
        "copy": lambda device: probe_kernels.stream_copy(device, SMALL, x, y, count),
        "triad": lambda device: probe_kernels.stream_triad(device, SMALL, x, y, z, count, 2.0),
    }.items():
        counted, read, written = traffic_of(counting_library, fill)
        assert (2 * counted, read + written) == stated(name, {"buffer_bytes": 4 * count})
        assert written == 4 * count
    _, read, written = traffic_of(
        counting_library, lambda device: probe_kernels.stream_read(device, SMALL, x, count, sink)
    )
    assert (read, written) == (4 * count, 0)
    assert stated("read", {"buffer_bytes": 4 * count}) == (0, 4 * count)
    for work_flops, work_mem in ((13, 0), (0, 21)):
        counted, read, written = traffic_of(
            counting_library,
            lambda device, flops=work_flops, mem=work_mem: (
                probe_kernels.burn_flops(device, SMALL, flops, sink)
                if flops
                else probe_kernels.burn_memory(device, SMALL, mem, x, count)
            ),
        )
        name, axes = (
            ("burn_flops", {"work_flops": work_flops}) if work_flops else ("burn_memory", {"work_mem": work_mem})
        )
        assert (2 * counted, read + written) == stated(name, axes)


# ---- sanitizers ------------------------------------------------------------------------------------------------------


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


# ---- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"vocab": 1}, {"draft_n": 0}, {"noise_ppm": -1}, {"noise_ppm": 1_000_001},
                                    {"work_flops": -1}, {"work_mem": -1}, {"seed": 2**63}, {"mem_len": 0}])  # fmt: skip
def test_knobs_out_of_range_are_refused(change: dict[str, int]) -> None:
    (name,) = change
    with pytest.raises(ValueError, match=name):
        Knobs(**change)


def test_a_buffer_smaller_than_the_grid_is_refused(device: ProbeDevice) -> None:
    with pytest.raises(ValueError, match="mem_len 95"):
        steps_at(device, Knobs(mem_len=T - 1), 0)


@pytest.mark.parametrize(("blocks", "threads"), [(0, 32), (1, 33), (1, 0), (1, 512)])
def test_a_grid_that_cannot_be_is_refused(blocks: int, threads: int) -> None:
    with pytest.raises(ValueError, match=r"grid|block"):
        Geometry(blocks, threads)
