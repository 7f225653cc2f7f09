"""What a page says of one result, whatever wrote that: an answer, parts with tables and pictures, where it comes from.

All of it is text and numbers; how it looks is for `document`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

Row = Sequence[str]
# How an answer is marked.
GOOD, BAD, OPEN = "good", "bad", "open"


class Figure(NamedTuple):
    """A number that stands out: what it is, how much, and beside what."""

    name: str
    value: str
    beside: str = ""


class Table(NamedTuple):
    """Rows of text below heads; the first `keys` cells of a row name it. left: columns of words. marks: see `GOOD`."""

    caption: str
    heads: Row
    rows: Sequence[Row]
    keys: int = 1
    left: Sequence[int] = (0,)
    marks: Sequence[str] = ()


class Axis(NamedTuple):
    """An axis: what it is of; log: in equal ratios. unit: behind each of its numbers. at: these places alone."""

    title: str
    log: bool = False
    unit: str = ""
    at: Sequence[float] = ()


class Line(NamedTuple):
    """Points joined by a line, or alone. lows, highs: ends of their intervals, none where there are none."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()


class Plot(NamedTuple):
    """A picture of lines, or of points where they are not `joined`, with a level or the diagonal to hold them against.

    says: for who cannot see it.
    """

    caption: str
    says: str
    lines: Sequence[Line]
    x: Axis
    y: Axis
    level: float | None = None
    diagonal: bool = False
    joined: bool = True


class Bar(NamedTuple):
    """A value with its interval, and how it is written."""

    name: str
    value: float
    ends: tuple[float, float] | None
    written: str


class Bars(NamedTuple):
    """A picture of values below one another, with a level to hold them against; without one they begin at 0."""

    caption: str
    bars: Sequence[Bar]
    x: Axis
    level: float | None = None

    @property
    def says(self) -> str:
        """What is told who cannot see it."""
        return "; ".join(f"{bar.name}: {bar.written}" for bar in self.bars)


class Code(NamedTuple):
    """Lines to be typed or pasted, and for what."""

    lines: Sequence[str]
    of: str = ""


class Part(NamedTuple):
    """A part of a page: sentences, then tables, pictures and lines to type."""

    heading: str
    sentences: Sequence[str]
    shown: Sequence[Table | Plot | Bars | Code] = ()


class Page(NamedTuple):
    """What is said of one result.

    name: of the file. kind: of the result, in words. answer: in a sentence or two. mark: see `GOOD`, "" for none.
    verdict: in a word or two. rests: what the answer rests on, by name. asked: parameters. made: where it comes from.
    record: all of it, as the file has it.
    """

    name: str
    kind: str
    answer: str
    mark: str
    verdict: str
    figures: Sequence[Figure]
    warnings: Sequence[str]
    rests: Sequence[tuple[str, str]]
    parts: Sequence[Part]
    asked: Sequence[tuple[str, str]]
    made: Sequence[tuple[str, str]]
    record: Any
