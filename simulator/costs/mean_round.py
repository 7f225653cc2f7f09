"""What a round costs on average whose drafts are as long as what was found."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .step import Costs, Floats, RoundCost


def mean_round(costs: Costs, draft_length: NDArray[np.int64], shares: Sequence[float]) -> RoundCost:
    """Return the mean over how many tokens a round drafts, K at most.

    All sequences of a batch count as drafting as many: costs that grow evenly with tokens have the same mean.

    Args:
        costs: Of rounds that draft K tokens, 0 among them.
        draft_length: K.
        shares: P(D = d) from 0 on, of drafts that nothing cuts.
    """
    k, whole = draft_length, costs.round_cost(draft_length)
    at_least = np.cumsum(shares[::-1])[::-1]
    weights = [np.where(d < k, share, np.where(d == k, at_least[d], 0.0)) for d, share in enumerate(shares)]
    each = [costs.round_cost(np.full((1,) * k.ndim, d)) for d in range(len(shares))]

    def mean(name: str) -> Floats:
        return np.asarray(sum(w * getattr(one, name) for w, one in zip(weights, each, strict=True)), np.float64)

    drafted = np.asarray(sum(d * w for d, w in enumerate(weights)), np.float64)
    return whole._replace(draft_s=mean("draft_s"), verify_s=mean("verify_s"), drafted=drafted)
