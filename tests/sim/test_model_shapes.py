"""Model shapes: the law of model §2 against real models of every family, and the catalogue against published counts."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from simulator.costs.shapes import CATALOGUE, FAMILIES, catalogue, read_shape
from simulator.costs.work import BYTES_PER_WEIGHT, ModelShape
from simulator.ground.artefacts import UserError

hf.utils.logging.set_verbosity_error()

WINDOW = 6
DENSE = {
    "layers": 3,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "hidden": 32,
    "ffn": 40,
    "vocabulary": 64,
    "tied": False,
    "flags": (True, False, False),
    "experts": 4,
    "per_token": 2,
    "rank": 12,
}
Sizes = dict[str, Any]


def common(s: Sizes, *left_out: str) -> dict[str, Any]:
    found = {
        "num_hidden_layers": s["layers"],
        "hidden_size": s["hidden"],
        "num_attention_heads": s["heads"],
        "num_key_value_heads": s["kv_heads"],
        "intermediate_size": s["ffn"],
        "vocab_size": s["vocabulary"],
        "tie_word_embeddings": s["tied"],
        "head_dim": s["head_dim"],
        "pad_token_id": 0,
    }
    return {k: v for k, v in found.items() if k not in left_out}


def moe(s: Sizes) -> dict[str, Any]:
    return {
        "moe_intermediate_size": s["ffn"] + 4,
        "num_experts": s["experts"],
        "num_experts_per_tok": s["per_token"],
        "decoder_sparse_step": 2 if s["flags"][1] else 1,
        "mlp_only_layers": [0] if s["flags"][2] else [],
        "use_sliding_window": s["flags"][0],
        "sliding_window": WINDOW,
    }


def opt(s: Sizes) -> hf.PreTrainedConfig:
    return hf.OPTConfig(
        **common(s, "head_dim", "num_key_value_heads", "intermediate_size"),
        ffn_dim=s["ffn"],
        max_position_embeddings=48,
        enable_bias=not s["flags"][0],
        do_layer_norm_before=not s["flags"][1],
        layer_norm_elementwise_affine=not s["flags"][2],
        word_embed_proj_dim=s["rank"] if s["flags"][2] else s["hidden"],
    )


def gpt2(s: Sizes) -> hf.PreTrainedConfig:
    sizes = {"n_embd": s["hidden"], "n_layer": s["layers"], "n_head": s["heads"], "vocab_size": s["vocabulary"]}
    inner = s["ffn"] if s["flags"][0] else None
    return hf.GPT2Config(**sizes, n_inner=inner, n_positions=48, tie_word_embeddings=s["tied"])


def deepseek(kind: type, s: Sizes) -> hf.PreTrainedConfig:
    return kind(
        **common(s, "head_dim") | {"num_key_value_heads": s["heads"]},
        q_lora_rank=s["rank"] if s["flags"][0] else None,
        kv_lora_rank=16,
        qk_nope_head_dim=12,
        qk_rope_head_dim=8,
        v_head_dim=10,
        n_routed_experts=s["experts"],
        num_experts_per_tok=s["per_token"],
        moe_intermediate_size=s["ffn"] + 4,
        n_shared_experts=2 if s["flags"][1] else 1,
        first_k_dense_replace=1,
        attention_bias=s["flags"][2],
        n_group=1,
        topk_group=1,
    )


WITH_BIAS: Callable[[Sizes], dict[str, bool]] = lambda s: {"attention_bias": s["flags"][0]}  # noqa: E731
REAL: dict[str, Callable[[Sizes], hf.PreTrainedConfig]] = {
    "deepseek_v2": lambda s: deepseek(hf.DeepseekV2Config, s),
    "deepseek_v3": lambda s: deepseek(hf.DeepseekV3Config, s),
    "gemma": lambda s: hf.GemmaConfig(**common(s), **WITH_BIAS(s)),
    "gemma2": lambda s: hf.Gemma2Config(**common(s), **WITH_BIAS(s), sliding_window=WINDOW),
    "gemma3_text": lambda s: hf.Gemma3TextConfig(
        **common(s), **WITH_BIAS(s), sliding_window=WINDOW, sliding_window_pattern=2
    ),
    "gpt2": gpt2,
    "gpt_neox": lambda s: hf.GPTNeoXConfig(**common(s, "num_key_value_heads", "head_dim"), **WITH_BIAS(s)),
    "llama": lambda s: hf.LlamaConfig(**common(s), **WITH_BIAS(s), mlp_bias=s["flags"][1]),
    "mistral": lambda s: hf.MistralConfig(**common(s), sliding_window=WINDOW if s["flags"][0] else None),
    "mixtral": lambda s: hf.MixtralConfig(
        **common(s), num_local_experts=s["experts"], num_experts_per_tok=s["per_token"]
    ),
    "opt": opt,
    "phi": lambda s: hf.PhiConfig(**common(s, "head_dim"), qk_layernorm=s["flags"][0]),
    "phi3": lambda s: hf.Phi3Config(**common(s, "head_dim"), sliding_window=WINDOW if s["flags"][0] else None),
    "qwen2": lambda s: hf.Qwen2Config(
        **common(s, "head_dim"), use_sliding_window=s["flags"][0], sliding_window=WINDOW, max_window_layers=1
    ),
    "qwen2_moe": lambda s: hf.Qwen2MoeConfig(
        **common(s, "head_dim"),
        **moe(s),
        shared_expert_intermediate_size=s["ffn"] + 8,
        qkv_bias=s["flags"][0],
        max_window_layers=4,
    ),
    "qwen3": lambda s: hf.Qwen3Config(
        **common(s), **WITH_BIAS(s), use_sliding_window=s["flags"][0], sliding_window=WINDOW, max_window_layers=2
    ),
    "qwen3_moe": lambda s: hf.Qwen3MoeConfig(**common(s), **moe(s), **WITH_BIAS(s)),
}
families = pytest.mark.parametrize("family", sorted(FAMILIES))


@st.composite
def some_sizes(draw: st.DrawFn) -> Sizes:
    """Sizes with nothing equal by accident; hidden sizes divide by the heads, as some families ask for."""
    kv_heads, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    experts = draw(st.integers(1, 5))
    return {
        "layers": draw(st.integers(1, 5)),
        "heads": kv_heads * groups,
        "kv_heads": kv_heads,
        "head_dim": 4 * draw(st.integers(1, 5)),
        "hidden": 8 * kv_heads * groups * draw(st.integers(1, 3)),
        "ffn": draw(st.integers(1, 50)),
        "vocabulary": draw(st.integers(3, 90)),
        "tied": draw(st.booleans()),
        "flags": (draw(st.booleans()), draw(st.booleans()), draw(st.booleans())),
        "experts": experts,
        "per_token": draw(st.integers(1, experts)),
        "rank": draw(st.integers(1, 20)),
    }


def built(config: hf.PreTrainedConfig, device: str) -> Any:
    with torch.device(device):
        return hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager", experts_implementation="eager")


def parameters(config: hf.PreTrainedConfig) -> int:
    return sum(p.numel() for p in built(config, "meta").parameters())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shapes")


def shape_of(config: hf.PreTrainedConfig, folder: Path) -> ModelShape:
    config.to_json_file(folder / "config.json")
    return read_shape(folder)


Small = dict[str, tuple[ModelShape, Any]]


@pytest.fixture(scope="module")
def small(folder: Path) -> Small:
    """A shape and a real model of every family."""
    torch.manual_seed(0)
    found = {}
    for family, make in REAL.items():
        config = make(DENSE)
        found[family] = (shape_of(config, folder), built(config, "cpu").eval())
    return found


def test_the_tests_know_every_family() -> None:
    assert sorted(REAL) == sorted(FAMILIES)
    assert {json.loads((CATALOGUE / f"{n}.json").read_text())["model_type"] for n in catalogue()} <= set(FAMILIES)


# Parameters


@families
@settings(max_examples=8, deadline=None)
@given(sizes=some_sizes())
def test_parameters_are_those_of_the_real_model(family: str, sizes: Sizes, folder: Path) -> None:
    config = REAL[family](sizes)
    assert shape_of(config, folder).parameters == parameters(config)


def catalogue_config(name: str) -> tuple[dict[str, Any], hf.PreTrainedConfig]:
    values = json.loads((CATALOGUE / f"{name}.json").read_text())
    return values, hf.AutoConfig.for_model(**{k: v for k, v in values.items() if k != "source"})


@pytest.mark.parametrize("name", catalogue())
def test_a_catalogue_shape_has_the_parameters_of_the_real_and_of_the_published_model(name: str) -> None:
    values, config = catalogue_config(name)
    shape = read_shape(name)
    assert shape.name == name
    assert shape.parameters == parameters(config)
    assert values["source"].startswith("https://")
    assert published(shape.parameters, values["published_parameters"])
    assert not published(round(shape.parameters * 1.2), values["published_parameters"])


def published(count: int, text: str) -> bool:
    """Say whether a count, rounded as published, is the published one."""
    number, unit = text.split()
    digits = len(number.partition(".")[2])
    return f"{count / {'M': 1e6, 'B': 1e9}[unit]:.{digits}f}" == number


def test_the_catalogue_is_about_thirty_shapes_with_one_of_each_family() -> None:
    assert len(catalogue()) >= 20
    assert {read_shape(name).family for name in catalogue()} == set(FAMILIES)


@pytest.mark.parametrize("name", [n for n in catalogue() if read_shape(n).experts])
def test_active_parameters_lie_where_they_are_published(name: str) -> None:
    # Publishers count the embedding table or do not, and round or cut: one unit of the last digit either way.
    text = json.loads((CATALOGUE / f"{name}.json").read_text())["published_active_parameters"]
    number = float(text.split()[0])
    unit = 10.0 ** -len(text.split()[0].partition(".")[2])
    shape = read_shape(name)
    assert shape.active_parameters / 1e9 - unit <= number
    assert number <= (shape.active_parameters + shape.vocabulary * shape.hidden_size) / 1e9 + unit
    assert shape.active_parameters < shape.parameters / 3


def test_a_family_read_as_another_one_miscounts() -> None:
    """Negative control: without Qwen2's biases the count is off by just these."""
    shape = read_shape("qwen2.5-7b")
    biases = shape.layers * (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    assert replace(shape, layer_vectors=2 * shape.hidden_size).parameters == shape.parameters - biases
    assert replace(shape, tied_embeddings=True).parameters == shape.parameters - 152064 * 3584


# FLOPs


def counted(model: Any, batch: int, new_tokens: int, context: int) -> dict[str, int]:
    """Count the FLOPs of one pass over new tokens, by operator.

    Without the angles of rotary positions, which older versions of transformers make by a product.
    """
    cache = hf.DynamicCache(config=model.config)
    with torch.no_grad():
        if context:
            model(torch.ones(batch, context, dtype=torch.long), past_key_values=cache)
        with FlopCounterMode(display=False) as counter:
            model(torch.ones(batch, new_tokens, dtype=torch.long), past_key_values=cache)
    found = counter.get_flop_counts()
    angles = [own for name, own in found.items() if name.endswith("rotary_emb")]
    return {str(op): n - sum(own.get(op, 0) for own in angles) for op, n in found["Global"].items()}


@families
def test_flops_of_the_weights_are_those_the_counter_sees(family: str, small: Small) -> None:
    shape, model = small[family]
    found = counted(model, batch=3, new_tokens=4, context=0)
    assert found.get("aten.mm", 0) + found.get("aten.addmm", 0) == 2 * shape.active_parameters * 3 * 4


@pytest.mark.parametrize("context", [0, 3, WINDOW - 1, WINDOW, 11])
@pytest.mark.parametrize("family", sorted(f for f in FAMILIES if not f.startswith("deepseek")))
def test_flops_of_decoding_are_those_the_counter_sees(family: str, context: int, small: Small) -> None:
    """Exactly: one new token is where a mask hides nothing, and the counter counts what a mask hides."""
    shape, model = small[family]
    assert sum(counted(model, 2, 1, context).values()) == shape.flops(2, 1, context)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_flops_of_verification_leave_out_what_the_mask_hides(family: str, small: Small) -> None:
    shape, model = small[family]
    batch, new, context = 2, 5, 7
    hidden = 4 * shape.layers * shape.heads * shape.head_dim * batch * new * (new - 1) / 2
    assert sum(counted(model, batch, new, context).values()) - hidden == shape.flops(batch, new, context)


sizes_bns = {"b": st.integers(1, 256), "n": st.integers(1, 600), "s": st.integers(0, 20_000)}


@settings(deadline=None)
@given(**sizes_bns)
def test_flops_are_the_formula_of_the_model_where_no_window_is(b: int, n: int, s: int) -> None:
    shape = read_shape("llama-3.1-8b")
    attention = 4 * 32 * 32 * 128 * b * n * (s + (n + 1) / 2)
    assert shape.flops(b, n, s) == pytest.approx(2 * shape.active_parameters * b * n + attention, rel=1e-12)


@settings(deadline=None)
@given(n=st.integers(1, 12), s=st.integers(0, 20), window=st.integers(1, 15), sliding=st.integers(0, 3))
def test_windows_against_brute_force(n: int, s: int, window: int, sliding: int) -> None:
    shape = replace(read_shape("gpt2"), layers=3, sliding_window=window, sliding_layers=sliding)
    seen = [min(s + i, window) if layer < sliding else s + i for layer in range(3) for i in range(1, n + 1)]
    assert shape.pairs(np.float64(n), np.float64(s)) == sum(seen)
    # What the first new token sees besides itself is what the cache holds.
    assert shape.held(s) == sum(seen[::n]) - 3


@settings(deadline=None, max_examples=30)
@given(b=st.integers(1, 64), first=st.integers(1, 40), second=st.integers(1, 40), s=st.integers(0, 9000))
@pytest.mark.parametrize("name", ["mistral-7b", "gemma-3-1b", "deepseek-v3", "qwen3-30b-a3b"])
def test_two_passes_do_the_work_of_one_and_move_more(name: str, b: int, first: int, second: int, s: int) -> None:
    shape = read_shape(name)
    apart = shape.flops(b, first, s) + shape.flops(b, second, s + first)
    assert shape.flops(b, first + second, s) == pytest.approx(apart, rel=1e-12)
    moved = [shape.bytes_moved(b, n, c, "bfloat16") for n, c in ((first, s), (second, s + first), (first + second, s))]
    assert moved[2] < moved[0] + moved[1]


def test_absorbed_latent_attention_is_the_expanded_one_and_costs_what_is_stated() -> None:
    """The oracle: one token of DeepSeek attention written out both ways, compared, and counted by the counter."""
    shape = replace(read_shape("deepseek-v2-lite"), layers=1, vocabulary=1)
    assert shape.latent
    heads, rank, rope, value = shape.heads, shape.latent.kv_rank, shape.latent.rope_size, shape.latent.value_size
    nope, context = shape.head_dim - rope, 9
    torch.manual_seed(1)
    query, query_rope = torch.randn(heads, 1, nope).double(), torch.randn(heads, 1, rope).double()
    latents, keys_rope = torch.randn(context, rank).double(), torch.randn(context, rope).double()
    up_key, up_value = torch.randn(heads, rank, nope).double(), torch.randn(heads, rank, value).double()
    with FlopCounterMode(display=False) as counter:
        absorbed = query @ up_key.mT
        scores = absorbed @ latents.T + query_rope @ keys_rope.T
        out = (torch.softmax(scores, -1) @ latents) @ up_value
    expanded_scores = query @ (latents @ up_key).mT + query_rope @ keys_rope.T
    torch.testing.assert_close(out, torch.softmax(expanded_scores, -1) @ (latents @ up_value))
    weights = 2 * rank * heads * (nope + value)
    assert counter.get_total_flops() - weights == shape.flops(1, 1, context - 1) - 2 * shape.active_parameters


# Bytes


def saved_bytes(path: Path) -> int:
    """Size of the tensors in a safetensors file: all but its header."""
    file = path / "model.safetensors"
    (header,) = struct.unpack("<Q", file.read_bytes()[:8])
    return file.stat().st_size - 8 - header


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@families
def test_weight_bytes_are_those_of_the_saved_model(family: str, dtype: str, small: Small, tmp_path: Path) -> None:
    shape, model = small[family]
    try:
        model.to(getattr(torch, dtype)).save_pretrained(tmp_path)
        # DeepSeek-V3 saves a correction for each expert that is no parameter.
        buffers = sum(b.nbytes for n, b in model.named_buffers() if n.endswith("e_score_correction_bias"))
    finally:
        model.to(torch.float32)
    assert shape.weight_bytes(dtype) == saved_bytes(tmp_path) - buffers


def test_quantized_weights_leave_embeddings_head_and_norms_at_16_bits() -> None:
    shape = read_shape("llama-3.1-8b")
    outside = 2 * 128256 * 4096 + 65 * 4096
    for dtype, width in (("fp8", 1), ("int8", 1), ("int4", 0.5)):
        assert shape.weight_bytes(dtype) == (shape.parameters - outside) * width + 2 * outside
    assert shape.weight_bytes("float16") == 2 * shape.parameters


@pytest.mark.parametrize("context", [1, WINDOW - 1, WINDOW, 13])
@families
def test_kv_bytes_are_those_of_a_real_cache(family: str, context: int, small: Small) -> None:
    shape, model = small[family]
    cache = hf.DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.ones(3, context, dtype=torch.long), past_key_values=cache)
    real = sum(tensor.numel() * 4 for layer in cache.layers for tensor in (layer.keys, layer.values))
    assert shape.kv_bytes(3, context, "float32") == real
    if context < WINDOW:
        assert shape.kv_bytes_per_token("float32") * 3 * context == real


