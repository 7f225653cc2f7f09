"""What all families of a Hugging Face config.json share: checked values, and the stack of layers they describe."""

import reprlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simulator.ground.artefacts import UserError

from .work import ModelShape

MAX_SIZE = 10**9
MAX_LAYERS = 10_000

KEYS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "vocabulary": "vocab_size",
}


@dataclass(frozen=True, slots=True)
class Config:
    """A config.json, whose values are checked as they are read; an absent value and null are the same.

    All readers raise UserError naming the file, the key, the value found and what is allowed.
    """

    path: Path
    name: str
    values: dict[str, Any]

    def refuse(self, key: str, allowed: str) -> UserError:
        """Return the error about one key."""
        found = "missing" if key not in self.values else reprlib.repr(self.values[key])
        return UserError(f"{self.path}: {key} is {found}, expected {allowed}")

    def size(self, key: str, default: int | None = None, *, least: int = 1, most: int = MAX_SIZE) -> int:
        """Return a whole number; without a default it has to be there."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not least <= value <= most:
            raise self.refuse(key, f"a whole number from {least} to {most}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.values.get(key)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.refuse(key, "true or false")
        return value

    def only(self, key: str, value: object) -> None:
        """Refuse a value that the shape does not know how to count."""
        if self.values.get(key, value) not in (value, None):
            raise self.refuse(key, f"{value!r}")

    def multiple(self, key: str, divisor: str, value: int, of: int) -> None:
        """Refuse a value that is no multiple of another one."""
        if value % of:
            raise UserError(f"{self.path}: {key} is {value}, expected a multiple of {divisor} ({of})")

    def listed(self, key: str, kind: type) -> list[Any] | None:
        """Return a list of values of one kind; None where there is none."""
        value = self.values.get(key)
        if value is not None and (not isinstance(value, list) or any(type(v) is not kind for v in value)):
            raise self.refuse(key, f"a list of {kind.__name__} values")
        return value


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


def head_size(c: Config, keys: dict[str, str], stated: bool) -> int:
    """Return the size of a head, from hidden_size / heads where the file need not state it and does not."""
    if stated or c.values.get("head_dim") is not None:
        return c.size("head_dim")
    hidden, heads = c.size(keys["hidden"]), c.size(keys["heads"])
    c.multiple(keys["hidden"], keys["heads"], hidden, heads)
    return hidden // heads


def decoder(c: Config, layout: Layout, keys: dict[str, str] = KEYS, ffn_default: int | None = None) -> ModelShape:
    """Return the shape of a stack of attention and dense feed-forward layers."""
    layers = c.size(keys["layers"], most=MAX_LAYERS)
    hidden, heads, vocabulary = (c.size(keys[k]) for k in ("hidden", "heads", "vocabulary"))
    head_dim = head_size(c, keys, layout.states_head_dim)
    kv_heads = c.size("num_key_value_heads", None if layout.states_kv_heads else heads)
    c.multiple(keys["heads"], "num_key_value_heads", heads, kv_heads)
    ffn = c.size(keys["ffn"], ffn_default)
    norm = hidden * (2 if layout.layer_norm else 1)
    head_norm = head_dim * (2 if layout.layer_norm else 1)
    biases = (
        layout.qkv_bias * (heads + 2 * kv_heads) * head_dim
        + layout.output_bias * hidden
        + layout.ffn_bias * ((1 + layout.gated) * ffn + hidden)
    )
    return ModelShape(
        name=c.name,
        family=str(c.values["model_type"]),
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_size=ffn,
        vocabulary=vocabulary,
        tied_embeddings=c.flag("tie_word_embeddings", layout.tied),
        layer_vectors=layout.norms * norm + layout.head_norms * head_norm + biases,
        outer_vectors=layout.final_norm * norm + layout.head_bias * vocabulary,
        gated_ffn=layout.gated,
        embedding_size=hidden,
    )


def windowed(c: Config, shape: ModelShape, is_sliding: Callable[[int], bool]) -> ModelShape:
    """Return a shape with its sliding windows, of the layers that the file lists or the family's rule names."""
    if c.values.get("sliding_window") is None:
        return shape
    kinds = c.listed("layer_types", str)
    if kinds is None:
        sliding = sum(map(is_sliding, range(shape.layers)))
    elif len(kinds) == shape.layers and set(kinds) <= {"full_attention", "sliding_attention"}:
        sliding = kinds.count("sliding_attention")
    else:
        raise c.refuse("layer_types", f"full_attention or sliding_attention for each of {shape.layers} layers")
    return replace(shape, sliding_layers=sliding, sliding_window=c.size("sliding_window") if sliding else None)


def stated(c: Config, key: str) -> None:
    """Refuse a file without a key whose null has a meaning of its own."""
    if key not in c.values:
        raise c.refuse(key, "a whole number, or null for none")


def experts(c: Config, shape: ModelShape, key: str, ffn_size: int, layers: int) -> ModelShape:
    """Return a shape some of whose layers have experts."""
    count = c.size(key)
    per_token = c.size("num_experts_per_tok", most=count)
    return replace(shape, experts=count, experts_per_token=per_token, expert_ffn_size=ffn_size, expert_layers=layers)
