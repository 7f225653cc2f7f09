"""Recorded traffic from a file, whose format its content says."""

from pathlib import Path

import numpy as np

from simulator.ground.artefacts import UserError

from .readers.account import Account
from .readers.all import FORMATS
from .readers.columns import Workload, numbers
from .readers.format import Options
from .readers.rows import open_source
from .requests import MOST_TOKENS, Array

SHOWN = 4


def read_workload(path: Path, options: Options = Options()) -> Workload:  # noqa: B008 - it cannot be changed
    """Read the requests of a file.

    Raises:
        UserError: It is of no known format, or holds no request.
    """
    source = open_source(path)
    for known in FORMATS:
        if set(known.needs) <= set(source.names):
            return known.read(source, options)
    names = ", ".join(name[:20] for name in source.names[:SHOWN]) + ", ..." * (len(source.names) > SHOWN)
    known_names = "; ".join(dict.fromkeys(known.name for known in FORMATS))
    raise UserError(f"{path}: traffic of no known format ({names}), expected {known_names}")


def read_column(option: str, path: Path, name: str) -> Array:
    """Return a column of whole numbers of at least one, in float64; other rows are left out.

    Raises:
        UserError: The file has no such column, or it holds none.
    """
    source = open_source(path)
    if name.lower() not in source.names:
        raise UserError(f"{option}: {name!r} is no column of {path}, expected {', '.join(source.names[:12])}")
    blocks = source.blocks((name.lower(),), Account(source.place))
    values = [numbers(block.column(name.lower())) for block in blocks]
    found: Array = np.concatenate(values) if values else np.empty(0)
    found = np.rint(found[(found >= 0.5) & (found <= MOST_TOKENS)])
    if not len(found):
        raise UserError(f"{option}: column {name!r} of {path} holds no tokens, expected numbers of at least 1")
    return found
