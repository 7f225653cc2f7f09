"""Requests: when each is sent, how long its prompt and its answer are, and what text it shares with others. Arrays."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.ground.artefacts import UserError

Array = NDArray[Any]
# Tokens of a unit that is longer than any prompt: a text with one name.
NAMED_TEXT = 1 << 40
# Of a prompt or an answer: what a file or a law says beyond is a mistake.
MOST_TOKENS = 1 << 28
TYPES: dict[str, type[np.generic]] = {
    "arrival_s": np.float64,
    "prompt": np.int32,
    "output": np.int32,
    "priority": np.int32,
    "category": np.int32,
    "stream": np.int64,
    "shared": np.int32,
    "units_start": np.int64,
    "units": np.int64,
    "after": np.int32,
    "think_s": np.float64,
}


class Requests(NamedTuple):
    """Requests in the order in which they are sent, one that waits for another behind it. Made by `requests_of`.

    Attributes:
        arrival_s: Seconds after the start, never falling; of a request that waits for another, not used.
        prompt, output: Tokens, at least one.
        priority: Lower first, where a scheduler looks at it.
        category: Which law of acceptance is its own; names of categories stand beside.
        stream: Whose text its own is: requests of one stream have the same token at the same place.
        shared: Tokens at the beginning of the prompt that are not of the stream but of units.
        units_start: Where its units begin in `units`; there are `shared / unit_tokens` of them, rounded up.
        units: Identity of each unit of shared text, which includes all that stands before it.
        unit_tokens: Tokens of a unit.
        after: Index of the request for whose end it waits, as a turn of a session does; -1: for none.
        think_s: Seconds between that end and its sending.
    """

    arrival_s: Array
    prompt: Array
    output: Array
    priority: Array
    category: Array
    stream: Array
    shared: Array
    units_start: Array
    units: Array
    unit_tokens: int
    after: Array
    think_s: Array


def requests_of(prompt: Any, output: Any, *, unit_tokens: int = NAMED_TEXT, **columns: Any) -> Requests:
    """Return requests of these lengths; other columns as in `Requests`, numbers for all alike.

    A column that is left out says: all at once, one priority and category, nothing shared, no sessions.
    """
    size = len(prompt)
    usual: dict[str, Any] = {name: 0 for name in TYPES} | {"stream": np.arange(size), "units": (), "after": -1}
    given = usual | columns | {"prompt": prompt, "output": output}
    arrays = {
        name: np.array(given[name] if name == "units" else np.broadcast_to(given[name], size), dtype)
        for name, dtype in TYPES.items()
    }
    return Requests(unit_tokens=unit_tokens, **arrays)


def validated(requests: Requests, source: object = "requests") -> Requests:
    """Return requests that keep to the rules of their columns; a UserError names the source and the first that breaks.

    Raises:
        UserError: One does not.
    """
    rows = np.arange(len(requests.prompt))
    waits = requests.after >= 0
    sent = np.flatnonzero(~waits)
    falls = np.zeros(len(rows), np.bool_)
    falls[sent[1:]] = np.diff(requests.arrival_s[sent]) < 0
    units = unit_counts(requests)
    beyond = (requests.units_start < 0) | (requests.units_start + units > len(requests.units))
    seconds, tokens = "seconds of at least 0", f"1 to {MOST_TOKENS:,} tokens"
    faults = [
        ("arrival_s", ~waits & ~in_time(requests.arrival_s), seconds),
        ("arrival_s", falls, "no less than the one before"),
        ("prompt", ~counted(requests.prompt), tokens),
        ("output", ~counted(requests.output), tokens),
        ("category", requests.category < 0, "at least 0"),
        ("shared", (requests.shared < 0) | (requests.shared > requests.prompt), "at most its prompt"),
        ("units_start", (units > 0) & beyond, f"its units among the {len(requests.units):,} there are"),
        ("after", (requests.after < -1) | (requests.after >= rows), "a request before it"),
        ("think_s", ~in_time(requests.think_s), seconds),
    ]
    for name, is_bad, expected in faults:
        if is_bad.any():
            row = int(is_bad.argmax())
            value = getattr(requests, name)[row]
            raise UserError(f"{source}: request {row + 1}: {name} is {value:.15g}, expected {expected}")
    return requests


def in_time(seconds: Array) -> Array:
    """Say which times are credible."""
    return np.asarray((seconds >= 0) & (seconds < np.inf))


def counted(tokens: Array) -> Array:
    """Say which counts of tokens are credible."""
    return np.asarray((tokens >= 1) & (tokens <= MOST_TOKENS))


def unit_counts(requests: Requests) -> Array:
    """Return how many units of shared text each request has."""
    return -(-requests.shared.astype(np.int64) // requests.unit_tokens)


def first(requests: Requests, count: int) -> Requests:
    """Return the first of them."""
    cut = {name: getattr(requests, name)[:count] for name in TYPES if name != "units"}
    return requests._replace(**cut)


def concatenated(parts: Sequence[Requests]) -> Requests:
    """Return the requests of all parts by time of sending; no text of one part is that of another.

    Raises:
        UserError: Parts have units of different sizes.
    """
    sizes = {part.unit_tokens for part in parts if len(part.units)}
    if len(sizes) > 1:
        raise UserError(f"requests: units of {' and '.join(f'{s:,}' for s in sorted(sizes))} tokens, expected one size")
    moved = list[Requests]()
    rows = streams = names = places = 0
    for part in parts:
        waits = part.after >= 0
        moved.append(
            part._replace(
                stream=part.stream + streams,
                units=part.units + names,
                units_start=part.units_start + places,
                after=np.where(waits, part.after + rows, -1).astype(np.int32),
            )
        )
        rows, places = rows + len(part.prompt), places + len(part.units)
        streams += int(part.stream.max(initial=-1)) + 1
        names += int(part.units.max(initial=-1)) + 1
    columns = {name: np.concatenate([getattr(part, name) for part in moved]) for name in TYPES}
    return by_time(Requests(unit_tokens=sizes.pop() if sizes else NAMED_TEXT, **columns))


def by_time(requests: Requests) -> Requests:
    """Return requests in the order of sending, each that waits right behind that for which it does."""
    if not (requests.after >= 0).any() and (np.diff(requests.arrival_s) >= 0).all():
        return requests
    rows = np.arange(len(requests.prompt))
    root, depth = rows.copy(), np.zeros(len(rows), np.int64)
    ahead = requests.after.astype(np.int64)
    while (waits := ahead >= 0).any():
        root[waits] = ahead[waits]
        depth[waits] += 1
        ahead[waits] = requests.after[ahead[waits]]
    order = np.lexsort((rows, depth, root, requests.arrival_s[root]))
    place = np.empty_like(rows)
    place[order] = rows
    after = requests.after[order]
    columns = {name: getattr(requests, name)[order] for name in TYPES if name not in ("units", "after")}
    return requests._replace(**columns, after=np.where(after >= 0, place[after], -1).astype(np.int32))
