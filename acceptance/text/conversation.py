"""From what a user says, turn after turn, to the tokens a model continues."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from simulator.ground.artefacts import UserError


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
        parts = [turns[0]]
        for answer, turn in zip(answers, turns[1:], strict=True):
            parts += [answer, "\n", turn]
        return list(tokenizer("".join(parts)).input_ids)
    messages = [{"role": "system", "content": framing.system_prompt}] if framing.system_prompt else []
    for i, turn in enumerate(turns):
        messages.append({"role": "user", "content": turn})
        if i < len(answers):
            messages.append({"role": "assistant", "content": answers[i]})
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates raise what they like
        reason = str(error).partition("\n")[0]
        raise UserError(f"--use-chat-template: the template refuses these messages ({reason})") from None
    return list(tokenizer(text, add_special_tokens=False).input_ids)


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
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        end_tokens = [t for t in tokenizer(text, add_special_tokens=False).input_ids if t in ends]
        if end_tokens:
            return int(end_tokens[-1])
    return int(tokenizer.eos_token_id if tokenizer.eos_token_id in ends else ends[0])
