"""Traces of batches of outputs: those that the target writes now, turn by turn, and those it has written before."""

from collections.abc import Sequence
from typing import Any

from numpy.random import Generator

from acceptance.decoders import baseline
from acceptance.models.laws import streams
from acceptance.models.model import Pair
from acceptance.text.conversation import answer_text
from acceptance.text.prompts import Prompt
from acceptance.trace.trace import PromptInfo, Trace

from . import cross_tokenizer, scoring
from .plan import Plan, Settings, Written, before_answer, overrun, unreadable
from .scoring import Output, Recorder


def score(pair: Pair, written: Sequence[Written], infos: tuple[PromptInfo, ...], settings: Settings) -> list[Trace]:
    """Return the trace of each output of a batch that is written already."""
    outputs, rules = [w.output for w in written], (settings.rule, settings.draft_rule)
    if pair.same_vocabulary:
        return scoring.score(pair.target, pair.draft, outputs, infos, *rules)
    return cross_tokenizer.score(pair, outputs, [w.before for w in written], infos, *rules)


def answer(
    pair: Pair, open_turns: Sequence[Written], infos: tuple[PromptInfo, ...], settings: Settings, rngs: list[Generator]
) -> list[Trace]:
    """Let the target write one turn of some conversations, each from its random stream; return each output's trace."""
    contexts = [w.output.before for w in open_turns]
    options: dict[str, Any] = {"rule": settings.rule, "max_new_tokens": settings.max_new_tokens, "rngs": rngs}
    if not pair.same_vocabulary:
        written = baseline.decode(pair.target, contexts, **options)
        return score(pair, [w.with_tokens(t) for w, t in zip(open_turns, written, strict=True)], infos, settings)
    recorder = Recorder(pair.draft, contexts, settings.rule, settings.draft_rule)
    written = baseline.decode(pair.target, contexts, **options, watch=recorder.see)
    return recorder.traces([w.with_tokens(t).output for w, t in zip(open_turns, written, strict=True)], infos)


def converse(pair: Pair, planned: Plan, batch: Sequence[tuple[int, Prompt]], settings: Settings) -> list[Trace]:
    """Let the target answer a batch of conversations, (index, prompt) each, turn by turn.

    A conversation ends with its last turn, or where the next one would not fit the context. The traces come prompt
    after prompt, turn after turn.
    """
    rngs = streams(settings.seed, [index for index, _ in batch])
    of_rows: list[list[Trace]] = [[] for _ in batch]
    answers: list[list[str]] = [[] for _ in batch]
    more = settings.max_new_tokens
    for turn in range(max(len(prompt.turns) for _, prompt in batch)):
        open_turns: dict[int, Written] = {}
        for row, (index, prompt) in enumerate(batch):
            if turn < len(prompt.turns) and len(answers[row]) == turn:
                before, of_draft = before_answer(pair, settings.framing, prompt, answers[row])
                if not (unreadable(pair, (before, of_draft)) or overrun(pair, (before, of_draft), more)):
                    output = Output(prompt=index, turn=turn, before=before, tokens=[])
                    open_turns[row] = Written(output=output, before=of_draft)
        if not open_turns:
            break
        traces = answer(pair, list(open_turns.values()), planned.infos, settings, [rngs[row] for row in open_turns])
        for row, trace in zip(open_turns, traces, strict=True):
            of_rows[row].append(trace)
            answers[row].append(answer_text(pair.tokenizer, open_turns[row].output.before, trace.token.tolist()))
    return [trace for traces in of_rows for trace in traces]
