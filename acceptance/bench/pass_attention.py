"""Attention and KV cache of timed passes as engines have them: K and V are read once a pass, never copied (model §2).

transformers' own copy the whole cache to grow it, and repeat it for every head that shares keys where several tokens
are new: what is timed then is copying.
"""

import weakref
from typing import Any

NAME = "grouped"


def register() -> None:
    """Have transformers know the attention by its name, with the masks of sdpa."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, grouped_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def grouped_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Any, None]:
    """Return torch's attention, the heads that share keys as further tokens of one head.

    Args:
        module: The layer; not needed.
        query: [batch, heads, new, head size].
        key: [batch, KV heads, context + new, head size].
        value: The same.
        attention_mask: [batch or 1, 1, new, context + new]; None where all see all.
        dropout: Not there in decoding.
        scaling: Of the products.
        softcap: Not known here.

    Raises:
        ValueError: What torch's attention does not do, or several new tokens without a mask.
    """
    from torch.nn.functional import scaled_dot_product_attention

    batch, heads, new, size = query.shape
    groups = heads // key.shape[1]
    if softcap is not None or (attention_mask is None and new > 1):
        raise ValueError("attention has a softcap or no mask")
    if attention_mask is not None:
        attention_mask = attention_mask.repeat(1, 1, groups, 1)
    packed = query.reshape(batch, heads // groups, groups * new, size)
    attended = scaled_dot_product_attention(packed, key, value, attn_mask=attention_mask, scale=scaling)
    return attended.reshape(batch, heads, new, -1).transpose(1, 2).contiguous(), None


def reserve(layer: Any, room: int) -> None:
    """Set memory aside behind what a layer of a cache holds, into which it grows.

    The layer goes with the last reference to it: were it in a circle, gigabytes would wait for the collector.
    """
    size = list(layer.keys.shape)
    size[2] += room
    buffers = layer.keys.new_empty(size), layer.values.new_empty(size)

    layer_proxy: Any = weakref.proxy(layer)

    def update(keys: Any, values: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        begin = layer_proxy.get_seq_length()
        end = begin + keys.shape[2]
        for buffer, new in zip(buffers, (keys, values), strict=True):
            buffer[:, :, begin:end] = new
        layer_proxy.keys, layer_proxy.values = (buffer[:, :, :end] for buffer in buffers)
        return layer_proxy.keys, layer_proxy.values

    held = layer.keys, layer.values
    layer.keys, layer.values = (buffer[:, :, :0] for buffer in buffers)
    # An empty layer counts as one that holds nothing.
    update(*held)
    layer.update = update
