"""The trace of an output that two servers scored: of each token its probability and rank, and no whole distribution.

That is all that the trace theorem asks for (model §3): a[t] = min(1, q(x) / p(x)) of the text's own token. What sums
over the vocabulary stays unknown: entropies, and sum min(p, q), of which a[t] is an unbiased estimate, x being drawn
from p.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acceptance.models.rule import SamplingRule
from acceptance.servers.engines import Scores
from acceptance.trace.trace import LEAST_LOG_Q, MOST_MARGIN, PromptInfo, Trace

Floats = NDArray[np.float64]


def trace_of(
    place: tuple[int, int],
    before: int,
    tokens: Sequence[int],
    scores: tuple[Scores, Scores],
    rules: tuple[SamplingRule, SamplingRule],
    prompts: tuple[PromptInfo, ...],
) -> Trace:
    """Return the trace of one output.

    place: indices of prompt and turn. before: tokens ahead of it. scores: the target's and the draft's. rules: what
    they sample from, each at temperature 0 or 1.
    """
    (p, q), (rule, draft_rule), token = scores, rules, np.array(tokens, np.int64)
    size, is_first = len(token), q.first == token
    # Greedy text is itself the point mass.
    p_x, q_x = np.ones(size) if rule.is_greedy else np.exp(p.log), is_first if draft_rule.is_greedy else np.exp(q.log)
    with np.errstate(divide="ignore", invalid="ignore"):
        accept = np.where(p_x > 0, np.minimum(q_x / p_x, 1), 0)
    unknown, position = np.full(size, np.nan), np.arange(size)
    same_first = (p.first == q.first).astype(np.float64)
    floats = {
        "accept_sampled": accept,
        "log_p": p.log,
        "max_q": np.exp(q.log_first),
        "entropy_p": unknown,
        "entropy_q": unknown,
        "overlap": overlap(p, q, token) if rule.is_greedy and not draft_rule.is_greedy else unknown,
        "p_argmax_q": same_first if rule.is_greedy else unknown,
        "margin_q": (q.log_first - q.log_second).clip(max=MOST_MARGIN),
        "log_q": q.log.clip(min=LEAST_LOG_Q),
        "log_q_rejected": q.log_first if draft_rule.is_greedy else unknown,
    }
    if rule.is_greedy and draft_rule.is_greedy:
        floats["overlap"] = same_first
    whole = {"token": token, "rank_p": p.rank, "rank_q": q.rank, "position": position}
    whole |= {"context_length": before + position}
    whole |= {name: np.full(size, index) for name, index in zip(("prompt", "turn"), place, strict=True)}
    arrays: dict[str, Any] = {name: values.astype(np.float32) for name, values in floats.items()}
    arrays |= {name: values.astype(np.int32) for name, values in whole.items()}
    return Trace(accept_greedy=is_first, **arrays, prompts=prompts)


def overlap(p: Scores, q: Scores, token: NDArray[np.int64]) -> Floats:
    """Return what a sampled draft gives the target's first choice; unknown where that is neither x nor the draft's."""
    return np.where(p.first == token, np.exp(q.log), np.where(p.first == q.first, np.exp(q.log_first), np.nan))
