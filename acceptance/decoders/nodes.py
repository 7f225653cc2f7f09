"""Nodes of a tree that grows best first, by the cumulative log probability of each branch (SpecExec, EAGLE-2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .batch import Floats, Ints
from .tree import Tree

NOT_READ = -1


@dataclass(frozen=True, slots=True)
class Nodes:
    """A tree that grows, a parent before its children.

    tokens and parents as in `Tree`. scores: log q of the whole branch. places: among the nodes that the draft has read,
    in the order it did. pruned, over_budget: as in `Tree`.
    """

    tokens: Ints
    parents: Ints
    scores: Floats
    places: Ints
    pruned: int = 0
    over_budget: int = 0

    def best(self, count: int) -> "Nodes":
        """Keep the best. No child is better than its parent, and of equals the earlier stays: no parent is lost."""
        extra = len(self.tokens) - count
        if extra <= 0:
            return self
        kept = np.sort(self.ranked(np.arange(len(self.tokens)))[:count])
        now = np.full(len(self.tokens) + 1, -1)  # the last for parent -1
        now[kept] = np.arange(count)
        columns = (self.tokens[kept], now[self.parents[kept]], self.scores[kept], self.places[kept])
        return Nodes(*columns, self.pruned, self.over_budget + extra)

    def ranked(self, some: Ints) -> Ints:
        """Return some of the nodes, best first; of equals in the order given."""
        return some[np.argsort(-self.scores[some], kind="stable")]

    def path(self, node: int) -> list[int]:
        """Return the nodes that lead to one, from the first to itself."""
        path = list[int]()
        while node >= 0:
            path.insert(0, node)
            node = int(self.parents[node])
        return path

    def with_children(self, more: "Nodes") -> "Nodes":
        """Append further nodes, whose parents are among these."""
        return Nodes(
            np.concatenate((self.tokens, more.tokens)),
            np.concatenate((self.parents, more.parents)),
            np.concatenate((self.scores, more.scores)),
            np.concatenate((self.places, more.places)),
            self.pruned + more.pruned,
            self.over_budget + more.over_budget,
        )

    def frontier(self, count: int, budget: int, ends: Sequence[int]) -> Ints:
        """Return the best nodes to read: not read yet, and with room in the budget for something worse than they."""
        least = self.scores.min() if len(self.tokens) >= budget else -np.inf
        open_ones = np.flatnonzero((self.places == NOT_READ) & (self.scores > least) & ~np.isin(self.tokens, ends))
        return self.ranked(open_ones)[:count]

    def tree(self, passes: int) -> Tree:
        """Return them as what is proposed, after so many passes of the draft."""
        cut = {"pruned": self.pruned, "over_budget": self.over_budget}
        return Tree(tokens=self.tokens, parents=self.parents, passes=passes, **cut)


def no_nodes() -> Nodes:
    """Return a tree before it grows."""
    nothing = np.zeros(0, np.int64)
    return Nodes(nothing, nothing, np.zeros(0), nothing)


def children(log_q: torch.Tensor, parents: Ints, scores: Floats, most: int, *, threshold: float = 0.0) -> Nodes:
    """Return the likeliest nodes behind others.

    log_q: of the next token behind each parent, [parents, vocabulary]. parents: their nodes, -1 for the last committed
    token, and scores, [parents]. most: children of each that are looked at; what cannot come next is none. threshold:
    least q of a child over the largest beside it.
    """
    best = log_q.topk(min(most, log_q.shape[-1]))
    values, tokens = best.values.double().cpu().numpy(), best.indices.cpu().numpy()
    possible = values > -np.inf
    kept = possible & (np.exp(values - values[:, :1]) >= threshold)
    row, _ = np.nonzero(kept)
    columns = (tokens[kept], parents[row], scores[row] + values[kept], np.full(len(row), NOT_READ))
    return Nodes(*columns, int(possible.sum() - kept.sum()))
