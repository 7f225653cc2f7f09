"""Columns of traffic as arrays, and requests of them; rows that are none are accounted for."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from simulator.ground.artefacts import UserError
from simulator.workloads.requests import (
    MOST_TOKENS,
    NAMED_TEXT,
    Array,
    Requests,
    by_time,
    counted,
    requests_of,
    validated,
)

from .account import Account
from .rows import Block, Source

Columns = dict[str, Array]


class Workload(NamedTuple):
    """Recorded requests.

    Attributes:
        requests: Sent from 0 s on.
        format: Name of the file's format.
        path: The file.
        is_timed: Whether it tells when they were sent; else all are sent at once.
        categories: Names, by the number that requests have.
        sessions: How many the file tells; 0: none, or it does not.
        notes: What a reader has to know: what was left out, what is an estimate.
    """

    requests: Requests
    format: str
    path: Path
    is_timed: bool = True
    categories: tuple[str, ...] = ()
    sessions: int = 0
    notes: tuple[str, ...] = ()


def numbers(values: Sequence[Any]) -> Array:
    """Return values as numbers, NaN for what is none."""
    if set(map(type, values)) <= {int, float, str}:
        try:
            return np.array(values, np.float64)
        except (ValueError, OverflowError):
            pass
    return np.array([number(value) for value in values], np.float64)


def number(value: Any) -> float:
    """Return a value as a number, NaN for what is none."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    return np.nan


def clock(values: Sequence[Any]) -> Array:
    """Return dates with times of day as seconds since 1970, NaN for what is none; without a zone they are of UTC."""
    texts = [str(value).removesuffix("+00:00").removesuffix("Z") for value in values]
    # NumPy takes "now" for a date as well, and only warns of zones.
    if all(text[:1].isdigit() for text in texts):
        with suppress(ValueError, Warning), warnings.catch_warnings():
            warnings.simplefilter("error")
            times = np.array(texts, "M8[ns]")
            return np.where(np.isnat(times), np.nan, times.astype(np.int64) / 1e9)
    return np.array([date(text) for text in texts], np.float64)


def date(text: str) -> float:
    """Return a date with a time of day as seconds since 1970; NaN for what is none."""
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return np.nan


def identities(values: Sequence[Any]) -> Columns:
    """Return lists of whole numbers, one behind the other, and how many each row has; -1 of what is no such list."""
    lists = [value if isinstance(value, list) else [] for value in values]
    counts = np.fromiter(map(len, lists), np.int64, len(lists))
    flat = list(chain.from_iterable(lists))
    if set(map(type, flat)) <= {int}:
        try:
            return {"units": np.array(flat, np.int64), "unit_counts": counts}
        except OverflowError:
            pass
    is_good = [all(type(n) is int and 0 <= n < 1 << 64 for n in row) for row in lists]
    flat = [n for row, good in zip(lists, is_good, strict=True) if good for n in row]
    return {"units": np.array(flat, np.uint64).view(np.int64), "unit_counts": np.where(is_good, counts, -1)}


def gathered(
    source: Source, names: Sequence[str], account: Account, read: Callable[[Block], Columns], format: str
) -> Columns:
    """Return the columns of all rows that are requests.

    Args:
        source: Rows.
        names: Columns that are wanted of it.
        account: Of what is left out.
        read: A block's columns: `prompt`, `output`, `arrival_s` where the file tells it, what else there is; `places`
            where they are fewer rows.
        format: For the message where there is none.

    Raises:
        UserError: There is none.
    """
    parts = list[Columns]()
    for block in source.blocks(names, account):
        found = read(block)
        places = np.asarray(found.pop("places", block.places))
        is_good = np.ones(len(places), np.bool_)
        for reason, is_bad in faults(found):
            account.leave_out(reason, places[is_bad & is_good], were_rows=True)
            is_good &= ~is_bad
        parts.append(kept(found, is_good))
    if not any(len(part["prompt"]) for part in parts):
        raise UserError(f"{source.path}: {format} traffic without a request to use ({account.reasons() or 'no rows'})")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def faults(found: Columns) -> Iterable[tuple[str, Array]]:
    """Yield why rows are no requests, and which."""
    prompt, output = found["prompt"], found["output"]
    yield "without tokens in whole numbers", ~whole(prompt) | ~whole(output)
    yield "without a prompt", prompt < 1
    yield "without an answer", output < 1
    yield f"of more than {MOST_TOKENS:,} tokens", ~counted(prompt) | ~counted(output)
    if "arrival_s" in found:
        yield "without a time", ~np.isfinite(found["arrival_s"])
    if "unit_counts" in found:
        yield "with hash_ids that are no whole numbers", found["unit_counts"] < 0


def whole(values: Array) -> Array:
    """Say which values are whole numbers."""
    return np.asarray(np.isfinite(values) & (values == np.rint(values)))


def kept(found: Columns, is_good: Array) -> Columns:
    """Return the good rows, in the types that requests have."""
    types = {"prompt": np.int32, "output": np.int32}
    rows = {n: v[is_good].astype(types.get(n, v.dtype)) for n, v in found.items() if n != "units"}
    if "units" in found:
        rows["units"] = found["units"][np.repeat(is_good, np.maximum(found["unit_counts"], 0))]
    return rows


def requests_in(found: Columns, *, path: Path, unit_tokens: int = NAMED_TEXT) -> Requests:
    """Return requests of these columns by time of sending, from 0 s on."""
    columns = dict(found)
    prompt, output = columns.pop("prompt"), columns.pop("output")
    if "units" in columns:
        # Names of units may be numbers of 64 bits: here they are counted.
        columns["units"] = np.unique(columns["units"], return_inverse=True)[1].reshape(-1)
        counts = columns.pop("unit_counts")
        columns["units_start"] = np.cumsum(counts) - counts
        columns["shared"] = np.minimum(prompt, counts * unit_tokens)
    if "arrival_s" in columns:
        is_sent = columns.get("after", np.full(len(prompt), -1)) < 0
        columns["arrival_s"] = np.where(is_sent, columns["arrival_s"] - columns["arrival_s"][is_sent].min(), 0)
    return validated(by_time(requests_of(prompt, output, unit_tokens=unit_tokens, **columns)), path)


def named(values: Sequence[Any], names: dict[str, int]) -> Array:
    """Return the number of each name, and note new ones."""
    texts = ["" if value is None else value if isinstance(value, str) else str(value) for value in values]
    for text in dict.fromkeys(texts):
        names.setdefault(text, len(names))
    return np.fromiter(map(names.__getitem__, texts), np.int32, len(texts))
