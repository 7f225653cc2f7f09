"""What there is to say of rows of servers: why some are not used, what does not go together, what is assumed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from calibration.sources.serving import MOST_APART, ServingRow
from simulator.costs.profile import USABLE_MEMORY, Profile

if TYPE_CHECKING:
    from .loads import Loads

UNFIT = "as they do not fit into memory"
MEMORY_OPTIONS = "--gpu-memory-utilization (--mem-fraction-static)"
# Rows, models and the like that are named, at most.
MOST_NAMED = 3


def left_in_words(left_out: Mapping[str, int], others: Mapping[str, Sequence[str]]) -> list[str]:
    """Say how many rows were left out, and why, most first; of other models, engines and devices, which."""
    words = []
    for reason, count in sorted(left_out.items(), key=lambda one: -one[1]):
        names = others.get(reason, ())
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        which = f": {', '.join(names[:MOST_NAMED])}{more}" if names else ""
        words.append(f"{count:,} row{'s' * (count != 1)} left out, {reason}{which}")
    return words


def row_warnings(loads: "Loads", profile: Profile) -> Iterator[str]:
    """Yield what to know of rows: few of them are used, do not go together, or hang on what nobody states."""
    if loads.are_few:
        left = "; ".join(left_in_words(loads.left_out, loads.others))
        yield f"{len(loads):,} of {loads.read:,} rows are used ({left})"
    yield from doubts_of(loads.rows)
    fits = np.isfinite(loads.priced(profile).running)
    if unfit := loads.left_out.get(UNFIT, 0) + int((~fits).sum()):
        one = "row does" if unfit == 1 else "rows do"
        said = f"{unfit:,} {one} not fit into the memory of their devices as priced, though measured there"
        yield f"{said}: --dtype, --kv-dtype, --tp or --gpu-memory-utilization is not what the server had"
    if hanging := int((loads.hanging(profile) & fits).sum()):
        said = f"{hanging:,} of {len(loads):,} rows run about as many requests at once as memory holds"
        yield f"{said}, of which {USABLE_MEMORY:.0%} are taken to be used: {MEMORY_OPTIONS} says another share"


def doubts_of(rows: Sequence[ServingRow]) -> Iterator[str]:
    """Yield rows whose throughput and times do not go together, the farthest first."""
    far = [row for row in rows if not 1 / MOST_APART <= row.apart <= MOST_APART]
    for row in sorted(far, key=lambda row: -abs(np.log(row.apart)))[:MOST_NAMED]:
        rate = f"output_tok_s is {row.output_tok_s:,.5g}, but {row.concurrency:g} clients with these times"
        more = f" (so in {len(far)} rows)" if len(far) > 1 else ""
        yield f"{row.place}: {rate} make {row.apart * (row.output_tok_s or 0.0):,.5g}; the times are used{more}"


def notes_of(loads: "Loads") -> list[str]:
    """Return what there is to say of rows besides `row_warnings`, a sentence each."""
    left = [] if loads.are_few else left_in_words(loads.left_out, loads.others)
    return [f"{note[0].upper()}{note[1:]}." for note in (*left, *loads.assumed)]
