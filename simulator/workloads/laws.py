"""Laws of lengths and of times as a user types them: `200`, `100:300`, `lognormal:1000:0.9`, `file:traffic.csv`."""

import math
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from simulator.ground.artefacts import UserError
from simulator.ground.ranges import in_milliseconds, number_in

from .requests import MOST_TOKENS, Array

FIXED, UNIFORM, LOGNORMAL, EXPONENTIAL, DRAWN = range(5)
# Of a time, in seconds: a year.
MOST_SECONDS = 366 * 86_400.0
LENGTHS = "TOKENS, FROM:TO, ratio:TOKENS:R, lognormal:MEAN:SIGMA[:CAP] or file:FILE[:COLUMN]"
TIMES = "a time such as 2s, FROM:TO, exponential:MEAN or lognormal:MEAN:SIGMA[:CAP]"


class Law(NamedTuple):
    """A law of lengths in tokens, or of times in seconds.

    Attributes:
        kind: `FIXED`, `UNIFORM` from `first` to `second`, `LOGNORMAL` with the mean `first` and, of logarithms, the
            standard deviation `second`; `EXPONENTIAL` with the mean `first`; `DRAWN` from `values`.
        cap: What is drawn beyond it is it; means are those before.
        values: Recorded ones.
        source: File and column they are from; two laws of one file without columns are drawn from the same rows.
    """

    kind: int
    first: float = 0.0
    second: float = 0.0
    cap: float = math.inf
    values: Array = np.empty(0)
    source: str = ""

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        """Return so many values, not rounded."""
        if self.kind == FIXED:
            drawn: Array = np.full(count, float(self.first))
        elif self.kind == UNIFORM:
            drawn = rng.uniform(self.first, self.second, count)
        elif self.kind == LOGNORMAL:
            drawn = rng.lognormal(math.log(self.first) - self.second**2 / 2, self.second, count)
        elif self.kind == EXPONENTIAL:
            drawn = rng.exponential(self.first, count)
        else:
            drawn = self.values[rng.integers(0, len(self.values), count)]
        drawn[drawn > self.cap] = self.cap
        return drawn

    def tokens(self, rng: np.random.Generator, count: int) -> Array:
        """Return so many lengths: whole, at least one token."""
        if self.kind == UNIFORM:
            return rng.integers(int(self.first), int(self.second) + 1, count, np.int32)
        drawn = self.draw(rng, count)
        return np.clip(np.rint(drawn, out=drawn), 1, MOST_TOKENS, out=drawn).astype(np.int32)

    @property
    def mean(self) -> float:
        """Mean, before rounding and the cap."""
        if self.kind == UNIFORM:
            return (self.first + self.second) / 2
        return float(self.values.mean()) if self.kind == DRAWN else self.first


def drawn_lengths(rng: np.random.Generator, count: int, isl: Law, osl: Law) -> tuple[Array, Array]:
    """Return tokens of prompts and of answers; of two recorded in one file, pairs as they were recorded together."""
    if isl.kind == osl.kind == DRAWN and isl.source == osl.source and len(isl.values) == len(osl.values):
        rows = rng.integers(0, len(isl.values), count)
        return isl.values[rows].astype(np.int32), osl.values[rows].astype(np.int32)
    return isl.tokens(rng, count), osl.tokens(rng, count)


