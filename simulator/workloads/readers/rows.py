"""Rows of a file of traffic, whatever it is: CSV with a header, Parquet, JSON a line, a JSON array or one object.

They come block by block, so that a file may be longer than the memory; what a block holds are columns.
"""

import codecs
import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from io import StringIO
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from simulator.ground.artefacts import UserError, reading
from simulator.ground.dependency import require
from simulator.ground.fields import Malformed, parse_json
from simulator.ground.plain_text import PARQUET, PYARROW, first_line, text_parts

from .account import Account

ROWS_A_BLOCK = 1 << 14
# Rows among which one has to be an object.
LOOKED_AT = 100
DELIMITERS = ",;\t"
# Characters of the one object of a file, or of one element of an array.
LONGEST = 1 << 28


class Block(NamedTuple):
    """Some rows: where each stands (its line, or its number in the file), and columns; what a row lacks is None."""

    places: Sequence[int]
    columns: Mapping[str, Sequence[Any]]

    def column(self, name: str) -> Sequence[Any]:
        """Return a column; one that is not there holds nothing."""
        return self.columns.get(name) or [None] * len(self.places)


class Source(Protocol):
    """A file of rows; `names`: of its columns, of objects the keys of the first, in small letters."""

    path: Path
    names: tuple[str, ...]
    place: str

    def blocks(self, names: Sequence[str], account: Account) -> Iterator[Block]:
        """Yield the rows with these columns, once; those that cannot be read are accounted for."""


def open_source(path: Path) -> Source:
    """Look at how a file begins, and say what its rows have.

    Raises:
        UserError: It holds none.
    """
    with reading(path) as file:
        begins = file.read(len(PARQUET)) if file.seekable() else b""
    if begins == PARQUET:
        return Parquet(path)
    parts = text_parts(path)
    begin = next(parts, b"").lstrip()
    if not begin:
        raise UserError(f"{path}: holds nothing to read (it is empty), expected recorded traffic")
    parts = chain([begin], parts)
    if begin[:1] == b"[":
        return Objects(path, elements(path, parts))
    return Objects(path, objects(path, parts)) if begin[:1] == b"{" else Table(path, parts)


class Table:
    """Text with a header, cut by commas, semicolons or tabs."""

    place = "line"

    def __init__(self, path: Path, parts: Iterable[bytes]) -> None:
        self.path, self.texts = path, line_blocks(parts)
        head, _, rest = next(self.texts).partition("\n")
        self.delimiter = max(DELIMITERS, key=head.count)
        self.names = tuple(name.strip(' \r"').lower() for name in head.split(self.delimiter))
        self.texts = chain([rest], self.texts)

    def blocks(self, names: Sequence[str], account: Account) -> Iterator[Block]:
        """Yield the rows with these columns."""
        width, line = len(self.names), 2
        at = {name: self.names.index(name) for name in names if name in self.names}
        for text in self.texts:
            if cells := even_cells(text, self.delimiter, width):
                count = len(cells) // width
                account.rows += count
                yield Block(range(line, line + count), {name: cells[i::width] for name, i in at.items()})
                line += count
                continue
            try:
                rows = list(csv.reader(StringIO(text, newline=""), delimiter=self.delimiter, strict=True))
            except csv.Error as error:
                raise UserError(f"{self.path}: not CSV ({error}, in or behind line {line})") from None
            places: Sequence[int] = range(line, line + len(rows))
            line += len(rows)
            if any(len(row) != width for row in rows):
                wrong = [n for n, row in zip(places, rows, strict=True) if len(row) not in (0, width)]
                account.leave_out(f"not of {width} fields", wrong)
                good = [(n, row) for n, row in zip(places, rows, strict=True) if len(row) == width]
                places, rows = [n for n, _ in good], [row for _, row in good]
            account.rows += len(rows)
            yield Block(places, {name: [row[i] for row in rows] for name, i in at.items()})


def even_cells(text: str, delimiter: str, width: int) -> list[str]:
    """Return the cells of lines that have so many each, in a twentieth of csv's time; nothing of other text."""
    if '"' in text or not text.strip():
        return []
    text = text.replace("\r\n", "\n")
    text += "" if text.endswith("\n") else "\n"
    characters = np.frombuffer(text.encode(), np.uint8)
    marks = characters[(characters == ord(delimiter)) | (characters == ord("\n"))]
    if len(marks) % width or "\r" in text:
        return []
    ends = marks.reshape(-1, width) == ord("\n")
    if ends[:, :-1].any() or not ends[:, -1].all():
        return []
    cells = text.replace("\n", delimiter).split(delimiter)
    return cells[:-1]


