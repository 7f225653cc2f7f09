"""Agents' traces of Dynamo, JSON a line: rows of Mooncake's kind that wait for the starts or ends of others."""

from functools import partial
from itertools import compress
from typing import Any, NamedTuple

import numpy as np

from simulator.ground.artefacts import UserError
from simulator.ground.fields import shortened
from simulator.workloads.requests import MOST_TOKENS

from .account import Account
from .columns import Columns, Workload, gathered, identities, number, numbers, requests_in
from .format import Format, Options
from .mooncake import BLOCK_TOKENS, LENGTHS
from .rows import Block, Source

WAITS = ("dependencies", "wait_for", "delay", "tool_wait_ms")
NAMES = ("request_id", "session_id", *LENGTHS, "hash_ids", "not_before_ms", "timestamp", "block_size", *WAITS)


class Wait(NamedTuple):
    """For whom a request waits: its name, or none; for its start rather than its end; and how long after that."""

    request: str | None = None
    is_start: bool = False
    then_s: float = 0.0
    others: int = 0


class Seen(NamedTuple):
    """What was read of all rows: names, waits, sessions, and the size of blocks where a heading tells it."""

    names: list[str | None]
    waits: list[Wait]
    sessions: set[str]
    sizes: list[int]


def read(source: Source, _: Options) -> Workload:
    """Read one; of several requests for which one waits, the last that is named counts."""
    account, seen = Account(source.place), Seen([], [], set(), [])
    found = gathered(source, NAMES, account, partial(columns, seen), FORMAT.name)
    several = follow(found, seen)
    notes = account.notes()
    if several:
        notes.append(f"{several:,} requests wait for several others: the last that is named counts")
    size = seen.sizes[0] if seen.sizes else BLOCK_TOKENS
    if not 0 < size <= MOST_TOKENS:
        raise UserError(f"{source.path}: block_size {shortened(size)} is not allowed, expected 1 to {MOST_TOKENS:,}")
    requests = requests_in(found, unit_tokens=size, path=source.path)
    return Workload(requests, FORMAT.name, source.path, sessions=len(seen.sessions), notes=(*notes,))


def columns(seen: Seen, block: Block) -> Columns:
    """Return the columns of a block, without the heading."""
    rows = {name: block.column(name) for name in NAMES}
    is_row = [
        size is None or name is not None for size, name in zip(rows["block_size"], rows["request_id"], strict=True)
    ]
    seen.sizes.extend(s for s, is_r in zip(rows["block_size"], is_row, strict=True) if not is_r and type(s) is int)
    rows = {name: [*compress(values, is_row)] for name, values in rows.items()}
    waits = [wait_of(*row) for row in zip(*(rows[name] for name in WAITS), strict=True)]
    first = len(seen.waits)
    seen.waits.extend(waits)
    seen.names.extend(name if isinstance(name, str) else None for name in rows["request_id"])
    seen.sessions.update(str(s) for s in rows["session_id"] if s is not None)
    sent = numbers([t if t is not None else n for t, n in zip(rows["timestamp"], rows["not_before_ms"], strict=True)])
    is_waiting = np.array([wait.request is not None for wait in waits], np.bool_)
    return {
        "places": np.asarray(block.places)[np.array(is_row, np.bool_)],
        "arrival_s": np.where(is_waiting & np.isnan(sent), 0, sent / 1000),
        "prompt": numbers(rows["input_length"]),
        "output": numbers(rows["output_length"]),
        "row": np.arange(first, len(seen.waits)),
        **identities(rows["hash_ids"]),
    }


def wait_of(dependencies: Any, wait_for: Any, delay_ms: Any, tool_ms: Any) -> Wait:
    """Return for what a row waits, in the words of either version of the format."""
    named = [d for d in dependencies if isinstance(d, dict)] if isinstance(dependencies, list) else []
    if named:
        last = named[-1]
        then_s = max(np.nan_to_num(number(last.get("delay_ms"))), 0) / 1000
        return Wait(last.get("request_id"), last.get("trigger") == "dispatch", then_s, len(named) - 1)
    if isinstance(wait_for, list) and wait_for:
        then_s = sum(max(np.nan_to_num(number(ms)), 0) for ms in (delay_ms, tool_ms)) / 1000
        return Wait(wait_for[-1], False, then_s, len(wait_for) - 1)
    return Wait()


def follow(found: Columns, seen: Seen) -> int:
    """Put every request behind the one before it for which it waits; return how many wait for several.

    A request that waits for a start waits for all that this waits for, and is sent so much later.
    """
    rows = found.pop("row").tolist()
    place = {seen.names[i]: row for row, i in enumerate(rows) if seen.names[i] is not None}
    after, think = np.full(len(rows), -1), np.zeros(len(rows))
    several = 0
    for row, wait in enumerate(seen.waits[i] for i in rows):
        of = place.get(wait.request, row) if isinstance(wait.request, str) else row
        if of >= row:
            continue
        several += wait.others > 0
        if not wait.is_start:
            after[row], think[row] = of, wait.then_s
        elif after[of] >= 0:
            after[row], think[row] = after[of], think[of] + wait.then_s
        else:
            found["arrival_s"][row] = found["arrival_s"][of] + wait.then_s
    found["after"], found["think_s"] = after, think
    return several


FORMAT = Format("agentic Mooncake", ("request_id", *LENGTHS), read)
HEADED = Format(FORMAT.name, ("schema", "block_size"), read)
