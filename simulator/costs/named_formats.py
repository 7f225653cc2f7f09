"""Number formats in the names of models: `-GPTQ-Int8`, `-AWQ`, `-quantized.w4a16`, `-FP8-dynamic`, `.Q4_K_M.gguf`.

They are what the file of such a quantizer would say; what the name leaves open is as usual, and said.
"""

import re
from typing import NamedTuple

from simulator.ground.fields import Field
from simulator.ground.names import GGUF, number_format

from .formats import FORMATS, PLAIN, Storage, storage_of
from .quantization import METHODS, Quantized, Unread, modelopt_format

# What names of GGUF files and their folders say besides their type, i1 of weights by importance; and the type.
GGUF_WORDS = re.compile(r"[-_.\s](?:gguf|i1|imat(?:rix)?)(?=[-_.\s]|$)", re.IGNORECASE)
GGUF_TYPE = re.compile(rf"[-_.]({'|'.join(sorted(GGUF, reverse=True))}|q[345]_k)(?=[-_.]|$)", re.IGNORECASE)
# Quantizers by the words of names, and the bits of one that names none; None: it may have left the weights alone.
QUANTIZERS = {
    **dict.fromkeys(("awq", "autoawq"), "awq"),
    **dict.fromkeys(("gptq", "autogptq", "gptqmodel"), "gptq"),
    **dict.fromkeys(("bnb", "bitsandbytes"), "bitsandbytes"),
    "mlx": "mlx",
}
USUAL_BITS = {"awq": 4, "gptq": 4, "bitsandbytes": 4, "mlx": None}
MLX_VENDOR = "mlx-community"
BITS = re.compile(r"u?int(\d+)|i([48])|(\d+)bits?")
SCHEME = re.compile(r"w(\d+)a(\d+)")
GROUP = re.compile(r"(?:gs?|group)(\d{1,4})|(\d{1,4})g")
USUAL_GROUP = {"mlx": 64}
# What else stands beside a format, and changes no bytes.
BESIDE = {"quantized", "dynamic", "static", "block", "channel", "channelwise", "kv", "marlin", "sym", "asym", "dwq"}
# Words that are written as one, and one that is written as two.
GLUED = re.compile(r"(awq|gptq|mlx|bnb)(?=u?int\d|\d+bit|w\d+a\d)", re.IGNORECASE)
APART = re.compile(r"(\d)[-_](?=bits?(?:[-_.]|$))", re.IGNORECASE)
WORDS = re.compile(r"[-_\s]|(?<=[a-z])\.(?=[a-z])", re.IGNORECASE)


class Named(NamedTuple):
    """A model's name without number formats, what those say, and the same in words; "" where there are none."""

    plain: str
    quantized: Quantized = Quantized()
    said: str = ""


def named_format(text: str) -> Named:
    """Return what a model's name says of its number format."""
    vendor, slash, name = text.rpartition("/")
    name, is_gguf = GGUF_WORDS.subn("", name)
    if gguf := GGUF_TYPE.search(name):
        whole = storage_of(number_format(gguf[1]))
        plain = f"{vendor}{slash}{name[: gguf.start()]}{name[gguf.end() :]}"
        return Named(plain, Quantized(whole), f"in {whole.name} as that says")
    first, *parts = WORDS.split(GLUED.sub(r"\1-", APART.sub(r"\1", name)))
    words = {part: re.sub(r"[^a-z0-9]", "", part.lower()) for part in parts}
    telling = [words[part] for part in parts if tells(words[part])]
    if not telling:
        unread = f"{text} is a GGUF of a type that its name does not tell" if is_gguf else ""
        return Named(f"{vendor}{slash}{name}" if is_gguf else text, Quantized(unread=unread))
    plain = "-".join([first, *(p for p in parts if words[p] not in telling and not is_beside(words[p]))])
    method = next((QUANTIZERS[word] for word in telling if word in QUANTIZERS), "")
    method = "mlx" if vendor.lower() == MLX_VENDOR else method
    group = next((int(m[1] or m[2]) for m in map(GROUP.fullmatch, words.values()) if m), None)
    try:
        storage, assumed = storage_by(telling, method, group)
    except Unread as error:
        return Named(f"{vendor}{slash}{plain}", Quantized(unread=f"{text} names {error}"))
    said = f"in {storage.name} as that says{assumed}" if storage else ""
    return Named(f"{vendor}{slash}{plain}", Quantized(storage), said)


def tells(word: str) -> bool:
    """Say whether a word of a name tells a number format, or who quantized."""
    return bool(word in QUANTIZERS or BITS.fullmatch(word) or SCHEME.fullmatch(word) or number_format(word) in FORMATS)


def is_beside(word: str) -> bool:
    """Say whether a word beside a format has no other meaning."""
    return word in BESIDE or GROUP.fullmatch(word) is not None


def storage_by(words: list[str], method: str, group: int | None) -> tuple[Storage | None, str]:
    """Return how weights are stored by the words that tell, and what was assumed, in words.

    Raises:
        Unread: They name what no one reads, or several formats.
    """
    schemes = [m for m in map(SCHEME.fullmatch, words) if m]
    bits = {int(m[m.lastindex or 0]) for m in map(BITS.fullmatch, words) if m} | {int(m[1]) for m in schemes}
    known = [number_format(w) for w in words if not BITS.fullmatch(w) and not SCHEME.fullmatch(w)]
    formats = {f for f in known if f in FORMATS and f not in QUANTIZERS}
    # Beside a quantized format a plain one is that of the arithmetic.
    formats = {f for f in formats if f not in PLAIN} or (formats if not bits and method in ("", "mlx") else set())
    told = {*bits, *(int(FORMATS[f].bits) for f in formats)}
    if len(told) > 1 or len(formats) > 1 or (formats and method in FORMATS):
        raise Unread(f"several number formats ({', '.join(words)})")
    if formats:
        return storage_of(formats.pop()), ""
    if method:
        usual = USUAL_BITS[method]
        stated = bits.pop() if bits else usual
        if stated is None:
            return None, ""
        return quantized_by(method, stated, group), "" if stated != usual or told else f", {usual} bits as usual"
    if schemes:
        stored = modelopt_format(schemes[0][0].upper(), group)
        return Storage(name=stored.name, format=stored) if stored else None, ""
    name = f"int{bits.pop()}"
    if name not in FORMATS:
        raise Unread(repr(name))
    return storage_of(name), ""


def quantized_by(method: str, bits: int, group: int | None) -> Storage | None:
    """Return how a quantizer stores weights in so many bits, by what its own file would say."""
    if method in FORMATS and (bits, group or 128) == (4, 128):
        return storage_of(method)
    if method == "bitsandbytes":
        if bits not in (4, 8):
            raise Unread(f"bitsandbytes of {bits} bits")
        said: dict[str, int] = {f"load_in_{bits}bit": True, "bnb_4bit_use_double_quant": True}
    else:
        said = {"bits": bits, "group_size": group or USUAL_GROUP.get(method, 128)}
    if not 2 <= bits <= 8:
        raise Unread(f"{method} of {bits} bits")
    return METHODS[method](Field(said))
