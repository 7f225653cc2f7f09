"""What the numbers mean: does it pay, by how much, which K is best, and what acceptance it needs."""

from typing import NamedTuple

import numpy as np

from simulator.costs.kinds import is_models, is_timed
from simulator.ground.histogram import alpha_iid
from simulator.ground.limits import SEARCHED_DRAFT_LENGTHS
from simulator.rounds.acceptance_law import HistogramAcceptance, Ints
from simulator.rounds.analytic import break_even_alpha, run_speedup, speedup_by_draft_length
from simulator.rounds.experiment import Setting

from .basis import Basis
from .uncertainty import Uncertainty

PAYS, DOES_NOT_PAY, CANNOT_TELL, DOES_NOT_FIT = "pays", "does not pay", "cannot tell", "does not fit"


class Verdict(NamedTuple):
    """The answer in words and in figures.

    answer: "pays", "does not pay", "cannot tell" (the interval holds 1), or "does not fit" into memory.
    speedup: expected of a run of this length; None where it does not fit. speedup_ci95: its interval, by what is not
    known of constants and acceptance; None where nothing says how well they are known.
    best_draft_length: by the closed form, among 1..searched_to. may_pay: whether any of them may, as well as constants
    and acceptance are known. measured: whether a histogram was sampled.
    break_even_alpha: i.i.d. acceptance at which this K neither gains nor loses; None if not even 1 does. alpha_iid: the
    acceptance there is, in the same terms.
    """

    answer: str
    speedup: float | None
    speedup_ci95: tuple[float, float] | None
    best_draft_length: int
    best_speedup: float
    searched_to: int
    may_pay: bool
    measured: bool
    break_even_alpha: float | None
    alpha_iid: float


def answer(speedup: float, interval: tuple[float, float] | None) -> str:
    """Say what a speedup and its interval allow to say: both ends have to lie on one side of 1."""
    low, high = interval or (speedup, speedup)
    return PAYS if low > 1 else DOES_NOT_PAY if high < 1 else CANNOT_TELL


def searched_draft_lengths(setting: Setting) -> Ints:
    """Return the draft lengths among which the best is searched: what the histogram or the costs tell of, at most."""
    longest = max(SEARCHED_DRAFT_LENGTHS, setting.draft_length)
    if isinstance(setting.acceptance, HistogramAcceptance):
        longest = setting.acceptance.longest
    return np.arange(1, min(longest, setting.costs.longest or longest) + 1, dtype=np.int64)


def judge(setting: Setting, uncertainty: Uncertainty) -> Verdict:
    """Judge a setting; `uncertainty`: how well constants and acceptance are known."""
    k, costs, acceptance = setting.draft_length, setting.costs, setting.acceptance
    draft_lengths = searched_draft_lengths(setting)
    gains = speedup_by_draft_length(costs, acceptance, draft_lengths, overlap=setting.overlap)
    best, form = int(gains.argmax()), setting.closed_form
    fits = not (is_models(costs) and costs.fits is not None and not costs.fits)
    # Times a token of a server are of whole outputs: their last rounds were cut already.
    gain = float(form.speedup)
    if not is_timed(costs):
        cost, total, other = setting.cost, setting.total, setting.other_rate
        gain = run_speedup(cost, acceptance.law(k), setting.hit_rate, total, overlap=setting.overlap, other_rate=other)
    interval = uncertainty.interval(k)
    if interval is not None:
        # The draws are of long runs.
        interval = (interval[0] * gain / float(form.speedup), interval[1] * gain / float(form.speedup))
    return Verdict(
        answer=answer(gain, interval) if fits else DOES_NOT_FIT,
        speedup=gain if fits else None,
        speedup_ci95=interval if fits else None,
        best_draft_length=int(draft_lengths[best]),
        best_speedup=float(gains[best]),
        searched_to=int(draft_lengths[-1]),
        may_pay=max(uncertainty.speedup_high95[: len(draft_lengths)]) > 1,
        measured=isinstance(acceptance, HistogramAcceptance) and not acceptance.assumed,
        break_even_alpha=break_even_alpha(costs, k, overlap=setting.overlap),
        alpha_iid=float(alpha_iid(form.tokens_per_round, k)),
    )


def headline(verdict: Verdict, basis: Basis, draft_length: int) -> str:
    """Return the answer as one line, with its interval and what it is conditional on."""
    gain = verdict.speedup
    if gain is None:
        return "Does not fit into memory: no speedup to tell of."
    figures = f"{gain:.2f}x as fast"
    if verdict.speedup_ci95 is not None:
        figures += " ({:.2f}x to {:.2f}x)".format(*verdict.speedup_ci95)
    less = f"{1 - 1 / gain:.0%} less" if gain >= 1 else f"{1 / gain - 1:.0%} more"
    figures += f" at K = {draft_length}, {less} time a token"
    if verdict.answer == CANNOT_TELL:
        condition = basis.condition and f", {basis.condition}"
        return f"Cannot tell{condition}: {figures}."
    if basis.condition:
        return f"{basis.condition[0].upper()}{basis.condition[1:]}: {figures}."
    return f"It {verdict.answer}: {figures}."


def best_in_words(verdict: Verdict, draft_length: int) -> str:
    """Say which draft length is best."""
    k, gain, top = verdict.best_draft_length, verdict.best_speedup, verdict.searched_to
    if gain <= 1:
        known = "is known to pay" if verdict.may_pay else "pays"
        return f"No draft length {known} in long runs: the best of 1..{top}, K = {k}, gives {gain:.2f}x."
    edge = " (the longest this histogram tells of)" if k == top and verdict.measured else ""
    if k == draft_length:
        return f"In long runs K = {k} is the best of 1..{top}{edge}."
    return f"In long runs the best K of 1..{top} is {k}, with {gain:.2f}x{edge}."


def need_in_words(verdict: Verdict, draft_length: int) -> str:
    """Say what acceptance a draft length needs."""
    if verdict.break_even_alpha is None:
        return f"Break-even at K = {draft_length}: none, not even if every draft were accepted."
    return (
        f"Break-even at K = {draft_length}: acceptance {verdict.break_even_alpha:.3f} a token; "
        f"here it is {verdict.alpha_iid:.3f}."
    )
