"""Files in and out: provenance, atomic writing, and the one-line errors about what a user gave us."""

import hashlib
import json
import math
import os
import platform
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import IO, Any

from .endings import unbroken
from .partial import begin, finish, sweep
from .together import file_sha256 as file_sha256
from .together import together
from .version import VERSION

# Of a file that is read whole.
MAX_BYTES = 1 << 32


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


def neutral(value: Any) -> Any:
    """Return what a table's cell holds: text that spreadsheets take for a formula has an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def to_json(payload: Mapping[str, Any]) -> str:
    """Serialise with sorted keys and a closing newline; never writes NaN or Infinity literals."""
    return json.dumps(finite_or_text(payload), indent=2, sort_keys=True, allow_nan=False) + "\n"


@contextmanager
def reading(path: str | Path) -> Iterator[FileIO]:
    """Open a file, or what is piped; a UserError says that it is missing, a folder, or cannot be read.

    Nothing is waited for but what somebody is writing to a pipe, and nothing is read that has no end.
    """
    try:
        file = FileIO(path, opener=opened)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{str(path)!r}: is no name of a file ({error})") from None
    with file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISFIFO(mode):
            os.set_blocking(file.fileno(), True)  # of one that nobody writes to this is the end
        elif not stat.S_ISREG(mode):
            raise UserError(f"{path}: is a device, expected a file")
        try:
            yield file
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def read_bytes(path: str | Path) -> bytes:
    """Read a file whole; see `reading`."""
    with reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise UserError(f"{path}: holds {size:,} bytes, expected at most {MAX_BYTES:,}")
        return file.read()


def opened(path: str, flags: int) -> int:
    """Open a file without waiting for who else opens it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_hashed(path: Path, told: Any, by: str, of: str = "one run") -> tuple[bytes, str]:
    """Read a file whose SHA-256 another one tells (None: it does not); return what it holds, and that hash.

    by: the name of the other. of: what both belong to.

    Raises:
        UserError: It is not the file that the other was written with.
    """
    data = read_bytes(path)
    found = hashlib.sha256(data).hexdigest()
    if told not in (None, found):
        raise UserError(f"{path}: is not what {by} was written with, expected both of {of}")
    return data, found


def check_kind(path: str | Path, payload: Mapping[str, Any], kind: str, supported: tuple[int, ...]) -> int:
    """Refuse a file of another kind or version; return its version, the newest for one that does not say."""
    if payload.get("kind", kind) != kind:
        raise UserError(f"{path}: kind is {payload['kind']!r}, expected {kind!r}")
    version = payload.get("schema_version", supported[-1])
    if version not in supported:
        raise UserError(f"{path}: schema_version is {version!r}, supported: {', '.join(map(str, supported))}")
    return int(version)


# What a folder that is read holds for us; other files in it may be written.
MEMBERS = ("accept_hist_k*.json", "trace.json", "trace.npz", "config.json", "tokenizer*", "*.safetensors", "*.bin")
# Files that were not there when a command began: of two that start at once, one gets the name.
claimed: set[str] = set()


def check_outputs(
    outputs: Mapping[str, Path | Sequence[Path] | None],
    force: bool,
    inputs: Mapping[str, Path | None] | None = None,
    own: Collection[str] | None = None,
) -> None:
    """Refuse, before any work is done, outputs that exist, cannot be written, or are the same file as another.

    What an earlier process left unfinished beside them is swept away.

    outputs: by option, None where not given; `force` may overwrite them. inputs: files that are read and stay; of a
    folder, what is read of it. own: real names of what an interrupted run has written, and goes on to write; what the
    same command wrote before it was killed, if not given.
    """
    read = [(option, path) for option, path in (inputs or {}).items() if path is not None]
    taken = {file: option for option, path in read for member in members(path) for file in names_of(member)}
    listed = {option: [paths] if isinstance(paths, Path) else paths or () for option, paths in outputs.items()}
    given = [(option, path) for option, paths in listed.items() for path in paths]
    if own is None:
        own = () if force else together.expect([path for _, path in given])
    for folder in {Path(os.path.realpath(path)).parent for _, path in given}:
        sweep(folder)
    for option, path in given:
        check_output(option, path, force or os.path.realpath(path) in own)
        for name in names_of(path):
            other = taken.setdefault(name, option)
            if other != option:
                raise UserError(f"{option} {path}: is the file of {other} too, expected another one")


def members(path: Path) -> list[Path]:
    """Return the files that are read where a path is named: of a folder, or a file and its arrays."""
    if path.is_dir():
        return [member for pattern in MEMBERS for member in path.glob(pattern)]
    return [path, path.with_suffix(".npz")] if path.suffix == ".json" else [path]


def names_of(path: Path) -> list[object]:
    """Return what tells a file from all others: where it is, by whatever name, and which it is, where it is there."""
    names: list[object] = [os.path.realpath(path)]
    with suppress(OSError):
        status = path.stat()
        names.append((status.st_dev, status.st_ino))
    return names


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
    (claimed.discard if force else claimed.add)(os.path.realpath(path))


@contextmanager
def writing(path: Path, mode: str = "w", *, kept: bool = False) -> Iterator[IO[Any]]:
    """Open a file beside `path` that takes its name only when the block ends well, and is on disk then.

    A name that `check_outputs` found free is not taken from who took it since. kept: of a run that is still on.
    """
    path = Path(os.path.realpath(path))  # a link is written through, not replaced
    partial = None
    try:
        handle, partial = begin(path)
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            if not kept:
                together.note(path, partial)
            try:
                with unbroken():  # a name that is taken is known to be ours
                    finish(handle, partial, path, is_new=str(path) in claimed)
                    claimed.discard(str(path))
                    if not kept:
                        together.settle(path)
            except FileExistsError:
                taken = "exists by now, another process has written it (--force overwrites it)"
                raise UserError(f"{path}: {taken}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def write_json(path: Path, payload: Mapping[str, Any], *, kept: bool = False) -> None:
    """Write one of our JSON files, whole or not at all. kept: of a run that is still on."""
    with writing(path, kept=kept) as file:
        file.write(to_json(payload))
