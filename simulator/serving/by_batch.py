"""Drafts of the next round by how many requests a step has scheduled."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from simulator.ground.compiled import lean

Array = Any


class Policy(NamedTuple):
    """drafts: of a round after a step of so many requests; beyond the last, as there."""

    drafts: Array


@lean
def next_k(policy: Policy, memory: Array, scheduled: int, running: int, waiting: int, mean_context: float) -> int:
    """Return the drafts of the round that follows this step."""
    return int(policy.drafts[min(scheduled, len(policy.drafts) - 1)])


def by_batch(k: int, rows: Sequence[tuple[int, int, int]] = ()) -> Policy:
    """Return vLLM's table: from one number of requests to another so many drafts, at most k; gaps keep those before."""
    drafts, last = [k], k
    for first, end, count in rows:
        drafts += [last] * (first - len(drafts)) + [min(count, k)] * (end - first + 1)
        last = min(count, k)
    return Policy(np.array(drafts))
