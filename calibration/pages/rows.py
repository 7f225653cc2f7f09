"""Tables that commands write as CSV, column by column."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path

from simulator.ground.artefacts import UserError
from simulator.ground.fields import MAX_NUMBER

from .page import Table

# Columns of a table that a page shows, and letters of a cell.
MOST_COLUMNS, MOST_CELL = 14, 60


@dataclass(frozen=True)
class Rows:
    """A table: heads, and rows of as many cells."""

    path: Path
    heads: tuple[str, ...]
    rows: Sequence[Sequence[str]]

    @cached_property
    def texts(self) -> dict[str, tuple[str, ...]]:
        """Columns by name."""
        return dict(zip(self.heads, zip(*self.rows, strict=True), strict=True))

    def numbers(self, name: str) -> list[float]:
        """Return a column of numbers, NaN where a cell is empty or no number that can be drawn.

        Raises:
            UserError: There is none, or a cell is no number.
        """
        if name not in self.texts:
            raise UserError(f"{self.path}: no column {name}, expected a table of a command")
        found = []
        for row, text in enumerate(self.texts[name], 2):
            try:
                number = float(text) if text else math.nan
                found.append(number if abs(number) <= MAX_NUMBER else math.nan)
            except ValueError:
                raise UserError(f"{self.path}: row {row}: {name} is {text[:40]!r}, expected a number") from None
        return found

    def constants(self) -> list[tuple[str, str]]:
        """Return columns that are the same in every row."""
        return [(name, cells[0]) for name, cells in self.texts.items() if len(set(cells)) == 1 and cells[0]]

    def table(self, caption: str, most: int) -> Table:
        """Return what varies, of so many rows at most."""
        varies = [name for name, cells in self.texts.items() if len(set(cells)) > 1]
        varies = (varies or list(self.heads))[:MOST_COLUMNS]
        left = [i for i, name in enumerate(varies) if not all(map(is_number, self.texts[name]))]
        picked = [[in_short(self.texts[name][i]) for name in varies] for i in range(min(len(self.rows), most))]
        of = f", the first {most:,} of {len(self.rows):,} rows" if len(self.rows) > most else ""
        heads = [name.replace("_", " ") for name in varies]
        return Table(f"{caption}{of}", heads, picked, left=left)


def is_number(text: str) -> bool:
    """Whether a cell is a number, or empty."""
    try:
        return not text or float(text) is not None
    except ValueError:
        return False


def in_short(text: str) -> str:
    """Return a cell with five digits, or not too many letters."""
    if not text or not is_number(text):
        return text if len(text) <= MOST_CELL else f"{text[: MOST_CELL - 3]}..."
    return f"{float(text):,.5g}"


def rows_in(path: Path, text: str) -> Rows:
    """Read a table.

    Raises:
        UserError: It is none.
    """
    try:
        read = [row for row in csv.reader(StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise UserError(f"{path}: no CSV ({error})") from None
    if len(read) < 2 or len(set(read[0])) < len(read[0]):
        raise UserError(f"{path}: no result of a command, expected its JSON, its records or its table")
    short = next((i for i, row in enumerate(read, 1) if len(row) != len(read[0])), None)
    if short is not None:
        raise UserError(f"{path}: row {short} has {len(read[short - 1])} cells, expected {len(read[0])}")
    return Rows(path, tuple(read[0]), read[1:])
