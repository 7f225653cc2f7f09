"""What rows tell of constants: factors with the priors of a sheet, their covariance, and what rows left out are off by.

Rows of one load tell of it once, however many they are. Errors are soft L1, of rows and of priors: rows that wait for
what no form knows count for less, and so does a prior that all rows speak against.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.costs.fitted import DEGREES
from simulator.costs.step import Floats

STEP, ENOUGH = 1e-3, 1e-4
# Of fits with all rows, and of those that begin there.
MOST_STEPS, STEPS_BESIDE = 30, 5
# Loads are left out one by one; of more than these, so many parts of them.
FOLDS = 12
# What a row is off by before any is seen counts as so many rows.
ROWS_BEFORE = 2.0
# Of a row's error, what others determine at least.
LEAST_SHARE = 0.05
SETTLED, MOST_ROUNDS = 1e-6, 100
# Squares over noise from which a far row counts less, by Cauchy's law.
FAR = 3.0
# Draws that are kept, and rows that are priced for them.
DRAWS, MOST_PRICED, SEED = 200, 60_000, 0
# Steps of draws, between which their spread is taken anew; their length, by which most is seen (Roberts 1997).
WALKS, WALK, OPTIMAL = 4, 10, 2.38
# Of what rows are off by, in their own spreads: a draw beyond it is none.
FARTHEST = 1e9


class Rows(NamedTuple):
    """Rows that tell of constants, of several kinds each.

    off: logarithms of what each row is forecast over what it was, [*samples, kinds, rows], NaN where it has none; of
    logarithms of factors, [*samples, constants]. noises: what rows of each kind are off by, before any is seen. errors:
    of the logarithms, before. loads: numbers, the same for rows of one load. spreads: what rows are off by that are
    left out, before any is; None: as much as the others. far: kinds of which far rows hardly
    count, by Cauchy's law, once a fit is near the others. shares: of each row within its load; None: alike.
    """

    off: Callable[[Floats], Floats]
    noises: Floats
    errors: Floats
    loads: NDArray[np.int64]
    spreads: Floats | None = None
    far: tuple[int, ...] = ()
    shares: Floats | None = None


class Told(NamedTuple):
    """What rows told of constants: logarithms of their factors, and draws of these about them, as they are known.

    held_out: what each row is off by without the rows of its load, logarithms, [kinds, rows], NaN where it has none.
    spreads: what a row is off by besides, of each kind; NaN where no row has any. loads: how many told of it.
    """

    logs: Floats
    draws: Floats
    held_out: Floats
    spreads: Floats
    loads: int


class Solved(NamedTuple):
    """Logarithms of factors, and slopes of errors there over their noise, as far as each counts.

    slopes: [kinds, rows, constants]; prior: [constants, constants].
    """

    logs: Floats
    slopes: Floats
    prior: Floats


def told(rows: Rows) -> Told:
    """Solve for the logarithms of factors, with all rows and with some left out."""
    nothing = np.zeros(len(rows.errors))
    shown = np.isfinite(rows.off(nothing))
    shares = 1 / np.bincount(rows.loads)[rows.loads] if rows.shares is None else rows.shares
    weights = shown * shares
    found = solved(rows, weights, nothing)
    held_out = np.full(shown.shape, np.nan)
    for fold in folds(rows.loads):
        without = solved(rows, np.where(fold, 0.0, weights), found.logs, STEPS_BESIDE)
        held_out[:, fold] = rows.off(without.logs)[:, fold]
    every = np.concatenate([*found.slopes, found.prior])
    known = np.einsum("krc,cd,krd->kr", found.slopes, np.linalg.inv(every.T @ every), found.slopes)
    same = rows.loads == rows.loads[:, None]
    own = held_out * np.sqrt(np.maximum(1 - known @ same, LEAST_SHARE))
    before = rows.noises if rows.spreads is None else rows.spreads
    spreads = np.array([spread_of(*kind) for kind in zip(own, weights, before, strict=True)])
    draws = drawn(rows, weights, found, np.where(np.isnan(spreads), rows.noises, spreads))
    loads = len(set(rows.loads[shown.any(0)].tolist()))
    return Told(found.logs, draws, held_out, spreads, loads)


def drawn(rows: Rows, weights: Floats, found: Solved, spreads: Floats) -> Floats:
    """Draw logarithms of factors about those that were found, as well as rows know them, [draws, constants].

    What the host takes may hide behind the device: there slopes tell less than rows do, which say that it is no more.
    So draws by slopes are drawn again by how far they leave what was found of rows, against what rows are off by. Where
    slopes tell too much a few would stand for all: none counts for more than its share (Ionides 2008), and each walks
    on from there among what rows allow.
    """
    rng, number = np.random.default_rng(SEED), int(np.clip(MOST_PRICED / len(np.unique(rows.loads)), 1000, 4000))
    slopes = found.slopes * (rows.noises / spreads)[:, None, None]
    spread = np.linalg.inv(np.einsum("krc,krd->cd", slopes, slopes) + found.prior.T @ found.prior)
    agrees = agreeing(rows, weights, found, spreads)
    normals = rng.standard_normal((number, len(spread)))
    off = normals @ np.linalg.cholesky(spread).T
    logs = agrees(off) + 0.5 * np.sum(normals**2, 1)
    counts = np.exp(logs - logs.max())
    shares = np.cumsum(np.minimum(counts, counts.mean() * np.sqrt(number)))
    at = np.searchsorted(shares / shares[-1], (np.arange(DRAWS) + rng.random()) / DRAWS)
    return walked(agrees, off[at], spread, rng)


def agreeing(rows: Rows, weights: Floats, found: Solved, spreads: Floats) -> Callable[[Floats], Floats]:
    """Return how well factors beside those that were found agree with rows and priors, the logarithm of a density."""
    here = rows.off(found.logs)
    counts = weights / np.sqrt(1 + (np.where(weights > 0, here, 0.0) / spreads[:, None]) ** 2)

    def agrees(off: Floats) -> Floats:
        # Of rows that no device is near, some draws leave what a float holds.
        with np.errstate(over="ignore", invalid="ignore"):
            left = np.where(weights > 0, rows.off(found.logs + off) - here, 0.0) / spreads[:, None]
        left = np.clip(np.nan_to_num(left, nan=FARTHEST), -FARTHEST, FARTHEST)
        size = np.sqrt(1 + left**2) - 1
        return np.asarray(-np.sum(counts * size, (1, 2)) - 0.5 * np.sum((off @ found.prior.T) ** 2, 1))

    return agrees


def walked(agrees: Callable[[Floats], Floats], off: Floats, spread: Floats, rng: np.random.Generator) -> Floats:
    """Walk on by Metropolis' rule, each draw for itself; spread: of draws before, until they have one of their own."""
    here, (number, constants) = agrees(off), off.shape
    for _ in range(WALKS):
        root = np.linalg.cholesky((spread + off.T @ off / number) / 2) * OPTIMAL / np.sqrt(constants)
        for _ in range(WALK):
            there = off + rng.standard_normal(off.shape) @ root.T
            agreed = agrees(there)
            goes = np.log(rng.random(number)) < agreed - here
            off, here = np.where(goes[:, None], there, off), np.where(goes, agreed, here)
    return off


