"""A file of records that is only ever appended to, one line a record, and survives being killed at any moment.

A record is written by one system call and synced. What follows the last line end is the torn rest of a record that was
never whole: it is cut off before the next one is written. One process a file.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acceptance.trace.lock import Lock
from simulator.ground.artefacts import UserError, check_kind, finite_or_text, read_bytes
from simulator.ground.fields import parse_json

KIND = "decode_run"
SCHEMA_VERSIONS = (2,)
# Keys are sorted: every header begins like this.
OPENING = b'{"created_utc":'


def to_line(record: Mapping[str, Any]) -> bytes:
    """Return one record as a line of strict JSON, keys sorted."""
    text = json.dumps(finite_or_text(record), sort_keys=True, allow_nan=False, separators=(",", ":"))
    return text.encode() + b"\n"


def read_records(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the whole records of a file, and how many bytes of a torn one follow them.

    Raises:
        UserError: The file cannot be read, begins with no header of ours, or a whole line is no JSON object.
    """
    whole, end, torn = read_bytes(path).rpartition(b"\n")
    records: list[dict[str, Any]] = []
    for number, line in enumerate(whole.split(b"\n") if end else [], 1):
        try:
            record = parse_json(line.decode())
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise UserError(f"{path}: line {number} is no JSON object, {remedy(records)}")
        records.append(record)
    if not records or "kind" not in records[0]:
        raise UserError(f"{path}: begins with no record of kind {KIND!r}, expected a file of bench-decode")
    check_kind(path, records[0], KIND, SCHEMA_VERSIONS)
    return records, len(torn)


def remedy(before: list[dict[str, Any]]) -> str:
    """Say what to do about a damaged line: behind a header of ours the rest of the file is good."""
    if not before or before[0].get("kind") != KIND:
        return "expected a file of bench-decode"
    return (
        "expected a record: cut the line out, and what it told is measured again, or bench-decode --force starts anew"
    )


def is_unbegun(path: Path) -> bool:
    """Whether a file is empty, or holds no more than a header of ours that was never whole."""
    data = read_bytes(path)
    if b"\n" in data or data[: len(OPENING)] != OPENING[: len(data)]:
        return False
    try:
        return bool(json.loads(data)["kind"] == KIND)
    except (ValueError, KeyError):
        return True


class Journal:
    """An open file of records."""

    def __init__(self, path: Path) -> None:
        self.path = path
        real = path.resolve()  # by whatever name the file is opened, it is one
        self.lock = Lock(real.with_name(f".{real.name}.lock"), f"--out: another benchmark is at work in {path}")
        self.file: int | None = None
        self.torn = 0

    def open(self, header: Mapping[str, Any], *, force: bool) -> list[dict[str, Any]]:
        """Begin a file with a header, or go on with one that the same header began; return the records that are there.

        header: its parameters and the tool's version are what must be the same. force: throw away what is there.

        Raises:
            UserError: The file is another's, of another configuration, or another process is at work in it.
        """
        self.hold()
        try:
            if force or is_unbegun(self.path):
                os.ftruncate(self.opened, 0)
                self.append(header)
                return []
            records, self.torn = read_records(self.path)
            self.check_same(header, records[0])
        except UserError:
            self.close()
            raise
        if self.torn:
            os.ftruncate(self.opened, os.fstat(self.opened).st_size - self.torn)
            os.fsync(self.opened)
        return records[1:]

    @property
    def opened(self) -> int:
        """The file that is held."""
        if self.file is None:
            raise ValueError(f"{self.path}: not open")
        return self.file

    def hold(self) -> None:
        """Open the file for appending, and keep other processes out until this one ends, however it does.

        One that is missing is made empty: of two that start at once, the lock lets one write the header.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o666)
        except OSError as error:
            raise UserError(f"--out {self.path}: cannot be written ({error.strerror})") from None
        try:
            self.lock.take()
        except UserError:
            self.close()
            raise

    def check_same(self, header: Mapping[str, Any], there: Mapping[str, Any]) -> None:
        """Refuse to go on with a benchmark that was told something else, or that another version made."""
        before = there.get("parameters")
        if not isinstance(before, dict):
            raise UserError(f"{self.path}: parameters is {before!r}, expected an object")
        now = json.loads(to_line(header["parameters"]))
        version = "tool_version"
        now, before = {version: header.get(version)} | now, {version: there.get(version)} | before
        derived = "config_sha256"
        for key in (*now, *sorted(before.keys() - now.keys())):
            if key != derived and now.get(key) != before.get(key):
                raise UserError(
                    f"--out {self.path}: {difference(key, now.get(key), before.get(key))}; "
                    "expected the same benchmark, another file, or --force to start anew"
                )

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record, whole and on disk before this returns.

        Raises:
            UserError: It cannot be written; nothing of it is left behind.
        """
        line, before = to_line(record), os.fstat(self.opened).st_size
        try:
            written = os.write(self.opened, line)
            os.fsync(self.opened)
        except OSError as error:
            os.ftruncate(self.opened, before)
            raise UserError(f"--out {self.path}: cannot be written ({error.strerror})") from None
        if written < len(line):
            os.ftruncate(self.opened, before)
            raise UserError(f"--out {self.path}: cannot be written (no room left)")

    def close(self) -> None:
        """Let others work here."""
        if self.file is not None:
            os.close(self.file)
            self.file = None
            self.lock.release()


def difference(key: str, now: Any, before: Any) -> str:
    """Say how a field differs; within an object or a list, where."""
    if isinstance(now, dict) and isinstance(before, dict):
        inner = next(k for k in sorted(now.keys() | before.keys()) if now.get(k) != before.get(k))
        return difference(f"{key}.{inner}", now.get(inner), before.get(inner))
    if isinstance(now, list) and isinstance(before, list):
        at = next((i for i, (a, b) in enumerate(zip(now, before, strict=False)) if a != b), None)
        if at is None:
            return f"{key} has {len(now)} items, but {len(before)} there"
        return difference(f"{key}[{at}]", now[at], before[at])
    return f"{key} is {now!r}, but {before!r} there"
