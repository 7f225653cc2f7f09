"""Which of the draft's choices each token of a text was: a part of a trace, from which trees are priced (model §3).

It lies in a histogram's file: a letter a token for the token's place among the draft's choices, one for how sure the
draft was there, and what a draft that is so sure gives its choices. Draws nothing.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .fields import Field

# 1: ranks, confidence, q.
VERSIONS = (1,)
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
# The last letter stands for this place and all behind it.
LAST_PLACE = len(LETTERS) - 1
CLASSES = 16
# Whole outputs of about so many tokens are kept: rounds enough for a mean to 1 %.
MOST_TOKENS = 1 << 15

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


class RankTrace(NamedTuple):
    """Tokens of a text as its draft saw them.

    place: of each token among the draft's choices, 0 the first, [tokens]. confidence: class of how sure the draft was,
    the highest the surest, [tokens]. starts: where outputs begin, and the end of the last, [outputs + 1]. q: what a
    draft of each class gives its choices, [CLASSES, LAST_PLACE], falling.
    """

    place: Places
    confidence: Places
    starts: Places
    q: Floats

    def some(self, tokens: int) -> "RankTrace":
        """Return whole outputs of about so many tokens at most, evenly from the text, one at least."""
        every = max(1, -(-len(self.place) // max(tokens, 1)))
        if every == 1:
            return self
        ranges = [range(self.starts[i], self.starts[i + 1]) for i in range(0, len(self.starts) - 1, every)]
        index, starts = np.concatenate(ranges), np.cumsum([0, *map(len, ranges)])
        return RankTrace(self.place[index], self.confidence[index], starts, self.q)

    def as_json(self) -> dict[str, Any]:
        """Return it under plain keys, a line of text for each output."""
        texts = {}
        for name, values in (("place", self.place), ("confidence", self.confidence)):
            written = "".join(LETTERS[v] for v in values.tolist())
            texts[name] = [written[a:b] for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)]
        return {"version": VERSIONS[-1], **texts, "q": [" ".join(f"{v:.4g}" for v in row) for row in self.q.tolist()]}


def parse_ranks(payload: Field) -> RankTrace:
    """Read the ranks of a histogram's file; a UserError names key and value."""
    payload["version"].whole(VERSIONS[0], VERSIONS[-1])
    lines = {name: payload[name].elements() for name in ("place", "confidence")}
    values: dict[str, list[int]] = {name: [] for name in lines}
    ends = [0]
    for place, confidence in zip(*lines.values(), strict=False):
        values["place"] += letters(place, len(LETTERS))
        values["confidence"] += letters(confidence, CLASSES)
        ends.append(len(values["place"]))
        if len(values["confidence"]) != ends[-1]:
            confidence.refuse(f"as many letters as its line of place, {len(place.text())}")
    if len(lines["place"]) != len(lines["confidence"]) or len(ends) < 2:
        payload["place"].refuse("as many lines as confidence, one at least")
    rows = [shares(row) for row in payload["q"].elements()]
    if len(rows) != CLASSES:
        payload["q"].refuse(f"{CLASSES} rows")
    place, confidence, starts = (np.array(v, np.int64) for v in (*values.values(), ends))
    return RankTrace(place, confidence, starts, np.array(rows))


def letters(line: Field, many: int) -> list[int]:
    """Return the numbers that the letters of a line stand for."""
    found = [LETTERS.find(letter) for letter in line.text()]
    if min(found) < 0 or max(found) >= many:
        line.refuse(f"letters from 0 to {LETTERS[many - 1]}")
    return found


def shares(row: Field) -> list[float]:
    """Return the probabilities of a row, which fall."""
    try:
        found = [float(word) for word in row.text().split()]
    except ValueError:
        found = []
    if len(found) != LAST_PLACE or not all(1 >= a >= b >= 0 for a, b in zip(found, [*found[1:], 0.0], strict=True)):
        row.refuse(f"{LAST_PLACE} probabilities, none above the one before it")
    return found
