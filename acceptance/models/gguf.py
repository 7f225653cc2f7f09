"""Models in GGUF files, llama.cpp's: named by the file, read through transformers, dequantised to --dtype."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from simulator.ground.artefacts import UserError
from simulator.ground.dependency import Dependency, require

from .bundled import BUNDLED

SUFFIX, MAGIC = ".gguf", b"GGUF"
# What from_pretrained calls it.
FILE = "gguf_file"
# Options that name a file beside a folder or a model of the hub, and those they belong to.
FILES = {"gguf": "target", "draft_gguf": "draft"}
GGUF, ACCELERATE = (
    Dependency(import_name=name, purpose="a model in a GGUF file", extra="gguf") for name in ("gguf", "accelerate")
)


def in_one_name(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with each file folded into the name of its model.

    Raises:
        UserError: What is named is no GGUF file, or two are.
    """
    values = {name: value for name, value in given.items() if name not in FILES}
    for option, role in FILES.items():
        file = given.get(option)
        if file is None:
            continue
        flag, model = "--" + option.replace("_", "-"), given.get(role) or BUNDLED
        if not file.endswith(SUFFIX):
            raise UserError(f"{flag} {file}: expected a file of the name *{SUFFIX}")
        if is_named(model):
            raise UserError(f"{flag} {file}: --{role} {model} names a file already, expected one of them")
        values[role] = joined(model, file)
    return values


def joined(model: str, file: str) -> str:
    """Return the name of a file in a folder or in a model of the hub; without one it stands alone."""
    if model == BUNDLED:
        return file
    if os.path.isdir(model):  # noqa: PTH112
        return str(Path(model) / file)
    name, at, revision = model.partition("@")
    return f"{name}/{file}{at}{revision}"


def is_named(name: str) -> bool:
    """Whether a name is that of a GGUF file."""
    return name.endswith(SUFFIX) or name.partition("@")[0].endswith(SUFFIX)


def parted(name: str) -> tuple[str, str]:
    """Return the folder, or the model of the hub with its revision, and the file in it; no file where none is named.

    Raises:
        ValueError: The file is not there, is none, or a library that reads it is missing.
    """
    if not is_named(name):
        return name, ""
    path, of_hub = Path(name), name.partition("@")
    if path.is_file():
        with path.open("rb") as opened:
            if opened.read(len(MAGIC)) != MAGIC:
                raise ValueError("no GGUF file, which begins with the letters GGUF")
        found = str(path.parent), path.name
    elif name.startswith((".", "/", "~")) or of_hub[0].count("/") < 2:
        raise ValueError("no such file")
    else:
        owner, model, file = of_hub[0].split("/", 2)
        found = f"{owner}/{model}" + "".join(of_hub[1:]), file
    for library in (GGUF, ACCELERATE):
        require(library, name)
    return found


def fault(name: str) -> str:
    """Say what the matter is with a file that could not be loaded; empty where it can be read."""
    if not Path(name).is_file():
        return ""
    from gguf import GGUFReader

    try:
        GGUFReader(name)
    except Exception:  # whatever numpy makes of bytes that are not there
        return "the file is damaged or cut short"
    return ""


def dequantised(module: Any, missing: Collection[str]) -> Any:
    """Return a model as one that was never quantised, which can be saved as any other.

    missing: weights that the file did not have.

    Raises:
        ValueError: Some are: transformers takes random ones for them.
    """
    if missing:
        raise ValueError(f"it lacks {len(missing)} weights, {min(missing)} among them")
    module.hf_quantizer, module.is_quantized = None, False
    if hasattr(module.config, "quantization_config"):
        del module.config.quantization_config
    return module
