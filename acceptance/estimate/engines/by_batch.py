"""Draft lengths looked up by the batch that runs: static, vLLM's and TensorRT-LLM's schedules."""

from dataclasses import dataclass

import numpy as np

from acceptance.estimate.play import Counts, Outputs, Player, Rounds
from acceptance.estimate.policies import same_for_all
from simulator.ground.policies import ByBatch


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """A draft length for each number of sequences that run, as engines' policies are played."""

    by: ByBatch
    asks_costs: bool = False
    warm_up: int = 0
    needs: tuple[str, ...] = ()

    @property
    def longest(self) -> int:
        """The longest draft."""
        return self.by.longest

    @property
    def keeps_up(self) -> bool:
        """Whether the drafter runs where nothing is drafted."""
        return self.by.keeps_up

    def begin(self, outputs: Outputs) -> Player:
        """Return the policy at the first token of every output."""
        return ByBatchPlayer(self.by, outputs)


class ByBatchPlayer(Player):
    """A schedule at work."""

    def __init__(self, policy: ByBatch, outputs: Outputs) -> None:
        super().__init__(same_for_all(outputs, 0))
        self.policy = policy

    def lengths(self, rounds: Rounds) -> Counts:
        """Return how many tokens each round drafts, shape [rounds]."""
        return np.minimum(self.policy.at(len(rounds.output)), rounds.room)
