"""Counts and histograms of other tools, checked before they are used."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from simulator.ground.fields import Field, Malformed, lines_of, parse_json, shortened
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.plain_text import read_text_bytes
from simulator.ground.records import BadRecord, Records, as_record, read_each

T = TypeVar("T")
# Sums of a file's counts stay exact in a float.
MAX_COUNT = 10**13
# Of server-sent events, as a streamed answer is saved.
EVENT = "data:"


def count_of(field: Field) -> int:
    """Return a whole number that is not negative."""
    return field.whole(0, MAX_COUNT)


def number_of(field: Field) -> float:
    """Return a number that is not negative."""
    return field.number(0, MAX_COUNT)


def optional_count(field: Field) -> int | None:
    """Return a count, None where it is missing or null."""
    return count_of(field) if field.is_given else None


def inner(field: Field, key: str) -> Field:
    """Return what stands under a key, nothing where the field is no object."""
    return field[key] if isinstance(field.value, dict) else replace(field, value=None)


def bucket_of(key: str, field: Field) -> int:
    """Return a number of tokens that an object has as key."""
    number = int(key) if key.isascii() and key.isdigit() and len(key) <= 4 else -1
    # "03" beside "3" would be one bucket twice.
    if not 0 <= number <= MAX_DRAFT_LENGTH or str(number) != key:
        raise BadRecord(f"{field.place} has key {shortened(key)}, expected 0 to {MAX_DRAFT_LENGTH}")
    return number


def histogram_counts(field: Field) -> tuple[int, ...]:
    """Return counts by accepted drafts, from a list or from an object keyed by the number accepted."""
    if isinstance(field.value, dict):
        buckets = {bucket_of(key, field): count_of(count) for key, count in field.items()}
        return tuple(buckets.get(a, 0) for a in range(max(buckets, default=-1) + 1))
    counts = tuple(map(count_of, field.elements()))
    if len(counts) > MAX_DRAFT_LENGTH + 1:
        raise BadRecord(f"{field.place} has {len(counts)} buckets, expected at most {MAX_DRAFT_LENGTH + 1}")
    return counts


def accepted_of(counts: Sequence[int]) -> int:
    """Return the drafts accepted in all rounds of a histogram."""
    return sum(a * count for a, count in enumerate(counts))


def largest_of(counts: Sequence[int]) -> int:
    """Return the most drafts that a round of a histogram accepted; 0 where it counts none."""
    return max((a for a, count in enumerate(counts) if count), default=0)


def add_counts(parts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the sum of histograms of any lengths."""
    length = max(map(len, parts), default=0)
    return tuple(sum(part[a] for part in parts if a < len(part)) for a in range(length))


def check_equal(field: Field, expected: int, of: str) -> None:
    """Refuse a count that is given and differs from what it should be."""
    if (value := optional_count(field)) not in (None, expected):
        raise BadRecord(f"{field.place} is {value}, but {of} makes {expected}")


def read_values(path: Path, read: Callable[[Field, int], T], expected: str) -> Records[T]:
    """Read a file that holds one JSON object, a list of them, one a line, or streamed answers; see `read_each`."""
    whole = whole_json(path)
    if isinstance(whole, Field):
        values: list[object] = whole.value if isinstance(whole.value, list) else [whole.value]
        return read_each(path, enumerate(map(as_record, values), 1), read, expected)
    if next(lines_of(path), (0, ""))[1].startswith(EVENT):
        return read_each(path, streams_of(path), lambda events, number: read_last(events, number, read), expected)
    return read_each(path, lines_of(path), lambda line, number: read(record_of(line), number), expected)


def streams_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the events of each streamed answer of a file, and the line of the last: up to [DONE], or to the end."""
    events: list[str] = []
    line = 0
    for line, text in lines_of(path):
        event = text.removeprefix(EVENT).strip()
        if event == "[DONE]":
            yield line, events
            events = []
        elif text.startswith(EVENT):
            events.append(event)
    if events:
        yield line, events


def read_last(events: Sequence[str], line: int, read: Callable[[Field, int], T]) -> T:
    """Read the last event that can be read: what is counted in a stream is so far, or stands at the end alone."""
    first_reason = BadRecord("a stream without events")
    for i, event in enumerate(reversed(events)):
        try:
            return read(record_of(event), line)
        except BadRecord as error:
            first_reason = error if i == 0 else first_reason
    raise first_reason


def record_of(text: str) -> Field:
    """Read a JSON value as other tools write it: with Infinity and NaN, which are refused where they are used."""
    try:
        return as_record(parse_json(text, any_number=True))
    except Malformed as error:
        raise BadRecord(error.what) from None


def whole_json(path: Path) -> Field | None:
    """Return the JSON object or list that a file holds, None where it is not one of them alone."""
    try:
        whole = record_of(read_text_bytes(path).decode())
    except (BadRecord, UnicodeDecodeError):
        return None  # lines that are no text are skipped one by one
    return whole if isinstance(whole.value, dict | list) else None


def close(a: float, b: float, tolerance: float) -> bool:
    """Say whether two numbers differ by no more than what rounding explains."""
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=tolerance)
