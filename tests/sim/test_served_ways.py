"""Ways of serving that `simulate-serving` compares: policies by name, trees, and requests that are not alike."""

import json

import numpy as np
import pytest

from simulator.answers.latency import percentile, seen_of
from simulator.answers.live_policies import live_policies
from simulator.ground.artefacts import UserError
from simulator.rounds.acceptance_law import IidAcceptance
from simulator.rounds.request_laws import even_laws, laws_of
from simulator.serving.draw_tables import acceptance_of, mean_accepted
from simulator.serving.pass_tables import linear_costs
from simulator.serving.policy_tables import fixed
from simulator.serving.run import run as run_once
from simulator.serving.settings import settings_of
from simulator.workloads.requests import requests_of

MODELS = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--method", "eagle3", "--alpha", 0.8)
SERVED = ("simulate-serving", *MODELS, "--requests", 40, "--json")
BY_BATCH = "vllm-by-batch:ranges=[[1,999,3]]"


def policies(*texts: str) -> tuple[str, ...]:
    return tuple(word for text in texts for word in ("--policy", text))


@pytest.mark.parametrize("tree", [(), ("--topk", 4, "--nodes", 16), ("--branching", "4,2,1,1")])
def test_one_client_is_served_as_the_closed_form_has_it(tmp_path, run, tree) -> None:
    """Rounds that end an answer are cut: of 200 tokens by one in a hundred; draws are off by less.

    Of the first token most lies in front of passes.
    """
    told = json.loads(run(*SERVED, *tree, "--draftN", 4, "--isl", 300, "--osl", 200, "--concurrency", "1,2").stdout)
    form = ("--concurrency", 1, "--isl", 300, "--osl", 200, "--draftN", 4, "--json")
    forecast = json.loads(run("simulate", *MODELS, *tree, *form).stdout)
    point = told["points"][0]
    for way, name in (("plain", "plain"), ("eagle3 K=4", "speculative")):
        assert point[way]["tpot_mean"] == pytest.approx(forecast[name]["tpot_ms"] / 1e3, rel=0.02)
        assert point[way]["ttft_mean"] == pytest.approx(forecast[name]["ttft_ms"] / 1e3, rel=0.02)
    nodes = {(): 4, ("--topk", 4, "--nodes", 16): 15}.get(tree, 4 + 8 + 8 + 8)
    accepted = point["eagle3 K=4"]["tokens_a_round"] - 1
    assert point["eagle3 K=4"]["accepted_of_drafted"] == pytest.approx(accepted / nodes, rel=0.03)


def test_policies_side_by_side_keep_what_is_theirs(tmp_path, run) -> None:
    more = ("static:k=3", BY_BATCH, "off-above:k=3,batch=0", "off-above:k=3,batch=999", "off-above:k=3,waiting=999")
    told = json.loads(run(*SERVED, "--osl", 30, "--rate", "40,41", *policies(*more)).stdout)
    point = told["points"][0]
    ways = [f"eagle3 off-above {rest}" for rest in ("k=3,batch=0", "k=3,batch=999", "k=3,waiting=999")]
    assert set(point) == {"load", "plain", "eagle3 K=3", "eagle3 vllm-by-batch", *ways} == {"load", *told_ways(told)}

    def times(way: str) -> list[float]:
        return [point[way][f"{name}_{which}"] for name in ("ttft", "tpot", "e2e") for which in ("mean", "p50", "p99")]

    # One that never drafts is plain decoding, and those that never stop are one draft length.
    assert times(ways[0]) == times("plain") != times("eagle3 K=3")
    assert times(ways[1]) == times(ways[2]) == times("eagle3 K=3")
    # Where a schedule may change, vLLM pads no request that was just admitted: nearly the same.
    assert times("eagle3 vllm-by-batch") == pytest.approx(times("eagle3 K=3"), rel=0.03)


def told_ways(told: dict[str, object]) -> set[str]:
    return {"plain", *told["turning"]}  # type: ignore[misc]


