"""What models say without a cache, laws written out in NumPy, apart from the product's torch, and faults put in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from acceptance.decoders import baseline, speculative
from acceptance.decoders.batch import Task
from acceptance.decoders.tree import Tree
from acceptance.measure.scoring import Output, score
from acceptance.models import laws
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from acceptance.models.source import Begun
from acceptance.trace.trace import PromptInfo

Floats = NDArray[np.float64]
Text = tuple[int, ...]
GREEDY, FREE = SamplingRule(temperature=0.0), SamplingRule(temperature=1.0)


def task_of(prompts: Sequence[int], budget: int, rule: SamplingRule = GREEDY, seed: int = 7) -> Task:
    """What prompts of these indices are asked for."""
    return Task(rule=rule, max_new_tokens=budget, rngs=laws.streams(seed, prompts))


def plain(
    target: Model, prompts: Sequence[Sequence[int]], budget: int, rule: SamplingRule = GREEDY, seed: int = 7
) -> list[list[int]]:
    """What the product's decoding without a draft writes from the streams of `task_of`."""
    rngs = laws.streams(seed, range(len(prompts)))
    return baseline.decode(target, prompts, rule=rule, max_new_tokens=budget, rngs=rngs)


def instead_of(patch: pytest.MonkeyPatch, owner: Any, name: str) -> Callable[[Callable], None]:
    """Decorate what takes the place of a function, which it gets as its first argument."""
    right = getattr(owner, name)
    return lambda wrong: patch.setattr(owner, name, lambda *args, **kwargs: wrong(right, *args, **kwargs))


def logits_without_cache(model: Model, tokens: Sequence[int]) -> torch.Tensor:
    """Logits after all of these tokens, read at once and alone, [vocabulary]."""
    return known_logits(model.module, tokens if isinstance(tokens, Begun) else tuple(tokens))


@cache
@torch.inference_mode()
def known_logits(module: Any, tokens: Text) -> torch.Tensor:
    if isinstance(tokens, Begun):
        of_sound = isinstance(tokens.source, torch.Tensor)
        source = tokens.source[None] if of_sound else torch.tensor([tokens.source])
        given = {"input_features" if of_sound else "input_ids": source, "decoder_input_ids": torch.tensor([tokens])}
        return module(**given, use_cache=False).logits[0, -1]
    return module(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0, -1]


def greedy_without_cache(model: Model, prompt: Sequence[int], budget: int) -> list[int]:
    """Greedy decoding as the definition has it: everything is read anew for every token."""
    output: list[int] = []
    before = prompt if isinstance(prompt, Begun) else list(prompt)
    while len(output) < budget and (not output or output[-1] not in model.ends):
        output.append(int(logits_without_cache(model, before + output).argmax()))
    return output


def check_loop_and_trace(target: Model, draft: Model, prompts: Sequence[Any], expected: list[list[int]]) -> None:
    """Check that loop and trace know the target's greedy outputs, of at most as many tokens as the longest has."""
    task: dict[str, Any] = {"rule": GREEDY, "max_new_tokens": max(map(len, expected))}
    task["rngs"] = laws.streams(0, range(len(prompts)))
    assert baseline.decode(target, prompts, **task) == expected
    # A draft that is often wrong, and one that is always right: much and nothing is rolled back.
    for proposer in (draft, target):
        decoded = speculative.decode(target, proposer, prompts, k=3, draft_rule=GREEDY, **task)
        assert [d.tokens for d in decoded] == expected
    outputs = [
        Output(prompt=i, turn=0, before=p, tokens=x) for i, (p, x) in enumerate(zip(prompts, expected, strict=True))
    ]
    infos = tuple(PromptInfo(source=str(i)) for i in range(len(prompts)))
    for trace in score(target, target, outputs, infos, GREEDY, GREEDY):
        assert (trace.rank_p == 0).all()
        assert trace.accept_greedy.all()


