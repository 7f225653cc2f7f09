"""A measurement whose models run on servers: the target's writes text, or has written it, and both score it.

Prompts are asked for side by side, as many as a user allows, each but once: what fails is counted and left out.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from acceptance.models.rule import SamplingRule
from acceptance.results.unfinished import Unfinished
from acceptance.servers.answer import CONNECT, Failed
from acceptance.servers.client import Client, run
from acceptance.servers.engines import Scores
from acceptance.servers.sides import PATIENCE, Sides
from acceptance.servers.told import tokens_told
from acceptance.text.conversation import Framing, messages_of, plain_text
from acceptance.text.prompts import Prompt
from acceptance.text.texts import Text
from acceptance.trace.trace import PromptInfo, Trace, join
from simulator.ground.artefacts import UserError
from simulator.ground.fields import shortened

from .server_traces import trace_of

# So many failures at once, and nothing that succeeded, are no accident.
MOST_FAILED = 8
UNREADABLE = "\ufffd"


class Unfit(Exception):
    """A prompt or text that cannot be measured, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How servers are measured.

    rules: what target and draft sample from, at temperature 0 or 1. max_new_tokens: budget of each output. seed: of the
    target's sampling. together: prompts that are asked for at a time. framing: how conversations are put.
    """

    rules: tuple[SamplingRule, SamplingRule]
    max_new_tokens: int
    seed: int
    together: int
    framing: Framing


@dataclass(slots=True, kw_only=True)
class Measurement:
    """Items that are measured on servers, those of `own` by their index; what of them cannot be, and what failed."""

    sides: Sides
    items: Sequence[Prompt | Text]
    own: Sequence[int]
    settings: Settings
    unfit: dict[int, str] = field(default_factory=dict)
    failed: dict[int, Failed] = field(default_factory=dict)

    @property
    def infos(self) -> tuple[PromptInfo, ...]:
        """Where each item came from."""
        return tuple(PromptInfo(source=i.source, category=i.category) for i in self.items)

    def measure(self, unfinished: Unfinished, progress: Callable[[int], object] = lambda _: None) -> Trace:
        """Return the trace of what can be measured.

        Raises:
            UserError: Nothing can, or a server is gone; what is done is kept.
        """
        infos = self.infos
        there = {i: trace for i in self.own if (trace := unfinished.load(i, infos)) is not None}
        waiting = [i for i in self.own if i not in there]
        progress(len(there))

        async def one(client: Client, index: int) -> None:
            try:
                there[index] = await self.item(client, index, infos)
                unfinished.save(index, there[index])
            except Unfit as error:
                self.unfit[index] = str(error)
            except Failed as error:
                self.failed[index] = error
                self.check_failures(len(there), unfinished)
            progress(1)

        async def work(client: Client) -> None:
            left = iter(waiting)

            async def worker() -> None:
                for index in left:
                    await one(client, index)

            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.settings.together, len(waiting))):
                    group.create_task(worker())

        try:
            run(work, PATIENCE)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        if not there:
            raise UserError(f"none of {len(self.own)} prompts can be measured ({self.first_reason})")
        return join([there[i] for i in sorted(there)])

    def check_failures(self, done: int, unfinished: Unfinished) -> None:
        """End where the server is gone, or nothing succeeds."""
        *_, last = self.failed.values()
        if last.kind == CONNECT:
            kept = f"{done} of {len(self.own)} prompts are kept in {unfinished.path}, the same command goes on"
            raise UserError(f"--target-server, --draft-server: {last.detail}; {kept}")
        if not done and len(self.failed) >= MOST_FAILED:
            raise UserError(
                f"all of the first {len(self.failed)} prompts failed ({last}), expected servers that answer"
            )

    @property
    def first_reason(self) -> str:
        """Why the first item that is not measured is not."""
        reasons = self.unfit | {i: str(error) for i, error in self.failed.items()}
        index = min(reasons)
        return f"{self.items[index].source}: {reasons[index]}"

    async def item(self, client: Client, index: int, infos: tuple[PromptInfo, ...]) -> Trace:
        """Return the trace of one item.

        Raises:
            Unfit: It cannot be measured.
            Failed: A request was not answered.
        """
        item = self.items[index]
        if isinstance(item, Prompt):
            return await self.converse(client, index, item, infos)
        before = await self.tokens(client, item.prompt, ())
        tokens = await self.output_tokens(client, item.output)
        if not tokens:
            raise Unfit("no token in the output")
        self.check_room(before, len(tokens))
        return trace_of((index, 0), len(before), tokens, await self.scores(client, before, tokens), *self.rest(infos))

    async def converse(self, client: Client, index: int, prompt: Prompt, infos: tuple[PromptInfo, ...]) -> Trace:
        """Let the target answer a conversation, turn by turn, as far as it fits; return the trace of all answers."""
        traces, answers, settings = list[Trace](), list[str](), self.settings
        for turn in range(len(prompt.turns)):
            before = await self.tokens(client, prompt.turns[: turn + 1], answers)
            try:
                self.check_room(before, settings.max_new_tokens)
            except Unfit:
                if turn == 0:
                    raise
                break
            seed = int(np.random.SeedSequence(settings.seed, spawn_key=(index, turn)).generate_state(1)[0])
            temperature = settings.rules[0].temperature
            tokens, text = await self.sides.target.by(client).write(before, settings.max_new_tokens, temperature, seed)
            scores = await self.scores(client, before, tokens)
            traces.append(trace_of((index, turn), len(before), tokens, scores, *self.rest(infos)))
            answers.append(text)
        return join(traces)

    def rest(self, infos: tuple[PromptInfo, ...]) -> tuple[tuple[SamplingRule, SamplingRule], tuple[PromptInfo, ...]]:
        """Return what is the same of every trace."""
        return self.settings.rules, infos

    async def tokens(
        self, client: Client, prompt: str | Sequence[int] | Sequence[str], answers: Sequence[str]
    ) -> list[int]:
        """Return the tokens before an output: of a text, of turns and the answers to all but the last; ids stay."""
        framing = self.settings.framing
        if not isinstance(prompt, str) and isinstance(prompt[0], int):
            if framing.chat_template:
                raise Unfit("token ids, which --use-chat-template cannot frame")
            return list(prompt)  # type: ignore[arg-type]
        turns = (prompt,) if isinstance(prompt, str) else tuple(map(str, prompt))
        if not framing.chat_template:
            return await self.told(client, {"add_special_tokens": True}, plain_text(turns, answers))
        messages = {"messages": messages_of(framing, turns, answers), "add_generation_prompt": True}
        return await self.told(client, messages, None)

    async def output_tokens(self, client: Client, output: str | tuple[int, ...]) -> list[int]:
        """Return the tokens of a text that was written before; ids stay."""
        return await self.told(client, {"add_special_tokens": False}, output) if isinstance(output, str) else [*output]

    async def told(self, client: Client, how: Mapping[str, Any], text: str | None) -> list[int]:
        """Return the tokens that the target's server makes of a text, or of messages."""
        model = {"model": self.sides.target.model}
        return await tokens_told(client, self.sides.target.url, model | dict(how), text)

    def check_room(self, before: Sequence[int], more: int) -> None:
        """Refuse what is too long, or begins with nothing."""
        if not before:
            raise Unfit("no token before the output")
        if len(before) + more > self.sides.room:
            needed = f"{len(before) + more} tokens with its output"
            raise Unfit(f"{needed}, but the servers score {self.sides.room} at most")

    async def scores(self, client: Client, before: list[int], tokens: list[int]) -> tuple[Scores, Scores]:
        """Return what both models think of a text, having seen that its tokens stand for the same."""
        asking = (side.by(client).score(before, tokens) for side in self.sides)
        both = await asyncio.gather(*asking, return_exceptions=True)  # where one fails, the other is waited for
        for found in both:
            if isinstance(found, BaseException):
                raise found
        p, q = (found for found in both if isinstance(found, Scores))
        if self.sides.target.engine is self.sides.draft.engine:
            for token, one, other in zip(tokens, p.names, q.names, strict=True):
                if one != other and UNREADABLE not in one + other:
                    raise UserError(
                        f"--draft-server: its token {token} is {shortened(other)}, the target's {shortened(one)}; "
                        "expected a draft of the same vocabulary"
                    )
        return p, q

    def left_out(self, trace: Trace) -> list[str]:
        """Return what there is to say of what a trace does not hold."""
        notes = [f"left out: {self.items[i].source}: {reason}" for i, reason in sorted(self.unfit.items())]
        if self.failed:
            kinds = ", ".join(
                f"{kind} {count}" for kind, count in Counter(e.kind for e in self.failed.values()).items()
            )
            example = self.failed[min(self.failed)].detail
            notes.append(
                f"left out: {len(self.failed)} of {len(self.own)} prompts, whose requests failed ({kinds}): {example}"
            )
        ended = sum(isinstance(item, Text) and item.ended for item in (self.items[i] for i in self.own))
        if ended:
            notes.append(
                f"{ended} texts end where the target ended them: that token is not scored, servers do not name it"
            )
        return [*notes, *self.unread(trace)]

    def unread(self, trace: Trace) -> Iterator[str]:
        """Yield how many turns were not put."""
        measured = set(np.unique(trace.prompt).tolist())
        planned = sum(len(i.turns) if isinstance(i := self.items[n], Prompt) else 1 for n in measured)
        if missing := planned - (len(trace.starts) - 1):
            yield f"left out: {missing} of {planned} turns, whose conversations no longer fit the models' context"
