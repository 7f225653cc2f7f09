"""`simulate-serving`: what it tells are the figures of the run, by formula; bad input is one line."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from simulator.answers.latency import Limit, Told, meets, percentile, seen_of, with_interval
from simulator.answers.load_curve import Point
from simulator.answers.load_curve_report import pays_in_words
from simulator.answers.load_search import EARLIER, Turning, narrowed, unsure
from simulator.answers.load_uncertainty import Served, known
from simulator.answers.loads import forecast_load
from simulator.answers.scene import Scene, Traffic, loaded
from simulator.answers.served import serve, ways_of
from simulator.answers.ways import Server
from simulator.costs.parameters import DeviceOptions, Load
from simulator.costs.priced import Pricing, load_pricing
from simulator.ground import pictures
from simulator.ground.artefacts import UserError
from simulator.rounds.acceptance_law import IidAcceptance
from simulator.workloads.laws import parse_lengths
from tests.conftest import instead

SERVED = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--requests", 60, "--isl", "200:400", "--osl", 40)
DRAFTED = (*SERVED, "--method", "eagle3", "--alpha", 0.8, "--draftN", 3)


def test_figures_are_those_of_the_requests_by_formula(tmp_path, run) -> None:
    done = run(
        *("simulate-serving", *DRAFTED, "--rate", "20,21", "--warmup", 0, "--slo", "ttft:90ms,tpot:9ms", "--json"),
        *("--requests-out", "requests.csv", "--out", "loads.csv", "--trace-out", "steps.json"),
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["points"][0]
    rows = list(csv.DictReader((tmp_path / "requests.csv").read_text().splitlines()))
    for way in ("plain", "eagle3 K=3"):
        sent, first, end, tokens = (
            np.array([float(row[name]) for row in rows if row["serving"] == way])
            for name in ("sent_s", "first_s", "end_s", "output_tokens")
        )
        assert len(sent) == 60
        tpot = (end - first) / (tokens - 1)
        for measure, values in (("ttft", first - sent), ("e2e", end - sent), ("tpot", tpot)):
            assert told[way][f"{measure}_mean"] == pytest.approx(values.mean(), rel=1e-12)
            for q in (50, 90, 99):
                assert told[way][f"{measure}_p{q}"] == pytest.approx(np.percentile(values, q), rel=1e-12)
        good = (first - sent <= 0.09) & (tpot <= 0.009)
        assert 0 < told[way]["attained"] == pytest.approx(good.mean())
        assert told[way]["output_tokens_per_s"] == pytest.approx(tokens.sum() / (end.max() - sent.min()))
    drafted = told["eagle3 K=3"]
    assert drafted["e2e_gain"] == pytest.approx(told["plain"]["e2e_mean"] / drafted["e2e_mean"])
    events = json.loads((tmp_path / "steps.json").read_text())["traceEvents"]
    ends = [event["ts"] + event["dur"] for event in events if event["ph"] == "X" and event["pid"] == 1]
    assert max(ends) == pytest.approx(1e6 * max(float(r["end_s"]) for r in rows if r["serving"] == "plain"), abs=0.01)
    assert len((tmp_path / "loads.csv").read_text().splitlines()) == 5


def test_rounds_of_a_search_draft_what_they_find(tmp_path, run) -> None:
    """Sixty of a hundred find nothing: they verify one token, and what was drafted was accepted as it was counted."""
    table = {"0": [60], "3": [10, 5, 5, 20]}
    (tmp_path / "h.json").write_text(json.dumps({"k": 3, "hist": {"0": 10, "3": 30}, "by_draft_length": table}))
    words = ("--method", "ngram", "--hist", "h.json", "--draftN", 3, "--concurrency", 4, "--json")
    done = run("simulate-serving", *SERVED, *words)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["points"][0]["ngram K=3"]
    assert told["accepted_of_drafted"] == pytest.approx(75 / 120, rel=0.06)
    assert told["tokens_a_round"] == pytest.approx(1.75, rel=0.05)


def test_a_program_serves_what_the_command_serves(run) -> None:
    device = DeviceOptions(profile="h100-sxm", target_model="llama-3.1-8b", method="eagle3")
    traffic = Traffic(count=60, isl=parse_lengths("isl", "200:400"), osl=parse_lengths("osl", "40"), longest=131_072)
    ways = ways_of(load_pricing(device), traffic, Server(longest=131_072), IidAcceptance(0.8), ["static:k=3"])
    found = serve(Scene(traffic=traffic, arms=ways), [5, 20])
    told = json.loads(run("simulate-serving", *DRAFTED, "--rate", "5,20", "--json").stdout)["points"]
    for point, said in zip(found, told, strict=True):
        for arm, way in enumerate(way.name for way in ways):
            for name in ("ttft_p99", "tpot_p50", "e2e_mean", "goodput", "kv_used"):
                assert point.told(arm, name).value == said[way][name]
        assert point.gain("e2e_mean", 1).value == said["eagle3 K=3"]["e2e_gain"]
    with pytest.raises(UserError, match="pricing: without models, expected a profile, a target"):
        ways_of(Pricing(), traffic, Server(longest=4096), IidAcceptance(0.8))


def test_same_seed_same_words_and_plain_alone_is_the_plain_of_both(tmp_path, run) -> None:
    loads = ("--concurrency", "1,8", "--json")
    both, again, alone = (
        json.loads(run("simulate-serving", *options, *loads).stdout) for options in (DRAFTED, DRAFTED, SERVED)
    )
    assert both["points"] == again["points"]
    assert [point["plain"] for point in both["points"]] == [point["plain"] for point in alone["points"]]
    assert both["points"][1]["plain"]["running"] > 4 * both["points"][0]["plain"]["running"]


def test_the_text_answers_first(tmp_path, run) -> None:
    done = run("simulate-serving", *DRAFTED, "--rate", "5,20", "--slo", "tpot:9ms", "--for-load", 100)
    assert done.returncode == 0, done.stderr
    assert "If alpha is 0.8, it pays from 5 to 20 requests/s" in " ".join(done.stdout.split())
    assert "for 100 requests/s: plain " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_limits_and_intervals_by_hand() -> None:
    seen = seen_of(*(np.array(v, np.float64) for v in ([0, 1, 2], [0, 1, 3], [1, 2, 5], [3, 2, np.nan], [3, 1, 4])))
    assert seen.tpot_s[0] == 1
    assert np.isnan(seen.tpot_s[1])
    # An answer of one token has no time a token; what never ended is within no limit.
    assert meets(seen, (Limit("tpot", 1.0), Limit("ttft", 1.0))).tolist() == [True, True, False]
    assert percentile(np.array([np.nan, 1.0, 3.0]), 50) == 2
    # Student's interval of ten batches with mean 0 and deviation 1: 2.262 / sqrt(10).
    batches = np.array([1.0, -1.0] * 5)
    batches *= 1 / batches.std(ddof=1)
    told = with_interval(5.0, batches + 5)
    assert told.high - 5 == 5 - told.low == pytest.approx(2.2622 / np.sqrt(10), rel=1e-4)
    # No time is below nothing, no share above all.
    assert with_interval(0.5, batches + 0.5, most=1.0)[1:] == (0.0, 1.0)


def test_a_gain_is_known_as_the_closed_form_knows_it_and_as_runs_do() -> None:
    device = DeviceOptions(profile="h100-sxm", target_model="llama-3.1-8b", method="eagle3")
    pair, acceptance = load_pricing(device).models, IidAcceptance(0.8)
    served = Served(pair, acceptance, 3, 500, 100, 8192)
    form = forecast_load(replace(pair, batch=8), Load(chunk=8192), 500, 100, acceptance, 3, np.arange(1, 4))
    ratios = [end / form.speedup for end in form.speedup_ci95]

    def point(noise: float) -> Point:
        drafted = np.array([1.0, *(1 + noise * np.array([1, -1] * 5))])
        plain = {"e2e_mean": np.full(11, 2.0), "running": np.array([8.2])}
        return Point(5.0, (plain, {"e2e_mean": drafted}))

    sure, noisy = (known(point(noise), "e2e_mean", 1, served) for noise in (0.0, 0.2))
    assert (sure.value, sure.low, sure.high) == pytest.approx((2, 2 * ratios[0], 2 * ratios[1]), rel=1e-9)
    assert noisy.low < sure.low < 2 < sure.high < noisy.high


def test_a_search_ends_beside_the_load_it_looks_for() -> None:
    low, high = narrowed(1.0, 100.0, lambda load: load <= 37.3, whole=False)
    assert low <= 37.3 < high < 1.02 * low * 1.001
    assert narrowed(1, 64, lambda load: load <= 37, whole=True) == (37, 38)


@pytest.mark.parametrize("pays", [True, False])
def test_a_turning_lies_where_gains_may_be_one(pays: bool) -> None:
    """Gains that fall, or rise, as a power of the load and are known to a factor: both ends are that law's own."""
    power, apart = (-0.5 if pays else 0.5), (1 / 1.2, 1.3)

    def known_at(point: Point) -> Told:
        gain = (point.load / 10) ** power
        return Told(gain, apart[0] * gain, apart[1] * gain)

    points = [Point(load, ()) for load in (40.0, 2.0, 4.0, 9.9, 10.1, 20.0)]
    ends = sorted(10 * end ** (-1 / power) for end in apart)
    assert unsure(points, 9.9, 10.1, known_at, pays) == pytest.approx(ends, rel=1e-9)
    # No load that was looked at is far enough; one is that is beside the turning; nobody knows.
    first, last = unsure(points[2:-1], 9.9, 10.1, known_at, pays) or (0, 0)
    assert (first > 4, np.isnan(last)) == (ends[0] > 4, True)
    narrow = unsure(points, 9.9, 10.1, lambda p: Told(p.load, *(1.001 * (p.load / 10) ** power,) * 2), pays)
    assert narrow == (9.9, 10.1)
    assert unsure(points, 9.9, 10.1, lambda p: Told(1.0, np.nan, np.nan), pays) is None


