"""Products on the processor whose results are known to the last bit: the burn's, and those of whole numbers."""

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

BURN_SIZE = 128
# Cycle lengths of the burn's permutation: distinct primes, so that it takes 3.2e9 products to come round.
BURN_CYCLES = (29, 23, 19, 17, 13, 11, 7, 5, 3, 1)


class Burn:
    """Chains of products by a permutation matrix: after n of them the rows are where the n-th power puts them."""

    def __init__(self, parts: int, seed: int) -> None:
        self.parts = parts
        self.start = small_numbers((BURN_SIZE, BURN_SIZE), [seed, 2]) + 10 * np.arange(BURN_SIZE, dtype=np.float32)
        self.start += 1000 * np.arange(BURN_SIZE, dtype=np.float32)[:, None]
        self.matrix = np.zeros((BURN_SIZE, BURN_SIZE), np.float32)
        self.matrix[np.arange(BURN_SIZE), burn_rows(1)] = 1
        self.restart()

    def restart(self) -> None:
        """Put every chain back to its start."""
        self.states = [(self.start.copy(), np.zeros_like(self.start)) for _ in range(self.parts)]

    def run(self, part: int, products: int) -> None:
        """Run so many products of one chain."""
        now, then = self.states[part]
        for _ in range(products):
            np.matmul(self.matrix, now, out=then)
            now, then = then, now
        self.states[part] = now, then

    def wrong(self, products: int) -> str | None:
        """Say what is wrong after so many products since the restart, or return None."""
        expected = self.start[burn_rows(products)]
        for part, (now, _) in enumerate(self.states):
            if not (now == expected).all():
                return f"part {part} of the burn is not where its products lead"
        return None


def burn_rows(products: int) -> NDArray[np.int64]:
    """Return, for each row after so many products, the row it came from: cycles of prime length, turned."""
    rows = []
    first = 0
    for length in BURN_CYCLES:
        rows.append(first + (np.arange(length) + products) % length)
        first += length
    return np.concatenate(rows)


def small_numbers(shape: tuple[int, int], seed: list[int]) -> Matrix:
    """Return -1, 0 and 1: their products and sums are exact in float32 up to 16 million terms."""
    return np.random.default_rng(seed).integers(-1, 2, shape, np.int8).astype(np.float32)


def is_product(x: Matrix, weights: Matrix, out: Matrix, seed: int) -> bool:
    """Say whether out = x @ weights, by Freivalds' test in exact arithmetic.

    Both sides are multiplied by a vector of random whole numbers below 2^20; all sums stay below 2^53. A result
    that is wrong anywhere passes with a probability of about one in a million.
    """
    if not (np.isfinite(out).all() and (out == np.rint(out)).all()):
        return False
    vector = np.random.default_rng([seed, 3]).integers(1, 1 << 20, weights.shape[1]).astype(np.float64)
    rows = max((1 << 22) // weights.shape[1], 1)
    folded = np.concatenate([weights[i : i + rows] @ vector for i in range(0, len(weights), rows)])
    return bool((x.astype(np.float64) @ folded == out.astype(np.float64) @ vector).all())
