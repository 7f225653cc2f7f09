"""Closed forms (model §5): tokens a round, speedup, best draft length, break-even acceptance. Draws nothing."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.costs.step import Costs, Floats, RoundCost

from .acceptance_law import AcceptanceModel, iid_laws


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedForm:
    """The long-run expectation: fields are arrays of one shape.

    tokens_per_round: 1 + E[A]. round_s: expected seconds a round. speedup: baseline over speculative time a token.
    """

    tokens_per_round: Floats
    round_s: Floats
    speedup: Floats


def closed_form(
    cost: RoundCost, laws: ArrayLike, bonus_guess_rate: ArrayLike = 0.0, *, overlap: bool = False
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
    round_s: Floats = cost.after_miss_s
    if overlap:
        full = np.take_along_axis(laws, cost.draft_length[..., None], -1)[..., 0]
        hit = full * bonus_guess_rate
        round_s = np.asarray(hit * cost.after_hit_s + (1 - hit) * cost.after_miss_s)
    return ClosedForm(tokens_per_round=tau, round_s=round_s, speedup=tau * cost.baseline_s / round_s)


def speedup_by_draft_length(
    costs: Costs, model: AcceptanceModel, draft_lengths: NDArray[np.int64], *, overlap: bool
) -> Floats:
    """Return the closed-form speedup at each draft length, shape [len(draft_lengths)]."""

    def at(k: int) -> float:
        form = closed_form(costs.round_cost(k), model.law(k), model.bonus_guess_rate(k), overlap=overlap)
        return float(form.speedup)

    return np.array([at(int(k)) for k in draft_lengths])


def break_even_alpha(costs: Costs, k: int, *, overlap: bool) -> float | None:
    """Return the i.i.d. acceptance at which draft length k neither gains nor loses; None if not even 1 does.

    Args:
        costs: Scalars only.
        k: Draft length, >= 1.
        overlap: Whether the next draft is made while the target verifies.
    """
    cost = costs.round_cost(k)

    def gain(alpha: float) -> float:
        return float(closed_form(cost, iid_laws(alpha, k, k + 1), alpha, overlap=overlap).speedup) - 1

    if gain(1.0) < 0:
        return None
    return bisect(gain, 0.0, 1.0)


def bisect(rising: Callable[[float], float], low: float, high: float) -> float:
    """Return where a rising function passes 0 between `low` and `high`."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
