"""Drafting ahead for several outcomes of a verification, as SSD does: how often one of them comes true.

An outcome is how many drafts are accepted, and the token behind them. The first guess is that all are, and the draft's
own next token: `--overlap`. Further ones are the likeliest others, among them corrections of a rejected draft by its
second choice, its third and so on.
"""

import numpy as np

from simulator.costs.step import Floats

from .acceptance_law import AcceptanceModel, Ints
from .priors import further_choices


def hit_shares(law: Floats, first: float, guesses: int, further: Floats) -> tuple[float, float]:
    """Return P(the next draft is there) after rounds that accepted all K, and after the others.

    Args:
        law: P(A = a), [K + 1].
        first: P(the draft's own next token is the bonus token, given A = K).
        guesses: Outcomes that are drafted for.
        further: Shares of a draft's second choice, third and so on among tokens that are not its first, [choices].
    """
    if guesses == 1:
        return first, 0.0
    shares = np.append(law[:-1], law[-1] * (1 - first))[:, None] * further
    guessed = np.zeros(shares.size)
    best = np.argsort(-shares.ravel(), kind="stable")[: guesses - 1]
    guessed[best] = shares.ravel()[best]
    by_accepted, rejected = guessed.reshape(shares.shape).sum(1), 1 - law[-1]
    full = first + (by_accepted[-1] / law[-1] if law[-1] > 0 else 0.0)
    return min(float(full), 1.0), min(float(by_accepted[:-1].sum() / rejected), 1.0) if rejected > 0 else 0.0


def shares_of(model: AcceptanceModel, draft_length: int, guesses: int) -> tuple[float, float]:
    """Return the same of a model at a draft length; of no guess both are 0."""
    if not guesses:
        return 0.0, 0.0
    first = model.bonus_guess_rate(draft_length)
    if guesses == 1:
        return first, 0.0
    return hit_shares(model.law(draft_length), first, guesses, further_choices().rates)


def hit_rates(model: AcceptanceModel, draft_lengths: Ints, guesses: int) -> Floats:
    """Return P(the next draft is there) of all rounds, at draft lengths of any shape."""
    if guesses == 1:
        return model.hit_rates(draft_lengths)
    lengths, which = np.unique(draft_lengths, return_inverse=True)
    rates = []
    for k in lengths.tolist():
        full, other = shares_of(model, k, guesses)
        all_k = model.law(k)[-1]
        rates.append(all_k * full + (1 - all_k) * other)
    return np.asarray(np.array(rates)[which.reshape(np.shape(draft_lengths))], np.float64)


def guessed(laws: Floats, draft_lengths: Ints, first: Floats, guesses: int) -> tuple[Floats, Floats]:
    """Return P(the next draft is there) after rounds that accepted all K, and after others, of points; [points] each.

    laws: P(A = a), [points, K_max + 1]; first: the rate of the first guess.
    """
    if guesses < 2:
        return first * guesses, np.zeros(np.shape(first))
    further = further_choices().rates
    points = zip(laws, draft_lengths.tolist(), first.tolist(), strict=True)
    found = [hit_shares(law[: k + 1], rate, guesses, further) for law, k, rate in points]
    full, others = np.array(found, np.float64).T
    return full, others
