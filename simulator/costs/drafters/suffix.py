"""Suffix decoding (arXiv 2411.04975): trees of what was written before, on the host, match and propose."""

import numpy as np

from simulator.costs.work import ModelShape

from .plan import LENGTH, DraftPlan, Engines, Ints, without_weights

# Seconds of a sequence, and of each token that it proposes (ArcticInference, issue 212).
SEARCH_S, TOKEN_S = 6e-6, 4e-6


def plan(shape: ModelShape, draft_length: Ints) -> DraftPlan:
    """Return no pass: a walk in a tree, and verification of what it found."""
    k = np.asarray(draft_length, np.int64)
    host_s = np.asarray(SEARCH_S + TOKEN_S * k, np.float64)
    return DraftPlan(passes=(), width=k + 1, accepts=LENGTH, host_s=host_s, varies=True)


METHOD = without_weights(
    "suffix",
    plan,
    Engines({"method": "suffix"}, trtllm="SA"),
    for_encoders=True,
    title="suffix trees",
    rounds="a walk by the host",
    reads="texts before it",
)
