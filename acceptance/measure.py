"""One measurement from prompts to a trace: batch by batch the target writes and both models score."""

from collections.abc import Callable, Sequence

import numpy as np

from . import models
from .prompts import Prompt
from .trace import Trace, join

BATCH_SIZE = 16


def batch_seed(seed: int, batch: int) -> int:
    """Return the seed of a batch: no batch of one seed repeats one of another."""
    return int(np.random.SeedSequence(seed, spawn_key=(batch,)).generate_state(1)[0])


def measure(
    pair: "models.Pair",
    prompts: Sequence[Prompt],
    *,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    progress: Callable[[int], None],
) -> Trace:
    """Return the trace of the target's own continuations.

    Args:
        pair: The models.
        prompts: What the target continues.
        temperature: 0 is greedy; above it the text is sampled and acceptance is that of a sampled draft.
        max_new_tokens: Budget of each output.
        seed: Seeds the sampling, every batch with a seed of its own.
        progress: Called with the prompts that were done.

    Raises:
        UserError: A prompt does not fit the models.
    """
    models.check_prompts(pair, prompts, max_new_tokens)
    traces = []
    for number, first in enumerate(range(0, len(prompts), BATCH_SIZE)):
        batch = [p.text for p in prompts[first : first + BATCH_SIZE]]
        settings = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": batch_seed(seed, number)}
        written = models.write(pair, batch, **settings)
        traces.append(models.trace_of(pair, written, temperature, first))
        progress(len(batch))
    return join(traces)
