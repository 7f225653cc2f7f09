"""The project's own format: JSON a line, CSV or Parquet of tokens and times of sending."""

from functools import partial

import numpy as np

from .account import Account
from .columns import Columns, Workload, gathered, named, numbers, requests_in
from .format import Format, Options
from .rows import Block, Source

MOST_PRIORITY = 2**31 - 1
NEEDS = ("prompt_tokens", "output_tokens")


def read(source: Source, _: Options) -> Workload:
    """Read requests; `sent_s`, `category` and `priority` may be there."""
    account, categories = Account(source.place), dict[str, int]()
    is_timed, has_category = "sent_s" in source.names, "category" in source.names
    names = (*NEEDS, "sent_s", "category", "priority")
    found = gathered(source, names, account, partial(columns, categories, is_timed), FORMAT.name)
    requests = requests_in(found, path=source.path)
    return Workload(
        requests,
        FORMAT.name,
        source.path,
        is_timed=is_timed,
        categories=(*categories,) if has_category else (),
        notes=(*account.notes(),),
    )


def columns(categories: dict[str, int], is_timed: bool, block: Block) -> Columns:
    """Return the columns of a block."""
    prompt, output, sent, kinds, priority = map(block.column, (*NEEDS, "sent_s", "category", "priority"))
    found = {
        "prompt": numbers(prompt),
        "output": numbers(output),
        "category": named(kinds, categories),
        "priority": np.nan_to_num(numbers(priority)).clip(-MOST_PRIORITY, MOST_PRIORITY),
    }
    return found | ({"arrival_s": numbers(sent)} if is_timed else {})


FORMAT = Format("rows of prompt_tokens and output_tokens", NEEDS, read)
