"""`bench-server`: what a reader has to know before its figures."""

import json
from pathlib import Path
from typing import Any

from .made_server import MadeServer, answering

LOADED = ("--concurrency", 2, "--isl", 30, "--osl", 6, "--requests", 16)


def test_what_a_server_does_not_take_as_long_is_refused_or_told(run, user_error) -> None:
    words = ("--concurrency", 2, "--osl", 16, "--requests", 16)
    with MadeServer() as server:
        done = run("bench-server", server.url, *words, "--isl", 5000)
        user_error(done, "--isl: prompt and answer are 5,016 tokens or more, expected at most 4,096, which the server")
        assert len(server.asked) == 0
        done = run("bench-server", server.url, *words, "--isl", "3000:5000")
    assert done.returncode == 0, done
    told = " ".join(done.stdout.split())
    count = sum(len(b["prompt"]) > 4080 for b in server.asked)
    assert f"warning: {count} of 16 requests at 2 clients are cut to 4,096 tokens" in told


def test_answers_that_are_shorter_than_was_asked_are_told_first(run) -> None:
    def script(asked: dict[str, Any], number: int):
        return answering()(asked | {"max_tokens": 1}, number)

    with MadeServer(script) as server:
        done = run("bench-server", server.url, *LOADED)
        before = run("bench-server", server.url, *LOADED, "--no-ignore-eos")
    first, second = done.stdout.split("\n\n")[0].splitlines()[:2]
    assert first.startswith("answers of one token, the first after ")
    assert second == "warning: server at 2, 16 answers of 16 are shorter than was asked, 1 tokens in the mean of all"
    assert "shorter than was asked" not in before.stdout


def test_requests_that_are_sent_late_beside_gaps_are_told(run, tmp_path: Path) -> None:
    with MadeServer(answering(0.002, 0.005)) as server:
        assert run("bench-server", server.url, *LOADED, "--out", "o.jsonl").returncode == 0
        path = tmp_path / "o.jsonl"
        lines = path.read_text().splitlines()
        for late, is_told in ((0.5, True), (0.0, False)):
            records = [json.loads(line) for line in lines]
            made = [r | {"late_s": late} if r.get("type") == "request" else r for r in records]
            path.write_text("".join(f"{json.dumps(r, separators=(',', ':'))}\n" for r in made))
            told = " ".join(run("bench-server", server.url, *LOADED, "--out", "o.jsonl").stdout.split())
            assert ("server at 2: requests were sent 500 ms after they were due" in told) is is_told
