"""Closed forms (model §5): tokens a round, speedup, best draft length, break-even acceptance. Draws nothing."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from simulator.costs.step import Costs, Floats, RoundCost

from .acceptance_law import AcceptanceModel, IidAcceptance, Ints
from .guesses import hit_rates

# Tokens from which each further one adds as much as the last.
LONG_RUN = 1 << 13


class ClosedForm(NamedTuple):
    """The long-run expectation: fields are arrays of one shape.

    tokens_per_round: 1 + E[A]. round_s: expected seconds a round. speedup: baseline over speculative time a token.
    """

    tokens_per_round: Floats
    round_s: Floats
    speedup: Floats


def closed_form(
    cost: RoundCost, laws: ArrayLike, bonus_guess_rate: ArrayLike = 0.0, *, overlap: int = False
) -> ClosedForm:
    """Return the renewal-reward limit: tokens a round over seconds a round.

    Without overlap this is tau / (K c + v(K) + o) in units of the baseline's token (Leviathan et al. 2023, thm. 3.8).

    Args:
        cost: Seconds of the phases, shape [...].
        laws: P(A = a), shape [..., K_max + 1].
        bonus_guess_rate: Used with overlap: P(the pre-drafted bonus token is right, given A = K), shape [...].
        overlap: Whether the next draft is made while the target verifies.
    """
    laws = np.asarray(laws, np.float64)
    tau = 1 + laws @ np.arange(laws.shape[-1], dtype=np.float64)
    if not overlap:
        return long_run(cost, tau)
    full = np.take_along_axis(laws, cost.draft_length[..., None], -1)[..., 0]
    return long_run(cost, tau, np.asarray(full * bonus_guess_rate, np.float64))


def long_run(cost: RoundCost, tokens_per_round: Floats, hits: Floats | None = None) -> ClosedForm:
    """Return the same from tokens a round and, with overlap, P(the next draft can be used); all broadcast."""
    round_s: Floats = cost.after_miss_s
    if hits is not None:
        round_s = np.asarray(hits * cost.after_hit_s + (1 - hits) * cost.after_miss_s)
    speedup = tokens_per_round * cost.baseline_s / round_s
    return ClosedForm(tokens_per_round=tokens_per_round, round_s=round_s, speedup=np.asarray(speedup))


def expected(costs: Costs, model: AcceptanceModel, draft_lengths: Ints, *, overlap: int) -> ClosedForm:
    """Return the closed form of a model at draft lengths, which broadcast with the costs."""
    return priced(costs.round_cost(draft_lengths), model, draft_lengths, overlap=overlap)


def priced(cost: RoundCost, model: AcceptanceModel, draft_lengths: Ints, *, overlap: int) -> ClosedForm:
    """Return the same where the costs of those draft lengths are known."""
    return long_run(
        cost, model.tokens_per_round(draft_lengths), hit_rates(model, draft_lengths, overlap) if overlap else None
    )


def run_speedup(
    cost: RoundCost,
    law: ArrayLike,
    bonus_guess_rate: float,
    total: int,
    *,
    overlap: int = False,
    other_rate: float = 0.0,
) -> float:
    """Return baseline over expected time of a run of `total` tokens: what simulated runs have as their mean.

    The last round may commit more than is left; long runs come to `closed_form`. E[rounds to n tokens] is
    R(n) = 1 + sum over a of P(a) R(n - 1 - a), and what `overlap` saves is counted alike: a round that accepts all K
    saves its successor the draft, if there is one.

    Args:
        cost: Seconds of the phases; scalars.
        law: P(A = a), shape [K + 1].
        bonus_guess_rate: Used with overlap, as in `closed_form`.
        total: Tokens, >= 1.
        overlap: Whether the next draft is made while the target verifies.
        other_rate: P(the next draft is there) after a round that did not accept all K.
    """
    law = np.asarray(law, np.float64)
    width = len(law)
    # The same place within a round of K + 1: where every draft is accepted, rounds come in steps of as much.
    tokens = total if total <= LONG_RUN else LONG_RUN + (total - LONG_RUN) % width
    expected, backwards = np.zeros((width + tokens, 2)), law[::-1]
    hit = law[-1] * bonus_guess_rate * bool(overlap)
    # After a round of a drafts, one token more is committed: who has as many left has a successor.
    others = np.append(0.0, np.cumsum(law[:-1])) * other_rate * bool(overlap)
    for n in range(tokens):
        expected[width + n] = backwards @ expected[n : n + width] + (
            1.0,
            hit * (n >= width) + others[min(n, width - 1)],
        )
    hits_a_round = hit + others[-1]
    rounds, hits = expected[-1] + (total - tokens) / (1 + law @ np.arange(width)) * np.array([1.0, hits_a_round])
    spent_s = rounds * float(cost.after_miss_s) - hits * float(cost.after_miss_s - cost.after_hit_s)
    return float(total * cost.baseline_s / spent_s)


def speedup(costs: Costs, model: AcceptanceModel, draft_length: int, *, overlap: int) -> Floats:
    """Return the closed-form speedup at one draft length; the costs may be arrays of points."""
    return expected(costs, model, np.asarray(draft_length), overlap=overlap).speedup


def speedup_by_draft_length(costs: Costs, model: AcceptanceModel, draft_lengths: Ints, *, overlap: int) -> Floats:
    """Return the closed-form speedup at each draft length, shape [len(draft_lengths)]."""
    return np.array([float(speedup(costs, model, int(k), overlap=overlap)) for k in draft_lengths])


def break_even_alpha(costs: Costs, draft_length: int, *, overlap: int) -> float | None:
    """Return the i.i.d. acceptance at which scalar costs neither gain nor lose at K; None if not even 1 does."""
    k = np.asarray(draft_length)
    cost = costs.round_cost(k)

    def gains(alpha: float) -> bool:
        return bool(priced(cost, IidAcceptance(alpha), k, overlap=overlap).speedup >= 1)

    if not gains(1.0):
        return None
    if gains(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if gains(middle) else (middle, high)
    return high