def law_of(logits: Sequence[float] | Floats, rule: SamplingRule) -> Floats:
    """The law that a rule makes of logits [vocabulary], in fp64 and token by token."""
    scores = np.asarray(logits, np.float64)
    if rule.temperature == 0:
        return np.eye(len(scores))[int(np.argmax(scores))]
    scores = scores / rule.temperature
    stays = np.ones(len(scores), bool)
    if rule.top_k:
        stays = np.array([(scores > score).sum() < rule.top_k for score in scores])
    weights = np.where(stays, np.exp(scores - scores.max()), 0.0)
    law = weights / weights.sum()
    if rule.top_p < 1:
        reached, nucleus = 0.0, np.zeros(len(law), bool)
        for token in sorted(range(len(law)), key=lambda t: (-law[t], t)):
            if reached >= rule.top_p:
                break
            nucleus[token] = True
            reached += law[token]
        law = np.where(nucleus, law, 0.0)
    return law / law.sum()


@dataclass(frozen=True)
class Say:
    """What a model's law is after any text, from enumeration without a cache."""

    model: Model
    rule: SamplingRule
    prompt: Text

    def __call__(self, text: Text) -> Floats:
        barred = self.model.never + (() if text else self.model.never_first)
        return known_law(self.model.module, self.rule, self.prompt + text, barred)


@cache
def known_law(module: Any, rule: SamplingRule, tokens: Text, barred: tuple[int, ...] = ()) -> Floats:
    logits = known_logits(module, tokens).numpy().copy()
    logits[list(barred)] = -np.inf
    return law_of(logits, rule)


def enumerate_texts(law: Callable[[Text], Floats], ends: Sequence[int], budget: int) -> dict[Text, float]:
    """The probability of every output of a budget that may end before it."""
    running: dict[Text, float] = {(): 1.0}
    finished: dict[Text, float] = {}
    for _ in range(budget):
        longer: dict[Text, float] = {}
        for text, probability in running.items():
            for token, chance in enumerate(law(text)):
                if chance > 0:
                    (finished if token in ends else longer)[(*text, token)] = probability * chance
        running = longer
    return finished | running


def branches(tree: Tree) -> list[Text]:
    """The tokens from the committed one to each node."""
    found: list[Text] = []
    for token, parent in zip(tree.tokens.tolist(), tree.parents.tolist(), strict=True):
        found.append((*(found[parent] if parent >= 0 else ()), token))
    return found


Rounds = tuple[tuple[int, int], ...]  # of each round the tokens it committed, and how many of those were drafts


def enumerate_rounds(accept: Sequence[float], k: int, budget: int) -> dict[Rounds, float]:
    """The recursion of model §3 for one text, all histories apart: the law of the rounds that a text was made in.

    Args:
        accept: a[t] of each token of the text.
        k: Draft length.
        budget: What the text may have had at most; a round drafts no more than that leaves, less one.
    """
    found: dict[Rounds, float] = {}

    def go_on(start: int, history: Rounds, probability: float) -> None:
        left = len(accept) - start
        if left == 0 or probability == 0:
            found[history] = found.get(history, 0.0) + probability
            return
        drafted = min(k, budget - start - 1)
        survives = 1.0
        for run in range(min(drafted, left)):
            go_on(start + run + 1, (*history, (run + 1, run)), probability * survives * (1 - accept[start + run]))
            survives *= accept[start + run]
        if drafted >= left:  # the text ends among the drafts, all of them accepted
            go_on(len(accept), (*history, (left, left)), probability * survives)
        else:
            go_on(start + drafted + 1, (*history, (drafted + 1, drafted)), probability * survives)

    go_on(0, (), 1.0)
    return found


def add_up(parts: Sequence[tuple[Any, float]]) -> dict[Any, float]:
    """Add up weights by what they belong to."""
    found: dict[Any, float] = {}
    for name, weight in parts:
        found[name] = found.get(name, 0.0) + weight
    return found
