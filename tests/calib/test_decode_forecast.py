"""Forecasts of real decoding: right where the truth is known, off by what costs are off, brute force beside them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acceptance.trace.trace import PromptInfo, Trace
from calibration.fit.from_decode import fit_pair, pair_profile
from calibration.sources.decode import DecodeLog, load_decode
from calibration.validate.decode import BOUNDS, ablation, forecast_rows, own_acceptance, pair_costs
from calibration.validate.row_report import ablation_text, rows_text, verdict_text
from calibration.validate.rows import Row, Validation, judge
from calibration.validate.walk import walk
from simulator.costs.timed_pair import DecodedPair
from simulator.ground.histogram import AcceptanceHistogram
from simulator.rounds.acceptance_law import AcceptanceModel, HistogramAcceptance, IidAcceptance, iid_laws

from .made_decode import ALPHA, Truth, draw_rounds, write_decode


def logged(folder: Path, *, fitted=(1, 4, 8), **made: Any) -> tuple[DecodeLog, DecodedPair]:
    """Make a run; return it as it is read, and the costs that are fitted to some of its draft lengths."""
    log = load_decode(write_decode(folder / "d.jsonl", **made))
    return log, pair_costs(pair_profile("x", log, fit_pair(log, fitted)))


def forecast(log: DecodeLog, costs: DecodedPair, acceptance: AcceptanceModel | None = None, fitted=()) -> list[Row]:
    acceptance = own_acceptance(log) if acceptance is None else acceptance
    return forecast_rows(log, costs, acceptance, fitted, np.random.default_rng(0))


@pytest.mark.statistical
@pytest.mark.parametrize(("k", "tokens"), [(1, 7), (4, 24), (8, 24), (8, 3), (5, 64)])
def test_the_walk_through_an_output_is_what_decoding_shows(k: int, tokens: int) -> None:
    rng, runs = np.random.default_rng([k, tokens]), 3000
    drawn = [draw_rounds(k, tokens, ALPHA, rng) for _ in range(runs)]
    counts = np.array([np.bincount([r.drafted for r in rounds], minlength=k + 1) for rounds in drawn])
    found = walk(iid_laws(ALPHA, k, k + 1), [tokens], tokens, 1)
    errors = counts.std(0) / np.sqrt(runs) + 1e-9
    assert np.all(np.abs(found.rounds - counts.mean(0)) <= 4 * errors)
    assert found.tokens_per_round == pytest.approx(tokens * runs / counts.sum(), rel=0.03)
    assert found.stretch == pytest.approx(1)
    # The negative control: another acceptance is told apart.
    other = walk(iid_laws(ALPHA - 0.1, k, k + 1), [tokens], tokens, 1).rounds
    assert np.any(np.abs(other - counts.mean(0)) > 4 * errors)


@pytest.mark.statistical
def test_a_batch_goes_on_until_its_slowest_row_ends() -> None:
    rng = np.random.default_rng(3)
    steps = [max(len(draw_rounds(4, 40, ALPHA, rng)) for _ in range(8)) for _ in range(1500)]
    found = walk(iid_laws(ALPHA, 4, 5), [40], 40, 8)
    expected = float(found.rounds.sum()) * found.stretch
    assert expected == pytest.approx(np.mean(steps), abs=4 * np.std(steps) / np.sqrt(len(steps)))
    assert found.stretch > 1.1


@given(
    counts=st.lists(st.integers(0, 9), min_size=2, max_size=7).filter(lambda c: sum(c) > 0),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    batch=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_a_walk_commits_every_token_once(counts: list[int], lengths: list[int], batch: int) -> None:
    law = np.array(counts) / sum(counts)
    found = walk(law, lengths, 30, batch)
    assert found.tokens == sum(lengths)
    assert len(found.rounds) == len(law)
    assert sum(-(-n // len(law)) for n in lengths) <= found.rounds.sum() * (1 + 1e-9)
    assert found.rounds.sum() <= sum(lengths) * (1 + 1e-9)
    assert found.stretch >= 1 - 1e-9
    apart = sum(walk(law, [n], 30, batch).rounds for n in lengths)
    assert found.rounds == pytest.approx(apart)


def test_walks_by_hand() -> None:
    # An output that ends by itself drafts as if there were more.
    law = iid_laws(0.5, 4, 5)
    assert walk(law, [10], 30, 1).rounds[:4].sum() == 0
    assert walk(law, [10], 10, 1).rounds[:4].sum() > 0
    # Never accepted: a token a round; the last rounds draft 3, 2, 1 and nothing.
    assert walk(np.eye(5)[0], [10], 10, 1).rounds.tolist() == [1, 1, 1, 1, 6]
    # Always: 5, 5.
    assert walk(np.eye(5)[4], [10], 10, 1).rounds.tolist() == [0, 0, 0, 0, 2]


def test_without_noise_rows_are_forecast_as_measured(tmp_path: Path) -> None:
    # Rounds are drawn: the slowest row of a batch varies most.
    for tokens, batch, prompts, bound in ((64, 1, 96, 0.015), (24, 1, 96, 0.04), (64, 8, 200, 0.03)):
        rows = forecast(*logged(tmp_path, prompts=prompts, tokens=tokens, batch=batch), fitted=(1, 4, 8))
        assert [r.draft_length for r in rows] == list(range(1, 9))
        assert [r.fitted for r in rows] == [k in (1, 4, 8) for k in range(1, 9)]
        assert max(abs(r.error) for r in rows) < bound, (tokens, batch)
        for r in rows:
            assert r.tokens_per_round == pytest.approx(r.measured_tokens_per_round, rel=0.03)
            assert r.forecast_ci95[0] < r.forecast < r.forecast_ci95[1]
            assert r.forecast_ci95[1] / r.forecast_ci95[0] < 1.2


@pytest.mark.statistical
def test_intervals_of_forecasts_cover_the_truth(tmp_path: Path) -> None:
    true = walk(iid_laws(ALPHA, 3, 4), [64], 64, 1)
    truth = Truth()
    round_s = np.array([truth.target_s(d + 1) + truth.draft_s(d) + truth.rest_s for d in range(4)])
    gain = 64 * (truth.target_s(1) + truth.plain_rest_s) / float(true.rounds @ round_s)
    covered = 0
    for seed in range(15):
        log, costs = logged(tmp_path, noise=0.03, prompts=16, seed=seed, lengths=(1, 3, 8), fitted=(1, 8))
        rows = forecast(log, costs)
        covered += rows[1].forecast_ci95[0] <= gain <= rows[1].forecast_ci95[1]
    assert covered >= 0.8 * 15


def test_wrong_costs_are_off_by_what_the_formula_says(tmp_path: Path) -> None:
    log, costs = logged(tmp_path, prompts=20)
    right, slow = (forecast(log, own) for own in (costs, replace(costs, baseline_factor=1.25)))
    for before, after in zip(right, slow, strict=True):
        assert after.forecast == pytest.approx(1.25 * before.forecast)
        assert after.error == pytest.approx(1.25 * before.forecast / before.measured - 1)
    assert not judge(slow).holds(BOUNDS)


def row(k: int, forecast: float, measured: float, *, fitted: bool = False, target: str = "t") -> Row:
    given = {"target": target, "draft_length": k, "fitted": fitted, "forecast": forecast, "measured": measured}
    tokens = {"tokens_per_round": 1.0, "measured_tokens_per_round": 1.0}
    return Row(**given, **tokens, forecast_ci95=(forecast, forecast), measured_ci95=None)


def test_the_verdict_by_hand() -> None:
    rows = [row(1, 1.5, 1.0, fitted=True), row(2, 1.02, 1.0), row(3, 2.1, 2.0), row(4, 1.9, 2.0), row(5, 0.99, 1.0)]
    found = judge(rows)
    assert found.rows == 4
    assert (found.median, found.p90, found.largest) == pytest.approx(((0.02 + 0.05) / 2, 0.05, 0.05))
    assert found.best_k_loss == 0
    whole = Validation(rows=tuple(rows), bounds=BOUNDS)
    assert "median error 3.50% (bound 5%), 90th percentile 5.00% (bound 10%), largest 5.00%\n" in verdict_text(whole)
    assert "90th percentile 5.00%, largest 5.00% (bound 2.5%)\n" in verdict_text(whole, 0.025)
    assert found.holds(BOUNDS)
    assert found.holds(BOUNDS, 0.05 + 1e-9)
    assert not found.holds(BOUNDS, 0.049)
    assert judge([*rows, row(2, 3.0, 0.9, target="u"), row(3, 2.0, 1.0, target="u")]).best_k_loss == pytest.approx(0.1)
    assert not judge([row(2, 1.06, 1.0)]).holds(BOUNDS)
    assert not judge([row(k, 1.0 + (k > 8) * 0.2, 1.0) for k in range(1, 11)]).holds(BOUNDS)
    # Where everything was fitted nothing is claimed.
    found = judge(rows[:1])
    assert (found.rows, found.median, found.p90, found.largest) == (0, None, None, None)
    assert not found.holds(BOUNDS, 1.0)
    whole = Validation(rows=tuple(rows[:1]), bounds=BOUNDS)
    assert "every row was fitted: nothing was forecast" in verdict_text(whole)
    assert "1  fit " in rows_text(rows[:1])


def made_trace(accept: np.ndarray, outputs: int) -> Trace:
    """A trace of outputs that all have these acceptances."""
    size, length = outputs * len(accept), len(accept)
    every, place = np.tile(accept, outputs), np.tile(np.arange(length, dtype=np.int32), outputs)
    columns = dict.fromkeys(("token", "rank_p", "rank_q", "turn"), np.zeros(size, np.int32))
    shares = ("log_p", "max_q", "entropy_p", "entropy_q", "overlap", "p_argmax_q")
    columns |= dict.fromkeys(shares, np.ones(size, np.float32)) | {"position": place, "context_length": place}
    columns |= {"accept_sampled": every.astype(np.float32), "accept_greedy": every.astype(bool)}
    columns["prompt"] = np.repeat(np.arange(outputs), length).astype(np.int32)
    return Trace(**columns, prompts=tuple(PromptInfo(source=f"p{i}") for i in range(outputs)))


def test_one_alpha_overstates_long_drafts_and_the_walk_is_right(tmp_path: Path) -> None:
    # Long easy stretches and long hard ones: acceptances come in runs, as in real text.
    rng = np.random.default_rng(5)
    easy = np.repeat(rng.random(120) < 0.5, 25)
    accept = np.where(easy, rng.random(len(easy)) < 0.95, rng.random(len(easy)) < 0.25)
    log, costs = logged(tmp_path, prompts=4, tokens=len(accept))
    # What decoding this text measures at each draft length: rounds counted one by one.
    walked, arms = {}, []
    for arm in log.arms:
        k, at, rounds = arm.draft_length, 0, 0
        while at < len(accept):
            misses = np.flatnonzero(~accept[at : at + k])
            at += (int(misses[0]) if len(misses) else k) + 1
            rounds += 1
        walked[k], cost = len(accept) / rounds, costs.round_cost(k)
        arms.append(replace(arm, speedup=walked[k] * float(cost.baseline_s / cost.after_miss_s)))
    found = ablation(made_trace(accept, 3), "greedy", replace(log, arms=tuple(arms)), costs, (1, 4))
    assert list(found) == ["one alpha", "per position", "histogram", "trace"]
    assert all(sorted(own) == [2, 3, 5, 6, 7, 8] for own in found.values())
    assert max(abs(e) for e in found["trace"].values()) < 0.01
    assert max(abs(e) for e in found["histogram"].values()) < 0.01
    # One alpha over all positions: the easy ones are many, but take few rounds.
    assert found["one alpha"][8] > 0.03
    expected = np.mean(accept)
    tau = (1 - expected**9) / (1 - expected)
    assert found["one alpha"][8] == pytest.approx(tau / walked[8] - 1, abs=0.01)
    # The rates of the longest draft cut to shorter ones: right at K = 8 alone, off below.
    assert abs(found["per position"][8]) < 0.01
    assert abs(found["per position"][2]) > abs(found["histogram"][2])
    assert "one alpha" in ablation_text([found])


def test_acceptance_that_is_given_has_no_error_of_its_own(tmp_path: Path) -> None:
    log, costs = logged(tmp_path, prompts=4)
    verify = replace(costs.decoding.verify, uncertain=())
    decoding = replace(costs.decoding, baseline_error=0.0, draft_step_error=0.0, verify=verify)
    sure = replace(costs, decoding=decoding, round_overhead_error=0.0)
    for r in forecast(log, sure, IidAcceptance(ALPHA)):
        assert r.forecast_ci95 == pytest.approx((r.forecast, r.forecast))
    rare = HistogramAcceptance((AcceptanceHistogram((3.0, 1, 1, 1, 1, 1, 1, 1, 4)),))
    for r in forecast(log, sure, rare):
        assert r.forecast_ci95[0] < 0.99 * r.forecast
