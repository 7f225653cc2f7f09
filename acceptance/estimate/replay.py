"""Engines' policies replayed: outputs fill the slots of an engine as these become free; each step is one batch.

Time before the first token of an output is not in it: every output is taken to be ready when a slot is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from .engines.price import StepPrice
from .play import Counts, Player, Source, steps

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What happened in the steps of one policy, one behind another; arrays of shape [steps].

    running: sequences. accepted: drafts of all of them. verified: drafts sent to verification, drafted: draft passes of
    all sequences, a pass that said stop among them, passes: of the longest draft, which the batch waits for; each at
    least and at most, [2, steps], which differ where a policy looks at confidences off the text.
    """

    running: Counts
    accepted: Counts
    verified: Counts
    drafted: Counts
    passes: Counts

    @property
    def tokens(self) -> int:
        """What all outputs have."""
        return int(self.running.sum() + self.accepted.sum())

    def seconds(self, price: StepPrice, keeps_up: bool) -> Floats:
        """Return how long each step takes, at least and at most, [2, steps].

        keeps_up: whether the drafter keeps up with the text where nothing is drafted. That step is plain decoding
        besides: what rounds take beyond their passes is not in it.
        """
        running, drafts = np.broadcast_to(self.running, self.passes.shape), self.passes > 0
        drafting_s = np.where(keeps_up | drafts, price.draft_s(running, self.passes), 0.0)
        return drafting_s + np.where(drafts, price.verify_s(running, running + self.verified), price.plain_s(running))


def replay(starts: Counts, source: Source, player: Player, slots: int) -> Replayed:
    """Play a policy on outputs, so many of them at a time; arguments as of `play.steps`."""
    played = [(step.accepted, *step.spent) for step in steps(starts, source, player, slots)]
    running = np.array([len(accepted) for accepted, *_ in played], np.int64)
    if not len(running):
        none = np.zeros((2, 0), np.int64)
        return Replayed(running=running, accepted=running, verified=none, drafted=none, passes=none)
    begins = np.cumsum(running) - running
    accepted, *spent = (np.concatenate(column) for column in zip(*played, strict=True))
    totals = np.add.reduceat([accepted, *spent], begins, axis=1)
    longest = np.maximum.reduceat(spent[2:], begins, axis=1)
    return Replayed(running=running, accepted=totals[0], verified=totals[1:3], drafted=totals[3:5], passes=longest)


def joined(parts: Sequence[Replayed]) -> Replayed:
    """Put steps one behind another."""
    return Replayed(**{f.name: np.concatenate([getattr(p, f.name) for p in parts], axis=-1) for f in fields(Replayed)})
