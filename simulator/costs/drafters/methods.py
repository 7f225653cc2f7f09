"""All methods of speculation by name, and which of them a drafter's file describes."""

import re
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import simulator.costs.drafters as package
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field
from simulator.ground.names import Found, one_of

from .plan import Method

# Parts of names of architectures that draft, and that no method here reads: variants, and whatever else drafts.
VARIANTS, OTHERS = ("dflare", "lilicorr"), ("speculator", "hass", "draft")
# The most layers of a drafter that its folder's name, or a word beside its file, alone tells.
LAYERS_TOLD = 8


@lru_cache(maxsize=8)
def found_in(folders: tuple[str, ...]) -> dict[str, Method]:
    """Return the methods of the files in these folders, by name."""
    names = sorted(info.name for info in iter_modules(folders))
    modules = [import_module(f"{__package__}.{name}") for name in names]
    return {m.METHOD.name: m.METHOD for m in modules if hasattr(m, "METHOD")}


def methods() -> dict[str, Method]:
    """Return all methods by name: each file of this package that has a `METHOD`."""
    return found_in(tuple(package.__path__))


def method_named(name: str, option: str = "--method") -> Method:
    """Return a method by its name, or by another that people or engines have for it.

    Raises:
        UserError: There is none.
    """
    plain = bare(name)
    for method in methods().values():
        if plain in map(bare, (method.name, *method.also)):
            return method
    raise UserError(f"{option}: {name!r} is not known, expected {one_of(tuple(methods()), name)}")


def method_beginning(name: str) -> Method | None:
    """Return the method that a name begins with, such as that of a server; of several the longest, None of none."""
    known = [(bare(own), method) for method in methods().values() for own in (method.name, *method.also)]
    found = [(len(own), method) for own, method in known if bare(name).startswith(own)]
    return max(found, key=lambda each: each[0])[1] if found else None


def bare(name: str) -> str:
    """Return a name in small letters, without what stands between its parts."""
    return re.sub(r"[-_ ]", "", name.lower())


def check_list(text: str) -> None:
    """Refuse a list of methods, behind commas, that has one twice or an empty one."""
    names = text.split(",")
    if any(not name.strip() for name in names):
        raise UserError(f"--method: {text!r} has an empty name, expected names behind commas")
    found = [method_named(name).name for name in names]
    if double := next((name for name in found if found.count(name) > 1), None):
        raise UserError(f"--method: {double} twice in {text}, expected it once")


def kind_of(architecture: str) -> str | None:
    """Return the part of an architecture's name that tells a drafter: the longest of those that methods have."""
    plain = architecture.lower().replace("_", "").replace("-", "")
    parts = [part for m in methods().values() for part in m.architectures]
    told = [part for part in (*VARIANTS, *sorted(parts, key=len, reverse=True), *OTHERS) if part in plain]
    if not told or plain.endswith("forconditionalgeneration"):
        return None
    if told[0] not in parts:
        return told[0]
    # Another version of a method, unless that number counts weights.
    version = re.search(rf"{told[0]}\d+(?![\d.]*b)", architecture.lower())
    return version[0] if version else told[0]


def drafter_of(config: Field, stated: Method | None = None) -> tuple[Method | None, Found]:
    """Return how a file's model drafts, None for a language model, and its architecture; said: where only keys tell.

    Raises:
        UserError: It drafts in a way that is not priced, or in another than is stated.
    """
    method, found = told_by(config)
    if stated is None or stated.read is None or method is stated:
        return method, found
    if method is None or not found.name or found.said:
        layers = config["num_hidden_layers"].value
        if stated.waits and not stated.is_within and isinstance(layers, int) and layers > LAYERS_TOLD:
            what = f"a language model of {layers} layers, which does not draft as {stated.name}"
            raise config.error(f"{config.path}: {what}, expected the drafter's own config.json")
        return stated, Found(stated.example, f"read as {stated.title}, as --method states")
    raise UserError(f"--method: {stated.name}, but {config.path} is of {method.name}, expected that or no such option")


def told_by(config: Field) -> tuple[Method | None, Found]:
    """Return the same as the file alone tells it."""
    listed, own = config["architectures"], config["speculators_model_type"]
    names = [e.text() for e in listed.elements()] if listed.is_given else []
    names += [own.text()] if own.is_given else []
    names += [config["model_type"].value] if isinstance(config["model_type"].value, str) else []
    name = next((name for name in names if kind_of(name) is not None), "")
    projector = config["dflash_config"]["projector_type"] if config["dflash_config"].is_given else config["no such"]
    if projector.is_given and projector.value != "dflash":
        name = projector.text()
    if name:
        method = next((m for m in methods().values() if kind_of(name) in m.architectures), None)
        if method is None:
            raise config.error(
                f"{config.path}: the drafter {name!r} is not priced, expected one that `drafters list` shows"
            )
        return method, Found(name)
    for method in sorted(methods().values(), key=lambda m: not m.waits, reverse=True):
        key = next((k for k in method.keys if config[k].is_given), None)
        if key is not None:
            said = f"read as {method.title}, as {key} in its file tells" if method.waits else ""
            return method, Found(method.example, said)
    return told_by_folder(config)


def told_by_folder(config: Field) -> tuple[Method | None, Found]:
    """Return the same as engines guess it of a small model: from the name of its folder or file."""
    path, layers = Path(config.path), config["num_hidden_layers"].value
    name = path.resolve().parent.name if path.name == "config.json" else path.stem
    kind = kind_of(name) if isinstance(layers, int) and layers <= LAYERS_TOLD else None
    method = next((m for m in methods().values() if kind in m.architectures), None)
    if method is not None:
        return method, Found(method.example, f"read as {method.title}, as its folder's name tells")
    unpriced = kind is not None and kind not in OTHERS
    return None, Found("", f"read as a language model, though {kind} is in its folder's name" if unpriced else "")
