"""All engines that a recommendation is written for."""

from typing import Any

from . import llama_cpp, sglang, trtllm, vllm
from .settings import Recommended, Written

# By what --engine calls them.
WRITERS = {"vllm": vllm.written, "sglang": sglang.written, "trtllm": trtllm.written, "llama.cpp": llama_cpp.written}
ENGINES = tuple(WRITERS)
NOTHING_FITS = "nothing fits into memory"


def written_for(engine: str, said: Recommended) -> Written:
    """Return a recommendation in an engine's words, and why there is none, where there is none."""
    found = WRITERS[engine](said)
    apart = ("the draft is on devices of its own here, which engines do not place so",) if said.apart else ()
    if found.settings is None and not found.notes:
        found = found._replace(notes=("plain decoding is best",))
    return found._replace(notes=(*found.notes, *apart))


def as_engines_take_it(said: Recommended | None) -> dict[str, Any]:
    """Return a recommendation for every engine, under plain keys, and what to know of each."""
    nothing = Written(None, notes=(NOTHING_FITS,))
    found = {name: nothing if said is None else written_for(name, said) for name in ENGINES}
    keys = {name: name.replace(".", "_") for name in ENGINES}
    settings: dict[str, Any] = {keys[name]: one.settings for name, one in found.items()}
    return settings | {"notes": {keys[name]: list(one.notes) for name, one in found.items()}}


def lines_for(engine: str, said: Recommended | None, where: str = "") -> list[str]:
    """Return the lines to paste into an engine, under its name, and what to know of them."""
    found = Written(None, notes=(NOTHING_FITS,)) if said is None else written_for(engine, said)
    return [
        f"for {engine}{where and f', {where}'}:",
        *(f"  {line}" for line in found.lines),
        *(f"  note: {note}" for note in found.notes),
    ]
