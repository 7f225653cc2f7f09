"""Results of `vllm bench serve --save-detailed` and of SGLang's bench_serving: lengths and times of what was sent."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from simulator.ground.artefacts import UserError

from .account import Account
from .columns import Columns, Workload, gathered, numbers, requests_in
from .format import Format, Options
from .rows import Block, Source

LISTS = ("input_lens", "output_lens", "start_times")


def read(source: Source, _: Options) -> Workload:
    """Read the requests of one run; of a result without `start_times` their times are not told."""
    account, runs = Account("request"), list[int]()
    found = gathered(source, LISTS, account, partial(columns, source, runs, account), FORMAT.name)
    requests = requests_in(found, path=source.path)
    is_timed = "arrival_s" in found
    return Workload(requests, FORMAT.name, source.path, is_timed=is_timed, notes=(*account.notes(),))


def columns(source: Source, runs: list[int], account: Account, block: Block) -> Columns:
    """Return the columns of the one run that there is."""
    runs += block.places
    if len(runs) > 1:
        raise UserError(f"{source.path}: holds {len(runs)} results, expected that of one run")
    prompt, output, start = (listed(block.column(name)) for name in LISTS)
    if prompt is None or output is None or len(prompt) != len(output):
        raise UserError(f"{source.path}: has no input_lens and output_lens, expected a result with --save-detailed")
    account.rows += len(prompt) - 1
    found = {"places": np.arange(1, len(prompt) + 1), "prompt": numbers(prompt), "output": numbers(output)}
    if start is not None and len(start) == len(prompt):
        found["arrival_s"] = numbers(start)
    return found


def listed(values: Sequence[Any]) -> list[Any] | None:
    """Return the list of the only row."""
    value = values[0] if values else None
    return value if isinstance(value, list) else None


FORMAT = Format("vLLM bench result", ("total_input_tokens", "total_output_tokens"), read)
