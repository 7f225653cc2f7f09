"""Where models go, for every kind of placement and every machine."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import acceptance
from acceptance.bench.placement import WEIGHT_SHARE, Gpu, Placement, place, weight_bytes
from simulator.ground.artefacts import UserError

GIB = 2**30


def gpus(*free_gib: float) -> list[Gpu]:
    return [Gpu(index=i, free_bytes=int(free * GIB)) for i, free in enumerate(free_gib)]


KINDS = [
    ("same", gpus(), ("cpu",), ("cpu",)),
    ("same", gpus(80, 80), ("cpu",), ("cpu",)),
    ("separate", gpus(80, 80, 80), ("cuda:0",), ("cuda:1",)),
    ("ratio 6:2", gpus(*[80] * 8), tuple(f"cuda:{i}" for i in range(6)), ("cuda:6", "cuda:7")),
    ("ratio:1:1", gpus(80, 80), ("cuda:0",), ("cuda:1",)),
    ("auto", gpus(), ("cpu",), ("cpu",)),
    ("auto", gpus(80), ("cuda:0",), ("cuda:0",)),
    ("auto", gpus(10, 80), ("cuda:1",), ("cuda:1",)),
]


def test_kinds() -> None:
    for kind, there, target, draft in KINDS:
        found = place(kind, device="cpu", gpus=there, target_bytes=20 * GIB, draft_bytes=2 * GIB)
        assert found == Placement(target=target, draft=draft), (kind, there)
    # Models of unknown size get all there is, and a named device wins.
    found = place("auto", device="cpu", gpus=gpus(80, 80, 80))
    assert found == Placement(target=("cuda:0", "cuda:1"), draft=("cuda:2",))
    for kind in ("same", "separate", "auto"):
        found = place(kind, device="cpu", target_device="cuda:3", draft_device="cpu", gpus=gpus(80, 80))
        assert found == Placement(target=("cuda:3",), draft=("cpu",))
    for kind, count, message in (
        ("separate", 1, "--placement: separate takes 2 GPUs, there are 1"),
        ("ratio 6:2", 7, "--placement: ratio 6:2 takes 8 GPUs, there are 7"),
        ("ratio 0:2", 2, "--placement: 'ratio 0:2' is not one, expected same, separate, ratio A:B, auto"),
        ("both", 2, "--placement: 'both' is not one"),
    ):
        with pytest.raises(UserError, match=message):
            place(kind, device="cpu", gpus=gpus(*[80] * count))


@given(st.lists(st.floats(1, 100), min_size=2, max_size=8), st.floats(0.1, 400), st.floats(0.1, 4))
def test_automatic_placement_leaves_room(free: list[float], target: float, draft: float) -> None:
    """Brute force: one GPU if any holds both, else the fewest first ones that hold the target, and one more."""
    there, size, small = gpus(*free), int(target * GIB), int(draft * GIB)
    fits_one = [g for g in there if size + small <= WEIGHT_SHARE * g.free_bytes]
    counts = [n for n in range(1, len(there)) if size <= WEIGHT_SHARE * sum(g.free_bytes for g in there[:n])]
    if not fits_one and not counts:
        with pytest.raises(UserError, match="--placement: auto finds no room"):
            place("auto", device="cpu", gpus=there, target_bytes=size, draft_bytes=small)
        return
    found = place("auto", device="cpu", gpus=there, target_bytes=size, draft_bytes=small)
    if fits_one:
        assert found.target == found.draft
        assert int(found.target[0].removeprefix("cuda:")) in [g.index for g in fits_one]
    else:
        assert len(found.target) == counts[0]
        assert found.draft == (f"cuda:{counts[0]}",)


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    target = Path(acceptance.__file__).parent / "tiny_pair" / "target"
    assert weight_bytes(str(target)) == (target / "model.safetensors").stat().st_size
    assert weight_bytes("someone/some-model") is None
    assert weight_bytes(str(tmp_path)) is None
