"""vLLM's online estimate of what is accepted: a logistic on how sure the draft is, refitted while serving.

`vllm/v1/worker/gpu/spec_decode/acceptance_estimator.py` (OnlineAcceptanceEstimator), in the form with one slope for all
draft positions and an intercept a position: p = sigmoid(slope * feature + intercept[j]).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
# Features are cut: a margin or a logarithm above, -log q below.
MOST, LEAST_NEG_LOG_Q = 40.0, 1e-3
INTERCEPT, RIDGE, DAMPING = 1.5, 1e-3, 50.0


def of_margin(margin: ArrayLike) -> Floats:
    """Return the feature of greedy drafts: by how much the largest logit exceeds the second."""
    return np.minimum(np.asarray(margin, np.float64), MOST)


def of_log_q(log_q: ArrayLike) -> Floats:
    """Return the feature of sampled drafts, on Gumbel's scale: -log(-log q)."""
    return np.asarray(-np.log(np.clip(-np.asarray(log_q, np.float64), LEAST_NEG_LOG_Q, MOST)), np.float64)


class OnlineLogistic:
    """The estimate at work; k: positions of a draft. refit_every: steps of the engine between fits."""

    def __init__(self, k: int, refit_every: int = 100) -> None:
        self.slope, self.intercepts = 0.0, np.full(k, INTERCEPT)
        self.refit_every, self.steps, self.refits = refit_every, 0, 0
        self.begin_round()

    def begin_round(self) -> None:
        """Forget what was observed: every fit is of its own steps alone."""
        # Of Newton's equations, by position: sums of w f^2, w f, w, and of r f, r; and how many were observed.
        self.sums = np.zeros((6, len(self.intercepts)))

    def predict(self, feature: Floats) -> Floats:
        """Return how likely drafts are accepted, once those before them are; [rounds, k] of the same."""
        return np.asarray(1 / (1 + np.exp(-(self.slope * feature + self.intercepts))), np.float64)

    def learn(self, feature: Floats, predicted: Floats, lengths: ArrayLike, accepted: ArrayLike) -> None:
        """Take note of one step: features and predictions, [rounds, k], what was verified and accepted of it, [rounds].

        The accepted drafts and the first rejected one are observed; nothing is known of those behind.
        """
        j = np.arange(feature.shape[1])
        lengths, accepted = np.asarray(lengths)[:, None], np.asarray(accepted)[:, None]
        seen = (j <= accepted) & (j < lengths)
        weight = predicted * (1 - predicted) * seen
        rest = ((j < accepted) - predicted) * seen
        self.sums += np.stack(
            [v.sum(0) for v in (weight * feature**2, weight * feature, weight, rest * feature, rest, seen)]
        )
        self.steps += 1
        if self.steps % self.refit_every == 0:
            self.refit()

    def refit(self) -> None:
        """Take one step of Newton's method, shortened where little was observed; the slope never falls below 0."""
        a, b, c, g0, g1, n = self.sums
        c = c + RIDGE
        by = (g0.sum() - (b * g1 / c).sum()) / (a.sum() + RIDGE - (b * b / c).sum())
        by *= n.sum() / (n.sum() + DAMPING)
        if not self.slope + by >= 0:
            by = 0.0
        self.slope += float(by)
        self.intercepts = self.intercepts + (g1 - b * by) / c * n / (n + DAMPING)
        self.refits += 1
        self.begin_round()
