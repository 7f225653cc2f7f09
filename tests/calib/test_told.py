"""Draws of constants about what was fitted are of the law that rows and priors make, wherever slopes tell too much."""

import numpy as np
import pytest

from calibration.fit.told import DRAWS, Rows, Solved, agreeing, drawn

NOISE = 0.05
# What rows are off by at constants: the second hides behind the first, as the host does behind the device.
LOADS = np.linspace(0.2, 1.0, 8)


def off(logs: np.ndarray) -> np.ndarray:
    first, second = np.exp(logs[..., :1]), np.exp(logs[..., 1:])
    times = np.cbrt((LOADS * first) ** 3 + (0.3 * second) ** 3)
    return np.asarray(np.log(times / np.cbrt(LOADS**3 + 0.3**3)))[..., None, :]


def by_grid(rows: Rows, weights: np.ndarray, found: Solved, spreads: np.ndarray) -> np.ndarray:
    """Standard deviations and the correlation of the law, from its density on a grid."""
    axis = np.linspace(-4, 4, 401)
    points = np.stack(np.meshgrid(axis / 4, axis, indexing="ij"), -1).reshape(-1, 2)
    shares = np.exp(agreeing(rows, weights, found, spreads)(points))
    moments = (points * (shares / shares.sum())[:, None]).T @ points
    return np.asarray(moments)


@pytest.mark.parametrize("exaggerated", [1.0, 8.0])
def test_draws_are_of_the_law_that_rows_make(exaggerated: float) -> None:
    """And no draw stands for many, though slopes say that the rows tell eight times as much as they do."""
    errors = np.array([0.3, 1.0])
    rows = Rows(off, np.array([NOISE]), errors, np.arange(len(LOADS)))
    steps = 1e-4 * np.eye(2)
    slopes = np.stack([(off(step) - off(np.zeros(2)))[0] / 1e-4 for step in steps], -1)[None] / NOISE
    found = Solved(np.zeros(2), exaggerated * slopes, np.diag(1 / errors))
    weights, spreads = np.ones((1, len(LOADS))), np.array([NOISE])
    draws = drawn(rows, weights, found, spreads)
    law = by_grid(rows, weights, found, spreads)
    assert draws.shape == (DRAWS, 2)
    assert len(np.unique(draws[:, 0])) > 0.9 * DRAWS
    moments = draws.T @ draws / DRAWS
    # Of two hundred draws a variance is known to a tenth, by sqrt(2 / 200): three of these, and tails besides.
    assert np.diag(moments) == pytest.approx(np.diag(law), rel=0.4)
    by_law, by_draws = (m[0, 1] / np.sqrt(m[0, 0] * m[1, 1]) for m in (law, moments))
    assert by_draws == pytest.approx(by_law, abs=0.2)
    # Slopes alone would say too little is open.
    alone = np.linalg.inv(np.einsum("krc,krd->cd", found.slopes, found.slopes) + np.diag(1 / errors**2))
    assert (alone[1, 1] < 0.3 * law[1, 1]) == (exaggerated > 1)
