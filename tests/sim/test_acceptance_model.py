"""Draws of the mean acceptance: their law, what draft lengths share, and what few rounds leave open."""

import numpy as np
import pytest

from simulator.ground.histogram import AcceptanceHistogram, tokens_per_round_iid
from simulator.rounds.acceptance_law import EquivalentAcceptance, HistogramAcceptance, IidAcceptance

COUNTS = (28.0, 20, 10, 8, 34)
DRAWS = 20_000
LENGTHS = np.arange(1, 5)


def drawn(model: HistogramAcceptance | EquivalentAcceptance | IidAcceptance, lengths=LENGTHS) -> np.ndarray:
    return model.sample_tokens_per_round(lengths, np.random.default_rng(3), DRAWS)


def off(found: np.ndarray, counts: tuple[float, ...]) -> float:
    """The largest deviation of means and covariances of the draws from a Dirichlet law, in standard errors."""
    weights = np.random.default_rng(4).dirichlet(counts, DRAWS)
    direct = 1 + weights @ np.minimum(np.arange(len(counts))[:, None], LENGTHS)
    means = (found.mean(0) - direct.mean(0)) / np.sqrt((found.var(0) + direct.var(0)) / DRAWS)
    covariance = np.cov(direct.T)
    errors = np.sqrt(2 * (np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / DRAWS)
    return float(max(np.abs(means).max(), np.abs((np.cov(found.T) - covariance) / errors).max()))


@pytest.mark.statistical
def test_one_histogram_is_drawn_from_the_bayesian_bootstrap_and_cut_to_all_lengths() -> None:
    found = drawn(HistogramAcceptance((AcceptanceHistogram(COUNTS),)))
    assert off(found, COUNTS) < 4.5
    assert off(found, tuple(1.2 * c for c in COUNTS)) > 4.5
    # Rounds that are alike count as fewer.
    found = drawn(HistogramAcceptance((AcceptanceHistogram(COUNTS, design_effect=5.0),)))
    assert off(found, tuple(c / 5 for c in COUNTS)) < 4.5


def test_histograms_of_one_text_share_their_draws_position_by_position() -> None:
    # The same rounds, written once for each draft length, are one histogram.
    whole = AcceptanceHistogram(COUNTS)
    parts = HistogramAcceptance(tuple(whole.cut(k) for k in (1, 2, 3, 4)))
    assert drawn(parts) == pytest.approx(drawn(HistogramAcceptance((whole,))))


def test_a_bucket_without_rounds_stays_empty() -> None:
    found = drawn(HistogramAcceptance((AcceptanceHistogram((0, 5, 0, 5, 0)),)))
    assert (found[:, 0] == 2).all()
    assert (found[:, 2] == found[:, 3]).all()
    assert found[:, 2].std() > 0.1


def test_few_rounds_leave_more_open_than_many() -> None:
    few, many = (AcceptanceHistogram(tuple(n * c for c in COUNTS)) for n in (0.02, 1))
    assert (drawn(HistogramAcceptance((few,))).std(0) > 4 * drawn(HistogramAcceptance((many,))).std(0)).all()
    # A given acceptance is certain.
    assert (drawn(IidAcceptance(0.7)) == tokens_per_round_iid(0.7, LENGTHS)).all()


def test_the_equivalent_of_one_alpha_is_drawn_as_what_it_is_the_equivalent_of() -> None:
    measured = HistogramAcceptance((AcceptanceHistogram(COUNTS),))
    lengths = np.arange(1, 8)
    found = drawn(EquivalentAcceptance(measured), lengths)
    assert found[:, :4] == pytest.approx(drawn(measured))
    # Beyond the histogram with the alpha of its longest length.
    middle = EquivalentAcceptance(measured).law(7) @ np.arange(8) + 1
    assert found[:, 6].mean() == pytest.approx(middle, rel=0.02)
    assert np.corrcoef(found[:, 3], found[:, 6])[0, 1] > 0.98
