"""How many sequences the memory of devices has room for, beside the weights."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

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
