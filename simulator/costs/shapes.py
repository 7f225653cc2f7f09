"""Model shapes from a Hugging Face config.json, a user's or one of the catalogue in `shapes/` (model §2).

Reads sizes, never weights; a quantization that the file names is left to the dtype that the work is asked for.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, read_json

from .config_json import KEYS, MAX_SIZE, Layout, check_stated, decoder, experts, refuse_other, size, windowed
from .work import LatentAttention, ModelShape

CATALOGUE = Path(__file__).parent / "catalogue"


def llama(config: Field) -> ModelShape:
    """Read Llama and what is built like it (Vicuna, TinyLlama)."""
    bias = config["attention_bias"].flag(False)
    return decoder(config, Layout(qkv_bias=bias, output_bias=bias, ffn_bias=config["mlp_bias"].flag(False)))


def mistral(config: Field) -> ModelShape:
    """Read Mistral: a window in all layers, or none."""
    check_stated(config, "sliding_window")
    return windowed(config, decoder(config, Layout(states_kv_heads=True)), lambda i: True)


def mixtral(config: Field) -> ModelShape:
    """Read Mixtral: each feed-forward layer is one of experts."""
    shape = windowed(config, decoder(config, Layout(states_kv_heads=True)), lambda i: True)
    return experts(config, shape, "num_local_experts", shape.ffn_size, shape.layers)


def phi3(config: Field) -> ModelShape:
    """Read Phi-3: a window in all layers, or none."""
    return windowed(config, decoder(config, Layout()), lambda i: True)


def phi(config: Field) -> ModelShape:
    """Read Phi-1 and Phi-2: one norm for attention and feed-forward side by side, biases everywhere."""
    head_norms = 2 if config["qk_layernorm"].flag(False) else 0
    layout = Layout(gated=False, norms=1, layer_norm=True, head_norms=head_norms, head_bias=True)
    return decoder(config, replace(layout, qkv_bias=True, output_bias=True, ffn_bias=True))


def qwen_windowed(config: Field, shape: ModelShape, is_sliding: Callable[[int], bool]) -> ModelShape:
    """Return a Qwen shape with its windows, which a flag of their own turns on."""
    return windowed(config, shape, is_sliding) if config["use_sliding_window"].flag(False) else shape


def qwen2(config: Field) -> ModelShape:
    """Read Qwen2 and Qwen2.5: windows, where used, from layer max_window_layers on."""
    shape = decoder(config, Layout(qkv_bias=True, states_kv_heads=True))
    return qwen_windowed(config, shape, lambda i: i >= config["max_window_layers"].whole(0, MAX_SIZE))


def qwen3_layout(config: Field) -> Layout:
    """Return what Qwen3 layers hold: norms of query and key heads."""
    bias = config["attention_bias"].flag(False)
    return Layout(head_norms=2, qkv_bias=bias, output_bias=bias, states_kv_heads=True)


def qwen3(config: Field) -> ModelShape:
    """Read Qwen3."""
    shape = decoder(config, replace(qwen3_layout(config), states_head_dim=True))
    return qwen_windowed(config, shape, lambda i: i >= config["max_window_layers"].whole(0, MAX_SIZE))


def qwen_expert_layers(config: Field, layers: int) -> int:
    """Count the layers that have experts."""
    step, listed = size(config, "decoder_sparse_step", 1), config["mlp_only_layers"]
    dense = [layer.whole() for layer in listed.elements()] if listed.is_given else []
    return sum(i not in dense and (i + 1) % step == 0 for i in range(layers))


def qwen2_moe(config: Field) -> ModelShape:
    """Read Qwen1.5-MoE and Qwen2-MoE: experts beside a shared one behind a gate."""
    shape = decoder(config, Layout(qkv_bias=config["qkv_bias"].flag(True), states_kv_heads=True))
    # The windows of this family lie in every other layer before max_window_layers.
    shape = qwen_windowed(config, shape, lambda i: i % 2 == 0 and i < config["max_window_layers"].whole(0, MAX_SIZE))
    sizes = size(config, "moe_intermediate_size"), qwen_expert_layers(config, shape.layers)
    shape = experts(config, shape, "num_experts", *sizes)
    return replace(shape, shared_ffn_size=size(config, "shared_expert_intermediate_size"), shared_gate=True)


def qwen3_moe(config: Field) -> ModelShape:
    """Read Qwen3-MoE."""
    shape = qwen_windowed(config, decoder(config, qwen3_layout(config)), lambda i: True)
    key = "num_local_experts" if config["num_local_experts"].is_stated else "num_experts"
    return experts(config, shape, key, size(config, "moe_intermediate_size"), qwen_expert_layers(config, shape.layers))


def gemma_layout(config: Field, norms: int, head_norms: int = 0) -> Layout:
    """Return what Gemma layers hold."""
    bias = config["attention_bias"].flag(False)
    layout = Layout(tied=True, norms=norms, head_norms=head_norms, states_kv_heads=True, states_head_dim=True)
    return replace(layout, qkv_bias=bias, output_bias=bias)


def gemma(config: Field) -> ModelShape:
    """Read Gemma."""
    return decoder(config, gemma_layout(config, norms=2))


def gemma2(config: Field) -> ModelShape:
    """Read Gemma 2: a window in every other layer, the first of them."""
    check_stated(config, "sliding_window")
    return windowed(config, decoder(config, gemma_layout(config, norms=4)), lambda i: i % 2 == 0)


def gemma3_text(config: Field) -> ModelShape:
    """Read the text models of Gemma 3: every sixth layer sees all, the others a window."""
    check_stated(config, "sliding_window")
    shape = decoder(config, gemma_layout(config, norms=4, head_norms=2))
    return windowed(config, shape, lambda i: (i + 1) % size(config, "sliding_window_pattern", 6) != 0)


def opt(config: Field) -> ModelShape:
    """Read OPT: learned positions, two rows more than max_position_embeddings."""
    bias, affine = config["enable_bias"].flag(True), config["layer_norm_elementwise_affine"].flag(True)
    last = config["do_layer_norm_before"].flag(True) and not config["_remove_final_layer_norm"].flag(False)
    layout = Layout(tied=True, gated=False, norms=2 * affine, layer_norm=True, final_norm=last and affine)
    layout = replace(layout, qkv_bias=bias, output_bias=bias, ffn_bias=bias)
    shape = decoder(config, layout, KEYS | {"ffn": "ffn_dim"})
    embedding_size = size(config, "word_embed_proj_dim", shape.hidden_size)
    return replace(shape, positions=size(config, "max_position_embeddings") + 2, embedding_size=embedding_size)


GPT2_KEYS = KEYS | {"layers": "n_layer", "hidden": "n_embd", "heads": "n_head", "ffn": "n_inner"}
BIASED = Layout(gated=False, layer_norm=True, qkv_bias=True, output_bias=True, ffn_bias=True)


def gpt2(config: Field) -> ModelShape:
    """Read GPT-2: learned positions."""
    refuse_other(config, "add_cross_attention", False)
    shape = decoder(config, replace(BIASED, tied=True), GPT2_KEYS, 4 * size(config, "n_embd"))
    return replace(shape, positions=size(config, "n_positions"))


def gpt_neox(config: Field) -> ModelShape:
    """Read GPT-NeoX and Pythia."""
    bias = config["attention_bias"].flag(True)
    return decoder(config, replace(BIASED, qkv_bias=bias, output_bias=bias))


def deepseek(config: Field) -> ModelShape:
    """Read DeepSeek-V2 and V3: latent attention, leading dense layers, shared experts; without the layers that predict
    a second token.
    """
    refuse_other(config, "moe_layer_freq", 1)
    refuse_other(config, "mlp_bias", False)
    rope, value, kv_rank = (size(config, k) for k in ("qk_rope_head_dim", "v_head_dim", "kv_lora_rank"))
    query_rank = size(config, "q_lora_rank") if config["q_lora_rank"].is_given else None
    # num_key_value_heads has no meaning here, and head_dim another one.
    sizes = {"head_dim": size(config, "qk_nope_head_dim") + rope, "num_key_value_heads": None}
    shape = decoder(replace(config, value=config.object() | sizes), Layout())
    bias = config["attention_bias"].flag(False) * ((query_rank or 0) + kv_rank + rope + shape.hidden_size)
    dense = config["first_k_dense_replace"].whole(0, shape.layers)
    expert_size = size(config, "moe_intermediate_size")
    shape = experts(config, shape, "n_routed_experts", expert_size, shape.layers - dense)
    return replace(
        shape,
        shared_ffn_size=config["n_shared_experts"].whole(0, MAX_SIZE, default=0) * expert_size,
        layer_vectors=shape.layer_vectors + (query_rank or 0) + kv_rank + bias,
        latent=LatentAttention(query_rank=query_rank, kv_rank=kv_rank, rope_size=rope, value_size=value),
    )


# Named as their files name them; two versions of DeepSeek are alike.
NAMED = (gemma, gemma2, gemma3_text, gpt2, gpt_neox, llama, mistral, mixtral, opt, phi, phi3, qwen2, qwen2_moe, qwen3)
FAMILIES: dict[str, Callable[[Field], ModelShape]] = {"deepseek_v2": deepseek, "deepseek_v3": deepseek}
FAMILIES |= {read.__name__: read for read in (*NAMED, qwen3_moe)}


def catalogue() -> tuple[str, ...]:
    """Return the names of the shapes that come along."""
    return tuple(sorted(p.stem for p in CATALOGUE.glob("*.json")))


def config_file(path_or_name: str | Path) -> tuple[Path, str]:
    """Find the config.json of a model: its path, and what to call the model; a UserError says that there is none.

    path_or_name: a Hugging Face config.json, its folder, or a name of the catalogue. A file goes before a name.
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
    return shape_of(read_json(path), name)


def shape_of(config: Field, name: str) -> ModelShape:
    """Return the shape, of a name, that the values of a config.json describe; a UserError names what is odd."""
    return replace(FAMILIES[config["model_type"].choice(tuple(FAMILIES))](config), name=name)
