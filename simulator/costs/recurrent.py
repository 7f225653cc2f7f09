"""Layers that keep a state of fixed size in place of keys and values: Mamba, linear attention, short convolutions."""

from .config_json import Layers, Stack, check_multiple
from .layers import State

# Of the recurrence of a state: decayed, added to, and read, 2 FLOP each.
FLOPS_PER_NUMBER = 6


def keep(stack: Stack, at: Layers, size: int, window: int, shares: int) -> None:
    """Add a state of `size` numbers, of 32 bits unless the file says 16, and what a convolution keeps, to layers."""
    if at:
        stated = [stack.config[key].value for key in ("mamba_ssm_cache_dtype", "mamba_ssm_dtype")]
        width = 2.0 if "bfloat16" in stated or "float16" in stated else 4.0
        stack.states.append(State(len(at), size, window, FLOPS_PER_NUMBER * size, shares, width))


def mamba2(stack: Stack, at: Layers, keys: dict[str, str], *, normed: bool = True, inner: int = 0) -> None:
    """Add Mamba-2 (arXiv 2405.21060) to layers: heads with a state each; B and C are shared by groups of them.

    Args:
        stack: Layers so far.
        at: Layers.
        keys: Of the file: heads, head_dim, groups, state, kernel, conv_bias, bias.
        normed: Whether the output has a norm.
        inner: Channels, where they are not heads x head_dim.
    """
    if not at:
        return
    heads, head_dim, groups, state, kernel = (
        stack.size(keys[k]) for k in ("heads", "head_dim", "groups", "state", "kernel")
    )
    inner = inner or heads * head_dim
    channels = inner + 2 * groups * state
    stack.matrix(stack.hidden, {"mamba.in_proj": inner + channels + heads}, at)
    stack.matrix(inner, {"mamba.out_proj": stack.hidden}, at)
    vectors = channels * (kernel + stack.flag(keys["conv_bias"])) + 3 * heads + normed * inner
    vectors += stack.flag(keys["bias"]) * (inner + channels + heads + stack.hidden)
    stack.vectors += len(at) * vectors
    keep(stack, at, inner * state, channels * (kernel - 1), heads)


def mamba1(stack: Stack, at: Layers, keys: dict[str, str], *, inner: int, rank: int, normed: bool = False) -> None:
    """Add Mamba (arXiv 2312.00752) to layers: every channel with a state of its own."""
    if not at:
        return
    state, kernel = stack.size(keys["state"]), stack.size(keys["kernel"])
    stack.matrix(stack.hidden, {"mamba.in_proj": 2 * inner}, at)
    stack.matrix(inner, {"mamba.x_proj": rank + 2 * state}, at)
    stack.matrix(rank, {"mamba.dt_proj": inner}, at)
    stack.matrix(inner, {"mamba.out_proj": stack.hidden}, at)
    vectors = inner * (state + kernel + stack.flag(keys["conv_bias"]) + 2) + normed * (rank + 2 * state)
    vectors += stack.flag(keys["bias"]) * (2 * inner + stack.hidden)
    stack.vectors += len(at) * vectors
    keep(stack, at, inner * state, inner * (kernel - 1), inner)


def gated_delta(stack: Stack, at: Layers) -> None:
    """Add a gated delta net (arXiv 2412.06464) to layers, as Qwen3-Next has it: keys x values a head is the state."""
    if not at:
        return
    names = ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim", "conv_kernel_dim")
    key_heads, value_heads, key_dim, value_dim, kernel = (stack.size(f"linear_{name}") for name in names)
    check_multiple(stack.config, "linear_num_value_heads", value_heads, "linear_num_key_heads", key_heads)
    keys, values = key_heads * key_dim, value_heads * value_dim
    parts = {"in_proj_qkv": 2 * keys + values, "in_proj_z": values, "in_proj_b": value_heads, "in_proj_a": value_heads}
    stack.matrix(stack.hidden, {f"linear_attn.{name}": outputs for name, outputs in parts.items()}, at)
    stack.matrix(values, {"linear_attn.out_proj": stack.hidden}, at)
    channels = 2 * keys + values
    stack.vectors += len(at) * (channels * kernel + 2 * value_heads + value_dim)
    keep(stack, at, value_heads * key_dim * value_dim, channels * (kernel - 1), key_heads)


def kimi_delta(stack: Stack, at: Layers) -> None:
    """Add Kimi's delta attention (arXiv 2510.26692) to layers: gates of low rank, a decay for every channel."""
    if not at:
        return
    heads, width, kernel = (stack.size(f"linear_{name}") for name in ("num_heads", "head_dim", "conv_kernel_dim"))
    inner = heads * width
    stack.matrix(stack.hidden, {f"self_attn.{name}_proj": inner for name in "qkv"}, at)
    narrow = {"self_attn.f_a_proj": width, "self_attn.g_a_proj": width, "self_attn.b_proj": heads}
    stack.matrix(stack.hidden, narrow, at)
    stack.matrix(width, {"self_attn.f_b_proj": inner, "self_attn.g_b_proj": inner}, at)
    stack.matrix(inner, {"self_attn.o_proj": stack.hidden}, at)
    stack.vectors += len(at) * (3 * inner * kernel + inner + heads + width)
    keep(stack, at, heads * width * width, 3 * inner * (kernel - 1), heads)


def lightning(stack: Stack, at: Layers) -> None:
    """Add lightning attention (MiniMax-01, arXiv 2501.08313) to layers: a decaying sum of keys x values a head."""
    if not at:
        return
    inner = stack.heads * stack.head_dim
    stack.matrix(stack.hidden, {"self_attn.qkv_proj": 3 * inner, "self_attn.output_gate": inner}, at)
    stack.matrix(inner, {"self_attn.out_proj": stack.hidden}, at)
    stack.vectors += len(at) * inner
    keep(stack, at, inner * stack.head_dim, 0, stack.heads)


def short_convolution(stack: Stack, at: Layers) -> None:
    """Add the gated short convolutions of LFM2 to layers."""
    if not at:
        return
    hidden, kernel, bias = stack.hidden, stack.size("conv_L_cache"), stack.flag("conv_bias")
    stack.matrix(hidden, {"conv.in_proj": 3 * hidden}, at)
    stack.matrix(hidden, {"conv.out_proj": hidden}, at)
    stack.vectors += len(at) * hidden * (kernel + bias * 5)
    keep(stack, at, 0, hidden * (kernel - 1), hidden)
