"""How the weights of a model are stored, from its config.json and the hf_quant_config.json beside it.

Formats of files: `quantization_config` of transformers (fp8, awq, gptq, compressed-tensors, mxfp4, bitsandbytes and
more), `quantization` of MLX, hf_quant_config.json of NVIDIA's Model Optimizer.
"""

from collections.abc import Callable
from pathlib import Path
from re import error as PatternError
from typing import NamedTuple

from simulator.ground.fields import Field, read_json

from .formats import FORMATS, PLAIN, WIDE, Format, Rule, Storage, grouped, matcher

# Bits of a scale: of 32 bits for blocks of fp8, of 16 for groups of integers.
BLOCK_SCALE, GROUP_SCALE = 32, 16
MAX_BITS, MAX_GROUP = 16, 10**6


class Unread(ValueError):
    """A quantization that no one reads; the message names it."""


class Quantized(NamedTuple):
    """What a file says: how weights are stored, what it says that no one reads, and the format of the KV cache."""

    storage: Storage | None = None
    unread: str = ""
    kv_dtype: str | None = None


# Files beside a config.json that tell instead of it, and the quantizer that writes them.
BESIDE = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}


def file_beside(config: Field) -> Field | None:
    """Return what a quantizer's own file beside a config.json says, as config.json would."""
    for name, method in BESIDE.items() if str(config.path) else ():
        path = Path(config.path).with_name(name)
        if path.is_file():
            found = read_json(path, any_number=True)
            found = found["quantization"] if found["quantization"].is_given else found
            return found if found["quant_method"].is_given else found.but(quant_method=method)
    return None


def quantization_of(config: Field, beside: Field | None) -> Quantized:
    """Return what a config.json, or the file of its quantizer beside it, says of number formats.

    Raises:
        UserError: A value is odd.
    """
    found = next(
        (config[k] for k in ("quantization_config", "quantization", "compression_config") if config[k].is_given), None
    )
    found = beside if found is None else found
    if found is None or not found.object():
        return Quantized()
    method = method_of(found)
    if method not in METHODS:
        return Quantized(unread=f"{found.place} names {method!r}", kv_dtype=kv_format(found))
    try:
        storage = METHODS[method](found)
        for rule in storage.rules if storage else ():
            matcher(rule.patterns)
    except Unread as error:
        return Quantized(unread=f"{found.place} names {error}", kv_dtype=kv_format(found))
    except PatternError as error:
        found.refuse(f"regular expressions that compile ({error})")
    return Quantized(storage, kv_dtype=kv_format(found))


def method_of(found: Field) -> str:
    """Return the quantizer's name."""
    if found["quant_method"].is_given:
        return found["quant_method"].text().lower().replace("_", "-")
    if found["quant_algo"].is_stated:
        return "modelopt"
    if found["config_groups"].is_given:
        return "compressed-tensors"
    return "mlx" if found["bits"].is_given or found["mode"].is_given else ", ".join(found.object())[:40]


def names_of(found: Field, *keys: str) -> tuple[str, ...]:
    """Return the modules that a list leaves out; the first of the keys that has one."""
    for key in keys:
        if found[key].is_given:
            return tuple(e.text() for e in found[key].elements())
    return ()


def left_out(names: tuple[str, ...]) -> tuple[Rule, ...]:
    """Return the rule that modules are not quantized."""
    return (Rule(patterns=names, format=None),) if names else ()


def integers(bits: float, group: int | None, *, zero_point: bool, weight_only: bool = True) -> Format:
    """Return integers with a scale, and perhaps a zero point, for each group; no group: for each row."""
    name = f"int{bits:g}"
    arithmetic = ("int4", *WIDE) if weight_only else (name, "int8", *WIDE)
    if group is None:
        return Format(name, bits, arithmetic if bits < 16 else WIDE)
    extra = GROUP_SCALE + (bits if zero_point else 0)
    return grouped(f"{name} in groups of {group}", bits, extra, group, arithmetic)


