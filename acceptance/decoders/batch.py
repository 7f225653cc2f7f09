"""The rows that are being decoded, what they have committed, and in which rounds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from acceptance.models.context import Context, context_of, padded
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from acceptance.models.source import Encoded
from acceptance.models.static_context import StaticContext, static_context

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
AnyContext = Context | StaticContext


def no_mark(phase: str) -> None:
    """Take no time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a batch is asked for.

    rule: what the target samples from. max_new_tokens: budget of each output. rngs: a random stream for each prompt.
    mark: told at the end of each phase of a step what it was: "prefill", "draft", "verify", "sample", "kv", "other".
    """

    rule: SamplingRule
    max_new_tokens: int
    rngs: Sequence[np.random.Generator]
    mark: Callable[[str], None] = no_mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round: where in the output it began, what it drafted, accepted and committed.

    cut_by: "eos" or "max" where the end of sequence or the budget left no room for all it could have committed.
    draft_passes: forward passes of the draft, whatever they cost. overruled: accepted tokens that a lossy rule kept
    though the target's first choice was another; of a trained judge, that it kept though the exact rule did not.
    judged: tokens that the exact rule did not keep and a trained judge was asked about, up to and with the first that
    it refused. depth: of the drafted tree; the number drafted for a chain. leaves: of the drafted tree; a chain with
    drafts has one. pruned: candidates that a growing tree looked at and did not keep for the threshold; over_budget:
    for the budget.
    """

    start: int
    drafted: int
    accepted: int
    committed: int
    cut_by: str = ""
    draft_passes: int = 0
    overruled: int = 0
    judged: int = 0
    depth: int = 0
    leaves: int = 0
    pruned: int = 0
    over_budget: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """An output and the rounds that made it."""

    tokens: list[int] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Batch:
    """The rows still running: committed tokens, and what the target has read of them.

    tokens: prompt and output, [rows, longest prompt + budget]. lengths: how many are committed. budget: how many more
    may be. index: which prompt each row is. outputs: of every prompt, running or not.
    """

    tokens: Ints
    lengths: Ints
    budget: Ints
    index: Ints
    target: AnyContext
    outputs: list[Decoded]

    @property
    def starts(self) -> Ints:
        """Where in its output each row is."""
        return np.array([len(self.outputs[i].tokens) for i in self.index])

    def select(self, rows: Ints) -> None:
        """Keep only these rows."""
        for name in ("tokens", "lengths", "budget", "index"):
            setattr(self, name, getattr(self, name)[rows])
        self.target.select(rows)


def start(target: Model, prompts: Sequence[Sequence[int]], max_new_tokens: int, *, keep_hidden: bool = False) -> Batch:
    """Read all prompts but their last token, which the first round reads.

    An engine takes the first token from the prompt's own pass. Here a round makes it, whatever the method: rates and
    speedups are of T tokens in place of T - 1, and the time to the first token is longer by a round.
    """
    rows = len(prompts)
    lengths = np.array([len(p) for p in prompts])
    tokens = np.zeros((rows, int(lengths.max()) + max_new_tokens), np.int64)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    return Batch(
        tokens=tokens,
        lengths=lengths,
        budget=np.full(rows, max_new_tokens),
        index=np.arange(rows),
        target=read_prompts(target, prompts, tokens.shape[1], keep_hidden=keep_hidden),
        outputs=[Decoded() for _ in prompts],
    )


def read_prompts(
    model: Model,
    prompts: Sequence[Sequence[int]],
    columns: int,
    *,
    keep_hidden: bool = False,
    beside: AnyContext | None = None,
) -> AnyContext:
    """Return what a model has read of all prompts but their last token; `columns` hold prompt and output at most.

    beside: what another model has read of them, whose encoder's work is taken where both have the same.
    """
    context: AnyContext
    if model.graphs and len(prompts) == 1:
        context = static_context(model, columns, keep_hidden=keep_hidden)
    else:
        encoded: Encoded | None = getattr(beside, "encoded", None)
        context = context_of(model, prompts, keep_hidden=keep_hidden, beside=encoded)
    if max(map(len, prompts)) > 1:
        context.read(*padded([list(p[:-1]) for p in prompts], model.device), 1)
    elif model.encodes:
        # What the decoder keeps of its source is made by its first pass: that belongs to the prompt, not to a round.
        context.read(*padded([list(p) for p in prompts], model.device), 1)
        context.roll_back(np.zeros(len(prompts), np.int64))
    return context


def unread(batch: Batch, context: AnyContext) -> tuple[torch.Tensor, Flags]:
    """Return the committed tokens that a context has not read, padded on the left."""
    seen, lengths = context.lengths[:, None], batch.lengths[:, None]
    columns = lengths - np.arange(int((lengths - seen).max(initial=0)), 0, -1)
    valid = columns >= seen
    tokens = np.where(valid, np.take_along_axis(batch.tokens, np.maximum(columns, 0), 1), 0)
    return torch.from_numpy(tokens).to(context.model.device), valid


def commit(batch: Batch, new: Ints, accepted: Ints, ends: Sequence[int]) -> tuple[Ints, Flags]:
    """Append the first accepted + 1 of `new` to each row, cut behind an end of sequence. Rolls nothing back.

    new: [rows, more than the most accepted]. accepted: how many drafted tokens of it count, [rows]. Returns the tokens
    committed by each row, and whether an end of sequence is the last of them.
    """
    is_end = np.isin(new, ends) & (np.arange(new.shape[1]) <= accepted[:, None])
    committed = np.where(is_end.any(1), is_end.argmax(1), accepted) + 1
    rows, places = np.nonzero(np.arange(new.shape[1]) < committed[:, None])
    batch.tokens[rows, batch.lengths[rows] + places] = new[rows, places]
    for i, tokens, more in zip(batch.index.tolist(), new.tolist(), committed.tolist(), strict=True):
        batch.outputs[i].tokens.extend(tokens[:more])
    batch.lengths = batch.lengths + committed
    batch.budget = batch.budget - committed
    return committed, np.asarray(is_end.any(1))