def test_bytes_moved_are_those_of_a_real_model(small: Small) -> None:
    """Phi-3, whose products are merged as they are counted: gate with up, query with key and value."""
    shape, model = small["phi3"]
    activations = 0

    def see(module: Any, inputs: Any, output: Any) -> None:
        nonlocal activations
        activations += inputs[0].numel() + output.numel()

    cache = hf.DynamicCache(config=model.config)
    ids = torch.ones(2, 3, dtype=torch.long)
    with torch.no_grad():
        model(ids[:, :2], past_key_values=cache)
        hooks = [m.register_forward_hook(see) for m in model.modules() if isinstance(m, torch.nn.Linear)]
        model(ids, past_key_values=cache)
    for hook in hooks:
        hook.remove()
    kv = sum(tensor.numel() for layer in cache.layers for tensor in (layer.keys, layer.values))
    embeddings = model.get_input_embeddings()
    weights = sum(p.numel() for p in model.parameters()) - embeddings.weight.numel()
    rows = 2 * 3 * embeddings.embedding_dim
    assert shape.bytes_moved(2, 3, 2, "float32") == 4 * (weights + rows + activations + kv)
    assert shape.bytes_moved(2, 3, 2, "float32", "int8") == 4 * (weights + rows + activations) + kv


def test_a_pass_reads_a_row_of_each_table_and_the_head_whole() -> None:
    """GPT-2 by hand: positions and embeddings are tables, and the embeddings are the output head too."""
    shape = read_shape("gpt2")
    heavy = shape.parameters - 1024 * 768
    # Query, key and value together, output, up, down; then the head.
    activations = 12 * ((768 + 3 * 768) + 2 * 768 + 2 * (768 + 3072)) + 768 + 50257
    assert shape.bytes_moved(1, 1, 0, "float16") == 2 * (heavy + 2 * 768 + activations + 12 * 2 * 768)


