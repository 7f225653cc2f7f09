"""The log of a vLLM server: what `SpecDecoding metrics:` counts in every interval, or V0's `Speculative metrics:`."""

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from simulator.ground.artefacts import UserError
from simulator.ground.fields import lines_of
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.records import BadRecord, Records, read_each

from .counters import (
    PAST_THE_END,
    Counters,
    check_counters,
    counters_without_drafts,
    import_counters,
    meaning_without_drafts,
    needs_k_for_rounds,
    sum_counters,
)
from .imported import Imported, SeveralLengths
from .values import MAX_COUNT, close

LINE = re.compile(r"(SpecDecoding|Speculative) metrics: ")
EXPECTED = "lines with 'SpecDecoding metrics: Mean acceptance length: ..., Per-position acceptance rate: ...'"
MEANING = (
    "vLLM logs accepted and drafted tokens of every interval, the target's own token left out; a position's rate is "
    "the share of all drafts that accepted it, to three digits"
)
NOTES = (
    "intervals are summed: warm-up and other traffic are in it where their lines are; cut the log to the run",
    "vLLM does not count rounds without a draft: tokens made in them are in no number here",
    PAST_THE_END,
)
NUMBER = r"(\d+(?:\.\d+)?|nan)"
# What a line of today or of an earlier release says, under its words.
WORDS = {
    "accepted": rf"(?:Accepted|Number of accepted tokens): {NUMBER}",
    "drafted": rf"(?:Drafted|Number of draft tokens): {NUMBER}",
    "emitted": rf"Number of emitted tokens: {NUMBER}",
    "k": rf"Number of speculative tokens: {NUMBER}",
    "length": rf"Mean acceptance length: {NUMBER}",
}
RATES = re.compile(rf"Per-position acceptance rate: ({NUMBER}(?:, {NUMBER})*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """One line; None where it does not say. rates: P(A >= j) for j in 1..K, empty where it does not say."""

    accepted: float
    drafted: float
    emitted: float | None
    k: int | None
    length: float | None
    rates: tuple[float, ...]


def read(path: Path, k: int | None) -> Imported:
    """Import the log of a server; see `import_histogram`."""
    lines = ((number, text) for number, text in lines_of(path) if LINE.search(text))
    records = read_each(path, lines, read_line, EXPECTED)
    drafting = [row for row in records.rows if row.drafted]
    if not drafting:
        raise UserError(f"{path}: no line drafted a token, expected the log of a server that drafted")
    with_rates = [row for row in drafting if row.rates]
    if with_rates:
        return import_rates(records, with_rates, k)
    if drafting[-1].emitted is not None:
        return import_totals(records, drafting, k)
    return import_sums(records, drafting, k)


def read_line(text: str, line: int) -> Interval:
    """Read one line, from its words on."""
    said = text[LINE.search(text).start() :]  # type: ignore[union-attr]  # lines without are not read
    found = {name: re.search(words, said) for name, words in WORDS.items()}
    numbers = {name: float(match[1]) for name, match in found.items() if match is not None}
    for name in ("accepted", "drafted"):
        if not 0 <= numbers.get(name, math.nan) <= MAX_COUNT:
            raise BadRecord(f"no number of {name} tokens")
    k, length, rates = numbers.get("k"), numbers.get("length"), RATES.search(said)
    if k is not None and not 1 <= k <= MAX_DRAFT_LENGTH:
        raise BadRecord(f"{k:g} speculative tokens, expected 1 to {MAX_DRAFT_LENGTH}")
    row = Interval(
        accepted=numbers["accepted"],
        drafted=numbers["drafted"],
        emitted=numbers.get("emitted"),
        k=None if k is None else int(k),
        length=length,
        rates=tuple(map(float, rates[1].split(", "))) if rates and numbers["drafted"] else (),
    )
    if row.rates:
        counters_of(row)
    elif row.emitted is None and row.accepted > row.drafted:
        raise BadRecord(f"{row.accepted:g} tokens accepted, but {row.drafted:g} drafted")
    return row


def counters_of(row: Interval) -> Counters:
    """Return the totals of a line with rates.

    Drafts are not in it: they are drafted / K, unless the rates, which are shares of them, say that there were more.
    """
    k, share = len(row.rates), sum(row.rates)
    if not all(0 <= rate <= 1 for rate in row.rates):
        raise BadRecord("a position's rate is not between 0 and 1")
    rounds, rounding = float(math.ceil(row.drafted / k - 1e-9)), 0.0005 * k
    if abs(row.accepted - share * rounds) > rounding * rounds + 0.5:
        if not share:
            raise BadRecord(f"{row.accepted:g} tokens accepted, but every rate is 0")
        rounds = max(rounds, float(round(row.accepted / share)))
    if row.length is not None and not close(row.length, 1 + row.accepted / rounds, 0.006 + rounding):
        raise BadRecord(f"mean acceptance length {row.length:g}, but its counts make {1 + row.accepted / rounds:.4g}")
    counters = Counters(
        rounds=rounds,
        drafted=row.drafted,
        accepted=row.accepted,
        per_position=tuple(float(round(rate * rounds)) for rate in row.rates),
    )
    if rounds >= 100:  # of fewer the rounded counts may be further from the sum
        check_counters(counters)
    return counters


def import_rates(records: Records[Interval], rows: list[Interval], requested: int | None) -> Imported:
    """Sum the lines that have rates, all of one K."""
    by_k: dict[int, list[Counters]] = defaultdict(list)
    for row in rows:
        by_k[len(row.rates)].append(counters_of(row))
    if len(by_k) > 1 and requested not in by_k:
        stated = " and ".join(map(str, sorted(by_k)))
        raise SeveralLengths(f"{records.path}: lines have {stated} positions", by_k)
    chosen = by_k[requested] if requested in by_k else next(iter(by_k.values()))
    counters = sum_counters(chosen)
    try:
        check_counters(counters)
    except BadRecord as error:
        raise UserError(f"{records.path}: {error}") from None
    notes: tuple[str, ...] = (f"lines that are summed: {len(chosen)}", *NOTES)
    left = sum(c.rounds for k, parts in by_k.items() if parts is not chosen for c in parts)
    notes = (f"{left:,.0f} rounds of lines with other draft lengths are left out", *notes) if left else notes
    return import_counters(records.path, counters, requested, meaning=MEANING, notes=notes, skipped=records.skipped)


def import_totals(records: Records[Interval], rows: list[Interval], requested: int | None) -> Imported:
    """Import V0's lines, which count since the server started: the last one says all."""
    path, last = records.path, rows[-1]
    if any(after.drafted < before.drafted for before, after in pairwise(rows)):
        raise UserError(f"{path}: drafted tokens fall from line to line, expected the log of one server run")
    if requested is not None and last.k not in (None, requested):
        raise UserError(f"{path}: the draft length is {last.k} in this file, but --k is {requested}")
    k = requested or last.k
    if k is None:
        raise needs_k_for_rounds(path)
    counters = counters_without_drafts(path, last.drafted, last.accepted, last.emitted, k)
    notes = ("the last line counts since the server started, warm-up included", PAST_THE_END)
    meaning = meaning_without_drafts(last.emitted)
    return import_counters(path, counters, k, meaning=meaning, notes=notes, skipped=records.skipped)


def import_sums(records: Records[Interval], rows: list[Interval], requested: int | None) -> Imported:
    """Sum the lines of vLLM 0.8, which have neither drafts nor positions."""
    if requested is None:
        raise needs_k_for_rounds(records.path)
    drafted, accepted = (sum(getattr(row, name) for row in rows) for name in ("drafted", "accepted"))
    counters = counters_without_drafts(records.path, drafted, accepted, None, requested)
    notes = (f"lines that are summed: {len(rows)}", *NOTES)
    meaning = meaning_without_drafts(None)
    return import_counters(records.path, counters, requested, meaning=meaning, notes=notes, skipped=records.skipped)
