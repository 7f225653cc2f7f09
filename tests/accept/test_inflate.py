"""Inflated targets: the same logits bit for bit, the stated cost, caches of their own; others are refused."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import acceptance
from acceptance.decoders import baseline
from acceptance.models import inflate as inflating
from acceptance.models.check import disagreement
from acceptance.models.compat import growing_cache, read_on
from acceptance.models.inflate import inflate, pass_weights
from acceptance.models.laws import streams
from acceptance.models.load import load_pair
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from simulator.ground.artefacts import UserError

from .test_families import make
from .tiny_models import random_model

TINY_PAIR = Path(acceptance.__file__).parent / "tiny_pair"
PLAIN = ("llama", "mistral", "gpt2")
KINDS = (*PLAIN, "qwen2", "qwen3", "gemma", "gemma2, hybrid window", "gemma3, hybrid window", "phi3")


def family(kind: str) -> Model:
    return random_model(kind, 1, 30) if kind in PLAIN else make(kind, 1)


@pytest.fixture(scope="module")
def bundled() -> Model:
    return load_pair(str(TINY_PAIR / "target"), str(TINY_PAIR / "draft"), device="cpu", dtype="float32").target


@torch.inference_mode()
def logits(model: Model, length: int = 30) -> torch.Tensor:
    return model.module(torch.arange(length)[None] * 7 % model.vocabulary).logits


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_same_bit_for_bit(kind: str) -> None:
    model = family(kind)
    inflated = inflate(model, 3)
    assert torch.equal(logits(model), logits(inflated))
    assert pass_weights(inflated.module) / pass_weights(model.module) == pytest.approx(3, rel=0.05)
    assert disagreement(inflated, rolling_back=True) < 1e-4


@pytest.mark.parametrize("times", [1.5, 4, 16])
def test_the_cost_is_as_stated(bundled: Model, times: float) -> None:
    inflated = inflate(bundled, times)
    flops = []
    for model in (bundled, inflated):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model.module(torch.ones((1, 1), dtype=torch.long))
        flops.append(counter.get_total_flops())
    assert flops[1] / flops[0] == pytest.approx(times, rel=0.02)
    assert pass_weights(inflated.module) / pass_weights(bundled.module) == pytest.approx(times, rel=0.01)
    # The head is tied: every matrix is multiplied by.
    assert flops[0] == pytest.approx(2 * pass_weights(bundled.module), rel=0.01)


@torch.inference_mode()
def test_greedy_text_and_hidden_states_stay(bundled: Model) -> None:
    models, prompts = (bundled, inflate(bundled, 4)), [[5, 9, 40], [7, 7, 7, 8, 30, 31]]
    options = {"rule": SamplingRule(temperature=0), "max_new_tokens": 24}
    plain, other = (baseline.decode(m, prompts, rngs=streams(0, [0, 1]), **options) for m in models)
    assert plain == other
    tokens = torch.tensor([prompts[1]])
    assert torch.equal(*(m.module(tokens, output_hidden_states=True).hidden_states[-1] for m in models))


def test_added_blocks_compute_and_cache(bundled: Model) -> None:
    """Their weights are not zero but for the last projections, and each has keys of its own."""
    inflated = inflate(bundled, 2)
    added = list(inflated.module.model.layers)[len(bundled.module.model.layers) :]
    for block in added:
        assert (block.mlp.up_proj.weight != 0).float().mean() > 0.99
        assert not block.mlp.down_proj.weight.any()
        assert not block.self_attn.o_proj.weight.any()
    found = growing_cache(inflated.module.config)
    read_on(inflated.module, torch.arange(5)[None], found)
    assert len(found.layers) == len(inflated.module.model.layers)
    assert all(layer.keys.shape[2] == 5 and layer.keys.any() for layer in found.layers)


def test_a_block_that_adds_something_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the check that refuses."""
    monkeypatch.setattr(inflating, "OUTPUTS", ("o_proj",))
    with pytest.raises(UserError, match="llama cannot be inflated"):
        inflate(family("llama"), 2)


def test_the_model_itself_is_left_alone_and_half_precision_stays(bundled: Model) -> None:
    before = copy.deepcopy(bundled.module.state_dict())
    half = replace(bundled, module=copy.deepcopy(bundled.module).to(torch.bfloat16))
    inflate(bundled, 2)
    assert bundled.module.config.num_hidden_layers == len(bundled.module.model.layers) == 5
    assert all(torch.equal(before[name], weight) for name, weight in bundled.module.state_dict().items())
    inflated = inflate(half, 2)
    assert torch.equal(logits(half), logits(inflated))
    assert {p.dtype for p in inflated.module.parameters()} == {torch.bfloat16}


def test_numbers_that_are_not_allowed_and_once_is_the_model_itself(bundled: Model) -> None:
    for times in (0.5, -1, 1001, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"--inflate-target: .* expected 1 to 1000"):
            inflate(bundled, times)
    assert inflate(bundled, 1) is bundled


def test_what_does_not_fit_is_refused_before_it_is_allocated(monkeypatch: pytest.MonkeyPatch, bundled: Model) -> None:
    monkeypatch.setattr(inflating.os, "sysconf", {"SC_AVPHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    with pytest.raises(UserError, match=r"--inflate-target: 10 takes 0\.1 GiB more, expected at most 0\.0 GiB"):
        inflate(bundled, 10)


@pytest.mark.parametrize("name", ["mixtral, experts", "opt, learned positions", "bloom, no positions"])
def test_other_kinds_are_refused_in_one_line(name: str) -> None:
    kind = name.partition(",")[0]
    with pytest.raises(UserError, match=f"--inflate-target: {kind} cannot be inflated"):
        inflate(make(name, 1), 2)