def folds(loads: NDArray[np.int64]) -> Iterator[NDArray[np.bool_]]:
    """Yield which rows are left out together: those of a load, or of some."""
    numbers = np.unique(loads, return_inverse=True)[1]
    count = min(int(numbers.max()) + 1, FOLDS)
    for fold in range(count):
        yield numbers % count == fold


def solved(rows: Rows, weights: Floats, start: Floats, steps: int = MOST_STEPS) -> Solved:
    """Solve for the logarithms of factors, in two steps where far rows of some kinds hardly count."""
    found = settled(rows, weights, start, steps, ())
    counts = any(weights[kind].any() for kind in rows.far)
    return settled(rows, weights, found.logs, STEPS_BESIDE, rows.far) if counts else found


def settled(rows: Rows, weights: Floats, start: Floats, steps: int, far: tuple[int, ...]) -> Solved:
    """Solve for them: errors of rows over their noise, and logarithms over their own errors."""
    from scipy.optimize import least_squares

    used, over = weights > 0, rows.noises[:, None]
    last = {"at": start, "off": rows.off(start)}
    every = np.concatenate([weights[used], np.ones(len(rows.errors))])

    kinds = np.broadcast_to(np.arange(len(weights))[:, None], weights.shape)[used]
    is_far = np.concatenate([np.isin(kinds, far), np.zeros(len(rows.errors), np.bool_)])

    def residuals(logs: Floats) -> Floats:
        last.update(at=logs.copy(), off=rows.off(logs))
        return np.concatenate([(last["off"] / over)[used], logs / rows.errors])

    def loss(squares: Floats) -> Floats:
        size, left = np.sqrt(1 + squares), 1 + squares / FAR
        near = np.stack([2 * (size - 1), 1 / size, -0.5 / size**3])
        return np.asarray(every * np.where(is_far, np.stack([FAR * np.log(left), 1 / left, -1 / FAR / left**2]), near))

    def slopes_of(logs: Floats) -> Floats:
        here = last["off"] if np.array_equal(last["at"], logs) else rows.off(logs)
        there = rows.off(logs + STEP * np.eye(len(logs)))
        return np.concatenate([((there - here) / STEP / over)[:, used].T, np.diag(1 / rows.errors)])

    ends: dict[str, Any] = {"ftol": ENOUGH, "xtol": ENOUGH, "max_nfev": steps}
    found = least_squares(residuals, start, slopes_of, loss=loss, x_scale=rows.errors, **ends)
    slopes = np.zeros((*weights.shape, len(start)))
    slopes[used] = found.jac[: used.sum()]
    return Solved(np.asarray(found.x), slopes, found.jac[used.sum() :])


def spread_of(off: Floats, weights: Floats, before: float) -> float:
    """Return the spread of errors about 0 by Student's law, NaN of none; far ones hardly count."""
    if not (weights > 0).any():
        return np.nan
    squares, weights = off[weights > 0] ** 2, weights[weights > 0]
    variance = before**2
    for _ in range(MOST_ROUNDS):
        each = (DEGREES + 1) * squares / (DEGREES + squares / variance)
        last, variance = variance, (ROWS_BEFORE * before**2 + weights @ each) / (ROWS_BEFORE + weights.sum())
        if abs(variance - last) < SETTLED * last:
            break
    return float(np.sqrt(variance))
