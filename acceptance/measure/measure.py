"""One measurement from prompts or logged texts to a trace: batch by batch the target writes and both models score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.random import Generator

from acceptance.decoders import baseline
from acceptance.models.laws import streams
from acceptance.models.load import Pair
from acceptance.models.rule import SamplingRule
from acceptance.text.conversation import Framing, answer_text, end_token, tokens_before
from acceptance.text.prompts import Prompt
from acceptance.text.texts import Text
from acceptance.trace.parts import Parts
from acceptance.trace.trace import PromptInfo, Trace, join
from simulator.ground.artefacts import UserError
from simulator.ground.records import Skipped

from . import cross_tokenizer, scoring
from .scoring import Output, Recorder


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a measurement is told.

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
    before: list[int]

    def with_tokens(self, tokens: list[int]) -> "Written":
        """Return it with what was written."""
        return replace(self, output=replace(self.output, tokens=tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured: the items that fit the models, where each came from, and what was left out."""

    items: tuple[Prompt | Text, ...]
    infos: tuple[PromptInfo, ...]
    left_out: tuple[Skipped, ...]


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
    if isinstance(item, Prompt):
        before = [tokens_before(t, settings.framing, item.turns[:1], ()) for t in tokenizers(pair)]
        if not all(before):
            return "no token in the prompt"
        return overrun(pair, before, settings.max_new_tokens)
    if settings.framing.chat_template and not isinstance(item.prompt, str):
        return "token ids, which --use-chat-template cannot frame"
    written = logged(pair, item, 0, settings.framing)
    before = [written.output.before, written.before]
    if not all(before):
        return "no token before the output"
    if not written.output.tokens:
        return "no token in the output"
    if max(written.output.tokens + written.output.before) >= pair.target.vocabulary:
        return f"a token id above the model's {pair.target.vocabulary - 1}"
    return overrun(pair, before, len(written.output.tokens))


def overrun(pair: Pair, before: Sequence[list[int]], more: int) -> str:
    """Say which model's context so many tokens more would exceed; empty when none's.

    Args:
        pair: The models.
        before: What the target and the draft read ahead of an output.
        more: Tokens of the output; how many they are in a draft's own tokens is not known before it is written.
    """
    needed, room = len(before[0]) + more, pair.context_lengths[0]
    if needed > room:
        return f"{needed} tokens with its output, but the models' context is {room}"
    if len(before[1]) >= pair.context_lengths[1]:
        return f"{len(before[1])} tokens of the draft before the output, but its context is {pair.context_lengths[1]}"
    return ""


def tokenizers(pair: Pair) -> tuple[Any, Any]:
    """Return the target's and the draft's."""
    return pair.tokenizer, pair.draft_tokenizer


def ids(tokenizer: Any, text: str | tuple[int, ...], *, special: bool) -> list[int]:
    """Return a text's tokens; ids stay what they are."""
    if isinstance(text, str):
        return list(tokenizer(text, add_special_tokens=special).input_ids)
    return list(text)


def logged(pair: Pair, text: Text, index: int, framing: Framing) -> Written:
    """Return a logged text in tokens."""

    def before(tokenizer: Any) -> list[int]:
        if isinstance(text.prompt, str):
            return tokens_before(tokenizer, framing, (text.prompt,), ())
        same = tokenizer is pair.tokenizer
        return list(text.prompt) if same else ids(tokenizer, answer_text(pair.tokenizer, (), text.prompt), special=True)

    tokens = ids(pair.tokenizer, text.output, special=False)
    if text.ended and pair.target.ends and isinstance(text.output, str):
        tokens.append(end_token(pair.tokenizer, framing, pair.target.ends))
    output = Output(prompt=index, turn=0, before=before(pair.tokenizer), tokens=tokens)
    return Written(output=output, before=before(pair.draft_tokenizer))


def answer(
    pair: Pair, asked: Sequence[Written], infos: tuple[PromptInfo, ...], settings: Settings, rngs: Sequence[Generator]
) -> list[Trace]:
    """Let the target write one turn of some conversations, and return the trace of each output.

    Args:
        pair: The models.
        asked: Outputs still without tokens.
        infos: Where prompts came from.
        settings: What the measurement is told.
        rngs: A random stream for each.
    """
    ours = [w.output.before for w in asked]
    told: dict[str, Any] = {"rule": settings.rule, "max_new_tokens": settings.max_new_tokens, "rngs": rngs}
    if not pair.same_vocabulary:
        written = baseline.decode(pair.target, ours, **told)
        return score(pair, [w.with_tokens(t) for w, t in zip(asked, written, strict=True)], infos, settings)
    recorder = Recorder(pair.draft, ours, settings.rule, settings.draft_rule)
    written = baseline.decode(pair.target, ours, **told, watch=recorder.see)
    return recorder.traces([w.with_tokens(t).output for w, t in zip(asked, written, strict=True)], infos)


