"""Model shapes from a Hugging Face config.json, a user's or one of the catalogue in `shapes/` (model §2).

Reads sizes, never weights; a quantization that the file names is left to the dtype that the work is asked for.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from simulator.ground.artefacts import UserError
from simulator.ground.fields import read_json_object

from .config_json import KEYS, Config, Layout, decoder, experts, stated, windowed
from .work import LatentAttention, ModelShape

__all__ = ["FAMILIES", "ModelShape", "catalogue", "config_file", "read_shape", "shape_of"]

CATALOGUE = Path(__file__).parent / "catalogue"


def llama(c: Config) -> ModelShape:
    """Read Llama and what is built like it (Vicuna, TinyLlama)."""
    bias = c.flag("attention_bias", False)
    return decoder(c, Layout(qkv_bias=bias, output_bias=bias, ffn_bias=c.flag("mlp_bias", False)))


def mistral(c: Config) -> ModelShape:
    """Read Mistral: a window in all layers, or none."""
    stated(c, "sliding_window")
    return windowed(c, decoder(c, Layout(states_kv_heads=True)), lambda i: True)


def mixtral(c: Config) -> ModelShape:
    """Read Mixtral: each feed-forward layer is one of experts."""
    shape = windowed(c, decoder(c, Layout(states_kv_heads=True)), lambda i: True)
    return experts(c, shape, "num_local_experts", shape.ffn_size, shape.layers)


def phi3(c: Config) -> ModelShape:
    """Read Phi-3: a window in all layers, or none."""
    return windowed(c, decoder(c, Layout()), lambda i: True)


def phi(c: Config) -> ModelShape:
    """Read Phi-1 and Phi-2: one norm for attention and feed-forward side by side, biases everywhere."""
    head_norms = 2 if c.flag("qk_layernorm", False) else 0
    layout = Layout(gated=False, norms=1, layer_norm=True, head_norms=head_norms, head_bias=True)
    return decoder(c, replace(layout, qkv_bias=True, output_bias=True, ffn_bias=True))


def qwen_windowed(c: Config, shape: ModelShape, is_sliding: Callable[[int], bool]) -> ModelShape:
    """Return a Qwen shape with its windows, which a flag of their own turns on."""
    return windowed(c, shape, is_sliding) if c.flag("use_sliding_window", False) else shape


def qwen2(c: Config) -> ModelShape:
    """Read Qwen2 and Qwen2.5: windows, where used, from layer max_window_layers on."""
    shape = decoder(c, Layout(qkv_bias=True, states_kv_heads=True))
    return qwen_windowed(c, shape, lambda i: i >= c.size("max_window_layers", least=0))


def qwen3_layout(c: Config) -> Layout:
    """Return what Qwen3 layers hold: norms of query and key heads."""
    bias = c.flag("attention_bias", False)
    return Layout(head_norms=2, qkv_bias=bias, output_bias=bias, states_kv_heads=True)


def qwen3(c: Config) -> ModelShape:
    """Read Qwen3."""
    shape = decoder(c, replace(qwen3_layout(c), states_head_dim=True))
    return qwen_windowed(c, shape, lambda i: i >= c.size("max_window_layers", least=0))


def qwen_expert_layers(c: Config, layers: int) -> int:
    """Count the layers that have experts."""
    step, dense = c.size("decoder_sparse_step", 1), c.listed("mlp_only_layers", int) or []
    return sum(i not in dense and (i + 1) % step == 0 for i in range(layers))


def qwen2_moe(c: Config) -> ModelShape:
    """Read Qwen1.5-MoE and Qwen2-MoE: experts beside a shared one behind a gate."""
    shape = decoder(c, Layout(qkv_bias=c.flag("qkv_bias", True), states_kv_heads=True))
    # The windows of this family lie in every other layer before max_window_layers.
    shape = qwen_windowed(c, shape, lambda i: i % 2 == 0 and i < c.size("max_window_layers", least=0))
    sizes = c.size("moe_intermediate_size"), qwen_expert_layers(c, shape.layers)
    shape = experts(c, shape, "num_experts", *sizes)
    return replace(shape, shared_ffn_size=c.size("shared_expert_intermediate_size"), shared_gate=True)


def qwen3_moe(c: Config) -> ModelShape:
    """Read Qwen3-MoE."""
    shape = qwen_windowed(c, decoder(c, qwen3_layout(c)), lambda i: True)
    key = "num_local_experts" if "num_local_experts" in c.values else "num_experts"
    return experts(c, shape, key, c.size("moe_intermediate_size"), qwen_expert_layers(c, shape.layers))


def gemma_layout(c: Config, norms: int, head_norms: int = 0) -> Layout:
    """Return what Gemma layers hold."""
    bias = c.flag("attention_bias", False)
    layout = Layout(tied=True, norms=norms, head_norms=head_norms, states_kv_heads=True, states_head_dim=True)
    return replace(layout, qkv_bias=bias, output_bias=bias)


def gemma(c: Config) -> ModelShape:
    """Read Gemma."""
    return decoder(c, gemma_layout(c, norms=2))


def gemma2(c: Config) -> ModelShape:
    """Read Gemma 2: a window in every other layer, the first of them."""
    stated(c, "sliding_window")
    return windowed(c, decoder(c, gemma_layout(c, norms=4)), lambda i: i % 2 == 0)


def gemma3_text(c: Config) -> ModelShape:
    """Read the text models of Gemma 3: every sixth layer sees all, the others a window."""
    stated(c, "sliding_window")
    shape = decoder(c, gemma_layout(c, norms=4, head_norms=2))
    return windowed(c, shape, lambda i: (i + 1) % c.size("sliding_window_pattern", 6) != 0)


def opt(c: Config) -> ModelShape:
    """Read OPT: learned positions, two rows more than max_position_embeddings."""
    bias, affine = c.flag("enable_bias", True), c.flag("layer_norm_elementwise_affine", True)
    last = c.flag("do_layer_norm_before", True) and not c.flag("_remove_final_layer_norm", False)
    layout = Layout(tied=True, gated=False, norms=2 * affine, layer_norm=True, final_norm=last and affine)
    layout = replace(layout, qkv_bias=bias, output_bias=bias, ffn_bias=bias)
    shape = decoder(c, layout, KEYS | {"ffn": "ffn_dim"})
    embedding_size = c.size("word_embed_proj_dim", shape.hidden_size)
    return replace(shape, positions=c.size("max_position_embeddings") + 2, embedding_size=embedding_size)


GPT2_KEYS = KEYS | {"layers": "n_layer", "hidden": "n_embd", "heads": "n_head", "ffn": "n_inner"}
BIASED = Layout(gated=False, layer_norm=True, qkv_bias=True, output_bias=True, ffn_bias=True)


def gpt2(c: Config) -> ModelShape:
    """Read GPT-2: learned positions."""
    c.only("add_cross_attention", False)
    shape = decoder(c, replace(BIASED, tied=True), GPT2_KEYS, 4 * c.size("n_embd"))
    return replace(shape, positions=c.size("n_positions"))


def gpt_neox(c: Config) -> ModelShape:
    """Read GPT-NeoX and Pythia."""
    bias = c.flag("attention_bias", True)
    return decoder(c, replace(BIASED, qkv_bias=bias, output_bias=bias))


def deepseek(c: Config) -> ModelShape:
    """Read DeepSeek-V2 and V3: latent attention, leading dense layers, shared experts; without the layers that predict
    a second token.
    """
    c.only("moe_layer_freq", 1)
    c.only("mlp_bias", False)
    rope, value, kv_rank = (c.size(k) for k in ("qk_rope_head_dim", "v_head_dim", "kv_lora_rank"))
    query_rank = c.size("q_lora_rank") if c.values.get("q_lora_rank") is not None else None
    # num_key_value_heads has no meaning here, and head_dim another one.
    values = c.values | {"head_dim": c.size("qk_nope_head_dim") + rope, "num_key_value_heads": None}
    shape = decoder(replace(c, values=values), Layout())
    bias = c.flag("attention_bias", False) * ((query_rank or 0) + kv_rank + rope + shape.hidden_size)
    dense = c.size("first_k_dense_replace", least=0, most=shape.layers)
    expert_size = c.size("moe_intermediate_size")
    shape = experts(c, shape, "n_routed_experts", expert_size, shape.layers - dense)
    return replace(
        shape,
        shared_ffn_size=c.size("n_shared_experts", 0, least=0) * expert_size,
        layer_vectors=shape.layer_vectors + (query_rank or 0) + kv_rank + bias,
        latent=LatentAttention(query_rank=query_rank, kv_rank=kv_rank, rope_size=rope, value_size=value),
    )


FAMILIES: dict[str, Callable[[Config], ModelShape]] = {
    "deepseek_v2": deepseek,
    "deepseek_v3": deepseek,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3_text,
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "llama": llama,
    "mistral": mistral,
    "mixtral": mixtral,
    "opt": opt,
    "phi": phi,
    "phi3": phi3,
    "qwen2": qwen2,
    "qwen2_moe": qwen2_moe,
    "qwen3": qwen3,
    "qwen3_moe": qwen3_moe,
}


def catalogue() -> tuple[str, ...]:
    """Return the names of the shapes that come along."""
    return tuple(sorted(p.stem for p in CATALOGUE.glob("*.json")))


def config_file(path_or_name: str | Path) -> tuple[Path, str]:
    """Find the config.json of a model: its path, and what to call the model.

    Args:
        path_or_name: A Hugging Face config.json, a folder that holds one, or a name of the catalogue. A file goes
            before a name.

    Raises:
        UserError: There is no such file, folder or name.
    """
    given = Path(path_or_name)
    path = given / "config.json" if given.is_dir() else given
    name = path.resolve().parent.name if path.name == "config.json" else path.stem
    if not path.exists() and str(path_or_name) in catalogue():
        return CATALOGUE / f"{path_or_name}.json", str(path_or_name)
    if not path.exists() and not given.is_dir():
        known = ", ".join(catalogue())
        raise UserError(f"{path_or_name}: no such file or folder, nor a name of the catalogue ({known})")
    return path, name


def read_shape(path_or_name: str | Path) -> ModelShape:
    """Read the shape of a model from what `config_file` finds.

    Raises:
        UserError: There is no such file or name, the family is unknown, or a value is missing or odd.
    """
    path, name = config_file(path_or_name)
    return shape_of(path, name, read_json_object(path))


def shape_of(path: Path, name: str, values: dict[str, Any]) -> ModelShape:
    """Return the shape that the values of a config.json describe.

    Args:
        path: Where they were read, for errors.
        name: What to call the model.
        values: By key.

    Raises:
        UserError: The family is unknown, or a value is missing or odd.
    """
    config = Config(path, name, values)
    family = config.values.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise config.refuse("model_type", f"one of {', '.join(FAMILIES)}")
    return FAMILIES[family](config)
