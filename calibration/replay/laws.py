"""Rounds of outputs of which nothing is known but a law of what is accepted: each drawn independently."""

import numpy as np

from acceptance.estimate.play import Counts
from simulator.rounds.acceptance_law import AcceptanceModel


class LawSource:
    """The source that a law is; a round of a longer draft accepts at least as much as a shorter one would have."""

    def __init__(self, acceptance: AcceptanceModel, longest: int, rng: np.random.Generator) -> None:
        self.edges = [np.cumsum(acceptance.law(k))[:-1] if k else np.zeros(0) for k in range(longest + 1)]
        self.rng = rng
        self.drawn = np.zeros(0)

    def run(self, at: Counts) -> Counts:
        """Draw the rounds that begin, and return what the longest draft would have accepted of each."""
        self.drawn = self.rng.random(len(at))
        return np.searchsorted(self.edges[-1], self.drawn, side="right").astype(np.int64)

    def accepted(self, run: Counts, lengths: Counts) -> Counts:
        """Return what drafts of these lengths accept, each by its own law."""
        found = np.zeros_like(lengths)
        for k in np.unique(lengths):
            these = lengths == k
            found[these] = np.searchsorted(self.edges[int(k)], self.drawn[these], side="right")
        return found
