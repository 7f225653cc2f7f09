"""What the numbers of a histogram file are: counts of rounds, probabilities, or rates of positions."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from .artefacts import UserError
from .fields import Field, Malformed, parse_json, text_of
from .names import one_of

# Files of a folder of histograms, one a draft length.
HISTOGRAMS = "accept_hist_k*.json"
# What the numbers of a file may be: rounds, P(A = a), or P(A >= j) from the first position on.
AS = ("counts", "probabilities", "rates")
# Probabilities that someone typed sum to 1 by so much, percent to 100 times as much.
SUM_TOLERANCE = 0.02
FOREIGN = 'expected {"k": 4, "hist": {...}}; what other tools write: measure-acceptance import FILE'


def read_histogram(path: str | Path, read_as: str | None = None) -> Field:
    """Read what should be a histogram file; a list counts from 0 accepted drafts on, one of K rates from 1 on.

    read_as: see `parse_histogram`.
    """
    try:
        content = Field(parse_json(text_of(path)), path)
    except Malformed as error:
        raise UserError(f"{path}: {error}, {FOREIGN}") from None
    if not isinstance(content.value, dict) or not {"kind", "k", "hist"} & content.value.keys():
        raise UserError(f"{path}: holds no histogram, {FOREIGN}")
    counts = content["hist"].value
    if not isinstance(counts, list):
        return content
    first = int((read_as or content["as"].value) == "rates" and len(counts) == content["k"].value)
    return content.but(hist={str(a): count for a, count in enumerate(counts, first)})


def group_in(path: str | Path) -> Path:
    """Return the folder that FOLDER:NAME names, as `measure-acceptance --by` writes it; any other path as it is.

    Raises:
        UserError: The folder is there and holds nothing of that name, or it holds groups and none is named.
    """
    path = Path(path)
    folder, found, name = str(path).rpartition(":")
    if path.is_dir() and not any(path.glob(HISTOGRAMS)) and (known := groups_of(path)):
        raise UserError(f"{path}: holds one folder a group, expected {path}:NAME, {one_of(known, '')}")
    if path.exists() or not found or not Path(folder).is_dir():
        return path
    inner = Path(folder) / name
    if not name or not inner.is_dir():
        known = groups_of(Path(folder))
        one = one_of(known, name) if known else "a folder that measure-acceptance --by wrote"
        raise UserError(f"{path}: {folder} holds no {name!r}, expected {one}")
    return inner


def groups_of(folder: Path) -> list[str]:
    """Return the names of the groups of which a folder holds histograms."""
    return sorted({p.parent.name for p in folder.glob(f"*/{HISTOGRAMS}")})


def falls(given: Mapping[int, float], k: int) -> bool:
    """Say whether buckets 1 to k are given and never rise, as rates of positions do and histograms seldom do.

    Bucket 0, where it is given, has to be all rounds: 1, or 100 percent.
    """
    is_all = 0 not in given or (given[0] in (1, 100) and max(given.values()) == given[0])
    return is_all and sorted({0, *given}) == [*range(k + 1)] and all(given[a] >= given[a + 1] for a in range(1, k))


def looks_like(hist: Field, given: Mapping[int, float], k: int) -> str:
    """Say what the numbers of another tool's histogram are; refuse what can be this or that."""
    total, largest = sum(given.values()), max(given.values(), default=0.0)
    if all(value.is_integer() for value in given.values()):
        return "counts"
    near = abs(total - 1) <= SUM_TOLERANCE or abs(total - 100) <= 100 * SUM_TOLERANCE / 4
    if near and not (falls(given, k) and k > 1):
        return "probabilities"
    if largest <= 1 or (falls(given, k) and largest <= 100):
        kind = "rates P(A >= j)" if falls(given, k) else "neither counts nor probabilities"
        raise hist.error(
            f"{hist.place} looks like {kind} (sums to {total:.4g}), "
            'expected counts of rounds, or "as": "rates" or "probabilities" (--as of simulate and sweep)'
        )
    return "counts"


def doubts(given: Mapping[int, float], k: int) -> list[str]:
    """Return what whole numbers were taken for, where they can be percent."""
    if not all(value.is_integer() for value in given.values()):
        return []
    if sum(given.values()) == 100:
        return ["taken for counts; if they are percent, --as probabilities"]
    if falls(given, k) and k > 1 and max(given.values()) <= 100 and given.get(0) != 1:
        return ["taken for counts; if they are rates in percent, --as rates"]
    return []


def counts_as(read_as: str, hist: Field, given: Mapping[int, float], k: int) -> tuple[float, ...]:
    """Return counts by accepted drafts, 0..k: as they stand, or of a law that sums to 1."""
    values = [given.get(a, 0.0) for a in range(k + 1)]
    if read_as == "counts":
        return tuple(values)
    if read_as == "probabilities":
        total = math.fsum(values)
        if not any(abs(total / of - 1) <= SUM_TOLERANCE for of in (1, 100)):
            raise hist.error(
                f"{hist.place} sums to {total:.6g}, expected probabilities that sum to 1, or to 100 percent"
            )
        return tuple(value / total for value in values)
    scale = 100 if max(values) > 1 else 1
    if 0 in given and given[0] != scale:
        raise hist.error(
            f"{hist.place}.0 is {given[0]:g}, expected no such key, or {scale}: all rounds accept 0 or more"
        )
    return law_of_rates([value / scale for value in values[1:]], hist.place)


def law_of_rates(rates: Sequence[float], place: str) -> tuple[float, ...]:
    """Return P(A = a) for a in 0..K where P(A >= j) = rates[j - 1], which may not rise.

    place: where the rates stand, for messages.
    """
    before = 1.0
    for position, rate in enumerate(rates, 1):
        if not 0 <= rate <= 1:
            raise UserError(f"{place}: position {position} is {rate:g}, expected a rate from 0 to 1")
        if rate > before:
            raise UserError(
                f"{place}: position {position} is {rate:g}, above {before:g}, expected shares of all rounds "
                "(of rates given the position before, the products)"
            )
        before = rate
    ends = [1.0, *rates, 0.0]
    return tuple(ends[a] - ends[a + 1] for a in range(len(rates) + 1))
