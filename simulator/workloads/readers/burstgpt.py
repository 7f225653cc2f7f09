"""BurstGPT's traces: CSV of seconds, models, tokens of requests and responses; where one failed, the latter are 0."""

from functools import partial

from .account import Account
from .columns import Columns, Workload, gathered, named, numbers, requests_in
from .format import Format, Options
from .rows import Block, Source

NEEDS = ("timestamp", "request tokens", "response tokens")
COLUMNS = (*NEEDS, "log type", "session id")
UNTOLD = "what the turns of its sessions share is not told, so nothing is"


def read(source: Source, _: Options) -> Workload:
    """Read one; requests are of categories by the type of the log."""
    account, categories, sessions = Account(source.place), dict[str, int](), set[str]()
    found = gathered(source, COLUMNS, account, partial(columns, categories, sessions), FORMAT.name)
    notes = [*account.notes(), *([UNTOLD] if sessions else [])]
    requests = requests_in(found, path=source.path)
    return Workload(
        requests, FORMAT.name, source.path, categories=(*categories,), sessions=len(sessions), notes=(*notes,)
    )


def columns(categories: dict[str, int], sessions: set[str], block: Block) -> Columns:
    """Return the columns of a block."""
    time, prompt, output, kinds, of = map(block.column, COLUMNS)
    sessions.update(filter(None, set(of)))
    return {
        "arrival_s": numbers(time),
        "prompt": numbers(prompt),
        "output": numbers(output),
        "category": named(kinds, categories),
    }


FORMAT = Format("BurstGPT", NEEDS, read)
