"""Lookahead decoding (arXiv 2402.02057): n-grams that the target's own pass makes and verifies beside the token."""

import numpy as np

from simulator.costs.work import ModelShape

from .plan import LENGTH, DraftPlan, Engines, Ints, without_weights

# Columns of the window and n-grams verified, as its authors recommend for models of 7 B.
WINDOW, GUESSES = 7, 7


def plan(shape: ModelShape, draft_length: Ints) -> DraftPlan:
    """Return no pass; n - 1 = K tokens of each column and of each n-gram are in verification."""
    k = np.asarray(draft_length, np.int64)
    return DraftPlan(passes=(), width=(WINDOW + GUESSES) * k + 1, accepts=LENGTH)


METHOD = without_weights(
    "lookahead", plan, Engines(trtllm="Lookahead"), title="lookahead", rounds="no pass", reads="its own n-grams"
)
