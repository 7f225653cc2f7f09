"""The law in NumPy and float64: what every other backend is compared with.

Accept drafted x ~ q while u < min(1, p(x) / q(x)); at the first rejection draw from norm(max(0, p - q)), after the last
draft from p (model §1). Drawing is an exponential race: what has weight w arrives at -log(1 - u) / w and the first one
wins. Groups of 256 tokens race first, each with the sum of its weights, then the tokens of the group that won: the same
law, for fewer random numbers. No normaliser of max(0, p - q) is needed, and blocks race parts of a row on their own.
Numbers of 32 bits make the law coarser by less than vocabulary / 2^32 in total variation.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .random import GROUP, Purpose, accept_uniforms, race_uniforms
from .results import Sampled, Verified

LOG2_E = math.log2(math.e)
Floats = NDArray[np.float64]
Array = NDArray[Any]
Ints = NDArray[np.int64]
Weights = Callable[[Array], Floats]


def log2_softmax(logits: Array, temperature: float) -> Floats:
    """Return log2 of the law of each row of logits, [..., vocabulary]; -inf where no logit is above -inf."""
    scaled = logits.astype(np.float64)
    most = scaled.max(-1, keepdims=True)
    scaled -= np.where(most > -np.inf, most, 0)
    scaled *= LOG2_E / temperature
    total = np.exp2(scaled).sum(-1, keepdims=True)
    scaled -= np.log2(np.where(total > 0, total, 1))
    return scaled


def softmax(logits: Array, temperature: float) -> Floats:
    """Return the law of each row; zeros where no logit is above -inf. Arguments as in `log2_softmax`."""
    law: Floats = np.exp2(log2_softmax(logits, temperature))
    return law


def sigmoid_weights(logits: Array, temperature: float, scale: float) -> Floats:
    """Return sigmoid((x / T + s) / 2s), 0 below -s and 1 above s: weights [..., vocabulary] that need no sum."""
    at = logits.astype(np.float64) / (2 * scale * temperature) + 0.5
    inside = 1 / (1 + np.exp(-np.clip(at, 0, 1)))
    return np.where(at < 0, 0.0, np.where(at > 1, 1.0, inside))


def log2_sigmoid_weights(logits: Array, temperature: float, scale: float) -> Floats:
    """Return log2 of `sigmoid_weights`; arguments as there."""
    with np.errstate(divide="ignore"):
        logs: Floats = np.log2(sigmoid_weights(logits, temperature, scale))
    return logs


def first_to_arrive(weights: Floats, uniforms: NDArray[np.float32]) -> int:
    """Return which of some racers arrives first, the lower of two at once."""
    arrivals = -np.log1p(-uniforms.astype(np.float64))
    with np.errstate(divide="ignore"):
        return int(np.argmax(np.log2(weights) - np.log2(arrivals)))


def weights_of_groups(weights: Floats) -> Floats:
    """Return the sum of the weights of each group of 256 tokens, the last one perhaps shorter."""
    sums: Floats = np.add.reduceat(weights, np.arange(0, len(weights), GROUP))
    return sums


def race_winner(weights: Floats, sequence: int, step: int, seed: int) -> int:
    """Return the token drawn with these weights, [vocabulary], none below 0; -1 if none has weight."""
    groups = weights_of_groups(weights)
    if not (groups > 0).any():
        return -1
    begin = GROUP * first_to_arrive(groups, race_uniforms(sequence, 0, len(groups), step, Purpose.GROUP, seed))
    end = min(begin + GROUP, len(weights))
    uniforms = race_uniforms(sequence, begin, end, step, Purpose.TOKEN, seed)
    return begin + first_to_arrive(weights[begin:end], uniforms)


def residual(p: Floats, q: Floats) -> Floats:
    """Return max(0, p - q), or p where nothing is left of it."""
    left = np.maximum(p - q, 0)
    return left if (left > 0).any() else p


def ratios(p: Floats, q: Floats, ids: Ints) -> Floats:
    """Return p / q at the drafted tokens; 0 for ids outside the vocabulary and where p is 0.

    Logarithms, for at low temperatures both may be too small for a float and their ratio is none the less a number.

    Args:
        p: log2 of the target's weights, [B, K, vocabulary].
        q: log2 of the draft's, same shape.
        ids: [B, K].
    """
    known = (ids >= 0) & (ids < p.shape[-1])
    at = np.where(known, ids, 0)[..., None]
    above, below = (np.take_along_axis(law, at, -1)[..., 0] for law in (p, q))
    possible = known & (above > -np.inf)
    with np.errstate(over="ignore"):
        return np.where(possible, np.exp2(np.where(possible, above, 0) - below), 0.0)


def leading(kept: NDArray[np.bool_], lengths: Ints) -> Ints:
    """Return how many of the first `lengths` entries of each row are true before the first that is not."""
    counted = kept & (np.arange(kept.shape[1]) < lengths[:, None])
    kept_so_far: Ints = np.cumprod(counted, axis=1, dtype=np.int64).sum(1)
    return kept_so_far


def integers(array: Array) -> Ints:
    """Return 64-bit integers, the array itself where it holds them."""
    return array.astype(np.int64, copy=False)


def lengths_or_all(lengths: Ints | None, ids: Ints) -> Ints:
    """Clip the draft lengths to 0..K; K for every sequence where none are given."""
    batch, drafts = ids.shape
    return np.full(batch, drafts) if lengths is None else integers(lengths).clip(0, drafts)


def sample(
    target: Array, draft: Array, ids: Ints, lengths: Ints | None, log2_weights: Weights, seed: int, step: int
) -> Sampled:
    """Sample one round, whatever turns logits into weights.

    Args:
        target: Logits [B, K + 1, vocabulary].
        draft: Logits [B, K, vocabulary].
        ids: Drafted tokens [B, K].
        lengths: How many of them each sequence drafted, [B]; clipped to 0..K. All K if None.
        log2_weights: From logits to log2 of weights, row by row.
        seed: 64 bits.
        step: Number of the round, 32 bits.
    """
    ids, (batch, drafts) = integers(ids), ids.shape
    lengths = lengths_or_all(lengths, ids)
    p, q = log2_weights(target), log2_weights(draft)
    uniforms = accept_uniforms(batch, drafts, step, seed)
    accepted = leading(uniforms < ratios(p[:, :drafts], q, ids), lengths)
    token = np.empty(batch, np.int64)
    out_ids = np.full((batch, drafts + 1), -1, np.int64)
    for b, kept in enumerate(accepted):
        law = np.exp2(p[b, kept])
        law = residual(law, np.exp2(q[b, kept])) if kept < lengths[b] else law
        token[b] = race_winner(law, b, step, seed)
        out_ids[b, :kept] = ids[b, :kept]
        out_ids[b, kept] = token[b]
    return Sampled(accepted, token, out_ids)


def speculative_sample(
    target: Array, draft: Array, ids: Ints, lengths: Ints | None, temperature: float, seed: int, step: int
) -> Sampled:
    """Sample one round exactly; arguments as in `sample`."""
    return sample(target, draft, ids, lengths, lambda x: log2_softmax(x, temperature), seed, step)


def sigmoid_sample(
    target: Array, draft: Array, ids: Ints, lengths: Ints | None, temperature: float, scale: float, seed: int, step: int
) -> Sampled:
    """Sample one round by the sigmoid approximation, its bonus row included; arguments as in `sample`."""
    return sample(target, draft, ids, lengths, lambda x: log2_sigmoid_weights(x, temperature, scale), seed, step)


def verify_prefix(logits: Array, ids: Ints, lengths: Ints | None) -> Verified:
    """Count the leading drafts that equal the argmax of their row; of equal logits the lower token is the largest.

    Args:
        logits: [B, K or K + 1, vocabulary].
        ids: Drafted tokens [B, K].
        lengths: [B]; clipped to 0..K. All K if None.
    """
    drafts = ids.shape[1]
    lengths = lengths_or_all(lengths, ids)
    best = logits.argmax(-1).astype(np.int64)
    best[np.arange(best.shape[1]) > lengths[:, None]] = -1
    return Verified(leading(best[:, :drafts] == ids, lengths), best)


def kv_append(cache: Array, fresh: Array, lengths: Ints, accepted: Ints) -> Ints:
    """Write the accepted positions of each sequence behind its own length, in place; return the new lengths.

    Args:
        cache: [B, heads, capacity, d]; what does not fit is left out.
        fresh: [B, heads, K, d].
        lengths: Positions in use, [B].
        accepted: How many of the K to keep, [B].
    """
    capacity = cache.shape[2]
    start = integers(lengths).clip(0, capacity)
    count = np.minimum(integers(accepted).clip(0, fresh.shape[2]), capacity - start)
    for b, (at, n) in enumerate(zip(start, count, strict=True)):
        cache[b, :, at : at + n] = fresh[b, :, :n]
    grown: Ints = start + count
    return grown
