"""What rounds accept whose drafts are as long as what was found: rounds of every drafted length, none among them.

n-gram look-up and suffix trees draft what they match, and often nothing; verification is as wide as that.
"""

from dataclasses import replace

import numpy as np

from simulator.costs.step import Floats
from simulator.ground.fields import Field
from simulator.ground.histogram import MAX_COUNT
from simulator.ground.limits import MAX_DRAFT_LENGTH

from .acceptance_law import HistogramAcceptance


def rounds_by_length(table: Field) -> Floats:
    """Read rounds by drafted and accepted tokens, [D, A] from 0 on; a UserError names key and value.

    table: of each drafted length as text, a list of rounds that accepted 0 to as many.
    """
    rows: dict[int, list[float]] = {}
    for key, row in table.items():
        length = int(key) if key.isdecimal() and len(key) < 5 else MAX_DRAFT_LENGTH + 1
        if length > MAX_DRAFT_LENGTH:
            row.error_about_key([f"'0' to '{MAX_DRAFT_LENGTH}'"])
        rows[length] = [each.number(0, MAX_COUNT) for each in row.elements()]
        if len(rows[length]) != length + 1:
            row.refuse(f"{length + 1} numbers of rounds, accepting 0 to {length}")
    longest = max((length for length, numbers in rows.items() if any(numbers)), default=0)
    if longest < 1:
        table.refuse("rounds that drafted a token")
    counts = np.zeros((longest + 1, longest + 1))
    for length, numbers in rows.items():
        if length <= longest:
            counts[length, : length + 1] = numbers
    return counts


def length_acceptance(source: HistogramAcceptance) -> HistogramAcceptance:
    """Return what rounds of every drafted length accept, for each K that cuts them, by the table of a histogram.

    The longest keeps the table: what draws rounds one by one draws how long each is.
    """
    measured = source.nearest(source.longest)
    assert measured.by_length is not None
    counts = rounds_by_length(measured.by_length)
    share = counts[0, 0] / counts.sum()
    caveat = f"rounds of every drafted length, {share:.0%} without a draft"
    measured, table = replace(measured, caveat=caveat, undrafted=0.0, by_length=None), measured.by_length
    found = []
    for k in range(1, len(counts)):
        cut = np.concatenate((counts[:, :k], counts[:, k:].sum(1, keepdims=True)), axis=1).sum(0)
        drafted = np.append(counts.sum(1)[:k], counts.sum(1)[k:].sum()) / counts.sum()
        found.append(replace(measured, counts=tuple(cut.tolist()), drafted=tuple(drafted.tolist())))
    return HistogramAcceptance((*found[:-1], replace(found[-1], by_length=table)))
