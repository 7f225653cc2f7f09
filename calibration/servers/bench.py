"""Runs the blocks of a plan on their servers, and keeps what came of them."""

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from acceptance.results.journal import Journal
from acceptance.servers.answer import FAILURES, Answer
from acceptance.servers.client import Client, Patience, clock, run
from acceptance.servers.server import Server
from simulator.ground.artefacts import UserError
from simulator.ground.endings import handled
from simulator.ground.fields import Field

from .engine import scraped
from .load import put
from .plan import Block, size_of
from .prompts import Manner, Prompts
from .records import Found, Ran, answer_of, kept, lags_of, of_block, of_request, part_of, ran_of

# Of requests that are written before their block begins: bytes, at most.
MOST_READY = 1 << 24
# What the first request of a server asks for.
GREETING, GREETING_TOKENS = "Once upon a time", 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is run.

    servers, models: by arm. prompts, tokens: of each load, what requests say and how long their answers are. clients:
    of each load, 0: by the clock. salts: of each arm, what its texts begin with. most_s: of a block; behind it nothing
    is sent. warmup: share of a block's requests that counts in no latency.
    """

    servers: Mapping[str, Server]
    models: Mapping[str, str]
    manner: Manner
    blocks: Sequence[Block]
    prompts: Mapping[float, Prompts]
    tokens: Mapping[float, Sequence[int]]
    clients: Mapping[float, int]
    salts: Mapping[str, str]
    most_s: float
    warmup: float
    patience: Patience


@dataclass(slots=True)
class Bench:
    """A run of a plan. found: what a file has of it already. number: of the signal that ended it early, 0 for none."""

    plan: Plan
    journal: Journal | None = None
    found: Found = field(default_factory=lambda: Found({}, {}, {}))
    ran: list[Ran] = field(default_factory=list)
    number: int = 0
    gone: str = ""

    def run(self) -> list[Ran]:
        """Run all blocks that the file does not have; a signal ends the run, and what came until then is returned."""
        return list(run(self.work, self.plan.patience))

    async def work(self, client: Client) -> list[Ran]:
        """Run blocks, until all are or a signal comes."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end(number: int, _: Any) -> None:
            if self.number:
                raise KeyboardInterrupt
            self.number = number
            loop.call_soon_threadsafe(task.cancel)

        with handled(end), suppress(asyncio.CancelledError):
            await self.all_blocks(client)
        return self.ran

    async def all_blocks(self, client: Client) -> None:
        """Run one block after the other."""
        blocks, plan = self.plan.blocks, self.plan
        there = [ran_of(self.found, block.name, plan.clients[block.load], plan.warmup) for block in blocks]
        for arm in dict.fromkeys(block.arm for block, ran in zip(blocks, there, strict=True) if ran is None):
            await greet(client, plan.servers[arm], plan.models[arm], plan.manner)
        for at, (block, ran) in enumerate(zip(blocks, there, strict=True), 1):
            if ran is not None:
                self.ran.append(ran)
                continue
            await self.block(client, plan.servers[block.arm], block, f"{at} of {len(blocks)}")
            if self.gone:
                return

    async def block(self, client: Client, server: Server, block: Block, place: str) -> None:
        """Run a block."""
        plan, answers = self.plan, list[tuple[int, Answer]]()
        attempt = self.found.attempts.get(block.name, 0) + 1
        shown = Shown(f"{place}: {block.arm}", sum(size_of(session.turn) for session in block.sessions))
        prompts, tokens, model = plan.prompts[block.load], plan.tokens[block.load], plan.models[block.arm]
        url, salt = f"{server.url}{plan.manner.path}", f"{block.load:g} {plan.salts[block.arm]}"

        def body(row: int) -> bytes:
            return plan.manner.body(model, prompts.of(row, salt), tokens[row])

        # Who waits for an answer sends the next request at once: what comes later misses a step of the engine.
        ready = written(body, block)

        async def ask(row: int, due_s: float | None) -> Answer:
            return await client.ask(url, ready.pop(row, b"") or body(row), due_s)

        def told(row: int, answer: Answer) -> None:
            answers.append((row, answer))
            shown.update(answer)

        before = await scraped(client, server)
        client.lags_s.clear()
        worked_s, began_s, is_there, is_whole = time.process_time(), clock(), True, False
        try:
            began_s, is_there = await put(
                ask, told, block.sessions, clients=plan.clients[block.load], most_s=plan.most_s
            )
            is_whole = is_there
        finally:
            taken_s, worked_s = max(clock() - began_s, 1e-9), time.process_time() - worked_s
            shown.end()
            for _, answer in answers:
                shift(answer, min(began_s, answer.sent_s))
            records = [of_request(block, attempt, row, answer) for row, answer in answers]
            kept(self.journal, records)
            # As they are read again.
            read = [(row, answer_of(Field(record))) for (row, _), record in zip(answers, records, strict=True)]
            part = part_of(block.name, read, plan.clients[block.load], plan.warmup)
            if not is_there:  # nobody serves behind the last answer
                last_s = max((a.last_s for a in part.answers if a.last_s is not None), default=part.duration_s)
                part = part._replace(duration_s=last_s)
            ran = Ran(part, is_whole, lags_of(client.lags_s), worked_s / taken_s, before)
            self.ran.append(ran)
        self.ran[-1] = ran._replace(after=await scraped(client, server))
        if not is_there:
            last = answers[-1][1]
            self.gone = f"{server.option}: answers no longer ({last.detail})"
            return
        kept(self.journal, [of_block(block, attempt, self.ran[-1])])


