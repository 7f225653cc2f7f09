"""Block draws against the round-after-round process they stand for, exact renewal sums, and the closed form."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from simulator.costs.step import Knobs, RoundCost
from simulator.rounds.acceptance_law import iid_laws
from simulator.rounds.analytic import closed_form
from simulator.rounds.engine import Counts, draw_blocks, draw_counts, elapsed_s, unroll

laws = st.lists(st.floats(0.01, 1), min_size=2, max_size=7).map(lambda w: np.array(w) / sum(w))


def generators(seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    return np.random.default_rng(seed), np.random.default_rng([seed, 1])


def draw(law: np.ndarray, total: int, runs: int, seed: int, hit_rate: float = 0.0) -> Counts:
    k = len(law) - 1
    rows = np.ones(runs, np.int64)
    return draw_counts(np.tile(law, (runs, 1)), k * rows, total * rows, np.full(runs, hit_rate), *generators(seed))


def expected_rounds(law: np.ndarray, total: int) -> float:
    """Renewal equation m(t) = 1 + sum_a P(a) m(t - a - 1), m(t <= 0) = 0: exact for every total."""
    m = np.zeros(total + 1)
    for t in range(1, total + 1):
        m[t] = 1 + sum(p * m[max(t - a - 1, 0)] for a, p in enumerate(law))
    return float(m[total])


def round_by_round(law: np.ndarray, total: int, runs: int, seed: int) -> np.ndarray:
    """The process itself: draw A, commit A + 1, until the budget is spent; returns rounds of each run."""
    accepted = np.random.default_rng(seed).choice(len(law), (runs, total), p=law)
    return 1 + (np.cumsum(1 + accepted, axis=1) < total).sum(axis=1)


@given(laws, st.integers(1, 500), st.integers(0, 2**32))
def test_every_run_commits_its_total_exactly(law: np.ndarray, total: int, seed: int) -> None:
    counts = draw(law, total, 5, seed)
    k = len(law) - 1
    assert (counts.rounds + counts.accepted - counts.cut == total).all()
    assert ((counts.cut >= 0) & (counts.cut <= k)).all()
    assert ((counts.rounds >= -(-total // (k + 1))) & (counts.rounds <= total)).all()
    assert (counts.hits == 0).all()


@pytest.mark.statistical
def test_mean_rounds_match_the_renewal_equation() -> None:
    law, runs = iid_laws(0.7, 4, 5), 40_000
    for total in (1, 2, 7, 40, 300):
        rounds = draw(law, total, runs, seed=1).rounds
        error = rounds.std(ddof=1) / np.sqrt(runs)
        assert abs(rounds.mean() - expected_rounds(law, total)) <= 4 * error + 1e-12


@pytest.mark.statistical
def test_rounds_are_distributed_as_drawing_one_after_another() -> None:
    law, runs = np.array([0.3, 0.1, 0.2, 0.4]), 4000
    blocks, single = draw(law, 60, runs, seed=2).rounds, round_by_round(law, 60, runs, seed=3)
    assert stats.ks_2samp(blocks, single).pvalue > 1e-4
    # Negative control: a law that differs by 0.05 in one bucket is told apart at the same size.
    other = round_by_round(np.array([0.35, 0.1, 0.2, 0.35]), 60, runs, seed=4)
    assert stats.ks_2samp(blocks, other).pvalue < 1e-4


BASE = Knobs(work_flops=0.05, work_mem=1.0, flop_scale_s=1.0, mem_scale_s=1.0, draft_cost=0.1, round_overhead_s=0.07)


def standard_errors_off(alpha: float, k: int, c: float, overlap: bool, stated: float) -> float:
    """Simulate and return how many standard errors the mean time is from the closed form at the stated alpha."""
    runs, total = 64, 200_000
    cost = replace(BASE, draft_cost=c).round_cost(k)
    rates = alpha if overlap else 0.0
    times_s = elapsed_s(cost, draw(iid_laws(alpha, k, k + 1), total, runs, seed=k, hit_rate=rates)) / total
    form = closed_form(cost, iid_laws(stated, k, k + 1), stated, overlap=overlap)
    # The last round is cut: at most one round too many, which is known exactly and not noise.
    edge_s = float(cost.after_miss_s) / total
    off_s = abs(times_s.mean() - float(form.round_s / form.tokens_per_round)) - edge_s
    return max(off_s, 0) / max(times_s.std(ddof=1) / np.sqrt(runs), 1e-15)


@pytest.mark.statistical
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("k", [1, 2, 4, 8, 16])
def test_closed_form_within_four_standard_errors(k: int, overlap: bool) -> None:
    for alpha, c in product((0.0, 0.2, 0.5, 0.8, 0.95, 1.0), (0.02, 0.1, 0.5)):
        assert standard_errors_off(alpha, k, c, overlap, stated=alpha) <= 4
    # Negative control: the closed form of another alpha is told apart.
    assert standard_errors_off(0.8, k, 0.1, overlap, stated=0.79) > 4


def test_alpha_one_and_zero_are_exact() -> None:
    assert draw(iid_laws(1.0, 4, 5), 500, 1, seed=0).rounds == [100]
    assert draw(iid_laws(1.0, 4, 5), 501, 1, seed=0).cut == [4]
    assert draw(iid_laws(0.0, 4, 5), 500, 1, seed=0).rounds == [500]
    # Every round is full and every guess right: all rounds but the last find their draft made.
    for total in (1, 5, 6, 500, 501):
        counts = draw(iid_laws(1.0, 4, 5), total, 3, seed=0, hit_rate=1.0)
        assert (counts.hits == counts.rounds - 1).all()


def test_elapsed_time_is_the_walk_from_verification_to_verification() -> None:
    seconds = {"baseline_s": 1.0, "draft_step_s": 0.5, "draft_s": 1.5, "verify_s": 1.25, "overhead_s": 0.25}
    cost = RoundCost(draft_length=np.array(3), **{name: np.array(value) for name, value in seconds.items()})
    counts = Counts(rounds=np.array([5]), accepted=np.array([9]), hits=np.array([2]), cut=np.array([0]))
    walk = 1.5 + 1.5 + (1.5 + 1.5) + (1.5 + 1.5) + 2.0 + 2.0
    assert elapsed_s(cost, counts) == pytest.approx([walk])


def test_runs_of_different_lengths_and_laws_do_not_mix() -> None:
    widths = np.zeros((3, 9))
    widths[0, :2], widths[1, :9], widths[2, :5] = [0, 1], np.eye(9)[0], np.eye(5)[4]
    counts = draw_counts(widths, np.array([1, 8, 4]), np.array([10, 20, 100]), np.zeros(3), *generators(0))
    assert counts.rounds.tolist() == [5, 20, 20]


@given(laws, st.integers(1, 400), st.floats(0, 1), st.integers(0, 2**32))
def test_unrolled_rounds_have_the_counts_that_were_drawn(law: np.ndarray, total: int, rate: float, seed: int) -> None:
    k = len(law) - 1
    arguments = (law[None], np.array([k]), np.array([total]), np.array([rate]))
    counts = draw_counts(*arguments, *generators(seed))
    rounds = list(unroll(draw_blocks(*arguments, *generators(seed)), k, np.random.default_rng(seed + 1)))
    assert len(rounds) == counts.rounds[0]
    assert sum(a for a, _ in rounds) == counts.accepted[0]
    assert sum(hit for _, hit in rounds) == counts.hits[0]
    assert all(a == k for a, hit in rounds if hit)
    assert not rounds[-1][1]
    # Only the last round may cross the budget.
    assert sum(a + 1 for a, _ in rounds[:-1]) < total


@pytest.mark.statistical
def test_unrolled_order_is_uniform_over_positions() -> None:
    law, k, total, runs = np.array([0.5, 0.0, 0.5]), 2, 31, 5_000
    first = []
    for seed in range(runs):
        blocks = draw_blocks(law[None], np.array([k]), np.array([total]), np.zeros(1), *generators(seed))
        first.append(next(iter(unroll(blocks, k, np.random.default_rng(seed + runs))))[0] == 2)
    assert abs(np.mean(first) - 0.5) <= 4 * 0.5 / np.sqrt(runs)


def test_in_a_block_that_ends_its_run_the_last_round_does_not_hit() -> None:
    # Three full rounds of K = 1 make six tokens in one block; both rounds before the last find their draft made.
    law = np.array([[0.0, 1.0]])
    for seed in range(8):
        blocks = draw_blocks(law, np.array([1]), np.array([6]), np.ones(1), *generators(seed))
        assert [hit for _, hit in unroll(blocks, 1, np.random.default_rng(seed))] == [True, True, False]
