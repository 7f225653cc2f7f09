"""Which draft length at which batch size, and the settings under which an engine can try a forecast."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.costs.model_costs import ModelPair, largest_batch
from simulator.ground.histogram import survival_rates, synthetic_acceptance
from simulator.rounds.acceptance_law import AcceptanceModel
from simulator.rounds.analytic import speedup

# Beyond what engines run at once.
LARGEST_BATCH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Batch sizes, both ends among them, and their best draft length; 0 where speculation does not pay."""

    first: int
    last: int
    draft_length: int


def schedule(pair: ModelPair, acceptance: AcceptanceModel, longest: int, *, overlap: bool) -> tuple[Range, ...]:
    """Return the best draft length, up to the longest, of every batch size that fits into memory, in ranges."""
    fits = largest_batch(pair)
    last = LARGEST_BATCH if fits is None else min(fits, LARGEST_BATCH)
    if last < 1:
        return ()
    priced = replace(pair, batch=np.arange(1, last + 1))
    gains = [speedup(priced, acceptance, k, overlap=overlap) for k in range(1, longest + 1)]
    # 0 where no draft length beats plain decoding.
    return ranges(np.asarray(np.argmax([np.ones(last), *gains], axis=0)))


def ranges(lengths: NDArray[np.int64]) -> tuple[Range, ...]:
    """Join batch sizes 1, 2, ... of equal draft length."""
    ends = [*np.flatnonzero(np.diff(lengths)), len(lengths) - 1]
    starts = [0, *(int(e) + 1 for e in ends[:-1])]
    return tuple(
        Range(first=a + 1, last=int(b) + 1, draft_length=int(lengths[a])) for a, b in zip(starts, ends, strict=True)
    )


def off_above(plan: tuple[Range, ...]) -> int | None:
    """Return the batch size above which speculation does not pay; None where it pays to the last."""
    return plan[-1].first - 1 if plan and plan[-1].draft_length == 0 else None


def longest_draft(plan: tuple[Range, ...]) -> int:
    """Return the longest draft length of a schedule, 0 where it never drafts."""
    return max((r.draft_length for r in plan), default=0)


def engine_settings(acceptance: AcceptanceModel, draft_length: int) -> dict[str, object] | None:
    """Return the settings under which engines accept as a forecast does; None where nothing is drafted."""
    if draft_length == 0:
        return None
    rates = survival_rates(acceptance.law(draft_length)).tolist()
    return synthetic_acceptance(rates, 1 + sum(rates))


def vllm_config(plan: tuple[Range, ...]) -> dict[str, Any] | None:
    """Return the schedule as vLLM's speculative_config takes it; a `model` and `method` are the user's to add.

    None where no batch size is to draft: vLLM takes no `num_speculative_tokens` of 0.
    """
    longest = longest_draft(plan)
    if longest == 0:
        return None
    return {
        "num_speculative_tokens": longest,
        "num_speculative_tokens_per_batch_size": [[r.first, r.last, r.draft_length] for r in plan],
    }
