"""How far the sigmoid approximation is from the exact law, by enumeration over the vocabulary."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.ground.artefacts import UserError

from .checks import checked_scale, checked_temperature
from .reference import Floats, residual, sigmoid_weights, softmax


@dataclass(frozen=True)
class SigmoidDistance:
    """What one drafted position comes to.

    Attributes:
        exact_acceptance: Probability that a draft is kept under the exact rule, sum min(p, q).
        sigmoid_acceptance: The same under the sigmoid rule.
        output_distance: Total variation between the law of the token at this position and the target's p.
        draft_distance: Total variation between the draft's law q and p: what accepting every draft would have.
        bonus_distance: Total variation between the sigmoid bonus draw and p.
    """

    exact_acceptance: float
    sigmoid_acceptance: float
    output_distance: float
    draft_distance: float
    bonus_distance: float


def total_variation(one: Floats, other: Floats) -> float:
    """Return half the sum of the absolute differences of two laws."""
    return float(np.abs(one - other).sum() / 2)


def output_law(q: Floats, target_weights: Floats, draft_weights: Floats) -> tuple[Floats, float]:
    """Return the law of the token that one drafted position yields, and how probable acceptance is.

    q: the law drafts are drawn from; the rule takes the weights for the laws of target and draft.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.where(draft_weights > 0, np.minimum(target_weights / draft_weights, 1), target_weights > 0)
    rest = residual(target_weights, draft_weights)
    accepted = float((q * kept).sum())
    return q * kept + (1 - accepted) * rest / rest.sum(), accepted


def logits_of(name: str, values: Any) -> Floats:
    """Return the logits of one position as float64; refuses what is no vector of logits."""
    try:
        logits = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name}: {type(values).__name__}, expected an array of real numbers") from None
    if logits.ndim != 1 or logits.size == 0:
        raise UserError(f"{name}: shape {logits.shape}, expected (vocabulary,)")
    if not (logits < np.inf).all():
        raise UserError(f"{name}: {logits[~(logits < np.inf)][0]:g} among the logits, expected finite ones or -inf")
    if logits.max() == -np.inf:
        raise UserError(f"{name}: -inf throughout, expected a finite logit at least")
    return logits


def sigmoid_distance(
    target_logits: NDArray[Any], draft_logits: NDArray[Any], *, temperature: float = 1.0, scale: float = 1e4
) -> SigmoidDistance:
    """Compare the sigmoid rule with the exact one at one position, drafts being drawn from the draft's softmax.

    It shows what a higher acceptance is paid with. A large scale (the published kernels have 1e4) squeezes all logits
    into one spot of the sigmoid: ratios come out as 1, drafts are accepted whatever the target says, the output has the
    draft's law (`output_distance` near `draft_distance`) and the bonus is nearly uniform over the vocabulary. A small
    scale clips, and the sigmoid of what is left is not proportional to the exponential that the law is made of.

    Args:
        target_logits: [vocabulary], finite or -inf, one at least finite.
        draft_logits: The same.
        temperature: Of both models.
        scale: As for `sigmoid_sample`.

    Raises:
        UserError: Shapes disagree, a logit or a number is none that it may be, or the scale leaves the target no token.
    """
    target_logits, draft_logits = logits_of("target_logits", target_logits), logits_of("draft_logits", draft_logits)
    if target_logits.shape != draft_logits.shape:
        raise UserError(f"draft_logits: shape {draft_logits.shape}, expected {target_logits.shape} as in target_logits")
    temperature, scale = checked_temperature(temperature), checked_scale(scale)
    p, q = softmax(target_logits, temperature), softmax(draft_logits, temperature)
    weights = [sigmoid_weights(logits, temperature, scale) for logits in (target_logits, draft_logits)]
    if not weights[0].any():
        raise UserError(f"scale: {scale:g} gives no token of target_logits any weight, expected a larger one")
    law, accepted = output_law(q, *weights)
    return SigmoidDistance(
        exact_acceptance=float(np.minimum(p, q).sum()),
        sigmoid_acceptance=accepted,
        output_distance=total_variation(law, p),
        draft_distance=total_variation(q, p),
        bonus_distance=total_variation(weights[0] / weights[0].sum(), p),
    )
