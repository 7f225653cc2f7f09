"""Results of `vllm bench serve`: JSON, one object or one a line where results were appended, or what it printed."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, lines_of
from simulator.ground.plain_text import read_text_bytes
from simulator.ground.records import BadRecord, as_record, read_each

from .counters import PAST_THE_END, Counters, check_counters, import_counters, sum_counters
from .imported import Imported
from .values import MAX_COUNT, close, count_of, number_of, optional_count, read_values

PREFIX = "spec_decode_"
LENGTH, RATE = f"{PREFIX}acceptance_length", f"{PREFIX}acceptance_rate"
POSITIONS = f"{PREFIX}per_position_acceptance_rates"
PRINTED = "---Speculative Decoding---"
WORDS = {
    "Drafts": f"{PREFIX}num_drafts",
    "Draft tokens": f"{PREFIX}draft_tokens",
    "Accepted tokens": f"{PREFIX}accepted_tokens",
    "Acceptance length": LENGTH,
    "Acceptance rate (%)": RATE,
}
EXPECTED = f'the JSON of vllm bench serve with {{"{PREFIX}num_drafts": ..., "{PREFIX}accepted_tokens": ...}}'
MEANING = (
    "counters of vLLM over the benchmark: a position's rate is the share of all drafts that accepted it, "
    "the target's own token left out"
)
NOTES = (
    f"{RATE} is a percentage: accepted of drafted tokens",
    "vLLM does not count rounds without a draft: tokens made in them are in no number here",
    PAST_THE_END,
)


def read(path: Path, k: int | None) -> Imported:
    """Import the result file of a benchmark; see `import_histogram`."""
    if PRINTED.encode() in read_text_bytes(path):
        records = read_each(path, printed(path), read_result, EXPECTED)
    else:
        records = read_values(path, read_result, EXPECTED)
    lengths = {len(c.per_position) for c in records.rows}
    if len(lengths) > 1:
        stated = " and ".join(map(str, sorted(lengths)))
        raise UserError(f"{path}: its results state {stated} positions, expected one draft length in the file")
    notes: tuple[str, ...] = NOTES
    if len(records.rows) > 1:
        notes = (*notes, f"{len(records.rows)} results of this file are summed")
    counters = sum_counters(records.rows)
    return import_counters(path, counters, k, meaning=MEANING, notes=notes, skipped=records.skipped)


def printed(path: Path) -> Iterator[tuple[int, Field]]:
    """Yield what the command printed at its end, under the keys that its JSON has; see `read_result`."""
    results: list[tuple[int, dict[str, Any]]] = []
    for line, text in lines_of(path):
        if PRINTED in text:
            results.append((line, {}))
        found = re.fullmatch(r"\s*(.+?):\s+(\d{1,18}(?:\.\d{1,9})?)\s*", text)
        if not results or found is None:
            continue
        result, name, number = results[-1][1], found[1], found[2]
        if name in WORDS:
            result[WORDS[name]] = float(number)
        elif name.startswith("Position "):
            result.setdefault(POSITIONS, []).append(float(number) / 100)
    yield from ((line, as_record(result)) for line, result in results)


def read_result(result: Field, line: int) -> Counters:
    """Read one benchmark result."""
    rounds = count_of(result[f"{PREFIX}num_drafts"])
    counters = Counters(
        rounds=rounds,
        drafted=optional_count(result[f"{PREFIX}draft_tokens"]),
        accepted=accepted_tokens(result, rounds),
        per_position=positions(result, rounds),
    )
    check_counters(counters)
    check_means(result, counters)
    return counters


def accepted_tokens(result: Field, rounds: int) -> float:
    """Return the accepted tokens: as counted, else from the mean length."""
    accepted = optional_count(result[f"{PREFIX}accepted_tokens"])
    if accepted is not None:
        return accepted
    if not result[LENGTH].is_given:
        raise BadRecord(f"no count under '{PREFIX}accepted_tokens' and no number under {LENGTH!r}")
    # The target's own token is in.
    return (result[LENGTH].number(1, MAX_COUNT) - 1) * rounds


def positions(result: Field, rounds: int) -> tuple[float, ...]:
    """Return the accepted tokens of each position; whole ones, unless the rates were rounded."""
    if not result[POSITIONS].is_given:
        return ()
    counts = [rate.number(0, 1) * rounds for rate in result[POSITIONS].elements()]
    whole = all(close(count, round(count), 1e-3) for count in counts)
    return tuple(float(round(count)) if whole else count for count in counts)


def check_means(result: Field, c: Counters) -> None:
    """Refuse a mean length or percentage that the counts contradict; see `read_result`."""
    if result[LENGTH].is_given:
        length, expected = number_of(result[LENGTH]), 1 + c.accepted / c.rounds
        if not close(length, expected, 0.01):
            raise BadRecord(f"{LENGTH} is {length:g}, but its counts make {expected:.6g}")
    if result[RATE].is_given and c.drafted:
        rate, percent = number_of(result[RATE]), 100 * c.accepted / c.drafted
        if not close(rate, percent, 0.1):
            raise BadRecord(f"{RATE} is {rate:g}, but its counts make {percent:.6g} percent")
