"""A model that no reader knows, from what a user states of it: weights, active ones, bytes of its KV cache."""

import math
import re
from dataclasses import dataclass

from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field

from .config_json import MAX_LAYERS
from .layers import Attention, Matrix
from .quantization import Quantized, quantization_of
from .work import ModelShape

DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}
BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30}
LEAST_WEIGHTS, MOST_WEIGHTS, MOST_KV_BYTES = 10**5, 10**15, 10**12
# Assumed where nothing is said: as published models have it, from 1 B to 405 B weights.
LAYERS_AT, LAYERS, LAYERS_POWER = 8e9, 32, 0.35
HEAD_DIM, KV_HEADS, WEIGHTS_OF_LAYER = 128, 8, 12
EXPERTS_PER_TOKEN, EXPERTS_SHARE = 8, 0.55


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedModel:
    """What a user states of a model, as text; None where nothing. prefix: of its options, "" or "draft-"."""

    params: str | None = None
    active_params: str | None = None
    kv_bytes_per_token: str | None = None
    prefix: str = ""

    @property
    def first(self) -> str | None:
        """The option of the first number that is stated, or None."""
        names = ("params", "active_params", "kv_bytes_per_token")
        return next((self.option(name) for name in names if getattr(self, name) is not None), None)

    def option(self, name: str) -> str:
        """Return the option of a number."""
        return f"--{self.prefix}{name.replace('_', '-')}"

    def shape(self, name: str, config: Field | None) -> ModelShape:
        """Return the shape of such a model.

        Args:
            name: What to call it.
            config: Its config.json, where there is one: layers, sizes, vocabulary and number format are taken from it.

        Raises:
            UserError: A number is none, or they are at odds.
        """
        if self.params is None:
            raise UserError(f"{self.first}: without weights beside it, expected {self.option('params')} too")
        total = weights(self.option("params"), self.params, "weights such as 8.03B")
        active = total
        if self.active_params is not None:
            active = weights(self.option("active_params"), self.active_params, "weights such as 3.3B")
        if active > total:
            raise UserError(
                f"{self.option('active_params')}: {active:,} is above the {total:,} of {self.option('params')}"
            )
        layers = stated_size(config, "num_hidden_layers", MAX_LAYERS) or max(
            1, round(LAYERS * (active / LAYERS_AT) ** LAYERS_POWER)
        )
        hidden = stated_size(config, "hidden_size") or max(1, round(math.sqrt(active / (WEIGHTS_OF_LAYER * layers))))
        assumed = (
            ["layers and sizes as usual for so many weights"] if stated_size(config, "hidden_size") is None else []
        )
        kv_numbers = 2 * KV_HEADS * HEAD_DIM * layers
        if self.kv_bytes_per_token is not None:
            option = self.option("kv_bytes_per_token")
            kv_bytes = amount(option, self.kv_bytes_per_token, MOST_KV_BYTES, "bytes such as 131072 or 96KiB")
            kv_numbers = max(1, round(kv_bytes / 2))
        else:
            assumed.append(f"a KV cache of {2 * kv_numbers:,} bytes a token")
        matrices = stated_matrices(total, active, hidden, layers)
        assumed += [f"{m.copies} experts a layer" for m in matrices if m.is_expert]
        found = Quantized() if config is None else quantization_of(config, None)
        heads = layers * max(1, hidden // HEAD_DIM)
        return ModelShape(
            name=name,
            family="",
            layers=layers,
            hidden_size=hidden,
            heads=0,
            vocabulary=stated_size(config, "vocab_size") or 0,
            tied_embeddings=True,
            embedding_size=hidden,
            matrices=matrices,
            vectors=total - sum(m.weights for m in matrices),
            attentions=(Attention(1, heads, 2 * HEAD_DIM, kv_numbers, KV_HEADS),),
            storage=found.storage,
            unread=found.unread,
            kv_dtype=found.kv_dtype,
            unstated=tuple(k for k in ("hidden_size", "vocab_size") if stated_size(config, k) is None),
            assumed=f"assumed {', '.join(assumed)}" if assumed else "",
        )


def stated_size(config: Field | None, key: str, most: int = 10**7) -> int | None:
    """Return a size of a file that is read no further."""
    value = None if config is None else config[key].value
    return value if type(value) is int and 1 <= value <= most else None


def stated_matrices(total: int, active: int, hidden: int, layers: int) -> tuple[Matrix, ...]:
    """Return matrices of so many weights; where fewer are active, in experts such as published mixtures have."""
    at = tuple(range(layers))
    if active == total:
        return (Matrix(hidden, (("layer", active // (hidden * layers)),), at),)
    share = EXPERTS_SHARE * active / (total - (1 - EXPERTS_SHARE) * active)
    count = max(EXPERTS_PER_TOKEN + 1, round(EXPERTS_PER_TOKEN / share))
    expert = (total - active) / (count - EXPERTS_PER_TOKEN)
    rest = max(0.0, active - EXPERTS_PER_TOKEN * expert)
    dense = Matrix(hidden, (("layer", int(rest / (hidden * layers))),), at)
    several = Matrix(hidden, (("mlp.experts", int(expert / (hidden * layers))),), at, count, EXPERTS_PER_TOKEN)
    return tuple(m for m in (dense, several) if m.outputs)


def weights(option: str, text: str, expected: str) -> int:
    """Read a count of weights, of which a model that is priced has a hundred thousand: a unit may be forgotten."""
    found = amount(option, text, MOST_WEIGHTS, expected)
    if found < LEAST_WEIGHTS:
        bare = re.fullmatch(r"[0-9.]+", text.strip())
        said = f"{text.strip()} weights; {text.strip()}B?" if bare else f"{found:,} weights; expected 100,000 or more"
        raise UserError(f"{option}: {text!r} is not allowed, {said}")
    return found


def amount(option: str, text: str, most: int, expected: str) -> int:
    """Read a count such as `8.03B`, `600M`, `131072` or `96KiB`."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]i?|b)?b?\s*", text.lower())
    units = DECIMAL | BINARY
    try:
        value = float(found[1]) * units[found[2] or ""] if found else math.nan
    except (ValueError, KeyError, OverflowError):
        value = math.nan
    if not 1 <= value <= most:
        raise UserError(f"{option}: {text!r} is not allowed, expected {expected}")
    return round(value)
