"""The closed loop without a log: exact draws of whole blocks of rounds, work that grows with log(tokens).

A block of n rounds cannot overshoot when n (K + 1) tokens are still missing, so its accepted counts are one multinomial
draw; what is missing then shrinks by the share tau / (K + 1), block by block. The result has exactly the law of drawing
round after round. `events` plays the same blocks out one event at a time.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.costs.step import Floats, RoundCost

Ints = NDArray[np.int64]
Rng = np.random.Generator
UNROLL_CHUNK = 1 << 16


class Block(NamedTuple):
    """Rounds drawn together for some of the runs.

    rows: indices of the runs, shape [n]. counts: rounds by accepted drafts, shape [n, K_max + 1]. rounds: all of them,
    shape [n]. hits: rounds whose successor's draft was already made and right, shape [n]. missing: tokens that are
    left, below 0 where the budget left no room for some, shape [n]. ends: whether the run is done with this block, [n].
    others: those of the hits whose rounds did not accept all K, [n].
    """

    rows: NDArray[np.intp]
    counts: Ints
    rounds: Ints
    hits: Ints
    missing: Ints
    ends: NDArray[np.bool_]
    others: Ints


def draw_blocks(
    laws: Floats,
    draft_lengths: Ints,
    totals: Ints,
    hit_rates: Floats,
    rng: Rng,
    hit_rng: Rng,
    other_rates: Floats | None = None,
) -> Iterator[Block]:
    """Draw rounds until every run has committed its total of tokens.

    Args:
        laws: P(A = a), shape [runs, K_max + 1]; zero above a run's own K.
        draft_lengths: K of each run, shape [runs].
        totals: Tokens each run has to commit, >= 1, shape [runs].
        hit_rates: P(hit given A = K), shape [runs]; 0 without overlap.
        rng: Draws what is accepted.
        hit_rng: Draws the hits; apart, so that overlap does not change what is accepted.
        other_rates: P(hit given A < K), shape [runs]; None: 0.
    """
    other_rates = None if other_rates is None or not other_rates.any() else other_rates
    tokens = np.arange(1, laws.shape[1] + 1)
    missing = totals.astype(np.int64)
    rows, may_hit_at_all, none = np.arange(len(totals)), bool(hit_rates.any()), np.zeros(len(totals), np.int64)
    widths, k = draft_lengths + 1, draft_lengths
    while rows.size:
        rounds = np.maximum(missing // widths, 1)
        # The same draws, of which a single run is told much faster.
        counts = rng.multinomial(rounds, laws) if rows.size > 1 else rng.multinomial(rounds.item(), laws[0])[None]
        missing = missing - counts @ tokens
        ends = missing <= 0
        hits = none[: rows.size]
        if may_hit_at_all:
            full = counts[np.arange(len(rows)), k]
            # The run's last round has no successor; a block that ends its run and could hit is all full rounds.
            hits = hit_rng.binomial(np.where(ends, np.maximum(full - 1, 0), full), hit_rates)
        others = none[: rows.size]
        if other_rates is not None:
            rest = rounds - counts[np.arange(len(rows)), k]
            others = hit_rng.binomial(np.where(ends, 0, rest), other_rates[rows])
        yield Block(
            rows=rows,
            counts=counts,
            rounds=rounds,
            hits=hits + others if other_rates is not None else hits,
            others=others,
            missing=missing,
            ends=ends,
        )
        on = (~ends).nonzero()[0]
        if on.size < rows.size:
            rows, missing, laws, k, widths = rows[on], missing[on], laws[on], k[on], widths[on]
            hit_rates = hit_rates[on] if may_hit_at_all else hit_rates


class Counts(NamedTuple):
    """What happened in a number of simulated runs, before it costs anything; arrays of shape [runs].

    tokens = rounds + accepted - cut: every round commits A + 1, and the last is cut at the budget.
    accepted counts what the verifications accepted, the cut part of the last round included.
    """

    rounds: Ints
    accepted: Ints
    hits: Ints
    cut: Ints


def draw_counts(
    laws: Floats,
    draft_lengths: Ints,
    totals: Ints,
    hit_rates: Floats,
    rng: Rng,
    hit_rng: Rng,
    other_rates: Floats | None = None,
) -> Counts:
    """Simulate one closed-loop run a row and count; the arguments are those of `draw_blocks`."""
    rounds, hits, cut = np.zeros((3, len(totals)), np.int64)
    for block in draw_blocks(laws, draft_lengths, totals, hit_rates, rng, hit_rng, other_rates):
        rounds[block.rows] += block.rounds
        hits[block.rows] += block.hits
        # What stands there last is of the block that ended the run.
        cut[block.rows] = -block.missing
    return Counts(rounds=rounds, accepted=totals + cut - rounds, hits=hits, cut=cut)


def elapsed_s(cost: RoundCost, counts: Counts) -> Floats:
    """Return the seconds of each run: the first draft, from each verification to the next, the last one."""
    misses = counts.rounds - 1 - counts.hits
    last_s = cost.verify_s + cost.overhead_s
    return cost.draft_s + misses * cost.after_miss_s + counts.hits * cost.after_hit_s + last_s


def unroll(blocks: Iterator[Block], draft_length: int, rng: Rng) -> Iterator[tuple[int, bool]]:
    """Yield (accepted, hit) of every round of a single run, in an order that has the right law.

    Rounds of a block are exchangeable: given the counts, every order is equally likely.

    Args:
        blocks: Blocks of one run.
        draft_length: K of the run.
        rng: Shuffles; give it a stream of its own, so that logging changes no result.
    """
    for block in blocks:
        counts = block.counts[0]
        accepted = rng.permutation(np.repeat(np.arange(len(counts), dtype=np.int16), counts))
        full = np.flatnonzero(accepted == draft_length)
        may_hit = full[:-1] if block.ends[0] else full
        hit = np.zeros(len(accepted), np.bool_)
        hit[rng.choice(may_hit, block.hits[0] - block.others[0], replace=False)] = True
        if block.others[0]:
            hit[rng.choice(np.flatnonzero(accepted < draft_length), block.others[0], replace=False)] = True
        for start in range(0, len(accepted), UNROLL_CHUNK):
            piece = slice(start, start + UNROLL_CHUNK)
            yield from zip(accepted[piece].tolist(), hit[piece].tolist(), strict=True)