def written(body: Callable[[int], bytes], block: Block) -> dict[int, bytes]:
    """Return the first requests of a block as they are sent, as many as there is room for."""
    ready: dict[int, bytes] = {}
    room = MOST_READY
    for session in block.sessions:
        if room <= 0:
            break
        ready[session.turn.row] = body(session.turn.row)
        room -= len(ready[session.turn.row])
    return ready


def shift(answer: Answer, began_s: float) -> None:
    """Have the times of an answer count from the beginning of its block."""
    answer.sent_s -= began_s
    if answer.first_s is not None and answer.last_s is not None:
        answer.first_s -= began_s
        answer.last_s -= began_s


async def greet(client: Client, server: Server, model: str, manner: Manner) -> None:
    """Ask a server for two tokens, which nobody counts.

    Raises:
        UserError: It has no answer.
    """
    answer = await client.ask(f"{server.url}{manner.path}", manner.body(model, GREETING, GREETING_TOKENS))
    if answer.error:
        said = f" ({found})" if (found := answer.detail or FAILURES.get(answer.error)) else ""
        # Engines go on behind an end where they are told to; services take no such word.
        hint = "--no-ignore-eos beside it" if "ignore_eos" in said else f"a server that answers {manner.path}"
        raise UserError(f"{server.option}: {answer.error}{said}, expected {hint}")


def deliver(number: int, message: str) -> None:
    """Have a signal that ended a run early end the command."""
    try:
        signal.raise_signal(number)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(message) from None


class Shown:
    """How far a block is, in one line of a terminal, a few times a second at most; elsewhere nothing."""

    EVERY_S = 0.5

    def __init__(self, label: str, size: int) -> None:
        self.label, self.size, self.done, self.failed = label, size, 0, 0
        self.said_s, self.is_on = time.monotonic(), sys.stderr.isatty()

    def update(self, answer: Answer) -> None:
        """Count an answer."""
        self.done, self.failed = self.done + 1, self.failed + bool(answer.error)
        if self.is_on and time.monotonic() - self.said_s > self.EVERY_S:
            failed = f", {self.failed:,} failed" if self.failed else ""
            sys.stderr.write(f"\r\x1b[K{self.label}: {self.done:,} of {self.size:,} requests{failed}")
            sys.stderr.flush()
            self.said_s = time.monotonic()

    def end(self) -> None:
        """Leave no trace."""
        if self.is_on:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
