"""Tables written part by part, as CSV or Parquet by suffix: as fast as they come, whole or not at all.

A part is a box of rows: its columns broadcast to the box, so that what a column repeats is put into words once.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .artefacts import UserError, neutral, writing
from .dependency import Dependency, require

if TYPE_CHECKING:
    from .helpers import Helpers

PARQUET = Dependency(import_name="pyarrow", purpose="writing Parquet", extra="parquet")
SUFFIXES = (".csv", ".parquet")
ROWS_A_PART = 1 << 16
# Rows of CSV for which processes are started to help: that takes as long as a few ten thousand rows.
HELPED_ROWS = 1 << 18

Columns = Mapping[str, Any]
Shape = tuple[int, ...]


class Table(Protocol):
    """A table that is being written."""

    def encode(self, columns: Columns, shape: Shape) -> Any:
        """Return a part as `write` takes it, the last axis of its box fastest; on any thread."""

    def write(self, encoded: Any) -> None:
        """Write the next part."""


def check_table_format(option: str, path: Path | None, suffixes: tuple[str, ...] = SUFFIXES) -> None:
    """Refuse a table suffix we do not write, or Parquet where its library is missing."""
    if path is None:
        return
    if path.suffix not in suffixes:
        raise UserError(f"{option} {path}: suffix {path.suffix!r}, expected {' or '.join(suffixes)}")
    if path.suffix == ".parquet":
        require(PARQUET, f"{option} {path}")


@contextmanager
def writing_table(path: Path, *, rows: int = 0) -> Iterator[Table]:
    """Open a table that takes its name only when the block ends well.

    rows: how many parts encoded on several threads will have: many rows of CSV get processes that help.
    """
    from .helpers import Helpers

    with writing(path, "wb") as file:
        helpers = Helpers() if rows >= HELPED_ROWS else None
        table = ParquetTable(file) if path.suffix == ".parquet" else CsvTable(file, helpers)
        try:
            yield table
        finally:
            table.close()


def write_table(path: Path, columns: Columns) -> None:
    """Write columns of one length; a scalar is repeated."""
    arrays = {name: values if np.ndim(values) == 0 else np.asarray(values) for name, values in columns.items()}
    rows = max((len(values) for values in arrays.values() if np.ndim(values)), default=1)
    with writing_table(path) as table:
        for first in range(0, rows, ROWS_A_PART):
            last = min(first + ROWS_A_PART, rows)
            part = {name: values[first:last] if np.ndim(values) else values for name, values in arrays.items()}
            table.write(table.encode(part, (last - first,)))


class CsvTable:
    """Rows of text: numbers in the shortest digits that read back as the same, nothing for what is not known."""

    def __init__(self, file: IO[bytes], helpers: "Helpers | None") -> None:
        self.file, self.helpers, self.is_headed = file, helpers, False

    def encode(self, columns: Columns, shape: Shape) -> tuple[str, bytes]:
        """Return the header and the rows."""
        rows = csv_rows(columns, shape) if self.helpers is None else self.helpers.call(csv_rows, columns, shape)
        return ",".join(map(quoted, columns)), rows

    def write(self, encoded: tuple[str, bytes]) -> None:
        """Write the next rows, below the header."""
        header, rows = encoded
        if not self.is_headed:
            self.file.write(f"{header}\n".encode())
        self.is_headed = True
        self.file.write(rows)

    def close(self) -> None:
        """Nothing is left to be written."""
        if self.helpers is not None:
            self.helpers.close()


def csv_rows(columns: Columns, shape: Shape) -> bytes:
    """Return the rows of a part."""
    size, texts = math.prod(shape), list[NDArray[np.object_]]()
    for text in map(cells, columns.values()):
        joint = np.broadcast_shapes(texts[-1].shape, text.shape) if texts else shape
        # Neighbours that repeat themselves together are joined before they are repeated.
        if texts and 2 * math.prod(joint) <= size:
            texts[-1] = np.asarray(texts[-1] + "," + text, np.object_)
        else:
            texts.append(text)
    rows = zip(*(np.broadcast_to(text, shape).ravel().tolist() for text in texts), strict=True)
    return "\n".join([*map(",".join, rows), ""]).encode()


def cells(values: Any) -> NDArray[np.object_]:
    """Return the texts of a column's cells, of its shape and at least one axis."""
    array = np.atleast_1d(np.asarray(values))
    flat = array.ravel().tolist()
    if array.dtype.kind == "f":
        texts = list(map(repr, flat))
        if np.isnan(array).any():
            texts = ["" if text == "nan" else text for text in texts]
    elif array.dtype.kind in "iub":
        texts = list(map(str, flat))
    else:
        texts = ["" if value is None else quoted(neutral(str(value))) for value in flat]
    return np.array(texts, np.object_).reshape(array.shape)


def quoted(text: str) -> str:
    """Return a text as a cell, within quotes where it needs them."""
    import csv

    line = StringIO()
    csv.writer(line, lineterminator="\r\n").writerow([text, ""])  # which it then looks for
    return line.getvalue().removesuffix(",\r\n")


class ParquetTable:
    """A row group for each part."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.arrow = file, require(PARQUET)
        self.writer: Any = None

    def encode(self, columns: Columns, shape: Shape) -> tuple[list[str], Any]:
        """Return the names of columns that repeat themselves, and the part as a table of Arrow."""
        size = math.prod(shape)
        table = self.arrow.table({name: in_arrow(self.arrow, v, shape, size) for name, v in columns.items()})
        return [name for name, values in columns.items() if 2 * np.size(values) <= size], table

    def write(self, encoded: tuple[list[str], Any]) -> None:
        """Write the next row group."""
        repeated, table = encoded
        if self.writer is None:
            from pyarrow.parquet import ParquetWriter

            # A dictionary of what does not repeat itself is longer than that.
            self.writer = ParquetWriter(self.file, table.schema, use_dictionary=repeated)
        self.writer.write_table(table, row_group_size=table.num_rows)

    def close(self) -> None:
        """Write what says where the row groups are."""
        if self.writer is not None:
            self.writer.close()


def in_arrow(arrow: ModuleType, values: Any, shape: Shape, size: int) -> Any:
    """Return a column of a part as an array of Arrow; NaN is null there."""
    array = np.asarray(values)
    if array.size > 1 or array.dtype.kind == "f":
        return arrow.array(np.broadcast_to(array, shape).ravel(), from_pandas=True)
    value = array.item()
    return arrow.nulls(size) if value is None else arrow.repeat(value, size)
