"""Caches of fixed size: read and rolled back, they are what a cache that grows is; their decoders write the same."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import StaticLayer

from acceptance.decoders import baseline, speculative
from acceptance.decoders.decoder import run
from acceptance.decoders.method import Models, Options
from acceptance.models import compat
from acceptance.models.context import Context
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from acceptance.models.static_context import COLUMNS, StaticContext, static_context
from simulator.ground.artefacts import UserError

from .oracles import GREEDY, instead_of, plain, task_of
from .tiny_models import random_model, related_model

VOCABULARY = 11
STEPS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=8)
MODELS = {kind: random_model(kind, 3, VOCABULARY) for kind in ("llama", "gpt2")}
counting = pytest.mark.skipif(
    not compat.counts(compat.fixed_cache(MODELS["llama"].module.config, 16).layers[0]),
    reason="caches of fixed size count nothing before transformers 5.4: every pass says where it writes",
)


@pytest.mark.parametrize("kind", MODELS)
@settings(deadline=None, max_examples=25)
@given(steps=STEPS, seed=st.integers(0, 99))
def test_reading_and_rolling_back_is_that_of_a_growing_cache(kind: str, steps: list, seed: int) -> None:
    model, rng = MODELS[kind], np.random.default_rng(seed)
    growing, fixed = Context(model, 1, keep_hidden=True), StaticContext(model, 48, keep_hidden=True)
    for count, back in steps:
        tokens = torch.from_numpy(rng.integers(VOCABULARY, size=(1, count)))
        keep = int(rng.integers(1, count + 1))
        found = [c.read(tokens, np.ones((1, count), bool), keep) for c in (growing, fixed)]
        torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fixed.hidden, growing.hidden, rtol=1e-4, atol=1e-4)
        for context in (growing, fixed):
            context.roll_back(np.maximum(context.lengths - min(back, count), 0))
        assert growing.lengths == fixed.lengths


def read(context: Context | StaticContext, *tokens: int) -> torch.Tensor:
    return context.read(torch.tensor([tokens]), np.ones((1, len(tokens)), bool), 1)


@counting
def test_what_is_forgotten_is_not_seen() -> None:
    """The negative control: without setting the length back, the next token is written elsewhere and misread."""
    right, wrong = StaticContext(MODELS["llama"], 16), StaticContext(MODELS["llama"], 16)
    for context in (right, wrong):
        read(context, 1, 2, 3, 4)
    right.roll_back(np.array([2]))
    wrong.length = 2  # the cache's own length stays
    assert (read(right, 5) - read(wrong, 5)).abs().max() > 0.01


def test_padding_is_left_out() -> None:
    context = StaticContext(MODELS["llama"], 16)
    padded = context.read(torch.tensor([[9, 9, 1, 2]]), np.array([[False, False, True, True]]), 1)
    torch.testing.assert_close(padded, read(Context(MODELS["llama"], 1), 1, 2), rtol=1e-4, atol=1e-4)
    assert context.lengths == 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_decoders_write_the_same(temperature: float) -> None:
    """Also where a model drafts for itself."""
    target = random_model("llama", 5, VOCABULARY)
    draft, rule = related_model(target, 6, 0.3), SamplingRule(temperature=temperature)
    for prompt in ([1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 0]):
        written = plain(target, [prompt], 20, rule)[0]
        fixed = baseline.Plain(replace(target, graphs=True), [prompt], task_of([0], 20, rule))
        assert run(fixed)[0].tokens == written
        for drafter in (draft, target):
            options = Options(draft_rule=rule, k=3)
            pairs = [
                Models(**{n: replace(m, graphs=graphs) for n, m in (("target", target), ("draft", drafter))})
                for graphs in (False, True)
            ]
            found = [
                run(speculative.METHOD.begin(pair, options)([prompt], task_of([0], 20, rule)))[0] for pair in pairs
            ]
            assert found[0] == found[1]
            assert rule != GREEDY or found[1].tokens == written
            assert drafter is draft or all(r.accepted == r.drafted for r in found[1].rounds)


def test_a_sequence_after_another_finds_an_empty_cache_and_the_same_graphs() -> None:
    model: Model = MODELS["llama"]
    first = static_context(model, 30, keep_hidden=False)
    read(first, 1, 2, 3)
    second = static_context(model, 40, keep_hidden=False)
    assert second is first
    assert second.lengths == 0
    assert static_context(model, COLUMNS + 1, keep_hidden=False) is not first
    assert static_context(model, 30, keep_hidden=True) is not first


@counting
def test_a_counter_made_in_inference_mode_can_be_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the cache moves its counter there while it is read, which makes it a tensor of inference mode."""

    @instead_of(monkeypatch, StaticLayer, "lazy_initialization")
    def lazy_initialization(right, layer, *states):  # type: ignore[no-untyped-def]
        right(layer, *states)
        layer.cumulative_length = layer.cumulative_length.clone()

    context = StaticContext(MODELS["llama"], 16)
    read(context, 1, 2, 3)
    assert context.cache.layers[0].cumulative_length.is_inference()
    context.roll_back(np.array([1]))
    assert int(context.cache.layers[0].cumulative_length) == 1


def test_a_model_that_is_gone_takes_its_graphs_along() -> None:
    model = random_model("llama", 9, VOCABULARY)
    gone = weakref.ref(model.module)
    static_context(model, 20, keep_hidden=False)
    del model
    gc.collect()
    assert gone() is None


def test_a_full_cache_and_a_sliding_window_are_refused() -> None:
    with pytest.raises(UserError, match="--cuda-graphs: 5 tokens, the cache holds 4"):
        read(StaticContext(MODELS["llama"], 4), *[1] * 5)
    with pytest.raises(UserError, match="--cuda-graphs: the model's attention slides"):
        StaticContext(random_model("mistral", 1, VOCABULARY), 16)
