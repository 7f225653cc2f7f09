"""A draft with another tokenizer: string-level match, an approximation.

The draft reads the target's text in its own tokens. A token of the target counts as proposed by those tokens of the
draft that cover its characters: a greedy draft proposes it when every one of them is its first choice; a sampled draft
with the product of their probabilities, each token's logarithm shared out over the characters it covers. What real
cross-tokenizer decoding accepts also depends on how proposals are cut into the target's tokens, which this leaves out.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from acceptance.models.laws import entropy, probabilities, rank, widened
from acceptance.models.model import Pair
from acceptance.models.rule import SamplingRule
from acceptance.text.conversation import answer_text
from acceptance.trace.trace import PromptInfo, Trace
from simulator.ground.artefacts import UserError

from .scoring import Output, Scores, of_token, soft_law, trace_of, walk

LABEL = "approximation: string-level match of different tokenizers"
Spans = NDArray[np.int64]


def target_spans(tokenizer: Any, before: Sequence[int], tokens: Sequence[int]) -> Spans:
    """Return which characters of the text each token adds, [tokens, 2].

    A character of several tokens is its first one's; the others add none.
    """
    lengths = [len(answer_text(tokenizer, before, tokens[:n])) for n in range(len(tokens) + 1)]
    edges = np.minimum(np.maximum.accumulate(lengths), lengths[-1])
    return np.stack((edges[:-1], edges[1:]), axis=1)


def draft_tokens(tokenizer: Any, text: str) -> tuple[list[int], Spans]:
    """Return a text in the draft's tokens, and which characters each covers, [tokens, 2]."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return list(encoding.input_ids), np.array(encoding.offset_mapping, np.int64).reshape(-1, 2)


def shares(target: Spans, draft: Spans) -> NDArray[np.float64]:
    """Return which part of each draft token's characters each target token covers, [target tokens, draft tokens]."""
    low = np.maximum(target[:, None, 0], draft[None, :, 0])
    high = np.minimum(target[:, None, 1], draft[None, :, 1])
    widths = np.maximum(draft[:, 1] - draft[:, 0], 1)
    return np.asarray(np.maximum(high - low, 0) / widths, np.float64)


def with_end(spans: Spans, length: int) -> Spans:
    """Return spans with one more for the end of sequence, which stands behind the last character."""
    return np.concatenate((spans, [[length, length + 1]]))


def target_scores(logits: torch.Tensor, token: torch.Tensor, _: int, *, rule: SamplingRule) -> Scores:
    """Return what is kept of the target's logits, [columns, vocabulary], that predict some tokens, [columns]."""
    soft = soft_law(logits, probabilities(logits, rule), rule)
    return {"log_p": of_token(soft, token).log(), "rank_p": rank(logits, token), "entropy_p": entropy(soft)}


def draft_scores(logits: torch.Tensor, token: torch.Tensor, _: int, *, rule: SamplingRule) -> Scores:
    """Return what is kept of the draft's logits, [columns, vocabulary], that predict some tokens, [columns]."""
    logits = widened(logits, int(token.max()) + 1)
    q = of_token(probabilities(logits, rule), token)
    return {"log_q": q.log(), "is_first": logits.argmax(-1) == token}


def score(
    pair: Pair,
    outputs: Sequence[Output],
    before: Sequence[Sequence[int]],
    prompts: tuple[PromptInfo, ...],
    rule: SamplingRule,
    draft_rule: SamplingRule,
) -> list[Trace]:
    """Return the trace of each output of a batch; of the draft it holds acceptances alone.

    before: what stood before each output, in the draft's tokens.
    """
    aligned, draft_outputs = [], []
    for output, context in zip(outputs, before, strict=True):
        spans, tokens, draft_spans = align(pair, output)
        check_room(pair, len(context) + len(tokens))
        aligned.append((spans, draft_spans))
        draft_outputs.append(Output(prompt=output.prompt, turn=output.turn, before=context, tokens=tokens))
    of_target = walk((pair.target,), outputs, partial(target_scores, rule=rule))
    of_draft = walk((pair.draft,), draft_outputs, partial(draft_scores, rule=draft_rule))
    for both_spans, scores, draft in zip(aligned, of_target, of_draft, strict=True):
        scores.update(acceptances(*both_spans, draft, scores["log_p"], rule))
    return [trace_of(o, s, prompts) for o, s in zip(outputs, of_target, strict=True)]


def check_room(pair: Pair, tokens: int) -> None:
    """Refuse a text that is too long in the draft's tokens."""
    if tokens > pair.context_lengths[1]:
        raise UserError(
            f"--max-new-tokens: a text of {tokens} tokens of the draft is above its context of "
            f"{pair.context_lengths[1]}, expected shorter outputs or prompts"
        )


def align(pair: Pair, output: Output) -> tuple[Spans, list[int], Spans]:
    """Return the target tokens' spans, the draft's tokens of the same text, and their spans."""
    text = answer_text(pair.tokenizer, output.before, output.tokens)
    ended = output.tokens[-1] in pair.target.ends
    written = output.tokens[:-1] if ended else output.tokens
    of_target = target_spans(pair.tokenizer, output.before, written)
    tokens, spans = draft_tokens(pair.draft_tokenizer, text)
    if ended:
        of_target = with_end(of_target, len(text))
    if ended and pair.draft.ends:
        tokens, spans = [*tokens, pair.draft.ends[0]], with_end(spans, len(text))
    if not tokens:  # a token has to be read; it covers nothing
        tokens, spans = [0], np.array([[-1, 0]])
    return of_target, tokens, spans


def acceptances(target: Spans, draft: Spans, scores: Scores, log_p: torch.Tensor, rule: SamplingRule) -> Scores:
    """Return a[t] of the target's tokens for both kinds of draft.

    A token whose characters no draft token covers is never proposed; one that only goes on with a character whose
    first token was accepted always is.
    """
    part = torch.from_numpy(shares(target, draft))
    covered = part > 0
    goes_on = torch.from_numpy((target[:, 0] == target[:, 1]) & (np.arange(len(target)) > 0))
    possible = covered.any(1) | goes_on
    # 0 x -inf is no contribution, not NaN.
    log_q = torch.where(covered, part * scores["log_q"].double(), 0.0).sum(1)
    ratio = log_q if rule.is_greedy else log_q - log_p.double()
    return {
        "accept_sampled": torch.where(possible, ratio.clamp(max=0).exp(), 0.0),
        "accept_greedy": (~covered | scores["is_first"]).all(1) & possible,
    }