def test_keys_and_values_are_read_once_however_many_tokens_verify_together() -> None:
    shape, context, batch = read_shape("llama-3.1-8b"), 60_000, 4
    one, verify = shape.bytes_moved(batch, np.array([1, 5]), context, "bfloat16")
    assert verify / one < 1.01
    # Negative control: reads multiplied by K + 1 are far from it.
    wrong = one + 4 * shape.kv_bytes(batch, context, "bfloat16")
    assert wrong / one > 2.5


def test_one_token_reads_its_own_experts_and_many_read_all() -> None:
    shape = read_shape("mixtral-8x7b")
    expert_bytes = 2 * 3 * 4096 * 14336 * 32
    tables = 2 * 32000 * 4096
    activations = {
        n: n * 2 * (4096 + shape.activation_size()) + n * shape.kv_bytes_per_token("bfloat16") for n in (1, 999)
    }
    found = shape.bytes_moved(1, np.array([1, 999]), 0, "bfloat16")
    assert found[0] - activations[1] == shape.weight_bytes("bfloat16") - tables - 6 * expert_bytes
    assert found[1] - activations[999] == pytest.approx(shape.weight_bytes("bfloat16") - tables, rel=1e-12)


@pytest.mark.statistical
@pytest.mark.parametrize(("experts", "per_token", "tokens"), [(8, 2, 5), (128, 8, 9), (60, 4, 40), (16, 1, 16)])
def test_experts_touched_against_random_routing(experts: int, per_token: int, tokens: int) -> None:
    rng = np.random.default_rng(7)
    shape = replace(read_shape("mixtral-8x7b"), experts=experts, experts_per_token=per_token)
    chosen = rng.permuted(np.tile(np.arange(experts), (1000, tokens, 1)), axis=2)[:, :, :per_token]
    hit = np.zeros((len(chosen), experts), bool)
    hit[np.arange(len(chosen))[:, None], chosen.reshape(len(chosen), -1)] = True
    touched = hit.sum(1)
    error = touched.std(ddof=1) / np.sqrt(len(touched))
    assert abs(touched.mean() - shape.experts_touched(tokens)) < 4 * error
    # Negative controls: no overlap at all, and draws with replacement where a token draws more than one.
    assert abs(touched.mean() - min(experts, per_token * tokens)) > 10 * error
    if per_token > 1 and experts < 100:
        assert abs(touched.mean() - experts * (1 - (1 - 1 / experts) ** (per_token * tokens))) > 4 * error


