"""Policies replayed over traces and laws, each step priced: against closed forms, and as a user meets the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acceptance.estimate.play import play
from acceptance.estimate.policies import Fixed
from acceptance.trace.trace import Trace, save_trace
from calibration.replay.laws import LawSource
from calibration.replay.prices import KnobPrice, step_price
from calibration.replay.replay import PLAIN
from simulator.costs.parameters import Point
from simulator.costs.priced import Pricing, knobs
from simulator.costs.profile_file import load_profile
from simulator.ground.histogram import AcceptanceHistogram
from simulator.rounds.acceptance_law import HistogramAcceptance, IidAcceptance
from tests.accept.traces import make_trace
from tests.sim.builders import model_pair

GREEDY, SAMPLED = {"temperature": 0.0, "draft_temperature": 0.0}, {"temperature": 1.0, "draft_temperature": 1.0}
PRICED = ("--profile", "h200", "--target-model", "llama-3.1-8b", "--draft-model", "llama-3.2-1b")


def some_trace(*, sure: bool = True) -> Trace:
    rng = np.random.default_rng(3)
    accept = (rng.random((12, 30)) < 0.7).astype(float)
    known = {"margin_q": accept.ravel() * 3, "max_q": 0.3 + 0.6 * accept.ravel()} if sure else {}
    return make_trace(list(accept), **known)


@pytest.fixture
def traced(tmp_path: Path) -> Trace:
    save_trace(tmp_path, some_trace(), GREEDY)
    return some_trace()


def replayed(output, *words: object) -> dict:
    return json.loads(output("replay-policies", *words, "--json"))["policies"]


def test_a_static_draft_is_what_the_trace_says_of_it(output, traced: Trace) -> None:
    found = replayed(output, "--trace", "trace.json", "--batch", 5, "--policy", "static:k=3")
    once = play(traced, Fixed(3), q_kind="greedy", rng=np.random.default_rng(0), replications=1)
    row = found["static:k=3"]
    assert (row["tokens"], row["rounds"]) == (traced.size, once.rounds.sum())
    assert row["accepted"] == pytest.approx(once.accepted.sum() / once.rounds.sum())
    assert row["drafted"] == pytest.approx([once.drafted_low.sum() / once.rounds.sum()] * 2)
    assert row["wasted"] == pytest.approx([1 - once.accepted.sum() / once.drafted_low.sum()] * 2)
    assert row["tokens_per_step"] == pytest.approx(row["tokens"] / row["steps"])
    assert row["ms_per_token"] is None
    assert found[PLAIN]["tokens_per_round"] == 1
    # One batch size, whatever it is: a schedule of one length is static.
    same = replayed(output, "--trace", ".", "--batch", 5, "--policy", "trt-llm:schedule={64:3}")
    assert same["trt-llm:schedule={64:3}"] == row


def test_a_long_law_costs_what_the_closed_form_says(output) -> None:
    words = ("--alpha", 0.7, "--total", 1000, "--batch", 4, "--workflops", 50_000, "--workmem", 8)
    row = replayed(output, *words, "--policy", "static:k=4")["static:k=4"]
    costs, tau = knobs(Point(workflops=50_000, workmem=8)), (1 - 0.7**5) / 0.3
    assert row["tokens_per_round"] == pytest.approx(tau, rel=0.01)
    price = KnobPrice(costs=costs)
    four = np.array(4)
    # What keeps up with the text is a pass.
    assert price.draft_s(four, four * 0) == price.draft_s(four, four // 4) == price.draft_s(four, four) / 4
    round_s = price.draft_s(four, four) + price.verify_s(four, np.array(20))
    assert row["ms_per_token"][0] == pytest.approx(1e3 * round_s / tau, rel=0.03)
    assert row["speedup"][0] == pytest.approx(price.plain_s(four) * tau / round_s, rel=0.03)


@pytest.mark.statistical
def test_rounds_of_a_law_have_that_law_at_every_length() -> None:
    n, rng = 20_000, np.random.default_rng(0)
    measured = HistogramAcceptance(
        (AcceptanceHistogram((5.0, 1.0, 4.0)), AcceptanceHistogram((4.0, 2.0, 1.0, 1.0, 2.0)))
    )
    for acceptance in (IidAcceptance(0.6), measured):
        source = LawSource(acceptance, 4, rng)
        longest = source.run(np.zeros(n, np.int64))
        lengths = np.arange(n) % 5
        accepted = source.accepted(longest, lengths)
        for k in range(1, 5):
            counts = np.bincount(accepted[lengths == k], minlength=k + 1) / (n / 5)
            law = acceptance.law(k)
            error = np.sqrt(law * (1 - law) / (n / 5))
            assert (abs(counts - law) <= 4 * error).all()
            # Negative control: another alpha is another law.
            assert (abs(counts - IidAcceptance(0.3).law(k)) > 4 * error).any()
        assert (accepted[lengths == 0] == 0).all()


def test_steps_of_models_cost_what_their_rounds_do() -> None:
    pair = model_pair(load_profile("h200"), "llama-3.1-8b", "llama-3.2-1b")
    pricing, point = Pricing(models=pair, profile=pair.profile), Point()
    price = step_price(pricing, point, most=8, longest=4)
    for running, k in ((1, 4), (8, 4), (8, 1), (3, 2)):
        cost = replace(pair, batch=running).round_cost(k)
        here = np.array(running)
        assert price.plain_s(here) == pytest.approx(cost.baseline_s)
        assert price.draft_s(here, np.array(k)) == pytest.approx(cost.draft_s)
        assert price.verify_s(here, here * (k + 1)) == pytest.approx(cost.verify_s + cost.overhead_s)
    # Ragged drafts lie between; nothing to draft is not for nothing, where the drafter keeps up.
    eight = np.array(8)
    low, between, high = (float(price.verify_s(eight, np.array(n))) for n in (24, 27, 32))
    assert between == pytest.approx(low + (high - low) * 3 / 8)
    assert 0 < price.draft_s(eight, np.array(0)) <= price.draft_s(eight, np.array(1))


def test_the_best_is_said_first_and_every_policy_has_a_row(output, traced: Trace, tmp_path: Path) -> None:
    said = output("replay-policies", "--trace", ".", "--batch", 4, *PRICED, "--out", "found.json")
    lines = said.splitlines()
    rows = json.loads((tmp_path / "found.json").read_text())["policies"]
    assert {*rows} == {PLAIN, "static:k=1", "static:k=2", "static:k=4", "sglang-adaptive", "llama-cpp", "vllm-adaptive"}
    best = max((name for name in rows if name != PLAIN), key=lambda name: min(rows[name]["speedup"]))
    assert lines[0] == f"{best} is fastest here: {min(rows[best]['speedup']):.2f}x as fast as plain decoding."
    assert "12 outputs of trace.json, 360 tokens, 4 at once, greedy draft" in said
    assert "llama-3.1-8b drafted by llama-3.2-1b, context 1024, on h200" in " ".join(said.split())
    assert all(any(line.startswith(name) for line in lines) for name in rows)


@pytest.mark.parametrize("costs", [PRICED, ("--workflops", 50_000, "--workmem", 8, "--round-overhead", 0.6)])
def test_a_step_without_drafts_is_a_plain_one_and_the_pass_that_keeps_up(output, costs: tuple[object, ...]) -> None:
    words = ("--alpha", 0.7, "--total", 64, "--batch", 2, *costs)
    never, none = "vllm-by-batch:ranges=[[1,64,0]]", "trt-llm:schedule={4:0}"
    rows = replayed(output, *words, "--policy", never, "--policy", none, "--policy", "static:k=1")
    assert rows[none]["ms_per_token"] == rows[PLAIN]["ms_per_token"]
    if costs == PRICED:
        pair = model_pair(load_profile("h200"), "llama-3.1-8b", "llama-3.2-1b")
        price = step_price(Pricing(models=pair, profile=pair.profile), Point(), most=2, longest=0)
    else:
        price = KnobPrice(costs=knobs(Point(workflops=50_000, workmem=8)))
    # A first pass, and nothing of what rounds take besides theirs.
    first_ms = 1e3 * float(price.draft_s(np.array(2), np.array(0)))
    assert rows[never]["ms_per_token"][0] - rows[PLAIN]["ms_per_token"][0] == pytest.approx(first_ms)
    assert "Nothing is gained here" in " ".join(output("replay-policies", *words, "--policy", none).split())


def test_an_acceptance_that_nobody_stated_is_an_assumption(output) -> None:
    words = ("--total", 64, *PRICED, "--policy", "static:k=3")
    assert output("replay-policies", *words).startswith("If alpha were 0.8: static:k=3 is fastest")
    assert output("replay-policies", *words, "--alpha", 0.8).startswith("If alpha is 0.8: static:k=3 is fastest")
    hopeless = output("replay-policies", *words, "--alpha", 0.01)
    assert hopeless.startswith(
        "If alpha is 0.01: None of these pays: plain decoding is fastest, the next is static:k=3 at 0."
    )


def test_a_pair_that_was_not_measured_is_an_assumption_as_in_any_forecast(output, tmp_path: Path) -> None:
    words = ("replay-policies", "--trace", ".", *PRICED, "--policy", "static:k=2", "--json")
    for pair, said in (
        ({"target": "a", "draft": "b"}, "if it accepts as a + b"),
        ({"target": "meta-llama/Llama-3.1-8B-Instruct", "draft": "Llama-3.2-1B"}, ""),
    ):
        save_trace(tmp_path, some_trace(), GREEDY | pair)
        found = json.loads(output(*words))
        assert (found["condition"], found["parameters"]["round_overhead_ms"]) == (said, pytest.approx(0.6))
        for path in tmp_path.glob("trace.*"):
            path.unlink()


def test_a_pair_that_was_timed_drafts_no_longer_and_keeps_up_too(output, run, user_error) -> None:
    pair = Path(__file__).parents[2] / "calibration/measured/epyc-2-core/pair_x4.json"
    timed = ("replay-policies", "--profile", pair, "--total", 32)
    user_error(run(*timed, "--policy", "static:k=99"), "drafts up to 99, above 8, the longest of the profile")
    assert "static:k=4" in json.loads(output(*timed, "--json"))["policies"]
    never = "vllm-by-batch:ranges=[[1,64,0]]"
    row = replayed(output, *timed[1:], "--policy", never)[never]
    assert row["speedup"][0] < 0.95


def test_what_is_left_out_says_what_it_needs(output, hist_file: Path) -> None:
    found = json.loads(output("replay-policies", "--hist", hist_file, "--json"))
    assert set(found["policies"]) == {PLAIN, "static:k=1", "static:k=2", "static:k=4"}
    asked = {"vllm-by-batch": "ranges", "trt-llm": "schedule", "sglang-adaptive": "candidate_steps"}
    assert all(setting in found["left_out"][name] for name, setting in asked.items())
    assert "left out: llama-cpp: looks at" in output("replay-policies", "--hist", hist_file)


def test_what_does_not_fit_claims_no_speed(output, traced: Trace) -> None:
    said = output("replay-policies", "--trace", ".", "--batch", 4, *PRICED, "--context", "8m")
    assert "vllm-adaptive: begins after 300 steps, and this text has " in said
    assert said.startswith("does not fit: 4 sequences of 8000000 tokens, memory holds 0\n")
    assert "speedup" not in said


def test_a_trace_of_a_draft_that_was_not_asked_how_sure_it_is(output, run, user_error, tmp_path: Path) -> None:
    save_trace(tmp_path, some_trace(sure=False), SAMPLED)
    rows = replayed(output, "--trace", ".", *PRICED)
    assert "vllm-adaptive" not in rows
    user_error(
        run("replay-policies", "--trace", ".", *PRICED, "--policy", "vllm-adaptive"),
        "--policy vllm-adaptive: looks at log_q, which the trace has not",
    )
    greedy = run("replay-policies", "--trace", ".", "--q-kind", "greedy", *PRICED, "--policy", "vllm-adaptive")
    user_error(greedy, "looks at margin_q")


def test_what_makes_no_sense_is_one_line(run, user_error, traced: Trace, hist_file: Path) -> None:
    for words, message in (
        (("--trace", ".", "--alpha", 0.5), "--trace and --alpha: expected one of --trace, --hist and --alpha"),
        (("--trace", ".", "--total", 9), "--total: a trace's outputs have lengths of their own"),
        (("--trace", ".", "--q-kind", "sampled"), "--q-kind: sampled, but the draft of the trace is greedy"),
        (("--trace", ".", "--context", 9), "--context: needs --profile and --target-model"),
        (("--trace", "absent"), "absent: no such file"),
        (("--trace", ".", "--out", "x.txt"), "--out x.txt: suffix '.txt', expected .json"),
        (
            ("--trace", ".", "--policy", "vllm-adaptive"),
            "vllm-adaptive: weighs drafts by what steps cost, expected --profile",
        ),
        (("--policy", "static", "--policy", "static"), "--policy: one is stated twice"),
        (("--q-kind", "greedy"), "--q-kind: a law is of one kind of draft"),
        (("--as", "counts"), "--as: nothing to measure by"),
        (
            ("--policy", "llama-cpp"),
            "llama-cpp: looks at how sure the draft is, which a law does not tell",
        ),
        (("--hist", hist_file, "--policy", "static:k=5"), "static:k=5: drafts up to 5, above 4, the longest of --hist"),
        (("--draftN", 4), "--draftN: no such option of replay-policies"),
        ((*PRICED[:4], "--method", "dflash", "--policy", "static:k=16"), "above 15, a block of the drafter"),
        ((*PRICED, "--topk", 4, "--nodes", 8), "--topk and --nodes: policies are of drafts that do not branch"),
    ):
        user_error(run("replay-policies", *words), message)
