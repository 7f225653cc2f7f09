"""Files in and out: provenance, atomic writing, and the one-line errors about what a user gave us."""

import json
import math
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from .version import VERSION


class UserError(ValueError):
    """Something the user gave is wrong; the message is one line naming it, the value and what is allowed."""


def environment() -> dict[str, Any]:
    """Say where a result was made: interpreter, NumPy, platform, processors, and our version."""
    import numpy as np

    return {
        "specsim": VERSION,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": f"{platform.system()}-{platform.machine()}",
        "cpu_count": os.cpu_count(),
    }


def created_utc() -> str:
    """Return the time now as ISO 8601; SOURCE_DATE_EPOCH, where set, stands in for the clock."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        now = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    except (ValueError, OverflowError, OSError):
        raise UserError(f"SOURCE_DATE_EPOCH: {epoch!r} is not a time, expected seconds since 1970") from None
    return now.isoformat(timespec="seconds")


def envelope(kind: str, schema_version: int, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that every JSON of ours carries (model §8)."""
    return {
        "kind": kind,
        "schema_version": schema_version,
        "tool": "specsim",
        "tool_version": VERSION,
        "created_utc": created_utc(),
        "environment": environment(),
        "parameters": dict(parameters),
    }


def finite_or_text(value: Any) -> Any:
    """Make a value fit strict JSON: infinity and NaN become their names, containers are walked."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {k: finite_or_text(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_text(v) for v in value]
    return value


def to_json(payload: Mapping[str, Any]) -> str:
    """Serialise with sorted keys and a closing newline; never writes NaN or Infinity literals."""
    return json.dumps(finite_or_text(payload), indent=2, sort_keys=True, allow_nan=False) + "\n"


def read_bytes(path: str | Path) -> bytes:
    """Read a file; a UserError says that it is missing, a folder, or unreadable."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def read_text(path: str | Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark; a UserError says why it cannot be read."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None


def check_kind(path: str | Path, payload: Mapping[str, Any], kind: str, supported: tuple[int, ...]) -> None:
    """Refuse a file that says it is of another kind or version; files that say nothing pass."""
    if payload.get("kind", kind) != kind:
        raise UserError(f"{path}: kind is {payload['kind']!r}, expected {kind!r}")
    version = payload.get("schema_version", supported[-1])
    if version not in supported:
        raise UserError(f"{path}: schema_version is {version!r}, supported: {', '.join(map(str, supported))}")


def check_outputs(
    outputs: Mapping[str, Path | None], force: bool, inputs: Mapping[str, Path | None] | None = None
) -> None:
    """Refuse, before any work is done, outputs that exist, cannot be written, or are the same file as another.

    outputs: by option, None where not given; `force` may overwrite them. inputs: files that are read and stay.
    """
    taken = {path.resolve(): option for option, path in (inputs or {}).items() if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        check_output(option, path, force)
        other = taken.setdefault(path.resolve(), option)
        if other != option:
            raise UserError(f"{option} {path}: is the file of {other} too, expected another one")


def check_output(option: str, path: Path, force: bool) -> None:
    """Refuse, before any work is done, an output that exists, is a folder or cannot be written."""
    if path.is_dir():
        raise UserError(f"{option} {path}: is a folder, expected a file")
    if path.exists() and not path.is_file():
        raise UserError(f"{option} {path}: is a device or pipe, expected a file")
    if path.exists() and not force:
        raise UserError(f"{option} {path}: exists already (--force overwrites it)")
    nearest = next(p for p in (path.parent, *path.absolute().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"{option} {path}: {nearest} is not a writable folder")


@contextmanager
def writing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that takes its name only when the block ends well."""
    path = path.resolve()  # a link is written through, not replaced
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_json(path: Path, payload: Mapping[str, Any]) -> None:
    """Write one of our JSON files, whole or not at all."""
    with writing(path) as file:
        file.write(to_json(payload))
