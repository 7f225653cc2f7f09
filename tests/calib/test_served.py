"""`validate --serving-log`: a log that our simulator wrote is forecast back, wrong constants are not, bad logs refused.

What is simulated stands for a server whose constants are known, so that all errors but luck are the forecast's own.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acceptance.servers.answer import Answer
from calibration.cli.served_ways import Serving, Way, accepts_in, ways_in
from calibration.servers.metrics import Part
from calibration.servers.records import LOADED, Ran
from calibration.validate.served.measured import Measured, read_all
from calibration.validate.served.replay import asked_in, replayed, requests_in, traffic_of
from calibration.validate.served.rows import ServedValidation, notes_of, points, repeated
from simulator.ground.artefacts import UserError, envelope
from simulator.ground.histogram import AcceptanceHistogram, save_histogram
from tests.contracts.pages import ROOT

from .made_server import MadeServer, answering

MODELS = ("--target-model", "llama-3.1-8b", "--draft-model", "llama-3.2-1b")
URLS = {"plain": "http://s:1", "draft3": "http://s:2", "again": "http://s:1"}
ENGINE = {"chunk": 2048, "max_running": 16, "max_model_len": 4096, "num_blocks": 4096, "block_size": 16}
OPTIONS = tuple(word for name, value in ENGINE.items() for word in (f"--{name.replace('_', '-')}", str(value)))


def asked(rng: np.random.Generator, count: int, rate: float) -> list[Answer]:
    """Requests as they were sent: lengths, and times where there is a rate."""
    sent_s = np.cumsum(rng.exponential(1 / rate, count)) if rate else np.zeros(count)
    lengths = rng.integers(50, 400, count), rng.integers(20, 60, count)
    made = []
    for at, prompt, output in zip(sent_s, *lengths, strict=True):
        answer = Answer(sent_s=float(at), first_s=0.0, last_s=0.0)
        answer.prompt_tokens, answer.output_tokens = int(prompt), int(output)
        made.append(answer)
    return made


def serving(folder: Path, load: Measured) -> Serving:
    """What the options of the tests say."""
    options = {"target_model": MODELS[1], "draft_model": MODELS[3], "dtype": None, "kv_dtype": None, "tp": None}
    options |= {"gpu_memory_utilization": None, "engine": None, "async_scheduling": False, "prefix_caching": None}
    return Serving(
        Path("h100-sxm"),
        options | ENGINE,
        dict.fromkeys(URLS, Way()) | {"draft3": Way("draft_model", 3)},
        {"draft_model": folder / "hist"},
        traffic_of([load]),
        None,
    )


def drafted(folder: Path) -> None:
    """A histogram of what rounds accept."""
    (folder / "hist").mkdir(exist_ok=True)
    histogram = AcceptanceHistogram((200.0, 150.0, 150.0, 500.0))
    save_histogram(folder / "hist" / "accept_hist_k3.json", histogram, {"k": 3})


def served_by_us(folder: Path, kind: str, load: float, seed: int) -> Iterator[tuple[str, Part]]:
    """Blocks of all arms, that our simulator served."""
    rng = np.random.default_rng(seed)
    answers = asked(rng, 40, load if kind == "rate" else 0.0)
    for nth, arm in enumerate(URLS):
        part = Part(load, arm, 0, tuple(range(len(answers))), tuple(answers), 0.0, 4)
        measured = Measured(Path("x"), kind, load, {arm: (Ran(part, True),)}, URLS)
        yield arm, replayed(serving(folder, measured).arm(measured, arm), measured, [part], 1000 + nth)[0]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of four clients and of requests by the clock, with an arm that is a server twice."""
    folder = tmp_path_factory.mktemp("served")
    drafted(folder)
    for kind, load in (("clients", 4.0), ("rate", 12.0)):
        parameters: dict[str, Any] = {"arms": URLS, "load_kind": kind, "loads": [load], "prefix": 0, "turns": None}
        lines: list[dict[str, Any]] = [envelope(LOADED.name, 1, parameters)]
        lines.append({"type": "setup", "models": dict.fromkeys(URLS, "m"), "longest": {}, "counted": None})
        lines[-1]["is_text"] = False
        for arm, part in served_by_us(folder, kind, load, 7):
            lines += list(records(arm, part))
        (folder / f"{kind}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
        (folder / f"{kind}.json").write_text(json.dumps(as_vllm(part, kind, load)))
    return folder


def records(arm: str, part: Part) -> Iterator[dict[str, Any]]:
    """What bench-server writes of a block."""
    told = {"load": part.load, "arm": arm, "part": 0, "try": 1}
    for row, a in zip(part.rows, part.answers, strict=True):
        assert a.first_s is not None
        assert a.last_s is not None
        times = {"sent_s": a.sent_s, "ttft_s": a.first_s - a.sent_s, "e2e_s": a.last_s - a.sent_s}
        counts = {"prompt_tokens": a.prompt_tokens, "output_tokens": a.output_tokens}
        yield {
            "type": "request",
            "row": row,
            "late_s": 0.0,
            "gaps_s": [a.last_s - a.first_s],
            **told,
            **times,
            **counts,
        }
    before, after = (counters(n if arm == "draft3" else 0) for n in (0, 500))
    ran = {"duration_s": part.duration_s, "lags_s": [], "cpu": 0.0, "before": before, "after": after}
    yield {"type": "block", **told, **ran}


def counters(rounds: int) -> list[str]:
    """Lines of /metrics, of K = 3 where there were rounds."""
    lines = [f"vllm:spec_decode_num_drafts_total {rounds}", f"vllm:spec_decode_num_draft_tokens_total {3 * rounds}"]
    lines.append(f"vllm:spec_decode_num_accepted_tokens_total {2 * rounds}")
    places = [f'position="{at}"' for at in range(3)]
    each = (0.8, 0.7, 0.5)
    name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    lines += [f"{name}{{{at}}} {share * rounds:.0f}" for at, share in zip(places, each, strict=True)]
    return lines


def as_vllm(part: Part, kind: str, load: float) -> dict[str, Any]:
    """What `vllm bench serve --save-detailed` writes of a run."""
    answers = part.answers
    lists = {"input_lens": [a.prompt_tokens for a in answers], "output_lens": [a.output_tokens for a in answers]}
    lists |= {"start_times": [1e6 + a.sent_s for a in answers], "ttfts": [a.first_s - a.sent_s for a in answers]}
    lists |= {"itls": [[a.last_s - a.first_s] for a in answers], "errors": [""] * len(answers)}
    told = {"request_rate": "inf" if kind == "clients" else load, "max_concurrency": int(load)}
    told |= {} if kind == "clients" else {"max_concurrency": None}
    return {"label": "plain", "duration": part.duration_s, "total_input_tokens": 1, **told, **lists}


def test_a_log_of_known_constants_is_forecast_back_and_wrong_ones_are_not(log, run) -> None:
    """The same constants with other luck: times of plain decoding to the digit, all else within what luck gives."""
    files = [log / "clients.jsonl", log / "rate.jsonl"]
    words = (
        "--serving-log",
        *files,
        *MODELS,
        *OPTIONS,
        "--no-async-scheduling",
        "--accepts",
        f"draft_model={log}/hist",
    )
    done = run("validate", *words, "--runs", "3", "--profile", "h100-sxm", "--json", "--out", "o.json")
    assert (done.returncode, done.stderr) == (0, ""), done
    told = json.loads(done.stdout)
    rows = {(row["load_kind"], row["arm"]): row for row in told["rows"]}
    assert rows.keys() == {(kind, arm) for kind in ("clients", "rate") for arm in ("plain", "draft3")}
    for kind in ("clients", "rate"):
        for name in ("ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99", "output_tokens_per_s"):
            assert rows[kind, "plain"][name]["error"] == pytest.approx(0, abs=2e-3), (kind, name)
            assert rows[kind, "draft3"][name]["error"] == pytest.approx(0, abs=0.2), (kind, name)
        assert rows[kind, "draft3"]["gain"]["error"] == pytest.approx(0, abs=0.1)
    assert told["signs"]["wrong"] == []
    assert {(n["arm"], n["again"]) for n in told["noise"]} == {("plain", "again")}
    assert told["errors"]["tpot_p50"]["noise"] == pytest.approx(0, abs=1e-6)
    done = run("validate", *words, "--runs", "1", "--profile", "a100-80gb", "--plot", "p.png")
    assert done.returncode == 1, done
    assert "The forecasts do not hold: " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "noise alone: again and plain" in " ".join(done.stdout.split())


def test_what_vllm_writes_is_read_as_what_bench_server_does(log, run) -> None:
    for kind in ("clients", "rate"):
        (ours,), (theirs,) = (read_all([log / f"{kind}.{of}"], 0.1) for of in ("jsonl", "json"))
        assert (theirs.kind, theirs.load, theirs.clients) == (ours.kind, ours.load, ours.clients)
        one, other = ours.parts("again")[0], theirs.parts("plain")[0]
        assert points([one], None)["ttft_p50"] == pytest.approx(points([other], None)["ttft_p50"], rel=1e-6)
        assert [a.tokens for _, a in asked_in(one)] == [a.tokens for _, a in asked_in(other)]
    words = ("--serving-log", log / "clients.json", *MODELS[:2], *OPTIONS, "--profile", "h100-sxm")
    done = run("validate", *words, "--no-async-scheduling", "--runs", "1")
    assert done.returncode == 0, done
    assert "noise alone is not known" in " ".join(done.stdout.split())


@given(st.lists(st.tuples(st.integers(1, 900), st.integers(1, 90), st.floats(0, 9)), min_size=1, max_size=9))
def test_what_is_sent_again_is_what_was_sent(rows: list[tuple[int, int, float]]) -> None:
    answers = [Answer(sent_s=s, prompt_tokens=p, output_tokens=o) for p, o, s in sorted(rows, key=lambda r: r[2])]
    requests = requests_in(answers, 0)
    assert requests.prompt.tolist() == [a.prompt_tokens for a in answers]
    assert requests.output.tolist() == [a.tokens for a in answers]
    assert requests.arrival_s.tolist() == [a.sent_s for a in answers]
    shared = requests_in(answers, 20)
    assert (shared.prompt >= requests.prompt).all()
    assert set(shared.shared.tolist()) == {20}


def test_arms_of_one_server_are_noise_and_ways_are_told_in_words() -> None:
    measured = Measured(Path("x"), "clients", 1.0, dict.fromkeys(URLS, ()), URLS)
    assert repeated(measured) == {"again": "plain"}
    assert repeated(measured._replace(urls=dict.fromkeys(URLS, ""))) == {}
    assert ways_in(("a=ngram:k=3", "b=plain", "c=eagle-3")) == {"a": Way("ngram", 3), "b": Way(), "c": Way("eagle3", 0)}
    assert accepts_in(("a=b=c",)) == {"a": Path("b=c")}


REQUEST = '{"type": "request", "load": 1, "arm": "a", "part": 0, "try": 1, "row": 0, "sent_s": %s}\n'
HEAD = json.dumps(envelope(LOADED.name, 1, {"load_kind": "clients", "arms": {"a": "http://s"}, "turns": None})) + "\n"
HOSTILE: list[tuple[str, str]] = [
    ("", "holds no load of a server"),
    ("[1]", "holds no load of a server"),
    ("{", "holds no load of a server"),
    ('{"kind": "trace"}', "holds no load of a server"),
    (HEAD, "holds no request that was answered"),
    (HEAD + REQUEST % '"x"', "sent_s"),
    (HEAD + REQUEST % "-1", "sent_s"),
    (HEAD.replace('"turns": null', '"turns": "2"'), "sessions"),
    ('{"input_lens": [1], "request_rate": 1}', "no output_lens"),
    ('{"input_lens": [1], "request_rate": "inf"}', "request_rate"),
    (
        json.dumps({"input_lens": [1, 2], **{n: [1] for n in ("output_lens", "ttfts", "itls", "start_times")}}).replace(
            "{", '{"request_rate": 2, ', 1
        ),
        "2 values",
    ),
]


@pytest.mark.parametrize(("text", "said"), HOSTILE)
def test_a_log_that_is_none_is_refused_in_one_line(text: str, said: str, run: Callable[..., Any], tmp_path) -> None:
    (tmp_path / "log").write_text(text)
    done = run("validate", "--serving-log", "log", "--profile", "h100-sxm", "--target-model", "llama-3.1-8b")
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    assert len(done.stderr) < 220


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--serving-log", "x", "--server", "http://s"), "expected one of them"),
        (("--way", "a=ngram"), "without --serving-log or --server"),
        (("--serving-log", "x"), "--serving-log x: expected --profile FILE beside it, or the name of a device"),
        (("--serving-log", "x", "--hist", "h"), "--hist h: beside --serving-log x, expected no such option"),
        (("--serving-log", "x", "--profile", "h100-sxm", "--isl", "5"), "whose requests were sent"),
        (("--serving-log", "x", "--profile", "h100-sxm", "--way", "a"), "NAME=METHOD"),
        (("--serving-log", "x", "--profile", "h100-sxm", "--way", "a=ngram:3"), "NAME=METHOD"),
        (("--serving-log", "x", "--profile", "h100-sxm", "--accepts", "a"), "NAME=FILE"),
        (("--serving-log", "x", "--profile", "h100-sxm", "--k", "3"), "without --live"),
        (("--serving-log", "x", "--live"), "several to check"),
    ],
)
def test_options_that_do_not_go_together_are_refused_in_one_line(words: tuple[str, ...], said: str, run) -> None:
    done = run("validate", *words)
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


