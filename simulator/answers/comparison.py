"""Methods of speculation held against each other on one target and device: the best K of each, and which to take."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from simulator.costs.model_costs import ModelPair
from simulator.costs.parameters import Load
from simulator.costs.room import largest_batch
from simulator.costs.step import Floats
from simulator.ground.limits import SEARCHED_DRAFT_LENGTHS
from simulator.rounds.acceptance_law import AcceptanceModel, Ints
from simulator.rounds.analytic import speedup
from simulator.rounds.loads import served

from .schedule import LARGEST_BATCH, LEAST_GAIN, Range

# Batch sizes that a table shows where nobody says which, as far as they fit.
SHOWN_BATCHES = (1, 8, 64, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A method on a target, what it accepts, and where that is known from.

    load: that is served, with the tokens of a prompt and of an answer; batch sizes are its clients. None: they decode.
    lengths: draft lengths that are looked at; none: all up to the longest.
    """

    pair: ModelPair
    acceptance: AcceptanceModel
    source: str
    load: tuple[Load, int, int] | None = None
    lengths: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The method's."""
        return self.pair.method.name

    @property
    def longest(self) -> int:
        """The longest draft that is looked at: what its block, its law or nobody goes beyond."""
        known = (self.pair.longest, getattr(self.acceptance, "longest", None), SEARCHED_DRAFT_LENGTHS)
        return min(k for k in known if k is not None)


class Best(NamedTuple):
    """The best draft length of a method at each batch size, and its speedup; 0 and NaN where it does not fit."""

    draft_length: Ints
    speedup: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a comparison finds.

    batches: every batch size at which any method fits. best: of each contender at all of them. take: which is best over
    which range of batch sizes, by its place among the contenders, from 1; 0: plain decoding.
    """

    contenders: tuple[Contender, ...]
    batches: Ints
    best: tuple[Best, ...]
    take: tuple[Range, ...]

    def at(self, contender: int, batch: int) -> tuple[int, float]:
        """Return the best draft length of a contender at a batch size, and its speedup."""
        best, place = self.best[contender], int(np.searchsorted(self.batches, batch))
        return int(best.draft_length[place]), float(best.speedup[place])


def compare(contenders: tuple[Contender, ...], *, draft_lengths: Ints | None = None) -> Comparison:
    """Compare methods at every batch size that fits into memory with one of them.

    Args:
        contenders: At one context, on one device.
        draft_lengths: Those that are allowed; None: up to the longest of each.
    """
    fits = [largest_batch(c.pair) for c in contenders]
    most = [LARGEST_BATCH if fit is None else min(fit, LARGEST_BATCH) for fit in fits]
    batches = np.arange(1, max(most, default=0) + 1)
    best = tuple(best_of(c, batches, last, draft_lengths) for c, last in zip(contenders, most, strict=True))
    gains = np.stack([np.ones(len(batches)), *(np.nan_to_num(b.speedup, nan=0.0) for b in best)])
    return Comparison(contenders=contenders, batches=batches, best=best, take=taken_over(gains))


def taken_over(gains: Floats) -> tuple[Range, ...]:
    """Return which row is taken over which batch sizes: another where it gains `LEAST_GAIN`, plain where none pays.

    Args:
        gains: Speedups, [plain decoding and the methods, batch sizes from 1]; 0 where a method does not fit.
    """
    plan: list[Range] = []
    for batch, column in enumerate(gains.T, 1):
        best, before = int(column.argmax()), plan[-1].draft_length if plan else None
        stays = before is not None and column[before] >= 1 and column[before] * (1 + LEAST_GAIN) >= column[best]
        row = before if stays and before is not None else best
        if plan and row == before:
            plan[-1] = replace(plan[-1], last=batch)
        else:
            plan.append(Range(first=batch, last=batch, draft_length=row))
    return tuple(plan)


def best_of(contender: Contender, batches: Ints, most: int, draft_lengths: Ints | None) -> Best:
    """Return the best draft length of one method at batch sizes, of which it fits up to `most`."""
    every = np.array(contender.lengths or range(1, contender.longest + 1), dtype=np.int64)
    allowed = every if draft_lengths is None else draft_lengths
    allowed = allowed[allowed <= contender.longest]
    if not len(allowed) or most < 1:
        return Best(np.zeros(len(batches), np.int64), np.full(len(batches), np.nan))
    pair = replace(contender.pair, batch=batches)
    if contender.load is None:
        gains = np.stack([speedup(pair, contender.acceptance, int(k), overlap=False) for k in allowed])
    else:
        tokens = contender.acceptance.tokens_per_round(allowed)[:, None]
        gains = np.nan_to_num(served(pair, *contender.load, allowed[:, None], tokens).speedup)
    at = gains.argmax(0)
    found = np.where(batches <= most, gains.max(0), np.nan)
    return Best(np.where(batches <= most, allowed[at], 0), found)


def name_of(comparison: Comparison, at: Range) -> str | None:
    """Return the method to take over a range, None for plain decoding."""
    return comparison.contenders[at.draft_length - 1].name if at.draft_length else None


def order(comparison: Comparison, batch: int = 1) -> list[int]:
    """Return the places of the contenders, the fastest at a batch size first."""
    gains = [comparison.at(at, batch)[1] if len(best.speedup) else 0.0 for at, best in enumerate(comparison.best)]
    return sorted(range(len(gains)), key=lambda at: -np.nan_to_num(gains[at], nan=0.0))
