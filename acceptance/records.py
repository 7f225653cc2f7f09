"""Files of many records, one a line: what can be read is read, and every line that cannot is counted and named."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from simulator.artefacts import UserError, read_text

T = TypeVar("T")
NAMED_LINES = 5


class BadRecord(ValueError):
    """A record that cannot be used; the message says in a few words what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A record that was not used: its line (or its place in a list, from 1) and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Records(Generic[T]):
    """What a file held: the records that could be read, and those that could not."""

    path: Path
    rows: tuple[T, ...]
    skipped: tuple[Skipped, ...] = ()

    def about_skipped(self) -> str:
        """Return one line that counts the skipped records and names the first few; empty when there are none."""
        if not self.skipped:
            return ""
        named = ", ".join(f"{s.line} ({s.reason})" for s in self.skipped[:NAMED_LINES])
        more = len(self.skipped) - NAMED_LINES
        rest = f" and {more} more" if more > 0 else ""
        total = len(self.rows) + len(self.skipped)
        return f"{self.path}: skipped {len(self.skipped)} of {total} records, line {named}{rest}"


def parse_json(text: str) -> Any:
    """Read one JSON value.

    Raises:
        BadRecord: It is none, holds NaN, or is nested too deeply.
    """

    def refuse_constant(name: str) -> None:
        raise BadRecord(f"holds {name}")

    try:
        return json.loads(text, parse_constant=refuse_constant)
    except BadRecord:
        raise
    except (ValueError, RecursionError):
        raise BadRecord("not JSON") from None


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of the lines that are not blank.

    Raises:
        UserError: The file cannot be read.
    """
    # Not splitlines(): JSON strings may hold U+2028, which is no line end to a JSONL writer.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


def read_each(path: Path, items: Iterator[tuple[int, Any]], read: Callable[[Any, int], T], expected: str) -> Records[T]:
    """Read every item, keeping account of those that `read` refuses.

    Args:
        path: The file, for messages.
        items: (line, what stands there).
        read: Turns one item into a record, given its line; raises BadRecord.
        expected: What a record should look like, for the message when none does.

    Raises:
        UserError: Not one record can be used; names the first that was refused.
    """
    rows: list[T] = []
    skipped: list[Skipped] = []
    for line, item in items:
        try:
            rows.append(read(item, line))
        except BadRecord as error:
            skipped.append(Skipped(line=line, reason=str(error)))
    if not rows:
        first = f"line {skipped[0].line}: {skipped[0].reason}" if skipped else "it is empty"
        raise UserError(f"{path}: holds nothing to read ({first}), expected {expected}")
    return Records(path=path, rows=tuple(rows), skipped=tuple(skipped))


def read_jsonl(path: Path, read: Callable[[Any, int], T], expected: str) -> Records[T]:
    """Read a file of one JSON value a line; see `read_each`."""
    return read_each(path, lines_of(path), lambda line, number: read(parse_json(line), number), expected)


def text_of(value: Any, name: str) -> str:
    """Return a text that is there and is Unicode.

    Raises:
        BadRecord: It is no text, empty, or holds half a surrogate pair.
    """
    if not isinstance(value, str) or not value:
        raise BadRecord(f"no text under {name!r}")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise BadRecord(f"{name} holds half a surrogate pair")
    return value


def texts_of(value: Any, name: str) -> tuple[str, ...]:
    """Return a list of texts; see `text_of`."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise BadRecord(f"no list of texts under {name!r}")
    return tuple(text_of(v, name) for v in value)
