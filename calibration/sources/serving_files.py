"""Files of rows of load tests: CSV with any delimiter, JSON of benches; one, several, or all that lie in a folder."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from glob import glob, has_magic
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from acceptance.importers.values import read_values
from simulator.ground.artefacts import UserError
from simulator.ground.fields import text_of
from simulator.ground.records import BadRecord, Records, read_each

from .benches import read_record
from .serving import ServingRow, meaning, missing, read_row

EXPECTED = "columns concurrency, isl, osl, tpot_ms (or what vLLM, SGLang, GuideLLM or AIPerf write)"
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")
# Between cells; the first where none tells more columns.
DELIMITERS = ",;\t|"
# Of files of a folder that hold no rows, named at most.
MOST_NAMED = 3


class Found(NamedTuple):
    """Rows of some files, and what there is to say of those."""

    rows: tuple[ServingRow, ...]
    files: tuple[Path, ...]
    notes: tuple[str, ...]


def read_all(paths: Sequence[Path]) -> Found:
    """Read files, folders, and patterns of names; of a folder, what holds no rows is told and left.

    Raises:
        UserError: A file that was named holds no rows, a folder none with some, or one comes twice.
    """
    rows: list[ServingRow] = []
    files: list[Path] = []
    notes: list[str] = []
    for path in paths:
        several = within(path)
        empty: list[Path] = []
        for file in several or [path]:
            try:
                found = read_serving(file)
            except UserError:
                if not path.is_dir():
                    raise
                empty.append(file)
                continue
            if any(file.resolve() == other.resolve() for other in files):
                raise UserError(f"{file}: comes twice, expected each file once")
            rows += [replace(row, path=str(file)) for row in found.rows]
            files.append(file)
            notes += found.notes()
        if several and len(empty) == len(several):
            raise UserError(f"{path}: none of its {len(several)} files holds rows, expected {EXPECTED}")
        if empty:
            named = ", ".join(str(e.relative_to(path)) for e in empty[:MOST_NAMED])
            notes.append(f"{path}: no rows in {len(empty)} of {len(several)} files ({named})")
    return Found(tuple(rows), tuple(files), tuple(notes))


def within(path: Path) -> list[Path]:
    """Return the files of a folder, at any depth, or those that a pattern names; nothing where a path is neither."""
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
        if not files:
            raise UserError(f"{path}: holds no file of rows, expected {', '.join(SUFFIXES)}")
        return files
    if path.exists() or not has_magic(str(path)):
        return []
    files = [Path(name) for name in sorted(glob(str(path), recursive=True))]  # noqa: PTH207 - absolute ones too
    if not files:
        raise UserError(f"{path}: names no file")
    return files


def read_serving(path: Path) -> Records[ServingRow]:
    """Read the rows of a file; those that cannot be read are counted and named.

    Raises:
        UserError: No row can be read.
    """
    if path.suffix.lower() in (".json", ".jsonl"):
        found = read_values(path, read_record, EXPECTED)
        rows = tuple(row for rows in found.rows for row in rows)
        return Records(path=path, rows=rows, skipped=found.skipped, place=found.place)
    text = text_of(path).removeprefix("\ufeff")
    delimiter = delimiter_of(text.partition("\n")[0])

    def read(cells: Mapping[Any, Any], line: int) -> ServingRow:
        if None in cells:
            raise BadRecord(f"{len(cells[None])} more cells than columns, expected as many (a decimal comma?)")
        return read_row(cells, line, comma=delimiter != ",")

    return read_each(path, lines_of_table(path, text, delimiter), read, EXPECTED)


def delimiter_of(head: str) -> str:
    """Return what stands between the cells of a table: what makes most of its first line tell something."""
    return max(DELIMITERS, key=lambda delimiter: sum(meaning(name) is not None for name in head.split(delimiter)))


def lines_of_table(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    """Yield the rows of a table by their columns, with their lines.

    Raises:
        UserError: It is none, or lacks a column that every row needs.
    """
    table = csv.DictReader(StringIO(text), delimiter=delimiter)
    try:
        for row in table:
            if table.line_num == 2 and (lacking := missing(iter(table.fieldnames or ()))):
                has = ", ".join(map(str, table.fieldnames or ()))
                raise UserError(f"{path}: no column tells {lacking}, expected {EXPECTED}; it has {has[:120]}")
            yield table.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}: line {table.line_num} is no CSV ({error}), expected {EXPECTED}") from None
