"""Means of an SGLang server: the results of its bench_serving (JSONL), or what /get_server_info says."""

from dataclasses import replace
from pathlib import Path

from simulator.ground.fields import Field
from simulator.ground.records import BadRecord

from .imported import Imported, assumed, needs_k, reconstruct
from .values import MAX_COUNT, count_of, read_values

RESULT, INFO, STATES, TOKENS = "accept_length", "avg_spec_accept_length", "internal_states", "total_output_tokens"
EXPECTED = f'results of bench_serving with {{"{RESULT}": ...}}, or server info with "{INFO}"'
MEANING = f"{RESULT} is tokens a round of the whole server, the target's own in"
SINCE_START = "it is the server's mean since it was started: warm-up and earlier runs are in it"


def read(path: Path, k: int | None) -> Imported:
    """Import the mean; see `import_histogram`."""
    records = read_values(path, read_mean, EXPECTED)
    rows = [row for of_record in records.rows for row in of_record]
    known = [(mean, tokens) for mean, tokens in rows if tokens]
    if known:
        rounds = sum(tokens / mean for mean, tokens in known)
        tokens_per_round, size = sum(tokens for _, tokens in known) / rounds, f"{TOKENS} / {RESULT} rounds"
    else:
        rounds, tokens_per_round, size = 1.0, sum(mean for mean, _ in rows) / len(rows), "an unknown number of rounds"
    if k is None:
        raise needs_k(path, tokens_per_round)
    histogram = reconstruct(path, rounds=rounds, tokens_per_round=tokens_per_round, k=k)
    means = (f"the mean of {len(known or rows)} results or servers",) if len(known or rows) > 1 else ()
    return Imported(
        histogram=replace(histogram, is_law=not known),
        definition=f"{MEANING}, over {size}; {assumed(k)}.",
        reconstructed=True,
        notes=(SINCE_START, *means),
        skipped=records.skipped,
    )


def read_mean(record: Field, line: int) -> tuple[tuple[float, float], ...]:
    """Return tokens a round and output tokens (0: not known) of a result, or of each state of a server."""
    states = record[STATES]
    places = [record] if not record[RESULT].is_given and not isinstance(states.value, list) else []
    if record[RESULT].is_given:
        tokens = count_of(record[TOKENS]) if record[TOKENS].is_given else 0
        return ((record[RESULT].number(1, MAX_COUNT), float(tokens)),)
    places = places or [state for state in states.elements() if isinstance(state.value, dict)]
    means = [place[INFO] for place in places if place[INFO].is_given]
    if not means:
        raise BadRecord(f"no number under {RESULT!r} or {INFO!r}: the server did not speculate")
    return tuple((mean.number(1, MAX_COUNT), 0.0) for mean in means)
