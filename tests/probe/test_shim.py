"""The shim does what CUDA says, and notices what CUDA forbids: every check of it with a kernel that is wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch

from .shim.shim import ADDRESS, THREAD, Launch, LaunchError, SanitizerError, build, launch, run

SOURCE = Path(__file__).parent / "shim" / "negative.cu"


@pytest.fixture(scope="module")
def library() -> Path:
    return build(SOURCE, instantiations=["doubles<float>", "doubles<int>"])


def right_kernels() -> list[Launch]:
    """Launches that are right: with shared memory, barriers, and several blocks at the same time."""
    x = np.arange(96, dtype=np.float32)
    return [
        Launch("reverse", 3, 32, (x, np.zeros_like(x)), 4 * 32, concurrent_blocks=3),
        Launch("neighbour", 1, 32, (np.arange(32, dtype=np.float32),)),
        Launch("last_block_sums", 5, 33, (np.zeros(5, np.float32), np.zeros(1, np.uint32), np.zeros(1, np.float32)),
               concurrent_blocks=3, seed=4),
    ]  # fmt: skip


@pytest.mark.parametrize("sanitizers", [(), ADDRESS, THREAD], ids=["plain", "address", "thread"])
def test_right_kernels_give_right_results_and_no_report(sanitizers: tuple[str, ...]) -> None:
    launches = right_kernels()
    run(build(SOURCE, sanitizers=sanitizers), launches)
    reverse, neighbour, last = (item.args for item in launches)
    assert (reverse[1] == reverse[0].reshape(3, 32)[:, ::-1].ravel()).all()
    assert (neighbour[0] == 2 * (np.arange(32) ^ 1)).all()
    assert last[2][0] == 15


@pytest.mark.parametrize("number", [0, 1, 2], ids=["syncthreads", "syncwarp", "threadfence"])
def test_a_missing_barrier_or_fence_is_a_race(number: int) -> None:
    library = build(SOURCE, sanitizers=THREAD, defines=["WITHOUT_ORDER"])
    with pytest.raises(SanitizerError, match="data race"):
        run(library, [right_kernels()[number]])


@pytest.mark.parametrize(("kernel", "shared_bytes"), [("oversteps_dynamic", 32), ("oversteps_static", 0)])
def test_an_overrun_of_shared_memory_is_reported(kernel: str, shared_bytes: int) -> None:
    library = build(SOURCE, sanitizers=ADDRESS)
    x = np.zeros(1, dtype=np.float32)
    launch(library, kernel, 1, 1, (x, 0), shared_bytes)
    with pytest.raises(SanitizerError, match=r"overflow|out of bounds"):
        launch(library, kernel, 1, 1, (x, 1), shared_bytes)


def test_an_overrun_of_an_array_and_an_overflow_are_reported() -> None:
    library = build(SOURCE, sanitizers=ADDRESS)
    with pytest.raises(SanitizerError, match="heap-buffer-overflow"):
        launch(library, "neighbour", 1, 32, (np.zeros(31, dtype=np.float32),))
    with pytest.raises(SanitizerError, match="signed integer overflow"):
        launch(library, "overflows", 1, 1, (np.array([2**31 - 1], dtype=np.int32),))


def test_blocks_that_wait_for_one_another_run_together(library: Path) -> None:
    turn, order = np.zeros(1, np.int32), np.full(4, -1, np.int32)
    launch(library, "passes_on", 4, 2, (turn, order), concurrent_blocks=4, seed=1)
    assert turn[0] == 4
    assert order.tolist() == [0, 1, 2, 3]


def test_atomics(library: Path) -> None:
    sums, most, least = np.zeros(1, np.float32), np.zeros(1, np.int32), np.zeros(1, np.int32)
    wide, claimed = np.zeros(1, np.uint64), np.zeros(1, np.uint32)
    launch(library, "accumulates", 4, 40, (sums, most, least, wide, claimed), concurrent_blocks=2)
    assert (sums[0], most[0], least[0], wide[0], claimed[0]) == (80, 32, -7, 160 << 33, 9)


def test_warp_collectives(library: Path) -> None:
    out = np.zeros((32, 6), dtype=np.int32)
    launch(library, "collects", 1, 32, (out, 32))
    lanes = np.arange(32)
    assert (out[:, 0] == 496 + np.where(lanes < 16, 1000, 2000)).all()
    assert (out[:, 1].view(np.uint32) == 0xAAAAAAAA).all()
    assert (out[:, 2] == np.maximum(lanes - 1, 0)).all()
    assert (out[:, 3] == np.where(lanes % 8 == 7, lanes, lanes + 1)).all()
    assert (out[:, 4] == lanes // 8 * 8 + 3).all()
    assert (out[:, 5] == 3).all()


def test_exited_lanes_do_not_hold_up_the_others(library: Path) -> None:
    out = np.zeros((32, 6), dtype=np.int32)
    launch(library, "collects", 1, 32, (out, 20))
    assert (out[:20, 1] == 0xAAAAA).all()
    assert (out[:20, 5] == 3).all()
    assert not out[20:].any()


def test_what_cuda_leaves_undefined_is_an_error(library: Path) -> None:
    with pytest.raises(LaunchError, match="leaves it out"):
        launch(library, "leaves_itself_out", 1, 2, (np.zeros(2, np.int32),))
    with pytest.raises(LaunchError, match="never come"):
        run(build(SOURCE), [Launch("hangs", 1, 3, (np.ones(1, np.int32),))], patience_s=1)


def test_sixteen_bit_floats_convert_as_numpy_and_torch_do(library: Path) -> None:
    bits = np.arange(65536, dtype=np.uint16)
    as_half, as_bfloat = np.zeros((2, 65536), dtype=np.float32)
    as_half, as_bfloat = as_half.copy(), as_bfloat.copy()
    launch(library, "halves", 256, 256, (bits, as_half, as_bfloat, 65536))
    np.testing.assert_array_equal(as_half, bits.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(as_bfloat, (bits.astype(np.uint32) << 16).view(np.float32))

    rng = np.random.default_rng(2)
    spread = rng.integers(0, 2**32, 30_000, dtype=np.uint32).view(np.float32)
    spread = np.where(np.isnan(spread), np.float32(np.nan), spread)
    finite = as_half[np.isfinite(as_half)]
    ties = (finite[:-1] + finite[1:]) / 2
    x = np.concatenate([spread, ties, np.float32([65519.99, 65520, np.inf, -np.inf, 0, -0.0])])
    half, bfloat = np.zeros((2, x.size), dtype=np.uint16)
    half, bfloat = half.copy(), bfloat.copy()
    launch(library, "rounds", -(-x.size // 256), 256, (x, half, bfloat, x.size))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(half.view(np.float16), x.astype(np.float16))
    wanted = torch.from_numpy(x).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal((bfloat.astype(np.uint32) << 16).view(np.float32), wanted)


def test_instances_of_templates_are_kernels(library: Path) -> None:
    for dtype, name in ((np.float32, "doubles<float>"), (np.int32, "doubles<int>")):
        x = np.arange(5, dtype=dtype)
        launch(library, name, 1, 5, (x,))
        assert x.tolist() == [0, 2, 4, 6, 8]


def test_arguments_of_the_wrong_kind_are_refused(library: Path) -> None:
    x = np.zeros(32, dtype=np.float32)
    for args, match in (
        ((x.astype(np.float64),), "float32"),
        ((x.view(np.int32),), "float32"),
        ((np.zeros((32, 2), np.float32)[:, 0],), "contiguous"),
        ((x, x), "takes 1"),
    ):
        with pytest.raises(TypeError, match=match):
            launch(library, "neighbour", 1, 32, args)
    out = np.zeros((32, 6), dtype=np.int32)
    with pytest.raises(TypeError, match="int32"):
        launch(library, "collects", 1, 32, (out, np.int64(3)))
    with pytest.raises(OverflowError):
        launch(library, "collects", 1, 32, (out, 2**31))
    with pytest.raises(ValueError, match="no kernel"):
        launch(library, "absent", 1, 1, ())
    with pytest.raises(ValueError, match="same memory"):
        launch(library, "reverse", 1, 16, (x[:16], x[8:24]), 64)
    with pytest.raises(ValueError, match="1024"):
        launch(library, "neighbour", 1, 1025, (x,))


def test_a_source_that_does_not_compile_says_why(tmp_path: Path) -> None:
    source = tmp_path / "wrong.cu"
    source.write_text('extern "C" __global__ void wrong() { nothing(); }')
    with pytest.raises(RuntimeError, match=r"(?s)wrong\.cu.*nothing"):
        build(source)
