"""Mooncake's traces, JSON a line: milliseconds, lengths, and `hash_ids` of the prompt's blocks of 512 tokens.

Dynamo's and AIPerf's rows of sessions are read as well: a turn with a `delay` is sent so many milliseconds after the
answer to the one before it. So are Alibaba's (Bailian), which count seconds and blocks of 16 tokens.
"""

from functools import partial
from typing import Any

import numpy as np

from .account import Account
from .columns import Columns, Workload, gathered, identities, named, numbers, requests_in
from .format import Format, Options
from .rows import Block, Source

BLOCK_TOKENS, BAILIAN_TOKENS = 512, 16
LENGTHS = ("input_length", "output_length")


def read(source: Source, _: Options) -> Workload:
    """Read Mooncake's, or one of its kin with sessions."""
    account, last = Account(source.place), dict[Any, int]()
    found = gathered(
        source,
        ("timestamp", *LENGTHS, "hash_ids", "session_id", "delay"),
        account,
        partial(columns, last),
        MOONCAKE.name,
    )
    behind(found)
    requests = requests_in(found, unit_tokens=BLOCK_TOKENS, path=source.path)
    return Workload(requests, MOONCAKE.name, source.path, sessions=len(last), notes=(*account.notes(),))


def columns(sessions: dict[Any, int], block: Block) -> Columns:
    """Return the columns of a block; a turn that waits for the one before it is sent at 0 s."""
    time, prompt, output, hashes, of, delay = map(
        block.column, ("timestamp", *LENGTHS, "hash_ids", "session_id", "delay")
    )
    sent, wait = numbers(time) / 1000, numbers(delay) / 1000
    session = np.array([-1 if s is None else sessions.setdefault(str(s), len(sessions)) for s in of], np.int64)
    waits = (session >= 0) & (wait >= 0) & np.isnan(sent)
    return {
        "arrival_s": np.where(waits, 0, sent),
        "prompt": numbers(prompt),
        "output": numbers(output),
        "think_s": np.where(waits, wait, 0),
        "waits": waits,
        "stream": session,
        **identities(hashes),
    }


def behind(found: Columns) -> None:
    """Put each turn that waits behind the one before it, and give texts of their own to those without a session."""
    session, rows = found["stream"], np.arange(len(found["stream"]))
    order = np.lexsort((rows, session))
    before = np.full(len(rows), -1)
    same = session[order[1:]] == session[order[:-1]]
    before[order[1:][same]] = order[:-1][same]
    waits = found.pop("waits") & (before >= 0)
    found["after"] = np.where(waits, before, -1)
    found["think_s"] = np.where(waits, found["think_s"], 0)
    found["stream"] = np.where(session < 0, session.max(initial=-1) + 1 + rows, session)


def read_bailian(source: Source, _: Options) -> Workload:
    """Read Alibaba's; requests are of categories by their type."""
    account, categories = Account(source.place), dict[str, int]()
    names = ("timestamp", *LENGTHS, "hash_ids", "type", "parent_chat_id")
    found = gathered(source, names, account, partial(bailian_columns, categories), BAILIAN.name)
    sessions = int(found.pop("is_first").sum())
    requests = requests_in(found, unit_tokens=BAILIAN_TOKENS, path=source.path)
    return Workload(
        requests,
        BAILIAN.name,
        source.path,
        categories=(*categories,),
        sessions=sessions,
        notes=(*account.notes(), "turns are sent at their recorded times, whatever the answers before them take"),
    )


def bailian_columns(categories: dict[str, int], block: Block) -> Columns:
    """Return the columns of a block."""
    time, prompt, output, hashes, kinds, parent = map(
        block.column, ("timestamp", *LENGTHS, "hash_ids", "type", "parent_chat_id")
    )
    return {
        "arrival_s": numbers(time),
        "prompt": numbers(prompt),
        "output": numbers(output),
        "category": named(kinds, categories),
        "is_first": numbers(parent) < 0,
        **identities(hashes),
    }


MOONCAKE = Format("Mooncake", LENGTHS, read)
BAILIAN = Format("Bailian", ("chat_id", "timestamp", *LENGTHS), read_bailian)
