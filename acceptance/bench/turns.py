"""What a benchmark is made of, and its turns: every batch is decoded by all arms, in an order drawn anew each time."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from acceptance.decoders.method import Begin
from acceptance.models.model import Model
from acceptance.results.records import resume_key
from acceptance.results.settings import BASELINE, Arm, Settings
from acceptance.trace.trace import PromptInfo

from .machine import Energy, MemoryPeak
from .scores import Score

if TYPE_CHECKING:
    from .answers import Answers

# Tells the stream that draws an order from that of a prompt's tokens.
ORDER_STREAM = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Runnable:
    """An arm and how it begins on a batch; or why it does not."""

    arm: Arm
    is_exact: bool
    begin: Begin | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Everything a benchmark needs.

    arms: the baseline among them. target: judges the quality of outputs; of the same logits as the one that decodes.
    prompts: token ids; infos: where each came from; references: what really follows, none without a task. score: of a
    text beside its reference, where a task has these. devices: the target's first. time_parts: whether the parts of
    rounds are timed by themselves, too. processor_time: whether time is that of the processor for this process.
    answers: where texts are saved, if they are. sound_s: how long each piece of sound is, where prompts are that.
    """

    arms: tuple[Runnable, ...]
    target: Model
    prompts: tuple[Sequence[int], ...]
    infos: tuple[PromptInfo, ...]
    references: tuple[tuple[int, ...], ...]
    settings: Settings
    devices: tuple[str, ...]
    dtype: str
    memory: MemoryPeak
    energy: Energy
    time_parts: bool = False
    processor_time: bool = False
    score: Score | None = None
    answers: "Answers | None" = None
    sound_s: tuple[float, ...] = ()

    @property
    def baseline(self) -> Runnable:
        """Plain decoding."""
        return next(r for r in self.arms if r.arm.method == BASELINE)

    @property
    def running(self) -> list[Runnable]:
        """The arms that take turns."""
        return [r for r in self.arms if r.begin is not None]

    @property
    def judges_quality(self) -> bool:
        """Whether any of them changes the output's law."""
        return any(not r.is_exact for r in self.running)


def batches(count: int, size: int) -> list[range]:
    """Return the prompts of each batch."""
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def turns(bench: Bench, run: int, batch: range) -> list[Runnable]:
    """Return the arms in the order in which they take this batch in this run."""
    rng = stream(bench.settings.seed, run, batch.start, ORDER_STREAM)
    arms = bench.running
    return [arms[i] for i in rng.permutation(len(arms))]


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return the random stream of a key: no two keys and seeds share one."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """All arms on one batch in one run, in their order, and of which no record is there yet.

    All are measured, whatever is there: times are compared with those that were taken beside them.
    """

    run: int
    number: int
    batch: range
    order: list[Runnable]
    missing: frozenset[str]


def plan_turns(bench: Bench, done: Collection[str]) -> list[Turn]:
    """Return the turns of which anything is missing, run after run, prompt after prompt."""
    planned = []
    for run in range(bench.settings.runs):
        for number, batch in enumerate(batches(len(bench.prompts), bench.settings.batch_size)):
            order = turns(bench, run, batch)
            names = (r.arm.name for r in order)
            missing = frozenset(n for n in names if any(resume_key(n, i, run) not in done for i in batch))
            if missing:
                planned.append(Turn(run=run, number=number, batch=batch, order=order, missing=missing))
    return planned
