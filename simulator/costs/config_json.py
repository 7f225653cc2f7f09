"""What all families of a Hugging Face config.json share: checked values, and the stack of layers they describe."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from simulator.ground.fields import Field

from .work import ModelShape

MAX_SIZE = 10**9
MAX_LAYERS = 10_000
SLIDING = "sliding_attention"
LAYER_TYPES = ("full_attention", SLIDING)

KEYS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "vocabulary": "vocab_size",
}


def size(config: Field, key: str, default: int | None = None) -> int:
    """Return a size; without a default it has to be there."""
    return config[key].whole(1, MAX_SIZE, default=default)


def refuse_other(config: Field, key: str, value: object) -> None:
    """Refuse a value other than the one that the shape knows how to count."""
    if config[key].is_given and config[key].value != value:
        config[key].refuse(repr(value))


def check_multiple(config: Field, key: str, value: int, divisor_key: str, divisor: int) -> None:
    """Refuse a value that is no multiple of another one."""
    if value % divisor:
        config[key].refuse(f"a multiple of {divisor_key} ({divisor})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a family's models hold besides the sizes that their files state.

    tied: whether embeddings and output head are one table where the file does not say. gated: the feed-forward layers
    have a gate. norms: of a layer over hidden_size; layer_norm: they have a bias; head_norms: of query and key heads.
    states_kv_heads, states_head_dim: the file has to say these; where it need not, heads and hidden_size / heads stand.
    """

    tied: bool = False
    gated: bool = True
    norms: int = 2
    layer_norm: bool = False
    final_norm: bool = True
    head_norms: int = 0
    qkv_bias: bool = False
    output_bias: bool = False
    ffn_bias: bool = False
    head_bias: bool = False
    states_kv_heads: bool = False
    states_head_dim: bool = False


def head_size(config: Field, keys: dict[str, str], stated: bool) -> int:
    """Return the size of a head, from hidden_size / heads where the file need not state it and does not."""
    if stated or config["head_dim"].is_given:
        return size(config, "head_dim")
    hidden, heads = size(config, keys["hidden"]), size(config, keys["heads"])
    check_multiple(config, keys["hidden"], hidden, keys["heads"], heads)
    return hidden // heads


def decoder(config: Field, layout: Layout, keys: dict[str, str] = KEYS, ffn_default: int | None = None) -> ModelShape:
    """Return the shape of a stack of attention and dense feed-forward layers; it has no name yet."""
    layers = config[keys["layers"]].whole(1, MAX_LAYERS)
    hidden, heads, vocabulary = (size(config, keys[k]) for k in ("hidden", "heads", "vocabulary"))
    head_dim = head_size(config, keys, layout.states_head_dim)
    kv_heads = size(config, "num_key_value_heads", None if layout.states_kv_heads else heads)
    check_multiple(config, keys["heads"], heads, "num_key_value_heads", kv_heads)
    ffn = size(config, keys["ffn"], ffn_default)
    norm = hidden * (2 if layout.layer_norm else 1)
    head_norm = head_dim * (2 if layout.layer_norm else 1)
    biases = (
        layout.qkv_bias * (heads + 2 * kv_heads) * head_dim
        + layout.output_bias * hidden
        + layout.ffn_bias * ((1 + layout.gated) * ffn + hidden)
    )
    return ModelShape(
        name="",
        family=config["model_type"].text(),
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_size=ffn,
        vocabulary=vocabulary,
        tied_embeddings=config["tie_word_embeddings"].flag(layout.tied),
        layer_vectors=layout.norms * norm + layout.head_norms * head_norm + biases,
        outer_vectors=layout.final_norm * norm + layout.head_bias * vocabulary,
        gated_ffn=layout.gated,
        embedding_size=hidden,
    )


def windowed(config: Field, shape: ModelShape, is_sliding: Callable[[int], bool]) -> ModelShape:
    """Return a shape with its sliding windows, of the layers that the file lists or the family's rule names."""
    if not config["sliding_window"].is_given:
        return shape
    listed = config["layer_types"]
    if not listed.is_given:
        sliding = sum(map(is_sliding, range(shape.layers)))
    else:
        kinds = [layer.choice(LAYER_TYPES) for layer in listed.elements()]
        if len(kinds) != shape.layers:
            listed.refuse(f"{' or '.join(LAYER_TYPES)} for each of {shape.layers} layers")
        sliding = kinds.count(SLIDING)
    return replace(shape, sliding_layers=sliding, sliding_window=size(config, "sliding_window") if sliding else None)


def check_stated(config: Field, key: str) -> None:
    """Refuse a file without a key whose null has a meaning of its own."""
    if not config[key].is_stated:
        config[key].refuse("a whole number, or null for none")


def experts(config: Field, shape: ModelShape, key: str, ffn_size: int, layers: int) -> ModelShape:
    """Return a shape some of whose layers have experts."""
    count = size(config, key)
    per_token = config["num_experts_per_tok"].whole(1, count)
    return replace(shape, experts=count, experts_per_token=per_token, expert_ffn_size=ffn_size, expert_layers=layers)
