"""Plain autoregressive decoding: one target pass a token."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from acceptance.models.context import Context, context_of, padded
from acceptance.models.laws import draw, likeliest, probabilities, uniforms_like
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule

from .batch import Ints, Round, Task, commit, start
from .decoder import still_running
from .method import Method

Watch = Callable[[NDArray[np.int64], torch.Tensor, torch.Tensor], None]


def next_tokens(logits: torch.Tensor, rule: SamplingRule, rngs: Sequence[np.random.Generator]) -> torch.Tensor:
    """Draw the next token of each row from its law; logits [rows, vocabulary], result [rows]."""
    if rule.is_greedy:
        return likeliest(logits)
    return draw(probabilities(logits, rule), uniforms_like(logits, np.array([rng.random() for rng in rngs])))


def decode(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    rule: SamplingRule,
    max_new_tokens: int,
    rngs: Sequence[np.random.Generator],
    watch: Watch | None = None,
) -> list[list[int]]:
    """Continue a batch of prompts.

    Args:
        model: A language model.
        prompts: Token ids, none empty; of an encoder-decoder model with their sources, see `source.Begun`.
        rule: What is sampled from.
        max_new_tokens: Budget of each output.
        rngs: A random stream for each prompt; greedy decoding draws nothing.
        watch: Called at every step with the rows still running, their logits [running, vocabulary] and their tokens.

    Returns:
        The new tokens of each prompt, the end of sequence among them.
    """
    context = context_of(model, prompts)
    logits = context.read(*padded([list(p) for p in prompts], model.device), 1)[:, 0]
    return go_on(context, logits, [max_new_tokens] * len(prompts), rule=rule, rngs=rngs, watch=watch)


def go_on(
    context: Context,
    logits: torch.Tensor,
    budgets: Sequence[int],
    *,
    rule: SamplingRule,
    rngs: Sequence[np.random.Generator] = (),
    watch: Watch | None = None,
    keep_rows: bool = False,
) -> list[list[int]]:
    """Go on behind what a context has read; the last token of each row is not read. See `decode`.

    logits: behind the context's last tokens, [rows, vocabulary]. budgets: new tokens of each row at most, [rows].
    keep_rows: whether the context keeps the rows that have ended.
    """
    outputs: list[list[int]] = [[] for _ in budgets]
    rows, runs = np.arange(len(budgets)), np.array(budgets) > 0
    while runs.any():
        chosen = next_tokens(logits, rule, [] if rule.is_greedy else [rngs[i] for i in rows.tolist()])
        if watch is not None:
            watch(rows, logits, chosen)
        tokens = chosen.tolist()
        for place in np.flatnonzero(runs):
            output = outputs[rows[place]]
            output.append(tokens[place])
            runs[place] = len(output) < budgets[rows[place]] and tokens[place] not in context.model.ends
        if not keep_rows and runs.any() and not runs.all():
            kept = np.flatnonzero(runs)
            context.select(kept)
            rows, runs, chosen = rows[kept], runs[kept], chosen[torch.from_numpy(kept).to(chosen.device)]
        if runs.any():
            logits = context.read(chosen[:, None], runs[:, None], 1)[:, 0]
    return outputs


class Plain:
    """The same, step by step, as a method among others: every round commits one token."""

    def __init__(self, model: Model, prompts: Sequence[Sequence[int]], task: Task) -> None:
        """Read all prompts but their last token."""
        self.task, self.batch = task, start(model, prompts, task.max_new_tokens)
        self.last = torch.tensor([list(p)[-1:] for p in prompts], device=model.device)

    def propose(self) -> None:
        """Propose nothing."""

    def verify(self, proposal: None) -> torch.Tensor:
        """Read the last tokens and choose the next, [rows]."""
        logits = self.batch.target.read(self.last, np.ones(self.last.shape, bool), 1)[:, 0]
        self.task.mark("verify")
        return next_tokens(logits, self.task.rule, [self.task.rngs[i] for i in self.batch.index])

    def commit(self, proposal: None, chosen: torch.Tensor) -> Ints:
        """Append them."""
        batch, starts = self.batch, self.batch.starts
        self.last = chosen[:, None]
        nothing = np.zeros(len(starts), np.int64)
        _, ended = commit(batch, chosen[:, None].cpu().numpy(), nothing, batch.target.model.ends)
        for i, begin in zip(batch.index, starts.tolist(), strict=True):
            batch.outputs[i].rounds.append(Round(start=begin, drafted=0, accepted=0, committed=1))
        return still_running(batch, ended)

    def select(self, rows: Ints) -> None:
        """Keep only these rows."""
        self.batch.select(rows)
        self.last = self.last[torch.from_numpy(rows).to(self.last.device)]


METHOD = Method(
    name="baseline",
    summary="plain decoding, one target pass a token",
    batched=True,
    begin=lambda models, options: lambda prompts, task: Plain(models.target, prompts, task),
)
