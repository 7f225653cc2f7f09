"""Runs the arms of a benchmark in turns: every prompt is decoded by all of them, in an order drawn anew each time.

Quality and comparisons with the baseline are worked out behind the clock's back, once a prompt's turns are over.
"""

import gc
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import numpy as np

from acceptance.decoders.batch import Decoded, Task
from acceptance.decoders.decoder import run as decode
from acceptance.decoders.method import Begin
from acceptance.decoders.methods import METHODS
from acceptance.decoders.tree import TreeDecoder
from acceptance.measure.loop_check import Recheck, finer_copy, first_difference, recheck, top_two
from acceptance.models.model import Model
from acceptance.models.static_context import columns_for, no_captures
from acceptance.results.records import Divergence, Measured, Origin, Quality, Skipped, as_record, resume_key
from acceptance.results.settings import BASELINE, Arm, Settings
from acceptance.trace.trace import PromptInfo
from simulator.ground.artefacts import created_utc

from . import quality
from .clock import Phases, Span, clock_for
from .machine import Energy, EnergyUsed, MemoryPeak

WARM_UP_TOKENS = 16
# Tells the stream that draws an order from that of a prompt's tokens.
ORDER_STREAM = 1
T = TypeVar("T")
Emit = Callable[[dict[str, Any]], None]


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
    prompts: token ids; infos: where each came from; references: what really follows, none without a task. devices: the
    target's first.
    """

    arms: tuple[Runnable, ...]
    target: Model
    prompts: tuple[tuple[int, ...], ...]
    infos: tuple[PromptInfo, ...]
    references: tuple[tuple[int, ...], ...]
    settings: Settings
    devices: tuple[str, ...]
    dtype: str
    memory: MemoryPeak
    energy: Energy

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One timed decoding of a batch."""

    decoded: list[Decoded]
    phases: Phases
    timeline: list[Span]
    is_tree: bool
    memory_peak_bytes: int | None
    no_memory_peak: str
    energy: EnergyUsed | None


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


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector out."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def settled() -> Iterator[None]:
    """Have the collector look at what is new alone: modules and models are there to stay, and are many."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def take(bench: Bench, begin: Begin, batch: range, run: int = 0, max_new_tokens: int | None = None) -> Taken:
    """Decode a batch under the clock.

    Args:
        bench: What is measured.
        begin: How the method begins.
        batch: Which prompts.
        run: Which repeat: every one has random streams of its own, the same for all arms.
        max_new_tokens: Less than the settings say, for a warm-up.
    """
    settings, clock = bench.settings, clock_for(bench.devices)
    task = Task(
        rule=settings.rule,
        max_new_tokens=max_new_tokens or settings.max_new_tokens,
        rngs=[stream(settings.seed, run, index) for index in batch],
        mark=clock.mark,
    )
    with undisturbed(), bench.memory, bench.energy:
        clock.start()
        decoder = begin([bench.prompts[i] for i in batch], task)
        decoded = decode(decoder)
        phases = clock.stop()
    return Taken(
        decoded=decoded,
        phases=phases,
        timeline=clock.timeline(),
        is_tree=isinstance(decoder, TreeDecoder),
        memory_peak_bytes=bench.memory.bytes,
        no_memory_peak=bench.memory.reason,
        energy=bench.energy.used,
    )


def attempt(bench: Bench, begin: Begin, batch: range, run: int = 0, max_new_tokens: int | None = None) -> Taken | str:
    """Decode a batch; return what went wrong if anything did."""
    try:
        return take(bench, begin, batch, run, max_new_tokens)
    except Exception as error:  # one failure must not stop the rest, whatever a model's code raises
        return reason_of(error)


def reason_of(error: Exception) -> str:
    """Say in one line what went wrong."""
    reason = (str(error).strip() or "no message").partition("\n")[0]
    return f"{type(error).__name__}: {reason}"


def warm_up(bench: Bench, wanted: Collection[tuple[str, int]]) -> dict[str, Taken | str]:
    """Run each arm once on each shape of batch; return what the first shape took.

    With CUDA graphs whole outputs are written, so that the passes worth a graph have theirs.

    Args:
        bench: What is measured.
        wanted: (arm, batch size) that will be measured.
    """
    budget = bench.settings.max_new_tokens
    few = budget if bench.target.graphs else min(WARM_UP_TOKENS, budget)
    found: dict[str, Taken | str] = {}
    for batch in shapes(bench):
        for runnable in bench.arms:
            if runnable.begin is not None and (runnable.arm.name, len(batch)) in wanted:
                taken = attempt(bench, runnable.begin, batch, max_new_tokens=few)
                found.setdefault(runnable.arm.name, taken)
    return found


def shapes(bench: Bench) -> list[range]:
    """Return the first batch of each size, and with CUDA graphs of each size of cache, the largest first."""
    found: dict[tuple[int, int], range] = {}
    for batch in reversed(batches(len(bench.prompts), bench.settings.batch_size)):
        longest = max(len(bench.prompts[i]) for i in batch)
        cache = columns_for(longest + bench.settings.max_new_tokens) if bench.target.graphs else 0
        found[len(batch), cache] = batch
    return [found[shape] for shape in sorted(found, reverse=True)]


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
    """Return the turns of which anything is missing, run after run, prompt after prompt.

    Args:
        bench: What is measured.
        done: Resume keys of what is there.
    """
    found = []
    for run in range(bench.settings.runs):
        for number, batch in enumerate(batches(len(bench.prompts), bench.settings.batch_size)):
            order = turns(bench, run, batch)
            names = (r.arm.name for r in order)
            missing = frozenset(n for n in names if any(resume_key(n, i, run) not in done for i in batch))
            if missing:
                found.append(Turn(run=run, number=number, batch=batch, order=order, missing=missing))
    return found


def measure(
    bench: Bench,
    todo: Sequence[Turn],
    *,
    emit: Emit,
    progress: Callable[[int], None],
    watch: Callable[[str, list[Span]], None],
) -> None:
    """Measure what is to be measured, and hand on the records of each turn as soon as it is over.

    Args:
        bench: What is measured.
        todo: The turns.
        emit: Keeps a record.
        progress: Called with the turns that were done.
        watch: Shown the timeline of every decoding under a name.
    """
    with settled():
        if todo:
            bench.energy.measure_idle()
        warm_up(bench, {(r.arm.name, len(turn.batch)) for turn in todo for r in turn.order})
        for turn in todo:
            gc.collect()
            began_utc = created_utc()
            with no_captures():
                taken = {
                    r.arm.name: attempt(bench, r.begin, turn.batch, turn.run) for r in turn.order if r.begin is not None
                }
            for name, found in taken.items():
                if isinstance(found, Taken):
                    watch(f"{name}, prompt {turn.batch.start}, run {turn.run}", found.timeline)
            for record in records_of(bench, turn, taken, began_utc):
                emit(record)
            progress(1)


def left_out(bench: Bench, done: Collection[str]) -> list[dict[str, Any]]:
    """Return the one record of each arm that cannot run, but for those that are there.

    Args:
        bench: What is measured.
        done: Resume keys of what is there.
    """
    batch = batches(len(bench.prompts), bench.settings.batch_size)[0]
    first = Turn(run=0, number=0, batch=batch, order=[], missing=frozenset())
    now = created_utc()
    return [
        as_record(origin_of(bench, r, first, now, index=batch[0], order=0), Skipped(status="skipped", reason=r.reason))
        for r in bench.arms
        if r.begin is None and resume_key(r.arm.name, batch[0], 0) not in done
    ]


def origin_of(bench: Bench, runnable: Runnable, turn: Turn, began_utc: str, *, index: int, order: int) -> Origin:
    """Return what was decoded, by what, and when.

    Args:
        bench: What is measured.
        runnable: The arm.
        turn: Of which batch and run.
        began_utc: When it began.
        index: Which prompt of it.
        order: Which arm of it.
    """
    return Origin(
        method=runnable.arm.name,
        algorithm=runnable.arm.method,
        is_exact=runnable.is_exact,
        prompt_index=index,
        prompt_source=bench.infos[index].source,
        prompt_category=bench.infos[index].category,
        prompt_tokens=len(bench.prompts[index]),
        run=turn.run,
        order=order,
        batch_index=turn.number,
        batch_size=len(turn.batch),
        batch_row=index - turn.batch.start,
        timestamp_utc=began_utc,
    )


def records_of(bench: Bench, turn: Turn, taken: dict[str, Taken | str], began_utc: str) -> list[dict[str, Any]]:
    """Return the records of a turn, arm after arm in their order, row after row.

    Arms that were missing come last: until the last record is kept, the turn is not done.
    """
    plain = plain_outputs(bench, taken)
    worked_out = WorkedOut(finer=cache(lambda: finer_copy(bench.target, bench.dtype)))
    found = []
    for place, runnable in sorted(enumerate(turn.order), key=lambda each: each[1].arm.name in turn.missing):
        result = taken[runnable.arm.name]
        for row, index in enumerate(turn.batch):
            origin = origin_of(bench, runnable, turn, began_utc, index=index, order=place)
            if isinstance(result, str):
                found.append(as_record(origin, Skipped(status="error", reason=result)))
            else:
                own = plain[row] if plain else None
                found.append(as_record(origin, measured(bench, origin, result, own, worked_out)))
    return found


@dataclass(slots=True, kw_only=True)
class WorkedOut:
    """What the records of a turn share.

    finer: makes the target's copy in a finer type, when it is first asked for; it is gone with the turn, before the
    next one's memory is measured. judged: how the target sees outputs to a prompt that it was shown; or why it is not
    known.
    """

    finer: Callable[[], Model]
    judged: dict[tuple[int, ...], tuple[Quality | None, str]] = field(default_factory=dict)


def plain_outputs(bench: Bench, taken: dict[str, Taken | str]) -> list[list[int]] | None:
    """Return the baseline's greedy outputs; None where they are sampled or it failed."""
    if not bench.settings.rule.is_greedy:
        return None
    found = taken.get(bench.baseline.arm.name)
    return [d.tokens for d in found.decoded] if isinstance(found, Taken) else None


