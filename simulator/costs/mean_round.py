"""What a round costs on average whose drafts are as long as what was found."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .step import Floats, RoundCost

if TYPE_CHECKING:
    from .model_costs import ModelPair


def mean_round(costs: "ModelPair", draft_length: NDArray[np.int64], shares: Sequence[float]) -> RoundCost:
    """Return the mean over how many tokens a round drafts, K at most.

    All sequences of a batch count as drafting as many: costs that grow evenly with tokens have the same mean.

    Args:
        costs: Of rounds that draft K tokens, 0 among them.
        draft_length: K.
        shares: P(D = d) from 0 on, of drafts that nothing cuts.
    """
    k, at_least = np.asarray(draft_length), np.cumsum(shares[::-1])[::-1]
    lengths = [np.full((1,) * k.ndim, d) for d in range(len(shares))]
    without = costs.round_cost(lengths[0])
    each = [without, *(costs.round_cost(length, without.baseline_s) for length in lengths[1:])]

    def mean(values: Sequence[Floats]) -> Floats:
        """Return the mean of what rounds of each number of drafts have, for each K."""
        below, means = np.zeros(()), list[Floats]()
        for share, enough, value in zip(shares, at_least, values, strict=True):
            means.append(below + enough * value)
            below = below + share * value
        return chosen(means, k)

    return each[-1]._replace(
        draft_length=k,
        draft_s=mean([one.draft_s for one in each]),
        verify_s=mean([one.verify_s for one in each]),
        drafted=mean([length.astype(np.float64) for length in lengths]),
    )


def chosen(means: Sequence[Floats], k: NDArray[np.int64]) -> Floats:
    """Return for each K its own of some arrays that broadcast with K, the last one's beyond."""
    longest = len(means) - 1
    axes = [axis for axis, size in enumerate(k.shape) if size > 1]
    at = np.minimum(k, longest)
    if not axes:
        return means[int(at.ravel()[0])]
    axis = axes[0] - k.ndim
    if len(axes) == 1 and all(mean.shape[axis] == 1 for mean in means):
        return np.concatenate([means[d] for d in at.ravel().tolist()], axis=axis)
    return np.asarray(sum(np.where(at == d, mean, 0.0) for d, mean in enumerate(means)), np.float64)
