"""Models are called as their release of transformers wants it; what no release did is told from what a model is."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from acceptance.models import check, compat
from acceptance.models.model import Model
from simulator.ground.artefacts import UserError
from simulator.ground.tested import TESTED

from .tiny_models import NO_ENDS, random_model, trigram_pair

TOKENS = torch.tensor([[3, 1, 4, 1, 5]])
BOTH = {compat.LOGITS, compat.POSITIONS}


class Renamed(torch.nn.Module):
    """A model whose cache has another name, which no signature shows; None: what it is given is swallowed."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, name: str | None, *, returns: bool = True) -> None:
        super().__init__()
        self.inner = random_model("llama", 1, 16).module
        self.config, self.name, self.returns = self.inner.config, name, returns

    def forward(self, *given: Any, use_cache: bool = False, **inputs: Any) -> SimpleNamespace:
        cache = inputs.pop(self.name, None)
        if cache is None and use_cache:
            cache = compat.growing_cache(self.config)
        tokens = given[0] if given else inputs.pop("input_ids")
        inputs = {k: v for k, v in inputs.items() if k in ("attention_mask", *BOTH)}
        logits = compat.read_on(self.inner, tokens, compat.growing_cache() if cache is None else cache, **inputs).logits
        return SimpleNamespace(logits=logits, **({self.name: cache} if self.name and self.returns else {}))


def renamed(name: str | None, **more: Any) -> Model:
    return Model(module=Renamed(name, **more).eval(), vocabulary=16)


@pytest.mark.parametrize(
    ("name", "returns"), [("past_key_values", False), ("cache", False), ("cache", True), ("memory_of_keys", True)]
)
def test_the_input_of_the_cache_is_found_whatever_it_is_called(name: str, returns: bool) -> None:
    model = renamed(name, returns=returns)
    assert compat.cache_input(model.module) == name
    check.check_cache("--target", "some/llama", model.module)
    check.check_reading("--target", "some/llama", model)
    assert check.disagreement(model, rolling_back=True) < 1e-4


