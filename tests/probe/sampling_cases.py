"""Rounds of speculative sampling of awkward kinds, and their comparison."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Round:
    """Logits, drafts and draft lengths of one round."""

    target: NDArray[Any]
    draft: NDArray[Any]
    ids: NDArray[np.int64]
    lengths: NDArray[np.int64] | None = None

    @property
    def arrays(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
        return self.target, self.draft, self.ids


def draw_ids(rng: np.random.Generator, logits: NDArray[Any], temperature: float = 1.0) -> NDArray[np.int64]:
    """Draw from the softmax of each row (Gumbel's way, with numbers of its own)."""
    noise = rng.gumbel(size=logits.shape)
    return np.argmax(logits.astype(np.float64) + temperature * noise, -1).astype(np.int64)


def a_round(
    seed: int,
    batch: int,
    drafts: int,
    vocabulary: int,
    *,
    kind: str = "usual",
    ragged: bool = False,
    temperature: float = 1.0,
) -> Round:
    """Make a round whose drafts are drawn at `temperature`; `kind`: usual, masked, tied, equal, disjoint or unknown."""
    rng = np.random.default_rng(seed)
    target = rng.normal(scale=3, size=(batch, drafts + 1, vocabulary)).astype(np.float32)
    noise = rng.normal(size=(batch, drafts, vocabulary))
    draft = (target[:, :drafts] + noise).astype(np.float32)
    if kind in ("equal", "unknown"):
        draft = target[:, :drafts].copy()
    if kind == "tied":
        target, draft = np.round(target / 3).astype(np.float32), np.round(draft / 3).astype(np.float32)
    if kind == "masked":
        target[rng.random(target.shape) < 0.4] = -np.inf
        draft[rng.random(draft.shape) < 0.4] = -np.inf
        target[..., 0], draft[..., -1] = 0, 0
    if kind == "disjoint":
        target[..., 1::2], draft[..., ::2] = -np.inf, -np.inf
    ids = draw_ids(rng, draft, temperature)
    if kind == "unknown":
        ids[:] = np.where(np.arange(ids.size).reshape(ids.shape) % 2, -1, vocabulary)
    lengths = rng.integers(0, drafts + 1, batch) if ragged else None
    return Round(target, draft, ids, lengths)


def assert_same(found: Any, wanted: Any) -> None:
    """Compare two results field by field, token by token."""
    for name in vars(wanted):
        ours, theirs = (np.asarray(getattr(result, name)) for result in (found, wanted))
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
