"""On a real GPU: passes replayed as CUDA graphs are the passes themselves, and decoders write the same with them."""

import copy
from dataclasses import replace
from typing import Any

import pytest


@pytest.fixture(scope="module")
def models(torch: Any) -> tuple[Any, Any]:
    """A random target and a draft that resembles it, in float32 on the GPU."""
    import transformers

    from acceptance.models.model import Model

    torch.manual_seed(0)
    shape = {"vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}
    shape |= {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512}
    config = transformers.LlamaConfig(**shape, initializer_range=0.1, eos_token_id=None, bos_token_id=None)
    target = transformers.LlamaForCausalLM(config).eval().cuda()
    draft = copy.deepcopy(target)
    with torch.no_grad():
        for weight in draft.parameters():
            weight += 0.1 * weight.std() * torch.randn_like(weight) if weight.ndim > 1 else 0
    return tuple(Model(module=module, vocabulary=512) for module in (target, draft))


def test_replayed_passes_are_the_passes_themselves(models: tuple[Any, Any]) -> None:
    import numpy as np
    import torch

    from acceptance.models.context import Context
    from acceptance.models.static_context import StaticContext

    growing, fixed = Context(models[0], 1, keep_hidden=True), StaticContext(models[0], 256, keep_hidden=True)
    rng = np.random.default_rng(0)
    for step in range(40):
        count = 12 if step == 0 else int(rng.integers(1, 6))
        tokens = torch.from_numpy(rng.integers(512, size=(1, count))).cuda()
        found = [c.read(tokens, np.ones((1, count), bool), count) for c in (growing, fixed)]
        torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(fixed.hidden, growing.hidden, rtol=1e-3, atol=1e-3)
        back = growing.lengths - int(rng.integers(0, count))
        for context in (growing, fixed):
            context.roll_back(back)
    assert all(p.graph is not None for (count, _), p in fixed.passes.items() if count != 12)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_draft_on_a_stream_of_its_own_drafts_the_same(
    models: tuple[Any, Any], batch: int, temperature: float
) -> None:
    from acceptance.decoders import speculative
    from acceptance.models import laws
    from acceptance.models.rule import SamplingRule

    target, draft = models
    rule = SamplingRule(temperature=temperature)
    prompts = [[1, 2, 3, 4], [5] * 200, [6, 7]][:batch]
    told = {"k": 4, "rule": rule, "draft_rule": rule, "max_new_tokens": 64}
    plain, *beside = (
        speculative.decode(target, replace(draft, own_stream=own), prompts, rngs=laws.streams(0, range(batch)), **told)
        for own in (False, True, True)
    )
    assert beside == [plain, plain]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_decoders_write_the_same_with_graphs(models: tuple[Any, Any], temperature: float) -> None:
    from acceptance.decoders import speculative
    from acceptance.models import laws
    from acceptance.models.rule import SamplingRule

    rule = SamplingRule(temperature=temperature)
    found = [
        speculative.decode(
            *(replace(m, graphs=graphs) for m in models),
            [[1, 2, 3, 4]],
            k=4,
            rule=rule,
            draft_rule=rule,
            max_new_tokens=64,
            rngs=laws.streams(0, [0]),
        )[0]
        for graphs in (False, True, True)
    ]
    assert found[1] == found[2]
    # fp32 rounds otherwise with another mask: a near tie may turn, not so early that the texts have nothing in common.
    same = next((i for i, (a, b) in enumerate(zip(*(f.tokens for f in found[:2]), strict=True)) if a != b), 64)
    assert same > 16
