"""What a trace says of trees, small enough to lie in a histogram's file (`simulator.ground.ranks`)."""

import numpy as np

from acceptance.trace.trace import UNKNOWN_RANK, Trace
from simulator.ground.ranks import CLASSES, LAST_PLACE, MOST_TOKENS, Floats, RankTrace

# Tokens of all classes beside a class's own, that say how much its draft gives a choice which few tokens were.
BESIDE = 3.0


def ranks_of(trace: Trace, draft_temperature: float) -> RankTrace | None:
    """Return the ranks of a trace; None of a draft with another tokenizer, of which they are not known.

    Classes hold as many tokens each, by the draft's largest q. What it gives its first and second choice is the mean of
    q, by the margin of its logits; of further ones, their mean share of what is left where a token was such a choice.

    Args:
        trace: What was measured.
        draft_temperature: Of q; at 0 it is of the softmax at 1.
    """
    if not trace.size or (trace.rank_q == UNKNOWN_RANK).any() or np.isnan(trace.max_q).any():
        return None
    first = trace.max_q.astype(np.float64)
    edges = np.quantile(first, np.arange(1, CLASSES) / CLASSES)
    classes = np.searchsorted(edges, first, side="right")
    place = np.minimum(trace.rank_q, LAST_PLACE).astype(np.int64)
    second = np.minimum(first * np.exp(-trace.margin_q.astype(np.float64) / (draft_temperature or 1.0)), 1 - first)
    if np.isnan(second).any() or np.isnan(trace.log_q).any():
        q = rates_of(place, classes)
    else:
        q = chosen(place, classes, first, second, np.exp(trace.log_q.astype(np.float64)))
    text = RankTrace(place, classes, trace.starts, np.minimum.accumulate(q.clip(0, 1), axis=1))
    return text.some(MOST_TOKENS)


def chosen(place: np.ndarray, classes: np.ndarray, first: Floats, second: Floats, own: Floats) -> Floats:
    """Return what drafts of each class give their choices, [CLASSES, LAST_PLACE]; own: q of the token itself."""
    q, left = np.zeros((CLASSES, LAST_PLACE)), 1 - first - second
    counts = np.maximum(np.bincount(classes, minlength=CLASSES), 1)
    q[:, 0], q[:, 1], spare = (np.bincount(classes, v, CLASSES) / counts for v in (first, second, left))
    for r in range(2, LAST_PLACE):
        such = place == r
        share = own[such].sum() / max(left[such].sum(), 1e-9)
        there = np.bincount(classes[such], own[such], CLASSES), np.bincount(classes[such], minlength=CLASSES)
        q[:, r] = (there[0] + BESIDE * share * spare) / (there[1] + BESIDE)
    return q


def rates_of(place: np.ndarray, classes: np.ndarray) -> Floats:
    """Return, of a trace that does not hold q, how often tokens were each choice of drafts of a class."""
    whole = np.bincount(place, minlength=LAST_PLACE + 1)[:LAST_PLACE] / len(place)
    counts = np.stack([np.bincount(place[classes == c], minlength=LAST_PLACE + 1)[:LAST_PLACE] for c in range(CLASSES)])
    tokens = np.bincount(classes, minlength=CLASSES)[:, None]
    return np.asarray((counts + BESIDE * whole) / (tokens + BESIDE), np.float64)
