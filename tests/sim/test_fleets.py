"""`simulate-serving` with several servers: what is said of each, of KV between them, and how many a load takes."""

import csv
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from simulator.answers.fleets import each_server, uneven
from simulator.answers.load_curve import MOST_COUNTED, Task, traffic_of
from simulator.answers.load_search import servers_for
from simulator.answers.scene import CLIENTS, Scene, Traffic
from simulator.workloads.laws import parse_lengths
from simulator.workloads.requests import requests_of

SERVED = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--requests", 60, "--isl", 300, "--osl", 20)
APART = ("--prefill-replicas", 1, "--decode-replicas", 2, "--kv-transfer", 50)


def told(run, *options: object) -> dict[str, Any]:
    """Return what is told in JSON."""
    done = run("simulate-serving", *SERVED, *options, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_server_is_told_of(tmp_path, run) -> None:
    found = told(run, "--rate", 30, "--replicas", 3, "--requests-out", "r.csv", "--trace-out", "steps.json")
    plain, rows = found["points"][0]["plain"], list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    assert [each["requests"] for each in plain["each_server"]] == [20, 20, 20]
    assert [row["server"] for row in rows[:4]] == ["1", "2", "3", "1"]
    there = np.array([each["there"] for each in plain["each_server"]])
    assert plain["imbalance"] == pytest.approx(there.max() / there.mean())
    assert there.sum() == pytest.approx(plain["running"] + plain["waiting"])
    names = {event["args"]["name"] for event in json.loads((tmp_path / "steps.json").read_text())["traceEvents"][:9]}
    assert {"steps of server 1", "steps of server 3"} <= names
    # One server is told of as ever.
    assert not {"each_server", "imbalance"} & set(told(run, "--rate", 30)["points"][0]["plain"])


def test_a_load_of_all_is_a_third_of_it_on_each(run) -> None:
    three, one = (
        told(run, *options)["points"][0]["plain"]
        for options in (
            ("--rate", "30", "--burstiness", "inf", "--replicas", 3),
            ("--rate", "10", "--burstiness", "inf"),
        )
    )
    assert three["tpot_mean"] == pytest.approx(one["tpot_mean"], rel=0.02)
    assert three["busy"] == pytest.approx(one["busy"], rel=0.1)
    assert three["output_tokens_per_s"] > 2.5 * one["output_tokens_per_s"]


def test_kv_between_servers_takes_its_bytes_and_a_latency(run) -> None:
    # 300 tokens of 2 x 8 heads of 128 in each of 32 layers, two bytes each, over 50 GB/s; one request at a time.
    one = ("--rate", "1,2", "--burstiness", "inf", "--method", "eagle3", "--alpha", 0.8)
    both = told(run, *one, *APART, "--kv-latency", "2ms")["points"][0]
    plain, drafted = both["plain"], both["eagle3 K=4"]
    assert plain["handing_mean"] == pytest.approx(300 * 131_072 / 50e9 + 2e-3, rel=1e-9)
    assert plain["handing_mean"] < drafted["handing_mean"] < plain["handing_mean"] + 1e-4
    near = told(run, *one, *APART)["points"][0]["plain"]
    # So long there, a few more are there at once, for each of whom the engine takes a little.
    assert plain["ttft_mean"] - near["ttft_mean"] == pytest.approx(2e-3, rel=1e-3)
    assert plain["tpot_mean"] == pytest.approx(near["tpot_mean"])
    assert [each["requests"] for each in plain["each_server"]] == [60, 30, 30]


def test_the_text_says_which_servers_and_how_they_are_filled(run) -> None:
    done = run("simulate-serving", *SERVED, "--rate", 30, *APART, "--router", "least-loaded")
    text = " ".join(done.stdout.split())
    assert "each of 1 for prefill and 2 for decode, least-loaded: vllm" in text
    assert "the fullest server has, over the mean of them, at 30 requests/s: plain 1." in text
    assert "KV goes from prefill to decode, waits for room there included, in: plain " in text


def scene_of(**traffic: Any) -> Scene:
    """Return requests that nobody serves."""
    tokens = parse_lengths("--isl", "10", "prompt")
    return Scene(traffic=Traffic(**{"count": 8000, "isl": tokens, "osl": tokens, "longest": 100, **traffic}), arms=())


class Tried:
    """Servers of which so many carry any load."""

    def __init__(self, enough: int, piled_up: float = 0.0) -> None:
        self.enough, self.piled_up, self.asked = enough, piled_up, list[int]()

    def __call__(self, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        for task in tasks:
            self.asked.append(task.servers)
            figures = {"attained": float(task.servers >= self.enough), "piled_up": self.piled_up}
            yield {name: np.array([value]) for name, value in figures.items()}


@pytest.mark.parametrize(
    ("enough", "found", "asked"),
    [
        (4, (4, True), [4, 3]),
        (6, (6, True), [4, 5, 6]),
        (2, (2, True), [4, 3, 2, 1]),
        (99, (4, False), [*range(4, 11)]),
    ],
)
def test_as_many_servers_are_counted_as_carry_a_load_together(enough: int, found: Any, asked: list[int]) -> None:
    play: Any = Tried(enough)
    assert servers_for(scene_of(), 0, 300.0, 1000.0, 0.9, [0], play) == found
    assert play.asked == asked
    # Servers that fall behind carry nothing, but of clients, who wait for their answers.
    behind: Any = Tried(enough, 0.3)
    assert servers_for(scene_of(), 0, 300.0, 1000.0, 0.9, [0], behind) == (4, False)
    assert servers_for(scene_of(kind=CLIENTS), 0, 300.0, 1000.0, 0.9, [0], Tried(4, 0.3)) == (4, True)  # type: ignore[arg-type]


def test_a_load_that_cannot_be_tried_is_divided() -> None:
    play: Any = Tried(1)
    recorded = scene_of(recorded=requests_of([5], [5]))
    assert servers_for(recorded, 0, 300.0, 1000.0, 0.9, [0], play) == (4, False)
    assert servers_for(scene_of(), 0, 1.0, 1000.0, 0.9, [0], play) == (1000, False)
    assert play.asked == []
    # Runs too short to tell of a load that goes on.
    short: Any = Tried(1, float("nan"))
    assert servers_for(scene_of(), 0, 300.0, 1000.0, 0.9, [0], short) == (4, False)
    assert short.asked == [4]
    assert [servers_for(scene_of(), 0, carried, 9.0, 0.9, [0], play)[0] for carried in (0.0, np.inf)] == [None, 1]
    assert play.asked == []


def test_more_servers_are_tried_on_more_requests() -> None:
    counts = [traffic_of(scene_of(), Task(0, 1.0, 0, servers)).count for servers in (0, 1, 2, 9)]
    assert counts == [8000, 8000, 16000, MOST_COUNTED]
    assert traffic_of(scene_of(count=50_000), Task(0, 1.0, 0, 3)).count == 50_000
    assert Task(0, 1.0, 0).key != Task(0, 1.0, 0, 2).key


def test_how_uneven_servers_are_by_hand() -> None:
    assert uneven(np.array([3.0, 1.0, 2.0])) == 1.5
    assert uneven(np.zeros(3)) == 1
    assert each_server({"server_2_busy": np.array([0.5]), "server_1_busy": np.array([0.1]), "busy": np.ones(1)}) == [
        {"busy": 0.1},
        {"busy": 0.5},
    ]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            ("--router", "least-loaded"),
            "--router: of several servers, expected --replicas, --prefill-replicas or --for-load",
        ),
        (APART[:2], "--decode-replicas: missing, expected it beside --prefill-replicas"),
        (APART[2:4], "--prefill-replicas: missing, expected it beside --decode-replicas"),
        (APART[:4], "--kv-transfer: missing, expected GB/s of a prefill server's links"),
        ((*APART, "--replicas", 3), "--replicas: beside --prefill-replicas, expected one of them"),
        ((*APART, "--scheduler", "sglang"), "--prefill-replicas: by vLLM's rules, expected no --scheduler sglang"),
        *(
            ((*APART, "--kv-latency", time), f"--kv-latency: '{time}' is not allowed, expected a time such as 2ms")
            for time in ("x", "nan", "-1ms", "1e400", "2h")
        ),
        (("--slo", "ttft:nan"), "--slo: 'ttft:nan' is not allowed, expected ttft"),
        (
            ("--replicas", 2, "--kv-transfer", 5),
            "--kv-transfer: between prefill and decode, expected --prefill-replicas",
        ),
        (("--replicas", 2, "--slo", "tpot:9ms", "--for-load", 9), "--for-load: counts servers, expected no --replicas"),
        (
            ("--replicas", 2, "--router", "prefix-aware", "--no-prefix-caching"),
            "--router prefix-aware: beside --no-prefix",
        ),
        (("--replicas", 0), "--replicas"),
        ((*APART[:5], 0), "--kv-transfer"),
    ],
)
def test_servers_that_do_not_fit_together_are_refused(run, user_error, options: tuple[object, ...], error: str) -> None:
    user_error(run("simulate-serving", *SERVED, "--rate", 5, *options), error)
