"""Which weights, settings and tokenizer a model is: what tells it from another of the same name."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from simulator.ground.artefacts import file_sha256

from .bundled import place_of

HASHED = ("*.safetensors", "*.bin", "*.json", "*.model", "*.npz", "vocab.txt", "merges.txt", "*.jinja", "*.tiktoken")
# What our commands write by these names wherever they are told to: no part of a model.
MEASURED = ("trace.*", "accept_hist_k*.json", "probe.*", "passes.json", "profile.json", "bench_sampling.*")
HEX_DIGITS, HASH_DIGITS = set("0123456789abcdef"), 64


def origin(given: str, name: str, module: Any) -> dict[str, str | None]:
    """Return what tells a model from another of the same name: the hash of its folder or file, or its revision."""
    folder = Path(place_of(given, name))
    if folder.is_file():
        return {"name": given, "sha256": content_sha256(folder)}
    if folder.is_dir():
        return {"name": given, "sha256": folder_sha256(folder)}
    return {"name": given, "revision": getattr(module.config, "_commit_hash", None)}


def folder_sha256(folder: Path) -> str:
    """Return the hash of a folder's weights, settings and tokenizer."""
    digest = hashlib.sha256()
    measured = {p for pattern in MEASURED for p in folder.glob(pattern)}
    for path in sorted({p for pattern in HASHED for p in folder.glob(pattern) if p.is_file()} - measured):
        digest.update(path.name.encode() + b"\0" + bytes.fromhex(content_sha256(path)))
    return digest.hexdigest()


def content_sha256(path: Path) -> str:
    """Return the hash of a file; read once while it stays as it is, and not at all where the hub's cache names it."""
    real = path.resolve()
    if real.parent.name == "blobs" and len(real.name) == HASH_DIGITS and set(real.name) <= HEX_DIGITS:
        return real.name
    status = real.stat()
    return read_sha256(real, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)
def read_sha256(path: Path, size: int, changed_ns: int) -> str:
    """Return the hash of a file of this size that was last changed then."""
    return file_sha256(path)
