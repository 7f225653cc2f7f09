"""What the client of bench-server adds to latencies: its times less a trivial server, beside a bare socket.

python tests/bench/bench_load.py [--smoke]

A server in a process of its own notes when each request reached it and when it wrote each chunk; clocks of processes
are one. What is added holds the kernel, the loopback and the server's own delays too. A quiet machine is meant.
"""

import asyncio
import json
import multiprocessing
import os
from collections.abc import Awaitable, Callable
from functools import partial
from multiprocessing.connection import Connection

import numpy as np
from timing import options, show

from acceptance.servers.answer import Answer
from acceptance.servers.client import Client, Patience, clock, run
from calibration.servers.load import put
from calibration.servers.plan import sessions_of
from calibration.servers.prompts import Manner
from simulator.ground.streams import stream
from simulator.workloads.arrivals import arrival_times
from simulator.workloads.requests import requests_of

TOKENS, WAIT_S, GAP_S = 8, 0.002, 0.002
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b'data: {"choices": [{"index": 0, "text": "x", "finish_reason": null}]}\n\n'
LAST = b'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 8}}\n\ndata: [DONE]\n\n'
Ask = Callable[[int, float | None], Awaitable[Answer]]


def framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Trivial(asyncio.Protocol):
    """Answers requests with eight chunks; times: of each request by its prompt, a number."""

    times: dict[int, list[float]] = {}  # noqa: RUF012 - of the process

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.data = transport, b""

    def data_received(self, data: bytes) -> None:
        now_s, self.data = clock(), self.data + data
        _, end, body = self.data.partition(b"\r\n\r\n")
        if not end or not body.endswith(b"}"):
            return
        self.data = b""
        noted = self.times[json.loads(body)["prompt"]] = [now_s]
        asyncio.get_running_loop().call_later(WAIT_S, self.chunk, noted)

    def chunk(self, noted: list[float]) -> None:
        noted.append(clock())
        is_last = len(noted) > TOKENS
        first = HEAD if len(noted) == 2 else b""
        self.transport.write(first + framed(CHUNK) + (framed(LAST) + b"0\r\n\r\n" if is_last else b""))
        if not is_last:
            asyncio.get_running_loop().call_later(GAP_S, self.chunk, noted)


def serve(pipe: Connection) -> None:
    """Serve until something comes through a pipe, and send the times back."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Trivial, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)
        server.close()

    asyncio.run(main())
    pipe.send(Trivial.times)


async def by_socket(port: int, row: int, due_s: float | None) -> Answer:
    """Ask over a bare connection, whose bytes are looked at for events and no more."""
    answer, body = Answer(), Manner().body("m", row, TOKENS)  # type: ignore[arg-type]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer.sent_s = clock()
    writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    while data := await reader.read(65536):
        now_s = clock()
        for _ in range(data.count(b'"text"')):
            if answer.first_s is None:
                answer.first_s = now_s
            answer.last_s = now_s
        if b"[DONE]" in data:
            break
    writer.close()
    return answer


async def loaded(ask: Ask, base: int, rate: float, count: int) -> dict[int, Answer]:
    """Send requests at a rate; by their numbers, what came of them."""
    arrival_s = arrival_times(stream(1, 0, "arrivals"), count, rate)
    answers: dict[int, Answer] = {}
    sessions = sessions_of(requests_of([1] * count, [TOKENS] * count, arrival_s=arrival_s))
    await put(
        lambda row, due: ask(base + row, due), lambda row, a: answers.update({base + row: a}), sessions, clients=0
    )
    return answers


def added_ms(answers: dict[int, Answer], times: dict[int, list[float]]) -> dict[str, np.ndarray]:
    """What answers took beyond what the server took, to the first token and to the last."""
    pairs = [(a, times[number]) for number, a in answers.items() if not a.error]
    first = [a.first_s - a.sent_s - (noted[1] - noted[0]) for a, noted in pairs]
    whole = [a.last_s - a.sent_s - (noted[-1] - noted[0]) for a, noted in pairs]
    return {"first token": 1e3 * np.array(first), "whole answer": 1e3 * np.array(whole)}


def main() -> None:
    smoke = options(__doc__).parse_args().smoke
    rate, seconds, turns = (50.0, 0.2, 1) if smoke else (500.0, 4.0, 4)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,))
    process.start()
    port, count = here.recv(), int(rate * seconds)
    ours: list[dict[int, Answer]] = []
    bare: list[dict[int, Answer]] = []
    shares: list[float] = []

    async def work(client: Client) -> None:
        url, manner = f"http://127.0.0.1:{port}/v1/completions", Manner()

        async def ask(row: int, due_s: float | None) -> Answer:
            return await client.ask(url, manner.body("m", row, TOKENS), due_s)  # type: ignore[arg-type]

        await ask(-1, None)
        for turn in range(turns):
            began_s, worked = clock(), os.times()
            ours.append(await loaded(ask, 2 * turn * count, rate, count))
            shares.append((os.times().user + os.times().system - worked.user - worked.system) / (clock() - began_s))
            bare.append(await loaded(partial(by_socket, port), (2 * turn + 1) * count, rate, count))

    run(work, Patience())
    here.send("end")
    times = here.recv()
    process.join()
    failed = sum(bool(a.error) for one in ours for a in one.values())
    show(f"{rate:g} requests/s of {TOKENS} chunks, {turns} turns", f"{failed} failed", f"{max(shares):.0%} of a core")
    for what in ("first token", "whole answer"):
        own, other = ([added_ms(one, times)[what] for one in side] for side in (ours, bare))
        for q, bar in ((50, ""), (99, "below 1 ms")):
            best, beside = (min(float(np.percentile(values, q)) for values in side) for side in (own, other))
            worst = max(float(np.percentile(values, q)) for values in own)
            show(
                f"added to the {what}, p{q}, best turn",
                f"{best:.3f} ms",
                f"{best / beside:.1f} x a bare socket's; worst turn {worst:.3f} ms",
                bar,
            )


if __name__ == "__main__":
    main()
