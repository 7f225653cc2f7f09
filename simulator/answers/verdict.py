"""What the numbers mean: does it pay, by how much, which K is best, and what acceptance it needs."""

from dataclasses import dataclass

import numpy as np

from simulator.ground.histogram import alpha_iid
from simulator.rounds.acceptance_law import HistogramAcceptance, Ints
from simulator.rounds.analytic import break_even_alpha, speedup_by_draft_length
from simulator.rounds.experiment import Setting, Summary

from .uncertainty import Uncertainty

# Without a histogram nothing bounds K; published sweeps stop at 16.
SEARCHED_DRAFT_LENGTHS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer in words and in figures.

    answer: "pays", "does not pay" or "cannot tell" (an interval holds 1, or the runs give none).
    best_draft_length: by the closed form, among 1..searched_to. measured: whether a histogram was sampled.
    break_even_alpha: i.i.d. acceptance at which this K neither gains nor loses; None if not even 1 does. alpha_iid: the
    acceptance there is, in the same terms.
    """

    answer: str
    best_draft_length: int
    best_speedup: float
    searched_to: int
    measured: bool
    break_even_alpha: float | None
    alpha_iid: float


def answer(summary: Summary, uncertainty: Uncertainty | None = None) -> str:
    """Say what the interval of the runs allows to say, and that of constants and acceptance where these are uncertain.

    Both have to lie on one side of 1.
    """
    if summary.simulation_noise_ci95 is None:
        return "cannot tell"
    low, high = summary.simulation_noise_ci95
    if uncertainty is not None:
        least, most = uncertainty.speedup_ci95
        low, high = (min(low, least), max(high, most)) if most > least else (low, high)
    return "pays" if low > 1 else "does not pay" if high < 1 else "cannot tell"


def searched_draft_lengths(setting: Setting) -> Ints:
    """Return the draft lengths among which the best is searched: what the histogram or the costs tell of, at most."""
    longest = max(SEARCHED_DRAFT_LENGTHS, setting.draft_length)
    if isinstance(setting.acceptance, HistogramAcceptance):
        longest = setting.acceptance.longest
    return np.arange(1, min(longest, setting.costs.longest or longest) + 1, dtype=np.int64)


def judge(setting: Setting, summary: Summary, uncertainty: Uncertainty | None = None) -> Verdict:
    """Judge one simulated setting; `uncertainty`: how well constants and acceptance are known, None for perfectly."""
    draft_lengths = searched_draft_lengths(setting)
    gains = speedup_by_draft_length(setting.costs, setting.acceptance, draft_lengths, overlap=setting.overlap)
    best = int(gains.argmax())
    return Verdict(
        answer=answer(summary, uncertainty),
        best_draft_length=int(draft_lengths[best]),
        best_speedup=float(gains[best]),
        searched_to=int(draft_lengths[-1]),
        measured=isinstance(setting.acceptance, HistogramAcceptance),
        break_even_alpha=break_even_alpha(setting.costs, setting.draft_length, overlap=setting.overlap),
        alpha_iid=float(alpha_iid(summary.closed_form_tokens_per_round, setting.draft_length)),
    )


def in_words(verdict: Verdict, summary: Summary, draft_length: int) -> list[str]:
    """Return the verdict as lines for a reader."""
    return [
        gain_in_words(verdict, summary),
        best_in_words(verdict, draft_length),
        need_in_words(verdict, draft_length),
    ]


def gain_in_words(verdict: Verdict, summary: Summary) -> str:
    gain = summary.speedup
    if verdict.answer == "pays":
        return f"It pays: {gain:.2f}x as fast, {1 - 1 / gain:.0%} less time a token."
    if verdict.answer == "does not pay":
        return f"It does not pay: {gain:.2f}x as fast, {1 / gain - 1:.0%} more time a token."
    if summary.simulation_noise_ci95 is None:
        return f"Cannot tell from these runs ({gain:.2f}x): take more --replications or a larger --total."
    if answer(summary) != verdict.answer:
        return f"Cannot tell: {gain:.2f}x, but constants and acceptance are not known well enough."
    return f"Cannot tell: {gain:.2f}x, and its interval holds 1. Take more --replications or a larger --total."


def best_in_words(verdict: Verdict, draft_length: int) -> str:
    k, gain, top = verdict.best_draft_length, verdict.best_speedup, verdict.searched_to
    if gain <= 1:
        return f"No draft length pays in long runs: the best of 1..{top}, K = {k}, gives {gain:.2f}x."
    edge = " (the longest this histogram tells of)" if k == top and verdict.measured else ""
    if k == draft_length:
        return f"In long runs K = {k} is the best of 1..{top}{edge}."
    return f"In long runs the best K of 1..{top} is {k}, with {gain:.2f}x{edge}."


def need_in_words(verdict: Verdict, draft_length: int) -> str:
    if verdict.break_even_alpha is None:
        return f"Break-even at K = {draft_length}: none, not even if every draft were accepted."
    return (
        f"Break-even at K = {draft_length}: acceptance {verdict.break_even_alpha:.3f} a token; "
        f"here it is {verdict.alpha_iid:.3f}."
    )
