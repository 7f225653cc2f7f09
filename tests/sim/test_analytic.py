"""Closed forms against enumeration of all outcomes of a round and the textbook; draws of the mean acceptance."""

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from simulator.costs.step import Knobs
from simulator.ground.histogram import AcceptanceHistogram, tokens_per_round_iid
from simulator.rounds import acceptance_law
from simulator.rounds.acceptance_law import (
    EquivalentAcceptance,
    HistogramAcceptance,
    IidAcceptance,
    drawn_survival,
    iid_laws,
)
from simulator.rounds.analytic import LONG_RUN, break_even_alpha, closed_form, run_speedup, speedup_by_draft_length


def knobs(draft_cost: float = 0.1, round_overhead_s: float = 0.0, work_flops: float = 0.0) -> Knobs:
    values = {"draft_cost": draft_cost, "round_overhead_s": round_overhead_s, "work_flops": work_flops}
    return Knobs(work_mem=1.0, flop_scale_s=1.0, mem_scale_s=1.0, **values)


@given(st.floats(0, 1), st.integers(1, 6))
def test_iid_law_is_the_enumeration_of_all_accept_and_reject_patterns(alpha: float, k: int) -> None:
    expected = np.zeros(k + 1)
    for pattern in product([True, False], repeat=k):
        run = next((i for i, accepted in enumerate(pattern) if not accepted), k)
        expected[run] += np.prod([alpha if accepted else 1 - alpha for accepted in pattern])
    assert IidAcceptance(alpha).law(k) == pytest.approx(expected)


@given(st.floats(0, 0.999), st.integers(1, 16), st.floats(0.01, 1))
@example(0.0, 5, 0.1)
def test_memory_bound_speedup_is_leviathans(alpha: float, k: int, c: float) -> None:
    form = closed_form(knobs(c).round_cost(k), iid_laws(alpha, k, k + 1))
    assert form.speedup == pytest.approx((1 - alpha ** (k + 1)) / ((1 - alpha) * (k * c + 1)))


@given(st.integers(1, 12), st.floats(0.01, 0.6), st.floats(0, 0.4), st.booleans())
def test_at_the_break_even_alpha_nothing_is_gained(k: int, c: float, overhead_s: float, overlap: bool) -> None:
    settings = knobs(c, overhead_s)
    alpha = break_even_alpha(settings, k, overlap=overlap)
    cost = settings.round_cost(k)
    if alpha is None:
        assert closed_form(cost, iid_laws(1.0, k, k + 1), 1.0, overlap=overlap).speedup < 1
    else:
        form = closed_form(cost, iid_laws(alpha, k, k + 1), alpha, overlap=overlap)
        assert form.speedup == pytest.approx(1, abs=1e-9)


@given(st.floats(0.05, 0.95), st.floats(0.01, 0.5))
def test_the_best_draft_length_beats_every_other(alpha: float, c: float) -> None:
    lengths = np.arange(1, 17)
    gains = speedup_by_draft_length(knobs(c, work_flops=0.1), IidAcceptance(alpha), lengths, overlap=False)
    for k, gain in zip(lengths, gains, strict=True):
        verify = max(1.0, 0.1 * (k + 1))
        assert gain == pytest.approx(sum(alpha**i for i in range(k + 1)) / (k * c + verify))
    # A histogram is cut for shorter drafts.
    histogram = AcceptanceHistogram((2, 1, 1, 6))
    gains = speedup_by_draft_length(knobs(0.1), HistogramAcceptance((histogram,)), np.array([1, 2, 3]), overlap=False)
    assert gains == pytest.approx([1.8 / 1.1, 2.5 / 1.2, 3.1 / 1.3])


@given(st.floats(0, 1), st.integers(1, 8), st.floats(0.01, 1))
def test_overlap_never_loses_and_without_hits_changes_nothing(alpha: float, k: int, c: float) -> None:
    cost, law = knobs(c).round_cost(k), iid_laws(alpha, k, k + 1)
    plain = closed_form(cost, law).speedup
    assert closed_form(cost, law, 0.0, overlap=True).speedup == pytest.approx(plain)
    # Guessing the bonus token costs one more draft step than drafting after it, so a hit may save nothing.
    if (k + 1) * c <= 1 + k * c:
        assert closed_form(cost, law, alpha, overlap=True).speedup >= plain * (1 - 1e-12)


