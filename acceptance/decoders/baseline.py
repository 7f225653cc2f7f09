"""Plain autoregressive decoding: one target pass a token."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from acceptance.models.context import Context, padded
from acceptance.models.laws import draw, probabilities, uniforms_like
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule

from .batch import Ints, Round, Task, commit, start
from .decoder import still_running
from .method import Method


def next_tokens(logits: torch.Tensor, rule: SamplingRule, rngs: Sequence[np.random.Generator]) -> torch.Tensor:
    """Draw the next token of each row from its law; logits [rows, vocabulary], result [rows]."""
    if rule.is_greedy:
        return logits.argmax(-1)
    return draw(probabilities(logits, rule), uniforms_like(logits, np.array([rng.random() for rng in rngs])))


def decode(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    rule: SamplingRule,
    max_new_tokens: int,
    rngs: Sequence[np.random.Generator],
    watch: Callable[[NDArray[np.int64], torch.Tensor, torch.Tensor], None] | None = None,
) -> list[list[int]]:
    """Continue a batch of prompts.

    Args:
        model: A causal language model.
        prompts: Token ids, none empty.
        rule: What is sampled from.
        max_new_tokens: Budget of each output.
        rngs: A random stream for each prompt; greedy decoding draws nothing.
        watch: Called at every step with the rows still running, their logits [running, vocabulary] and their tokens.

    Returns:
        The new tokens of each prompt, the end of sequence among them.
    """
    outputs: list[list[int]] = [[] for _ in prompts]
    running = np.arange(len(prompts))
    context = Context(model, len(prompts))
    tokens, valid = padded([list(p) for p in prompts], model.device)
    while True:
        logits = context.read(tokens, valid, 1)[:, 0]
        chosen = next_tokens(logits, rule, [rngs[i] for i in running.tolist()])
        if watch is not None:
            watch(running, logits, chosen)
        for i, token in zip(running, chosen.tolist(), strict=True):
            outputs[i].append(token)
        goes_on = [len(outputs[i]) < max_new_tokens and outputs[i][-1] not in model.ends for i in running]
        if not any(goes_on):
            return outputs
        if not all(goes_on):
            kept = np.flatnonzero(goes_on)
            context.select(kept)
            running, chosen = running[kept], chosen[torch.from_numpy(kept).to(chosen.device)]
        tokens, valid = chosen[:, None], np.ones((len(running), 1), bool)


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
