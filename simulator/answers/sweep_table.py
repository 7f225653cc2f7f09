"""What a sweep answers, as a table and as a line on where to turn speculation off."""

from itertools import groupby

from simulator.rounds.grid import Grid

from .schedule import LEAST_GAIN
from .sweep_answers import BATCH, MOST_PLANS, MOST_ROWS, Answer, K, has_ranges

# Letters of the columns of values, beyond which these stand in one.
MOST_KEYS = 44


def answers_text(grid: Grid, answers: list[Answer]) -> str:
    """Return the answers as a table."""
    from simulator.ground.command import table

    of_ranges, heads = has_ranges(grid), ["best K", "speedup", "95 %", "as good, to 2 %"]
    keys = list(
        zip(*([name, *(f"{a.values[name]:,.10g}" for a in answers)] for name in answers[0].values), strict=True)
    )
    left = []
    if sum(max(map(len, column)) for column in zip(*keys, strict=True)) > MOST_KEYS:
        keys = [("where",), *((", ".join(map(" ".join, zip(keys[0], row, strict=True))),) for row in keys[1:])]
        left = [0]
    given = (len(keys[0]) if keys else 0) + of_ranges
    rows = [["batch"] * of_ranges + heads, *map(cells, answers)]
    rows = [[*key, *row] for key, row in zip(keys or [()] * len(rows), rows, strict=True)]
    # A column that says nothing, or of one draft length, is left out.
    kept = [i for i in range(len(rows[0])) if i < given or any(row[i] for row in rows[1:])]
    if len(grid.values[K]) == 1 and not any(a.draft_length == 0 for a in answers):
        kept.remove(given)
    left += [at for at, i in enumerate(kept) if i == len(rows[0]) - 1]
    text = table([[row[i] for i in kept] for row in rows], left=left, keys=given)
    there = grid.points // len(grid.values[K]) // (len(grid.values[BATCH]) if of_ranges else 1)
    told = min(there, MOST_PLANS if of_ranges else MOST_ROWS)
    return text + f"\n{told} of {there:,} combinations are shown; --out FILE has all" * (told < there)


def cells(answer: Answer) -> list[str]:
    """Return what stands in a row behind the values."""
    batches = [] if answer.batches is None else ["-".join(f"{b:,}" for b in dict.fromkeys(answer.batches))]
    if answer.speedup is None:
        return [*batches, "-", "-", "", "does not fit into memory"]
    gains = [f"{gain:.2f}x" for gain in (answer.speedup, answer.speedup_at_last) if gain is not None]
    span = "" if answer.speedup_ci95 is None else "{:.2f}x to {:.2f}x".format(*answer.speedup_ci95)
    words = ", ".join(f"K = {k}" if k else "off" for k in answer.as_good)
    if answer.draft_length == 0 and answer.drafted not in answer.as_good:
        words = f"(K = {answer.drafted})"
    edge = "(the longest looked at)" if answer.at_edge else ""
    return [
        *batches,
        str(answer.draft_length or "off"),
        " to ".join(dict.fromkeys(gains)),
        span,
        f"{words} {edge}".strip(),
    ]


def off_text(answers: list[Answer]) -> str:
    """Say at which batch sizes to turn speculation off, of ranges of them; of every combination of other values."""
    said = []
    for values, group in groupby(answers, lambda a: ", ".join(f"{name} {v:,.10g}" for name, v in a.values.items())):
        said.append((f"at {values} " if values else "") + where_off(list(group)))
    return f"turn it off: {'; '.join(said)} (ranges switch for a gain of {LEAST_GAIN:.0%} or more)"


def where_off(answers: list[Answer]) -> str:
    """Say the same of one combination."""
    known = [(*a.batches, a.draft_length) for a in answers if a.batches and a.draft_length is not None]
    if not known:
        return "nothing fits into memory"
    off, last = [(first, end) for first, end, k in known if k == 0], known[-1][1]
    if not off:
        why = "the last that fits" if len(known) < len(answers) else "the last looked at"
        return f"nowhere up to batch {last:,}, {why}"
    if len(off) == len(known):
        return f"everywhere up to batch {last:,}"
    if len(off) == 1 and off[0][1] == last:
        return f"above batch {known[-2][1]:,}"
    return "at batch " + " and ".join("-".join(f"{b:,}" for b in dict.fromkeys(both)) for both in off)