def floats(bits: int, group: int | None, scale_bits: int, *, weight_only: bool = False) -> Format:
    """Return floating-point numbers of 4 or 8 bits, with a scale for each group of numbers, if any."""
    name = {4: "fp4", 6: "fp6", 8: "fp8"}.get(bits)
    if name is None:
        raise Unread(f"floats of {bits} bits")
    best = WIDE if weight_only else {4: ("nvfp4", "fp4", "int4", *WIDE), 6: ("fp8", *WIDE), 8: ("fp8", *WIDE)}[bits]
    best = ("int4", *WIDE) if weight_only and bits == 4 else best
    return (
        Format(name, bits, best)
        if group is None
        else grouped(f"{name} in groups of {group}", bits, scale_bits, group, best)
    )


def fp8(found: Field) -> Storage:
    """Read fp8 as DeepSeek, Qwen and transformers write it: a scale for each block, or one for a matrix."""
    names = names_of(found, "modules_to_not_convert", "ignored_layers", "ignore", "exclude")
    block = found["weight_block_size"]
    stored, words = FORMATS["fp8"], "fp8"
    if block.is_given:
        sides = [side.whole(1, MAX_GROUP) for side in block.elements()]
        if len(sides) != 2:
            block.refuse("rows and columns of a block")
        stored = grouped("fp8", 8, BLOCK_SCALE, sides[0] * sides[1], ("fp8", *WIDE))
        words = f"fp8 in blocks of {sides[0]} x {sides[1]}"
    return Storage(name=words, format=stored, rules=left_out(names))


def awq(found: Field) -> Storage:
    """Read AWQ: integers of 4 bits in groups, with zero points."""
    key = "bits" if found["bits"].is_given else "w_bit"
    bits, group = found[key].whole(1, MAX_BITS, default=4), group_of(found, "group_size", "q_group_size")
    stored = integers(bits, group, zero_point=found["zero_point"].flag(True))
    return Storage(name=f"AWQ {stored.name}", format=stored, rules=left_out(names_of(found, "modules_to_not_convert")))


def group_of(found: Field, *keys: str) -> int | None:
    """Return the numbers that share a scale; None for those of a row."""
    value = next((found[k] for k in keys if found[k].is_given), None)
    if value is None:
        return 128
    number = value.whole(-1, MAX_GROUP)
    return None if number in (-1, 0) else number


def gptq(found: Field) -> Storage:
    """Read GPTQ: integers in groups with zero points; `dynamic` names modules with other bits, or left out."""
    bits, group = found["bits"].whole(1, MAX_BITS), group_of(found, "group_size")
    stored, rules = integers(bits, group, zero_point=True), []
    for key, change in found["dynamic"].items() if found["dynamic"].is_given else ():
        pattern = f"re:.*{key.removeprefix('+:').removeprefix('-:')}"
        own = change["bits"].whole(1, MAX_BITS, default=bits)
        rules += [
            Rule(patterns=(pattern,), format=None if key.startswith("-:") else integers(own, group, zero_point=True))
        ]
    rules += left_out(names_of(found, "modules_to_not_convert"))
    if found["lm_head"].flag(False):
        rules = [*rules, Rule(patterns=("lm_head",), format=stored)]
    return Storage(name=f"GPTQ {stored.name}", format=stored, rules=tuple(rules))


def bitsandbytes(found: Field) -> Storage:
    """Read bitsandbytes: 4 bits in blocks of 64, whose scales of 32 bits may be quantized in turn, or 8 bits a row."""
    names = names_of(found, "llm_int8_skip_modules")
    if found["load_in_4bit"].flag(False):
        scale = 8 + 32 / 256 if found["bnb_4bit_use_double_quant"].flag(False) else 32
        return Storage(
            name="bitsandbytes 4-bit", format=grouped("nf4", 4, scale, 64, ("int4", *WIDE)), rules=left_out(names)
        )
    if not found["load_in_8bit"].flag(False):
        raise Unread("'bitsandbytes' with neither load_in_4bit nor load_in_8bit")
    return Storage(name="bitsandbytes 8-bit", format=Format("int8", 8, ("int8", *WIDE)), rules=left_out(names))


