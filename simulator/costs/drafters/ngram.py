"""n-gram and prompt lookup: what followed the last tokens where they stood before, found by the host."""

import numpy as np

from simulator.costs.work import ModelShape

from .plan import LENGTH, DraftPlan, Engines, Ints, without_weights

# Seconds of a sequence: 1.9 s for the answers to 5,000 ShareGPT prompts, about a million tokens (vLLM, pull 13365).
SEARCH_S = 2e-6


def plan(shape: ModelShape, draft_length: Ints) -> DraftPlan:
    """Return no pass: a search, and verification of what it found."""
    k = np.asarray(draft_length, np.int64)
    return DraftPlan(passes=(), width=k + 1, accepts=LENGTH, host_s=SEARCH_S, varies=True)


METHOD = without_weights(
    "ngram",
    plan,
    Engines({"method": "ngram"}, "NGRAM", "NGram", "ngram-simple"),
    for_encoders=True,
    title="n-gram",
    also=("prompt_lookup",),
    rounds="a search by the host",
    reads="its own text",
)
