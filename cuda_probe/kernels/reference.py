"""NumPy references of the probe kernels (`kernels/probe.cu`): the same tokens and the same floats, to the last bit.

Nothing here is timed. A fused multiply-add rounds once, which NumPy cannot do; `fused_multiply_add` makes up for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.integer[Any]]

MULTIPLIER = 1103515245
INCREMENT = 12345
PPM = 1_000_000
GOLDEN = 0x9E3779B97F4A7C15


def truth_states(positions: ArrayLike) -> NDArray[np.uint32]:
    """State of the target at each position: `1103515245 * i + 12345 mod 2**32`."""
    low = np.asarray(positions, dtype=np.int64).astype(np.uint32)
    with np.errstate(over="ignore"):  # NumPy warns of what wraps around in a lone number
        return np.asarray(low * np.uint32(MULTIPLIER) + np.uint32(INCREMENT))


def truth_tokens(positions: ArrayLike, vocab: int) -> NDArray[np.int32]:
    """The token the target emits at each position: its state modulo the vocabulary."""
    return (truth_states(positions) % np.uint32(vocab)).astype(np.int32)


def noise(seed: int, positions: ArrayLike) -> NDArray[np.int64]:
    """0..999999 for each position, fixed for a seed: the upper half of splitmix64 keyed by the seed, scaled down."""
    wide = np.asarray(positions, dtype=np.int64).astype(np.uint64)
    key = _mix(np.array([(seed + GOLDEN) % 2**64], dtype=np.uint64))
    drawn = _mix(key + wide * np.uint64(GOLDEN))
    return (((drawn >> np.uint64(32)) * np.uint64(PPM)) >> np.uint64(32)).astype(np.int64).reshape(wide.shape)


def proposed_tokens(seed: int, positions: ArrayLike, noise_ppm: int, vocab: int) -> NDArray[np.int32]:
    """What the draft proposes: the target's token, or the one after it where the noise falls below `noise_ppm`."""
    errs = noise(seed, positions) < noise_ppm
    tokens = truth_tokens(positions, vocab)
    return np.where(errs, (tokens + np.int32(1)) % np.int32(vocab), tokens)


def accepted_prefix(proposed: ArrayLike, position: int, vocab: int) -> int:
    """How many tokens, proposed from `position` on, the target emits too before the first that it does not."""
    tokens = np.asarray(proposed)
    matches = tokens == truth_tokens(position + np.arange(tokens.size), vocab)
    return int(np.cumprod(matches).sum())


def start_values(threads: int, word: int) -> Floats:
    """Where each thread's burn begins, in [-0.5, 0.5); `word` is the state that the launch before left behind."""
    scrambled = (np.arange(threads, dtype=np.int64).astype(np.uint32) + np.uint32(word)) * np.uint32(2654435761)
    return (scrambled >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24) - np.float32(0.5)


def burn(values: Floats, iterations: int) -> Floats:
    """`iterations` workflops units: three steps of the quadratic map each."""
    for _ in range(3 * iterations):
        values = advance(values)
    return values


def advance(values: Floats) -> Floats:
    """One step of the map, `x * x - 1.5` rounded once."""
    return fused_multiply_add(values, values, np.float32(-1.5))


def memory_passes(memory: Floats, threads: int, first_pass: int, passes: int) -> Floats:
    """The buffer after `passes` workmem units of a grid of `threads` threads, beginning with pass `first_pass`."""
    changed = memory.copy()
    thread_ids = np.arange(min(threads, memory.size))
    owned = (memory.size - thread_ids + threads - 1) // threads
    for number in range(first_pass, first_pass + passes):
        touched = thread_ids + number % owned * threads
        changed[touched] = advance(changed[touched])
    return changed


def fused_multiply_add(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Floats:
    """`a * b + c` in float32 with a single rounding.

    The product is exact in float64; the sum is rounded to odd there, after which rounding to float32 is the only
    rounding that counts (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    """
    product = np.asarray(a, dtype=np.float32).astype(np.float64) * np.asarray(b, dtype=np.float32).astype(np.float64)
    addend = np.asarray(c, dtype=np.float32).astype(np.float64)
    total = product + addend
    from_product = total - addend
    error = (product - from_product) + (addend - (total - from_product))
    even = total.view(np.int64) % 2 == 0
    odd = np.where((error != 0) & even, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total)
    return odd.astype(np.float32)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
