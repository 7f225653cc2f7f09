"""Gemma 3n and 4: layers that read the keys of others, an embedding of each layer for a token, heads of two widths."""

from .config_json import FULL, MAX_COUNT, MAX_LAYERS, MAX_SIZE, SLIDING, Layers, Stack, where
from .layers import Attention


def owners(stack: Stack) -> Layers:
    """Return the layers with keys and values of their own; the last ones read theirs."""
    shared = stack.config["num_kv_shared_layers"].whole(0, stack.layers - 1, default=0)
    return stack.all[: stack.layers - shared]


def attention(stack: Stack, kind: str, head_dim: int, kv_heads: int, *, has_values: bool = True) -> None:
    """Add the layers of one kind; `has_values`: values are no copies of the keys."""
    at, own = where(stack.kinds(), kind), set(owners(stack))
    keeping = tuple(i for i in at if i in own)
    queries, keys = stack.heads * head_dim, kv_heads * head_dim
    window = stack.size("sliding_window") if kind == SLIDING else None
    stack.matrix(stack.hidden, {"self_attn.q_proj": queries}, at)
    stack.matrix(stack.hidden, {"self_attn.k_proj": keys}, keeping)
    stack.matrix(stack.hidden, {"self_attn.v_proj": keys}, keeping if has_values else ())
    stack.matrix(queries, {"self_attn.o_proj": stack.hidden}, at)
    stack.vectors += len(at) * head_dim + len(keeping) * head_dim
    for count, kept in ((len(keeping), 2 * keys), (len(at) - len(keeping), 0)):
        found = Attention(count, stack.heads, 2 * head_dim, kept, kv_heads, window)
        stack.attentions += [found] if count else []


def layer_inputs(stack: Stack, narrow: int) -> None:
    """Add what gives every layer an embedding of the token of its own."""
    hidden = stack.hidden
    stack.matrix(hidden, {"per_layer_input_gate": narrow}, stack.all)
    stack.matrix(narrow, {"per_layer_projection": hidden}, stack.all)
    stack.matrix(hidden, {"per_layer_model_projection": narrow}, stack.all)
    stack.vectors += stack.layers * hidden + narrow
    stack.tables = stack.size("vocab_size_per_layer_input") * stack.layers * narrow
    stack.row_size = stack.layers * narrow


def gemma3n(stack: Stack) -> None:
    """Read the text models of Gemma 3n: several streams and low-rank bypasses besides."""
    hidden, layers = stack.hidden, stack.layers
    for kind in (FULL, SLIDING):
        attention(stack, kind, stack.head_dim, stack.kv_heads)
    inner = stack.config["intermediate_size"]
    listed = isinstance(inner.value, list)
    sizes = [e.whole(1, MAX_SIZE) for e in inner.elements()] if listed else [stack.inner] * layers
    if len(sizes) != layers:
        inner.refuse(f"a size, or one for each of {layers} layers")
    for one in sorted(set(sizes)):
        stack.ffn(tuple(i for i in stack.all if sizes[i] == one), one)
    streams, rank = stack.config["altup_num_inputs"].whole(1, MAX_LAYERS), stack.size("laurel_rank")
    stack.matrix(hidden, {"laurel.linear_left": rank, "altup.modality_router": streams}, stack.all)
    stack.matrix(rank, {"laurel.linear_right": hidden}, stack.all)
    stack.matrix(streams, {"altup.correction_coefs": streams, "altup.prediction_coefs": streams**2}, stack.all)
    stack.matrix(hidden, {"altup_projections": 2 * hidden}, tuple(range(streams - 1)))
    # Beside the four norms of a layer those of the bypass and the router, and a scale.
    stack.vectors += layers * 3 * hidden
    layer_inputs(stack, stack.size("hidden_size_per_layer_input"))


def full_heads(stack: Stack, *, alike: bool) -> tuple[int, int]:
    """Return the size of a head and the heads of keys where all is seen: keys of their own, or of single layers."""
    layered = stack.config["per_layer_config"]
    entries = [entry for _, entry in layered.items()] if layered.is_given else []
    if not stack.config["global_head_dim"].is_given and entries:
        kv_heads = entries[0]["num_key_value_heads"].whole(1, MAX_SIZE, default=stack.kv_heads)
        return entries[0]["head_dim"].whole(1, MAX_SIZE, default=stack.head_dim), kv_heads
    kv_heads = stack.size("num_global_key_value_heads", stack.kv_heads) if alike else stack.kv_heads
    return stack.size("global_head_dim", 512), kv_heads


def gemma4(stack: Stack) -> None:
    """Read the text models of Gemma 4: full attention of wider heads, perhaps experts beside the dense part."""
    config = stack.config
    alike = config["attention_k_eq_v"].flag(False)
    wide, kv_heads = full_heads(stack, alike=alike)
    attention(stack, SLIDING, stack.head_dim, stack.kv_heads)
    attention(stack, FULL, wide, kv_heads, has_values=not alike)
    own = owners(stack)
    others = tuple(i for i in stack.all if i not in set(own))
    stack.ffn(own, stack.inner)
    stack.ffn(others, stack.inner * (2 if config["use_double_wide_mlp"].flag(False) else 1))
    if config["enable_moe_block"].flag(False):
        count = stack.size("num_experts")
        used = config["top_k_experts"].whole(1, min(count, MAX_COUNT))
        stack.experts(stack.all, count, used, stack.size("moe_intermediate_size"))
        stack.vectors += stack.layers * (4 * stack.hidden + count)
    narrow = config["hidden_size_per_layer_input"].whole(0, MAX_SIZE, default=0)
    if narrow:
        layer_inputs(stack, narrow)
