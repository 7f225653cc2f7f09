"""One measurement from a plan to a trace, batch by batch; finished batches are kept for who interrupts it."""

from collections.abc import Callable, Iterable

from acceptance.models.model import Pair
from acceptance.results.shards import Shard, own_of
from acceptance.results.unfinished import Unfinished
from acceptance.text.prompts import Prompt
from acceptance.text.texts import Text
from acceptance.trace.trace import Trace, join

from .answer import converse, score
from .plan import Plan, Settings, logged


def measure_batch(pair: Pair, planned: Plan, indices: range, settings: Settings) -> Trace:
    """Return the trace of one batch of prompts or of texts."""
    prompts = [(i, item) for i in indices if isinstance(item := planned.items[i], Prompt)]
    if prompts:
        return join(converse(pair, planned, prompts, settings))
    texts = [(i, item) for i in indices if isinstance(item := planned.items[i], Text)]
    written = [logged(pair, item, i, settings.framing) for i, item in texts]
    return join(score(pair, written, planned.infos, settings))


def measure_pair(
    pair: Pair,
    planned: Plan,
    settings: Settings,
    *,
    unfinished: Unfinished | None = None,
    progress: Callable[[int], object] = lambda _: None,
    shard: Shard | None = None,
) -> Trace:
    """Return the trace of everything planned, or of a part of it.

    Args:
        pair: The models.
        planned: What fits them.
        settings: What the measurement is told.
        unfinished: Where finished batches are kept, and taken from.
        progress: Called with the prompts that were done.
        shard: Which part; None: all.
    """
    traces = []
    for number, indices in batches_of(len(planned.items), settings.batch_size, shard):
        trace = unfinished.load(number, planned.infos) if unfinished else None
        if trace is None:
            trace = measure_batch(pair, planned, indices, settings)
            if unfinished:
                unfinished.save(number, trace)
        traces.append(trace)
        progress(len(indices))
    return join(traces)


def batches_of(count: int, size: int, shard: Shard | None = None) -> list[tuple[int, range]]:
    """Return the batches of so many items, or a shard's, by their numbers among all."""
    own = own_of(-(-count // size), shard)
    return [(number, range(number * size, min((number + 1) * size, count))) for number in own]


def turns_left_out(items: Iterable[Prompt | Text], trace: Trace) -> str:
    """Say how many turns were not put because their conversation no longer fitted; empty when none."""
    planned_turns = sum(len(item.turns) if isinstance(item, Prompt) else 1 for item in items)
    missing = planned_turns - (len(trace.starts) - 1)
    return (
        f"left out: {missing} of {planned_turns} turns, whose conversations no longer fit the models' context"
        if missing
        else ""
    )