@pytest.mark.parametrize("total", [1, 5, 6, 999, LONG_RUN + 3, 10**7 + 1])
def test_a_run_of_which_every_draft_or_none_is_accepted_by_hand(total: int) -> None:
    cost = knobs(0.1, 0.05).round_cost(4)
    rounds, round_s = -(-total // 5), 1.0 + 4 * 0.1 + 0.05
    assert run_speedup(cost, iid_laws(1.0, 4, 5), 1.0, total) == pytest.approx(total / (rounds * round_s))
    assert run_speedup(cost, iid_laws(0.0, 4, 5), 0.0, total) == pytest.approx(1 / round_s)
    # With every guess right each round but the last saves its successor's draft.
    saved_s = float(cost.after_miss_s - cost.after_hit_s)
    expected = total / (rounds * round_s - (rounds - 1) * saved_s)
    assert run_speedup(cost, iid_laws(1.0, 4, 5), 1.0, total, overlap=True) == pytest.approx(expected)


def test_each_draft_length_takes_the_nearest_histogram_that_covers_it() -> None:
    model = HistogramAcceptance((AcceptanceHistogram((1, 3)), AcceptanceHistogram((2, 1, 1, 6))))
    assert model.longest == 3
    assert model.law(1) == pytest.approx([0.25, 0.75])
    assert model.law(2) == pytest.approx([0.2, 0.1, 0.7])
    assert model.law(3) == pytest.approx([0.2, 0.1, 0.1, 0.6])
    # The bonus token's guess is one position further: from the longer file, and at its end from its last position.
    assert [model.bonus_guess_rate(k) for k in (1, 2, 3)] == pytest.approx([7 / 8, 6 / 7, 6 / 7])


COUNTS = (28.0, 20, 10, 8, 34)
DRAWS = 20_000
LENGTHS = np.arange(1, 5)


def drawn(model: HistogramAcceptance | EquivalentAcceptance | IidAcceptance, lengths=LENGTHS) -> np.ndarray:
    return model.sample_tokens_per_round(lengths, np.random.default_rng(3), DRAWS)


def moments(counts: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """E[S] and E[S^2] of survival rates S whose conditional rates are independent betas, half a round added to each."""
    stay, stop = np.cumsum(counts[::-1])[::-1][1:] + 0.5, np.array(counts[:-1]) + 0.5
    mean = stay / (stay + stop)
    square = mean * (stay + 1) / (stay + stop + 1)
    return np.cumprod(mean), np.cumprod(square)


def off(found: np.ndarray, counts: tuple[float, ...]) -> float:
    """How many standard errors means of survival and of its square are off at most."""
    survival = np.diff(found, prepend=1.0)
    pairs = zip((survival, survival**2), moments(counts), strict=True)
    return max(np.abs((x.mean(0) - m) / (x.std(0) / np.sqrt(len(x)))).max() for x, m in pairs)


@pytest.mark.statistical
def test_conditional_rates_are_drawn_from_betas_and_cut_to_all_lengths() -> None:
    found = drawn(HistogramAcceptance((AcceptanceHistogram(COUNTS),)))
    assert off(found, COUNTS) < 4.5
    assert off(found, tuple(1.2 * c for c in COUNTS)) > 4.5
    # Rounds that are alike count as fewer.
    found = drawn(HistogramAcceptance((AcceptanceHistogram(COUNTS, design_effect=5.0),)))
    assert off(found, tuple(c / 5 for c in COUNTS)) < 4.5
    # Probabilities are of nobody knows how many rounds.
    law = AcceptanceHistogram(COUNTS, is_law=True)
    assert np.ptp(drawn(HistogramAcceptance((law,))), axis=0) == pytest.approx(0)


def test_histograms_of_one_text_share_their_draws_position_by_position() -> None:
    # The same rounds, written once for each draft length, are one histogram.
    whole = AcceptanceHistogram(COUNTS)
    parts = HistogramAcceptance(tuple(whole.cut(k) for k in (1, 2, 3, 4)))
    assert drawn(parts) == pytest.approx(drawn(HistogramAcceptance((whole,))))


def test_a_histogram_is_drawn_once_for_all_draft_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def counted(*given: object) -> np.ndarray:
        seen.append(given)
        return drawn_survival(*given)

    monkeypatch.setattr(acceptance_law, "drawn_survival", counted)
    drawn(HistogramAcceptance((AcceptanceHistogram(COUNTS), AcceptanceHistogram(COUNTS[:3]))))
    assert len(seen) == 2


def test_three_rounds_are_no_certainty() -> None:
    found = drawn(HistogramAcceptance((AcceptanceHistogram((0, 0, 0, 0, 3)),)))
    low, high = np.quantile(found[:, 3], (0.025, 0.975))
    assert low < 3 < 4.8 < high <= 5


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