@pytest.mark.parametrize("name", catalogue())
def test_work_grows_with_batch_tokens_and_context(name: str) -> None:
    shape = read_shape(name)
    grid = np.meshgrid([1, 2, 33], [1, 5, 700], [0, 100, 9000], indexing="ij")
    for work in (shape.flops(*grid), shape.bytes_moved(*grid, "int4", "fp8")):
        assert work.shape == (3, 3, 3)
        for axis in range(3):
            assert (np.diff(work, axis=axis) > 0).all()
    one = shape.flops(2, 5, 100), shape.bytes_moved(2, 5, 100, "int4", "fp8")
    assert one == (shape.flops(*grid)[1, 1, 1], shape.bytes_moved(*grid, "int4", "fp8")[1, 1, 1])
    kept = [float(shape.bytes_moved(4, 3, 50, dtype)) for dtype in ("int4", "int8", "bfloat16", "float32")]
    assert sorted(kept) == kept
    assert len(set(kept)) == 4


@pytest.mark.parametrize("layers", [1, 5, 6])
@pytest.mark.parametrize("flag", [False, True])
@families
def test_the_layers_with_a_window_are_those_of_a_real_cache(family: str, flag: bool, layers: int, folder: Path) -> None:
    """With the list of layers that new files have, and by the family's rule, which files without the list need."""
    config = REAL[family](DENSE | {"layers": layers, "flags": (flag, False, False)})
    cache = hf.DynamicCache(config=config)
    real = sum(isinstance(layer, hf.cache_utils.DynamicSlidingWindowLayer) for layer in cache.layers)
    values = json.loads(config.to_json_string())
    listless = {k: v for k, v in values.items() if k not in ("layer_types", "sliding_window_pattern")}
    listless |= {"sliding_window_pattern": 2, "sliding_window": values.get("sliding_window")}
    for written in (values, listless):
        (folder / "config.json").write_text(json.dumps(written))
        shape = read_shape(folder)
        assert (shape.sliding_layers, shape.sliding_window) == (real, WINDOW if real else None)


