"""GPT and its kin: learned positions or none, biases, keys of files of their own."""

from dataclasses import replace

from simulator.ground.fields import Field

from .config_json import Layout, Stack, refuse_other


def opt(stack: Stack) -> None:
    """Read OPT: learned positions, two rows more than max_position_embeddings."""
    stack.windowed()
    stack.ffn(stack.all, stack.inner)
    stack.embedding = stack.size("word_embed_proj_dim", stack.hidden)
    stack.tables = (stack.size("max_position_embeddings") + 2) * stack.hidden
    stack.row_size = stack.hidden


def opt_layout(config: Field) -> Layout:
    """Return what OPT's layers hold."""
    bias, affine = config["enable_bias"].flag(True), config["layer_norm_elementwise_affine"].flag(True)
    last = config["do_layer_norm_before"].flag(True) and not config["_remove_final_layer_norm"].flag(False)
    layout = Layout(tied=True, gated=False, layer_norm=True, keys={"ffn": "ffn_dim"}, norms=2 * affine)
    return replace(layout, final_norm=last and affine, qkv_bias=bias, output_bias=bias, ffn_bias=bias)


GPT2_KEYS = {"layers": "n_layer", "hidden": "n_embd", "heads": "n_head", "ffn": "n_inner"}


def gpt2(stack: Stack) -> None:
    """Read GPT-2 and what is built like it: learned positions, an inner size of 4 x hidden_size if none is stated."""
    refuse_other(stack.config, "add_cross_attention", False)
    stack.windowed()
    stack.ffn(stack.all, stack.size("n_inner", 4 * stack.hidden))
    if stack.config["model_type"].value not in ("gptj", "codegen"):
        stack.tables, stack.row_size = stack.size("n_positions") * stack.hidden, stack.hidden


def bigcode(stack: Stack) -> None:
    """Read GPT-BigCode (StarCoder): one key and value for all heads."""
    if stack.config["multi_query"].flag(True):
        stack.config = stack.config.but(num_key_value_heads=1)
    gpt2(stack)


def bloom(stack: Stack) -> None:
    """Read BLOOM: no positions, a norm after the embeddings."""
    stack.windowed()
    stack.ffn(stack.all, 4 * stack.hidden)
    stack.vectors += stack.norm


def mpt(stack: Stack) -> None:
    """Read MPT: no positions, norms without bias."""
    stack.windowed()
    stack.ffn(stack.all, 4 * stack.hidden)


def falcon(stack: Stack) -> None:
    """Read Falcon: attention and feed-forward part side by side, one head of keys and values or some."""
    config, new = stack.config, stack.config["new_decoder_architecture"].flag(False)
    kv_heads = stack.size("num_kv_heads", stack.heads) if new or not config["multi_query"].flag(True) else 1
    stack.config = config.but(num_key_value_heads=kv_heads)
    stack.windowed()
    stack.ffn(stack.all, stack.size("ffn_hidden_size", 4 * stack.hidden))
    norms = config["num_ln_in_parallel_attn"].whole(1, 2, default=2 if new else 1)
    stack.vectors += stack.layers * stack.norm * (norms if config["parallel_attn"].flag(True) else 2)
