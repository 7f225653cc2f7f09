"""Exports of NVIDIA AIPerf: requests (profile_export.jsonl) or totals (profile_export_aiperf.json)."""

from pathlib import Path

from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field
from simulator.ground.records import BadRecord, Records, read_each

from .counters import Counters, check_counters, import_counters
from .imported import Imported
from .request_rounds import RequestRounds, import_requests, read_request
from .values import accepted_of, check_equal, histogram_counts, number_of, optional_count, read_values, whole_json

RECORD = "spec_decode_acceptance"
POOLED = "pooled_spec_decode_acceptance_histogram"
STEPS, ACCEPTED, DRAFTED = "total_spec_decode_steps", "total_accepted_draft_tokens", "total_draft_tokens"
LENGTH, MACRO = "spec_decode_token_weighted_acceptance_length", "spec_decode_acceptance_length"
EXPECTED = f'profile_export.jsonl with {{"{RECORD}": ...}} a line, or profile_export_aiperf.json with "{POOLED}"'
OF_REQUESTS = (
    "acceptance_histogram counts the verification steps of a request by accepted drafts, the target's own token out; "
    "the histogram pools the steps that drafted K tokens"
)
OF_TOTALS = f"{POOLED} counts the verification steps of all requests by accepted drafts, the target's own token out"
OF_MEAN = "accepted drafts and verification steps of all requests give the mean, the target's own token apart"


def read(path: Path, k: int | None) -> Imported:
    """Import an export of AIPerf; see `import_histogram`."""
    whole = whole_json(path)
    if whole is not None and isinstance(whole.value, dict) and RECORD not in whole.value:
        return read_totals(path, whole, k)
    records = read_values(path, read_record, EXPECTED)
    measured = tuple(row for row in records.rows if row is not None)
    if not measured:
        raise UserError(f"{path}: holds warm-up requests alone, expected profiling requests")
    notes: tuple[str, ...] = ("steps without a draft are in no number here where the server does not count them",)
    warmup = len(records.rows) - len(measured)
    if warmup:
        notes = (*notes, f"{warmup} warm-up requests are left out")
    kept = Records(path=path, rows=measured, skipped=records.skipped)
    return import_requests(kept, k, meaning=OF_REQUESTS, notes=notes)


def read_record(record: Field, line: int) -> RequestRounds | None:
    """Read one request, None where it belongs to the warm-up."""
    metadata = record["metadata"].value
    if isinstance(metadata, dict) and metadata.get("benchmark_phase") == "warmup":
        return None
    return read_request(record[RECORD], line)


def read_totals(path: Path, whole: Field, k: int | None) -> Imported:
    """Import the totals of a run: their pooled histogram, else their mean."""
    if whole[POOLED].is_given:
        records = read_each(path, iter([(1, whole)]), read_pooled, EXPECTED)
        return import_requests(records, k, meaning=OF_TOTALS, notes=())
    counters = read_each(path, iter([(1, whole)]), read_means, EXPECTED).rows[0]
    return import_counters(path, counters, k, meaning=OF_MEAN)


def read_pooled(whole: Field, line: int) -> RequestRounds:
    """Read the pooled histogram as if it were one request's."""
    counts = histogram_counts(whole[POOLED])
    accepted, drafted = accepted_of(counts), optional_count(average(whole[DRAFTED]))
    check_equal(average(whole[STEPS]), sum(counts), POOLED)
    check_equal(average(whole[ACCEPTED]), accepted, POOLED)
    if drafted is not None and accepted > drafted:
        raise BadRecord(f"{DRAFTED} is {drafted}, but {accepted} were accepted")
    return RequestRounds(line=line, k=None, counts=counts, by_length=None, drafted=drafted)


def read_means(whole: Field, line: int) -> Counters:
    """Read the totals of a run that has no histogram."""
    steps, accepted = (optional_count(average(whole[name])) for name in (STEPS, ACCEPTED))
    length = number_of(average(whole[LENGTH])) if whole[LENGTH].is_given else None
    if steps is None and length is None and average(whole[MACRO]).is_given:
        raise BadRecord(f"{MACRO} is a mean over requests, which does not tell the tokens of a step")
    if steps is None or (accepted is None and length is None):
        raise BadRecord(f"no object under {POOLED!r} and no {STEPS} with {ACCEPTED} or {LENGTH}")
    if accepted is None and length is not None and length < 1:
        raise BadRecord(f"{LENGTH} is {length:g}, expected at least 1: the target's own token is in")
    total = accepted if accepted is not None else ((length or 1.0) - 1) * steps
    counters = Counters(rounds=steps, drafted=optional_count(average(whole[DRAFTED])), accepted=total, per_position=())
    check_counters(counters)
    return counters


def average(metric: Field) -> Field:
    """Return the one value of a metric of the run, which it has to have; the metric itself where it is not there."""
    if not metric.is_given:
        return metric
    if not metric["avg"].is_given:
        metric["avg"].refuse("a number")
    return metric["avg"]