def mxfp4(found: Field) -> Storage:
    """Read MXFP4 as gpt-oss has it: routed experts alone."""
    names = names_of(found, "modules_to_not_convert")
    return Storage(name="mxfp4 experts", format=FORMATS["mxfp4"], rules=left_out(names), experts_only=True)


def compressed_format(group: Field) -> Format:
    """Return the format of one group of compressed-tensors."""
    weights, activations = group["weights"], group["input_activations"]
    if not weights.is_given:
        return PLAIN["bfloat16"]
    bits, kind = weights["num_bits"].whole(1, MAX_BITS), weights["type"].choice(("int", "float"))
    weight_only = not activations.is_given
    strategy = weights["strategy"].text() if weights["strategy"].is_given else "tensor"
    size = weights["group_size"].whole(1, MAX_GROUP) if strategy in ("group", "tensor_group") else None
    if strategy == "block" and weights["block_structure"].is_given:
        sides = [s.whole(1, MAX_GROUP) for s in weights["block_structure"].elements()]
        size = sides[0] * sides[-1]
    if kind == "float":
        scale = BLOCK_SCALE if strategy == "block" else 8 if bits == 4 else GROUP_SCALE
        known = {16: FORMATS["nvfp4"], 32: FORMATS["mxfp4"]}
        if bits == 4 and size in known and not weight_only:
            return known[size]
        return floats(bits, size, scale, weight_only=weight_only)
    zero_point = not weights["symmetric"].flag(True)
    if weight_only and bits == 8:
        return integers(bits, size, zero_point=zero_point)._replace(arithmetic=WIDE)
    return integers(bits, size, zero_point=zero_point, weight_only=weight_only)


def compressed_tensors(found: Field) -> Storage:
    """Read compressed-tensors (LLM Compressor): groups of modules, each with its format; the rest is left out."""
    sparsity = found["sparsity_config"]
    if sparsity.is_given and sparsity.object() and sparsity["format"].value not in (None, "dense"):
        raise Unread(f"sparse weights ({sparsity['format'].value!r})")
    ignored, rules, every = left_out(names_of(found, "ignore")), [], None
    if not found["config_groups"].object():
        raise Unread("'compressed-tensors' without config_groups")
    for _, group in found["config_groups"].items():
        stored, targets = compressed_format(group), names_of(group, "targets") or ("Linear",)
        if "Linear" in targets:
            every = every or stored
        others = tuple(t for t in targets if t != "Linear")
        rules += [Rule(patterns=others, format=stored)] if others else []
    stored = every or PLAIN["bfloat16"]
    first = every or next((r.format for r in rules if r.format), stored)
    several = {f.name for f in (every, *(r.format for r in rules)) if f}
    name = f"compressed-tensors {first.name if len(several) < 2 else 'in mixed precision'}"
    # Arithmetic is that of the format that modules are in.
    return Storage(name=name, format=stored._replace(arithmetic=first.arithmetic), rules=(*ignored, *rules))


def modelopt_format(algorithm: str, group: int | None) -> Format | None:
    """Return the format that Model Optimizer calls so; None: not quantized."""
    name = algorithm.upper()
    if name in ("NONE", ""):
        return None
    if "NVFP4" in name:
        return FORMATS["nvfp4"] if group in (None, 16) else grouped("nvfp4", 4, 8, group, FORMATS["nvfp4"].arithmetic)
    if "MXFP4" in name:
        return FORMATS["mxfp4"]
    if "MXFP8" in name:
        return FORMATS["mxfp8"]
    if name.startswith("FP8"):
        blocks = "BLOCK" in name or "PB" in name
        return grouped("fp8", 8, BLOCK_SCALE, 128 * 128, ("fp8", *WIDE)) if blocks else FORMATS["fp8"]
    if "INT4" in name or "W4A16" in name or "W4A8" in name:
        stored = integers(4, group or 128, zero_point=False)
        return stored._replace(arithmetic=("fp8", *stored.arithmetic)) if "W4A8" in name else stored
    if "W8A16" in name:
        return Format("int8", 8, WIDE)
    if "W8A8" in name or "INT8" in name:
        return FORMATS["int8"]
    raise Unread(repr(algorithm))


