"""How many sequences the memory of devices has room for, beside the weights."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .datasheet import MACHINE
from .formats import FORMATS
from .model_costs import ModelPair, Placed
from .profile import USABLE_MEMORY
from .step import Floats, Real

# Of the memory: what servers are told to use, where they are told.
SHARES = (USABLE_MEMORY - 0.05, USABLE_MEMORY + 0.05)


def room(models: ModelPair | Placed, context: Real) -> Floats:
    """Return how many sequences of such contexts fit, with the part of one; infinite where that is not known, or one
    adds nothing."""
    limit = models.profile.usable_bytes
    if limit is None:
        return np.full(np.shape(context), np.inf)
    none, one = held(models, 0, 1), held(models, 1, context)
    found = np.full(np.shape(context), np.inf)
    for empty, with_one in zip(none, one, strict=True):
        of_one = np.where(with_one > empty, with_one - empty, np.nan)
        rooms = (limit - empty) / of_one
        found = np.minimum(found, np.where(np.isnan(rooms), np.where(empty > limit, 0.0, np.inf), rooms))
    return np.asarray(np.maximum(found, 0.0))


def with_share(models: ModelPair | Placed, share: float) -> ModelPair | Placed:
    """Return models on devices of whose memory an engine uses another share."""
    return replace(models, profile=replace(models.profile, memory_share=share))


def hangs(models: ModelPair | Placed, sequences: Real, context: Real) -> NDArray[np.bool_]:
    """Return where it hangs on a share of the memory that nobody stated how many of some sequences run."""
    if models.profile.memory_share is not None or models.profile.memory_bytes is None:
        return np.zeros(np.broadcast_shapes(np.shape(sequences), np.shape(context)), np.bool_)
    return np.asarray(sequences > np.floor(room(with_share(models, SHARES[0]), context)))


def held(models: ModelPair | Placed, batch: int, context: Real) -> tuple[Floats, ...]:
    """Return the bytes on each kind of device."""
    if isinstance(models, Placed):
        return (models.memory_bytes(batch, context),)
    return replace(models, batch=batch, context=context).held_bytes


def largest_batch(pair: ModelPair) -> int | None:
    """Return how many sequences of this context fit into the memory of the devices; None: not known, or no limit."""
    most = float(room(pair, pair.context))
    return None if most == np.inf else int(most)


def would_fit(pair: ModelPair, fits: Callable[[ModelPair], bool]) -> str:
    """Say in a sentence with which options a pair would fit that does not: the fewest devices, or weights of 8 bits.

    fits: whether one does.
    """
    narrow = replace(pair, dtype="fp8") if is_wider(pair) else pair
    wide, alone = more_devices(pair, fits), "--dtype fp8" if narrow is not pair and fits(narrow) else ""
    both = more_devices(narrow, fits) if narrow is not pair and not (wide or alone) else ""
    found = list(filter(None, (wide, alone, both and f"{both} --dtype fp8")))
    if not found:
        return "It would not on more devices of one machine or with weights of 8 bits either."
    return f"It would with {', or with '.join(found)}."


def is_wider(pair: ModelPair) -> bool:
    """Whether weights have more than 8 bits, and may have so many here."""
    is_able = not set(FORMATS["fp8"].arithmetic).isdisjoint(pair.profile.passes)
    return is_able and pair.placed_target.storage.format.bits > FORMATS["fp8"].bits


def more_devices(pair: ModelPair, fits: Callable[[ModelPair], bool]) -> str:
    """Return the option of the fewest devices, of twice as many and so on, that would do; "" for none."""
    return next((f"--tp {p.tp}" for p in doubled(pair) if fits(p)), "")


def doubled(pair: ModelPair) -> Iterator[ModelPair]:
    """Yield a pair on more devices: of one machine, and such as can share its heads."""
    link, devices = pair.profile.link, 2 * pair.devices
    while link is not None and devices <= (link.devices or MACHINE):
        if not pair.target.heads % (devices // pair.replicas):
            sharing = 1 if pair.draft.heads % devices else devices
            yield replace(pair, devices=devices, draft_devices=sharing if pair.draft_devices else None)
        devices *= 2