def test_where_speculation_stops_paying_is_told_as_well_as_it_is_known(run) -> None:
    options = ("--method", "eagle3", "--alpha", 0.6, "--draftN", 12, "--concurrency", "1,58", "--json")
    served = instead(SERVED, ("--requests", 124))
    (turned,) = json.loads(run("simulate-serving", *served, *options).stdout)["turning"].values()
    low, high = turned["ci95"]
    assert 1 < low < turned["low"] < turned["high"] < 58
    # Of a data sheet that is all that 58 clients tell.
    assert high is None
    told = pays_in_words(Turning(EARLIER, 9.9, 10.0, ci95=(8.123, np.nan)), "clients")
    assert told == "pays up to 9.9 clients and stops paying by 10 (95 %: 8.12 to more)"
    told = pays_in_words(Turning(EARLIER, 9.9, 10.0, ci95=(np.nan, np.nan)), "clients")
    assert told == "pays up to 9.9 clients and stops paying by 10 (not known how well)"


def test_what_a_context_cannot_hold_is_refused_or_cut_and_said(tmp_path, run, user_error) -> None:
    options = ("--rate", 5, "--warmup", 0, "--max-model-len", 380, "--requests-out", "r.csv")
    told = json.loads(run("simulate-serving", *SERVED, *options, "--json").stdout)
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    long = [int(row["prompt_tokens"]) >= 380 for row in rows]
    assert [row["end_s"] in ("", "nan") for row in rows] == long
    assert 0 < told["points"][0]["plain"]["refused"] == sum(long) < 60
    cut = sum(340 < int(row["prompt_tokens"]) < 380 for row in rows)
    assert told["warnings"][-2:] == [
        f"{sum(long)} of 60 requests are refused: their prompts leave no place for an answer in 380 tokens "
        "(--max-model-len)",
        f"{cut} of 60 answers are cut short, to end at 380 tokens (--max-model-len)",
    ]
    user_error(
        run("simulate-serving", *SERVED, "--rate", 5, "--max-model-len", 150),
        "--max-model-len: 150 tokens leave no place for an answer behind any prompt that counts",
        "or shorter prompts (--isl)",
    )


