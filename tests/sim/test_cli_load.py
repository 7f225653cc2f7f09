"""`simulate` and `sweep` of a served load: what they say is the closed form's, and what is wrong takes one line."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.costs.parameters import DeviceOptions, Point
from simulator.costs.priced import load_pricing
from simulator.rounds.loads import off_by
from simulator.serving.steady import steady

MODEL = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b")
LOAD = (*MODEL, "--concurrency", 32, "--isl", "2k", "--osl", 256)
WOULD = "It would with --tp 2, or with --dtype fp8."
DRAFTED = (*LOAD, "--method", "eagle3", "--alpha", 0.7)


def told(output: Any, *arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output("simulate", *arguments, "--json"))
    return found


def by_hand(draft_length: Any = None, tau: Any = None, clients: Any = 32, isl: Any = 2000, **more: Any) -> Any:
    pricing = load_pricing(DeviceOptions(profile="h100-sxm", target_model="llama-3.1-8b", method="eagle3"))
    pair = pricing.costs(Point(**pricing.defaults()))
    return steady(pair, clients, isl, 256, draft_length=draft_length, tokens_per_round=tau, **more)


def test_a_load_is_answered_first_and_told_as_the_closed_form_has_it(output) -> None:
    found, tau = told(output, *DRAFTED, "--draftN", 3), (1 - 0.7**4) / 0.3
    plain, drafted = by_hand(), by_hand(3, tau)
    assert found["plain"]["tpot_ms"] == pytest.approx(1e3 * float(plain.tpot_s))
    assert found["speculative"]["ttft_ms"] == pytest.approx(1e3 * float(drafted.ttft_s))
    gain = float(drafted.output_tokens_per_s / plain.output_tokens_per_s)
    verdict = found["verdict"]
    low, high = verdict["speedup_ci95"]
    assert verdict["speedup"] == pytest.approx(gain)
    assert 1 < low < gain < high
    lengths = np.arange(1, 17)
    gains = by_hand(lengths, (1 - 0.7 ** (lengths + 1)) / 0.3).output_tokens_per_s / plain.output_tokens_per_s
    assert verdict["best_draft_length"] == 1 + int(gains.argmax())
    assert verdict["best_speedup"] == pytest.approx(float(gains.max()))
    text = output("simulate", *DRAFTED, "--draftN", 3, "--why")
    assert f"If alpha is 0.7: {gain:.2f}x the tokens a second ({low:.2f}x to {high:.2f}x) for 32 clients" in text
    assert f"plain: of 255 passes {float(plain.mixed_share):.1%} carry prompts of others" in text
    assert "host: 25.6 ms of a pass with a prompt" in text
    assert "time of the host" in text
    assert text == output("simulate", *DRAFTED, "--draftN", 3, "--why")


def test_tokens_a_second_of_full_places_hang_on_a_token_alone() -> None:
    """Whose requests wait for a place longer lose nothing of them; where none waits they do."""
    for clients, most in ((32, np.inf), (64, 32)):
        one = by_hand(clients=clients, most_running=most)
        rates = [
            float(off_by(one, clients, 256, tpot, ttft).output_tokens_per_s) for tpot, ttft in ((1, 1), (1, 3), (2, 1))
        ]
        assert rates[0] == pytest.approx(float(one.output_tokens_per_s))
        assert (rates[1] == pytest.approx(rates[0])) == (most < clients)
        assert rates[1] <= rates[0]
        assert 0.5 * rates[0] <= rates[2] < 0.6 * rates[0]


def test_a_target_alone_serves_a_load_too(output) -> None:
    found, plain = told(output, *LOAD), by_hand()
    assert (found["verdict"], found["speculative"]) == (None, None)
    assert found["plain"]["output_tokens_per_s"] == pytest.approx(float(plain.output_tokens_per_s))
    assert found["plain"].keys() >= {"tpot_ms", "ttft_ms", "mixed_share", "running"}
    assert not {"draftN", "alpha", "replications"} & found["parameters"].keys()
    first, *_ = output("simulate", *LOAD).splitlines()
    assert first.startswith(f"{float(plain.output_tokens_per_s):,.0f} tokens a second (")


def test_how_an_engine_serves_is_told_by_options_of_any_engine(output) -> None:
    options = ("--max-num-batched-tokens", 2048, "--max-num-seqs", 16, "--prefix-hit", 0.5, "--num-prompts", 320)
    found = told(output, *LOAD, *options)["plain"]
    plain = by_hand(chunk=2048, most_running=16, prefix_hit=0.5, requests=320)
    assert found["ttft_ms"] == pytest.approx(1e3 * float(plain.ttft_s))
    assert found["running"] == 16
    assert "Of 32 at once 16 run: the others wait" in output("simulate", *LOAD, *options)
    for option, more in (("--prompts-first", {"mixed": False}), ("--same-length", {"alike": True})):
        assert told(output, *LOAD, option)["plain"]["tpot_ms"] == pytest.approx(1e3 * float(by_hand(**more).tpot_s))


def test_a_load_that_does_not_fit_is_an_answer(output) -> None:
    arguments = ("--profile", "h100-sxm", "--target-model", "llama-3.1-70b", "--isl", 100, "--osl", 100)
    text = output("simulate", *arguments)
    assert text.startswith("Does not fit into memory: no request can run.")
    found = told(output, *arguments)
    assert (found["plain"], found["notes"]) == (None, ["assumed: 1 client (--concurrency)", WOULD])
    for more in (("--tp", 2), ("--dtype", "fp8")):
        assert told(output, *arguments, *more)["plain"] is not None
    assert WOULD in text
    assert WOULD in output("sweep", *arguments)
    drafted = (*arguments[:4], "--method", "eagle3")
    assert "It would with --tp 4." in output("simulate", *drafted, "--batch", 32, "--replications", 1)
    assert WOULD in output("sweep", *drafted, "--concurrency", "2,4")
    largest = ("--profile", "rtx-4090", "--target-model", "deepseek-v3", "--concurrency", 1)
    assert "It would not on more devices of one machine" in output("simulate", *largest)


def test_a_batch_decodes_and_clients_send_a_load_of_usual_lengths(output) -> None:
    """One thing by two names but for what it is of: any of clients and lengths makes a load, and the rest is said."""
    found = told(output, *MODEL, "--method", "eagle3", "--replications", 2, "--total", 30, "--batch", 8)
    assert (found["kind"], found["parameters"]["batch"]) == ("simulation", 8)
    whole = told(output, *MODEL, "--concurrency", 8, "--isl", 1024, "--osl", 256)
    part = told(output, *MODEL, "--concurrency", 8)
    assert (part["plain"], part["parameters"]["concurrency"]) == (whole["plain"], 8)
    for also in (("--max-concurrency", 8), ("--clients=8",), ("--batch", 8, "--concurrency", 8)):
        assert told(output, *MODEL, *also)["plain"] == whole["plain"]
    assert (part["notes"], whole["notes"]) == (["assumed: 1,024 tokens in (--isl), 256 tokens out (--osl)"], [])
    assert "assumed: 1 client (--concurrency), 256 tokens out (--osl)" in output("simulate", *MODEL, "--isl", 300)
    assert "\nassumed: 1,024 tokens in" in output("sweep", *MODEL, "--concurrency", "1,8")
    both = ("--method", "eagle3,ngram", "--concurrency", "1,8")
    beyond = output("sweep", *MODEL, *both[:3], "1,8,10000")
    assert "warning: --concurrency 10,000: not shown, memory holds " in beyond
    assert "concurrency 1  concurrency 8\n" in beyond
    assert json.loads(output("sweep", *MODEL, *both, "--json"))["notes"] == part["notes"]


def test_groups_of_devices_share_experts_and_each_has_its_own_attention(output) -> None:
    model = ("--profile", "h200", "--target-model", "deepseek-v3", "--concurrency", 64)
    pricing = load_pricing(DeviceOptions(profile="h200", target_model="deepseek-v3", method="ngram", tp=8))
    assert pricing.models is not None
    alone = pricing.models.placed_target
    for tp, dp in ((1, 8), (4, 2)):
        found = told(output, *model, "--tp", tp, "--data-parallel-size", dp)
        expected = steady(replace(alone, replicas=dp), 64, 1024, 256)
        assert found["plain"]["tpot_ms"] == pytest.approx(1e3 * float(expected.tpot_s))
        assert (found["parameters"]["tp"], found["parameters"]["dp"]) == (tp, dp)
    assert found["plain"]["tpot_ms"] != pytest.approx(1e3 * float(steady(alone, 64, 1024, 256).tpot_s))


def test_an_answer_of_one_token_has_no_time_a_token(output) -> None:
    found, alone = told(output, *MODEL, "--concurrency", 8, "--isl", "1k", "--osl", 1), steady_one(8)
    assert (found["plain"]["tpot_ms"], found["plain"]["tpot_ms_ci95"]) == (None, None)
    assert found["plain"]["ttft_ms"] == pytest.approx(1e3 * float(alone.ttft_s))
    # All clients wait for their token, and for nothing else.
    clients = found["plain"]["output_tokens_per_s"] * found["plain"]["ttft_ms"] / 1e3
    assert clients == pytest.approx(8)
    low, high = found["plain"]["output_tokens_per_s_ci95"]
    assert low < found["plain"]["output_tokens_per_s"] < high
    text = output("simulate", *MODEL, "--method", "eagle3", "--concurrency", 8, "--isl", "1k", "--osl", 1, "--why")
    assert "the only token after" in text
    assert "nan" not in text + output("sweep", *MODEL, "--concurrency", 8, "--osl", "1,9")


def steady_one(clients: int) -> Any:
    pricing = load_pricing(DeviceOptions(profile="h100-sxm", target_model="llama-3.1-8b", method="ngram"))
    return steady(pricing.costs(Point(**pricing.defaults())), clients, 1000, 1)


def test_requests_fewer_than_clients_leave_some_idle(output) -> None:
    found = told(output, *LOAD, "--requests", 8)
    assert found["plain"] == told(output, *LOAD[:4], "--concurrency", 8, *LOAD[6:], "--requests", 8)["plain"]
    assert found["notes"] == ["Requests are fewer than clients (--requests 8): 24 clients send none."]
    text = output("simulate", *LOAD, "--requests", 8)
    assert " for 8 clients: " in text
    assert "wait" not in text.replace("of it waiting", "")
    few = output("simulate", *LOAD, "--requests", 8, "--max-running", 2)
    assert "Of 8 at once 2 run: the others wait as --max-running says." in few


def test_a_sweep_over_loads_has_a_row_each(output, tmp_path: Path) -> None:
    arguments = (*MODEL, "--method", "eagle3", "--alpha", 0.7, "--concurrency", "1,32", "--isl", "256,2k", "--osl", 256)
    said = output("sweep", *arguments, "--draftN", "1:3", "--out", "loads.csv")
    rows = list(csv.DictReader((tmp_path / "loads.csv").read_text().splitlines()))
    assert len(rows) == 12
    assert {(row["chunk"], row["max_running"], row["prompts_first"]) for row in rows} == {("8192", "inf", "False")}
    for row in rows:
        k = int(row["draftN"])
        at, tau = (int(row["concurrency"]), int(row["isl"])), (1 - 0.7 ** (k + 1)) / 0.3
        both = by_hand(None, None, *at), by_hand(k, tau, *at)
        assert float(row["baseline_ms_per_token"]) == pytest.approx(1e3 * float(both[0].tpot_s))
        assert float(row["speculative_first_token_ms"]) == pytest.approx(1e3 * float(both[1].ttft_s))
        gain = float(both[1].output_tokens_per_s / both[0].output_tokens_per_s)
        assert float(row["closed_form_speedup"]) == pytest.approx(gain)
        for name in ("closed_form_speedup", "baseline_ms_per_token", "speculative_tokens_per_s"):
            assert float(row[f"{name}_low95"]) < float(row[name]) < float(row[f"{name}_high95"])
    for answer in json.loads(output("sweep", *arguments, "--draftN", "1:3", "--json"))["answers"]:
        at = {"draftN": answer["drafted"], **answer["values"]}
        (row,) = (row for row in rows if all(float(row[name]) == value for name, value in at.items()))
        assert answer["served"] == {n: pytest.approx(float(row[f"speculative_{n}"])) for n in answer["served"]}
    assert "ms/token  first, ms" in said
    best = max(rows, key=lambda row: float(row["closed_form_speedup"]))
    assert f"at most {float(best['closed_form_speedup']):.2f}x the tokens a second" in said
    assert [line.split()[:2] for line in said.splitlines() if line.strip().startswith(("1  ", "32  "))] == [
        ["1", "256"],
        ["1", "2,000"],
        ["32", "256"],
        ["32", "2,000"],
    ]


def test_methods_are_held_side_by_side_under_a_load(output) -> None:
    arguments = (
        *MODEL,
        "--method",
        "eagle3,ngram",
        "--isl",
        "2k",
        "--osl",
        256,
        "--concurrency",
        "1,32",
        "--draftN",
        3,
    )
    found = json.loads(output("sweep", *arguments, "--acceptance", "eagle3=0.7", "--json"))
    best = {row["method"]: row["best"] for row in found["methods"]}
    for clients in (1, 32):
        drafted, plain = by_hand(3, (1 - 0.7**4) / 0.3, clients), by_hand(clients=clients)
        gain = float(drafted.output_tokens_per_s / plain.output_tokens_per_s)
        assert best["eagle3"][str(clients)] == {"draft_length": 3, "speedup": pytest.approx(gain)}
    assert "clients with 2,000 tokens in and 256 out" in output("sweep", *arguments)


REFUSED = [
    (
        MODEL,
        "--target-model: llama-3.1-8b alone, nothing drafts for it; expected --method or --draft-model beside it, "
        "or --concurrency (--isl, --osl) for plain serving",
    ),
    ((*MODEL, "--chunk", 10), "--chunk: of a load, expected --concurrency, --isl or --osl beside it"),
    (
        ("--isl", 100, "--osl", 20),
        "--profile: missing of a load (--concurrency, --isl, --osl), expected --profile and --target-model",
    ),
    (
        ("--profile", "h100-sxm", "--concurrency", 9),
        "--target-model: missing of a load (--concurrency, --isl, --osl), expected --profile and --target-model",
    ),
    (
        (*LOAD, "--csv", "x.csv"),
        "--csv: has no part in a load (--isl, --osl), expected no such option; sweep --out FILE writes loads",
    ),
    ((*LOAD, "--total", 5), "--total: has no part in a load (--isl, --osl), expected no such option"),
    ((*LOAD, "--overlap"), "--overlap: has no part in a load (--isl, --osl), expected no such option"),
    (
        (*MODEL, "--concurrency", 8, "--context", 4096),
        "--context: has no part in a load (--concurrency), expected no such option, or --batch in place of "
        "--concurrency",
    ),
    ((*LOAD, "--osl", 1), "--osl: 1 beside --osl 256, expected one of them"),
    ((*MODEL, "--isl", 9, "--osl", 0), "--osl: 0 is not allowed, expected a whole number from 1 to 1e+08"),
    (
        (*LOAD, "--dp", 2),
        "--dp: llama-3.1-8b has no experts to share, its replicas serve apart, each a share of the load: expected "
        "--concurrency divided by 2, and no such option",
    ),
    (
        (*DRAFTED, "--dp", 2),
        "--dp: drafts beside attention of several groups are not priced, expected no such option",
    ),
    ((*LOAD, "--prefix-hit", 70), "--prefix-hit: 70 is not a fraction; 0.7?"),
    ((*LOAD, "--draftN", 3), "--draftN: of drafts, expected --method or --draft-model beside it"),
    ((*DRAFTED, "--draftN", 7, "--chunk", 7), "--chunk: 7 tokens a pass hold no round of K = 7, expected 8 or more"),
    ((*LOAD, "--prompts-first", "--same-length"), "--same-length: beside --prompts-first, expected one of them"),
]


@pytest.mark.parametrize(("arguments", "expected"), REFUSED)
def test_what_tells_no_load_is_refused_in_one_line(run, arguments: tuple[object, ...], expected: str) -> None:
    done = run("simulate", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip() == f"simulate: {expected}"


def test_a_sweep_of_a_target_alone_is_what_simulate_says_of_each_load(output, tmp_path: Path) -> None:
    """Devices, chunks and shares that lie in the cache take lists as clients and lengths do."""
    lists = ("--concurrency", "1,32", "--isl", "2k", "--osl", 256, "--tp", "1:2", "--prefix-hit", "0,50%")
    found = json.loads(output("sweep", *MODEL, *lists, "--json"))
    assert [answer["values"] for answer in found["answers"]] == [
        {"tp": tp, "prefix_hit": hit, "concurrency": clients}
        for tp in (1, 2)
        for hit in (0, 0.5)
        for clients in (1, 32)
    ]
    for answer in found["answers"][1::4]:
        tp, hit, clients = (answer["values"][name] for name in ("tp", "prefix_hit", "concurrency"))
        one = told(output, *MODEL, "--concurrency", int(clients), *lists[2:6], "--tp", int(tp), "--prefix-hit", hit)
        assert answer["plain"] == one["plain"]
    most = max(answer["plain"]["output_tokens_per_s"] for answer in found["answers"])
    assert found["best"]["plain"]["output_tokens_per_s"] == most
    text = output("sweep", *MODEL, *lists, "--out", "loads.csv")
    assert text.startswith(f"At most {most:,.0f} tokens a second (")
    rows = list(csv.DictReader((tmp_path / "loads.csv").read_text().splitlines()))
    assert max(float(row["baseline_tokens_per_s"]) for row in rows) == pytest.approx(most)
    assert [row["tp"] for row in rows] == ["1"] * 4 + ["2"] * 4
    for row, answer in zip(rows, found["answers"], strict=True):
        ends = [float(row[f"baseline_ms_per_token_{end}95"]) for end in ("low", "high")]
        assert ends == pytest.approx(answer["plain"]["tpot_ms_ci95"])
    beyond = ("--concurrency", 4, "--isl", "100k,200k", "--osl", 256, "--prefix-hit", 0.99)
    assert "beyond the 131,072 tokens that the target" in output("sweep", *MODEL, *beyond)


def test_lists_of_devices_and_chunks_are_sweeps_of_their_own(output, tmp_path: Path) -> None:
    arguments = (*MODEL, "--method", "eagle3", "--alpha", 0.7, "--concurrency", "1,32", "--isl", "2k", "--osl", 256)
    lists = ("--draftN", "1:3", "--tp", "1,2", "--chunk", "2k,8k")
    said = output("sweep", *arguments, *lists, "--out", "all.csv")
    assert "24 points over tp, chunk, draftN, concurrency" in said
    rows = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    alone = json.loads(output("sweep", *arguments, "--draftN", "1:3", "--tp", 2, "--chunk", "2k", "--json"))
    together = json.loads(output("sweep", *arguments, *lists, "--json"))
    of_case = [a for a in together["answers"] if (a["values"]["tp"], a["values"]["chunk"]) == (2, 2000)]
    assert [a | {"values": {"concurrency": a["values"]["concurrency"]}} for a in of_case] == alone["answers"]
    best = max(rows, key=lambda row: float(row["closed_form_speedup"]))
    assert f"at most {float(best['closed_form_speedup']):.2f}x the tokens a second" in said
    # One client reads its prompts in one pass either way.
    assert f"at tp {best['tp']}, chunk " in said


LISTS = [
    ((*LOAD, "--draftN", "1:3"), "--draftN: of drafts, expected --method or --draft-model beside it"),
    ((*LOAD, "--plot", "x.png"), "--plot x.png: of drafts, expected --method or --draft-model beside it"),
    ((*DRAFTED, "--tp", "1,2", "--plot", "x.png"), "--tp: several values beside --plot x.png, expected one"),
    (
        (*LOAD, "--method", "eagle3,mtp", "--chunk", "1k,2k"),
        "--chunk: several values beside several methods, expected one",
    ),
    ((*LOAD, "--tp", "1:65"), "--tp: 65 combinations, expected at most 64"),
    ((*LOAD, "--prefix-hit", "0.5,70"), "--prefix-hit: 70 is not a fraction; 0.7?"),
    ((*LOAD, "--max-num-seqs", "0,4"), "--max-num-seqs: 0 is not allowed, expected a whole number of at least 1"),
    ((*LOAD, "--tp", "1,3"), "--tp: 3 devices cannot share the 32 heads"),
]


@pytest.mark.parametrize(("arguments", "expected"), LISTS)
def test_lists_that_are_wrong_are_refused_in_one_line(run, arguments: tuple[object, ...], expected: str) -> None:
    done = run("sweep", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"sweep: {expected}"), done.stderr


@pytest.mark.parametrize("command", ["simulate", "sweep"])
@pytest.mark.parametrize("option", ["--round-overhead 2", "--draft-dtype fp8", "--topk 4", "--placement same"])
def test_what_is_of_drafts_alone_is_refused_beside_none(run, user_error, command: str, option: str) -> None:
    user_error(run(command, *LOAD, *option.split()), f"{option.split()[0]}: of drafts, expected --method")


def test_a_load_without_drafts_names_no_drafter_and_no_acceptance(run) -> None:
    told = json.loads(run("simulate", *LOAD, "--json").stdout)
    assert (told["basis"]["acceptance"], told["basis"]["condition"], told["verdict"]) == ("none", "", None)
    assert told["parameters"]["method"] is None
    assert not {"alpha", "draftN", "round_overhead_ms"} & told["parameters"].keys()
