"""Teacher-forced passes over text that the target wrote: what the models thought of every token (model §3).

Models read the same columns side by side, with KV caches, so that of the logits no more than one chunk of columns is
in memory at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from acceptance.models.context import Flags, columns_a_chunk, context_of, padded
from acceptance.models.laws import draw, entropy, likeliest, probabilities, rank, residual, widened
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from acceptance.trace.trace import LEAST_LOG_Q, MOST_MARGIN, SINCE_3, UNKNOWN_RANK, PromptInfo, Trace

Scores = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One turn's text in tokens: what stood before it, and what the target wrote; neither is empty."""

    prompt: int
    turn: int
    before: Sequence[int]
    tokens: list[int]


def of_token(law: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Return the probability of each token, [columns]."""
    return law.gather(1, token[:, None])[:, 0]


def soft_law(logits: torch.Tensor, law: torch.Tensor, rule: SamplingRule) -> torch.Tensor:
    """Return the law that describes a model: its softmax where it is greedy, since a point mass has no entropy."""
    return logits.float().softmax(-1) if rule.is_greedy else law


def pair_scores(
    target: torch.Tensor,
    draft: torch.Tensor,
    token: torch.Tensor,
    first: int,
    rule: SamplingRule,
    draft_rule: SamplingRule,
) -> Scores:
    """Return what `Trace` holds of both models for tokens of one output; each of shape [columns].

    target, draft: logits that predict the tokens, [columns, vocabulary]. token: what the target wrote, [columns].
    first: tokens of the output before them.
    """
    target, draft = target.float(), widened(draft.float(), target.shape[-1])
    p, q = probabilities(target, rule), probabilities(draft, draft_rule)
    soft_p, soft_q = soft_law(target, p, rule), soft_law(draft, q, draft_rule)
    first_q = likeliest(draft)
    margin = of_token(draft, first_q) - draft.scatter(1, first_q[:, None], -torch.inf).amax(-1)
    # A point mass leaves itself, or nothing.
    rejected = first_q if draft_rule.is_greedy else draw(residual(q, p), spread(token, first))
    # Greedy text is itself the point mass.
    p_x = torch.ones(len(token), device=p.device) if rule.is_greedy else of_token(p, token)
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
        "margin_q": margin.clamp(max=MOST_MARGIN),
        "log_q": of_token(soft_q, token).log().clamp(min=LEAST_LOG_Q),
        "log_q_rejected": of_token(soft_q, rejected).log().clamp(min=LEAST_LOG_Q),
    }


def spread(token: torch.Tensor, first: int) -> torch.Tensor:
    """Return a number from 0 to below 1 for each token of an output, the same on every machine and in every batch.

    They fill the interval evenly along a text, and draw what a rejected draft proposed there, without a stream of
    random numbers that scores of logged text would not have. first: tokens of the output before them.
    """
    place = first + torch.arange(1, len(token) + 1, device=token.device)
    golden, plastic = (
        2_654_435_769,
        3_242_174_889,
    )  # their multiples modulo 2^32: Kronecker's sequence in two dimensions
    return ((place * golden + token * plastic) % 2**32).float().div(2**32).clamp(max=1 - torch.finfo(torch.float32).eps)


class Reader:
    """A model that reads outputs of a batch, some columns at a time, and says what it expected there."""

    def __init__(self, model: Model, before: Sequence[Sequence[int]]) -> None:
        """Read what stands before the outputs, but for its last token."""
        self.context = context_of(model, before)
        tokens, valid = padded([list(row) for row in before], model.device)
        if tokens.shape[1] > 1:
            self.context.read(tokens[:, :-1], valid[:, :-1], 1)
        self.last = tokens[:, -1:]

    def logits(self, tokens: torch.Tensor, valid: Flags) -> torch.Tensor:
        """Return the logits that predict the next columns of the outputs, [rows, columns, vocabulary].

        tokens: what was written there; valid: which of it there is, what has ended does not go on; [rows, columns].
        """
        tokens = tokens.to(self.last.device)
        seen = torch.cat((self.last, tokens[:, :-1]), dim=1)
        self.last = tokens[:, -1:]
        return self.context.read(seen, valid, tokens.shape[1])


class Scored:
    """Values named by a visitor, gathered chunk by chunk for each output of a batch.

    A visitor takes each model's logits that predict some tokens, [columns, vocabulary], the tokens, [columns], and how
    many of the output stand before them, and returns named values of shape [columns].
    """

    def __init__(self, rows: int, visit: Callable[..., Scores]) -> None:
        self.visit = visit
        self.parts: list[dict[str, list[torch.Tensor]]] = [{} for _ in range(rows)]
        self.seen = [0] * rows

    def add(self, logits: Sequence[torch.Tensor], tokens: torch.Tensor, valid: Flags) -> None:
        """Visit the next columns; logits [rows, columns, vocabulary] of each model, the others [rows, columns]."""
        for row in np.flatnonzero(valid.any(1)):
            there = int(valid[row].sum())
            row_tokens = tokens[row, :there]
            # Row by row, so that what is made of the logits never is as large as they are.
            here = (x[row, :there].to(row_tokens.device) for x in logits)
            for name, values in self.visit(*here, row_tokens, self.seen[row]).items():
                self.parts[row].setdefault(name, []).append(values.cpu())
            self.seen[row] += there

    def scores(self) -> list[Scores]:
        """Return for each output every named value, [tokens], on the CPU."""
        return [{name: torch.cat(parts) for name, parts in values.items()} for values in self.parts]


@torch.inference_mode()
def walk(models: Sequence[Model], outputs: Sequence[Output], visit: Callable[..., Scores]) -> list[Scores]:
    """Read outputs with all models side by side, chunk by chunk; return what `visit` says of each, see `Scored`."""
    rows, lengths = len(outputs), np.array([len(o.tokens) for o in outputs])
    longest = int(lengths.max())
    readers = [Reader(model, [o.before for o in outputs]) for model in models]
    device = models[0].device
    tokens = torch.tensor([o.tokens + [0] * (longest - len(o.tokens)) for o in outputs], device=device)
    valid = np.arange(longest) < lengths[:, None]
    scored = Scored(rows, visit)
    step = columns_a_chunk(rows, models[0].vocabulary)
    for first in range(0, longest, step):
        part = slice(first, first + step)
        scored.add([r.logits(tokens[:, part], valid[:, part]) for r in readers], tokens[:, part], valid[:, part])
    return scored.scores()


class Recorder:
    """Scores outputs while the target writes them, from the very logits it chose by; the draft reads along in chunks.

    Spares the target a second pass, and p is what was sampled from, to the last bit.
    """

    def __init__(
        self, draft: Model, before: Sequence[Sequence[int]], rule: SamplingRule, draft_rule: SamplingRule
    ) -> None:
        self.reader = Reader(draft, before)
        self.rows = len(before)
        self.scored = Scored(self.rows, partial(pair_scores, rule=rule, draft_rule=draft_rule))
        self.columns: list[tuple[NDArray[np.int64], torch.Tensor, torch.Tensor]] = []
        self.room = columns_a_chunk(self.rows, draft.vocabulary)

    def see(self, running: NDArray[np.int64], logits: torch.Tensor, chosen: torch.Tensor) -> None:
        """Take one column: which rows still run, their logits [running, vocabulary], what they chose, [running]."""
        self.columns.append((running, logits, chosen))
        if len(self.columns) == self.room:
            self.flush()

    def flush(self) -> None:
        """Let the draft read what was kept, and score it."""
        if not self.columns:
            return
        _, some, _ = self.columns[0]
        shape = self.rows, len(self.columns)
        logits = some.new_zeros((*shape, some.shape[-1]))
        tokens, valid = torch.zeros(shape, dtype=torch.long, device=some.device), np.zeros(shape, bool)
        for column, (running, row_logits, chosen) in enumerate(self.columns):
            rows = torch.from_numpy(running).to(some.device)
            logits[rows, column], tokens[rows, column] = row_logits, chosen
            valid[running, column] = True
        self.columns.clear()
        self.scored.add((logits, self.reader.logits(tokens, valid)), tokens, valid)

    def traces(self, outputs: Sequence[Output], prompts: tuple[PromptInfo, ...]) -> list[Trace]:
        """Return the trace of each output, now that all are written."""
        self.flush()
        return [trace_of(o, s, prompts) for o, s in zip(outputs, self.scored.scores(), strict=True)]


def score(
    target: Model,
    draft: Model,
    outputs: Sequence[Output],
    prompts: tuple[PromptInfo, ...],
    rule: SamplingRule,
    draft_rule: SamplingRule,
) -> list[Trace]:
    """Return the trace of each output of a batch that was written before."""
    scores = walk((target, draft), outputs, partial(pair_scores, rule=rule, draft_rule=draft_rule))
    return [trace_of(o, s, prompts) for o, s in zip(outputs, scores, strict=True)]


def trace_of(output: Output, scores: Scores, prompts: tuple[PromptInfo, ...]) -> Trace:
    """Return the trace of one output from its scores; what is not among them is unknown."""
    size = len(output.tokens)
    position = np.arange(size, dtype=np.int32)
    unknown = torch.full((size,), torch.nan)
    floats = ("accept_sampled", "log_p", "max_q", "entropy_p", "entropy_q", "overlap", "p_argmax_q", *SINCE_3)
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
