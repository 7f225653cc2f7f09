"""Runs the turns of a benchmark, and hands on their records.

Quality and comparisons with the baseline are worked out behind the clock's back, once a prompt's turns are over.
"""

import gc
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from acceptance.models.static_context import no_captures
from acceptance.results.parts import parts_record
from acceptance.results.records import resume_key
from acceptance.results.settings import LOOP
from simulator.ground.artefacts import created_utc

from .clock import SAMPLE, Span
from .outcome import origin_of, records_of
from .parts import PartTimer
from .record import Skipped, as_record
from .timed import Taken, attempt, warm_up
from .turns import Bench, Turn, batches


@contextmanager
def settled() -> Iterator[None]:
    """Have the collector look at what is new alone: modules and models are there to stay, and are many."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def measure(
    bench: Bench,
    todo: Sequence[Turn],
    *,
    emit: Callable[[dict[str, Any]], None],
    progress: Callable[[int], None],
    watch: Callable[[str, list[Span]], None],
) -> None:
    """Measure what is to be measured, and hand on the records of each turn as soon as it is over.

    `watch` is shown the timeline of every decoding under a name.
    """
    with settled():
        if todo:
            bench.energy.measure_idle()
        warm_up(bench, {(r.arm.name, len(turn.batch)) for turn in todo for r in turn.order})
        for turn in todo:
            gc.collect()
            began_utc = created_utc()
            timer = PartTimer(bench, turn) if bench.time_parts else None
            taken: dict[str, Taken | str] = {}
            with no_captures():
                for r in turn.order:
                    if r.begin is not None:
                        taken[r.arm.name] = attempt(bench, r.begin, turn.batch, turn.run)
                        if timer:
                            timer.some()
            show(taken, turn, watch)
            if timer:
                emit(parts_record(turn.run, turn.number, timer.parts()))
            if bench.answers:
                bench.answers.take(bench, turn, taken)
            for record in records_of(bench, turn, taken, began_utc):
                emit(record)
            progress(1)


def show(taken: Mapping[str, Taken | str], turn: Turn, watch: Callable[[str, list[Span]], None]) -> None:
    """Show the timelines of a turn; what decides on drafts in the loop's place, by its name."""
    samplers = {r.arm.name: r.arm.sampler for r in turn.order if r.arm.sampler != LOOP}
    for name, outcome in taken.items():
        if isinstance(outcome, Taken):
            deciding = f"{SAMPLE} {samplers[name]}" if name in samplers else SAMPLE
            spans = [(deciding if span[0] == SAMPLE else span[0], *span[1:]) for span in outcome.timeline]
            watch(f"{name}, prompt {turn.batch.start}, run {turn.run}", spans)


def left_out(bench: Bench, done: Collection[str]) -> list[dict[str, Any]]:
    """Return the one record of each arm that cannot run, but for those that are there."""
    batch = batches(len(bench.prompts), bench.settings.batch_size)[0]
    first = Turn(run=0, number=0, batch=batch, order=[], missing=frozenset())
    now = created_utc()
    return [
        as_record(origin_of(bench, r, first, now, index=batch[0], order=0), Skipped(status="skipped", reason=r.reason))
        for r in bench.arms
        if r.begin is None and resume_key(r.arm.name, batch[0], 0) not in done
    ]
