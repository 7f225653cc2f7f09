"""What a sweep answers, as a table and as a line on where to turn speculation off."""

import math
from collections.abc import Iterator, Mapping
from itertools import groupby

from simulator.rounds.grid import Grid

from .schedule import LEAST_GAIN
from .sweep_answers import BATCH, MOST_PLANS, MOST_ROWS, Answer, K, has_ranges
from .verdict import CANNOT_TELL

# What a load comes to with drafts, and what that is called.
SERVED = {"ms_per_token": "ms/token", "first_token_ms": "first, ms"}
# Letters of the columns of values, beyond which these stand in one.
MOST_KEYS = 44


def answers_text(grid: Grid, answers: list[Answer], cases: int = 1, batch: str = BATCH) -> str:
    """Return the answers as a table; cases: grids like this one that they are of; batch: what that is called."""
    from simulator.ground.command import table

    of_ranges, heads = has_ranges(grid), ["best K", "speedup", "95 %", *SERVED.values(), "as good, to 2 %"]
    keys = list(
        zip(*([name, *(f"{a.values[name]:,.10g}" for a in answers)] for name in answers[0].values), strict=True)
    )
    left = []
    if sum(max(map(len, column)) for column in zip(*keys, strict=True)) > MOST_KEYS:
        keys = [("where",), *((", ".join(map(" ".join, zip(keys[0], row, strict=True))),) for row in keys[1:])]
        left = [0]
    given = (len(keys[0]) if keys else 0) + of_ranges
    rows = [[batch] * of_ranges + heads, *map(cells, answers)]
    rows = [[*key, *row] for key, row in zip(keys or [()] * len(rows), rows, strict=True)]
    # A column that says nothing, or of one draft length, is left out.
    kept = [i for i in range(len(rows[0])) if i < given or any(row[i] for row in rows[1:])]
    if len(grid.values[K]) == 1 and not any(a.draft_length == 0 for a in answers):
        kept.remove(given)
    left += [at for at, i in enumerate(kept) if i == len(rows[0]) - 1]
    text = table([[row[i] for i in kept] for row in rows], left=left, keys=given)
    there = grid.points // len(grid.values[K]) // (len(grid.values[BATCH]) if of_ranges else 1)
    told, there = cases * min(there, MOST_PLANS if of_ranges else MOST_ROWS), cases * there
    return text + f"\n{told} of {there:,} combinations are shown; --out FILE has all" * (told < there)


def cells(answer: Answer) -> list[str]:
    """Return what stands in a row behind the values."""
    batches = [] if answer.batches is None else ["-".join(f"{b:,}" for b in dict.fromkeys(answer.batches))]
    if answer.speedup is None:
        return [*batches, "-", "-", "", *("" for _ in SERVED), "does not fit into memory"]
    gains = [f"{gain:.2f}x" for gain in (answer.speedup, answer.speedup_at_last) if gain is not None]
    span = "" if answer.speedup_ci95 is None else "{:.2f}x to {:.2f}x".format(*answer.speedup_ci95)
    words = ", ".join(f"K = {k}" if k else "off" for k in answer.as_good)
    if answer.draft_length == 0 and answer.drafted not in answer.as_good:
        words = f"(K = {answer.drafted})"
    edge, unsure = "(the longest looked at)" if answer.at_edge else "", ""
    if CANNOT_TELL in (answer.verdict, answer.verdict_at_last):
        alike = answer.verdict_at_last in (None, answer.verdict)
        where = "" if alike else " from the first" if answer.verdict == CANNOT_TELL else " at the last"
        unsure = f"cannot tell{where}"
    return [
        *batches,
        str(answer.draft_length or "off"),
        " to ".join(dict.fromkeys(gains)),
        span,
        *served_cells(answer.served or {}),
        ", ".join(filter(None, (f"{words} {edge}".strip(), unsure))),
    ]


def served_cells(served: Mapping[str, float]) -> Iterator[str]:
    """Yield what a load comes to with drafts; of answers of one token there is no time a token."""
    for name in SERVED:
        value = served.get(name)
        digits = 2 if name == "ms_per_token" else 0
        yield "" if value is None else "-" if math.isnan(value) else f"{value:,.{digits}f}"


def off_text(answers: list[Answer], batch: str = BATCH) -> str:
    """Say at which batch sizes to turn speculation off, of ranges of them; of every combination of other values."""
    said = []
    for values, group in groupby(answers, lambda a: ", ".join(f"{name} {v:,.10g}" for name, v in a.values.items())):
        said.append((f"at {values} " if values else "") + where_off(list(group), batch))
    return f"turn it off: {'; '.join(said)} (ranges switch for a gain of {LEAST_GAIN:.0%} or more)"


def where_off(answers: list[Answer], batch: str) -> str:
    """Say the same of one combination."""
    known = [a for a in answers if a.batches and a.draft_length is not None]
    if not known:
        return "nothing fits into memory"
    spans = [a.batches for a in known if a.batches]
    off, last = [span for span, a in zip(spans, known, strict=True) if a.draft_length == 0], spans[-1][1]
    unsure = [span for span, a in zip(spans, known, strict=True) if CANNOT_TELL in (a.verdict, a.verdict_at_last)]
    if all(CANNOT_TELL == a.verdict == a.verdict_at_last for a in known):
        return f"not known up to {batch} {last:,}, 1x is in every interval"
    said = f"at {batch} {in_words(off)}"
    if not off:
        why = "the last that fits" if len(known) < len(answers) else "the last looked at"
        said = f"nowhere up to {batch} {last:,}, {why}"
    elif len(off) == len(known):
        said = f"everywhere up to {batch} {last:,}"
    elif len(off) == 1 and off[0][1] == last:
        said = f"above {batch} {spans[-2][1]:,}"
    below = [a.below_1 for a in known if a.below_1]
    said += f", a little below 1x at {batch} {in_words(below)}" if below else ""
    return said + (f", cannot tell within {batch} {in_words(joined(unsure))}" if unsure else "")


def in_words(spans: list[tuple[int, int]]) -> str:
    """Return spans of batch sizes as text."""
    return " and ".join("-".join(f"{b:,}" for b in dict.fromkeys(both)) for both in spans)


def joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join rising spans of batch sizes with nothing looked at between them."""
    whole = spans[:1]
    for first, last in spans[1:]:
        whole = [*whole[:-1], (whole[-1][0], last)] if first == whole[-1][1] + 1 else [*whole, (first, last)]
    return whole
