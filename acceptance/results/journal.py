"""A file of records that is only ever appended to, one line a record, and survives being killed at any moment.

A record is written by one system call and synced. What follows the last line end is the torn rest of a record that was
never whole: it is cut off before the next one is written. One process a file.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acceptance.trace.lock import Lock
from simulator.ground.artefacts import UserError, check_kind, finite_or_text, read_bytes
from simulator.ground.fields import parse_json
from simulator.ground.partial import make_folder, sync_folder
from simulator.ground.plain_text import read_text_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalKind:
    """What a file of records is of.

    name, versions: what its header says it is. command, option: what writes it, and where that is told. work: what it
    keeps, in a word. more_words: what else helps where it is another's.
    """

    name: str
    versions: tuple[int, ...]
    command: str
    option: str
    work: str
    more_words: str = "another file"


DECODE_RUN = JournalKind(name="decode_run", versions=(2,), command="bench-decode", option="--out", work="benchmark")
KIND, SCHEMA_VERSIONS = DECODE_RUN.name, DECODE_RUN.versions
HASH_DIGITS, SHOWN_DIGITS = 64, 12
# Keys are sorted: every header begins like this.
OPENING = b'{"created_utc":'


def to_line(record: Mapping[str, Any]) -> bytes:
    """Return one record as a line of strict JSON, keys sorted."""
    text = json.dumps(finite_or_text(record), sort_keys=True, allow_nan=False, separators=(",", ":"))
    return text.encode() + b"\n"


def read_records(
    path: Path, kind: JournalKind = DECODE_RUN, *, packed: bool = False
) -> tuple[list[dict[str, Any]], int]:
    """Return the whole records of a file, and how many bytes of a torn one follow them.

    packed: whether it may be packed (gzip, xz ...), as what nothing is added to.

    Raises:
        UserError: The file cannot be read, begins with no header of ours, or a whole line is no JSON object.
    """
    whole, end, torn = (read_text_bytes if packed else read_bytes)(path).rpartition(b"\n")
    records: list[dict[str, Any]] = []
    for number, line in enumerate(whole.split(b"\n") if end else [], 1):
        try:
            record = parse_json(line.decode())
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise UserError(f"{path}: line {number} is no JSON object, {remedy(records, kind)}")
        records.append(record)
    if not records or "kind" not in records[0]:
        raise UserError(f"{path}: begins with no record of kind {kind.name!r}, expected a file of {kind.command}")
    check_kind(path, records[0], kind.name, kind.versions)
    return records, len(torn)


def remedy(before: list[dict[str, Any]], kind: JournalKind) -> str:
    """Say what to do about a damaged line: behind a header of ours the rest of the file is good."""
    if not before or before[0].get("kind") != kind.name:
        return f"expected a file of {kind.command}"
    return (
        "expected a record: cut the line out, and what it told is measured again, "
        f"or {kind.command} --force starts anew"
    )


def is_unbegun(path: Path, kind: JournalKind = DECODE_RUN) -> bool:
    """Whether a file is empty, or holds no more than a header of ours that was never whole."""
    data = read_bytes(path)
    if b"\n" in data or data[: len(OPENING)] != OPENING[: len(data)]:
        return False
    try:
        return bool(parse_json(data.decode(), any_number=True)["kind"] == kind.name)
    except (ValueError, KeyError):
        return True


class Journal:
    """An open file of records."""

    def __init__(self, path: Path, kind: JournalKind = DECODE_RUN) -> None:
        self.path, self.kind = path, kind
        real = path.resolve()  # by whatever name the file is opened, it is one
        self.lock = Lock(real, f"{kind.option}: another {kind.work} is at work in {path}")
        self.file: int | None = None
        self.torn = 0

    def open(self, header: Mapping[str, Any], *, force: bool, same_stays: bool = False) -> list[dict[str, Any]]:
        """Begin a file with a header, or go on with one that the same header began; return the records that are there.

        header: its parameters and the tool's version are what must be the same. force: throw away what is there; with
        same_stays, only what is not the same.

        Raises:
            UserError: The file is another's, of another configuration, or another process is at work in it.
        """
        if self.file is None:
            self.hold()
        try:
            if (force and not (same_stays and self.is_same(header))) or is_unbegun(self.path, self.kind):
                os.ftruncate(self.opened, 0)
                self.append(header)
                return []
            records, self.torn = read_records(self.path, self.kind)
            self.check_same(header, records[0])
        except UserError:
            self.close()
            raise
        if self.torn:
            os.ftruncate(self.opened, os.fstat(self.opened).st_size - self.torn)
            os.fsync(self.opened)
        return records[1:]

    def is_same(self, header: Mapping[str, Any]) -> bool:
        """Whether the file can be gone on with under this header."""
        try:
            self.check_same(header, read_records(self.path, self.kind)[0][0])
        except UserError:
            return False
        return True

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
            make_folder(self.path.parent)
            self.lock.take()
            self.file = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o666)
            sync_folder(self.path.parent)
        except OSError as error:
            self.lock.release()
            raise UserError(f"{self.kind.option} {self.path}: cannot be written ({error.strerror})") from None

    def check_same(self, header: Mapping[str, Any], there: Mapping[str, Any]) -> None:
        """Refuse to go on with a benchmark that was told something else, or that another version made."""
        before = there.get("parameters")
        if not isinstance(before, dict):
            raise UserError(f"{self.path}: parameters is {before!r}, expected an object")
        now = json.loads(to_line(header["parameters"]))
        version = "tool_version"
        now, before = {version: header.get(version)} | now, {version: there.get(version)} | before
        told = first_difference(now, before)
        if told:
            raise UserError(
                f"{self.kind.option} {self.path}: {told}; "
                f"expected the same {self.kind.work}, {self.kind.more_words}, or --force to start anew"
            )

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record, whole and on disk before this returns.

        Raises:
            UserError: It cannot be written; nothing of it is left behind.
        """
        self.write(to_line(record))

    def write(self, lines: bytes) -> None:
        """Write whole lines of `to_line` as one; see `append`."""
        before = os.fstat(self.opened).st_size
        try:
            written = os.write(self.opened, lines)
            os.fsync(self.opened)
        except OSError as error:
            os.ftruncate(self.opened, before)
            raise UserError(f"{self.kind.option} {self.path}: cannot be written ({error.strerror})") from None
        if written < len(lines):
            os.ftruncate(self.opened, before)
            raise UserError(f"{self.kind.option} {self.path}: cannot be written (no room left)")

    def close(self) -> None:
        """Let others work here."""
        if self.file is not None:
            os.close(self.file)
            self.file = None
            self.lock.release()

    def remove(self) -> None:
        """End the file, in one step, and let others work here."""
        self.path.unlink(missing_ok=True)
        sync_folder(self.path.parent)
        self.close()


