"""Files of many records, one a line: what can be read is read, and every line that cannot is counted and named."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from .artefacts import UserError
from .fields import Field, Malformed, lines_of, parse_json

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
    place: str = "line"

    def about_skipped(self) -> str:
        """Return one line that counts the skipped records and names them; empty when there are none."""
        total = len(self.rows) + len(self.skipped)
        return about_skipped(self.path, self.skipped, f" of {total}", self.place)

    def notes(self) -> list[str]:
        """Return what there is to say of the file: a line of skipped records, or nothing."""
        return [*filter(None, [self.about_skipped()])]


def about_skipped(path: Path, skipped: Sequence[Skipped], of_total: str = "", place: str = "line") -> str:
    """Return one line that counts skipped records, gives reasons for the first few and the places of all lines.

    of_total: such as " of 480"; empty where the number is not known. place: "line", "record" of a list, or "file" of a
    folder.
    """
    if not skipped:
        return ""
    named = ", ".join(f"{s.line} ({s.reason})" for s in skipped[:NAMED_LINES])
    more = skipped[NAMED_LINES:]
    # A line is found by its number, a file of a folder is not.
    rest = f"and {len(more)} more" if more and place == "file" else ", ".join(str(s.line) for s in more)
    plural = "" if len(skipped) == 1 and not of_total else "s"
    return f"{path}: skipped {len(skipped)}{of_total} record{plural}, {place} {named}" + (f", {rest}" if rest else "")


def record_of(text: str) -> Field:
    """Read the JSON value of a line, as a field that refuses by BadRecord; see `fields.parse_json`."""
    try:
        return as_record(parse_json(text))
    except Malformed as error:
        raise BadRecord(error.what) from None


def as_record(value: Any) -> Field:
    """Return a value that was read already as a field that refuses by BadRecord."""
    return Field(value, error=BadRecord)


def read_each(
    path: Path, items: Iterator[tuple[int, Any]], read: Callable[[Any, int], T], expected: str, place: str = "line"
) -> Records[T]:
    """Read every item, keeping account of those that `read` refuses; a UserError says that not one can be used.

    items: (line, what stands there). read: from one item and its line; raises BadRecord. expected: what a record should
    look like, for the message when none does. place: what the first of an item is: a "line", or a "record" of a list.
    """
    rows: list[T] = []
    skipped: list[Skipped] = []
    for line, item in items:
        try:
            if isinstance(item, str) and any("\udc80" <= c <= "\udcff" for c in item):
                raise BadRecord("not UTF-8 text")
            rows.append(read(item, line))
        except BadRecord as error:
            skipped.append(Skipped(line=line, reason=str(error)))
    if not rows:
        first = f"{place} {skipped[0].line}: {skipped[0].reason}" if skipped else "it is empty"
        # A reason that says what is allowed tells enough.
        rest = "" if ", expected " in first else f", expected {expected}"
        raise UserError(f"{path}: holds nothing to read ({first}){rest}")
    return Records(path=path, rows=tuple(rows), skipped=tuple(skipped), place=place)


def read_jsonl(path: Path, read: Callable[[Field, int], T], expected: str) -> Records[T]:
    """Read a file of one JSON value a line; see `read_each`."""
    return read_each(path, lines_of(path), lambda line, number: read(record_of(line), number), expected)