def measured(bench: Bench, origin: Origin, taken: Taken, plain: list[int] | None, worked_out: WorkedOut) -> Measured:
    """Return what one row of a timed batch says.

    Args:
        bench: What is measured.
        origin: Which row.
        taken: The batch.
        plain: The baseline's greedy output.
        worked_out: What is known of this turn already; grows.
    """
    output = taken.decoded[origin.batch_row]
    is_baseline = origin.algorithm == BASELINE
    reasons = {"memory_peak_bytes": taken.no_memory_peak}
    divergence = None
    if plain is not None and plain != output.tokens:
        divergence, *why = first_divergence(bench, origin, plain, output.tokens, worked_out.finer)
        reasons["first_divergence"], reasons["recheck"] = why
    seen = None
    if bench.judges_quality and (is_baseline or not origin.is_exact):
        key = (origin.prompt_index, *output.tokens)
        if key not in worked_out.judged:
            worked_out.judged[key] = guarded(quality_of, bench, origin.prompt_index, output.tokens)
        seen, reasons["quality"] = worked_out.judged[key]
    return Measured(
        tokens=output.tokens,
        rounds=output.rounds,
        phases=taken.phases,
        is_tree=taken.is_tree,
        has_judge="judge" in METHODS[origin.algorithm].needs,
        identical=None if plain is None else plain == output.tokens,
        divergence=divergence,
        memory_peak_bytes=taken.memory_peak_bytes,
        energy=taken.energy,
        quality=seen,
        reference=bench.references[origin.prompt_index][: bench.settings.max_new_tokens] if bench.references else None,
        note="; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason) or None,
    )


