"""Traces of batches of outputs: those that the target writes now, turn by turn, and those it has written before."""

from collections.abc import Sequence
from typing import Any

from numpy.random import Generator

from acceptance.decoders import baseline
from acceptance.models.laws import streams
from acceptance.models.model import Pair
from acceptance.text.conversation import answer_text, tokens_before
from acceptance.text.prompts import Prompt
from acceptance.trace.trace import PromptInfo, Trace

from . import cross_tokenizer, scoring
from .plan import Plan, Settings, Written, overrun, tokenizers
from .scoring import Output, Recorder


def score(pair: Pair, written: Sequence[Written], infos: tuple[PromptInfo, ...], settings: Settings) -> list[Trace]:
    """Return the trace of each output of a batch that is written already."""
    outputs, rules = [w.output for w in written], (settings.rule, settings.draft_rule)
    if pair.same_vocabulary:
        return scoring.score(pair.target, pair.draft, outputs, infos, *rules)
    return cross_tokenizer.score(pair, outputs, [w.before for w in written], infos, *rules)


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
