"""`advise`: its answer is that of the server that it simulates, its settings are read again, its causes add up."""

import json
from dataclasses import replace

import numpy as np
import pytest

from simulator.answers.advice import value_of
from simulator.answers.comparison import Contender
from simulator.answers.slowness import slowness
from simulator.costs.parameters import DeviceOptions, Load
from simulator.costs.priced import load_pricing
from simulator.rounds.acceptance_law import IidAcceptance

SERVED = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--isl", 300, "--osl", 40, "--requests", 60)
EAGLE = ("--method", "eagle3", "--acceptance", "eagle3=0.8")


def test_the_answer_is_that_of_the_server_that_is_simulated(tmp_path, run) -> None:
    done = run("advise", *SERVED, "--rate", 10, *EAGLE, "--json", "--write", "flags.json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["verdict"], told["serving"]["plain"]["servers"]) == ("pays", 1)
    name = next(way for way in told["serving"] if " K=" in way)
    k = int(name.partition("=")[2])
    alone = run(
        "simulate-serving", *SERVED, "--rate", 10, "--method", "eagle3", "--alpha", 0.8, "--draftN", k, "--json"
    )
    point = json.loads(alone.stdout)["points"][0]
    for way in ("plain", name):
        assert told["serving"][way]["e2e_mean"] == point[way]["e2e_mean"]
    assert told["serving"][name]["gain"] == point[name]["e2e_gain"]
    assert told["basis"]["condition"] == "if alpha is 0.8"
    settings = json.loads((tmp_path / "flags.json").read_text())
    assert settings["method"] == "eagle3"
    served = ("simulate-serving", *SERVED, "--rate", 10, "--alpha", 0.8, "--speculative-config", "flags.json", "--json")
    assert told["take"] in json.loads(run(*served).stdout)["points"][0]


def test_where_nothing_pays_the_exit_says_so(run) -> None:
    done = run("advise", *SERVED, "--rate", 10, "--method", "eagle3", "--acceptance", "eagle3=0", "--explain-slow")
    assert done.returncode == 3
    assert "does not pay at 10 requests/s" in done.stdout.replace("\n  ", " ")
    assert "plain decoding: no option of speculation" in done.stdout
    assert "too few tokens are accepted by" in done.stdout


def test_a_load_that_one_server_cannot_carry_is_spread(run) -> None:
    done = run("advise", *SERVED, "--rate", 400, "--slo", "tpot:9ms", *EAGLE, "--json")
    told = json.loads(done.stdout)
    plain, drafted = (told["serving"][way] for way in ("plain", told["take"]))
    assert told["load_a_server"] == pytest.approx(400 / plain["servers"])
    assert 1 < drafted["servers"] <= plain["servers"]
    assert plain["attained"] >= 0.9
    assert told["verdict"] == "pays"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "--rate: missing, expected requests a second such as 5, or --concurrency or --workload"),
        (("--rate", "5,6"), "--rate: 2 loads, expected one"),
        (("--rate", 5, "--method", "lookahead"), "--method: lookahead: vllm has it not"),
        (("--rate", 5, "--acceptance", "lookahead=0.4", "--method", "eagle3"), "--acceptance: lookahead is none of"),
    ],
)
def test_what_is_wrong_is_one_line(run, options, line) -> None:
    done = run("advise", *SERVED, *options)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert line in done.stderr


def test_knowing_is_worth_what_the_choice_gains_by_it() -> None:
    # Equally likely: one way gains 40 % or loses 20 %; on average it is taken, and left in half of the cases if known.
    assert value_of([np.array([1.4, 0.8])]) == pytest.approx((1.2 / 1.1 - 1, 0.5))
    # Two ways that win in turn; a sure gain settles everything.
    assert value_of([np.array([1.5, 1.1]), np.array([1.2, 1.2])]) == pytest.approx((1.35 / 1.3 - 1, 0.5))
    assert value_of([np.array([1.5, 1.4]), np.array([1.2, 1.2])]) == (0.0, 0.0)


@pytest.mark.parametrize("target", ["llama-3.1-8b", "qwen3-30b-a3b"])
@pytest.mark.parametrize("batch", [1, 48])
def test_causes_add_up_to_what_a_round_takes_more_than_a_token(target: str, batch: int) -> None:
    pricing = load_pricing(DeviceOptions(profile="h100-sxm", target_model=target, method="eagle3", tp=2))
    assert pricing.models is not None
    pair = replace(pricing.models, round_overhead_s=1e-3, context=2000)
    slow = slowness(Contender(pair=pair, acceptance=IidAcceptance(0.6), source="stated"), 4, batch, Load(), 1000, 200)
    told = sum(ms for cause, ms in slow.causes if "within the above" not in cause)
    assert told == pytest.approx(slow.round_ms - slow.plain_ms, rel=0.05)
    assert told < slow.round_ms - slow.plain_ms + 1e-6
    assert slow.pays_from == pytest.approx(slow.round_ms / slow.plain_ms)
    assert any("experts" in cause for cause, _ in slow.causes) is (target != "llama-3.1-8b")
