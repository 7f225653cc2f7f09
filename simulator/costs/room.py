"""How many sequences the memory of devices has room for, beside the weights."""

from dataclasses import replace

import numpy as np

from .model_costs import USABLE_MEMORY, ModelPair, Placed
from .step import Floats, Real


def room(models: ModelPair | Placed, context: Real) -> Floats:
    """Return how many sequences of such contexts fit, with the part of one; infinite where that is not known, or one
    adds nothing."""
    if models.profile.memory_bytes is None:
        return np.full(np.shape(context), np.inf)
    limit = USABLE_MEMORY * models.profile.memory_bytes
    none, one = held(models, 0, 1), held(models, 1, context)
    found = np.full(np.shape(context), np.inf)
    for empty, with_one in zip(none, one, strict=True):
        of_one = np.where(with_one > empty, with_one - empty, np.nan)
        rooms = (limit - empty) / of_one
        found = np.minimum(found, np.where(np.isnan(rooms), np.where(empty > limit, 0.0, np.inf), rooms))
    return np.asarray(np.maximum(found, 0.0))


def held(models: ModelPair | Placed, batch: int, context: Real) -> tuple[Floats, ...]:
    """Return the bytes on each kind of device."""
    if isinstance(models, Placed):
        return (models.memory_bytes(batch, context),)
    return replace(models, batch=batch, context=context).held_bytes


def largest_batch(pair: ModelPair) -> int | None:
    """Return how many sequences of this context fit into the memory of the devices; None: not known, or no limit."""
    most = float(room(pair, pair.context))
    return None if most == np.inf else int(most)
