"""What every decoding method does, round by round: propose, verify, commit."""

from typing import Any, Protocol

import numpy as np

from .batch import Batch, Decoded, Ints, Task


class Decoder(Protocol):
    """A method at work on one batch of prompts, which it has read but for their last tokens."""

    batch: Batch
    task: Task

    def propose(self) -> Any:
        """Draft tokens for every row; none, where the method has none."""

    def verify(self, proposal: Any) -> Any:
        """Let the target read what is proposed, in one pass, and decide."""

    def commit(self, proposal: Any, verdict: Any) -> Ints:
        """Append what was decided, forget what was rejected, note the rounds; return the rows that go on."""

    def select(self, rows: Ints) -> None:
        """Keep only these rows."""


def run(decoder: Decoder) -> list[Decoded]:
    """Decode until every row has ended; return the output of every prompt."""
    mark = decoder.task.mark
    mark("prefill")
    while len(decoder.batch.index):
        proposal = decoder.propose()
        mark("draft")
        verdict = decoder.verify(proposal)
        mark("sample")
        running = decoder.commit(proposal, verdict)
        if len(running) < len(decoder.batch.index):
            decoder.select(running)
        mark("other")
    return decoder.batch.outputs


def still_running(batch: Batch, ended: Any) -> Ints:
    """Return the rows with budget left that no end of sequence has ended."""
    return np.flatnonzero((batch.budget > 0) & ~ended)
