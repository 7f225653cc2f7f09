"""What requests say: text made to their lengths, which shares what they share, or prompts of a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

from simulator.workloads.requests import Requests

COMPLETIONS, CHAT = "completions", "chat"
PATHS = {COMPLETIONS: "/v1/completions", CHAT: "/v1/chat/completions"}
# Of English and programs, where no server tells.
BYTES_A_TOKEN = 4.0
# What every text of its own begins with, so that no cache of prefixes knows it.
SALT = 2
LEAST_IDS = 64
Prompt = str | list[int]


class Prompts(Protocol):
    """What requests say."""

    def of(self, row: int, salt: str) -> Prompt:
        """Return the prompt of a request; made texts differ from those of another salt."""


@dataclass(frozen=True, slots=True)
class Written:
    """Prompts of a file, again from the first where there are more requests."""

    texts: Sequence[str]

    def of(self, row: int, salt: str) -> Prompt:
        """Return a prompt as the file has it."""
        return self.texts[row % len(self.texts)]


@dataclass(frozen=True, slots=True)
class Made:
    """Pieces of natural text, cut to the tokens of requests: requests that share text in a workload share it here.

    pool: tokens of a server, or pieces of text that follow one another. a_token: pieces that make one.
    """

    requests: Requests
    pool: Sequence[int] | Sequence[str]
    a_token: float = 1.0

    def of(self, row: int, salt: str) -> Prompt:
        """Return a text of a request's length: what it shares, unit by unit, and the place of its own stream."""
        r = self.requests
        length, shared = int(r.prompt[row]), int(r.shared[row])
        pieces: list[Any] = []
        for unit in range(-(-shared // r.unit_tokens)):
            name = int(r.units[int(r.units_start[row]) + unit])
            behind = min(shared - unit * r.unit_tokens, r.unit_tokens)
            pieces += self.cut(f"{salt} unit {name}", 0, behind)
        pieces += self.cut(f"{salt} stream {int(r.stream[row])}", shared, length)
        return pieces if isinstance(self.pool[0], int) else "".join(pieces)

    def cut(self, name: str, first: int, last: int) -> list[Any]:
        """Return the tokens of a text from one place to another."""
        begin, end = round(first * self.a_token), max(round(last * self.a_token), round(first * self.a_token) + 1)
        size, seed = len(self.pool), int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")
        found: list[Any] = []
        start = (seed + begin) % size
        while len(found) < end - begin:
            found += self.pool[start : start + end - begin - len(found)]
            start = 0
        # Two pieces from anywhere, then all from one place on.
        for at in range(min(SALT, len(found))):
            found[at] = self.pool[(seed >> (20 * (at + 1))) % size]
        return found


def pieces_of(text: str) -> list[str]:
    """Return words with what stands behind them."""
    import re

    return re.findall(r"\S+\s*", text)


def made_of_text(requests: Requests, text: str, tokens: int | None) -> Made:
    """Return prompts of text; tokens: of the whole of it, None where nobody counted them."""
    pieces = pieces_of(text)
    whole = tokens or len(text.encode()) / BYTES_A_TOKEN
    return Made(requests, pieces, len(pieces) / whole)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How requests are asked.

    api: `COMPLETIONS` or `CHAT`. temperature: of sampling. ignore_end: whether answers go on behind their end, to the
    length that is asked for. more: further members of every request.
    """

    api: str = COMPLETIONS
    temperature: float = 0.0
    ignore_end: bool = True
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where a server takes them."""
        return PATHS[self.api]

    def body(self, model: str, prompt: Prompt, tokens: int) -> bytes:
        """Return a request for so many tokens."""
        asked: dict[str, Any] = {
            "model": model,
            "max_tokens": tokens,
            "temperature": self.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.api == CHAT:
            asked["messages"] = [{"role": "user", "content": prompt}]
        else:
            asked["prompt"] = prompt
        if self.ignore_end:
            asked["ignore_eos"] = True
        return json.dumps(asked | dict(self.more), separators=(",", ":")).encode()
