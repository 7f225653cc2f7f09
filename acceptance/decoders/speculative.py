"""Exact speculative decoding: a draft proposes, one target pass verifies, both caches roll back (model §1).

The output's law is the target's own under the rule (Leviathan et al. 2023, algorithm 1; Chen et al. 2023); greedy
output is the target's greedy output.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule

from .batch import Decoded, Task
from .chain import Acceptance, Chain, Exact, FixedLength
from .decoder import run
from .method import Begin, Control, Method, Models, Options, chains
from .model_draft import ModelDraft
from .samplers import Sampler


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
    sampler: Sampler | None = None,
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
        sampler: Who decides on drafts; the loop itself, by its own draws, if not given.
    """
    task = Task(rule=rule, max_new_tokens=max_new_tokens, rngs=rngs)
    drafter = ModelDraft(draft, draft_rule, keep_logits=sampler is not None)
    return run(Chain(target, drafter, prompts, task, lengths=FixedLength(k), sampler=sampler))


def over_draft(
    name: str,
    summary: str,
    *,
    lengths: Callable[[Options], int | Control] = lambda options: options.k,
    acceptance: Callable[[Models, Options], Acceptance] = lambda models, options: Exact(),
    draft: Callable[[Options], dict[str, Any]] = lambda options: {},
    keep_hidden: bool = False,
    needs: tuple[str, ...] = (),
) -> Method:
    """Return a method that verifies chains of a draft model.

    lengths, acceptance: of the options, who chooses draft lengths and who accepts. draft: what else `ModelDraft` takes.
    keep_hidden: of both models. needs: besides the draft.
    """

    def begin(models: Models, options: Options) -> Begin:
        model, rule, control = models.draft, acceptance(models, options), lengths(options)
        assert model is not None
        kept = {"keep_hidden": keep_hidden, "keep_logits": options.sampler is not None}
        drafter = partial(ModelDraft, model, options.draft_rule, **kept, **draft(options))
        parts = {"acceptance": rule, "sampler": options.sampler, "keep_hidden": keep_hidden}
        return chains(models.target, drafter, control, **parts)

    return Method(name=name, summary=summary, batched=True, needs=("draft", *needs), begin=begin)


METHOD = over_draft("speculative", "k tokens of a draft model, verified in one target pass")