def converse(pair: Pair, planned: Plan, batch: Sequence[tuple[int, Prompt]], settings: Settings) -> list[Trace]:
    """Let the target answer every turn of a batch of conversations, turn by turn.

    A conversation ends with its last turn, or where the next one would not fit the context.

    Args:
        pair: The models.
        planned: What is measured.
        batch: (index, prompt).
        settings: What the measurement is told.

    Returns:
        The traces of all outputs, prompt after prompt, turn after turn.
    """
    rngs = streams(settings.seed, [index for index, _ in batch])
    found: list[list[Trace]] = [[] for _ in batch]
    answers: list[list[str]] = [[] for _ in batch]
    for turn in range(max(len(prompt.turns) for _, prompt in batch)):
        asked: dict[int, Written] = {}
        for row, (index, prompt) in enumerate(batch):
            if turn < len(prompt.turns) and len(answers[row]) == turn:
                said = prompt.turns[: turn + 1], answers[row]
                ours, theirs = (tokens_before(t, settings.framing, *said) for t in tokenizers(pair))
                if not overrun(pair, (ours, theirs), settings.max_new_tokens):
                    output = Output(prompt=index, turn=turn, before=ours, tokens=[])
                    asked[row] = Written(output=output, before=theirs)
        if not asked:
            break
        traces = answer(pair, list(asked.values()), planned.infos, settings, [rngs[row] for row in asked])
        for row, trace in zip(asked, traces, strict=True):
            found[row].append(trace)
            answers[row].append(answer_text(pair.tokenizer, asked[row].output.before, trace.token.tolist()))
    return [trace for traces in found for trace in traces]


def score(pair: Pair, written: Sequence[Written], infos: tuple[PromptInfo, ...], settings: Settings) -> list[Trace]:
    """Return the trace of each output of a batch that is written already."""
    outputs, rules = [w.output for w in written], (settings.rule, settings.draft_rule)
    if pair.same_vocabulary:
        return scoring.score(pair.target, pair.draft, outputs, infos, *rules)
    return cross_tokenizer.score(pair, outputs, [w.before for w in written], infos, *rules)


def measure_batch(pair: Pair, planned: Plan, indices: range, settings: Settings) -> Trace:
    """Return the trace of one batch of prompts or of texts."""
    prompts = [(i, item) for i in indices if isinstance(item := planned.items[i], Prompt)]
    if prompts:
        return join(converse(pair, planned, prompts, settings))
    texts = [(i, item) for i in indices if isinstance(item := planned.items[i], Text)]
    written = [logged(pair, item, i, settings.framing) for i, item in texts]
    return join(score(pair, written, planned.infos, settings))


def measure(
    pair: Pair, planned: Plan, settings: Settings, *, parts: Parts | None, progress: Callable[[int], None]
) -> Trace:
    """Return the trace of everything planned.

    Args:
        pair: The models.
        planned: What fits them.
        settings: What the measurement is told.
        parts: Where finished batches are kept, and taken from.
        progress: Called with the prompts that were done.
    """
    traces = []
    count = len(planned.items)
    for number, first in enumerate(range(0, count, settings.batch_size)):
        indices = range(first, min(first + settings.batch_size, count))
        trace = parts.load(number, planned.infos) if parts else None
        if trace is None:
            trace = measure_batch(pair, planned, indices, settings)
            if parts:
                parts.save(number, trace)
        traces.append(trace)
        progress(len(indices))
    return join(traces)


def turns_left_out(planned: Plan, trace: Trace) -> str:
    """Say how many turns were not asked because their conversation no longer fitted; empty when none."""
    asked = sum(len(item.turns) if isinstance(item, Prompt) else 1 for item in planned.items)
    missing = asked - (len(trace.starts) - 1)
    return (
        f"left out: {missing} of {asked} turns, whose conversations no longer fit the models' context"
        if missing
        else ""
    )