def test_leading_dense_layers_and_windows_are_read(tmp_path: Path) -> None:
    assert read_shape("deepseek-v3").dense_layers == 3
    assert (read_shape("gemma-3-1b").sliding_layers, read_shape("gemma-3-1b").sliding_window) == (22, 512)
    assert read_shape(config_file(tmp_path, "gemma-3-1b", sliding_window_pattern=...)).sliding_layers == 22
    assert read_shape("gemma-2-9b").sliding_layers == 21
    assert read_shape("mixtral-8x7b").sliding_window is None


# Files and errors


def config_file(folder: Path, name: str = "llama-3.1-8b", **changes: object) -> Path:
    """Write a catalogue config with changes; a value of `...` leaves the key out."""
    values = json.loads((CATALOGUE / f"{name}.json").read_text()) | changes
    path = folder / "config.json"
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))
    return path


def test_a_file_its_folder_and_a_catalogue_name_give_the_same_shape(tmp_path: Path) -> None:
    path = config_file(tmp_path)
    assert read_shape(path) == read_shape(str(tmp_path))
    assert replace(read_shape(path), name="llama-3.1-8b") == read_shape("llama-3.1-8b")
    assert read_shape(path).name == tmp_path.name


ODD = [
    ("llama-3.1-8b", {"num_hidden_layers": ...}, "num_hidden_layers is missing, expected a whole number from 1 to 1"),
    ("llama-3.1-8b", {"hidden_size": 0}, "hidden_size is 0, expected a whole number from 1"),
    ("llama-3.1-8b", {"vocab_size": True}, "vocab_size is True, expected a whole number"),
    ("llama-3.1-8b", {"intermediate_size": "14336"}, "intermediate_size is '14336', expected a whole number"),
    ("llama-3.1-8b", {"intermediate_size": 2.5}, "intermediate_size is 2.5, expected a whole number"),
    ("llama-3.1-8b", {"num_key_value_heads": 5}, "num_attention_heads is 32, expected a multiple of num_key_"),
    ("llama-3.1-8b", {"num_attention_heads": 24}, "hidden_size is 4096, expected a multiple of num_attention_"),
    ("llama-3.1-8b", {"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', expected true or false"),
    ("llama-3.1-8b", {"model_type": "mamba"}, "model_type is 'mamba', expected one of deepseek_v2, "),
    ("llama-3.1-8b", {"model_type": ...}, "model_type is missing, expected one of "),
    ("llama-3.1-8b", {"model_type": ["llama"]}, "model_type is ['llama'], expected one of "),
    ("mistral-7b", {"num_key_value_heads": ...}, "num_key_value_heads is missing, expected"),
    ("mistral-7b", {"sliding_window": ...}, "sliding_window is missing, expected a whole number, or null"),
    ("mistral-7b", {"sliding_window": -1}, "sliding_window is -1, expected a whole number"),
    ("qwen3-8b", {"head_dim": None}, "head_dim is None, expected a whole number"),
    ("mixtral-8x7b", {"num_experts_per_tok": 9}, "num_experts_per_tok is 9, expected a whole number from 1 to 8"),
    ("gemma-2-2b", {"layer_types": ["full_attention"]}, "layer_types is ['full_attention'], expected full_attention"),
    ("gemma-2-2b", {"layer_types": 3}, "layer_types is 3, expected a list"),
    ("deepseek-v3", {"moe_layer_freq": 2}, "moe_layer_freq is 2, expected 1"),
    ("deepseek-v3", {"first_k_dense_replace": 62}, "first_k_dense_replace is 62, expected a whole number from 0"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True, expected False"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "message"), ODD)
def test_a_missing_or_odd_value_is_one_line(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = config_file(tmp_path, name, **changes)
    with pytest.raises(UserError) as caught:
        read_shape(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given_name", ["llama-9", "no/such/config.json", "Llama-3.1-8B"])
def test_a_name_that_is_nothing_names_the_catalogue(given_name: str) -> None:
    with pytest.raises(
        UserError, match=r": no such file or folder, nor a name of the catalogue \(deepseek-v2-lite, "
    ) as e:
        read_shape(given_name)
    assert "\n" not in str(e.value)


def test_a_folder_without_a_config_and_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        read_shape(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_shape(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None)
@given(name=st.sampled_from(catalogue()), data=st.data(), value=json_values)
def test_any_value_in_any_place_gives_a_shape_or_one_line(
    name: str, data: st.DataObject, value: object, folder: Path
) -> None:
    keys = sorted(json.loads((CATALOGUE / f"{name}.json").read_text()))
    path = config_file(folder, name, **{data.draw(st.sampled_from(keys)): value})
    found = shape_or_message(path)
    if isinstance(found, str):
        assert "\n" not in found
        assert found.startswith(f"{path}: ")
    else:
        assert found.parameters > 0
        assert found.flops(1, 1, 0) > 0


def shape_or_message(path: Path) -> ModelShape | str:
    try:
        return read_shape(path)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("ask", [
    lambda s: s.weight_bytes("fp4"),
    lambda s: s.bytes_moved(1, 1, 1, "bfloat16", "fp4"),
    lambda s: s.kv_bytes_per_token("fp4"),
])  # fmt: skip
def test_an_unknown_dtype_is_one_line(ask: Callable[[ModelShape], object]) -> None:
    with pytest.raises(UserError, match=r"^dtype: 'fp4' is not known, expected one of float32, .*int4$"):
        ask(read_shape("gpt2"))
    assert set(BYTES_PER_WEIGHT) == {"float32", "float16", "bfloat16", "fp8", "int8", "int4"}