def test_a_real_model_takes_its_cache_and_no_warning_comes_of_it() -> None:
    for kind in ("llama", "gpt2", "mistral"):
        module = random_model(kind, 1, 16).module
        cache = compat.growing_cache(module.config)
        compat.read_on(module, TOKENS, cache)
        last = compat.read_on(module, TOKENS[:, :1], cache, logits_to_keep=1).logits
        assert cache.get_seq_length() == 6
        whole = module(torch.cat((TOKENS, TOKENS[:, :1]), 1)).logits[:, -1:]
        torch.testing.assert_close(last, whole, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_what_has_no_effect_is_not_given() -> None:
    """Positions are found in a precision that does not show what they do at so short a distance, too."""
    shape = {"vocab_size": 30, "hidden_size": 32} | NO_ENDS
    bloom = transformers.BloomForCausalLM(transformers.BloomConfig(**shape, n_layer=2, n_head=4)).eval()
    assert compat.optional_inputs(bloom) == {compat.LOGITS}
    small = random_model("llama", 1, 16, initializer_range=0.002).module.to(torch.bfloat16)
    for module in (small, random_model("gpt2", 1, 16).module):
        assert compat.optional_inputs(module) == BOTH
        assert compat.keeps_logits(module)
    assert compat.optional_inputs(trigram_pair(0)[0].module) == {compat.LOGITS}


def test_no_memory_says_nothing_about_what_a_model_takes() -> None:
    def full(**_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    full.device = "cpu"  # type: ignore[attr-defined]
    with pytest.raises(torch.OutOfMemoryError):
        compat.cache_input(full)


def test_a_model_without_a_cache_is_told_from_a_recurrent_one_and_from_a_release_that_changed(monkeypatch: Any) -> None:
    deaf = renamed(None)
    assert compat.cache_input(deaf.module) is None
    with pytest.raises(UserError, match=r"^--target some/llama: llama takes no KV cache, expected a model that does$"):
        check.check_cache("--target", "some/llama", deaf.module)
    monkeypatch.setattr(check, "plain_model", lambda: deaf)
    oldest, newest = TESTED["transformers"]
    changed = (
        rf"^transformers {transformers.__version__} changed its interface \(--target some/llama: .*\); "
        rf"specsim was tested with {oldest} to {newest}$"
    )
    with pytest.raises(UserError, match=changed):
        check.check_cache("--target", "some/llama", deaf.module)
    with pytest.raises(UserError, match=changed):
        check.check_reading("--target", "some/llama", deaf)


def test_a_recurrent_model_is_told_from_a_release_that_has_other_classes_for_attention_layers(monkeypatch: Any) -> None:
    config = transformers.MambaConfig(vocab_size=30, hidden_size=32, num_hidden_layers=1, state_size=8, **NO_ENDS)
    with pytest.raises(UserError, match="--draft some/mamba: mamba keeps a recurrent state, expected"):
        check.check_cache("--draft", "some/mamba", transformers.AutoModelForCausalLM.from_config(config))
    monkeypatch.setattr(compat, "DynamicLayer", type("Other", (), {}))
    with pytest.raises(UserError, match=r"^transformers \S+ changed its interface \(--target some/llama: llama keeps"):
        check.check_cache("--target", "some/llama", check.plain_model().module)


def test_classes_that_are_gone_are_an_interface_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers.cache_utils", ModuleType("transformers.cache_utils"))
    spec = importlib.util.spec_from_file_location("compat_anew", compat.__file__)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(UserError, match=r"^transformers \S+ changed its interface \(cannot import name .*\); specsim"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@torch.inference_mode()
def test_what_is_cut_goes_and_nothing_is_nothing() -> None:
    module = random_model("llama", 1, 16).module
    cache = compat.growing_cache(module.config)
    compat.read_on(module, TOKENS, cache)
    for count, left in ((0, 5), (2, 3)):
        compat.cut(cache, count)
        assert cache.get_seq_length() == left
        assert cache.layers[1].keys.shape[2] == left


def test_a_cache_that_does_not_count_is_told_where_tokens_go() -> None:
    positions = torch.tensor([[4, 5]])
    counting, silent = SimpleNamespace(cumulative_length=torch.tensor(7)), SimpleNamespace()
    compat.set_length(SimpleNamespace(layers=[counting, silent]), 4)
    assert counting.cumulative_length == 4
    assert compat.places(SimpleNamespace(layers=[counting]), positions) == {}
    assert compat.places(SimpleNamespace(layers=[silent]), positions)["cache_position"].tolist() == [4, 5]


@given(
    st.lists(st.tuples(st.sampled_from(["read", "cut", "select", "narrow", "move"]), st.integers(1, 90)), max_size=12)
)
def test_a_growing_layer_holds_what_was_read_whatever_was_forgotten_between(steps: list[tuple[str, int]]) -> None:
    cache, rng = compat.growing_cache(), torch.Generator().manual_seed(0)
    expected = torch.zeros(3, 2, 0, 4)
    for what, count in [("read", 2), *steps]:
        if what == "read":
            new = torch.randn(len(expected), 2, count, 4, generator=rng)
            keys, values = cache.update(new, -new, 0)
            expected = torch.cat((expected, new), dim=2)
            assert torch.equal(keys, expected)
            assert torch.equal(values, -expected)
        elif what == "cut" and count < expected.shape[2]:
            compat.cut(cache, count)
            expected = expected[:, :, :-count]
        elif what == "select" and len(expected) > 1:
            cache.batch_select_indices(torch.arange(len(expected) - 1))
            expected = expected[:-1]
        elif what == "narrow":
            layer, expected = cache.layers[0], expected[:1]
            layer.keys, layer.values = layer.keys[:1], layer.values[:1]
        elif what == "move":
            order = torch.arange(expected.shape[2]).flip(0)
            layer = cache.layers[0]
            layer.keys, layer.values = layer.keys[:, :, order], layer.values[:, :, order]
            expected = expected[:, :, order]
        assert cache.get_seq_length() == expected.shape[2]
        assert torch.equal(cache.layers[0].keys, expected)
