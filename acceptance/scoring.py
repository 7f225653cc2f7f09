"""Teacher-forced passes over text that the target wrote: what the models thought of every token (model §3).

Models read the same columns side by side, with KV caches, so that of the logits no more than one chunk of columns is
in memory at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .context import Context, columns_a_chunk, padded
from .laws import probabilities
from .models import Model
from .rule import SamplingRule
from .trace import UNKNOWN_RANK, PromptInfo, Trace

Scores = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One turn's text in tokens: what stood before it, and what the target wrote; neither is empty."""

    prompt: int
    turn: int
    before: list[int]
    tokens: list[int]


def entropy(law: torch.Tensor) -> torch.Tensor:
    """Return -sum p ln p in nats over the last axis."""
    return torch.special.entr(law).sum(-1)


def rank(logits: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Return how many tokens are preferred to this one, ties to the lower index; 0 is what argmax takes."""
    own = logits.gather(-1, token[:, None])
    index = torch.arange(logits.shape[-1], device=logits.device)
    return ((logits > own) | ((logits == own) & (index < token[:, None]))).sum(-1)


def of_token(law: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Return the probability of each token, [columns]."""
    return law.gather(1, token[:, None])[:, 0]


def soft_law(logits: torch.Tensor, law: torch.Tensor, rule: SamplingRule) -> torch.Tensor:
    """Return the law that describes a model: its softmax where it is greedy, since a point mass has no entropy."""
    return logits.float().softmax(-1) if rule.is_greedy else law


def pair_scores(
    target: torch.Tensor, draft: torch.Tensor, token: torch.Tensor, rule: SamplingRule, draft_rule: SamplingRule
) -> Scores:
    """Return what `Trace` holds of both models for tokens of one output; each of shape [columns].

    Args:
        target: The target's logits that predict the tokens, [columns, vocabulary].
        draft: The draft's, same shape.
        token: What the target wrote, [columns].
        rule: What the target samples from.
        draft_rule: What the draft samples from.
    """
    p, q = probabilities(target, rule), probabilities(draft, draft_rule)
    soft_p, soft_q = soft_law(target, p, rule), soft_law(draft, q, draft_rule)
    first_q = draft.argmax(-1)
    p_x = of_token(p, token)
    if rule.is_greedy:  # the text itself is the point mass
        p_x = torch.ones_like(p_x)
    return {
        "accept_sampled": torch.where(p_x > 0, (of_token(q, token) / p_x).clamp(max=1), 0.0),
        "accept_greedy": first_q == token,
        "log_p": of_token(soft_p, token).log(),
        "rank_p": rank(target, token),
        "rank_q": rank(draft, token),
        "max_q": soft_q.amax(-1),
        "entropy_p": entropy(soft_p),
        "entropy_q": entropy(soft_q),
        "overlap": torch.minimum(p, q).sum(-1).clamp(max=1),
        "p_argmax_q": of_token(p, first_q),
    }


@torch.inference_mode()
def walk(models: Sequence[Model], outputs: Sequence[Output], visit: Callable[..., Scores]) -> list[Scores]:
    """Read outputs with all models side by side, chunk by chunk, and return what `visit` says of each output.

    Args:
        models: Models of one vocabulary.
        outputs: What they read, as one batch.
        visit: Takes each model's logits that predict some tokens, [columns, vocabulary], and the tokens, [columns];
            returns named values of shape [columns].

    Returns:
        For each output every named value, [tokens], on the CPU.
    """
    rows, lengths = len(outputs), np.array([len(o.tokens) for o in outputs])
    longest = int(lengths.max())
    contexts = [Context(model, rows) for model in models]
    before, before_valid = padded([o.before for o in outputs], models[0].device)
    tokens = torch.tensor([o.tokens + [0] * (longest - len(o.tokens)) for o in outputs], device=before.device)
    valid = np.arange(longest) < lengths[:, None]
    if before.shape[1] > 1:
        for context in contexts:
            context.read(before[:, :-1].to(context.model.device), before_valid[:, :-1], 1)
    # Column c predicts tokens[:, c]: the last token before the output, then all of the output but its last.
    seen = torch.cat((before[:, -1:], tokens[:, :-1]), dim=1)
    seen_valid = np.concatenate((before_valid[:, -1:], valid[:, :-1]), axis=1)
    found: list[dict[str, list[torch.Tensor]]] = [{} for _ in outputs]
    step = columns_a_chunk(rows, models[0].vocabulary)
    for first in range(0, longest, step):
        part = slice(first, min(first + step, longest))
        width = part.stop - first
        logits = [c.read(seen[:, part].to(c.model.device), seen_valid[:, part], width) for c in contexts]
        for row in np.flatnonzero(lengths > first):
            there = min(int(lengths[row]) - first, width)
            said = visit(*(x[row, :there].to(tokens.device) for x in logits), tokens[row, part][:there])
            for name, values in said.items():
                found[row].setdefault(name, []).append(values.cpu())
    return [{name: torch.cat(parts) for name, parts in f.items()} for f in found]


def score(
    target: Model,
    draft: Model,
    outputs: Sequence[Output],
    prompts: tuple[PromptInfo, ...],
    rule: SamplingRule,
    draft_rule: SamplingRule,
) -> list[Trace]:
    """Return the trace of each output of a batch.

    Args:
        target: The model that wrote them.
        draft: Another with the same vocabulary.
        outputs: What was written.
        prompts: What `Output.prompt` indexes.
        rule: What the target sampled from.
        draft_rule: What the draft samples from.
    """

    def visit(p: torch.Tensor, q: torch.Tensor, token: torch.Tensor) -> Scores:
        return pair_scores(p, q, token, rule, draft_rule)

    scores = walk((target, draft), outputs, visit)
    return [trace_of(o, s, prompts) for o, s in zip(outputs, scores, strict=True)]


def trace_of(output: Output, scores: Scores, prompts: tuple[PromptInfo, ...]) -> Trace:
    """Return the trace of one output from its scores; what is not among them is unknown."""
    size = len(output.tokens)
    position = np.arange(size, dtype=np.int32)
    unknown = torch.full((size,), torch.nan)
    floats = ("accept_sampled", "log_p", "max_q", "entropy_p", "entropy_q", "overlap", "p_argmax_q")
    ranks = ("rank_p", "rank_q")
    return Trace(
        token=np.array(output.tokens, np.int32),
        accept_greedy=scores["accept_greedy"].numpy(),
        **{name: scores.get(name, unknown).numpy().astype(np.float32) for name in floats},
        **{name: scores.get(name, torch.full((size,), UNKNOWN_RANK)).numpy().astype(np.int32) for name in ranks},
        prompt=np.full(size, output.prompt, np.int32),
        turn=np.full(size, output.turn, np.int32),
        position=position,
        context_length=len(output.before) + position,
        prompts=prompts,
    )
