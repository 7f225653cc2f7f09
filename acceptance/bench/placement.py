"""Which devices the target and the draft go to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simulator.ground.artefacts import UserError

KINDS = ("same", "separate", "ratio A:B", "auto")
RATIO = re.compile(r"ratio[ :]?(\d+):(\d+)")
# Weights take this much of what a model needs; the rest is for keys, values and activations.
WEIGHT_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A CUDA device by its index, and the memory that is free on it."""

    index: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Devices of the target and of the draft; a model of several is spread over them layer by layer."""

    target: tuple[str, ...]
    draft: tuple[str, ...]


def available_gpus() -> list[Gpu]:
    """Return the CUDA devices that torch sees."""
    import torch

    return [Gpu(index=i, free_bytes=torch.cuda.mem_get_info(i)[0]) for i in range(torch.cuda.device_count())]


def weight_bytes(name: str) -> int | None:
    """Return the size of a model's weights; None for one that is not a folder here."""
    folder = Path(name)
    files = [*folder.glob("*.safetensors")] or [*folder.glob("*.bin")]
    return sum(f.stat().st_size for f in files) if files else None


def place(
    kind: str,
    *,
    device: str,
    target_device: str | None = None,
    draft_device: str | None = None,
    gpus: Sequence[Gpu] = (),
    target_bytes: int | None = None,
    draft_bytes: int | None = None,
) -> Placement:
    """Decide.

    Args:
        kind: "same": both on `device`. "separate": the first GPU and the second. "ratio A:B": the target over the first
            A GPUs, the draft over the next B. "auto": one GPU if both fit on it, else the target over as many as it
            takes and the draft behind them; `device` where there is no GPU.
        device: Where both go unless told otherwise.
        target_device: Of the target, whatever the kind.
        draft_device: Of the draft, whatever the kind.
        gpus: What there is.
        target_bytes: Size of the target's weights, None if not known.
        draft_bytes: Size of the draft's.

    Raises:
        UserError: A kind that is not one, or that takes more GPUs than there are.
    """
    target, draft = by_kind(kind, device, gpus, target_bytes, draft_bytes)
    return Placement(
        target=(target_device,) if target_device else target, draft=(draft_device,) if draft_device else draft
    )


def by_kind(
    kind: str, device: str, gpus: Sequence[Gpu], target_bytes: int | None, draft_bytes: int | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the devices of target and draft that a kind of placement gives."""
    ratio = RATIO.fullmatch(kind)
    if kind == "same":
        return (device,), (device,)
    if kind == "separate":
        return split(kind, gpus, 1, 1)
    if ratio and int(ratio[1]) and int(ratio[2]):
        return split(kind, gpus, int(ratio[1]), int(ratio[2]))
    if kind != "auto":
        raise UserError(f"--placement: {kind!r} is not one, expected {', '.join(KINDS)} (as in ratio 6:2)")
    if not gpus:
        return (device,), (device,)
    return automatic(gpus, target_bytes, draft_bytes)


def split(kind: str, gpus: Sequence[Gpu], first: int, second: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the first so many GPUs and the next so many."""
    if len(gpus) < first + second:
        raise UserError(f"--placement: {kind} takes {first + second} GPUs, there are {len(gpus)}")
    names = [f"cuda:{gpu.index}" for gpu in gpus]
    return tuple(names[:first]), tuple(names[first : first + second])


def automatic(
    gpus: Sequence[Gpu], target_bytes: int | None, draft_bytes: int | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return one GPU for both where they fit, else as many as the target takes and the next for the draft."""
    roomiest = max(gpus, key=lambda gpu: gpu.free_bytes)
    if len(gpus) == 1:
        return (f"cuda:{roomiest.index}",), (f"cuda:{roomiest.index}",)
    if target_bytes is None or draft_bytes is None:
        return split("auto", gpus, len(gpus) - 1, 1)
    if target_bytes + draft_bytes <= WEIGHT_SHARE * roomiest.free_bytes:
        return (f"cuda:{roomiest.index}",), (f"cuda:{roomiest.index}",)
    for count in range(1, len(gpus)):
        if target_bytes <= WEIGHT_SHARE * sum(gpu.free_bytes for gpu in gpus[:count]):
            return split("auto", gpus, count, 1)
    raise UserError(
        f"--placement: auto finds no room for a target of {target_bytes / 2**30:.1f} GiB and a draft "
        f"on {len(gpus)} GPUs"
    )
