"""Number formats of weights: bits of a number with its scales, and which of a profile's formats does the arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from re import compile as compiled
from typing import NamedTuple

from simulator.ground.artefacts import UserError
from simulator.ground.names import number_format, one_of

WIDE = ("bfloat16", "float16", "float32")


class Format(NamedTuple):
    """How numbers are stored. bits: of one, its share of scales among them. arithmetic: in order of preference."""

    name: str
    bits: float
    arithmetic: tuple[str, ...]


def grouped(name: str, bits: float, scale_bits: float, group: int, arithmetic: tuple[str, ...] = ()) -> Format:
    """Return a format with so many bits of scales and zero points for every `group` numbers."""
    return Format(name, bits + scale_bits / group, arithmetic or ("int4" if bits == 4 else "", *WIDE))


PLAIN = {name: Format(name, bits, (name,)) for name, bits in (("float32", 32), ("float16", 16), ("bfloat16", 16))}
# What `--dtype` states has no scales, but for those whose blocks are part of the format (OCP MX, NVFP4).
FORMATS = PLAIN | {
    "fp8": Format("fp8", 8, ("fp8", *WIDE)),
    "int8": Format("int8", 8, ("int8", *WIDE)),
    "int4": Format("int4", 4, ("int4", *WIDE)),
    "mxfp8": grouped("mxfp8", 8, 8, 32, ("mxfp8", "fp8", *WIDE)),
    "mxfp6": grouped("mxfp6", 6, 8, 32, ("mxfp6", "fp8", *WIDE)),
    "mxfp4": grouped("mxfp4", 4, 8, 32, ("mxfp4", "fp4", "int4", *WIDE)),
    "nvfp4": grouped("nvfp4", 4, 8, 16, ("nvfp4", "fp4", "int4", *WIDE)),
    "awq": grouped("awq", 4, 16 + 4, 128),
    "gptq": grouped("gptq", 4, 16 + 4, 128),
}

# Bits of a weight over a whole file of Llama-3.1-8B, which mixes types: llama.cpp, tools/quantize/README.md; those not
# in its table from the sizes in GiB that tools/quantize/quantize.cpp has of Llama-3-8B, of 8.03e9 weights.
GGUF_BITS = {
    **{"IQ1_S": 2.0042, "IQ1_M": 2.1460, "IQ2_XXS": 2.3824, "IQ2_XS": 2.5882, "IQ2_S": 2.7403, "IQ2_M": 2.9294},
    **{"IQ3_XXS": 3.2548, "IQ3_XS": 3.4977, "IQ3_S": 3.6606, "IQ3_M": 3.7628, "IQ4_XS": 4.4597, "IQ4_NL": 4.6818},
    **{"Q2_K_S": 2.9697, "Q2_K": 3.1593, "Q3_K_S": 3.6429, "Q3_K_L": 4.2979, "Q4_K_S": 4.6672, "Q4_K_M": 4.8944},
    **{"Q5_K_S": 5.5704, "Q5_K_M": 5.7036, "Q6_K": 6.5633, "Q8_0": 8.5008},
    **{"Q3_K_M": 4.0006, "Q4_0": 4.6424, "Q4_1": 5.1131, "Q5_0": 5.5731, "Q5_1": 6.0437},
}
FORMATS |= {name: Format(name, bits, WIDE) for name, bits in GGUF_BITS.items()}


def format_of(dtype: str) -> Format:
    """Return a number format.

    Raises:
        UserError: The name is none of `FORMATS`.
    """
    name = number_format(dtype)
    if name not in FORMATS:
        raise UserError(f"dtype: {dtype!r} is not known, expected {one_of(FORMATS, dtype)}")
    return FORMATS[name]


def bytes_per_weight(dtype: str) -> float:
    """Return the bytes of one number.

    Raises:
        UserError: The dtype is none of `FORMATS`.
    """
    return format_of(dtype).bits / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Modules that are stored otherwise: names, globs, or `re:` and a regular expression, as quantizers list them."""

    patterns: tuple[str, ...]
    format: Format | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How a model's weights are stored.

    format: of the matrices of the layers; plain: of all else, as quantizers leave output head, embeddings, routers,
    norms and biases. rules: exceptions, of which the first that names a module holds; None there: plain.
    experts_only: the format is that of routed experts alone. everything: it is that of head, embeddings and routers as
    well.
    """

    name: str
    format: Format
    plain: Format = PLAIN["bfloat16"]
    rules: tuple[Rule, ...] = ()
    experts_only: bool = False
    everything: bool = False

    @property
    def is_quantized(self) -> bool:
        """Whether weights are in fewer bits than the rest."""
        return self.format.bits < self.plain.bits

    def of(self, module: str, *, is_expert: bool = False, is_outer: bool = False, is_router: bool = False) -> Format:
        """Return the format of a module of the model."""
        rule = self.rule_of(module)
        if rule is not None:
            return rule.format or self.plain
        left_out = (self.experts_only and not is_expert) or ((is_router or is_outer) and not self.everything)
        return self.plain if left_out else self.format

    def rule_of(self, module: str) -> Rule | None:
        """Return the first exception that names a module."""
        return next((rule for rule in self.rules if matcher(rule.patterns)(module)), None)


@lru_cache(maxsize=256)
def storage_of(dtype: str) -> Storage:
    """Return how weights are stored in one of `FORMATS`; what quantizers leave alone is in 16 bits.

    The bits of GGUF types are those of a whole file, output head and embeddings in.
    """
    known = format_of(dtype)
    plain, everything = known if known.bits >= 16 else PLAIN["bfloat16"], known.name in GGUF_BITS
    return Storage(name=known.name, format=known, plain=plain, everything=everything)


SYNONYMS = {
    "feed_forward": "mlp",
    "block_sparse_moe": "mlp",
    "ffn": "mlp",
    "attention": "self_attn",
    "attn": "self_attn",
}
SYNONYMS |= {"shared_experts": "shared_expert", "head": "lm_head", "embed_out": "lm_head"}
SYNONYMS |= dict.fromkeys(("wte", "word_embeddings", "tok_embeddings", "embed_in"), "embed_tokens")
# What stands before the modules outside of layers.
OUTSIDE = frozenset(["model", "language_model", "text_model", "transformer", "decoder"])


def normalised(name: str) -> str:
    """Return a module's name from `layers.` on or without its models', with one word for what families call apart."""
    at = name.find("layers.")
    parts = (name if at < 0 else name[at:]).strip(".").split(".")
    while len(parts) > 1 and parts[0] in OUTSIDE:
        parts = parts[1:]
    return ".".join(SYNONYMS.get(part, part) for part in parts)


@lru_cache(maxsize=64)
def matcher(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Return what tells whether modules are named by patterns.

    A name or glob stands for the module and all in it, wherever its path holds these parts; a regular expression is
    matched from the beginning of the path, as compressed-tensors does.
    """
    names = {normalised(p) for p in patterns if not p.startswith("re:") and "*" not in p}
    globs = [compiled(rf"(?:.*\.)?{translate(normalised(p))[4:-3]}(?:\..*)?\Z") for p in patterns if is_glob(p)]
    expressions = [compiled(p[3:]) for p in patterns if p.startswith("re:")]

    def matches(module: str) -> bool:
        parts = normalised(module).split(".")
        paths = {".".join(parts[a:b]) for a in range(len(parts)) for b in range(a + 1, len(parts) + 1)}
        if names & paths or any(glob.match(normalised(module)) for glob in globs):
            return True
        return any(e.match(path) for e in expressions for path in (spelled(module) if expressions else ()))

    return matches


PREFIXES = ("", "model.", "language_model.model.", "model.language_model.")


@lru_cache(maxsize=4096)
def spelled(module: str) -> tuple[str, ...]:
    """Return the names that checkpoints of different families have for a module."""
    names = {module}
    for word, other in SYNONYMS.items():
        names |= {name.replace(f".{other}.", f".{word}.") for name in names}
    return tuple(prefix + name for name in sorted(names) for prefix in PREFIXES)


def is_glob(pattern: str) -> bool:
    """Whether a pattern has wildcards."""
    return "*" in pattern and not pattern.startswith("re:")
