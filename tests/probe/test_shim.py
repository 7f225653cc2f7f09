"""The shim does what CUDA says, and notices what CUDA forbids: every check of it with a kernel that is wrong."""

from pathlib import Path

import numpy as np
import pytest

from .shim.shim import ADDRESS, THREAD, Launch, LaunchError, SanitizerError, build, launch, run

SOURCE = Path(__file__).parent / "shim" / "negative.cu"


@pytest.fixture(scope="module")
def library() -> Path:
    return build(SOURCE)


def right_kernels() -> list[Launch]:
    """Launches that are right: lanes that wait for one another, and several blocks at the same time."""
    x, tile = np.arange(32, dtype=np.float32), np.zeros(32, np.float32)
    sums = np.zeros(5, np.float32), np.zeros(1, np.int32), np.zeros(1, np.float32)
    return [
        Launch("neighbour", 1, 32, (x, tile)),
        Launch("last_block_sums", 5, 33, sums, concurrent_blocks=3, seed=4),
    ]


@pytest.mark.parametrize("sanitizers", [(), ADDRESS, THREAD], ids=["plain", "address", "thread"])
def test_right_kernels_give_right_results_and_no_report(sanitizers: tuple[str, ...]) -> None:
    launches = right_kernels()
    run(build(SOURCE, sanitizers=sanitizers), launches)
    neighbour, last = (item.args for item in launches)
    assert (neighbour[0] == 2 * (np.arange(32) ^ 1)).all()
    assert last[2][0] == 15


@pytest.mark.parametrize("number", [0, 1], ids=["syncwarp", "threadfence"])
def test_a_missing_barrier_or_fence_is_a_race(number: int) -> None:
    library = build(SOURCE, sanitizers=THREAD, defines=["WITHOUT_ORDER"])
    with pytest.raises(SanitizerError, match="data race"):
        run(library, [right_kernels()[number]])


def test_an_overrun_of_an_array_and_an_overflow_are_reported() -> None:
    library = build(SOURCE, sanitizers=ADDRESS)
    with pytest.raises(SanitizerError, match="heap-buffer-overflow"):
        launch(library, "neighbour", 1, 32, (np.zeros(31, np.float32), np.zeros(32, np.float32)))
    with pytest.raises(SanitizerError, match="signed integer overflow"):
        launch(library, "overflows", 1, 1, (np.array([2**31 - 1], dtype=np.int32),))


def test_blocks_that_wait_for_one_another_run_together(library: Path) -> None:
    turn, order = np.zeros(1, np.int32), np.full(4, -1, np.int32)
    launch(library, "passes_on", 4, 2, (turn, order), concurrent_blocks=4, seed=1)
    assert turn[0] == 4
    assert order.tolist() == [0, 1, 2, 3]


def test_atomics(library: Path) -> None:
    total, last = np.zeros(1, np.int32), np.zeros(1, np.int32)
    launch(library, "accumulates", 4, 40, (total, last), concurrent_blocks=2)
    assert (total[0], last[0]) == (4 * 780, 40)


@pytest.mark.parametrize("active", [32, 20])
def test_lanes_exchange_values_and_those_that_have_left_do_not_hold_up_the_others(library: Path, active: int) -> None:
    out = np.zeros((32, 4), dtype=np.int32)
    launch(library, "collects", 1, 32, (out, active))
    lanes = np.arange(active)
    if active == 32:
        assert (out[:, 0] == 496).all()
    there = (1 << active) - 1
    assert (out[:active, 1].view(np.uint32) == 0xAAAAAAAA & there).all()
    assert (out[:active, 2] == 3).all()
    assert (out[:active, 3] == np.where(lanes < 16, 1 << 5, 1 << 21 & there)).all()
    assert not out[active:].any()


def test_what_cuda_leaves_undefined_is_an_error(library: Path) -> None:
    with pytest.raises(LaunchError, match="leaves it out"):
        launch(library, "leaves_itself_out", 1, 2, (np.zeros(2, np.int32),))
    with pytest.raises(LaunchError, match="disagree on the mask"):
        launch(library, "disagrees", 1, 3, (np.zeros(3, np.int32),))
    with pytest.raises(LaunchError, match="never come"):
        run(library, [Launch("hangs", 1, 3, ())], patience_s=1)


def test_arguments_of_the_wrong_kind_are_refused(library: Path) -> None:
    x, tile = (np.zeros(32, np.float32) for _ in range(2))
    for args, match in (
        ((x.astype(np.float64), tile), "float32"),
        ((x.view(np.int32), tile), "float32"),
        ((np.zeros((32, 2), np.float32)[:, 0], tile), "contiguous"),
        ((x,), "takes 2"),
    ):
        with pytest.raises(TypeError, match=match):
            launch(library, "neighbour", 1, 32, args)
    out = np.zeros((32, 4), dtype=np.int32)
    with pytest.raises(TypeError, match="int32"):
        launch(library, "collects", 1, 32, (out, np.int64(3)))
    with pytest.raises(OverflowError):
        launch(library, "collects", 1, 32, (out, 2**31))
    with pytest.raises(ValueError, match="no kernel"):
        launch(library, "absent", 1, 1, ())
    with pytest.raises(ValueError, match="same memory"):
        launch(library, "neighbour", 1, 16, (x[:16], x[8:24]))
    with pytest.raises(ValueError, match="1024"):
        launch(library, "neighbour", 1, 1025, (x, tile))


def test_a_source_that_does_not_compile_says_why(tmp_path: Path) -> None:
    source = tmp_path / "wrong.cu"
    source.write_text('extern "C" __global__ void wrong() { nothing(); }')
    with pytest.raises(RuntimeError, match=r"(?s)wrong\.cu.*nothing"):
        build(source)