def test_policies_of_one_name_are_told_apart() -> None:
    long = "vllm-by-batch:ranges=[[1,8,5],[9,64,2],[65,512,0]]"
    names = [policy.name for policy in live_policies(["goodput:k=2", "goodput", long, "sglang-adaptive"])]
    assert names == ["goodput k=2", "goodput #2", "vllm-by-batch", "sglang-adaptive"]
    assert [policy.name for policy in live_policies([long, long.replace("512", "256")])] == [
        "vllm-by-batch #1",
        "vllm-by-batch #2",
    ]
    cutting = live_policies(["goodput:cuts=true", "goodput:cuts=false", "goodput"])
    assert [policy.cuts for policy in cutting] == [True, False, False]
    with pytest.raises(UserError, match="--policy 'goodput': twice, expected it once"):
        live_policies(["goodput", "goodput"])
    with pytest.raises(UserError, match="--policy: 9 of them, expected at most 8"):
        live_policies([f"static:k={k}" for k in range(1, 10)])


def test_requests_that_differ_have_longer_tails_at_the_same_mean() -> None:
    """Paired over seeds: each difference of P99 is above four of its standard errors."""
    model, k, count, seeds = IidAcceptance(0.7), 4, 60, 8
    laws = [even_laws(model, k), laws_of(model, k), laws_of(model, k, concentration=4.0)]
    for law in laws:
        assert mean_accepted(law, k) == pytest.approx(mean_accepted(laws[0], k), rel=1e-9)
    settings = settings_of(k=k, max_num_batched_tokens=2000, max_num_seqs=12, max_model_len=512, num_blocks=800)
    requests, costs = requests_of(np.full(count, 100), np.full(count, 60)), linear_costs(5e-3, 1e-5, tokens=4000)

    def p99_s(acceptance: object, seed: int) -> float:
        done = run_once(settings, requests, acceptance, costs, fixed(k), clients=12, seed=seed)  # type: ignore[arg-type]
        times = done.sent_s, done.begun_s, done.first_s, done.end_s
        return percentile(seen_of(*times, requests.output).tpot_s, 99)

    tails = np.array([[p99_s(acceptance_of([law]), seed) for seed in range(seeds)] for law in laws])
    apart = np.diff(tails, axis=0)
    assert np.all(apart.mean(1) > 4 * apart.std(1, ddof=1) / np.sqrt(seeds)), apart


def test_a_spread_leaves_the_mean_of_rounds(tmp_path, run) -> None:
    sizes = ("--osl", 100, "--concurrency", "8,9", "--draftN", 3, "--warmup", 0)
    alike, apart = (
        json.loads(run(*SERVED, *sizes, "--spread", spread).stdout)["points"][0]["eagle3 K=3"] for spread in ("inf", 3)
    )
    assert apart["tpot_p99"] > 1.15 * alike["tpot_p99"]
    assert apart["tpot_p50"] == pytest.approx(alike["tpot_p50"], rel=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            policies("off-above"),
            "--policy off-above: batch is missing, expected a number of sequences, or waiting=NUMBER",
        ),
        (policies("off-above:batch=-1"), "--policy off-above: batch is -1, expected a whole number from 0 to 1000000"),
        (
            ("--topk", 4, "--nodes", 16, *policies("llama-cpp:n_max=3")),
            "--policy llama-cpp: cuts drafts of chains, expected no --topk or --branching beside it",
        ),
        (("--topk", 20, "--nodes", 600), "expected at most 512 of drafts that branch (--nodes, --branching)"),
        (policies("goodput:cuts=yes"), "--policy goodput: cuts is 'yes', expected true or false"),
        (("--spread", 0), "--spread: 0 is not allowed, expected a number above 0"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, run, user_error, options, message) -> None:
    user_error(run(*SERVED, "--rate", 5, *options), message)


def test_no_draft_is_longer_than_its_block(tmp_path, run, user_error) -> None:
    options = (
        "--profile",
        "h100-sxm",
        "--target-model",
        "llama-3.1-8b",
        "--method",
        "dflash",
        "--draftN",
        40,
        "--alpha",
        0.8,
    )
    done = run("simulate-serving", *options, "--rate", 5)
    user_error(done, "--draftN: 40 is above 15, a block of a usual DFlash drafter, expected 1 to 15")
