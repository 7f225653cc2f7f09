"""A server on loopback that does as it is told: streams answers, or breaks off, hangs, and sends what is no answer."""

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

# What a server does with a request: bytes to send, seconds to wait, or one of these words.
RESET, CLOSE, HANG = "reset", "close", "hang"
Step = bytes | float | str
Script = Callable[[dict[str, Any], int], Iterator[Step]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(**told: Any) -> bytes:
    return b"data: " + json.dumps(told).encode() + b"\n\n"


def said(text: str, finish: str | None = None) -> bytes:
    """An event of a completion."""
    return event(choices=[{"index": 0, "text": text, "finish_reason": finish}], usage=None)


def delta(**delta: Any) -> bytes:
    """An event of a chat."""
    return event(choices=[{"index": 0, "delta": delta, "finish_reason": None}])


def usage(tokens: int, prompt: int = 7) -> bytes:
    return event(choices=[], usage={"prompt_tokens": prompt, "completion_tokens": tokens})


def refusal(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def answering(gap_s: float = 0.0, wait_s: float = 0.0, width: int = 1) -> Script:
    """Answers of the length that is asked, `width` tokens a chunk, at these times."""

    def script(asked: dict[str, Any], number: int) -> Iterator[Step]:
        tokens = asked["max_tokens"]
        yield HEAD
        yield wait_s
        for at in range(0, tokens, width):
            if at:
                yield gap_s
            last = at + width >= tokens
            yield chunk(said("x" * min(width, tokens - at), "length" if last else None))
        prompt = asked.get("prompt", "")
        yield chunk(usage(tokens, len(prompt)) + DONE) + END

    return script


def steps(*told: Step) -> Script:
    """The same for every request."""
    return lambda asked, number: iter(told)


class MadeServer:
    """A context with a server in a thread of its own; asked: bodies that came, in order; headers: those of requests."""

    def __init__(self, script: Script = answering(), *, model: str = "made", tokens: int = 500) -> None:  # noqa: B008
        self.script, self.model, self.tokens = script, model, tokens
        self.metrics: Callable[[], str] | None = None
        self.info: dict[str, Any] | None = None
        self.asked: list[dict[str, Any]] = []
        self.headers: list[bytes] = []
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> "MadeServer":
        self.thread.start()
        self.server = asyncio.run_coroutine_threadsafe(self.start(), self.loop).result(5)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def start(self) -> asyncio.Server:
        return await asyncio.start_server(self.serve, "127.0.0.1", 0)

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            self.server.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while await self.one(reader, writer):
                pass
        writer.close()

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; False: no other on this connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")), 0)
        body = await reader.readexactly(length)
        path = lines[0].split()[1].decode()
        if path.endswith("completions"):
            self.headers.append(head)
            self.asked.append(json.loads(body))
            return await self.play(self.script(self.asked[-1], len(self.asked) - 1), writer)
        told = self.told(path)
        writer.write(refusal(404, b"{}") if told is None else refusal(200, told).replace(b" No", b" OK", 1))
        return True

    def told(self, path: str) -> bytes | None:
        """What stands at an address."""
        if path == "/v1/models":
            return json.dumps({"data": [{"id": self.model, "max_model_len": 4096}]}).encode()
        if path == "/tokenize" and self.tokens:
            return json.dumps({"tokens": list(range(self.tokens))}).encode()
        if path == "/get_server_info" and self.info:
            return json.dumps(self.info).encode()
        return self.metrics().encode() if path == "/metrics" and self.metrics else None

    async def play(self, script: Iterator[Step], writer: asyncio.StreamWriter) -> bool:
        """Do what a script says."""
        for step in script:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif step == RESET:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
                return False
            elif step == CLOSE:
                return False
            else:
                await asyncio.sleep(3600)
        return True
