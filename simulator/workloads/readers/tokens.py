"""How many tokens texts have: counted by a tokenizer where one is given, else estimated."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

from simulator.ground.artefacts import UserError
from simulator.ground.dependency import Dependency, require
from simulator.ground.plain_text import first_line
from simulator.workloads.requests import Array

TOKENIZERS = Dependency(import_name="tokenizers", purpose="counting tokens of texts", extra="measure")
# Of English about what vocabularies of 100,000 tokens and more make of it.
BYTES_A_TOKEN = 4
ESTIMATED = f"tokens are estimated, one for {BYTES_A_TOKEN} bytes of UTF-8; --tokenizer FOLDER counts them"
# Texts that are counted at a time: what the library makes of one is many times as long.
AT_ONCE = 512
Counter = Callable[[Sequence[str]], Array]


def estimate(texts: Sequence[str]) -> Array:
    """Estimate tokens by the bytes of texts, rounded up."""
    sizes = np.array([len(text.encode("utf-8", "replace")) for text in texts], np.int64)
    return -(-sizes // BYTES_A_TOKEN)


def counter(folder: Path | None) -> tuple[Counter, tuple[str, ...]]:
    """Return what counts tokens, and what has to be said of that.

    Raises:
        UserError: The folder holds no tokenizer that can be read, or the library is not installed.
    """
    if folder is None:
        return estimate, (ESTIMATED,)
    path = folder / "tokenizer.json" if folder.is_dir() else folder
    if not path.is_file():
        raise UserError(f"--tokenizer {folder}: no such folder or it lacks a tokenizer.json, expected one with it")
    library = require(TOKENIZERS, "--tokenizer")
    try:
        tokenizer = import_module(library.__name__).Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises that, bare
        raise UserError(f"--tokenizer {folder}: cannot be read ({first_line(error)})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: Sequence[str]) -> Array:
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        parts = (clean[first : first + AT_ONCE] for first in range(0, len(clean), AT_ONCE))
        return np.array([len(encoded.ids) for part in parts for encoded in tokenizer.encode_batch(part)], np.int64)

    return count, ()
