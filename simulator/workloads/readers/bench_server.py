"""What `bench-server --out` writes: the requests of one arm at one load, block behind block, as they were sent."""

from functools import partial
from itertools import compress

import numpy as np

from .account import Account
from .columns import Columns, Workload, gathered, named, numbers, requests_in
from .format import Format, Options
from .rows import Block, Source

NAMES = ("type", "arm", "load", "part", "try", "sent_s", "e2e_s", "prompt_tokens", "output_tokens")
EXTRA = ("arm", "load", "part", "try", "e2e_s")


def read(source: Source, _: Options) -> Workload:
    """Read one; of several arms or loads the first counts, as arms answer the same requests."""
    account, arms = Account(source.place), dict[str, int]()
    found = gathered(source, NAMES, account, partial(columns, arms), FORMAT.name)
    arm, load, part, attempt, e2e_s = (np.nan_to_num(found.pop(name)) for name in EXTRA)
    taken = (arm == arm[0]) & (load == load[0])
    began_s, blocks_s = 0.0, np.zeros(len(part))
    for block in np.unique(part[taken]):
        of = taken & (part == block)
        # What was begun and did not end was run again.
        taken &= ~of | (attempt == attempt[of].max())
        of &= taken
        blocks_s[of] = began_s
        began_s += float(np.nanmax((found["arrival_s"] + e2e_s)[of]))
    found["arrival_s"] = found["arrival_s"] + blocks_s
    kept = {name: values[taken] if len(values) == len(taken) else values for name, values in found.items()}
    several = (
        []
        if np.unique(arm).size == np.unique(load).size == 1
        else [f"those of arm {next(iter(arms))} at load {load[0]:g}, the first of several"]
    )
    return Workload(requests_in(kept, path=source.path), FORMAT.name, source.path, notes=(*account.notes(), *several))


def columns(arms: dict[str, int], block: Block) -> Columns:
    """Return the columns of a block's requests, without other records."""
    is_request = [kind == "request" for kind in block.column("type")]
    rows = {name: [*compress(block.column(name), is_request)] for name in NAMES}
    return {
        "places": np.asarray(block.places)[np.array(is_request, np.bool_)],
        "arrival_s": numbers(rows["sent_s"]),
        "prompt": numbers(rows["prompt_tokens"]),
        "output": numbers(rows["output_tokens"]),
        "arm": named(rows["arm"], arms),
        **{name: numbers(rows[name]) for name in EXTRA[1:]},
    }


FORMAT = Format("bench-server's requests", ("created_utc", "kind", "parameters"), read)
