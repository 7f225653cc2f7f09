"""A client of servers: streams however they are cut, peers that break off, hang or talk nonsense, and the key."""

import asyncio
import json
import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acceptance.servers.answer import Answer, Failed, Hearing
from acceptance.servers.client import Patience, run
from acceptance.servers.events import BadEvent, Events
from acceptance.servers.server import KEY, servers_of, url_of
from calibration.servers.bench import Shown
from calibration.servers.prompts import CHAT, Made, Manner, made_of_text
from simulator.ground.artefacts import UserError
from simulator.workloads.requests import requests_of
from simulator.workloads.sessions import prefixed

from .made_server import (
    CLOSE,
    DONE,
    END,
    HANG,
    HEAD,
    RESET,
    MadeServer,
    Script,
    Step,
    answering,
    chunk,
    delta,
    event,
    refusal,
    said,
    steps,
    usage,
)

QUICK = Patience(connect_s=2, stall_s=0.3, whole_s=0.8)
A, B = chunk(said("a")), chunk(said("b"))
# What a peer does, what it is counted as, and what is known of it.
HOSTILE: dict[str, tuple[Sequence[Step], str, str]] = {
    "asks for less": ([refusal(429, b'{"error": {"message": "slow down"}}')], "http 429", "slow down"),
    "has a bug": ([refusal(500, b"boom")], "http 500", "boom"),
    "resets at once": ([RESET], "reset", ""),
    "resets within": ([HEAD, A, B, 0.02, RESET], "reset", ""),
    "closes within": ([HEAD, A, B, CLOSE], "cut", ""),
    "ends too early": ([HEAD, A, END], "cut", "no [DONE]"),
    "goes silent": ([HEAD, A, HANG], "stalled", ""),
    "never begins": ([HANG], "stalled", ""),
    "is slow": ([HEAD, *[A, 0.1] * 20], "timeout", ""),
    "writes bad JSON": ([HEAD, chunk(b"data: {oops\n\n"), END], "malformed", "{oops"),
    "writes deep JSON": ([HEAD, chunk(b"data: " + b"[" * 100_000 + b"\n\n"), END], "malformed", "no JSON"),
    "writes a list": ([HEAD, chunk(b"data: [1]\n\n"), END], "malformed", "no object"),
    "writes odd choices": ([HEAD, chunk(b'data: {"choices": [3]}\n\n'), END], "malformed", "choices"),
    "cuts chunks badly": ([HEAD, A, b"zz\r\nhello"], "malformed", ""),
    "sends no events": ([HEAD, chunk(b"hello\n\n"), END], "malformed", "hello"),
    "ends no line": ([HEAD, chunk(b"data: " + b"x" * 2_000_000), HANG], "malformed", "1,048,576"),
    "speaks no HTTP": ([b"hello there\r\n\r\n"], "malformed", ""),
    "fails within": ([HEAD, A, chunk(event(error={"message": "no blocks"})), END], "error", "no blocks"),
    "says nothing": ([HEAD, chunk(DONE), END], "empty", ""),
    "does not stream": ([refusal(200, b'{"choices": []}')], "not streamed", ""),
}


def asked(script: Script, *, api: str = "completions", times: int = 1, patience: Patience = QUICK) -> list[Answer]:
    """Answers of a server that does as a script says."""
    with MadeServer(script) as server:
        manner = Manner(api=api)

        async def work(client: Any) -> list[Answer]:
            url = f"{server.url}{manner.path}"
            return [await client.ask(url, manner.body("made", "hi", 5)) for _ in range(times)]

        return run(work, patience)