def test_loads_of_sessions_are_sessions_a_second_and_all_that_was_asked_is_told(run) -> None:
    asked = ("--turns", 2, "--think", "exponential:1s", "--prefix", 64, "--burstiness", 0.5)
    done = run("simulate-serving", *SERVED, "--rate", 1, *asked, "--slo", "ttft:900", "--for-load", 9)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    for said in (
        "at 1 session/s.",
        "first token within 900 ms",
        "for 9 sessions/s: plain",
        "60 requests a run, 200:400 tokens in, 40 out, 64 more before every prompt, sessions of 2 turns exponential:1s "
        "apart, burstiness 0.5",
    ):
        assert said in text, text
    assert "requests/s" not in text
    assert "sessions/s   " in done.stdout


@pytest.mark.parametrize(
    ("options", "is_told"),
    [
        (("--concurrency", "1,2"), True),
        (("--concurrency", 1), False),
        (("--concurrency", 2, "--osl", "30:50"), False),
        (("--concurrency", 2, "--turns", 2, "--think", "exponential:1s"), False),
        (("--rate", 5), False),
    ],
)
def test_clients_in_step_are_told(run, options, is_told) -> None:
    usual = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--requests", 4, "--isl", 50, "--osl", 6)
    warnings = json.loads(run("simulate-serving", *instead(usual, options), "--json").stdout)["warnings"]
    said = "clients whose answers all have 6 tokens keep in step: they end, and are read, together, as on an engine"
    assert any(line.startswith(said) and "(--osl 4:8)" in line for line in warnings) is is_told


