"""Which draft length at which batch size, and the settings under which an engine can try a forecast."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from simulator.costs.parameters import Load
from simulator.costs.step import Floats, Real
from simulator.ground.histogram import survival_rates, synthetic_acceptance
from simulator.rounds.acceptance_law import AcceptanceModel
from simulator.rounds.analytic import speedup
from simulator.rounds.loads import served

if TYPE_CHECKING:
    from simulator.costs.model_costs import ModelPair

# Beyond what engines run at once.
LARGEST_BATCH = 4096
# Least gain that is worth another draft length, and least width of a range over its first batch size.
LEAST_GAIN, LEAST_WIDTH = 0.02, 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Batch sizes, both ends among them, and their best draft length; 0 where speculation does not pay."""

    first: int
    last: int
    draft_length: int


def schedule(
    pair: "ModelPair",
    acceptance: AcceptanceModel,
    longest: int,
    *,
    overlap: int,
    load: tuple[Load, int, int] | None = None,
) -> tuple[Range, ...]:
    """Return the best draft length, up to the longest, of every batch size that fits into memory, in ranges.

    load: that is served, with the tokens of a prompt and of an answer; None: sequences decode alone.
    """
    from simulator.costs.room import largest_batch

    fits = largest_batch(pair)
    last = LARGEST_BATCH if fits is None else min(fits, LARGEST_BATCH)
    if last < 1:
        return ()
    priced = replace(pair, batch=np.arange(1, last + 1))
    if load is None:
        gains = [speedup(priced, acceptance, k, overlap=overlap) for k in range(1, longest + 1)]
    else:
        tokens = acceptance.tokens_per_round(np.arange(1, longest + 1))
        gains = [np.nan_to_num(served(priced, *load, k, tau).speedup) for k, tau in enumerate(tokens, 1)]
    return ranges(np.stack([np.ones(last), *(np.broadcast_to(gain, last) for gain in gains)]), priced.batch)


def ranges(gains: Floats, sizes: Real) -> tuple[Range, ...]:
    """Return ranges of batch sizes that share a draft length: as few as lose at most a little everywhere.

    A range goes on until another draft length gains `LEAST_GAIN` more, and at least over `LEAST_WIDTH` of its first
    batch size, though over no gap as wide: engines capture graphs for each length, and forecasts do not tell closer
    than that. Off is no such length: it begins wherever it gains as much, however little of its range was looked at,
    and ends as soon.

    Args:
        gains: Speedups, [draft lengths from 0, batch sizes]; the first row is 1, of plain decoding.
        sizes: The batch sizes, rising.
    """
    sizes, plan = np.asarray(sizes), list[Range]()
    apart = np.diff(sizes, prepend=sizes[:1]) > LEAST_WIDTH * np.roll(sizes, 1)
    first, past = 0, gains.shape[1]
    # Off takes the place of a length where it gains as much.
    kept = np.where(gains * (1 + LEAST_GAIN) >= 1, gains, 1.0)
    while first < past:
        # Behind the narrowest range, which reaches over no gap as wide.
        least = int(np.searchsorted(sizes, math.ceil(sizes[first] * (1 + LEAST_WIDTH))))
        least += int(least >= past or not apart[least])
        before = plan[-1].draft_length if plan else 0
        allowed = gains[:, first] * (1 + LEAST_GAIN) >= 1
        if plan and least > past and not apart[first]:
            allowed &= np.isin(np.arange(len(gains)), (0, before))
        # What is best over all of it: one batch size does not decide.
        over = np.where(allowed, np.log(kept[:, first:least]).mean(1), -np.inf)
        length = int(over.argmax())
        if over[length] <= over[before] + math.log1p(LEAST_GAIN):
            length = before
        beats = gains[:, first:] > gains[length, first:] * (1 + LEAST_GAIN)
        beats[:, 0] = False
        if length:
            beats[1:, : least - first] = False
        beaten = beats.any(0)
        end = first + int(beaten.argmax()) if beaten.any() else past
        if plan and plan[-1].draft_length == length:
            plan[-1] = replace(plan[-1], last=int(sizes[end - 1]))
        else:
            plan.append(Range(first=int(sizes[first]), last=int(sizes[end - 1]), draft_length=length))
        first = end
    return tuple(plan)


def off_above(plan: tuple[Range, ...]) -> int | None:
    """Return the batch size above which speculation does not pay; None where it pays to the last."""
    if not plan or plan[-1].draft_length:
        return None
    return plan[-2].last if len(plan) > 1 else 0


def longest_draft(plan: tuple[Range, ...]) -> int:
    """Return the longest draft length of a schedule, 0 where it never drafts."""
    return max((r.draft_length for r in plan), default=0)


def engine_settings(acceptance: AcceptanceModel, draft_length: int) -> dict[str, object] | None:
    """Return the settings under which engines accept as a forecast does; None where nothing is drafted."""
    if draft_length == 0:
        return None
    rates = survival_rates(acceptance.law(draft_length)).tolist()
    return synthetic_acceptance(rates, 1 + sum(rates))
