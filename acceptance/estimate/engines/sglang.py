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
from simulator.ground.fields import Field, read_json
from simulator.ground.limits import MAX_DRAFT_LENGTH

# What the engine takes without --speculative-adaptive-config.
DEFAULT = {
    "1": {"candidate_steps": [1, 3, 5, 7], "up_hysteresis": 0.0, "down_hysteresis": -0.25},
    "8": {"candidate_steps": [0, 1, 3], "up_hysteresis": 0.0, "down_hysteresis": 0.0},
    "32": {"candidate_steps": [0, 1], "up_hysteresis": 0.0, "down_hysteresis": 0.0},
    "64": {"candidate_steps": [0], "up_hysteresis": 0.0, "down_hysteresis": 0.0},
}
KEYS = ("ema_alpha", "update_interval", "warmup_batches", "up_hysteresis", "down_hysteresis", "ceiling_coeff")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Draft lengths to choose among, ascending, and how; names as in SGLang's file."""

    candidate_steps: tuple[int, ...]
    ema_alpha: float = 0.2
    update_interval: int = 5
    warmup_batches: int = 10
    up_hysteresis: float = 0.0
    down_hysteresis: float = -0.25
    ceiling_coeff: float = 0.0

    @classmethod
    def read(cls, entry: Field, common: Field) -> "Candidates":
        """Read one batch size's, each key from its own entry, else from the whole file."""
        steps = {s.whole(0, MAX_DRAFT_LENGTH) for s in entry["candidate_steps"].elements()}
        if not steps:
            entry["candidate_steps"].refuse("a list of draft lengths")
        said = {key: entry[key] if entry[key].is_given else common[key] for key in KEYS}
        return cls(
            candidate_steps=tuple(sorted(steps)),
            ema_alpha=said["ema_alpha"].number(0, 1, default=0.2),
            update_interval=said["update_interval"].whole(1, default=5),
            warmup_batches=said["warmup_batches"].whole(0, default=10),
            up_hysteresis=said["up_hysteresis"].number(-MAX_DRAFT_LENGTH, MAX_DRAFT_LENGTH, default=0.0),
            down_hysteresis=said["down_hysteresis"].number(-MAX_DRAFT_LENGTH, MAX_DRAFT_LENGTH, default=-0.25),
            ceiling_coeff=said["ceiling_coeff"].number(default=0.0),
        )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SglangAdaptive:
    """Slots by the batch size from which they hold; initial: --speculative-num-steps, where every slot begins."""

    slots: tuple[tuple[int, Candidates], ...]
    initial: int
    keeps_up: bool = True
    asks_costs: bool = False
    warm_up: int = 0
    needs: tuple[str, ...] = ()

    @property
    def longest(self) -> int:
        """The longest draft."""
        return max(max(candidates.candidate_steps) for _, candidates in self.slots)

    def begin(self, outputs: Outputs) -> Player:
        """Return the policy at the first token of every output."""
        return SglangPlayer(self, outputs)


class SglangPlayer(Player):
    """SGLang's controller at work: one draft length for the whole batch."""

    def __init__(self, policy: SglangAdaptive, outputs: Outputs) -> None:
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


def sglang(settings: Field) -> SglangAdaptive:
    """SGLang's adaptive steps: k to begin with; candidate_steps for all batch sizes, or a config file of the engine's.

    Without either, the engine's own slots: 1, 3, 5, 7 steps from batch size 1 on, 0, 1, 3 from 8, 0, 1 from 32, none
    from 64.
    """
    settings.only(("k", "config", "candidate_steps", *KEYS))
    initial = settings["k"].whole(0, MAX_DRAFT_LENGTH, default=3)
    if settings["candidate_steps"].is_given:
        return SglangAdaptive(slots=((1, Candidates.read(settings, settings)),), initial=initial)
    config = settings["config"]
    whole = read_json(config.text()) if config.is_given else Field(DEFAULT)
    found = {key: entry for key, entry in whole.items() if key.isascii() and key.isdecimal() and len(key) < 10}
    if not found:
        whole.refuse('batch sizes, as in {"1": {"candidate_steps": [1, 3]}}')
    if whole["strategy"].is_given:
        whole["strategy"].choice(("ema",))
    # What is stated beside the file holds where the file says nothing.
    common = whole.but(**{key: settings[key].value for key in KEYS if settings[key].is_given})
    slots = {int(key): Candidates.read(entry, common) for key, entry in found.items()}
    return SglangAdaptive(slots=tuple(sorted(slots.items(), key=lambda slot: slot[0])), initial=initial)