# What hashes in a header are of.
CHANGED = {
    "items_sha256": "prompts changed, or the sound or transcripts that they stand for",
    "dataset_sha256": "the file of prompts changed",
}


def first_difference(now: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """Say in which parameter two runs differ; empty where in none."""
    derived = "config_sha256"
    keys = [*now, *sorted(before.keys() - now.keys())]
    for key in sorted(keys, key=lambda key: key.endswith("sha256")):  # what was said before what follows of it
        if key != derived and (told := difference(key, now.get(key), before.get(key))):
            return f"{CHANGED[key]} ({told})" if key in CHANGED else told
    return ""


def difference(key: str, now: Any, before: Any) -> str:
    """Say how a field differs; within an object or a list, where. Empty where it does not: null and missing are one."""
    if now == before:
        return ""
    if isinstance(now, dict) and isinstance(before, dict):
        inner = (difference(f"{key}.{k}", now.get(k), before.get(k)) for k in sorted(now.keys() | before.keys()))
        return next(filter(None, inner), "")
    if isinstance(now, list) and isinstance(before, list):
        pairs = enumerate(zip(now, before, strict=False))
        lengths = "" if len(now) == len(before) else f"{key} has {len(now)} items, but {len(before)} there"
        return next(filter(None, (difference(f"{key}[{i}]", a, b) for i, (a, b) in pairs)), lengths)
    return f"{key} is {shown(now)}, but {shown(before)} there"


def shown(value: Any) -> str:
    """Return a value in quotes; of a hash, as many digits as tell it from others."""
    is_hash = isinstance(value, str) and len(value) == HASH_DIGITS
    return f"{value[:SHOWN_DIGITS]}..." if is_hash else repr(value)
