"""Names as people write them: of models, devices and number formats, and what lies nearest to a name that is none."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from .artefacts import UserError

# Number formats by what else they are called; case, `torch.` and marks between the parts do not count.
NUMBER_FORMATS = {
    **dict.fromkeys(("fp32", "f32", "float"), "float32"),
    **dict.fromkeys(("fp16", "f16", "half"), "float16"),
    **dict.fromkeys(("bf16", "bfloat"), "bfloat16"),
    **dict.fromkeys(("f8", "float8", "e4m3", "fp8e4m3", "fp8e5m2", "float8e4m3fn", "float8e5m2", "w8a8fp8"), "fp8"),
    **dict.fromkeys(("i8", "w8a8", "w8a8int8", "8bit"), "int8"),
    **dict.fromkeys(("i4", "w4a16", "4bit", "uint4"), "int4"),
    **dict.fromkeys(("awqint4", "awqmarlin", "autoawq"), "awq"),
    **dict.fromkeys(("gptqint4", "gptqmarlin", "autogptq"), "gptq"),
    **dict.fromkeys(("fp4", "nvfp4fp8", "modeloptfp4"), "nvfp4"),
}
# Types of GGUF files, as llama.cpp writes them.
GGUF: tuple[str, ...] = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M")
GGUF += ("IQ4_XS", "IQ4_NL", "Q2_K_S", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_0", "Q4_1", "Q4_K_S", "Q4_K_M")
GGUF += ("Q5_0", "Q5_1", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0")
NUMBER_FORMATS |= {name.lower().replace("_", ""): name for name in GGUF}
NUMBER_FORMATS |= {"q3k": "Q3_K_M", "q4k": "Q4_K_M", "q5k": "Q5_K_M"}
# A number with its unit, or letters.
PART = re.compile(r"\d+(?:\.\d+)*(?:gib|gb|[bmt])?(?![a-z0-9]|\.\d)|\d+(?:\.\d+)*|[a-z]+")
NEAREST = 3
# Words that are all named where one is missed; of more, the nearest.
FEW = 8


@lru_cache(maxsize=1024)
def number_format(text: str) -> str:
    """Return the name of a number format in this project; a text that is none as it is."""
    plain = re.sub(r"[^a-z0-9]", "", text.lower().removeprefix("torch."))
    return NUMBER_FORMATS.get(plain, plain if plain in {*NUMBER_FORMATS.values(), "mxfp4", "mxfp6", "mxfp8"} else text)


def nearest(text: str, known: Iterable[str]) -> list[str]:
    """Return the at most three names that look most like a text."""
    from difflib import get_close_matches

    small = {name.lower(): name for name in known}
    return [small[name] for name in get_close_matches(text.lower(), small, NEAREST, 0.0)]


def one_of(known: Iterable[str], missed: str) -> str:
    """Name the words that are allowed; of many, those nearest to one that is none of them."""
    words = list(known)
    near = f"{len(words)}, nearest: {', '.join(nearest(missed, words))}"
    return f"one of {', '.join(words) if len(words) <= FEW else near}"


class Found(NamedTuple):
    """A name that was found; said: what was taken for granted, "" where the text means nothing else."""

    name: str
    said: str = ""


def parts_of(text: str) -> Counter[str]:
    """Return the parts of a name in small letters, whatever stands between them."""
    return Counter(PART.findall(text.lower()))


class Names(NamedTuple):
    """The names of a kind of thing.

    also: other names for some, which win over a choice among several. idle: parts that tell no name from another, such
    as a vendor. telling: parts that make another thing of one of the same name without them, such as `max`.
    """

    kind: str
    known: Collection[str]
    also: Mapping[str, str] = MappingProxyType({})
    idle: Collection[str] = ()
    telling: Collection[str] = ()


def squeezed(text: str) -> str:
    """Return a name in small letters, without what stands between its parts."""
    return re.sub(r"[^a-z0-9.]", "", text.lower())


def find_name(text: str, names: Names, *, whole: bool = False) -> Found | None:
    """Find the one name that a text means, as a person writes it, with or without a vendor before a slash; or None.

    whole: every part of the name has to be there. Letters and digits alone are no part of one.

    Raises:
        UserError: It means several; names them.
    """
    known = names.known
    if text in known:
        return Found(text)
    parts = parts_of(text.rpartition("/")[2].partition("@")[0])
    parts = Counter({part: n for part, n in parts.items() if part not in names.idle}) or parts
    if not parts:
        return None
    for name in known:
        if parts_of(name) == parts or squeezed(name) == squeezed(text):
            return Found(name)
    is_part = not whole and any(len(part) > 1 for part in parts)
    surplus = {name: parts_of(name) - parts for name in known if is_part and parts <= parts_of(name)}
    within = [name for name, more in surplus.items() if not set(names.telling) & set(more)]
    for other, name in names.also.items():
        if parts_of(other) == parts or squeezed(other) == squeezed(text):
            rest = [n for n in within if n != name]
            return Found(name, f"taken as {name}" + (f" (others: {', '.join(rest)})" if rest else ""))
    if len(within) > 1:
        raise UserError(f"{text}: means several {names.kind}s, expected one of {', '.join(within)}")
    return Found(within[0], f"taken as {within[0]}") if within else None
