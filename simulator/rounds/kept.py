"""What is done of a long sweep, in a file beside its table until that is there: the same sweep goes on behind it.

A first line says which sweep it is; then every part that was evaluated, whose key its user knows, a line of what
its columns are and their bytes. What is torn, or not what its hash says, is cut off with all behind it. One
process a file.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from simulator.ground.artefacts import UserError, environment
from simulator.ground.fields import parse_json
from simulator.ground.partial import EVERY_S, lock, sync_folder

from .grid import Columns

SUFFIX = ".unfinished"
KIND = "unfinished_sweep"
# Seconds before which nothing is kept: they are spent again as fast as what was kept is read.
AFTER_S = 5.0
# Of a line that says what follows it.
LONGEST_LINE = 1 << 16
TYPES = ("<f8", "<i8")
# What a part is known by within its sweep.
Key = int | str


def told(value: Any) -> Any:
    """Return a value as JSON has it, all of it or a hash: what is equal is told alike, in every process."""
    if is_dataclass(value):
        return [type(value).__name__, *(told(getattr(value, field.name)) for field in fields(value))]
    if isinstance(value, np.ndarray):
        return [value.dtype.str, value.shape, sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, Mapping):
        return [[told(key), told(of)] for key, of in value.items()]
    if isinstance(value, list | tuple):
        return [told(of) for of in value]
    # A function's own text has its place in memory, which is another in every process.
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else repr(value)


class Kept:
    """The parts of a sweep that were evaluated before it was killed, and those that are now."""

    def __init__(self, table: Path, sweep: object, *, force: bool) -> None:
        """Look for what is kept of this sweep beside its table; force: throw away what is of another one.

        Raises:
            UserError: It is of another one, or another process is at work in it.
        """
        real = Path(os.path.realpath(table))
        self.path, self.option = real.with_name(real.name + SUFFIX), f"--out {table}"
        versions = {name: of for name, of in environment().items() if name != "cpu_count"}
        said = json.dumps(told(sweep)).encode()
        self.header = json.dumps({"kind": KIND, "sweep": sha256(said).hexdigest(), **versions}).encode() + b"\n"
        self.handle: int | None = None
        # Where the bytes of a part begin, and what they are.
        self.parts: dict[Key, tuple[int, list[Any]]] = {}
        self.began_s = self.synced_s = time.monotonic()
        self.is_full = False
        if self.path.exists():
            self.go_on(force=force)

    def go_on(self, *, force: bool) -> None:
        """Take what is there, up to what is torn."""
        try:
            self.hold(os.O_RDWR)
            with os.fdopen(os.dup(self.opened), "rb") as file:
                line, end = file.readline(LONGEST_LINE), 0
                if line == self.header:
                    end = len(line)
                    for at, key, columns, behind in whole_parts(file):
                        self.parts[key], end = (at, columns), behind
                elif not force and (file.read(1) or not self.header.startswith(line)):
                    self.close()
                    raise UserError(
                        f"{self.option}: {self.path.name} is kept of another sweep, "
                        "expected the same command, another --out, or --force to start anew"
                    )
            os.ftruncate(self.opened, end)
            if not end:
                self.end()
        except OSError as error:
            raise UserError(f"{self.option}: {self.path.name} cannot be gone on with ({error.strerror})") from None

    def hold(self, flags: int) -> None:
        """Open the file, and keep other processes out."""
        self.handle = os.open(self.path, flags | os.O_APPEND, 0o666)
        if lock(self.handle) is False:
            self.close()
            raise UserError(f"{self.option}: another sweep is at work in {self.path.name}")

    @property
    def opened(self) -> int:
        """The file that is held."""
        if self.handle is None:
            raise ValueError(f"{self.path}: not open")
        return self.handle

    def has(self, key: Key) -> bool:
        """Whether a part is kept."""
        return key in self.parts

    def load(self, key: Key) -> Columns:
        """Return the columns of a part that is; on any thread."""
        at, columns = self.parts[key]
        found = {}
        for name, dtype, shape in columns:
            size = np.dtype(dtype).itemsize * prod(shape)
            found[name] = np.frombuffer(os.pread(self.opened, size, at), dtype).reshape(shape)
            at += size
        return found

    def save(self, key: Key, columns: Columns) -> None:
        """Keep a part, where the sweep is a long one; a disk that is full keeps no more."""
        now_s = time.monotonic()
        is_early = self.handle is None and now_s - self.began_s < AFTER_S
        if self.has(key) or self.is_full or is_early:
            return
        end = 0
        try:
            if self.handle is None:
                self.hold(os.O_RDWR | os.O_CREAT | os.O_EXCL)
                os.write(self.opened, self.header)
                sync_folder(self.path.parent)
            end = os.fstat(self.opened).st_size
            frame = frame_of(key, columns)
            if os.write(self.opened, frame) < len(frame):
                raise OSError
            if now_s - self.synced_s >= EVERY_S:
                os.fsync(self.opened)
                self.synced_s = now_s
        except OSError:
            self.is_full = True
            with suppress(OSError, ValueError):
                os.ftruncate(self.opened, end)

    @property
    def is_held(self) -> bool:
        """Whether anything of the sweep is kept."""
        return self.handle is not None

    def end(self) -> None:
        """Remove what was kept, now that all is written."""
        if self.handle is not None:
            self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let others work here; what is kept stays."""
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None


def frame_of(key: Key, columns: Columns) -> bytes:
    """Return a part as it is kept."""
    arrays = {name: np.ascontiguousarray(of, of.dtype.newbyteorder("<")) for name, of in columns.items()}
    data = b"".join(of.tobytes() for of in arrays.values())
    types = [[name, of.dtype.str, columns[name].shape] for name, of in arrays.items()]
    line = json.dumps({"first": key, "columns": types, "sha256": hash_of(key, types, data)})
    return line.encode() + b"\n" + data


def hash_of(key: Key, columns: list[Any], data: bytes) -> str:
    """Return the hash of a part."""
    return sha256(json.dumps([key, columns]).encode() + data).hexdigest()


def whole_parts(file: IO[bytes]) -> Iterator[tuple[int, Key, list[Any], int]]:
    """Yield where the bytes of each part begin, its key, what its columns are, and where it ends."""
    left = os.fstat(file.fileno()).st_size - file.tell()
    while True:
        line = file.readline(LONGEST_LINE)
        try:
            of = parse_json(line.decode())
            key, columns, hashed = of["first"], of["columns"], of["sha256"]
            if not isinstance(key, Key) or any(dtype not in TYPES for _, dtype, _ in columns):
                return
            size = sum(8 * prod(map(int, shape)) for _, _, shape in columns)
        except (ValueError, TypeError, KeyError):
            return
        at = file.tell()
        left -= len(line) + size
        if size < 0 or left < 0 or hash_of(key, columns, file.read(size)) != hashed:
            return
        yield at, key, columns, at + size
