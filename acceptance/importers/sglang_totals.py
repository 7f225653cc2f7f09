"""Means of an SGLang server: results of its bench_serving (JSONL), /get_server_info, its log, or gauges of /metrics."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from simulator.ground.fields import Field, lines_of
from simulator.ground.plain_text import read_text_bytes
from simulator.ground.records import BadRecord, read_each

from .imported import Imported, assumed, needs_k, one_stated_k, reconstruct, settle_k
from .values import MAX_COUNT, count_of, inner, optional_count, read_values

RESULT, INFO, STATES, TOKENS = "accept_length", "avg_spec_accept_length", "internal_states", "total_output_tokens"
# Words of the log, a gauge, and what bench_serving prints. A line of the log is of the last steps of so many requests;
# what stands between has an end, or the time to look would grow with the square of a line.
WORDS = r"\baccept len: |(?m:^(?:sglang:spec_accept_length|Accept length: ))"
TEXT = re.compile(
    r"(?:#running-req: *(?P<of>\d{1,6})\b.{0,1000}?accept len: *|"
    r"^sglang:spec_accept_length(?:\{.*\})? +|^Accept length: +)(?P<mean>[\d.]+)"
)
EXPECTED = f'"{RESULT}" of bench_serving, "{INFO}" of server info, or a log with "accept len:"'
MEANING = f"{RESULT} is tokens a round of the whole server, the target's own in"
SINCE_START = "it is the server's mean since it was started: warm-up and earlier runs are in it"
# Arguments of the server, wherever a file has them.
STEPS, NODES, WIDTH = "speculative_num_steps", "speculative_num_draft_tokens", "speculative_eagle_topk"
OF_LINES = "lines weigh by their requests: each is of the last decode steps, warm-up and other traffic among them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """Tokens a round, and of how many rounds or parts of an unknown number.

    line: where it stands. stated: the draft length by the server's arguments; width: branches of a node, of a tree.
    """

    tokens_per_round: float
    weight: float
    is_counted: bool = False
    line: int = 0
    stated: int | None = None
    width: int = 1


def read(path: Path, k: int | None) -> Imported:
    """Import the mean; see `import_histogram`."""
    is_text = re.search(WORDS.encode(), read_text_bytes(path)) is not None
    if is_text:
        lines = ((number, text) for number, text in lines_of(path) if TEXT.search(text))
        records = read_each(path, lines, read_line, EXPECTED)
    else:
        records = read_values(path, read_record, EXPECTED)
    means = [mean for row in records.rows for mean in row]
    known = [mean for mean in means if mean.is_counted]
    used = known or means
    rounds = sum(mean.weight for mean in used)
    tokens_per_round = sum(mean.weight * mean.tokens_per_round for mean in used) / rounds
    stated = one_stated_k(path, ((mean.line, mean.stated) for mean in used))
    if k is None and stated is None:
        raise needs_k(path, tokens_per_round)
    k, source = settle_k(path, requested=k, stated=stated, at_least=0, evidence="the mean")
    histogram = reconstruct(path, rounds=rounds if known else 1.0, tokens_per_round=tokens_per_round, k=k)
    size = f"{TOKENS} / {RESULT} rounds" if known else "an unknown number of rounds"
    tree = next((about_tree(mean.width) for mean in used if mean.width > 1), None)
    several = (f"the mean of {len(used)} lines, results or servers",) if len(used) > 1 else ()
    return Imported(
        histogram=replace(histogram, is_law=not known),
        definition=f"{MEANING}, over {size}; {source}; {assumed(k)}.",
        reconstructed=True,
        notes=(*filter(None, [tree]), OF_LINES if is_text else SINCE_START, *several),
        skipped=records.skipped,
    )


def read_line(text: str, line: int) -> tuple[Mean, ...]:
    """Read a line of the log, or a gauge."""
    found = TEXT.search(text)
    if found is None or not re.fullmatch(r"\d+(\.\d+)?", found["mean"]) or not 1 <= float(found["mean"]) <= MAX_COUNT:
        raise BadRecord("no mean of at least 1 token a round")
    return (Mean(tokens_per_round=float(found["mean"]), weight=float(found["of"] or 1) or 1.0),)


def about_tree(width: int) -> str:
    """Return the note on what a tree accepts."""
    return (
        f"accepted lengths are those of a tree ({WIDTH} {width}), not of a chain: K is its depth, and a chain of K "
        "drafts accepts fewer"
    )


def read_record(record: Field, line: int) -> tuple[Mean, ...]:
    """Read a result or server info."""
    stated, width = arguments_of(record)
    return tuple(replace(mean, line=line, stated=stated, width=width) for mean in means_of(record))


def arguments_of(record: Field) -> tuple[int | None, int]:
    """Return the draft length and the width that the server's arguments state, None and 1 where they do not.

    What a chain has verified is its drafts and the token before them; a drafter of blocks counts one step.
    """
    for info in (record, record["server_info"]):
        states = inner(info, STATES)
        for place in (info, *(states.elements() if isinstance(states.value, list) else ())):
            steps, nodes, width = (optional_count(inner(place, name)) or 0 for name in (STEPS, NODES, WIDTH))
            if steps or nodes:
                return (steps if width > 1 or not nodes else nodes - 1) or None, max(1, width)
    return None, 1


def means_of(record: Field) -> Iterator[Mean]:
    """Yield the mean of a result, or of each state of a server."""
    states = record[STATES]
    if record[RESULT].is_given:
        tokens = count_of(record[TOKENS]) if record[TOKENS].is_given else 0
        mean = record[RESULT].number(1, MAX_COUNT)
        yield Mean(tokens_per_round=mean, weight=tokens / mean or 1.0, is_counted=tokens > 0)
        return
    places = [s for s in states.elements() if isinstance(s.value, dict)] if states.is_given else [record]
    means = [place[INFO] for place in places if place[INFO].is_given]
    if not means:
        raise BadRecord("no mean: the server did not speculate")
    for field in means:
        yield Mean(tokens_per_round=field.number(1, MAX_COUNT), weight=1.0)
