"""Exact speculative decoding: a draft proposes, one target pass verifies, both caches roll back (model §1).

The output's law is the target's own under the rule (Leviathan et al. 2023, algorithm 1; Chen et al. 2023); greedy
output is the target's greedy output.
"""

from collections.abc import Sequence

import numpy as np

from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule

from .batch import Decoded, Task
from .chain import Chain, FixedLength
from .decoder import Decoder, run
from .method import Begin, Method, Models, Options
from .model_draft import ModelDraft


def decode(
    target: Model,
    draft: Model,
    prompts: Sequence[Sequence[int]],
    *,
    k: int,
    rule: SamplingRule,
    draft_rule: SamplingRule,
    max_new_tokens: int,
    rngs: Sequence[np.random.Generator],
) -> list[Decoded]:
    """Continue a batch of prompts with draft length k.

    A row never drafts more than its budget less one: the round's own token fills the rest.

    Args:
        target: A causal language model.
        draft: Another with the same vocabulary.
        prompts: Token ids, none empty.
        k: Draft length, >= 1.
        rule: What the target samples from.
        draft_rule: What the draft samples from.
        max_new_tokens: Budget of each output.
        rngs: A random stream for each prompt.
    """
    task = Task(rule=rule, max_new_tokens=max_new_tokens, rngs=rngs)
    return run(Chain(target, ModelDraft(draft, draft_rule), prompts, task, lengths=FixedLength(k)))


def begin(models: Models, options: Options) -> Begin:
    """Begin with a draft model and a fixed draft length."""
    assert models.draft is not None
    draft = models.draft

    def on(prompts: Sequence[Sequence[int]], task: Task) -> Decoder:
        return Chain(
            models.target, ModelDraft(draft, options.draft_rule), prompts, task, lengths=FixedLength(options.k)
        )

    return on


METHOD = Method(
    name="speculative",
    summary="k tokens of a draft model, verified in one target pass",
    batched=True,
    needs=("draft",),
    begin=begin,
)
