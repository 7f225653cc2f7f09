"""SGLang's adaptive steps (`--speculative-adaptive`): an average of what is accepted moves along candidate lengths.

`python/sglang/srt/speculative/adaptive_spec_params.py` (AdaptiveStepSlot) and `adaptive_step_router.py`. Where nothing
is drafted the drafter still takes in what was written: its KV cache keeps step (`eagle_worker_v2.py`). The padding of
batch sizes to captured graphs, which can move a batch to the next slot, is not played.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from acceptance.estimate.play import Counts, Outputs, Player, Rounds
from acceptance.estimate.policies import same_for_all
from simulator.ground.policies import AdaptiveSteps, Candidates


class Slot:
    """The state of one range of batch sizes."""

    def __init__(self, candidates: Candidates, initial: int) -> None:
        """Begin at a draft length, or at the middle candidate where it is none of them."""
        self.by, steps = candidates, candidates.candidate_steps
        self.steps = initial if initial in steps else steps[len(steps) // 2]
        self.average, self.batches = self.steps - 1.0, 0

    def learn(self, mean_accepted: float) -> None:
        """Take note of a batch, and choose anew every `update_interval` of them."""
        by = self.by
        if self.steps > 0:
            self.average += by.ema_alpha * (mean_accepted - self.average)
        self.batches += 1
        since = self.batches - by.warmup_batches
        if since > 0 and since % by.update_interval == 0:
            self.choose()

    def choose(self) -> None:
        """Move along the candidates: down as far as the average lies below, else up as far as it lies above."""
        by, steps, before = self.by, self.by.candidate_steps, self.steps
        at = began = steps.index(before)
        if before == 0:  # tries the shortest draft again
            self.steps = steps[min(1, len(steps) - 1)]
            if self.steps > 0 and self.average < 0:
                self.average = self.steps - 1.0
            return
        while at > 0 and self.average <= (max(steps[at - 1] - 0.5, 0.5 * (steps[at - 1] == 0)) + by.down_hysteresis):
            at -= 1
        if at == began:
            while at < len(steps) - 1 and self.average > steps[at] - 0.5 + by.up_hysteresis:
                at += 1
        if by.ceiling_coeff > 0 and steps[at] <= before:
            ceiling = max(1, math.ceil(self.average * by.ceiling_coeff))
            while at > 0 and steps[at] > ceiling:
                at -= 1
        self.steps = steps[at]


@dataclass(frozen=True, slots=True)
class SglangAdaptive:
    """SGLang's controller, as engines' policies are played."""

    by: AdaptiveSteps
    keeps_up: bool = True
    asks_costs: bool = False
    warm_up: int = 0
    needs: tuple[str, ...] = ()

    @property
    def longest(self) -> int:
        """The longest draft."""
        return self.by.longest

    def begin(self, outputs: Outputs) -> Player:
        """Return the policy at the first token of every output."""
        return SglangPlayer(self.by, outputs)


class SglangPlayer(Player):
    """SGLang's controller at work: one draft length for the whole batch."""

    def __init__(self, policy: AdaptiveSteps, outputs: Outputs) -> None:
        super().__init__(same_for_all(outputs, 0))
        self.sizes = [size for size, _ in policy.slots]
        self.slots = [Slot(candidates, policy.initial) for _, candidates in policy.slots]

    def slot(self, running: int) -> Slot:
        """Return what holds for a batch: the last slot that begins at or below it, or the first."""
        return self.slots[max(0, bisect_right(self.sizes, running) - 1)]

    def lengths(self, rounds: Rounds) -> Counts:
        """Return how many tokens each round drafts, shape [rounds]."""
        return np.minimum(self.slot(len(rounds.output)).steps, rounds.room)

    def learn(self, output: Counts, lengths: Counts, accepted: Counts) -> None:
        """Take note of what the batch had accepted."""
        self.slot(len(output)).learn(float(accepted.mean()))