def guarded(work: Callable[..., T], *told: Any) -> tuple[T | None, str]:
    """Work something out; return it, or nothing and why not: times that were measured are not lost over it."""
    try:
        return work(*told), ""
    except Exception as error:  # no memory for one pass over it all, or whatever a model's code raises
        return None, reason_of(error)


def quality_of(bench: Bench, index: int, output: list[int]) -> Quality:
    """Return how the target sees an output."""
    found = quality.of_output(bench.target, list(bench.prompts[index]), output)
    return Quality(mean_logp_nats=found.mean_logp_nats, mean_rank=found.mean_rank, argmax_share=found.argmax_share)


def first_divergence(
    bench: Bench, origin: Origin, plain: list[int], output: list[int], finer: Callable[[], Model]
) -> tuple[Divergence | None, str, str]:
    """Return where an output first differs from the baseline's, and what the target thinks there.

    Also why it could not be asked, and why it could not be asked in a finer type.
    """
    position, choices = first_difference(plain, output)
    before = [*bench.prompts[origin.prompt_index], *plain[:position]]
    top, no_top = guarded(top_two, bench.target, before, bench.dtype)
    if top is None:
        return None, no_top, ""
    checked: Recheck | None = None
    no_check = ""
    if origin.is_exact:
        checked, no_check = guarded(recheck, bench.target, finer, before, choices)
    return Divergence(position=position, margin=top[0], is_exact=origin.is_exact, recheck=checked), "", no_check
