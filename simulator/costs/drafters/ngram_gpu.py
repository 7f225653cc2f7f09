"""n-gram on the device: the same search in a few kernels, and all K places are verified, found or not."""

import numpy as np

from simulator.costs.work import ModelShape

from .plan import LENGTH, DraftPass, DraftPlan, Engines, Ints, without_weights

# Of windows, their comparison with the last tokens, the first match and what follows it.
KERNELS = 4


def plan(shape: ModelShape, draft_length: Ints) -> DraftPlan:
    """Return the search."""
    k = np.asarray(draft_length, np.int64)
    one = np.ones_like(k)
    search = DraftPass("search", shape, one, one, one, launches=KERNELS, is_part=True)
    return DraftPlan(passes=(search,), width=k + 1, accepts=LENGTH)


METHOD = without_weights(
    "ngram_gpu",
    plan,
    Engines({"method": "ngram_gpu"}),
    for_encoders=True,
    title="n-gram on the device",
    rounds="a search",
    reads="its own text",
)
