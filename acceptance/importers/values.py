"""Numbers and files of other tools, checked before they are used."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from simulator.ground.artefacts import read_text
from simulator.ground.fields import shortened
from simulator.ground.records import BadRecord, Records, read_each, read_jsonl, record_of

from .imported import MAX_DRAFT_LENGTH

T = TypeVar("T")
# Sums of a file's counts stay exact in a float.
MAX_COUNT = 1e13


def number_of(value: Any, name: str) -> float:
    """Return a finite number that is not negative.

    Raises:
        BadRecord: It is none.
    """
    # Compared before it becomes a float: JSON integers may have any number of digits.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_COUNT:
        raise BadRecord(f"{name} is {shortened(value)}, expected a number from 0 to {MAX_COUNT:g}")
    return float(value)


def count_of(value: Any, name: str) -> int:
    """Return a whole number that is not negative; see `number_of`."""
    number = number_of(value, name)
    if not number.is_integer():
        raise BadRecord(f"{name} is {shortened(value)}, expected a whole number")
    return int(number)


def optional_count(found: Mapping[str, Any], name: str) -> int | None:
    """Return a count, None where the key is missing or null."""
    value = found.get(name)
    return None if value is None else count_of(value, name)


def draft_length_of(found: Mapping[str, Any], name: str) -> int | None:
    """Return a draft length from 1 to MAX_DRAFT_LENGTH, None where the key is missing or null."""
    k = optional_count(found, name)
    if k is not None and not 1 <= k <= MAX_DRAFT_LENGTH:
        raise BadRecord(f"{name} is {k}, expected 1 to {MAX_DRAFT_LENGTH}")
    return k


def object_of(value: Any, name: str) -> Mapping[str, Any]:
    """Return a JSON object.

    Raises:
        BadRecord: It is none.
    """
    if not isinstance(value, dict):
        raise BadRecord(f"no object under {name!r}" if value is None else f"{name} is no object")
    return value


def list_of(value: Any, name: str) -> list[Any]:
    """Return a JSON list.

    Raises:
        BadRecord: It is none.
    """
    if not isinstance(value, list):
        raise BadRecord(f"no list under {name!r}" if value is None else f"{name} is no list")
    return value


def bucket_of(key: str, name: str) -> int:
    """Return a number of tokens that a JSON object has as key.

    Raises:
        BadRecord: It is none, or above MAX_DRAFT_LENGTH.
    """
    number = int(key) if key.isascii() and key.isdigit() and len(key) <= 4 else -1
    # "03" beside "3" would be one bucket twice.
    if not 0 <= number <= MAX_DRAFT_LENGTH or str(number) != key:
        raise BadRecord(f"{name} has key {shortened(key)}, expected 0 to {MAX_DRAFT_LENGTH}")
    return number


def histogram_counts(value: Any, name: str) -> tuple[int, ...]:
    """Return counts by accepted drafts, from a list or from an object keyed by the number accepted.

    Raises:
        BadRecord: It is neither, or a bucket or count is wrong.
    """
    if isinstance(value, dict):
        found = {bucket_of(key, name): count_of(count, name) for key, count in value.items()}
        return tuple(found.get(a, 0) for a in range(max(found, default=-1) + 1))
    counts = tuple(count_of(count, name) for count in list_of(value, name))
    if len(counts) > MAX_DRAFT_LENGTH + 1:
        raise BadRecord(f"{name} has {len(counts)} buckets, expected at most {MAX_DRAFT_LENGTH + 1}")
    return counts


def accepted_of(counts: tuple[int, ...]) -> int:
    """Return the drafts accepted in all rounds of a histogram."""
    return sum(a * count for a, count in enumerate(counts))


def largest_of(counts: tuple[int, ...]) -> int:
    """Return the most drafts that a round of a histogram accepted; 0 where it counts none."""
    return max((a for a, count in enumerate(counts) if count), default=0)


def add_counts(parts: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the sum of histograms of any lengths."""
    length = max(map(len, parts), default=0)
    return tuple(sum(part[a] for part in parts if a < len(part)) for a in range(length))


def check_equal(value: int | None, expected: int, name: str, of: str) -> None:
    """Refuse a count that is stated and differs from what it should be.

    Raises:
        BadRecord: It does.
    """
    if value is not None and value != expected:
        raise BadRecord(f"{name} is {value}, but {of} makes {expected}")


def read_values(path: Path, read: Callable[[Any, int], T], expected: str) -> Records[T]:
    """Read a file that holds one JSON object, a list of them, or one a line.

    Args:
        path: The file.
        read: Turns one value into a record, given its line or its place in the list; raises BadRecord.
        expected: What a record should look like, for messages.

    Raises:
        UserError: Not one record can be used.
    """
    whole = whole_json(path)
    if isinstance(whole, list):
        return read_each(path, numbered(whole), read, expected)
    if isinstance(whole, dict):
        return read_each(path, iter([(1, whole)]), read, expected)
    return read_jsonl(path, read, expected)


def numbered(values: list[Any]) -> Iterator[tuple[int, Any]]:
    """Yield (place from 1, value)."""
    yield from enumerate(values, 1)


def whole_json(path: Path) -> Any:
    """Return the JSON value that a file holds, None where it is not one value."""
    try:
        return record_of(read_text(path))
    except BadRecord:
        return None


def close(a: float, b: float, tolerance: float) -> bool:
    """Say whether two numbers differ by no more than what rounding explains."""
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=tolerance)