@pytest.mark.parametrize("peer", HOSTILE)
def test_however_a_peer_fails_it_is_counted_as_what_it_did(peer: str) -> None:
    told, kind, detail = HOSTILE[peer]

    def script(body: dict[str, Any], number: int):
        # The next request, on whichever connection, is answered: a failure leaves nothing behind.
        return iter(told) if number == 0 else answering()(body, number)

    # A busy machine is slow with what is not about time.
    failed, fine = asked(script, times=2, patience=QUICK if kind in ("stalled", "timeout") else Patience())
    assert (failed.error, fine.error) == (kind, "")
    assert detail in failed.detail
    assert "\n" not in failed.detail
    assert "Client" not in failed.detail
    assert fine.tokens == fine.chunks == 5


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:9", "nothing answers there: connection refused"),
        ("http://localhost:9", "nothing answers there: connection refused"),
        ("http://no-such-host.invalid", "no such host"),
    ],
)
def test_no_server_is_a_failure_to_connect_in_the_words_of_the_system(address: str, said: str) -> None:
    async def work(client: Any) -> tuple[Answer, Any, str]:
        answer = await client.ask(f"{address}/v1/completions", b"{}")
        return answer, await client.get(f"{address}/v1/models"), client.said

    answer, found, why = run(work, QUICK)
    assert (answer.error, answer.detail, found, why) == ("connect", said, None, said)


def test_a_server_without_tls_is_told_as_that() -> None:
    async def work(client: Any) -> Answer:
        def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello\r\n")
            writer.close()

        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await client.ask(f"https://127.0.0.1:{port}/v1/completions", b"{}")

    answer = run(work, QUICK)
    assert answer.error == "connect"
    assert answer.detail.startswith("no TLS that is trusted there: ")


def test_an_answer_that_is_whole_is_one_though_its_stream_never_ends() -> None:
    (answer,) = asked(steps(HEAD, A, chunk(said("b", "stop") + DONE), HANG))
    assert (answer.error, answer.finish, answer.chunks) == ("", "stop", 2)


def test_times_are_those_of_chunks_with_tokens_and_tokens_those_that_the_server_counts() -> None:
    told = (HEAD, 0.06, A, 0.04, B, chunk(said("c", "stop")), 0.03, chunk(usage(9, 4) + DONE), END)
    (answer,) = asked(steps(*told), patience=Patience())
    assert (answer.tokens, answer.prompt_tokens, answer.chunks) == (9, 4, 3)
    assert answer.first_s is not None
    assert answer.last_s is not None
    # Sleeps are at least as long as they say; what comes on top is the machine's.
    assert answer.first_s - answer.sent_s >= 0.06
    assert answer.gaps_s[0] >= 0.03  # the chunk before may have been read late
    assert answer.last_s - answer.first_s == pytest.approx(sum(answer.gaps_s))


def test_of_a_chat_a_role_alone_is_no_token_and_reasoning_is_one() -> None:
    told = [delta(role="assistant", content=""), delta(reasoning_content="a"), delta(content="b"), delta(content="")]
    (answer,) = asked(steps(HEAD, *map(chunk, told), chunk(DONE), END), api=CHAT)
    assert (answer.error, answer.chunks) == ("", 3)
    (other,) = asked(steps(HEAD, *map(chunk, (delta(content="a"), delta(content="b"))), chunk(DONE), END), api=CHAT)
    assert other.digest == answer.digest != ""


STREAM = b": ping\r\n\r\nevent: x\ndata: " + said("ü")[6:] + said("b")[:-1] + b"\r\ndata:" + b"[DONE]"


@given(st.lists(st.integers(0, len(STREAM)), max_size=9))
def test_events_are_the_same_however_their_bytes_are_cut(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(STREAM)]
    events = Events()
    found = [e for a, b in pairwise(ends) for e in events.feed(STREAM[a:b])] + [*events.rest()]
    hearing = Hearing(Answer())
    for at, one in enumerate(found):
        hearing.take(one, float(at))
    hearing.end()
    assert len(found) == 3
    assert (hearing.answer.first_s, hearing.answer.gaps_s) == (0.0, [1.0])


