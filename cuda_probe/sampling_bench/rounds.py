"""The round that all backends decide: logits, drafts drawn from the draft's law, and how many of them are accepted."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuda_probe.sampling.random import accept_uniforms
from cuda_probe.sampling.reference import leading, log2_softmax, ratios, softmax

from .shapes import Shape

# Logits of a width and models of a likeness that language models have: 60 to 75 % of the drafts are accepted.
LOGIT_SCALE, DRAFT_NOISE = 3.0, 0.75


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """One round on the host, [B, K + 1 or K, vocabulary] and [B, K]; float32 that holds numbers of the point's type."""

    target: NDArray[np.float32]
    draft: NDArray[np.float32]
    ids: NDArray[np.int64]


def rounded(values: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """Round to what a type can hold; bfloat16 by cutting off its lower bits."""
    if dtype == "float16":
        return values.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        values.view(np.uint32)[...] &= np.uint32(0xFFFF0000)
    return values


def make_round(shape: Shape, temperature: float, seed: int) -> Round:
    """Draw a round: normal logits, a draft that is the target with noise, drafts from the draft's softmax."""
    rng = np.random.default_rng([seed, shape.batch, shape.draft_length, shape.vocabulary])
    target = rng.standard_normal((shape.batch, shape.draft_length + 1, shape.vocabulary), np.float32)
    target *= np.float32(LOGIT_SCALE)
    draft = np.empty((shape.batch, shape.draft_length, shape.vocabulary), np.float32)
    ids = np.empty((shape.batch, shape.draft_length), np.int64)
    for b in range(shape.batch):
        target[b] = rounded(target[b], shape.dtype)
        noise = rng.standard_normal(draft[b].shape, np.float32)
        draft[b] = rounded(target[b, :-1] + np.float32(DRAFT_NOISE) * noise, shape.dtype)
        for j in range(shape.draft_length):
            below = np.cumsum(softmax(draft[b, j], temperature))
            ids[b, j] = min(int(below.searchsorted(rng.random() * below[-1], "right")), shape.vocabulary - 1)
    return Round(target, draft, ids)


def accepted_by_law(drafted: Round, temperature: float, seed: int, step: int = 0) -> NDArray[Any]:
    """Return how many drafts of each sequence the float64 reference accepts, one sequence in memory at a time."""
    batch, drafts = drafted.ids.shape
    ratio = []
    for b in range(batch):
        p = log2_softmax(drafted.target[b : b + 1, :drafts], temperature)
        q = log2_softmax(drafted.draft[b : b + 1], temperature)
        ratio.append(ratios(p, q, drafted.ids[b : b + 1])[0])
    return leading(accept_uniforms(batch, drafts, step, seed) < np.stack(ratio), np.full(batch, drafts))
