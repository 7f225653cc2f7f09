"""Models small enough to enumerate what they say, and laws written out in NumPy, apart from the product's torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PretrainedConfig,
)

from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule

Floats = NDArray[np.float64]
Text = tuple[int, ...]
NO_ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


class Trigram(torch.nn.Module):
    """Logits from a table of the last two tokens, of which the one before the query is read back from the KV cache.

    So a cache that was rolled back, packed or masked wrongly changes the law, as it does in a transformer.
    """

    def __init__(self, table: torch.Tensor) -> None:
        """Take logits by previous token (the last row: there is none) and token, [vocabulary + 1, vocabulary, ...]."""
        super().__init__()
        self.table = table
        self.config = PretrainedConfig(num_hidden_layers=1, vocab_size=table.shape[-1])

    @property
    def device(self) -> torch.device:
        return self.table.device

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> SimpleNamespace:
        columns = input_ids.float()[:, None, :, None]
        if past_key_values is not None:
            columns, _ = past_key_values.update(columns, columns, 0)
        seen, width = columns[:, 0, :, 0].long(), input_ids.shape[1]
        live = torch.ones_like(seen) if attention_mask is None else attention_mask
        assert live.shape == seen.shape, "the mask covers another number of columns than the cache holds"
        index = torch.arange(seen.shape[1]).expand(seen.shape)
        last_live = torch.where(live.bool(), index, -1).cummax(1).values
        before = torch.nn.functional.pad(last_live, (1, 0), value=-1)[:, :-1][:, -width:]
        previous = torch.where(before < 0, self.table.shape[0] - 1, seen.gather(1, before.clamp(min=0)))
        return SimpleNamespace(logits=self.table[previous, input_ids][:, -logits_to_keep:])


def trigram_pair(seed: int, vocabulary: int = 4, spread: float = 1.2, apart: float = 1.0) -> tuple[Model, Model]:
    """A random target, and a draft that differs from it by noise."""
    random = torch.Generator().manual_seed(seed)
    shape = (vocabulary + 1, vocabulary, vocabulary)
    target = spread * torch.randn(shape, generator=random)
    draft = target + apart * torch.randn(shape, generator=random)
    return tuple(Model(module=Trigram(table), vocabulary=vocabulary) for table in (target, draft))  # type: ignore


def random_model(kind: str, seed: int, vocabulary: int, **changes: Any) -> Model:
    """A random transformer: "llama", "gpt2" with absolute positions, "mistral" with a sliding window of 4."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"vocab_size": vocabulary, "initializer_range": 0.5} | NO_ENDS
    if kind == "gpt2":
        shape |= {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
        module = GPT2LMHeadModel(GPT2Config(**shape | changes))
    else:
        shape |= {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "max_position_embeddings": 64}
        shape |= {"num_attention_heads": 2, "num_key_value_heads": 1}
        if kind == "mistral":
            module = MistralForCausalLM(MistralConfig(**shape | {"sliding_window": 4} | changes))
        else:
            module = LlamaForCausalLM(LlamaConfig(**shape | changes))
    return Model(module=module.eval(), vocabulary=vocabulary)


def related_model(model: Model, seed: int, noise: float) -> Model:
    """A draft that resembles a target: the same weights, each moved by noise of the weights' own size."""
    torch.manual_seed(seed)
    module = type(model.module)(model.module.config)
    weights = {n: w + noise * w.std() * torch.randn_like(w) for n, w in model.module.state_dict().items() if w.ndim > 1}
    module.load_state_dict(model.module.state_dict() | weights)
    return Model(module=module.eval(), vocabulary=model.vocabulary)


@torch.inference_mode()
def logits_without_cache(model: Model, tokens: Sequence[int]) -> torch.Tensor:
    """Logits after all of these tokens, read at once and alone, [vocabulary]."""
    return model.module(input_ids=torch.tensor([list(tokens)])).logits[0, -1]


def greedy_without_cache(model: Model, prompt: Sequence[int], budget: int) -> list[int]:
    """Greedy decoding as the definition has it: everything is read anew for every token."""
    output: list[int] = []
    while len(output) < budget and (not output or output[-1] not in model.ends):
        output.append(int(logits_without_cache(model, [*prompt, *output]).argmax()))
    return output


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
        return known_law(self.model.module, self.rule, self.prompt + text)


@cache
def known_law(module: Any, rule: SamplingRule, tokens: Text) -> Floats:
    return law_of(known_logits(module, tokens), rule)


@cache
def known_logits(module: Any, tokens: Text) -> Floats:
    return logits_without_cache(Model(module=module, vocabulary=0), tokens).numpy().astype(np.float64)


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
