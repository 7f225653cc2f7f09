"""One decoding of a batch under the clock, and the warm-ups before."""

import gc
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from acceptance.decoders.batch import Decoded, Task
from acceptance.decoders.decoder import run as decode
from acceptance.decoders.method import Begin
from acceptance.decoders.tree import TreeDecoder
from acceptance.models.static_context import columns_for

from .clock import Phases, Span, clock_for
from .machine import EnergyUsed
from .turns import Bench, batches, stream

WARM_UP_TOKENS = 16


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


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector out."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def take(bench: Bench, begin: Begin, batch: range, run: int = 0, max_new_tokens: int | None = None) -> Taken:
    """Decode a batch under the clock. Every run has random streams of its own, the same for all arms."""
    settings, clock = bench.settings, clock_for(bench.devices, by_processor=bench.processor_time)
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

    With CUDA graphs whole outputs are written, so that the passes worth a graph have theirs. Wanted are (arm, batch
    size) that will be measured.
    """
    budget = bench.settings.max_new_tokens
    few = budget if bench.target.graphs else min(WARM_UP_TOKENS, budget)
    outcomes: dict[str, Taken | str] = {}
    for batch in shapes(bench):
        for runnable in bench.arms:
            if runnable.begin is not None and (runnable.arm.name, len(batch)) in wanted:
                taken = attempt(bench, runnable.begin, batch, max_new_tokens=few)
                outcomes.setdefault(runnable.arm.name, taken)
    return outcomes


def shapes(bench: Bench) -> list[range]:
    """Return the first batch of each size, and with CUDA graphs of each size of cache, the largest first."""
    by_shape: dict[tuple[int, int], range] = {}
    for batch in reversed(batches(len(bench.prompts), bench.settings.batch_size)):
        longest = max(len(bench.prompts[i]) for i in batch)
        cache = columns_for(longest + bench.settings.max_new_tokens) if bench.target.graphs else 0
        by_shape[len(batch), cache] = batch
    return [by_shape[shape] for shape in sorted(by_shape, reverse=True)]
