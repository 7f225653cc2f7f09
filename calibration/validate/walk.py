"""The expected walk of decoding through outputs of known lengths: rounds by drafted tokens, to the last one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator.costs.step import Costs, Floats

# Probability that an output has not ended.
NEGLIGIBLE = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What it takes to decode some outputs, expected.

    tokens: of all. rounds: by drafted tokens, [k + 1], of one sequence. stretch: steps of a batch, which goes on until
    its last row ends, over those of a row.
    """

    tokens: float
    rounds: Floats
    stretch: float

    @property
    def tokens_per_round(self) -> float:
        """Cut rounds among them."""
        return self.tokens / float(self.rounds.sum())

    def speedup(self, costs: Costs) -> Floats:
        """Return the time of plain decoding over that of these rounds, [*samples]."""
        cost = costs.round_cost(np.arange(len(self.rounds)))
        return np.asarray(self.tokens * cost.baseline_s[..., 0] / (cost.after_miss_s @ self.rounds * self.stretch))


def walk(law: Floats, lengths: Sequence[int], budget: int, batch: int) -> Walk:
    """Return the walk through outputs: the law of what is left of them, round after round.

    law: P(A = a) of a whole round, [k + 1]; rounds are independent. lengths: tokens of each output, of a budget, and a
    round drafts at most what is left of it less one. batch: rows that are decoded together, here of one length.
    """
    each, counts = np.unique(lengths, return_counts=True)
    longest = int(each[-1])
    left, steps = (np.arange(longest + 1) == each[:, None]).astype(np.float64), np.zeros(len(each))
    visits = np.zeros(left.shape)
    while left[:, 1:].sum() > NEGLIGIBLE:
        visits += left
        steps += 1 - left[:, 0] ** batch
        left = after_a_round(left, law)
    drafted = np.minimum(len(law) - 1, budget - each[:, None] + np.arange(longest + 1) - 1)
    weights = counts[:, None] * visits
    counted = np.bincount(drafted[:, 1:].ravel().clip(0), weights=weights[:, 1:].ravel(), minlength=len(law))
    rounds = np.asarray(counted, np.float64)
    return Walk(tokens=float(counts @ each), rounds=rounds, stretch=float(counts @ steps / rounds.sum()))


def after_a_round(left: Floats, law: Floats) -> Floats:
    """Return the law of what is left after one more round, [..., tokens + 1]; an output that has ended stays so."""
    longest = left.shape[-1] - 1
    after = np.zeros(left.shape)
    after[:, 0] = left[:, 0]
    for a, share in enumerate(law[:longest]):
        after[:, : longest - a] += share * left[:, a + 1 :]
    for a, share in enumerate(law):
        # What accepts more than is left ends the output as well.
        after[:, 0] += share * left[:, 1 : a + 1].sum(1)
    return after
