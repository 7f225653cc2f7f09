"""Counter-based random numbers: Philox4x32-10, the same words in NumPy here and in kernels/sampling.cu.

A number is a function of (seed, purpose, step, sequence, index) and of nothing drawn before it: whoever computes it, in
whatever order, gets the same.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF
GROUP = 256  # tokens that race among themselves; part of the law: kernels/sampling.cu has the same number


class Purpose(IntEnum):
    """What a number decides; no two purposes share one."""

    ACCEPT = 0
    TOKEN = 1
    GROUP = 2


def philox(counter: ArrayLike, seed: int) -> NDArray[np.uint32]:
    """Return the four words of each counter [..., 4], keyed by low and high half of the seed (Salmon et al. 2011)."""
    words = np.asarray(counter, np.uint64)
    x, y, z, w = (words[..., i] for i in range(4))
    keys = [seed & WORD, seed >> 32 & WORD]
    shift, low = np.uint64(32), np.uint64(WORD)
    for _ in range(ROUNDS):
        a, b = np.uint64(MULTIPLIERS[0]) * x, np.uint64(MULTIPLIERS[1]) * z
        x, y, z, w = (
            (b >> shift) ^ y ^ np.uint64(keys[0]),
            b & low,
            (a >> shift) ^ w ^ np.uint64(keys[1]),
            a & low,
        )
        keys = [(k + s) & WORD for k, s in zip(keys, KEY_STEPS, strict=True)]
    return np.stack([x, y, z, w], -1).astype(np.uint32)


def words(indices: ArrayLike, sequences: ArrayLike, step: int, purpose: Purpose, seed: int) -> NDArray[np.uint32]:
    """Return the words of counters (index, sequence, step, purpose); shape as broadcast, and 4."""
    index, sequence = np.broadcast_arrays(np.asarray(indices, np.uint32), np.asarray(sequences, np.uint32))
    rest = [np.full(index.shape, value, np.uint32) for value in (step, purpose)]
    return philox(np.stack([index, sequence, *rest], -1), seed)


def accept_uniforms(batch: int, drafts: int, step: int, seed: int) -> NDArray[np.float32]:
    """Return the numbers in [0, 1), in steps of 2^-24, that decide on each drafted token; shape [batch, drafts]."""
    drawn = words(np.arange(drafts), np.arange(batch)[:, None], step, Purpose.ACCEPT, seed)[..., 0]
    numbers: NDArray[np.float32] = (drawn >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return numbers


def race_uniforms(sequence: int, begin: int, end: int, step: int, purpose: Purpose, seed: int) -> NDArray[np.float32]:
    """Return a number in (0, 1), finest near 0, for each racer of begin..end - 1; `begin` is a multiple of 4."""
    drawn = words(np.arange(begin // 4, -(-end // 4)), sequence, step, purpose, seed).reshape(-1)[: end - begin]
    numbers: NDArray[np.float32] = drawn.astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)
    return numbers.clip(max=np.float32(1 - 2.0**-24))
