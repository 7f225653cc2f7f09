"""`advise`: its answer is that of the server that it simulates, its settings are read again, its causes add up."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acceptance.servers.server import Server
from calibration.cli.advise import advise, taken_options
from calibration.cli.asking import AdviseOptions, asked_of, of_target
from calibration.published.decisions import MODELS
from calibration.servers.watch import watched
from simulator.answers.advice import Asked, by_first, by_last, value_of
from simulator.answers.comparison import Contender
from simulator.answers.recommendation import of_pair
from simulator.answers.schedule import Range
from simulator.answers.slowness import slowness
from simulator.costs.model_costs import ModelPair
from simulator.costs.parameters import DeviceOptions, Load
from simulator.costs.priced import load_pricing
from simulator.ground.artefacts import UserError
from simulator.rounds.acceptance_law import IidAcceptance

from .made_server import MadeServer

SERVED = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--isl", 300, "--osl", 40, "--requests", 40)
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
    as_many = (*SERVED[:-1], told["requests"])
    fewer = run("simulate-serving", *as_many, "--rate", 400 / (plain["servers"] - 1), "--slo", "tpot:9ms", "--json")
    assert json.loads(fewer.stdout)["points"][0]["plain"]["attained"] < 0.9


def test_runs_that_are_too_short_to_tell_what_a_server_carries_become_longer_or_say_so(run) -> None:
    few = json.loads(run("advise", *SERVED[:-1], 15, "--rate", 15, *EAGLE, "--json").stdout)
    assert (few["serving"]["plain"]["servers"], few["too_short_to_tell"]) == (1, False)
    assert few["requests"] > 15
    done = run("advise", *SERVED[:-1], 2, "--rate", 60, *EAGLE)
    assert "with more --requests fewer servers may do" in " ".join(done.stdout.split())


def test_clients_are_whole_and_all_of_them_are_served(run) -> None:
    load = ("--concurrency", 3, "--slo", "tpot:6.9ms", *EAGLE, "--json")
    told = json.loads(run("advise", *SERVED, *load).stdout)
    assert told["load_a_server"] == int(told["load_a_server"])
    assert told["load_a_server"] * (told["serving"]["plain"]["servers"] or 1) >= 3


def test_a_schedule_that_an_engine_has_not_is_no_way_of_serving() -> None:
    falling = (Range(first=1, last=4, draft_length=5), Range(first=5, last=64, draft_length=2))
    off, pair = Range(first=65, last=99, draft_length=0), pair_of("eagle3")
    told = by_last((*falling, off), pair)
    assert told is not None
    assert (told.name, told.longest, told.follows) == ("trt-llm", 5, True)
    assert by_last((Range(first=1, last=35, draft_length=0), *falling), pair) is None
    steps = by_first((*falling, off), pair)
    assert steps is not None
    assert (steps.name, steps.longest) == ("sglang-adaptive", 5)
    # Of these SGLang adapts no steps.
    assert by_first((*falling, off), pair_of("dflash")) is None


def pair_of(method: str) -> ModelPair:
    """Return a usual pair of a method."""
    models = load_pricing(DeviceOptions(profile="h100-sxm", target_model="llama-3.1-8b", method=method)).models
    assert models is not None
    return models


def test_what_a_server_accepted_beside_its_profile_counts(run) -> None:
    there = Path(__file__).parents[2] / "calibration/measured/xeon-2-core/served"
    words = ("--profile", there / "server.json", "--target-model", there / "target.json", "--max-model-len", 1024)
    load = ("--rate", 2, "--isl", "100:300", "--osl", "32:96", "--requests", 40, "--json")
    alone = json.loads(run("advise", *words, *load).stdout)
    assert {way.split()[0] for way in alone["serving"]} == {"plain", "ngram"}
    assert alone["parameters"]["budget"] == 2048
    both = json.loads(run("advise", *words, "--draft-model", there / "draft.json", *load).stdout)
    assert {way.split()[0] for way in both["serving"]} == {"plain", "ngram", "draft_model"}
    assert run("advise", *words, *load, "--method", "suffix", "--alpha", 0.1).returncode == 3


@pytest.mark.parametrize(("method", "draft"), [("ngram", None), ("eagle3", "d")])
def test_a_drafter_is_told_where_one_is_needed(method: str, draft: str | None) -> None:
    assert of_pair(pair_of(method), "d", (), 3).draft == draft


def test_an_adaptive_mode_is_served_and_says_from_where_on_it_drafts_how_much(run) -> None:
    load = (*SERVED[:4], "--isl", 9, "--osl", 40, "--requests", 4, "--engine", "sglang", "--concurrency", 1)
    done = run("advise", *load, "--method", "eagle3", "--acceptance", "eagle3=0.6")
    assert re.search(r"\neagle3 sglang-adaptive  ", done.stdout), done.stdout
    text = " ".join(done.stdout.split())
    said = re.search(r"eagle3 sglang-adaptive drafts by sequences at once: (.*?); here 0.885 run at once", text)
    assert said is not None
    assert re.fullmatch(r"((K=\d|none) from [\d,]+(, )?)+", said[1])


def read(*arguments: object) -> tuple[AdviseOptions, Asked, tuple[str, ...]]:
    """Return the options of a command, what it asks, and what it says to know."""
    with advise.make_context("advise", [str(argument) for argument in arguments]) as context:
        options = taken_options(context.params)
        return options, *asked_of(options)[:2]


def test_a_model_whose_longest_request_has_no_room_is_served_with_what_fits() -> None:
    load = ("--concurrency", 1, "--isl", 300, "--osl", 40)
    _, asked, said = read("--profile", "l4", "--target-model", "llama-3.1-8b", *load, *EAGLE)
    assert 300 < asked.server.longest < 131_072
    assert f"the engine wants --max-model-len {asked.server.longest} or less" in said[0]
    # A state that does not grow leaves room for a request that is as long as the model takes.
    long = ("--profile", "rtx-pro-6000", "--target-model", MODELS / "qwen3.8-27b.json", "--dtype", "fp8")
    assert read(*long, *load, "--method", "mtp")[2] == ()
    _, asked, said = read("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", *load, *EAGLE)
    assert (asked.server.longest, said) == (131_072, ())
    assert read("--profile", "h100-sxm", "--model", "llama-3.1-8b", *load, *EAGLE)[1] == asked


def test_what_several_published_drafters_of_a_target_accept_is_their_mean() -> None:
    load = ("--profile", "h100-sxm", "--concurrency", 1, "--isl", 300, "--osl", 40, "--method", "eagle3")
    known = of_target(read(*load, "--target-model", "llama-3.1-8b")[0])["eagle3"].acceptance
    assert known.histograms[0].assumed == "EAGLE-3 for Llama-3.1-8B-Instruct, of 3 pairs, mean of 8 tasks (published)"
    # Where none drafts as far as engines are set to, a tail goes on.
    short = of_target(read(*load, "--target-model", "qwen3-32b")[0])["eagle3"].acceptance
    assert (len(short.histograms), short.longest) == (2, 5)


def test_passes_of_which_an_engine_captures_no_graph_wait_for_its_host() -> None:
    models = load_pricing(DeviceOptions(profile="h100-sxm", target_model="qwen3-32b", draft_model="qwen3-0.6b")).models
    assert models is not None
    costs = {server: replace(models, server=server).round_cost(np.array([3])) for server in ("", "sglang", "vllm")}
    draft = {server: float(cost.draft_step_s[0]) for server, cost in costs.items()}
    assert draft["sglang"] == draft[""]
    assert draft["vllm"] > 2 * draft["sglang"]
    assert costs["vllm"].verify_s == costs["sglang"].verify_s
    eagle = pair_of("eagle3")
    same = [replace(eagle, server=server).round_cost(np.array([3])).draft_s for server in ("sglang", "vllm")]
    assert same[0] == same[1]


@pytest.mark.parametrize("seed", [0, 3])
def test_intervals_are_those_of_the_server_that_is_simulated(run, seed: int) -> None:
    load = (*SERVED, "--rate", 10, "--seed", seed, "--json")
    told = json.loads(run("advise", *load, *EAGLE).stdout)
    name = next(way for way in told["serving"] if " K=" in way)
    alone = json.loads(
        run("simulate-serving", *load, "--method", "eagle3", "--alpha", 0.8, "--draftN", name[-1]).stdout
    )
    assert alone["known_to"][name][0][1:] == pytest.approx(told["serving"][name]["gain_ci95"])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "--rate: missing, expected requests a second such as 5, --concurrency, --workload or --server"),
        (("--rate", 5, "--scheduler", "sglang"), "--scheduler: is that of --engine, expected no such option"),
        (("--rate", 5, "--mixed-chunk"), "--mixed-chunk: of sglang's scheduler, expected --engine sglang beside it"),
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


TOTALS = """vllm:request_success_total{{finished_reason="stop",model_name="m"}} {ended}
vllm:prompt_tokens_total{{model_name="m"}} {prompt}
vllm:generation_tokens_total{{model_name="m"}} {output}
vllm:num_requests_running{{model_name="m"}} 3
vllm:time_to_first_token_seconds_sum{{model_name="m"}} {first}
vllm:time_to_first_token_seconds_count{{model_name="m"}} {ended}
vllm:time_to_first_token_seconds_bucket{{le="1",model_name="m"}} {ended}
vllm:request_time_per_output_token_seconds_sum{{model_name="m"}} {each}
vllm:request_time_per_output_token_seconds_count{{model_name="m"}} {ended}
vllm:spec_decode_num_drafts_total{{model_name="m"}} {rounds}
vllm:spec_decode_num_draft_tokens_total{{model_name="m"}} {drafted}
vllm:spec_decode_num_accepted_tokens_total{{model_name="m"}} {accepted}
vllm:spec_decode_num_accepted_tokens_per_pos_total{{model_name="m",position="0"}} {first_place}
vllm:spec_decode_num_accepted_tokens_per_pos_total{{model_name="m",position="1"}} {second_place}
"""


def totals(ended: int) -> list[str]:
    """What a server says after so many requests of 300 tokens in and 40 out, two of three drafts accepted."""
    counts = {"ended": ended, "prompt": 300 * ended, "output": 40 * ended, "first": 0.05 * ended, "each": 0.008 * ended}
    counts |= {"rounds": 20 * ended, "drafted": 40 * ended, "accepted": 28 * ended}
    return TOTALS.format(**counts, first_place=16 * ended, second_place=12 * ended).splitlines()


def test_what_lies_between_two_readings_is_what_a_server_did() -> None:
    found = watched(Server("server", "http://x"), "m", totals(100), totals(150), 10.0, [3.0, 5.0, float("nan")])
    assert (found.requests, found.rate, found.prompt, found.output, found.running) == (50, 5.0, 300.0, 40.0, 4.0)
    assert (found.first_s, found.each_s) == pytest.approx((0.05, 0.008))
    assert found.counted.imported is not None
    assert found.counted.imported.histogram.survival.tolist() == pytest.approx([0.8, 0.6])
    with pytest.raises(UserError, match=r"--watch: 4 requests ended in 10 s, expected 5 or more"):
        watched(Server("server", "http://x"), "m", totals(100), totals(104), 10.0, [])


def test_a_server_at_work_is_watched_and_advised_of(run) -> None:
    with MadeServer(model="meta-llama/Llama-3.1-8B-Instruct") as server:
        began = time.monotonic()
        server.metrics = lambda: "\n".join(totals(int(200 + 20 * (time.monotonic() - began)))) + "\n"
        watching = (
            "--server",
            server.url,
            "--watch",
            1,
            "--profile",
            "h100-sxm",
            "--method",
            "eagle3",
            "--requests",
            60,
        )
        done = run("advise", *watching, "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["parameters"]["target_model"] == "meta-llama/Llama-3.1-8B-Instruct"
        assert told["parameters"]["load"] == pytest.approx(20, rel=0.2)
        assert (told["parameters"]["prompts"], told["parameters"]["answers"]) == ("300", "40")
        assert told["basis"]["acceptance"] != "prior"
        assert any("20" in said and "300 tokens in, 40 out" in said for said in told["warnings"])
        refused = run("advise", *watching, "--rate", 5)
        assert refused.returncode == 2
        assert "--rate: beside --server" in refused.stderr
    gone = run("advise", *watching)
    assert (gone.returncode, gone.stderr.count("\n")) == (2, 1)
