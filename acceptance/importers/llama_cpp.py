"""llama.cpp's server: `timings` of saved responses, per-request lines of its log, or its /metrics."""

import re
from collections.abc import Iterator
from pathlib import Path

from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, lines_of
from simulator.ground.plain_text import read_text_bytes
from simulator.ground.records import BadRecord, Records, read_each

from . import vllm_metrics
from .counters import Counters, check_counters, import_counters
from .imported import Imported
from .values import MAX_COUNT, count_of, optional_count, read_values

EXPECTED = (
    'responses with {"timings": {"predicted_n": ..., "draft_n": ..., "draft_n_accepted": ...}}, its log '
    "with 'draft acceptance = ...', or its /metrics"
)
COUNTERS = b"llamacpp:spec_decode_num_"
DRAFTS = re.compile(
    r"draft acceptance(?: rate)? = *[\d.]+ \( *(?P<accepted>\d+) accepted / *(?P<drafted>\d+) generated\)"
    r"(?:, mean acceptance length = *(?P<length>[\d.]+))?"
    r"(?:, acceptance rate per position = *\((?P<rates>[\d., ]*)\))?"
)
# Of the line with the tokens of the same request, not the one of its prompt.
TOKENS = re.compile(r"(?<!prompt )eval time = *[\d.]+ ms / *(?P<tokens>\d+) (?:tokens|runs)")
OF_PASSES = (
    "tokens that were predicted less accepted drafts are the target's passes, those without a draft among them, "
    "so tokens a round are tokens a pass"
)
OF_POSITIONS = (
    "a position's rate is the share of all drafts of a request that accepted it, the target's own token left out"
)
OF_ROUNDS = "draft_rounds are rounds that drafted, accepted drafts leave out the target's own token"
CONFIDENCE = "drafts that stopped early (--draft-p-min) are rounds like all others"


def read(path: Path, k: int | None, before: Path | None = None) -> Imported:
    """Import what a server of llama.cpp says; see `import_histogram`."""
    content = read_text_bytes(path)
    if COUNTERS in content or before is not None:
        return vllm_metrics.read(path, k, before)
    if b"draft acceptance" in content and not content.lstrip().startswith((b"{", b"[{")):
        records = read_each(path, requests_of_log(path), checked_in_log, EXPECTED)
    else:
        records = read_values(path, read_response, EXPECTED)
    return import_records(records, k)


def import_records(records: Records[Counters], k: int | None) -> Imported:
    """Sum requests: by positions where all have them, else by their passes."""
    rows = records.rows
    longest = max(len(row.per_position) for row in rows)
    meaning = OF_POSITIONS
    if not all(row.per_position for row in rows):
        longest, meaning = 0, OF_ROUNDS if all(row.undrafted is not None for row in rows) else OF_PASSES
    # A request that never drafted so far has no such position.
    positions = [(*row.per_position, *[0.0] * longest)[:longest] for row in rows]
    undrafted = [row.undrafted for row in rows if row.undrafted is not None]
    total = Counters(
        rounds=sum(row.rounds for row in rows),
        drafted=sum(row.drafted or 0.0 for row in rows),
        accepted=sum(row.accepted for row in rows),
        per_position=tuple(map(sum, zip(*positions, strict=True))),
        undrafted=sum(undrafted) if len(undrafted) == len(rows) else None,
    )
    try:
        check_counters(total)
    except BadRecord as error:
        raise UserError(f"{records.path}: {error}") from None
    return import_counters(records.path, total, k, meaning=meaning, notes=(CONFIDENCE,), skipped=records.skipped)


def read_response(response: Field, line: int) -> Counters:
    """Read the timings of one response."""
    timings = response["timings"]
    drafted, accepted = optional_count(timings["draft_n"]), optional_count(timings["draft_n_accepted"])
    if drafted is None or accepted is None:
        raise BadRecord("no timings.draft_n with timings.draft_n_accepted: nothing was drafted")
    rounds, tokens = optional_count(timings["draft_rounds"]), count_of(timings["predicted_n"])
    passes = tokens - accepted
    counters = Counters(
        rounds=passes if rounds is None else rounds,
        drafted=drafted,
        accepted=accepted,
        per_position=(),
        undrafted=None if rounds is None else max(0, passes - rounds - 1),  # one is the prefill
    )
    if not passes and rounds is None:
        raise BadRecord(f"{tokens} tokens of which {accepted} were drafted, expected one of the target a pass at least")
    return checked(counters)


def checked(counters: Counters) -> Counters:
    """Return totals that do not contradict themselves; see `check_counters`."""
    if not counters.drafted:
        raise BadRecord("nothing was drafted")
    check_counters(counters)
    return counters


def checked_in_log(counters: Counters, line: int) -> Counters:
    """Return the same of a request whose tokens stand on another line."""
    if counters.drafted and counters.rounds <= 0:
        raise BadRecord("no line 'eval time = ' with the tokens of that request before it, or fewer than were accepted")
    return checked(counters)


def requests_of_log(path: Path) -> Iterator[tuple[int, Counters]]:
    """Yield the totals of every request that drafted."""
    tokens = 0
    for line, text in lines_of(path):
        if found := TOKENS.search(text):
            tokens = int(found["tokens"][:16])
        if found := DRAFTS.search(text):
            accepted, drafted = (min(float(found[name]), float(MAX_COUNT)) for name in ("accepted", "drafted"))
            rates = [float(rate) for rate in re.findall(r"\d+(?:\.\d+)?", found["rates"] or "")]
            length = float(found["length"]) if re.fullmatch(r"\d+(\.\d+)?", found["length"] or "") else 1.0
            if sum(rates) and length > 1:
                rounds = float(round(accepted / sum(rates)))
                yield (
                    line,
                    Counters(
                        rounds=rounds,
                        drafted=drafted,
                        accepted=accepted,
                        per_position=tuple(float(round(rate * rounds)) for rate in rates),
                    ),
                )
            else:
                yield line, Counters(rounds=tokens - accepted, drafted=drafted, accepted=accepted, per_position=())
            tokens = 0
