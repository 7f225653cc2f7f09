"""Azure's traces of LLM inference of 2023 and 2024: CSV of times, tokens of contexts and generated tokens."""

from .account import Account
from .columns import Columns, Workload, clock, gathered, numbers, requests_in
from .format import Format, Options
from .rows import Block, Source

COLUMNS = ("timestamp", "contexttokens", "generatedtokens")


def read(source: Source, _: Options) -> Workload:
    """Read one of both years."""
    account = Account(source.place)
    requests = requests_in(gathered(source, COLUMNS, account, columns, "Azure LLM"), path=source.path)
    return Workload(requests, FORMAT.name, source.path, notes=(*account.notes(),))


def columns(block: Block) -> Columns:
    """Return the columns of a block."""
    time, prompt, output = map(block.column, COLUMNS)
    return {"arrival_s": clock(time), "prompt": numbers(prompt), "output": numbers(output)}


FORMAT = Format("Azure LLM", COLUMNS, read)
