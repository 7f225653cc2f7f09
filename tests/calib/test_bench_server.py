"""`bench-server`: what it prints and writes, what it goes on behind, and that what it exports is read back."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acceptance.importers.formats import import_histogram
from acceptance.servers.server import KEY, Server
from calibration.servers.engine import counted
from calibration.servers.metrics import gains
from calibration.servers.records import read_load
from calibration.servers.results import same_text
from calibration.sources.serving_files import read_serving
from simulator.workloads.reading import read_workload
from tests.conftest import SCRIPTS

from .made_server import HANG, HEAD, RESET, MadeServer, answering, chunk, refusal, said

SMALL = ("--isl", 30, "--osl", 6, "--requests", 16)
LOADED = ("--concurrency", 2, *SMALL)


def counters(server: MadeServer, per_request: int = 4, accepted: tuple[int, ...] = (3, 2, 1)) -> str:
    """/metrics of a server that speculates: drafts of K = 3 for each request that it was asked."""
    rounds = per_request * len(server.asked)
    lines = [f"vllm:spec_decode_num_drafts_total {rounds}", f"vllm:spec_decode_num_draft_tokens_total {3 * rounds}"]
    lines.append(f"vllm:spec_decode_num_accepted_tokens_total {sum(accepted) * len(server.asked)}")
    for place, count in enumerate(accepted):
        total = count * len(server.asked)
        lines.append(f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{position="{place}"}} {total}')
    return "\n".join([*lines, "process_start_time_seconds 1000", "other:thing 3"])


def test_one_server_is_told_in_a_line_a_table_and_files(run) -> None:
    with MadeServer(answering(0.002, 0.005)) as server:
        done = run("bench-server", server.url, *LOADED, "--out", "o.jsonl", "--csv", "o.csv", "--slo", "ttft:1s")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert " ms a token, the first after " in done.stdout.splitlines()[0]
    assert "wrote o.csv" in done.stdout
    assert "answers of one length keep clients in step" in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 100
    # A greeting, then each request once, of the tokens that were asked for.
    assert len(server.asked) == 17
    assert {len(body["prompt"]) for body in server.asked[1:]} == {30}
    assert len({tuple(body["prompt"]) for body in server.asked[1:]}) == 16
    assert {body["max_tokens"] for body in server.asked[1:]} == {6}


def test_json_has_all_figures_and_what_the_engine_counted(run) -> None:
    with MadeServer(answering(0.002, 0.005, width=2)) as server:
        server.metrics = lambda: counters(server)
        words = ("--rate", "100,200", *SMALL, "--slo", "ttft:1us,e2e:9s", "--burstiness", "inf", "--json")
        done = run("bench-server", server.url, *words)
    told = json.loads(done.stdout)
    assert (told["kind"], told["is_whole"]) == ("server_load_result", True)
    first, second = told["points"]
    assert (first["load"], second["load"], first["clients"]) == (100, 200, None)
    assert first["requests"] == 16
    # The first tenth of a block counts in no latency.
    assert first["counted"] == 15
    assert first["figures"]["tokens_per_chunk"] == 2
    assert first["figures"]["mean_prompt_tokens"] == 30
    assert (first["figures"]["within"], first["figures"]["goodput"]) == (0, 0)
    assert first["acceptance"]["k"] == 3
    assert first["acceptance"]["tokens_per_round"] == pytest.approx(1 + 6 / 4)
    assert first["acceptance"]["survival"] == pytest.approx([3 / 4, 2 / 4, 1 / 4])
    assert first["figures"]["tpot_mean_s"] >= 0.002 * 2 / 5
    assert first["client"]["late_p99_s"] >= 0


def test_arms_answer_the_same_requests_in_turns_and_are_held_against_the_first(run) -> None:
    with MadeServer(answering(0.004)) as plain, MadeServer(answering(0.004, width=3)) as drafts:
        arms = ("--arm", f"plain={plain.url}", "--arm", f"drafts={drafts.url}")
        done = run("bench-server", *arms, *LOADED, "--json", "--blocks", 2)
        assert {str(b["prompt"]) for b in plain.asked} == {str(b["prompt"]) for b in drafts.asked}
    told = json.loads(done.stdout)
    before, after = told["points"]
    assert before["gains"] == {}
    # Six tokens take five gaps, or one; what a busy machine adds to both is not told.
    assert after["gains"]["e2e"] > 1
    assert after["gains"]["e2e_ci95"][0] <= after["gains"]["e2e"] <= after["gains"]["e2e_ci95"][1]
    assert after["same_text"] == 1


def test_two_arms_of_one_server_have_texts_of_their_own(run) -> None:
    with MadeServer() as server:
        arms = ("--arm", f"a={server.url}", "--arm", f"b={server.url}")
        done = run("bench-server", *arms, *LOADED, "--blocks", 1)
        assert done.returncode == 0, done
        assert len({tuple(b["prompt"]) for b in server.asked if len(b["prompt"]) == 30}) == 32


def test_what_is_exported_is_read_back_by_every_reader_of_it(run, tmp_path: Path) -> None:
    with MadeServer(answering(0.002, 0.005)) as server:
        server.metrics = lambda: counters(server)
        done = run("bench-server", server.url, *LOADED, "--json", "--export-vllm", "v.json")
        told = json.loads(done.stdout)["points"][0]
    path = tmp_path / "v.json"
    exported = json.loads(path.read_text())
    assert exported["completed"] == 16
    assert exported["output_throughput"] == pytest.approx(told["figures"]["output_tokens_per_s"])
    # Acceptance, as `measure-acceptance import` reads it.
    imported = import_histogram(None, path)
    assert imported.format == "vllm-bench"
    assert imported.histogram.survival.tolist() == pytest.approx(told["acceptance"]["survival"])
    # A row of a load test, as `calibrate --from-serving` reads it.
    (row,) = read_serving(path).rows
    assert (row.concurrency, row.isl, row.osl, row.requests) == (2, 30, 6, 16)
    assert row.tpot_s == pytest.approx(exported["mean_tpot_ms"] / 1e3)
    # Traffic, as `workload describe` and --workload read it.
    workload = read_workload(path)
    assert workload.is_timed
    assert workload.requests.output.tolist() == [6] * 16
    assert (workload.requests.prompt == 30).all()


def test_prompts_of_a_file_are_asked_as_they_stand(run, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    with MadeServer() as server:
        words = ("--concurrency", 1, "--requests", 4, "--osl", 3, "--prompts", "p.jsonl", "--api", "chat")
        done = run("bench-server", server.url, *words)
    assert done.returncode == 0
    assert [b["messages"][0]["content"] for b in server.asked[1:]] == ["one", "two", "one", "two"]
    assert not any("ignore_eos" in body for body in server.asked)
    assert "2 prompts for 4 requests" in " ".join(done.stdout.split())


def test_recorded_requests_are_sent_as_they_were(run, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sent_s,prompt_tokens,output_tokens\n0,9,2\n0.2,8,3\n0.4,7,4\n")
    with MadeServer() as server:
        done = run("bench-server", server.url, "--workload", "t.csv", "--speed", 10, "--out", "o.jsonl", "--warmup", 0)
        assert done.returncode == 0, done
        assert {(len(b["prompt"]), b["max_tokens"]) for b in server.asked[1:]} == {(9, 2), (8, 3), (7, 4)}
    records = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    due = {r["row"]: r["sent_s"] - r["late_s"] for r in records if r.get("type") == "request"}
    assert [due[row] for row in range(3)] == pytest.approx([0, 0.02, 0.04], abs=1e-5)


def test_failures_are_counted_by_kind_and_shown(run) -> None:
    def script(asked: dict[str, Any], number: int):
        if number % 4 == 1:
            return iter([refusal(429, b'{"error": {"message": "too many"}}')])
        return iter([HEAD, chunk(said("a")), RESET]) if number % 4 == 2 else answering()(asked, number)

    with MadeServer(script) as server:
        done = run("bench-server", server.url, *LOADED, "--out", "o.jsonl", "--warmup", 0)
    assert done.returncode == 0
    assert "warning: 8 of 16 requests to server failed: http 429 4, reset 4 (http 429: too many)" in done.stdout


def test_an_arm_that_fails_from_the_second_request_on_is_told_and_nothing_is_divided_by_it(run) -> None:
    def script(asked: dict[str, Any], number: int):
        return iter([refusal(429, b"{}")]) if number else answering()(asked, number)

    files = ("--csv", "o.csv", "--export-vllm", "v.json", "--slo", "ttft:1s", "--force")
    with MadeServer(script) as broken, MadeServer() as fine:
        arms = ("--arm", f"a={broken.url}", "--arm", f"b={fine.url}")
        done = run("bench-server", *arms, *LOADED, *files)
        assert done.returncode == 0
        assert done.stdout.startswith("a: no answer at 2 clients.\n")
        broken.asked.clear()
        assert run("bench-server", broken.url, *LOADED, *files).returncode == 1


def test_without_its_library_one_line_says_what_brings_it(run, user_error, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    done = run("bench-server", "http://127.0.0.1:9", *LOADED)
    user_error(done, 'aiohttp is not installed; asking servers needs it: pip install "specsim[server]"')


def test_what_answers_nothing_ends_with_one_line(run, user_error, tmp_path: Path) -> None:
    user_error(run("bench-server", "http://127.0.0.1:9", *LOADED, "--out", "o.jsonl"), "lists no models")
    assert not (tmp_path / "o.jsonl").exists()
    with MadeServer(lambda *_: iter([refusal(404, b'{"detail": "Not Found"}')])) as server:
        user_error(run("bench-server", server.url, *LOADED), "http 404", "Not Found", "/v1/completions")
        server.script = lambda *_: iter([refusal(400, b'{"error": {"message": "Unknown argument: ignore_eos"}}')])
        user_error(run("bench-server", server.url, *LOADED), "http 400", "expected --no-ignore-eos beside it")
        user_error(run("bench-server", server.url, *LOADED, "--model", "other"), "'other' is not served", "made")


def test_a_server_that_goes_away_ends_the_run_and_what_came_is_kept(run, tmp_path: Path) -> None:
    with MadeServer() as server:

        def script(asked: dict[str, Any], number: int):
            if number == 8:
                server.server.close()
            return iter([*answering()(asked, number), *(["close"] * (number >= 8))])

        server.script = script
        words = ("--concurrency", 1, "--isl", 30, "--osl", 6, "--requests", 200, "--out", "o.jsonl")
        done = run("bench-server", server.url, *words)
    assert done.returncode == 2
    assert "answers no longer (nothing answers there: connection refused); no block of 1 is whole" in done.stderr
    assert "of 4 --blocks" in done.stderr
    assert done.stdout.startswith("interrupted: 0 of 1 blocks are whole.\n")
    assert "ms a token" in done.stdout
    lines = (tmp_path / "o.jsonl").read_text().splitlines()
    assert 8 < len(lines) < 40


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("http://x", "--rate: missing"),
        ("http://x --rate 1 --slo queueing:1s", "--slo: queueing is not seen"),
        ("http://x --rate 1 --arm a=http://y", "--arm: 'a=http://y' beside URL"),
        ("--rate 1 --arm a=ftp://y", "--arm a: 'ftp://y' is no address"),
        ("--rate 1", "URL: is missing"),
        ("http://u:secret@x --rate 1", "URL: an address with more than host and path may hold a secret"),
        ("http://x --rate 1 --prompts p --isl 9", "--isl: beside --prompts"),
        ("http://x --rate 1 --column p", "--column: of a file, expected --prompts"),
        ("http://x --rate 1 --api chat --prompts-as ids", "--prompts-as: ids are no messages"),
        ("http://x --rate 1 --extra-body [1]", "--extra-body: '[1]' is no object"),
        ('http://x --rate 1 --extra-body {"stream":false}', "--extra-body: stream is this command's own"),
        ("http://x --rate 1 --stall 0", "--stall: "),
        ("http://x --rate 1 --csv o.txt", "--csv o.txt: suffix"),
        ("http://x --rate 1 --out o --csv o.csv --export-vllm o.csv", "--export-vllm o.csv: is the file of --csv"),
    ],
)
def test_what_makes_no_load_is_refused_in_one_line(run, user_error, words: str, message: str) -> None:
    done = run("bench-server", *words.split())
    user_error(done, message)
    assert "secret@" not in done.stderr


def test_an_interrupted_run_keeps_what_came_and_goes_on_behind_it(run, tmp_path: Path) -> None:
    def script(asked: dict[str, Any], number: int):
        return iter([HEAD, HANG]) if number == 14 else answering()(asked, number)

    with MadeServer(script) as server:
        words = (
            server.url,
            "--concurrency",
            "1",
            *map(str, SMALL),
            "--blocks",
            "4",
            "--out",
            "o.jsonl",
            "--csv",
            "o.csv",
        )
        command = [str(SCRIPTS / "bench-server"), *words]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 30
        while len(server.asked) < 15 and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert err == (
            "bench-server: interrupted; 3 of 4 blocks are kept in o.jsonl, and the same command goes on behind them\n"
        )
        assert "ms a token" in out
        assert out.startswith("interrupted: 3 of 4 blocks are whole.\n")
        assert "not written: o.csv, which the same command writes when all is there" in out
        before = (tmp_path / "o.jsonl").read_text()
        # 13 requests came to an end, of which the last is of a block that did not.
        assert before.count('"type":"request"') == 13
        server.script, asked = answering(), len(server.asked)
        done = run("bench-server", *words)
        assert (done.returncode, done.stderr) == (0, "")
        # A greeting, and the four requests of the last block.
        assert len(server.asked) == asked + 5
        (tmp_path / "o.csv").unlink()
        again = run("bench-server", *words)
        assert (again.stdout, len(server.asked)) == (done.stdout, asked + 5)
    after = (tmp_path / "o.jsonl").read_text()
    assert after.startswith(before)
    assert after.count('"type":"block"') == 4


def test_another_load_does_not_go_on_behind_what_is_kept(run, user_error) -> None:
    with MadeServer() as server:
        assert run("bench-server", server.url, *LOADED, "--out", "o.jsonl").returncode == 0
        user_error(run("bench-server", server.url, *LOADED, "--out", "o.jsonl", "--seed", 1), "seed is 1, but 0 there")
        asked = len(server.asked)
        assert run("bench-server", server.url, *LOADED, "--out", "o.jsonl", "--slo", "ttft:1s").returncode == 0
        assert len(server.asked) == asked
        assert run("bench-server", server.url, *LOADED, "--out", "o.jsonl", "--seed", 1, "--force").returncode == 0


def test_no_key_is_in_any_file_or_line(run, tmp_path: Path, monkeypatch) -> None:
    secret = "sk-very-secret"
    monkeypatch.setenv(KEY, secret)

    def script(asked: dict[str, Any], number: int):
        said = json.dumps({"error": {"message": f"bad key {secret}"}}).encode()
        return iter([refusal(401, said)]) if number % 2 else answering()(asked, number)

    with MadeServer(script) as server:
        files = ("--out", "o.jsonl", "--csv", "o.csv", "--export-vllm", "v.json")
        done = run("bench-server", server.url, *LOADED, *files)
        told = run("bench-server", server.url, *LOADED, "--json")
    assert all(secret.encode() in head for head in server.headers)
    assert "bad key ***" in done.stdout
    for text in (done.stdout, done.stderr, told.stdout, *(p.read_text() for p in tmp_path.iterdir())):
        assert secret not in text


def test_a_file_of_a_real_server_is_read_with_what_its_engine_counted() -> None:
    """Eight requests to vLLM 0.32 on a CPU, the bundled pair with its target inflated, K = 3."""
    load = read_load(Path(__file__).with_name("vllm_load.jsonl"))
    assert [ran.part[:3] for ran in load.ran] == [(2, "plain", 0), (2, "drafts", 0), (2, "drafts", 1), (2, "plain", 1)]
    arms = {arm: [ran for ran in load.ran if ran.part.arm == arm] for arm in ("plain", "drafts")}
    tokens = {arm: [a.tokens for ran in own for a in ran.part.answers] for arm, own in arms.items()}
    assert sorted(tokens["plain"]) == sorted(tokens["drafts"])
    told = {arm: counted(Server(arm, "http://host"), own) for arm, own in arms.items()}
    assert told["plain"].imported is None
    found = told["drafts"].imported
    assert found is not None
    assert (found.histogram.draft_length, found.model) == (3, "tiny-pair-x8")
    # Of all tokens but the first of each answer: those of a round's own, and drafts, some of which are cut at the end.
    rounds = found.histogram.samples
    assert told["drafts"].drafted == 3 * rounds
    assert sum(tokens["drafts"]) - 8 <= found.histogram.tokens_per_round * rounds <= sum(tokens["drafts"]) + 3 * 8
    assert same_text([ran.part for ran in arms["plain"]], [ran.part for ran in arms["drafts"]]) == 1
    gained = gains([r.part for r in arms["plain"]], [r.part for r in arms["drafts"]], np.random.default_rng(0))
    assert gained["tpot"].value > 1.2


def test_of_sglang_the_mean_and_k_are_told(run) -> None:
    state = {"avg_spec_accept_length": 2.25, "other": 1}
    with MadeServer() as server:
        server.info = {"speculative_num_steps": 3, "speculative_eagle_topk": 1, "internal_states": [state]}
        done = run("bench-server", server.url, *LOADED, "--json")
        (point,) = json.loads(done.stdout)["points"]
        assert (point["tokens_per_round"], point["k"], point["acceptance"]) == (2.25, 3, None)
        server.metrics = lambda: 'sglang:spec_accept_length{model_name="m"} 2.75'
        (point,) = json.loads(run("bench-server", server.url, *LOADED, "--json").stdout)["points"]
    assert (point["tokens_per_round"], point["k"]) == (2.75, 3)


def test_a_server_is_held_against_itself_before_a_change(run, user_error) -> None:
    with MadeServer(answering(0.004)) as server:
        assert run("bench-server", server.url, *LOADED, "--out", "a.jsonl").returncode == 0
        server.script = answering(0.004, width=3)
        done = run("bench-server", server.url, *LOADED, "--before", "a.jsonl", "--json")
        user_error(
            run("bench-server", server.url, *LOADED, "--before", "a.jsonl", "--seed", 5),
            "a.jsonl: seed is 5, but 0 there",
        )
        user_error(
            run("bench-server", server.url, *LOADED, "--before", "none.jsonl"), "--before none.jsonl: no such file"
        )
    before, after = json.loads(done.stdout)["points"]
    assert (before["arm"], after["arm"], after["same_text"]) == ("before", "server", 1)
    assert after["gains"]["tpot"] > 1


def test_turns_of_a_session_follow_one_another(run) -> None:
    with MadeServer(answering(0.001)) as server:
        words = ("--rate", 50, "--requests", 12, "--isl", 10, "--osl", 4, "--turns", 3, "--think", "10ms")
        done = run("bench-server", server.url, *words, "--burstiness", "inf")
    assert done.returncode == 0, done
    prompts = [body["prompt"] for body in server.asked[1:]]
    assert sorted(map(len, prompts)) == [10] * 4 + [24] * 4 + [38] * 4
    # A turn holds all before, behind which it was sent.
    for prompt in (p for p in prompts if len(p) > 10):
        before = [
            at for at, other in enumerate(prompts) if len(other) == len(prompt) - 14 and prompt[: len(other)] == other
        ]
        assert before
        assert before[0] < prompts.index(prompt)


def test_time_bounds_what_is_sent(run) -> None:
    with MadeServer(answering(0.01)) as server:
        done = run(
            "bench-server", server.url, "--concurrency", 2, "--isl", 9, "--osl", 6, "--duration", "0.5s", "--json"
        )
    (point,) = json.loads(done.stdout)["points"]
    # Two clients, answers of 50 ms and more.
    assert 2 <= point["requests"] <= 22


def test_a_time_without_a_request_is_refused(run, user_error) -> None:
    with MadeServer() as server:
        done = run("bench-server", server.url, *SMALL[:4], "--rate", 0.001, "--duration", "1s")
    user_error(done, "--duration: 1 s end before the first request at 0.001 requests/s")
    assert len(server.asked) <= 1
