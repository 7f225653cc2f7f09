"""Model shapes: the law of model §2 against real models of every family, and the catalogue against published counts.

Long because every family has its own config and published counts.
"""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from acceptance.models.compat import cache_input, read_on
from simulator.costs.families import FAMILIES
from simulator.costs.layers import Attention, Matrix
from simulator.costs.shapes import CATALOGUE, catalogue, read_shape
from simulator.costs.work import ModelShape, touched_share
from simulator.ground.artefacts import UserError

hf.utils.logging.set_verbosity_error()

WINDOW = 6
DENSE = {"layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 8, "hidden": 32, "ffn": 40, "vocabulary": 64}
DENSE |= {"tied": False, "flags": (True, False, False), "experts": 4, "per_token": 2, "rank": 12}
Sizes = dict[str, Any]
COMMON = {"num_hidden_layers": "layers", "hidden_size": "hidden", "num_attention_heads": "heads"}
COMMON |= {"num_key_value_heads": "kv_heads", "intermediate_size": "ffn", "vocab_size": "vocabulary"}
COMMON |= {"tie_word_embeddings": "tied", "head_dim": "head_dim"}
LEFT_OUT = dict.fromkeys(("deepseek_v2", "deepseek_v3", "phi", "phi3", "qwen2", "qwen2_moe"), ("head_dim",))
LEFT_OUT |= dict.fromkeys(("gpt2", "opt"), ("head_dim", "num_key_value_heads", "intermediate_size"))
LEFT_OUT |= {"gpt_neox": ("head_dim", "num_key_value_heads")}
LATENT = {"kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 10}


def real_config(family: str, s: Sizes) -> hf.PreTrainedConfig:
    """The config of a real model of these sizes, whose flags say what a family may have or not."""
    first, second, third = s["flags"]
    bias, window = {"attention_bias": first}, {"sliding_window": WINDOW}
    maybe_window, qwen = {"sliding_window": WINDOW if first else None}, window | {"use_sliding_window": first}
    experts = {"num_experts_per_tok": s["per_token"], "moe_intermediate_size": s["ffn"] + 4}
    sparse = {"num_experts": s["experts"], "decoder_sparse_step": 2 if second else 1}
    sparse |= qwen | experts | {"mlp_only_layers": [0] if third else []}
    latent = LATENT | experts | {"num_key_value_heads": s["heads"], "q_lora_rank": s["rank"] if first else None}
    latent |= {"n_routed_experts": s["experts"], "n_shared_experts": 2 if second else 1, "n_group": 1, "topk_group": 1}
    latent |= {"first_k_dense_replace": 1, "attention_bias": third}
    opt = {"enable_bias": not first, "do_layer_norm_before": not second, "layer_norm_elementwise_affine": not third}
    opt |= {"word_embed_proj_dim": s["rank"] if third else s["hidden"], "ffn_dim": s["ffn"]}
    shared = {"shared_expert_intermediate_size": s["ffn"] + 8, "qkv_bias": first}
    own: dict[str, dict[str, Any]] = {
        "deepseek_v2": latent,
        "deepseek_v3": latent,
        "gemma": bias,
        "gemma2": bias | window,
        "gemma3_text": bias | window | {"sliding_window_pattern": 2},
        "gpt2": {"n_inner": s["ffn"] if first else None, "n_positions": 48},
        "gpt_neox": bias,
        "llama": bias | {"mlp_bias": second},
        "mistral": maybe_window,
        "mixtral": {"num_local_experts": s["experts"], "num_experts_per_tok": s["per_token"]},
        "opt": opt | {"max_position_embeddings": 48},
        "phi": {"qk_layernorm": first},
        "phi3": maybe_window,
        "qwen2": qwen | {"max_window_layers": 1},
        "qwen2_moe": sparse | shared | {"max_window_layers": 4},
        "qwen3": bias | qwen | {"max_window_layers": 2},
        "qwen3_moe": bias | sparse,
    }
    values = {key: s[name] for key, name in COMMON.items() if key not in LEFT_OUT.get(family, ())}
    return hf.AutoConfig.for_model(family, **values | {"pad_token_id": 0} | own[family])


# Of these every size and flag is drawn; tests/sim/test_families.py counts the others.
DRAWN = "deepseek_v2 deepseek_v3 gemma gemma2 gemma3_text gpt2 gpt_neox llama mistral mixtral opt phi phi3"
DRAWN_FAMILIES = (*DRAWN.split(), "qwen2", "qwen2_moe", "qwen3", "qwen3_moe")
families = pytest.mark.parametrize("family", DRAWN_FAMILIES)


@st.composite
def some_sizes(draw: st.DrawFn) -> Sizes:
    """Sizes with nothing equal by accident; hidden sizes divide by the heads, as some families ask for."""
    kv_heads, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    experts = draw(st.integers(1, 5))
    heads = kv_heads * groups
    sizes = {"heads": heads, "kv_heads": kv_heads, "hidden": 8 * heads * draw(st.integers(1, 3))}
    for name, most in (("layers", 5), ("head_dim", 5), ("ffn", 50), ("vocabulary", 90), ("rank", 20)):
        sizes[name] = draw(st.integers(3 if name == "vocabulary" else 1, most)) * (4 if name == "head_dim" else 1)
    tied, *flags = (draw(st.booleans()) for _ in range(4))
    return sizes | {"tied": tied, "flags": flags, "experts": experts, "per_token": draw(st.integers(1, experts))}


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
    configs = {family: real_config(family, DENSE) for family in DRAWN_FAMILIES}
    return {family: (shape_of(c, folder), built(c, "cpu").eval()) for family, c in configs.items()}


def test_the_catalogue_knows_every_family() -> None:
    assert set(DRAWN_FAMILIES) <= {read_shape(name).family for name in catalogue()} <= set(FAMILIES)
    assert len(catalogue()) >= 20


def sliding(shape: ModelShape) -> int:
    """How many layers have a window."""
    return sum(a.layers for a in shape.attentions if a.window)


def windows(config: hf.PreTrainedConfig) -> int:
    """How many layers of a real cache have a window."""
    layers = hf.DynamicCache(config=config).layers
    return sum(isinstance(layer, hf.cache_utils.DynamicSlidingWindowLayer) for layer in layers)


@families
@settings(max_examples=8, deadline=None)
@given(sizes=some_sizes())
def test_parameters_are_those_of_the_real_model(family: str, sizes: Sizes, folder: Path) -> None:
    config = real_config(family, sizes)
    shape = shape_of(config, folder)
    assert shape.parameters == parameters(config)
    assert shape.weight_bytes("bfloat16") == 2 * shape.parameters == shape.weight_bytes("float32") / 2


@pytest.mark.parametrize("name", catalogue())
def test_a_catalogue_shape_has_the_parameters_of_the_real_and_of_the_published_model(name: str) -> None:
    values, shape = json.loads((CATALOGUE / f"{name}.json").read_text()), read_shape(name)
    config = hf.AutoConfig.for_model(**{k: v for k, v in values.items() if k != "source"})
    assert shape.name == name
    assert shape.parameters == parameters(config)
    assert sliding(shape) == windows(config)
    assert values["source"].startswith("https://")
    assert published(shape.parameters, values["published_parameters"])
    assert not published(round(shape.parameters * 1.2), values["published_parameters"])
    if shape.experts:
        # Publishers count the embedding table or do not, and round or cut: one unit of the last digit either way.
        number = values["published_active_parameters"].split()[0]
        unit = 10.0 ** -len(number.partition(".")[2])
        assert shape.active_parameters / 1e9 - unit <= float(number)
        assert float(number) <= (shape.active_parameters + shape.vocabulary * shape.hidden_size) / 1e9 + unit
        assert shape.active_parameters < shape.parameters / 3


def published(count: int, text: str) -> bool:
    """Say whether a count, rounded as published, is the published one."""
    number, unit = text.split()
    digits = len(number.partition(".")[2])
    return f"{count / {'M': 1e6, 'B': 1e9}[unit]:.{digits}f}" == number


def counted(model: Any, batch: int, new_tokens: int, context: int) -> dict[str, int]:
    """FLOPs of one pass by operator, without the rotary angles that older versions of transformers multiply out."""
    cache = hf.DynamicCache(config=model.config)
    cache_input(model)  # tried out before anything is counted
    with torch.no_grad():
        if context:
            read_on(model, torch.ones(batch, context, dtype=torch.long), cache)
        with FlopCounterMode(display=False) as counter:
            read_on(model, torch.ones(batch, new_tokens, dtype=torch.long), cache)
    flops = counter.get_flop_counts()
    angles = [of_module for name, of_module in flops.items() if name.endswith("rotary_emb")]
    return {str(op): n - sum(of_module.get(op, 0) for of_module in angles) for op, n in flops["Global"].items()}


@families
def test_flops_are_those_the_counter_sees(family: str, small: Small) -> None:
    """Of the weights, and of decoding: one new token is where a mask hides nothing, which the counter counts too."""
    shape, model = small[family]
    flops = counted(model, batch=3, new_tokens=4, context=0)
    assert flops.get("aten.mm", 0) + flops.get("aten.addmm", 0) == 2 * shape.active_parameters * 3 * 4
    if not family.startswith("deepseek"):
        for context in (0, 3, WINDOW - 1, WINDOW, 11):
            assert sum(counted(model, 2, 1, context).values()) == shape.flops(2, 1, context)
    if family in ("llama", "gpt2"):
        # Verification, without what the mask hides.
        batch, new, context = 2, 5, 7
        (attention,) = shape.attentions
        hidden = 2 * shape.layers * shape.heads * attention.pair_size * batch * new * (new - 1) / 2
        assert sum(counted(model, batch, new, context).values()) - hidden == shape.flops(batch, new, context)


@given(n=st.integers(1, 12), s=st.integers(0, 20), most=st.none() | st.integers(1, 15), chosen=st.booleans())
def test_tokens_seen_kept_and_read_against_brute_force(n: int, s: int, most: int | None, chosen: bool) -> None:
    limit = {"chosen": most} if chosen else {"window": most}
    attention = Attention(layers=1, heads=1, pair_size=1, kv_size=1, shares=1, **limit)
    seen = [min(s + i, most or 99) for i in range(1, n + 1)]
    assert attention.pairs(np.float64(n), np.float64(s)) == sum(seen)
    # What the first new token sees besides itself is what a window keeps; an index chooses among all that is kept.
    assert attention.held(s) == (s if chosen else seen[0] - 1)
    assert attention.read(np.float64(n), np.float64(s)) == (min(s, n * most) if chosen and most else seen[0] - 1)


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
    whole = read_shape("deepseek-v2-lite")
    (latent,) = whole.attentions
    shape = replace(whole, attentions=(latent._replace(layers=1),))
    heads, rank, rope, value, nope, context = 16, 512, 64, 128, 128, 9
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


@families
def test_kv_bytes_are_those_of_a_real_cache(family: str, small: Small) -> None:
    shape, model = small[family]
    for context in (1, WINDOW - 1, WINDOW, 13):
        cache = hf.DynamicCache(config=model.config)
        with torch.no_grad():
            read_on(model, torch.ones(3, context, dtype=torch.long), cache)
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
        read_on(model, ids[:, :2], cache)
        hooks = [m.register_forward_hook(see) for m in model.modules() if isinstance(m, torch.nn.Linear)]
        read_on(model, ids, cache)
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


def test_one_token_reads_its_own_experts_and_many_read_all() -> None:
    shape = read_shape("mixtral-8x7b")
    expert_bytes = 2 * 3 * 4096 * 14336 * 32
    tables = 2 * 32000 * 4096
    token_bytes = 2 * (4096 + shape.activation_size) + shape.kv_bytes_per_token("bfloat16")
    one, many = shape.bytes_moved(1, np.array([1, 999]), 0, "bfloat16")
    assert one - token_bytes == shape.weight_bytes("bfloat16") - tables - 6 * expert_bytes
    assert many - 999 * token_bytes == pytest.approx(shape.weight_bytes("bfloat16") - tables, rel=1e-12)


@pytest.mark.statistical
@pytest.mark.parametrize(("experts", "per_token", "tokens"), [(8, 2, 5), (128, 8, 9), (60, 4, 40), (16, 1, 16)])
def test_experts_touched_against_random_routing(experts: int, per_token: int, tokens: int) -> None:
    rng = np.random.default_rng(7)
    matrix = Matrix(1, (("experts", 1),), (0,), copies=experts, used=per_token)
    chosen = rng.permuted(np.tile(np.arange(experts), (1000, tokens, 1)), axis=2)[:, :, :per_token]
    hit = np.zeros((len(chosen), experts), bool)
    hit[np.arange(len(chosen))[:, None], chosen.reshape(len(chosen), -1)] = True
    touched = hit.sum(1)
    error = touched.std(ddof=1) / np.sqrt(len(touched))
    assert abs(touched.mean() - experts * touched_share(matrix, tokens)) < 4 * error
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


@families
def test_the_layers_with_a_window_are_those_of_a_real_cache(family: str, folder: Path) -> None:
    """With the list of layers that new files have, and by the family's rule, which files without the list need."""
    for layers, flag in product((1, 5, 6), (False, True)):
        config = real_config(family, DENSE | {"layers": layers, "flags": (flag, False, False)})
        real = windows(config)
        values = json.loads(config.to_json_string())
        listless = {k: v for k, v in values.items() if k not in ("layer_types", "sliding_window_pattern")}
        listless |= {"sliding_window_pattern": 2, "sliding_window": values.get("sliding_window")}
        for written in (values, listless):
            (folder / "config.json").write_text(json.dumps(written))
            shape = read_shape(folder)
            assert sliding(shape) == real
            assert {a.window for a in shape.attentions if a.window} == ({WINDOW} if real else set())


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
    # Which layers of this family have a window is known where the file does not say it.
    path = config_file(tmp_path, "gemma-3-1b", sliding_window_pattern=...)
    assert replace(read_shape(path), name="gemma-3-1b") == read_shape("gemma-3-1b")


ODD = [
    ("llama-3.1-8b", {"num_hidden_layers": ...}, "num_hidden_layers is missing, expected a whole number from 1 to 1"),
    ("llama-3.1-8b", {"vocab_size": True}, "vocab_size is True, expected a whole number"),
    ("llama-3.1-8b", {"intermediate_size": 2.5}, "intermediate_size is 2.5, expected a whole number"),
    ("llama-3.1-8b", {"num_key_value_heads": 5}, "num_attention_heads is 32, expected a multiple of num_key_"),
    ("llama-3.1-8b", {"num_attention_heads": 24}, "hidden_size is 4096, expected a multiple of num_attention_"),
    ("llama-3.1-8b", {"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', expected true or false"),
    ("llama-3.1-8b", {"model_type": "mambo"}, "model_type is 'mambo', expected one of 9"),
    ("llama-3.1-8b", {"model_type": ...}, "model_type is missing, expected one of "),
    ("llama-3.1-8b", {"model_type": ["llama"]}, "model_type is ['llama'], expected one of "),
    ("mistral-7b", {"sliding_window": -1}, "sliding_window is -1, expected a whole number"),
    ("mixtral-8x7b", {"num_experts_per_tok": 9}, "num_experts_per_tok is 9, expected a whole number from 1 to 8"),
    ("gemma-2-2b", {"layer_types": ["full_attention"]}, "layer_types is ['full_attention'], expected full_attention"),
    ("deepseek-v3", {"moe_layer_freq": 2}, "moe_layer_freq is 2, expected 1"),
    ("deepseek-v3", {"first_k_dense_replace": 62}, "first_k_dense_replace is 62, expected a whole number from 0"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True, expected False"),
]  # fmt: skip


def test_a_missing_or_odd_value_is_one_line(tmp_path: Path) -> None:
    for name, changes, message in ODD:
        path = config_file(tmp_path, name, **changes)
        refusal = shape_or_message(path)
        assert isinstance(refusal, str), changes
        assert refusal.startswith(f"{path}: {message}")
        assert "\n" not in refusal


def test_what_is_no_shape_names_the_file_or_the_catalogue(tmp_path: Path) -> None:
    refusal = shape_or_message("llama-9")
    assert ": no such file or folder, nor a model of `shapes list` (nearest: llama-" in refusal
    assert "\n" not in refusal
    assert shape_or_message("no/such/config.json") == "no/such/config.json: no such file"
    assert shape_or_message(tmp_path).endswith("config.json: no such file")
    (tmp_path / "config.json").write_text("{")
    assert "not JSON" in shape_or_message(tmp_path)


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
        assert min(found.parameters, found.flops(1, 1, 0)) > 0


def shape_or_message(path: Path | str) -> ModelShape | str:
    try:
        return read_shape(path)
    except UserError as error:
        return str(error)


def test_an_unknown_dtype_is_one_line() -> None:
    shape = read_shape("gpt2")
    for call in (shape.weight_bytes, lambda d: shape.bytes_moved(1, 1, 1, "bfloat16", d), shape.kv_bytes_per_token):
        with pytest.raises(UserError, match=r"^dtype: 'fp3' is not known, expected one of 39, nearest: fp8, "):
            call("fp3")
