"""Costs of a pair from records of decoding whose truth is known, forecasts from them, and brute force beside them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acceptance.results.validate import problems
from acceptance.trace.trace import PromptInfo, Trace
from calibration.fit.from_decode import check_pair, draft_line, fit_pair, has_steps, pair_profile
from calibration.sources.decode import ArmTimes, DecodeLog, load_decode
from calibration.sources.timed import Timed
from calibration.validate.decode import BOUNDS, ablation, forecast_rows, own_acceptance, pair_costs
from calibration.validate.row_report import ablation_text, rows_text, validation_text, verdict_text
from calibration.validate.rows import Row, Validation, judge
from calibration.validate.walk import walk
from simulator.costs.timed_pair import DecodedPair
from simulator.ground.histogram import AcceptanceHistogram
from simulator.rounds.acceptance_law import AcceptanceModel, HistogramAcceptance, IidAcceptance, iid_laws

from .made_decode import ALPHA, Truth, draw_rounds, write_decode

TRUTH = Truth()


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
    round_s = np.array([TRUTH.target_s(d + 1) + TRUTH.draft_s(d) + TRUTH.rest_s for d in range(4)])
    gain = 64 * (TRUTH.target_s(1) + TRUTH.plain_rest_s) / float(true.rounds @ round_s)
    covered = 0
    for seed in range(15):
        log, costs = logged(tmp_path, noise=0.03, prompts=16, seed=seed, lengths=(1, 3, 8), fitted=(1, 8))
        rows = forecast(log, costs)
        covered += rows[1].forecast_ci95[0] <= gain <= rows[1].forecast_ci95[1]
    assert covered >= 0.8 * 15


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
    assert "median error 3.50% (bound 5%), 90th percentile 5.00% (bound 10%), largest 5.00%" in verdict_text(whole)[0]
    assert "90th percentile 5.00%, largest 5.00% (bound 2.5%)" in verdict_text(whole, 0.025)[0]
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
    assert "every row was fitted, nothing was forecast" in validation_text(whole)
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


def test_a_file_of_bench_decode_says_whose_times_it_has(tmp_path: Path) -> None:
    path = write_decode(tmp_path / "d.jsonl", prompts=2, batch=2)
    assert [p for p in problems(path, strict=True) if "summary" not in p] == []
    log = load_decode(write_decode(tmp_path / "d.jsonl", prompts=3, tokens=20, lengths=(2, 5)))
    assert (log.target, log.draft, log.dtype, log.batch) == ("made-target x 4", "made-draft", "bfloat16", 1)
    assert (log.tokens, log.lengths, log.device) == (20, (20, 20, 20), "Made CPU")
    assert [a.draft_length for a in log.arms] == [2, 5]
    plain_s = TRUTH.target_s(1)
    assert log.plain_pass.seconds == pytest.approx(plain_s)
    assert log.baseline.seconds == pytest.approx(plain_s + TRUTH.plain_rest_s)
    one = write_decode(tmp_path / "one.jsonl", prompts=1, inflate_target=1.0)
    assert load_decode(one).target == "made-target"


def test_costs_without_noise_are_the_truth(tmp_path: Path) -> None:
    # Outputs so long that cut rounds hardly count.
    log = load_decode(write_decode(tmp_path / "d.jsonl", prompts=2, tokens=1000))
    found = fit_pair(log)
    assert check_pair(found).passed
    values = found.verify.cost.parameters()
    assert values["mem_scale[0]"] == pytest.approx(TRUTH.weights_s, rel=0.01)
    assert values["flop_scale[0]"] == pytest.approx(TRUTH.token_s, rel=0.05)
    assert values["overlap_exponent"] == pytest.approx(TRUTH.exponent, rel=0.05)
    assert found.draft.step_s == pytest.approx(TRUTH.draft_step_s, rel=0.01)
    assert found.overhead_s == pytest.approx(TRUTH.rest_s + TRUTH.draft_start_s, rel=0.01)


@pytest.mark.statistical
def test_noisy_costs_are_within_their_errors(tmp_path: Path) -> None:
    off = []
    plain_s, overhead_s = TRUTH.target_s(1) + TRUTH.plain_rest_s, TRUTH.rest_s + TRUTH.draft_start_s
    for seed in range(8):
        path = write_decode(tmp_path / "d.jsonl", noise=0.03, prompts=10, tokens=300, seed=seed, lengths=(1, 2, 4, 8))
        log = load_decode(path)
        profile = pair_profile("x", log, fit_pair(log))
        own = profile.decoding
        tokens = np.array([2, 5, 9])
        passes = own.verify.pass_s(tokens, 1, tokens, 0)
        true = np.array([TRUTH.target_s(int(n)) for n in tokens])
        verify_error = float(np.sqrt(own.verify.covariance[0, 0]))
        off += list(abs(passes / true - 1) / verify_error)
        off.append(abs(own.draft_step_s / TRUTH.draft_step_s - 1) / own.draft_step_error)
        off.append(abs(own.baseline_s / plain_s - 1) / own.baseline_error)
        off.append(abs(profile.round_overhead_s / overhead_s - 1) / profile.round_overhead_error)
    assert np.mean(np.array(off) <= 3) >= 0.9
    # The negative control: errors of a tenth would not do.
    assert np.mean(np.array(off) <= 3 / 10) < 0.75


def test_lengths_that_are_not_asked_for_change_nothing(tmp_path: Path) -> None:
    log = load_decode(write_decode(tmp_path / "d.jsonl", noise=0.02))
    slow = Timed(seconds=1.0, error_s=0.1)
    other = replace(log, arms=tuple(replace(a, verify=slow) if a.draft_length in (3, 6) else a for a in log.arms))
    fits = [fit_pair(own, (1, 4, 8)) for own in (log, other)]
    assert fits[0].verify.cost.parameters() == fits[1].verify.cost.parameters()
    assert (fits[0].draft, fits[0].draft_lengths) == (fits[1].draft, (1, 4, 8))
    assert fit_pair(other).verify.cost.parameters() != fits[0].verify.cost.parameters()


def test_a_verification_that_takes_steps_is_as_it_was_timed(tmp_path: Path) -> None:
    """Four tokens and more take a quarter longer than any smooth cost has it, as kernels of some widths do."""
    log = load_decode(write_decode(tmp_path / "d.jsonl", prompts=4, tokens=1000, noise=0.002))
    stepped = replace(
        log,
        arms=tuple(
            replace(a, verify=Timed(seconds=a.verify.seconds * (1.25 if a.draft_length > 2 else 1.0), error_s=3e-5))
            for a in log.arms
        ),
    )
    found = fit_pair(stepped)
    assert max(abs(found.verify.residuals)) > 0.05
    assert check_pair(found).passed
    cost = pair_profile("x", stepped, found).decoding.verify
    for arm in stepped.arms:
        assert cost.pass_s(arm.drafted + 1, 1, arm.drafted + 1, 0) == pytest.approx(arm.verify.seconds, rel=1e-4)
    few = fit_pair(stepped, (1, 2, 4, 8))
    assert not has_steps(few), "what lies between is not known"
    assert not has_steps(fit_pair(log)), "noise is no step"


def test_a_batch_counts_the_steps_of_its_slowest_row(tmp_path: Path) -> None:
    log = load_decode(write_decode(tmp_path / "d.jsonl", prompts=32, batch=8, tokens=200))
    found = fit_pair(log)
    assert log.baseline.seconds == pytest.approx(TRUTH.target_s(1) + TRUTH.plain_rest_s)
    assert found.overhead_s == pytest.approx(TRUTH.rest_s + TRUTH.draft_start_s, rel=0.05)
    for arm in log.arms:
        # By the rounds of a row alone they would be a tenth longer.
        assert arm.verify.seconds == pytest.approx(TRUTH.target_s(arm.draft_length + 1), rel=0.01)


def test_records_that_failed_are_left_out(tmp_path: Path) -> None:
    clean = load_decode(write_decode(tmp_path / "a.jsonl"))
    failed = [("k3", n) for n in range(6)] + [("baseline", 0)]
    log = load_decode(write_decode(tmp_path / "b.jsonl", failed=failed))
    assert len(log.lengths) == len(clean.lengths) - 1
    before, after = ({a.draft_length: a for a in own.arms} for own in (clean, log))
    assert after[3].histogram.sum() < before[3].histogram.sum()
    assert after[4].histogram.tolist() == before[4].histogram.tolist()
    assert after[3].verify.seconds == pytest.approx(before[3].verify.seconds, rel=0.02)


def test_the_line_of_drafts_by_hand(tmp_path: Path) -> None:
    (one,) = load_decode(write_decode(tmp_path / "d.jsonl", prompts=1, lengths=(1,))).arms

    def arm(k: int, draft_s: float) -> ArmTimes:
        return replace(one, draft_length=k, drafted=float(k), draft=Timed(seconds=draft_s, error_s=0.01 * draft_s))

    line = draft_line([arm(2, 5.0), arm(4, 9.0), arm(8, 17.0)])
    assert (line.step_s, line.start_s) == pytest.approx((2.0, 1.0))
    # Through two points: its slope's variance is the sum of theirs over the distance squared.
    two = draft_line([arm(2, 5.0), arm(4, 9.0)])
    assert two.step_error == pytest.approx(np.hypot(0.05, 0.09) / 2 / 2.0)
    # step = (b - a) / 2 and start = 2 a - b, of a and b at 2 and 4.
    assert two.covariance == pytest.approx(-(2 * 0.05**2 + 0.09**2) / 2)
    # No part is below 0. A start that would be: through the origin, each time weighing by its error, a hundredth of it.
    line = draft_line([arm(1, 0.9), arm(2, 3.0), arm(4, 9.0)])
    slope = (1 / 0.9 + 2 / 3 + 4 / 9) / (1 / 0.9**2 + 4 / 3**2 + 16 / 9**2)
    assert (line.step_s, line.start_s, line.start_error_s) == pytest.approx((slope, 0, 0))
    assert line.step_error < 1
    # Shorter the more is drafted: a start alone, their weighted mean.
    line = draft_line([arm(1, 9.0), arm(2, 8.0), arm(4, 7.0)])
    mean = (1 / 9 + 1 / 8 + 1 / 7) / (1 / 9**2 + 1 / 8**2 + 1 / 7**2)
    assert (line.step_s, line.start_s, line.step_error) == pytest.approx((0, mean, np.inf))
    assert line.start_error_s > 0


def test_times_that_are_no_line_do_not_pass(tmp_path: Path) -> None:
    log = load_decode(write_decode(tmp_path / "d.jsonl", prompts=2))
    falling = tuple(replace(a, draft=Timed(seconds=0.01 / a.draft_length, error_s=1e-5)) for a in log.arms)
    (reason,) = check_pair(fit_pair(replace(log, arms=falling))).reasons
    assert reason == "a draft of more tokens takes no longer, expected each to take some time"
    slow = tuple(replace(a, verify=Timed(seconds=0.05, error_s=1e-5)) if a.draft_length == 4 else a for a in log.arms)
    reasons = check_pair(fit_pair(replace(log, arms=slow))).reasons
    assert any(r.startswith("verification at K = 4 is ") for r in reasons), reasons


def test_calibrate_writes_the_pair_and_simulate_takes_it(output, tmp_path: Path) -> None:
    write_decode(tmp_path / "d.jsonl", noise=0.01)
    said = output("calibrate", "--from-decode", "d.jsonl", "--fit-k", "1,4,8", "-o", "pair.json", "--plot", "p.svg")
    for words in ("verification: passes", "s/token", "s/pass", "a plain step", "a drafted token", "a round besides"):
        assert words in said
    found = json.loads((tmp_path / "pair.json").read_text())
    assert found["parameters"] == {"probe": None, "from_decode": "d.jsonl", "fit_k": "1,4,8"}
    assert found["decoding"]["draft_lengths"] == [1, 4, 8]
    assert found["decoding"]["baseline_s"] == pytest.approx(TRUTH.target_s(1) + TRUTH.plain_rest_s, rel=0.02)
    assert "and of no other pair" in found["notes"][0]
    told = json.loads(output("simulate", "--profile", "pair.json", "--draftN", 4, "--alpha", 0.8, "--json"))
    round_s = TRUTH.target_s(5) + TRUTH.draft_s(4) + TRUTH.rest_s
    tau = (1 - 0.8**5) / 0.2
    expected = tau * (TRUTH.target_s(1) + TRUTH.plain_rest_s) / round_s
    assert told["closed_form_speedup"] == pytest.approx(expected, rel=0.03)


def test_lengths_too_close_to_tell_longer_verification_pass_only_as_far_as_they_reach(
    run, output, tmp_path: Path
) -> None:
    write_decode(tmp_path / "d.jsonl", noise=0.02, prompts=10, tokens=300, seed=1)
    output("calibrate", "--from-decode", "d.jsonl", "--fit-k", "1,2,3", "-o", "pair.json")
    output("simulate", "--profile", "pair.json", "--draftN", 3)
    said = run("simulate", "--profile", "pair.json", "--draftN", 8)
    line = "simulate: --draftN: 8 is above 3, the longest that pair was fitted to, expected 1 to 3\n"
    assert (said.returncode, said.stderr) == (2, line)
    found = json.loads(output("simulate", "--profile", "pair.json", "--draftN", 2, "--json"))
    assert found["verdict"]["searched_to"] == 3


def test_the_published_table_of_speech_follows_from_the_records_beside_it(run) -> None:
    folder = Path(__file__).parents[2] / "calibration/measured/xeon-2-core/speech"
    told = json.loads((folder / "speech.json").read_text())
    words = ("--profile", folder / "pair.json", "--hist", folder / "accepted", "--json")
    again = json.loads(run("validate", folder / "held.jsonl.xz", *words).stdout)
    assert again["rows"] == told["rows"]
    assert max(abs(row["error"]) for row in told["rows"]) < 0.05
    log = load_decode(folder / "fit.jsonl.xz")
    profile = pair_profile("whisper", log, fit_pair(log))
    fitted = json.loads((folder / "pair.json").read_text())["decoding"]
    assert profile.decoding.baseline_s == fitted["baseline_s"]
    assert profile.decoding.draft_step_s == pytest.approx(fitted["draft_step_s"])
    assert profile.decoding.source_sha256 == fitted["source_sha256"]