def modelopt(found: Field) -> Storage | None:
    """Read Model Optimizer's words, of hf_quant_config.json or of config.json."""
    names, group = names_of(found, "exclude_modules", "ignore"), found["group_size"]
    size = group.whole(1, MAX_GROUP) if group.is_given else None
    if found["quant_algo"].value is None and found["config_groups"].is_given:
        return compressed_tensors(found)
    if found["quant_algo"].value is None:
        return None
    algorithm = found["quant_algo"].text()
    if algorithm.upper() != "MIXED_PRECISION":
        stored = modelopt_format(algorithm, size)
        return stored and Storage(name=algorithm, format=stored, rules=left_out(names))
    rules = []
    for module, entry in found["quantized_layers"].items():
        own = entry["group_size"].whole(1, MAX_GROUP) if entry["group_size"].is_given else size
        rules.append(Rule(patterns=(module,), format=modelopt_format(entry["quant_algo"].text(), own)))
    best = next((r.format for r in rules if r.format), PLAIN["bfloat16"])
    stored = PLAIN["bfloat16"]._replace(arithmetic=best.arithmetic)
    return Storage(name="mixed precision", format=stored, rules=(*left_out(names), *rules))


MLX_MODES = {"mxfp4": FORMATS["mxfp4"], "nvfp4": FORMATS["nvfp4"], "mxfp8": FORMATS["mxfp8"]}


def mlx_format(found: Field) -> Format:
    """Return what MLX calls so: a scale and an offset of 16 bits for each group, or one of the block formats."""
    mode = found["mode"].value if isinstance(found["mode"].value, str) else "affine"
    if mode in MLX_MODES:
        return MLX_MODES[mode]._replace(arithmetic=("int4", *WIDE))
    if mode != "affine":
        raise Unread(f"MLX mode {mode!r}")
    bits, group = found["bits"].whole(1, MAX_BITS), found["group_size"].whole(1, MAX_GROUP, default=64)
    return grouped(f"{bits} bits in groups of {group}", bits, 2 * GROUP_SCALE, group, ("int4", *WIDE))


def mlx(found: Field) -> Storage:
    """Read MLX: embeddings and output head are quantized too; single modules may have other bits, or none."""
    stored, rules = mlx_format(found), []
    for key, value in found.items():
        if isinstance(value.value, dict):
            rules.append(Rule(patterns=(key,), format=mlx_format(value)))
        elif value.value is False:
            rules.append(Rule(patterns=(key,), format=None))
    return Storage(name=f"MLX {stored.name}", format=stored, rules=tuple(rules), everything=True)


def quark(found: Field) -> Storage:
    """Read AMD Quark."""
    weight = found["global_quant_config"]["weight"]
    entry = weight.elements()[0] if isinstance(weight.value, list) and weight.value else weight
    dtype, size = entry["dtype"].text(), entry["group_size"]
    group = size.whole(1, MAX_GROUP) if size.is_given and entry["qscheme"].value == "per_group" else None
    if dtype.startswith("fp8"):
        stored = floats(8, group, BLOCK_SCALE)
    elif dtype.startswith("fp4") or dtype == "mxfp4":
        stored = FORMATS["mxfp4"]
    elif dtype in ("int4", "uint4", "int8", "uint8"):
        stored = integers(int(dtype[-1]), group, zero_point=dtype.startswith("u"))
    else:
        raise Unread(f"Quark's {dtype!r}")
    return Storage(name=f"Quark {stored.name}", format=stored, rules=left_out(names_of(found, "exclude")))