def test_a_log_says_what_it_lacks(log, run) -> None:
    words = ("--serving-log", log / "clients.jsonl", "--profile", "h100-sxm", "--target-model", "llama-3.1-8b")
    assert "--draft-model: missing, expected what draft3 drafts with" in run("validate", *words).stderr
    done = run("validate", *words, *MODELS[2:])
    assert "--accepts: nothing says what draft3 accepts" in done.stderr


def test_a_cut_log_says_so_and_requests_of_two_logs_are_refused(log, tmp_path) -> None:
    text = (log / "clients.jsonl").read_text()
    cut, copy = tmp_path / "cut.jsonl", tmp_path / "copy.jsonl"
    cut.write_text(text[:-10])
    copy.write_text(text)
    first, second, *_ = notes_of(read_all([cut], 0.1))
    assert first.startswith(f"{cut}: its last line is cut (")
    assert second.startswith(f"{cut}: interrupted: ")
    assert not [*notes_of(read_all([log / "clients.jsonl", log / "rate.jsonl"], 0.1))]
    with pytest.raises(UserError, match=r"copy\.jsonl: has requests that .*clients\.jsonl has too"):
        read_all([log / "clients.jsonl", copy], 0.1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--target-model: missing"),
        (("--target-model", "no-such-model"), "no-such-model"),
        ((*MODELS[:2], "--draft-model", "no-such-draft"), "no-such-draft"),
        ((*MODELS[:2], "--accepts", "a=none"), "--accepts none: no such file"),
        ((*MODELS[:2], "--profile", "none.json"), "none.json"),
        (MODELS[:2], "--server plain=http://127.0.0.1:9: lists no models at /v1/models (nothing answers there: "),
    ],
)
def test_what_is_wrong_is_told_before_servers_are_loaded(words: tuple[str, ...], said: str, run, user_error) -> None:
    """In the order of haste: options first, then the server, in words that this command has."""
    profile = () if "--profile" in words else ("--profile", "h100-sxm")
    done = run("validate", "--server", "http://127.0.0.1:9", *profile, *words)
    user_error(done, said)
    assert "--arm" not in done.stderr
    assert "--model" not in done.stderr.replace("--target-model", "")


