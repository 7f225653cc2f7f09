"""The probe kernels as NVRTC compiles them for every architecture: they fit, spill nothing, and do all their work."""

import itertools
import re
from pathlib import Path

import pytest

from cuda_probe.kernels.probe_kernels import BLOCKS_PER_MULTIPROCESSOR, SOURCE, THREADS_PER_BLOCK

from .nvrtc import ARCHITECTURES, NvrtcError, compile_source

KERNELS = {"empty", "burn_flops", "burn_memory", "draft", "verify", "baseline",
           "stream_read", "stream_write", "stream_copy", "stream_triad"}  # fmt: skip
REGISTERS_OF_A_MULTIPROCESSOR = 65536  # of all architectures from 5.0 to 12.0
THREADS_OF_A_MULTIPROCESSOR = {75: 1024, 90: 2048, 120: 1536}
WARP_REGISTERS_COME_IN = 8 * 32
FMA = "fma.rn.ftz.f32"  # CuPy flushes denormals, so the tests do


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_spills_and_the_whole_grid_is_resident(architecture: int) -> None:
    found = compile_source(SOURCE, architecture).resources()
    assert set(found) == KERNELS
    for name, used in found.items():
        assert used.stack_bytes == 0, name
        assert used.registers > 0, name
        warp = -(-used.registers * 32 // WARP_REGISTERS_COME_IN) * WARP_REGISTERS_COME_IN
        block = warp * THREADS_PER_BLOCK // 32
        assert BLOCKS_PER_MULTIPROCESSOR * block <= REGISTERS_OF_A_MULTIPROCESSOR, name
    assert THREADS_OF_A_MULTIPROCESSOR[architecture] >= BLOCKS_PER_MULTIPROCESSOR * THREADS_PER_BLOCK


def test_a_kernel_that_needs_local_memory_is_told_from_those_that_do_not(tmp_path: Path) -> None:
    source = tmp_path / "local.cu"
    source.write_text(
        'extern "C" __global__ void local(int* x, int i) {\n'
        "    int table[64];\n"
        "    for (int j = 0; j < 64; ++j) table[(j * i) & 63] = x[j];\n"
        "    x[i] = table[x[0] & 63];\n"
        "}\n"
    )
    assert compile_source(source, 80).resources()["local"].stack_bytes == 256


def test_what_does_not_compile_says_why(tmp_path: Path) -> None:
    source = tmp_path / "wrong.cu"
    source.write_text('extern "C" __global__ void wrong() { nothing(); }')
    with pytest.raises(NvrtcError, match="nothing"):
        compile_source(source, 80)


def body(kernel: str, architecture: int = 90) -> str:
    """The kernel's PTX."""
    return compile_source(SOURCE, architecture).ptx.split(f".entry {kernel}(")[1].split(".entry ")[0]


def loops(ptx: str) -> list[str]:
    """The instructions between each label and the branch back to it."""
    found = []
    for label in re.findall(r"^(\$L\w+):", ptx, flags=re.M):
        back = re.search(rf"^{re.escape(label)}:(.*?)bra(?:\.uni)?\s+{re.escape(label)};", ptx, flags=re.M | re.S)
        if back:
            found.append(back[1])
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", ["burn_flops", "draft", "verify", "baseline"])
def test_the_burn_loop_is_sixteen_units_of_three_chained_fmas(kernel: str, architecture: int) -> None:
    burns = [loop for loop in loops(body(kernel, architecture)) if "ld.global" not in loop and FMA in loop]
    unrolled = [loop for loop in burns if loop.count(FMA) == 3 * 16]
    assert unrolled
    for loop in burns:
        steps = re.findall(re.escape(FMA) + r"\s+(%f\d+|%r\d+), (%f\d+|%r\d+), (%f\d+|%r\d+),", loop)
        assert len(steps) == loop.count(FMA)
        assert len(steps) % 3 == 0
        for (result, _, _), (_, left, right) in itertools.pairwise(steps):
            assert result == left == right  # each waits for the one before it


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", ["burn_memory", "draft", "verify", "baseline"])
def test_a_pass_loads_and_stores_and_loads_run_ahead(kernel: str, architecture: int) -> None:
    walk = max(loops(body(kernel, architecture)), key=lambda loop: loop.count("ld.global"))
    loads, stores = ([m.start() for m in re.finditer(rf"{op}\.global\.\w+", walk)] for op in ("ld", "st"))
    assert len(loads) == len(stores) == 8
    assert max(loads) < min(stores)


@pytest.mark.parametrize(
    ("kernel", "loads", "stores"), [("read", 1, 0), ("write", 0, 1), ("copy", 1, 1), ("triad", 2, 1)]
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_streams_move_sixteen_bytes_an_access(kernel: str, loads: int, stores: int, architecture: int) -> None:
    ptx = body(f"stream_{kernel}", architecture)
    wide = max(loops(ptx), key=lambda loop: loop.count(".v4."))
    found = [len(re.findall(rf"{op}\.global\.(?:nc\.)?v4\.\w+", wide)) for op in ("ld", "st")]
    unrolled = 8 if kernel == "read" else 4
    assert found == [loads * unrolled, stores * unrolled]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_results_store_hangs_on_the_result(architecture: int) -> None:
    for kernel in ("burn_flops", "draft", "verify", "baseline", "stream_read"):
        ptx = body(kernel, architecture)
        condition = re.search(r"setp\.(?:leu|le|gt|gtu)\.ftz\.f32\s+(%p\d+),", ptx)
        assert condition, kernel
        assert "st.global" in ptx[condition.end() :], kernel


def test_every_thread_of_a_step_reads_the_chain_first() -> None:
    for kernel in ("draft", "verify", "baseline"):
        ptx = body(kernel)
        first_load = re.search(r"ld\.global\.\w+", ptx)
        first_branch = re.search(r"\bbra\b", ptx)
        assert first_load
        assert first_branch
        assert first_load.start() < first_branch.start()