class Objects:
    """JSON objects: one a line, in an array, or a single one."""

    place = "record"

    def __init__(self, path: Path, rows: Iterator[tuple[int, Any]]) -> None:
        early = list[tuple[int, Any]]()
        for row in rows:
            early.append(row)
            if isinstance(row[1], dict) or len(early) == LOOKED_AT:
                break
        self.path, self.rows = path, chain(early, rows)
        first = next((row for _, row in early if isinstance(row, dict)), None)
        if first is None:
            raise UserError(f"{path}: holds no JSON objects, expected recorded traffic")
        self.own = {key.lower(): key for key in first}
        self.names = tuple(self.own)

    def blocks(self, names: Sequence[str], account: Account) -> Iterator[Block]:
        """Yield the rows with these columns."""
        while rows := list(islice(self.rows, ROWS_A_BLOCK)):
            good = [(n, row) for n, row in rows if isinstance(row, dict)]
            account.leave_out("no JSON objects", [n for n, row in rows if not isinstance(row, dict)])
            account.rows += len(good)
            own = [(name, self.own.get(name, name)) for name in names]
            columns = {name: [row.get(key) for _, row in good] for name, key in own}
            yield Block([n for n, _ in good], columns)


class Parquet:
    """A Parquet file."""

    place = "row"

    def __init__(self, path: Path) -> None:
        self.path, self.arrow = path, require(PYARROW, str(path))
        try:
            self.file = import_module("pyarrow.parquet").ParquetFile(path)
            self.own = {name.lower(): name for name in reversed(self.file.schema_arrow.names)}
        except (ValueError, OSError, self.arrow.ArrowException) as error:
            raise UserError(f"{path}: Parquet that cannot be read ({first_line(error)})") from None
        self.names = tuple(self.own)

    def blocks(self, names: Sequence[str], account: Account) -> Iterator[Block]:
        """Yield the rows with these columns."""
        known = {name: self.own[name] for name in names if name in self.own}
        row = 1
        try:
            for batch in self.file.iter_batches(batch_size=ROWS_A_BLOCK, columns=[*known.values()]):
                account.rows += batch.num_rows
                columns = {name: batch.column(own).to_pylist() for name, own in known.items()}
                yield Block(range(row, row + batch.num_rows), columns)
                row += batch.num_rows
        except (ValueError, OSError, self.arrow.ArrowException) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self.path}: Parquet that cannot be read ({first_line(error)})") from None


def line_blocks(parts: Iterable[bytes]) -> Iterator[str]:
    """Yield text in blocks of whole lines."""
    left = list[bytes]()
    for part in parts:
        whole, newline, rest = part.rpartition(b"\n")
        if newline:
            yield b"".join((*left, whole, newline)).decode("utf-8", "replace")
            left = []
        left.append(rest)
    if last := b"".join(left):
        yield last.decode("utf-8", "replace")


def objects(path: Path, parts: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) of JSON a line; of what is none, its error. A file that is one object is its only value."""
    before, texts = 0, line_blocks(parts)
    for text in texts:
        for number, line in enumerate(text.split("\n"), before + 1):
            if not line.strip():
                continue
            value = value_of(line)
            if number == 1 and isinstance(value, Malformed):
                yield 1, only_object(path, chain([text], texts))
                return
            yield number, value
        before += text.count("\n")


def value_of(line: str) -> Any:
    """Return the JSON value of a line, or the error."""
    try:
        return parse_json(line, any_number=True)
    except Malformed as error:
        return error


def only_object(path: Path, texts: Iterable[str]) -> Any:
    """Return the one object that a file is."""
    whole = ""
    for text in texts:
        whole += text
        if len(whole) > LONGEST:
            raise UserError(f"{path}: one JSON value of more than {LONGEST:,} characters, expected a shorter one")
    try:
        return parse_json(whole, any_number=True)
    except Malformed as error:
        raise UserError(f"{path}: {error}") from None


def elements(path: Path, parts: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of the elements of a JSON array, of which no more is kept than one and a part."""
    decoder, take = codecs.getincrementaldecoder("utf-8")("replace"), json.JSONDecoder().raw_decode
    texts = chain((decoder.decode(part) for part in parts), (decoder.decode(b"", True) for _ in range(1)))
    text, at, number, wanted = next(texts), 1, 1, 0
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if text[at : at + 1] == "]":
            return
        try:
            if at >= len(text) - 1 or len(text) - at < wanted:
                raise ValueError
            value, end = take(text, at)
            # A number may go on in the next part.
            if end == len(text):
                raise ValueError
        except (ValueError, RecursionError) as error:
            more = next(texts, None)
            if more is None and wanted:
                wanted = 0
                continue
            if more is None or len(text) - at > LONGEST or isinstance(error, RecursionError):
                raise UserError(f"{path}: not JSON (element {number} of the array is cut short or damaged)") from None
            # What is parsed in vain is at most as long as what is parsed well.
            text, at, wanted = text[at:] + more, 0, 2 * (len(text) - at)
            continue
        yield number, value
        at, number, wanted = end, number + 1, 0