def test_servers_that_run_are_loaded_first_and_not_again(run, tmp_path) -> None:
    with MadeServer(answering(0.001, 0.002)) as server:
        words = ("--server", server.url, "--server", f"again={server.url}", "--concurrency", "1,2", "--requests", 12)
        words += ("--isl", 20, "--osl", "4:8", "--out-dir", "d", "--runs", 1, "--profile", "h100-sxm", *MODELS[:2])
        done = run("validate", *words, *OPTIONS, "--json")
        assert (done.returncode, done.stderr) == (1, ""), done
        count = len(server.asked)
        assert run("validate", *words, *OPTIONS).returncode == 1
        assert len(server.asked) == count
    told = json.loads(done.stdout)
    assert [(row["load_kind"], row["arm"]) for row in told["rows"]] == [("clients", "plain")] * 2 + [
        ("rate", "plain")
    ] * 3
    assert len(told["noise"]) == 5
    rates = [row["load"] for row in told["rows"][2:]]
    assert rates == pytest.approx([rates[0], 2 * rates[0], 3 * rates[0]], rel=0.02)
    assert {path.name for path in (tmp_path / "d").iterdir()} >= {"clients.jsonl", "rates.jsonl"}


def test_the_published_table_is_of_the_requests_beside_it(run) -> None:
    """What was measured follows from the logs, and forecasts of plain decoding, which has no luck, come again."""
    folder = ROOT / "calibration/measured/xeon-2-core/served"
    told = json.loads((folder / "served.json").read_text())
    rows = {(row["load_kind"], row["load"], row["arm"]): row for row in told["rows"]}
    assert told["holds"] is all(e["bound"] is None or e["median"] <= e["bound"] for e in told["errors"].values())
    loads = read_all(sorted((folder / "held").glob("*.xz")), 0.1)
    assert len(rows) == 5 * len(loads) == 40
    for load in loads:
        for arm in load.arms.keys() - {"again"}:
            row = rows[load.kind, load.load, arm]
            found = points(load.parts(arm), None)
            assert found["tpot_p50"] == pytest.approx(row["tpot_p50"]["measured"])
            assert found["ttft_p99"] == pytest.approx(row["ttft_p99"]["measured"])
    words = ("--target-model", folder / "target.json", "--chunk", 2048, "--max-running", 16, "--max-model-len", 1024)
    words += (
        "--no-async-scheduling",
        "--no-prefix-caching",
        "--profile",
        folder / "server.json",
        "--runs",
        1,
        "--json",
    )
    words += tuple(word for arm in ("draft1", "draft3", "draft5", "ngram3") for word in ("--way", f"{arm}=plain"))
    done = run("validate", "--serving-log", folder / "held/c1.jsonl.xz", *words)
    again = {row["arm"]: row for row in json.loads(done.stdout)["rows"]}
    for name in ("ttft_p50", "tpot_p50", "output_tokens_per_s"):
        before = rows["clients", 1.0, "plain"][name]["forecast"]
        assert again["plain"][name]["forecast"] == pytest.approx(before, rel=1e-6)


def test_nothing_that_was_held_against_nothing_holds() -> None:
    bounds = {"tpot_p50": 0.06, "gain": 0.05}
    assert not ServedValidation(rows=(), noise=(), bounds=bounds, replications=1).holds
