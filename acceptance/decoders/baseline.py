"""Plain autoregressive decoding: one target pass a token."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from acceptance.context import Context, padded
from acceptance.laws import draw, probabilities, uniforms_like
from acceptance.models import Model
from acceptance.rule import SamplingRule


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
