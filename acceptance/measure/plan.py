"""What is measured: the prompts and logged texts that fit both models, in tokens, before any of them runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from acceptance.models.model import Pair, token_count
from acceptance.models.rule import SamplingRule
from acceptance.models.source import Begun, begun, is_empty, longer, read_tokens, source_tokens
from acceptance.text.conversation import Framing, answer_text, end_token, tokens_before
from acceptance.text.prompts import Prompt, sha256_of
from acceptance.text.speech import Utterance
from acceptance.text.texts import Text
from acceptance.trace.trace import PromptInfo
from simulator.ground.artefacts import UserError
from simulator.ground.records import BadRecord, Skipped

from .scoring import Output


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a pair is measured.

    rule, draft_rule: what target and draft sample from. max_new_tokens: budget of each output. seed: of the target's
    sampling, a stream for each prompt. batch_size: prompts at a time. framing: how conversations are put to the models.
    """

    rule: SamplingRule
    draft_rule: SamplingRule
    max_new_tokens: int = 128
    seed: int = 0
    batch_size: int = 16
    framing: Framing = field(default_factory=Framing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An output in both tokenizers: `before` is what the draft reads ahead of it."""

    output: Output
    before: Sequence[int]

    def with_tokens(self, tokens: list[int]) -> "Written":
        """Return it with what was written."""
        return replace(self, output=replace(self.output, tokens=tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured: the items that fit the models, where each came from, and what was left out."""

    items: tuple[Prompt | Text, ...]
    infos: tuple[PromptInfo, ...]
    left_out: tuple[Skipped, ...]

    @property
    def sha256(self) -> str:
        """The hash of the items."""
        return sha256_of(self.items)

    def notes(self, of_file: Sequence[str]) -> list[str]:
        """Return what there is to say of the file, and what was left out of what was planned."""
        return [*of_file, *(f"left out: {skipped.reason}" for skipped in self.left_out)]


def plan(pair: Pair, items: Sequence[Prompt | Text], settings: Settings) -> Plan:
    """Return what fits the models' context, before any of them runs; items that do not are counted and named.

    Raises:
        UserError: Nothing fits.
    """
    kept: list[Prompt | Text] = []
    left_out: list[Skipped] = []
    for number, item in enumerate(items, 1):
        reason = misfit(pair, item, settings)
        if reason:
            left_out.append(Skipped(line=number, reason=f"{item.source}: {reason}"))
        else:
            kept.append(item)
    if not kept:
        raise UserError(f"none of {len(items)} prompts can be measured ({left_out[0].reason})")
    infos = tuple(PromptInfo(source=i.source, category=i.category) for i in kept)
    return Plan(items=tuple(kept), infos=infos, left_out=tuple(left_out))


def misfit(pair: Pair, item: Prompt | Text, settings: Settings) -> str:
    """Say why an item cannot be measured; empty when it can."""
    if isinstance(item, Utterance):
        return unheard(pair, item) or overrun(pair, (pair.target.first, pair.draft.first), settings.max_new_tokens)
    if isinstance(item, Prompt):
        before = before_answer(pair, settings.framing, item)
        if any(map(is_empty, before)):
            return "no token in the prompt"
        return unreadable(pair, before) or overrun(pair, before, settings.max_new_tokens)
    if settings.framing.chat_template and not isinstance(item.prompt, str):
        return "token ids, which --use-chat-template cannot frame"
    written = logged(pair, item, 0, settings.framing)
    before = [written.output.before, written.before]
    if any(map(is_empty, before)):
        return "no token before the output"
    if not written.output.tokens:
        return "no token in the output"
    if max(longer(written.output.before, written.output.tokens)) >= pair.target.vocabulary:
        return f"a token id above the model's {pair.target.vocabulary - 1}"
    return unreadable(pair, before) or overrun(pair, before, len(written.output.tokens))


def before_answer(pair: Pair, framing: Framing, item: Prompt, answers: Sequence[str] = ()) -> list[Sequence[int]]:
    """Return what target and draft read ahead of their next answer; an encoder reads the conversation, or hears it."""
    if isinstance(item, Utterance):
        features = pair.ear.features(item.sound.samples(pair.ear.rate))
        return [Begun(model.first, features) for model in (pair.target, pair.draft)]
    turns = item.turns[: len(answers) + 1]
    return [begun(pair.target, tokens_before(t, framing, turns, answers)) for t in pair.tokenizers]


def unheard(pair: Pair, item: Utterance) -> str:
    """Say why a piece of sound cannot be heard to its end; empty when it can."""
    if item.sound.seconds > pair.ear.seconds:
        return f"{item.sound.seconds:.1f} s of sound, but the models hear {pair.ear.seconds:g} s"
    try:
        item.sound.samples(pair.ear.rate)
    except BadRecord as error:
        return str(error)
    return ""


def unreadable(pair: Pair, before: Sequence[Sequence[int]]) -> str:
    """Say which token the target or the draft has no row for, of what each reads first; empty when there is none."""
    models = (("target", pair.target), ("draft", pair.draft))
    for (name, model), tokenizer, tokens in zip(models, pair.tokenizers, before, strict=True):
        token = max(read_tokens(tokens))
        if token >= model.vocabulary:
            written = tokenizer.convert_ids_to_tokens(token)
            rows = f"the {name} has {model.vocabulary} rows for a tokenizer of {token_count(tokenizer)} tokens"
            return f"holds token {token} ({written}), but {rows}"
    return ""


def overrun(pair: Pair, before: Sequence[Sequence[int]], more: int) -> str:
    """Say which model's context so many tokens more would exceed; empty when none's.

    before: what the target and the draft read ahead of an output, whose length in a draft's own tokens is not known
    before it is written.
    """
    needed, room = len(before[0]) + more, pair.context_lengths[0]
    if (of_source := len(source_tokens(before[0]))) > room:
        return f"{of_source} tokens for the encoder, but the models' context is {room}"
    if needed > room:
        return f"{needed} tokens with its output, but the models' context is {room}"
    if len(before[1]) >= pair.context_lengths[1]:
        return f"{len(before[1])} tokens of the draft before the output, but its context is {pair.context_lengths[1]}"
    return ""


def ids(tokenizer: Any, text: str | tuple[int, ...], *, special: bool) -> list[int]:
    """Return a text's tokens; ids stay what they are."""
    if isinstance(text, str):
        return list(tokenizer(text, add_special_tokens=special).input_ids)
    return list(text)


def logged(pair: Pair, text: Text, index: int, framing: Framing) -> Written:
    """Return a logged text in tokens."""

    def before(tokenizer: Any) -> Sequence[int]:
        if isinstance(text.prompt, str):
            return begun(pair.target, tokens_before(tokenizer, framing, (text.prompt,), ()))
        if tokenizer is pair.tokenizer:
            return begun(pair.target, text.prompt)
        return ids(tokenizer, answer_text(pair.tokenizer, (), text.prompt), special=True)

    tokens = ids(pair.tokenizer, text.output, special=False)
    if text.ended and pair.target.ends and isinstance(text.output, str):
        tokens.append(end_token(pair.tokenizer, framing, pair.target.ends))
    output = Output(prompt=index, turn=0, before=before(pair.tokenizer), tokens=tokens)
    return Written(output=output, before=before(pair.draft_tokenizer))
