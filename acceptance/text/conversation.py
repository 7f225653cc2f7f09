"""From what a user says, turn after turn, to the tokens a model continues."""

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from simulator.ground.artefacts import UserError

try:
    import resource
except ImportError:  # no such limits on this system
    resource = None  # type: ignore[assignment]

# For the text of a conversation; templates are programs that come with a model.
TEMPLATE_S = 10.0
TEMPLATE_BYTES = 1 << 28
STATM = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How a conversation is put to a model.

    chat_template: whether the tokenizer's own template frames it; otherwise the texts follow one another, each answer
    directly behind its prompt. system_prompt: what the template's system role says.

    Raises:
        UserError: A system prompt without the template.
    """

    chat_template: bool = False
    system_prompt: str = ""

    def __post_init__(self) -> None:
        if self.system_prompt and not self.chat_template:
            raise UserError("--system-prompt: has no place in plain text, expected --use-chat-template beside it")


def check_template(tokenizer: Any, framing: Framing, option: str) -> None:
    """Refuse a chat template that is not there."""
    if framing.chat_template and not tokenizer.chat_template:
        raise UserError(f"--use-chat-template: the tokenizer of {option} has no chat template")


def tokens_before(tokenizer: Any, framing: Framing, turns: Sequence[str], answers: Sequence[str]) -> list[int]:
    """Return the tokens before the answer to the last turn.

    Args:
        tokenizer: Of the model that reads them.
        framing: With or without the chat template.
        turns: What the user said so far.
        answers: What the model answered, one less.

    Raises:
        UserError: The template refuses these messages.
    """
    if not framing.chat_template:
        return list(tokenizer(plain_text(turns, answers)).input_ids)
    text = framed(tokenizer, messages_of(framing, turns, answers), add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def plain_text(turns: Sequence[str], answers: Sequence[str]) -> str:
    """Return a conversation as text, each answer directly behind its prompt, up to the answer to the last turn."""
    return "".join([turns[0], *(f"{answer}\n{turn}" for answer, turn in zip(answers, turns[1:], strict=True))])


def messages_of(framing: Framing, turns: Sequence[str], answers: Sequence[str]) -> list[dict[str, str]]:
    """Return a conversation as messages, up to the answer to the last turn."""
    messages = [{"role": "system", "content": framing.system_prompt}] if framing.system_prompt else []
    for i, turn in enumerate(turns):
        messages.append({"role": "user", "content": turn})
        if i < len(answers):
            messages.append({"role": "assistant", "content": answers[i]})
    return messages


def framed(tokenizer: Any, messages: Sequence[Mapping[str, str]], **how: Any) -> str:
    """Return what the tokenizer's chat template makes of messages.

    Raises:
        UserError: It refuses them, does not come to an end, or takes too much memory.
    """
    try:
        with at_most(TEMPLATE_S), within(TEMPLATE_BYTES):
            return str(tokenizer.apply_chat_template(messages, tokenize=False, **how))
    except Exception as error:  # templates raise what they like
        is_large = isinstance(error, MemoryError)
        reason = f"it takes more than {TEMPLATE_BYTES >> 20} MiB" if is_large else str(error).partition("\n")[0]
        raise UserError(f"--use-chat-template: the template refuses these messages ({reason})") from None


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer, in the main thread and where a system has alarms; elsewhere nothing does."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> NoReturn:
        raise TimeoutError(f"it has not come to an end in {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def within(more: int) -> Iterator[None]:
    """Let this process take so many bytes more than it has, where a system has such limits; elsewhere nothing does.

    A process has one limit for all its threads: none is set but in the main one, while it has the template rendered.
    """
    with ExitStack() as end:
        if resource is not None and STATM.exists() and threading.current_thread() is threading.main_thread():
            before = resource.getrlimit(resource.RLIMIT_AS)
            taken = int(STATM.read_text().split()[0]) * resource.getpagesize()
            ends = [limit for limit in (taken + more, *before) if limit != resource.RLIM_INFINITY]
            resource.setrlimit(resource.RLIMIT_AS, (min(ends), before[1]))
            end.callback(resource.setrlimit, resource.RLIMIT_AS, before)
        yield


def answer_text(tokenizer: Any, before: Sequence[int], tokens: Sequence[int]) -> str:
    """Return an answer's text, without its end of sequence.

    Read behind the last token before it: decoders drop the space at the beginning of a text, not within one.
    """
    last = list(before[-1:])
    lead = str(tokenizer.decode(last, skip_special_tokens=True))
    text = str(tokenizer.decode([*last, *tokens], skip_special_tokens=True))
    return text.removeprefix(lead)


def end_token(tokenizer: Any, framing: Framing, ends: Sequence[int]) -> int:
    """Return the token that ends an answer where a model has several: the template's own, else the tokenizer's."""
    if framing.chat_template and len(ends) > 1:
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        text = framed(tokenizer, messages)
        end_tokens = [t for t in tokenizer(text, add_special_tokens=False).input_ids if t in ends]
        if end_tokens:
            return int(end_tokens[-1])
    return int(tokenizer.eos_token_id if tokenizer.eos_token_id in ends else ends[0])
