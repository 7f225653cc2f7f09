"""Costs of a pair from records of real decoding whose truth is known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acceptance.results.validate import problems
from calibration.fit.from_decode import check_pair, draft_line, fit_pair, pair_profile
from calibration.sources.decode import ArmTimes, load_decode
from calibration.sources.timed import Timed
from simulator.ground.artefacts import UserError

from .made_decode import Truth, write_decode

TRUTH = Truth()


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


def test_a_run_that_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    for failed, words in (
        ([("baseline", n) for n in range(2)], "no records of baseline and speculative decoding"),
        ([(f"k{k}", n) for k in (1, 2) for n in range(2)], "no records of baseline and speculative decoding"),
        ([("baseline", 0), ("k1", 1)], "k1 and baseline have no prompt in common"),
    ):
        path = write_decode(tmp_path / "d.jsonl", prompts=2, lengths=(1, 2), failed=failed)
        with pytest.raises(UserError, match=words):
            load_decode(path)


def test_the_line_of_drafts_by_hand(tmp_path: Path) -> None:
    (one,) = load_decode(write_decode(tmp_path / "d.jsonl", prompts=1, lengths=(1,))).arms

    def arm(k: int, draft_s: float) -> ArmTimes:
        return replace(one, draft_length=k, drafted=float(k), draft=Timed(seconds=draft_s, error_s=0.01 * draft_s))

    line = draft_line([arm(2, 5.0), arm(4, 9.0), arm(8, 17.0)])
    assert (line.step_s, line.start_s) == pytest.approx((2.0, 1.0))
    # Through two points: its slope's variance is the sum of theirs over the distance squared.
    two = draft_line([arm(2, 5.0), arm(4, 9.0)])
    assert two.step_error == pytest.approx(np.hypot(0.05, 0.09) / 2 / 2.0)
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
