"""What one streamed request gave: when its chunks came, how many tokens they were, or how it failed."""

import json
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from .events import DONE
from .server import without_key

# Kinds of failure besides "http STATUS".
CONNECT, RESET, CUT, STALLED, TIMEOUT = "connect", "reset", "cut", "stalled", "timeout"
MALFORMED, ERROR, EMPTY, WHOLE = "malformed", "error", "empty", "not streamed"
FAILURES = {
    CONNECT: "no connection was made",
    RESET: "the server closed the connection hard",
    CUT: "the stream ended before the answer did",
    STALLED: "nothing came for --stall",
    TIMEOUT: "it took longer than --timeout",
    MALFORMED: "what came is no stream of an answer",
    ERROR: "the server said that it failed, within the stream",
    EMPTY: "an answer without a token",
    WHOLE: "the answer came in one piece",
}
# Where chunks of a chat have what is said.
SAID = ("content", "reasoning_content", "reasoning", "refusal")
MOST_TOKENS = 1 << 31


class Failed(Exception):
    """A request that failed: its kind, and what is known besides."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind, self.detail = kind, detail


@dataclass(slots=True)
class Answer:
    """A request and what came of it; times in seconds of one clock.

    sent_s: when it was sent; late_s: so long after it was due, or asked for: its connection is in that. first_s,
    last_s: when the first and the last chunk with tokens came; gaps_s: between chunks. prompt_tokens, output_tokens: as
    the server counts them, None where it does not. digest: of the text. error: kind of failure, "" for none; detail:
    what is known of it.
    """

    sent_s: float = 0.0
    late_s: float = 0.0
    first_s: float | None = None
    last_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    finish: str = ""
    digest: str = ""
    error: str = ""
    detail: str = ""

    @property
    def chunks(self) -> int:
        """Chunks with tokens."""
        return 0 if self.first_s is None else 1 + len(self.gaps_s)

    @property
    def tokens(self) -> int:
        """Tokens of the answer; of a server that does not count them, one a chunk."""
        return self.chunks if self.output_tokens is None else self.output_tokens


class Hearing:
    """Fills an answer with the events of its stream."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.text, self.is_done = answer, blake2b(digest_size=6), False

    def take(self, event: bytes, now_s: float) -> None:
        """Take an event that came now.

        Raises:
            Failed: It tells of an error, or is none of an answer.
        """
        if event == DONE:
            self.is_done = True
            return
        try:
            told = json.loads(event)
        except (ValueError, RecursionError):
            raise Failed(MALFORMED, f"{beginning(event)!r} is no JSON") from None
        if not isinstance(told, dict):
            raise Failed(MALFORMED, f"{beginning(event)!r} is no object")
        if told.get("error") is not None or told.get("object") == "error":
            raise Failed(ERROR, message_in(told))
        choices, usage = told.get("choices"), told.get("usage")
        if choices:
            self.take_choice(choices, now_s)
        if isinstance(usage, dict):
            self.answer.output_tokens = counted(usage, "completion_tokens", self.answer.output_tokens)
            self.answer.prompt_tokens = counted(usage, "prompt_tokens", self.answer.prompt_tokens)

    def take_choice(self, choices: Any, now_s: float) -> None:
        """Take what was said; a role alone, before anything is, is no token."""
        choice = choices[0] if isinstance(choices, list) else None
        if not isinstance(choice, dict):
            raise Failed(MALFORMED, "choices is no list of objects")
        answer, said = self.answer, said_in(choice)
        if isinstance(finish := choice.get("finish_reason"), str):
            answer.finish = finish[:40]
        if answer.first_s is None:
            if said is None:
                return
            answer.first_s = now_s
        elif answer.last_s is not None:
            answer.gaps_s.append(now_s - answer.last_s)
        answer.last_s = now_s
        if said:
            self.text.update(said.encode("utf-8", "surrogatepass"))

    def end(self) -> None:
        """Say that the stream has ended.

        Raises:
            Failed: The answer has not, or is none.
        """
        if not self.is_done and not self.answer.finish:
            raise Failed(CUT, "no [DONE] and no finish_reason")
        if self.answer.first_s is None:
            raise Failed(EMPTY)
        self.answer.digest = self.text.hexdigest()


def beginning(event: bytes) -> str:
    """Return how an event begins, without our key or half of it."""
    return without_key(event.decode(errors="replace"))[:60]


def said_in(choice: dict[str, Any]) -> str | None:
    """Return the text of a choice, "" of a token without one; None where it holds no token."""
    if "delta" not in choice:
        text = choice.get("text")
        if not isinstance(text, str):
            raise Failed(MALFORMED, "a choice has neither text nor delta")
        return text
    delta = choice["delta"]
    if not isinstance(delta, dict):
        raise Failed(MALFORMED, "delta is no object")
    said = "".join(part for name in SAID if isinstance(part := delta.get(name), str))
    if said or "role" not in delta:
        return said
    return "" if delta.get("tool_calls") else None


def counted(usage: dict[str, Any], name: str, before: int | None) -> int | None:
    """Return a count of tokens, the one before where there is none."""
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_TOKENS else before


def message_in(told: Any) -> str:
    """Return what an error says."""
    error = told.get("error", told) if isinstance(told, dict) else told
    said = (error.get("message") or error.get("detail")) if isinstance(error, dict) else error
    return str(error if said is None else said)