def group_size(found: Field) -> Field | None:
    """Return the first size of groups in what torchao says of its kind, however deep."""
    if not isinstance(found.value, dict):
        return None
    inner = (group_size(value) for _, value in found.items())
    return found["group_size"] if found["group_size"].is_given else next(filter(None, inner), None)


def torchao(found: Field) -> Storage:
    """Read torchao by the name of its kind."""
    text = repr(found["quant_type"].value).lower()
    if "int4" in text:
        # Beside activations of fp8 the weights have no zero points.
        size, is_plain = group_size(found), "float8" not in text
        stored = integers(4, size.whole(1, MAX_GROUP) if size else 128, zero_point=is_plain)
        stored = stored if is_plain else stored._replace(arithmetic=("fp8", *WIDE))
    elif "float8" in text:
        stored = FORMATS["fp8"]
    elif "int8" in text:
        stored = Format("int8", 8, WIDE if "weight_only" in text or "weightonly" in text else ("int8", *WIDE))
    else:
        raise Unread(f"torchao's {text[:60]}")
    return Storage(
        name=f"torchao {stored.name}", format=stored, rules=left_out(names_of(found, "modules_to_not_convert"))
    )


def hqq(found: Field) -> Storage:
    """Read HQQ: integers in groups, with a scale and a zero point of 16 bits each."""
    own = found["quant_config"]["weight_quant_params"] if found["quant_config"].is_given else found
    bits, group = own["nbits"].whole(1, MAX_BITS), own["group_size"].whole(1, MAX_GROUP, default=64)
    stored = grouped(f"int{bits} in groups of {group}", bits, 2 * GROUP_SCALE, group, ("int4", *WIDE))
    return Storage(name=f"HQQ {stored.name}", format=stored, rules=left_out(names_of(found, "skip_modules")))


def quanto(found: Field) -> Storage:
    """Read Quanto."""
    kinds = {"float8": FORMATS["fp8"], "int8": Format("int8", 8, WIDE), "int4": integers(4, 128, zero_point=True)}
    kinds["int2"] = integers(2, 128, zero_point=True)
    stored = kinds[found["weights"].choice(tuple(kinds))]
    return Storage(
        name=f"Quanto {stored.name}", format=stored, rules=left_out(names_of(found, "modules_to_not_convert"))
    )


def eetq(found: Field) -> Storage:
    """Read EETQ: 8 bits a row."""
    return Storage(
        name="EETQ int8", format=Format("int8", 8, WIDE), rules=left_out(names_of(found, "modules_to_not_convert"))
    )


METHODS: dict[str, Callable[[Field], Storage | None]] = {
    "fp8": fp8,
    "fbgemm-fp8": fp8,
    "finegrained-fp8": fp8,
    "awq": awq,
    "gptq": gptq,
    "bitsandbytes": bitsandbytes,
    "mxfp4": mxfp4,
    "compressed-tensors": compressed_tensors,
    "modelopt": modelopt,
    "modelopt-fp4": modelopt,
    "mlx": mlx,
    "quark": quark,
    "torchao": torchao,
    "hqq": hqq,
    "quanto": quanto,
    "eetq": eetq,
}
KV_FORMATS = {"FP8": "fp8", "INT8": "int8", "NVFP4": "nvfp4"}


def kv_format(found: Field) -> str | None:
    """Return the number format of the KV cache, where the file says."""
    scheme, algorithm = found["kv_cache_scheme"], found["kv_cache_quant_algo"]
    if scheme.is_given and isinstance(scheme.value, dict):
        bits, kind = scheme["num_bits"].whole(1, MAX_BITS), scheme["type"].choice(("int", "float"))
        return {(8, "float"): "fp8", (8, "int"): "int8", (4, "float"): "nvfp4"}.get((bits, kind))
    return KV_FORMATS.get(algorithm.text().upper()) if algorithm.is_given else None
