"""Prompts in tables: CSV and TSV with a header, and Parquet; a row becomes a record by the names of its columns."""

import csv
import io
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from simulator.ground.artefacts import UserError
from simulator.ground.dependency import require
from simulator.ground.plain_text import PYARROW, first_line

Rows = Iterator[tuple[int, Any]]
# Columns that are named where none of all that are looked for is there.
USUAL = ("prompt", "question", "instruction")
# What bytes of another encoding are, as lines are read.
NOT_UTF8 = "not UTF-8 text, perhaps Windows-1252 (iconv -f cp1252 -t utf-8 makes it that)"
# Characters by which a table is told.
LOOKED_AT = 2**16
DELIMITERS = {",": "CSV", "\t": "TSV", ";": "CSV with semicolons"}


def header_of(text: str, delimiter: str) -> list[str]:
    """Return the names of the columns, as the first line that is not blank has them."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    with any_length():
        try:
            return [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
        except csv.Error:
            return []


def in_known_case(header: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return the names of columns in the case in which they are looked for, small letters where that is not known."""
    known = {name.lower(): name for name in reversed(columns)}
    names: list[str] = []
    for name in header:
        other = name if name in columns else known.get(name.lower(), name.lower())
        names.append(name if other in header or other in names else other)
    return names


def delimiter_of(text: str, columns: Sequence[str], allowed: Sequence[str]) -> str:
    """Return the delimiter whose header holds one of the columns, else that which cuts it most often."""
    headers = {d: in_known_case(header_of(text, d), columns) for d in allowed}
    return max(allowed, key=lambda d: (any(c in headers[d] for c in columns), len(headers[d])))


def is_table(text: str, keys: Sequence[str], *, columns: int, rows: int) -> bool:
    """Say whether text begins with a header and rows as wide, so many with it.

    keys: columns that hold prompts; the header has one of them, and `columns` names at least.
    """
    for delimiter in DELIMITERS:
        found = [row for _, row in read_rows(text[:LOOKED_AT], delimiter)[: max(2, rows)]]
        header = in_known_case(found[0] if found else [], keys)
        is_header = len(set(header)) == len(header) >= columns and all(header[1:]) and any(c in header for c in keys)
        if is_header and len(found) >= rows and all(len(row) == len(header) for row in found):
            return True
    return False


@contextmanager
def any_length() -> Iterator[None]:
    """Read fields that are longer than Python's limit of 128 KiB."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def table_rows(path: Path, text: str, delimiter: str, columns: Sequence[str], option: str) -> Rows:
    """Yield (line, record) of every row behind the header, or what is wrong with one; an empty field is no value.

    columns: those that hold prompts; option: how they were asked for, "" where they are the usual ones.

    Raises:
        UserError: The header lacks them, or quotes are not closed.
    """
    header = in_known_case(header_of(text, delimiter), columns)
    check_columns(path, DELIMITERS[delimiter], header, columns, option)
    try:
        rows = read_rows(text, delimiter, strict=True)
    except csv.Error as error:
        # Whoever writes TSV often quotes nothing.
        if delimiter != "\t":
            raise UserError(f"{path}: not {DELIMITERS[delimiter]} ({error}), expected quotes that are closed") from None
        rows = read_rows(text, delimiter, quoting=csv.QUOTE_NONE)
    for line, row in rows[1:]:
        if len(row) != len(header):
            # A prompt with an unquoted delimiter would be cut.
            yield line, f"{len(row)} fields, but the header has {len(header)}"
        elif any(cell and max(cell) >= "\udc80" and any("\udc80" <= c <= "\udcff" for c in cell) for cell in row):
            yield line, NOT_UTF8
        else:
            yield line, {name: cell or None for name, cell in zip(header, row, strict=True)}


def read_rows(text: str, delimiter: str, **how: Any) -> list[tuple[int, list[str]]]:
    """Return (line, fields) of all rows that are not blank; `how` as in `csv.reader`."""
    with any_length():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **how)
        rows, begin = [], 1
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((begin, row))
            begin = reader.line_num + 1
    return rows


def check_columns(path: Path, kind: str, header: Sequence[str], columns: Sequence[str], option: str) -> None:
    """Refuse a table without a column of prompts, or that names one twice."""
    twice = next((name for name, count in Counter(header).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{path}: {kind} with two columns {twice!r}, expected each name once")
    if any(c in header for c in columns):
        return
    nearest = [c for name in columns[:1] for c in get_close_matches(name, header, 3, 0.5)] or header[:3]
    there = ", ".join(nearest) + (f" (of {len(header)})" if len(header) > len(nearest) else "")
    if option:
        raise UserError(f"{path}: {option} {columns[0]!r} is no column of this {kind}, expected {there}")
    wanted = ", ".join([c for c in USUAL if c in columns] or columns[:3])
    raise UserError(f"{path}: {kind} whose columns are {there}, expected {wanted} or --column NAME")


def parquet_rows(path: Path, data: bytes, columns: Sequence[str], option: str) -> Rows:
    """Yield (row, record) of a Parquet file, batch by batch; `columns` and `option` as in `table_rows`.

    Raises:
        UserError: pyarrow is not installed, the file is damaged, or it lacks the columns.
    """
    pyarrow = require(PYARROW)
    from importlib import import_module

    try:
        file = import_module("pyarrow.parquet").ParquetFile(pyarrow.BufferReader(data))
        own = list(file.schema_arrow.names)
        names = in_known_case(own, columns)
    except (ValueError, OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: Parquet that cannot be read ({first_line(error)})") from None
    check_columns(path, "Parquet file", names, columns, option)
    row = 0
    try:
        for batch in file.iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                row += 1
                yield row, {name: record[known] for name, known in zip(names, own, strict=True)}
    except (ValueError, OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: Parquet that cannot be read behind row {row} ({first_line(error)})") from None