def test_loads_are_written_in_full() -> None:
    told = [loaded(load, "requests/s", 3) for load in (5123.4, 1.0, 0.12345)]
    assert told == ["5,120 requests/s", "1 request/s", "0.123 requests/s"]
    assert pays_in_words(Turning(EARLIER, 5123.4, 5223.4), "requests/s") == (
        "pays up to 5,120 requests/s and stops paying by 5,220"
    )


def test_clients_have_one_session_at_a_time(tmp_path, run) -> None:
    sessions = ("--concurrency", 2, "--turns", 4, "--warmup", 0, "--requests-out", "r.csv", "--json")
    done = run("simulate-serving", *SERVED, *sessions)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    spans = [(float(row["sent_s"]), float(row["end_s"])) for row in rows]
    assert max(sum(a <= at < b for a, b in spans) for at, _ in spans) == 2


def test_what_falls_behind_carries_no_load(run) -> None:
    done = run("simulate-serving", *SERVED, "--rate", 40, "--slo", "e2e:20s", "--json")
    assert 10 < json.loads(done.stdout)["capacity"]["plain"] < 1000


def test_a_warm_up_leaves_no_throughput_out(run) -> None:
    loads = ("--concurrency", 6, "--json")
    cold, warm = (
        json.loads(run("simulate-serving", *SERVED, *loads, "--warmup", share).stdout)["points"][0]["plain"]
        for share in (0, 0.3)
    )
    assert warm["output_tokens_per_s"] == pytest.approx(cold["output_tokens_per_s"], rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((*SERVED,), "--rate: missing, expected requests a second such as 2:40:2, or --concurrency or --workload"),
        ((*SERVED, "--rate", 5, "--concurrency", 4), "--concurrency: beside --rate, expected one of them"),
        ((*SERVED, "--rate", 0), "--rate: 0 is not allowed, expected a number above 0"),
        ((*SERVED, "--concurrency", 1.5), "--concurrency: 1.5 is not allowed, expected a whole number of at least 1"),
        ((*SERVED, "--rate", 5, "--slo", "ttft"), "--slo: 'ttft' is not allowed, expected ttft, tpot, e2e, queueing"),
        ((*SERVED, "--rate", 5, "--for-load", 9), "--for-load: of servers within limits, expected --slo beside it"),
        ((*SERVED, "--rate", 5, "--draftN", 3), "--draftN: of drafts, expected --method or --draft-model beside it"),
        (("--rate", 5), "--profile: missing, expected a device and --target-model beside it"),
        (
            (*SERVED, "--rate", 5, "--num-blocks", 3),
            "--num-blocks: 3 blocks of 16 have no room for a request of 131,072 tokens, expected more, or a shorter",
        ),
        ((*DRAFTED[:-2], "--rate", 5, "--draftN", "1:9"), "--draftN: 9 draft lengths, expected at most 8 ways"),
        ((*DRAFTED, "--rate", 5, "--chunk", 2), "--chunk: 2, expected at least 4"),
        ((*SERVED, "--speed", 2), "--speed: of recorded requests, expected --workload beside it"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, run, user_error, options, message) -> None:
    user_error(run("simulate-serving", *options), message)


def test_schedulers_differ_and_refuse_what_is_anothers(run) -> None:
    told = {}
    for name, blocks in (("vllm", 150), ("sglang", 2400), ("trtllm", 75)):
        server = ("--scheduler", name, "--num-blocks", blocks, "--max-model-len", 600, "--async-scheduling")
        done = run("simulate-serving", *DRAFTED, "--rate", 40, *server, "--json")
        assert done.returncode == 0, done.stderr
        told[name] = json.loads(done.stdout)
    assert {name: of["parameters"]["block_size"] for name, of in told.items()} == {
        "vllm": 16,
        "sglang": 1,
        "trtllm": 32,
    }
    assert told["sglang"]["parameters"]["schedule_conservativeness"] == 1
    assert len({of["points"][0]["eagle3 K=3"]["ttft_p99"] for of in told.values()}) == 3
    for options, whose in (
        (("--mixed-chunk",), "sglang"),
        (("--capacity-policy", "max_utilization", "--scheduler", "sglang"), "trtllm"),
        (("--by-priority", "--scheduler", "sglang"), "vllm"),
    ):
        done = run("simulate-serving", *DRAFTED, "--rate", 40, *options)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert f"{options[0]}: of {whose}'s scheduler, expected --scheduler {whose} beside it" in done.stderr


def test_memory_is_filled_whatever_runs_at_once(run) -> None:
    rooms = [
        json.loads(run("simulate-serving", *SERVED[:4], "--requests", 3, "--rate", 1, *more, "--json").stdout)["points"]
        for more in ((), ("--max-running", 2, "--max-model-len", 4096))
    ]
    assert rooms[0][0]["plain"]["kv_used_most"] == rooms[1][0]["plain"]["kv_used_most"] < 0.02


@pytest.fixture
def drawn(monkeypatch):
    """Yield figures in place of their files."""
    figures = []
    monkeypatch.setattr(pictures, "save_figure", lambda _, figure: figures.append(figure))
    return figures


def test_all_loads_that_were_looked_at_are_drawn(run, drawn) -> None:
    options = ("--concurrency", 3, "--slo", "ttft:400ms", "--plot", "x.png", "--warmup", 0, "--osl", 6, "--isl", 3000)
    done = run("simulate-serving", *SERVED[:4], *DRAFTED[len(SERVED) :], *options, "--requests", 24, "--json")
    carried = json.loads(done.stdout)["capacity"]
    (figure,) = drawn
    for axes in figure.axes[:4]:
        lines = [line for line in axes.lines if len(line.get_xdata()) and line.get_marker() not in ("None", "")]
        assert lines, axes.get_ylabel()
        assert all(3 in line.get_xdata() and len(line.get_xdata()) > 2 for line in lines)
    # Beside what a way carries lies the load that it does not.
    for line, name in zip(figure.axes[3].lines, ("plain", "eagle3 K=3"), strict=True):
        assert {carried[name], carried[name] + 1} <= set(line.get_xdata())


def test_as_many_ways_as_are_compared_have_colours_of_their_own(run, drawn) -> None:
    done = run("simulate-serving", *SERVED[:4], "--method", "eagle3", "--alpha", 0.8, "--draftN", "1:8", "--rate", 30,
               "--requests", 12, "--isl", 100, "--osl", 4, "--plot", "x.png")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (figure,) = drawn
    assert len({line.get_color() for line in figure.axes[3].lines}) == 9
    assert "p50/p99, ms" in done.stdout