@given(st.binary(max_size=60))
def test_no_bytes_are_more_than_an_event_or_none(data: bytes) -> None:
    events, hearing = Events(), Hearing(Answer())
    try:
        for one in [*events.feed(b"data: " + data + b"\n"), *events.rest()]:
            hearing.take(one, 0.0)
    except (BadEvent, Failed):
        pass


def test_a_key_of_the_environment_opens_a_server_and_is_in_nothing_that_is_kept(monkeypatch) -> None:
    monkeypatch.setenv(KEY, "sk-very-secret")
    with MadeServer(steps(refusal(401, b'{"error": {"message": "bad key sk-very-secret"}}'))) as server:
        manner = Manner()

        async def work(client: Any) -> Answer:
            return await client.ask(f"{server.url}{manner.path}", manner.body("made", "hi", 5))

        answer = run(work, QUICK)
    assert b"Authorization: Bearer sk-very-secret" in server.headers[0]
    assert (answer.error, answer.detail) == ("http 401", "bad key ***")


@pytest.mark.parametrize(
    "address", ["", "localhost:8000", "http://", "http://a:b@c", "http://a?key=x", "http://a:x", "http://a b"]
)
def test_what_is_no_address_or_holds_a_secret_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="expected an address"):
        url_of("URL", address)


def test_servers_are_named_by_their_root() -> None:
    for tail in ("", "/", "/v1", "/v1/", "/v1/chat/completions"):
        assert url_of("URL", f"http://host:8000/prefix{tail}") == "http://host:8000/prefix"
    assert [s.name for s in servers_of(None, ["a=http://x", "b=https://y"])] == ["a", "b"]
    for url, arms in (
        (None, []),
        ("http://x", ["a=http://y"]),
        (None, ["a=http://x", "a=http://y"]),
        (None, ["http://x"]),
    ):
        with pytest.raises(UserError):
            servers_of(url, arms)


def test_texts_have_the_tokens_of_requests_and_share_what_those_share() -> None:
    made = Made(prefixed(requests_of([40, 60, 60], [1, 1, 1], stream=[0, 0, 1]), 20), list(range(1000)))
    first, second, third = (made.of(row, "a") for row in range(3))
    assert [len(first), len(second), len(third)] == [60, 80, 80]
    assert first == second[:60]
    assert second[:20] == third[:20]
    assert second[20:] != third[20:]
    assert made.of(0, "a") == first != made.of(0, "b")
    text = made_of_text(requests_of([30], [1]), "one two three " * 50, 300).of(0, "")
    assert isinstance(text, str)
    # 150 words are 300 tokens.
    assert len(text.split()) == 15


def test_a_request_says_how_it_is_answered() -> None:
    body = json.loads(Manner(temperature=0.5, ignore_end=False, more={"top_p": 0.9}).body("m", [1, 2], 3))
    assert body["prompt"] == [1, 2]
    assert (body["top_p"], body["stream_options"], "ignore_eos" in body) == (0.9, {"include_usage": True}, False)
    assert json.loads(Manner(api=CHAT).body("m", "hi", 3))["messages"] == [{"role": "user", "content": "hi"}]


def test_a_terminal_is_told_how_far_a_block_is_and_a_file_is_not(monkeypatch, capsys) -> None:
    monkeypatch.setattr(Shown, "EVERY_S", -1.0)
    Shown("1 of 2: a", 9).update(Answer())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    shown = Shown("1 of 2: a", 9)
    for kind in ("", "reset"):
        shown.update(Answer(error=kind))
    assert capsys.readouterr().err.endswith("1 of 2: a: 2 of 9 requests, 1 failed")
    shown.end()
    assert capsys.readouterr().err == "\r\x1b[K"


def test_a_proxy_of_the_environment_is_not_used(monkeypatch) -> None:
    monkeypatch.setitem(os.environ, "http_proxy", "http://127.0.0.1:9")
    (answer,) = asked(answering())
    assert answer.error == ""
