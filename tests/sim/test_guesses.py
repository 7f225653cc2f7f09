"""Drafting ahead for several outcomes: how often one comes true, what that costs, and runs drawn with it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.model_costs import ModelPair
from simulator.costs.profile_file import load_profile
from simulator.costs.shapes import read_shape
from simulator.costs.step import Knobs
from simulator.rounds.acceptance_law import IidAcceptance
from simulator.rounds.analytic import run_speedup
from simulator.rounds.engine import draw_counts, elapsed_s
from simulator.rounds.experiment import Setting, replicate
from simulator.rounds.guesses import hit_rates, hit_shares
from simulator.rounds.priors import further_choices

from .builders import result

COSTS = Knobs(work_flops=0, work_mem=1, flop_scale_s=1e-9, mem_scale_s=4e-3, draft_cost=0.15, guesses=4)
laws = st.lists(st.floats(0.01, 1), min_size=2, max_size=6).map(lambda w: np.array(w) / sum(w))


@given(laws, st.floats(0, 1), st.integers(1, 12))
def test_the_first_guess_and_the_likeliest_of_the_others(law: np.ndarray, first: float, guesses: int) -> None:
    further, k = np.array([0.4, 0.2, 0.1]), len(law) - 1
    outcomes = {(a, r): law[a] * share for a in range(k) for r, share in enumerate(further)}
    outcomes |= {(k, r): law[k] * (1 - first) * share for r, share in enumerate(further)}
    likeliest = sorted(outcomes, key=outcomes.__getitem__, reverse=True)[: guesses - 1]
    hit = law[k] * first + sum(outcomes[o] for o in likeliest)
    full, other = hit_shares(law, first, guesses, further)
    assert law[k] * full + (1 - law[k]) * other == pytest.approx(hit)
    assert 0 <= full <= 1
    assert 0 <= other <= 1
    if guesses == 1:
        assert (full, other) == (first, 0.0)


def test_more_guesses_hit_more_often_and_never_more_than_all() -> None:
    model, k = IidAcceptance(0.7), np.arange(1, 9)
    rates = np.array([hit_rates(model, k, guesses) for guesses in (1, 2, 4, 16, 64, 256)])
    assert (np.diff(rates, axis=0) > 0).all()
    assert rates[0] == pytest.approx(0.7 ** (k + 1))
    # All that a draft's choices ever are, where each has its guess.
    everything = 1 - (1 - further_choices().rates.sum()) * (1 - 0.7 ** (k + 1))
    assert (rates[-1] < everything + 1e-9).all()
    assert rates[-1][0] == pytest.approx(everything[0])


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 9])
def test_short_runs_take_what_all_their_rounds_take(total: int) -> None:
    cost, law, full, other = COSTS.round_cost(2), np.array([0.2, 0.3, 0.5]), 0.8, 0.4
    rates, alone_s = (other, other, full), float(cost.verify_s + cost.overhead_s)

    def spent_s(left: int) -> float:
        """From a verification on, the next draft among it where there is a next round."""
        found = alone_s
        for accepted, share in enumerate(law):
            if (rest := left - accepted - 1) > 0:
                hit, miss = float(cost.after_hit_s) - alone_s, float(cost.draft_s)
                found += share * (rates[accepted] * hit + (1 - rates[accepted]) * miss + spent_s(rest))
        return found

    expected = total * float(cost.baseline_s) / (float(cost.draft_s) + spent_s(total))
    assert run_speedup(cost, law, full, total, overlap=4, other_rate=other) == pytest.approx(expected, rel=1e-12)


@pytest.mark.statistical
def test_runs_take_the_time_that_is_expected_of_them() -> None:
    """Within four standard errors. Negative control: with the first guess alone they would not."""
    setting = Setting(300, 3, COSTS, IidAcceptance(0.7), overlap=4)
    times_s = elapsed_s(setting.cost, replicate(setting, 4000, 3))
    law, cost = setting.acceptance.law(3), setting.cost
    one, several = (
        run_speedup(cost, law, setting.hit_rate if f > 1 else 0.7, 300, overlap=f, other_rate=other)
        for f, other in ((1, 0.0), (4, setting.other_rate))
    )
    baseline_s = 300 * float(cost.baseline_s)
    error = times_s.std(ddof=1) / np.sqrt(4000)
    assert abs(times_s.mean() - baseline_s / several) < 4 * error
    assert abs(times_s.mean() - baseline_s / one) > 20 * error
    # Of long runs the closed form's.
    assert run_speedup(cost, law, setting.hit_rate, 10**6, overlap=4, other_rate=setting.other_rate) == pytest.approx(
        float(setting.closed_form.speedup), rel=1e-4
    )


def test_what_is_drafted_ahead_has_a_row_for_each_guess() -> None:
    wide = Knobs(work_flops=1e6, work_mem=1, flop_scale_s=1e-9, mem_scale_s=1e-5, draft_cost=0.1, guesses=8)
    cost = wide.round_cost(5)
    # The guess, of one token; then five passes over eight, bound by arithmetic.
    assert float(cost.drafted_ahead_s) == pytest.approx(1e-4 + 5 * 8e-4)
    assert float(cost.after_hit_s) == pytest.approx(max(float(cost.verify_s), 4.1e-3))
    assert float(cost.after_miss_s) == pytest.approx(float(cost.verify_s) + 5e-4)


def test_models_draft_ahead_with_a_row_for_each_guess() -> None:
    shapes = {"target": read_shape("llama-3.1-70b"), "draft": read_shape("llama-3.1-8b")}
    formats = {"dtype": "bfloat16", "draft_dtype": "bfloat16"}
    pair = ModelPair(profile=load_profile("h100-sxm"), **shapes, **formats, batch=8, context=2000, guesses=3)
    steps = pair.placed_draft.parts(8, np.array([1, 3]), 2000).total_s
    # One for the guess of the bonus token, and four behind each of three guesses.
    assert float(pair.round_cost(4).drafted_ahead_s) == pytest.approx(float(steps[0] + 4 * steps[1]), rel=1e-12)


def test_every_round_that_has_a_successor_may_hit_and_at_its_own_runs_rate() -> None:
    rates, totals = np.arange(6) % 2.0, np.array([1, 7, 40, 300, 5, 90])
    laws = np.tile([0.3, 0.3, 0.4], (6, 1))
    rng = np.random.default_rng(0)
    counts = draw_counts(laws, np.full(6, 2), totals, rates, rng, np.random.default_rng(1), rates)
    np.testing.assert_array_equal(counts.hits, (counts.rounds - 1) * rates)


APART = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--draft-model", "llama-3.2-1b")
APART += ("--placement", "separate", "--overlap", "--replications", "8", "--alpha", "0.6")


def test_forecasts_of_several_guesses(run, tmp_path: Path) -> None:
    one, same, four = (result(run, *APART, *more) for more in ((), ("--guesses", 1), ("--guesses", 4)))
    assert {k: v for k, v in one.items() if k != "created_utc"} == {k: v for k, v in same.items() if k != "created_utc"}
    assert four["parameters"]["guesses"] == 4
    assert four["closed_form_speedup"] > one["closed_form_speedup"]
    assert four["tokens_per_round"] == one["tokens_per_round"]
    swept = run(
        "sweep", *APART[:-2], "--alpha", "0.5,0.6", "--guesses", 4, "--out", tmp_path / "x.csv", "--draftN", "3,4"
    )
    assert swept.returncode == 0, swept.stderr
    with (tmp_path / "x.csv").open() as file:
        found = [*csv.DictReader(file)]
    [there] = [row for row in found if (float(row["alpha"]), int(row["draftN"])) == (0.6, 4)]
    assert float(there["closed_form_speedup"]) == pytest.approx(four["closed_form_speedup"])
    assert float(there["speedup"]) == pytest.approx(four["speedup"], rel=0.05)
    run("simulate", *APART, "--guesses", 4, "--events", tmp_path / "events.json", "--total", 60)
    spans = json.loads((tmp_path / "events.json").read_text())["traceEvents"]
    ahead = [s for s in spans if s.get("name") == "draft ahead"]
    accepted = [s["args"]["accepted"] for s in spans if s.get("name") == "commit"]
    before = [accepted[s["args"]["round"] - 1] for s in ahead]
    assert len(ahead) > 3
    assert min(before) < 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--guesses", 4), "--guesses: 4 drafts ahead, expected --overlap beside it"),
        (("--guesses", 0, "--overlap"), "--guesses"),
    ],
)
def test_what_does_not_go_together_is_one_line(run, arguments: tuple[object, ...], message: str) -> None:
    done = run("simulate", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr
