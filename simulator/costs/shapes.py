"""Model shapes from a Hugging Face config.json, a user's or one of the catalogue (model §2): sizes, never weights."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, read_json, shortened
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.names import Found, Names, find_name, nearest, number_format, parts_of

from .config_json import KEYS, predictors
from .drafters.methods import drafter_of, kind_of
from .drafters.plan import Method
from .families import ALIASES, FAMILIES, language_model
from .formats import FORMATS, Storage, storage_of
from .named_formats import named_format
from .quantization import Quantized, file_beside, quantization_of
from .work import ModelShape

CATALOGUE = Path(__file__).parent / "catalogue"
CLASS_DEFAULTS = Path(__file__).parent / "class_defaults.json"
# Names of other models of the very same sizes, but for the longest context.
ALSO_CALLED = {
    **dict.fromkeys(("llama-3-8b", "deepseek-r1-distill-llama-8b"), "llama-3.1-8b"),
    **dict.fromkeys(("llama-3-70b", "deepseek-r1-distill-llama-70b"), "llama-3.1-70b"),
    **dict.fromkeys(("deepseek-r1", "deepseek-v3.1"), "deepseek-v3"),
    **dict.fromkeys(("minimax-m2.1", "minimax-m2.5"), "minimax-m2"),
    "kimi-k2.5": "kimi-k2-thinking",
    **dict.fromkeys(("phi-3-mini-4k", "phi-3-mini-128k"), "phi-3-mini"),
    **dict.fromkeys(("mistral", "mistral-7b-v0.1"), "mistral-7b"),
}
# The longest context of models of another's sizes, or tuned for another context, by their own files. A name is told by
# parts of it; of several the one with the most, then the first.
MADE_FOR = {
    **{"llama-3-8b": 8192, "llama-3-70b": 8192, "deepseek-r1-distill-llama": 131_072, "deepseek-r1": 163_840},
    **{"deepseek-v3": 163_840, "deepseek-v3.1": 163_840, "phi-3-mini-4k": 4096, "phi-3-mini-128k": 131_072},
    **{"mistral-7b": 32_768, "mistral-small-24b-2501": 32_768, "vicuna-7b-v1.3": 2048, "vicuna-7b-v1.5": 4096},
    **{"qwen2.5-math": 4096, "qwen2.5-coder": 32_768, "qwen2.5-instruct": 32_768},
    **{"qwen3-base": 32_768, "qwen3-2507": 262_144, "qwen3-coder": 262_144, "kimi-k2-0905": 262_144},
}
# Parts of a model's name that tell its sizes from no other's.
IDLE = frozenset(
    [
        "instruct",
        "it",
        "chat",
        "hf",
        "base",
        "pt",
        "meta",
        "text",
        "coder",
        "math",
        "sft",
        "dpo",
        "qat",
    ]
)
# Those of other models of the same sizes.
RETRAINED = frozenset(["base", "coder", "math", "sft", "dpo"])
# Parts that make another model of one of the same name.
TELLING = frozenset(["lite", "mini", "small", "medium", "large", "nano", "moe", "tiny"])
# What may be cut from a name: nothing, dates and ways of training, versions too.
SAME_SIZES = tuple(
    re.compile(rf"[-_](?:{what})(?=[-_]|$)", re.IGNORECASE)
    for what in ("(?!)", r"\d{4}|thinking|preview", r"\d{4}|thinking|preview|v\d+(?:\.\d+)?")
)
# What a model calls the longest context it was made for.
LONGEST = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "model_max_length",
    "seq_length",
    "max_target_positions",
)


def catalogue() -> tuple[str, ...]:
    """Return the names of the shapes that come along."""
    return tuple(sorted(p.stem for p in CATALOGUE.glob("*.json")))


def config_file(path_or_name: str | Path) -> tuple[Path, str]:
    """Find the config.json of a model: its path, and what to call the model.

    Args:
        path_or_name: A Hugging Face config.json, a folder that holds one, or a name of the catalogue as people write
            it, such as a hub id. A file goes before a name.
    """
    path, found = find_model(path_or_name)
    return path, found.name


def find_model(path_or_name: str | Path) -> tuple[Path, Found]:
    """Find the config.json of a model, what to call the model, and what was taken for granted of its name."""
    given = Path(path_or_name)
    path = given / "config.json" if given.is_dir() else given
    if (path.exists() and path.suffix.lower() != ".gguf") or given.is_dir():
        return path, Found(path.resolve().parent.name if path.name == "config.json" else path.stem)
    text = str(path_or_name)
    if text.endswith(".json"):
        raise UserError(f"{text}: no such file")
    named = named_format(text)
    found = find_in_catalogue(named.plain)
    if found is None:
        if kind_of(text):
            raise UserError(f"{text}: no such file or folder, expected the drafter's config.json (drafters list)")
        those = ", ".join(nearest(text.rpartition("/")[2], catalogue()))
        raise UserError(
            f"{text}: no such file or folder, nor a model of `shapes list` (nearest: {those}), "
            "expected a config.json of it, or --params"
        )
    said = ", ".join(filter(None, (f"stands for {text}" if found.said or named.said else "", named.said)))
    return CATALOGUE / f"{found.name}.json", Found(found.name, said)


def find_in_catalogue(text: str) -> Found | None:
    """Find a name of the catalogue, as it is, else without dates and versions behind which the sizes are the same."""
    names = Names(kind="model", known=catalogue(), also=ALSO_CALLED, idle=IDLE, telling=TELLING)
    for behind in SAME_SIZES:
        shorter = behind.sub("", text)
        if found := find_name(shorter, names, whole=shorter != text):
            retrained = RETRAINED & (parts_of(shorter.rpartition("/")[2]) - parts_of(found.name)).keys()
            return Found(found.name, f"stands for {text}") if shorter != text or retrained else found
    return None


def made_for(text: str) -> int | None:
    """Return the longest context of a model by what its name says, None where that says nothing."""
    parts = parts_of(text.rpartition("/")[2])
    told = [name for name in MADE_FOR if parts_of(name) <= parts]
    return MADE_FOR[max(told, key=lambda name: parts_of(name).total())] if told else None


def read_shape(path_or_name: str | Path, stated: Method | None = None) -> ModelShape:
    """Read the shape of a model from what `find_model` finds; stated: how it drafts, whatever its file says."""
    path, found = find_model(path_or_name)
    config = read_json(path, any_number=True)
    if path.parent == CATALOGUE and stated and stated.waits and not (stated.is_within and predictors(config)):
        what = f"a language model ({found.name}), which does not draft as {stated.name}"
        raise UserError(f"{path_or_name}: {what}, expected the drafter's own config.json")
    shape = shape_of(config, found.name, stated)
    if path.parent == CATALOGUE and str(path_or_name) not in (found.name, str(path)):
        shape = replace(shape, stated_name=str(path_or_name))
    if path.parent != CATALOGUE:
        return shape
    named = named_format(str(path_or_name))
    asked, longest = find_in_catalogue(named.plain), made_for(named.plain)
    if longest is not None or (asked is not None and asked.said):
        # A model of the same sizes, which may be made for a context that is not known.
        shape = replace(shape, longest_context=longest)
    if named.quantized != Quantized() and not says_no_more(named.quantized.storage, shape.storage):
        shape = replace(shape, storage=named.quantized.storage, unread=named.quantized.unread)
    return replace(shape, assumed=found.said)


def says_no_more(named: Storage | None, published: Storage | None) -> bool:
    """Say whether a name has, of no quantizer, the very numbers that the model's file has, with more of its scales."""
    if named is None or published is None or named.name != named.format.name:
        return False
    kinds = {stored.format.name.partition(" ")[0] for stored in (named, published)}
    return len(kinds) == 1 and named.format.arithmetic == published.format.arithmetic


def shape_of(config: Field, name: str, stated: Method | None = None) -> ModelShape:
    """Return the shape that the values of a config.json describe.

    Args:
        config: The values by key.
        name: What to call the model.
        stated: How it drafts, where its file does not tell.

    Raises:
        UserError: The family is unknown, or a value is missing or odd.
    """
    quantized = quantization_of(config, file_beside(config))
    method, (architecture, said) = drafter_of(config, stated)
    if method and method.read and not method.is_stack:
        shape = method.read(config, config, architecture)
        return replace(shape, name=name, storage=quantized.storage, unread=quantized.unread, assumed=said)
    text, is_inner = text_model(config)
    if method and method.waits:
        # A head is built as its architecture says, whatever its target: Kimi's has llama's layers.
        layers = re.sub("Eagle3?", "", architecture).partition("ForCausalLM")[0]
        named = ARCHITECTURES.get(f"{layers}ForCausalLM")
        members = dict.fromkeys(EXPERT_COUNTS) | text.object() | ({"model_type": named} if named else {})
        text = text.but(**members)
    family = family_of(text)
    whole = filled(text, family.name, is_inner=is_inner)
    shape = method.read(whole, config, architecture) if method and method.read else language_model(whole)
    if shape.drafting:
        shape = replace(shape, drafting=shape.drafting._replace(usual=stated_length(config)))
    found = quantized if quantized != Quantized() else quantization_of(text, None)
    if found == Quantized():
        storage, stored = stored_unquantized(config, text)
        found, said = Quantized(storage), "; ".join(filter(None, (said, stored)))
    return replace(
        shape,
        name=name,
        storage=found.storage,
        unread=found.unread,
        kv_dtype=found.kv_dtype,
        predictors=0 if method else predictors(config) or predictors(text),
        longest_context=longest_context(whole if is_inner else text),
        assumed="; ".join(filter(None, (family.said, said))),
    )


def stated_length(config: Field) -> int | None:
    """Return the draft length that a file of the speculators format states: of its first method."""
    if not config["speculators_config"].is_given:
        return None
    own = config["speculators_config"]
    ways = own["proposal_methods"].elements() if own["proposal_methods"].is_given else [own]
    stated = [way["speculative_tokens"] for way in ways if way["speculative_tokens"].is_given]
    return stated[0].whole(1, MAX_DRAFT_LENGTH) if stated else None


def stored_unquantized(config: Field, text: Field) -> tuple[Storage | None, str]:
    """Return how a file without a quantization stores its weights, where not in 16 bits, and the same in words."""
    stated = next((f[k].value for f in (config, text) for k in ("dtype", "torch_dtype") if f[k].is_given), None)
    name = number_format(stated) if isinstance(stated, str) else ""
    if name not in FORMATS or FORMATS[name].bits == 16:
        return None, ""
    storage = storage_of(name)
    size = "1 byte" if storage.format.bits == 8 else f"{storage.format.bits / 8:g} bytes"
    return storage, f"stored in {name}, {size} a weight, as dtype in its file says"


def text_model(config: Field) -> tuple[Field, bool]:
    """Return the language model of a file: the file itself, or what lies within for one of several parts."""
    for key in ("text_config", "llm_config", "language_config", "transformer_layer_config", "model"):
        inner = config[key]
        if isinstance(inner.value, dict):
            return inner_model(config, inner), True
    thinker = config["thinker_config"]
    if isinstance(thinker.value, dict) and isinstance(thinker.value.get("text_config"), dict):
        return inner_model(thinker, thinker["text_config"]), True
    return config, False


def inner_model(config: Field, inner: Field) -> Field:
    """Return the text model within a wrapper; its family is the wrapper's where it has none.

    Embeddings are tied as the wrapper says, whose output head it is; of remote code the text model says it.
    """
    members: dict[str, Any] = {}
    if not inner["model_type"].is_given:
        members["model_type"] = config["model_type"].value
    is_wrapped = inner.where.endswith("text_config") or not inner["tie_word_embeddings"].is_stated
    if is_wrapped and config["tie_word_embeddings"].is_given:
        members["tie_word_embeddings"] = config["tie_word_embeddings"].value
    return inner.but(**members)


@lru_cache(maxsize=1)
def class_defaults() -> dict[str, dict[str, Any]]:
    """Return what the classes of transformers have for values that files leave out, by family."""
    values: dict[str, dict[str, Any]] = json.loads(CLASS_DEFAULTS.read_text("utf-8"))
    return values


def filled(config: Field, family: str, *, is_inner: bool) -> Field:
    """Return a configuration with what its file leaves out; a model's own file has to state its main sizes."""
    keys = {**KEYS, **FAMILIES[family].layout.keys}
    config = config.but(**other_names(config, keys))
    main = ("layers", "hidden", "heads", "ffn", "vocabulary", "encoder_layers", "encoder_ffn")
    stated = set() if is_inner else {keys[k] for k in main if k in keys}
    defaults = {k: v for k, v in class_defaults().get(family, {}).items() if k not in stated}
    return FAMILIES[family].prepare(config.but(**(defaults | config.object() | {"model_type": family})))


# A drafter has experts only where its own file counts them.
EXPERT_COUNTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")

# What files call the same size; the classes of transformers read several of them.
NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "n_embed", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "ffn": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size", "block_ff_dim"),
}


def other_names(config: Field, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the sizes that a file states by other names than its family's, by the family's."""
    found = {}
    for size, names in NAMES.items():
        stated = [name for name in names if config[name].is_given]
        if not config[keys[size]].is_stated and stated:
            found[keys[size]] = config[stated[0]].value
    return found


def family_of(config: Field) -> Found:
    """Return the family that a file names, by its own name or another; said: where only its architecture tells."""
    named = config["model_type"]
    value = named.value if isinstance(named.value, str) else ""
    family = ALIASES.get(value, value)
    listed = config["architectures"].value
    named_so = [a for a in listed if isinstance(a, str)] if isinstance(listed, list) else []
    if named_so and all(a.endswith("EncoderModel") for a in named_so):
        config["architectures"].refuse("one that decodes, such as T5ForConditionalGeneration")
    told = [ARCHITECTURES.get(a, "") for a in named_so]
    own = next((f for f in (family, f"{family}_text") if f in FAMILIES), None)
    found = own or next((f for f in told if f in FAMILIES), None)
    if found is None:
        named.refuse(
            f"one of {len(FAMILIES)} families, such as {', '.join(nearest(value, FAMILIES))}; "
            "for others state --params, --active-params and --kv-bytes-per-token"
        )
    unknown = f"model_type {shortened(value)} is not known, " if value else ""
    return Found(found, "" if own else f"{unknown}read as {found}, as its architecture tells")


# The classes of models whose families are read, which tell what a family by a new name is built like.
ARCHITECTURES = {
    "".join(part.capitalize() for part in family.split("_")) + "ForCausalLM": family for family in FAMILIES
} | {
    "DeepseekV3ForCausalLM": "deepseek_v3",
    "DeepseekV32ForCausalLM": "deepseek_v32",
    "OPTForCausalLM": "opt",
    "GPT2LMHeadModel": "gpt2",
    "GPTNeoXForCausalLM": "gpt_neox",
    "MiniMaxM2ForCausalLM": "minimax_m2",
    "OlmoeForCausalLM": "olmoe",
    "SmolLM3ForCausalLM": "smollm3",
    "HunYuanDenseV1ForCausalLM": "hunyuan_v1_dense",
    "HunYuanMoEV1ForCausalLM": "hunyuan_v1_moe",
}


def longest_context(config: Field) -> int | None:
    """Return the positions that a model was made for, extended as its scaling of rotary angles says."""
    stated = next((config[k] for k in LONGEST if config[k].is_given), None)
    if stated is None:
        return None
    longest = stated.whole(1)
    scaling = next((config[k] for k in ("rope_scaling", "rope_parameters") if isinstance(config[k].value, dict)), None)
    if scaling is None:
        return longest
    kind = next((scaling[k].value for k in ("rope_type", "type") if scaling[k].is_given), "default")
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
    if (
        kind not in ("linear", "dynamic", "yarn", "ntk")
        or not factor.is_given
        or "gemma3" in str(config["model_type"].value)
    ):
        return longest
    if kind == "yarn" and original.is_given:
        return max(longest, int(original.whole(1) * factor.number(1)))
    return longest if kind == "yarn" else int(longest * factor.number(1))
