"""What servers say is told without the key of the environment, which they may give back."""

import asyncio
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from acceptance.servers.answer import Failed, beginning
from acceptance.servers.client import Patience, Watched, connected, error_in, shown
from acceptance.servers.engines import asked, read


def said_by_a_server(made: str) -> list[str]:
    """What is told of answers that are of no known form, and hold a text."""
    found = []
    for answer in (f"{made} is no JSON", f'["{made}"]'):
        with pytest.raises(Failed) as failed:
            read(int, json.loads(answer)[0]) if answer[0] == "[" else asyncio.run(asked(Says(answer), "", "", {}))
        found.append(str(failed.value))
    return found


class Says:
    """A client whose server says always the same."""

    def __init__(self, answer: str) -> None:
        self.answer = answer.encode()

    async def fetch(self, url: str, post: bytes) -> bytes:
        return self.answer


def test_a_key_that_a_server_gives_back_is_not_told_nor_half_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all("sesame" in said for said in said_by_a_server("sesame"))
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    assert all("***" in said and "sesame" not in said for said in said_by_a_server("sesame"))
    assert beginning(b"x" * 57 + b"sesame").endswith("x***")
    for told in (error_in(" " + 196 * "x" + " sesame"), error_in(json.dumps({"error": 197 * "x" + "sesame"}))):
        assert "ses" not in shown(told)


class Elsewhere(BaseHTTPRequestHandler):
    """A server that sends everybody somewhere else, and keeps what comes there."""

    def do_POST(self) -> None:
        told = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.path, told))  # type: ignore[attr-defined]
        self.send_response(307)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_what_is_posted_follows_no_server_elsewhere() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        server.heard = []  # type: ignore[attr-defined]
        Thread(target=server.serve_forever, daemon=True).start()

        async def post() -> None:
            async with connected(Watched(), Patience(9, 9, 9)) as opened:
                await opened.fetch(f"http://127.0.0.1:{server.server_port}/", b"a prompt")

        with pytest.raises(Failed, match="307"):
            asyncio.run(post())
        server.shutdown()
        assert server.heard == [("/", b"a prompt")]  # type: ignore[attr-defined]
