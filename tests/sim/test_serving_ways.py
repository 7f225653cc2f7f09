"""Ways of serving that `simulate-serving` compares: draft lengths, methods, kinds of requests, recorded texts."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from acceptance.trace.trace import save_trace
from simulator.ground.histogram import AcceptanceHistogram
from simulator.rounds.acceptance_law import HistogramAcceptance
from simulator.rounds.request_laws import along, pooled
from tests.accept.traces import make_trace

SERVED = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--isl", 200, "--osl", 60, "--warmup", 0)
LOAD = (*SERVED, "--requests", 40, "--rate", 20)
EAGLE = (*LOAD, "--method", "eagle3")


def rounds(path: Path, serving: str) -> list[dict[str, str]]:
    return [row for row in csv.DictReader(path.read_text().splitlines()) if row["serving"] == serving]


def test_each_draft_length_is_a_way_of_serving_as_it_is_alone(run) -> None:
    both = json.loads(run("simulate-serving", *EAGLE, "--alpha", 0.7, "--draftN", "1,3", "--json").stdout)
    alone = json.loads(run("simulate-serving", *EAGLE, "--alpha", 0.7, "--draftN", 3, "--json").stdout)
    assert list(both["turning"]) == ["eagle3 K=1", "eagle3 K=3"]
    assert both["points"][0]["eagle3 K=3"] == alone["points"][0]["eagle3 K=3"]


def test_each_method_has_its_own_acceptance_and_costs(run) -> None:
    stated = ("--acceptance", "eagle3=0.8", "--acceptance", "ngram=0.4", "--draftN", 2)
    done = run("simulate-serving", *LOAD, "--method", "eagle3,ngram", *stated, "--json")
    both = json.loads(done.stdout)["points"][0]
    for method, alpha in (("eagle3", 0.8), ("ngram", 0.4)):
        own = ("--method", method, "--alpha", alpha, "--draftN", 2, "--json")
        alone = json.loads(run("simulate-serving", *LOAD, *own).stdout)["points"][0]
        assert both[f"{method} K=2"] == alone[f"{method} K=2"]
    assert "alpha is 0.8 for" not in done.stdout
    assert "(eagle3) and" in json.loads(done.stdout)["basis"]["condition"]


def test_an_engines_schedule_is_its_policy(run) -> None:
    config = {
        "method": "eagle3",
        "num_speculative_tokens": 5,
        "num_speculative_tokens_per_batch_size": [[1, 2, 5], [3, 64, 1]],
    }
    by_engine = (*LOAD, "--speculative-config", json.dumps(config), "--alpha", 0.8, "--json")
    by_policy = (*EAGLE, "--policy", "vllm-by-batch:ranges=[[1,2,5],[3,64,1]]", "--alpha", 0.8, "--json")
    said = [json.loads(run("simulate-serving", *options).stdout) for options in (by_engine, by_policy)]
    assert said[0]["points"] == said[1]["points"]
    refused = run("simulate-serving", *by_engine, "--policy", "goodput")
    assert refused.returncode == 2
    assert (
        refused.stderr
        == "simulate-serving: --policy: beside the schedule of --speculative-config, expected one of them\n"
    )


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """Two kinds of requests: of one all drafts are accepted, of the other none."""
    for name, hist in (("code", {"3": 50}), ("chat", {"0": 50})):
        (tmp_path / "by" / name).mkdir(parents=True)
        (tmp_path / "by" / name / "accept_hist_k3.json").write_text(json.dumps({"k": 3, "hist": hist}))
    return tmp_path / "by"


def test_requests_accept_as_their_category_does(tmp_path, run, groups) -> None:
    lines = [
        "prompt_tokens,output_tokens,sent_s,category",
        *(f"100,41,{i},{'chat' if i % 3 else 'code'}" for i in range(9)),
    ]
    (tmp_path / "load.csv").write_text("\n".join(lines) + "\n")
    load = (*SERVED[:4], "--method", "eagle3", "--warmup", 0, "--workload", "load.csv", "--hist", "by", "--draftN", 3)
    done = run("simulate-serving", *load, "--requests-out", "requests.csv")
    assert done.returncode == 0, done.stderr
    took = [int(row["rounds"]) for row in rounds(tmp_path / "requests.csv", "eagle3 K=3")]
    # The first token comes with the prompt; then 40, four or one a round.
    assert took == [40 if i % 3 else 10 for i in range(9)]
    (tmp_path / "load.csv").write_text("\n".join([*lines, "100,40,9,poetry"]) + "\n")
    refused = run("simulate-serving", *load)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "requests of 'poetry', of whose acceptance nothing is known" in refused.stderr


def test_without_categories_each_request_draws_one_and_that_is_said(tmp_path, run, groups) -> None:
    done = run("simulate-serving", *EAGLE, "--hist", "by", "--draftN", 3, "--requests-out", "requests.csv")
    assert "accepts as one of chat, code, as likely each" in done.stdout.replace("\n ", "")
    took = {int(row["rounds"]) for row in rounds(tmp_path / "requests.csv", "eagle3 K=3")}
    assert took == {59, 15}


def test_one_law_serves_requests_of_any_category(tmp_path, run) -> None:
    (tmp_path / "load.csv").write_text(
        "prompt_tokens,output_tokens,sent_s,category\n100,50,0,a\n100,50,1,b\n100,50,2,c\n"
    )
    load = (*SERVED[:4], "--method", "eagle3", "--warmup", 0, "--workload", "load.csv", "--alpha", 1, "--draftN", 4)
    done = run("simulate-serving", *load, "--requests-out", "requests.csv")
    assert done.returncode == 0, done.stderr
    assert {row["rounds"] for row in rounds(tmp_path / "requests.csv", "eagle3 K=4")} == {"10"}


def test_requests_go_along_the_texts_of_a_trace(tmp_path, run) -> None:
    trace = make_trace([[1.0, 1.0, 0.0] * 30, [0.0] * 90], categories=["code", "chat"])
    save_trace(tmp_path, trace, {"temperature": 1.0, "draft_temperature": 0})
    options = ("--trace", "trace.json", "--draftN", "2,5", "--requests-out", "requests.csv")
    done = run("simulate-serving", *EAGLE, *options)
    assert done.returncode == 0, done.stderr
    for k in (2, 5):
        took = {int(row["rounds"]) for row in rounds(tmp_path / "requests.csv", f"eagle3 K={k}")}
        # Three tokens a round along one text, one along the other.
        assert took == {20, 59}
    for more, word in ((("--alpha", 0.5), "--alpha"), (("--hist", "x.json"), "x.json")):
        refused = run("simulate-serving", *EAGLE, *options[:2], *more)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert f"--trace: trace.json beside {word}" in refused.stderr


def test_rounds_along_a_text_by_hand() -> None:
    rng = np.random.default_rng(0)
    text = np.array([1, 1, 1, 0, 0, 1, 1, 0, 1])
    found = along([text], 4, rng)
    # K = 1: 1|1, 1|0, 0, 1|1, 0, then the text ends. K = 4: 111|0, 0, 11|0.
    assert found[0].tolist() == [2, 3]
    assert found[3].tolist() == [1, 0, 1, 1, 0]
    rates = np.full(40_000, 0.6)
    counts = along([rates], 3, rng)[2]
    assert counts.sum() * (1 + 0.6 + 0.36 + 0.216) == pytest.approx(40_000, rel=0.01)
    assert counts[0] / counts.sum() == pytest.approx(0.4, abs=0.02)


def test_kinds_together_count_all_rounds_of_the_lengths_that_they_share() -> None:
    one = HistogramAcceptance((AcceptanceHistogram((3.0, 1.0)), AcceptanceHistogram((2.0, 1.0, 1.0), prompts=2)))
    other = HistogramAcceptance((AcceptanceHistogram((0.0, 2.0, 4.0), prompts=3),))
    assert [(h.counts, h.prompts) for h in pooled([one, other]).histograms] == [((2.0, 3.0, 5.0), 5)]


def test_that_vllm_verifies_no_trees_is_said_beside_its_scheduler_alone(run) -> None:
    tree = (*SERVED, "--requests", 6, "--rate", 20, "--method", "eagle3", "--branching", "2,1", "--alpha", 0.7)
    for scheduler in ("vllm", "sglang"):
        done = run("simulate-serving", *tree, "--scheduler", scheduler)
        assert ("vLLM verifies no trees" in done.stdout) == (scheduler == "vllm"), done