def parse_lengths(option: str, text: str, side: str = "prompt") -> Law:
    """Read a law of lengths.

    Args:
        option: For messages.
        text: As typed. A number alone means what it means to `simulate`; FROM:TO is drawn evenly, both ends with it.
        side: Of a file without a column, "prompt" or "output" of its requests.

    Raises:
        UserError: It is none, or its file cannot be read.
    """
    kind, _, rest = text.strip().partition(":")
    if kind.lower() == "file":
        return recorded(option, text, rest, side)
    if kind.lower() == "ratio":
        length, ratio = given(option, text, rest, LENGTHS, (2, 2))
        if not 0 <= ratio < 1:
            refuse(option, text, "ratio:TOKENS:R with R from 0 to below 1: TOKENS * (1 - R) to TOKENS * (1 + R)")
        least, most = max(math.floor(length * (1 - ratio)), 1), math.ceil(length * (1 + ratio))
        return bounded(option, text, Law(UNIFORM, least, most), LENGTHS, MOST_TOKENS)
    law = parsed(option, text, LENGTHS)
    ends = (law.first, law.second) if law.kind == UNIFORM else (law.first,) if law.kind == FIXED else ()
    if law.kind == EXPONENTIAL or not all(end.is_integer() for end in ends):
        refuse(option, text, LENGTHS)
    return bounded(option, text, law, LENGTHS, MOST_TOKENS, least=1)


def parse_times(option: str, text: str) -> Law:
    """Read a law of times in seconds; a number alone is seconds, `500ms` names its unit."""
    parts = []
    for part in text.split(":"):
        read = in_milliseconds(part)
        parts.append(part if read == part else f"{float(read) / 1000!r}")
    return bounded(option, text, parsed(option, ":".join(parts), TIMES, text), TIMES, MOST_SECONDS)


def parsed(option: str, text: str, expected: str, typed: str = "") -> Law:
    """Read what lengths and times have in common; typed: the text as it was, for messages."""
    kind, colon, rest = text.strip().partition(":")
    typed = typed or text
    if kind.lower() == "lognormal":
        mean, sigma, *cap = given(option, typed, rest, expected, (2, 3))
        if not (mean > 0 and 0 <= sigma <= 5):
            refuse(option, typed, "lognormal:MEAN:SIGMA with MEAN above 0 and SIGMA, of logarithms, from 0 to 5")
        return Law(LOGNORMAL, mean, sigma, cap[0] if cap else math.inf)
    if kind.lower() == "exponential":
        (mean,) = given(option, typed, rest, expected, (1, 1))
        return Law(EXPONENTIAL, mean)
    ends = given(option, typed, text, expected, (1, 2))
    if not colon:
        return Law(FIXED, ends[0])
    if ends[1] < ends[0]:
        refuse(option, typed, "FROM:TO with FROM <= TO")
    return Law(UNIFORM, ends[0], ends[1])


def given(option: str, typed: str, text: str, expected: str, counts: tuple[int, int]) -> list[float]:
    """Read numbers between colons, as many as from the first to the second of `counts`."""
    numbers = [number_in(part) for part in text.split(":")]
    known = [float(n) for n in numbers if n is not None and n.is_finite() and n >= 0]
    if not (len(known) == len(numbers) and counts[0] <= len(known) <= counts[1]):
        refuse(option, typed, expected)
    return known


def bounded(option: str, typed: str, law: Law, expected: str, most: float, least: float = 0) -> Law:
    """Refuse a law of values that nobody means."""
    if not least <= law.first <= most or max(law.second if law.kind == UNIFORM else 0, 0) > most or law.cap < least:
        refuse(option, typed, f"{expected}, from {least:g} to {most:,.0f}")
    return law


def refuse(option: str, typed: str, expected: str) -> NoReturn:
    """Say what is allowed."""
    raise UserError(f"{option}: {typed!r} is not allowed, expected {expected}")


def recorded(option: str, typed: str, place: str, side: str) -> Law:
    """Read lengths from a file of traffic, or from a column of it that is named behind a colon."""
    from .reading import read_column, read_workload

    name, colon, column = place.rpartition(":")
    if colon and not Path(place).exists():
        values = read_column(option, Path(name), column)
        return Law(DRAWN, values=values, source=f"{name}:{column}")
    if not place:
        refuse(option, typed, "file:FILE or file:FILE:COLUMN")
    requests = read_workload(Path(place)).requests
    return Law(DRAWN, values=getattr(requests, side).astype(np.float64), source=place)
