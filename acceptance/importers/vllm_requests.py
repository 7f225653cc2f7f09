"""Responses that report acceptance: of vLLM (--per-request-spec-decode-metrics), or TensorRT-LLM's choices."""

from pathlib import Path

from simulator.ground.fields import Field
from simulator.ground.records import BadRecord, Records

from .counters import PAST_THE_END, Counters, check_counters, import_counters, sum_counters
from .imported import Imported
from .request_rounds import RequestRounds, import_requests, read_request
from .values import count_of, read_values

AVERAGE = "avg_decoded_tokens_per_iter"
EXPECTED = (
    'responses with {"metrics": {"speculative_decoding": {"acceptance_histogram": [...]}}}, or with the same under '
    "each of their choices"
)
MEANING = (
    "acceptance_histogram counts the verification steps of a request by accepted drafts, the target's own token out; "
    "the histogram pools the steps that drafted K tokens"
)
NOTES = (
    "vLLM does not count steps without a draft: tokens made in them are in no number here",
    "a step's draft length leaves out drafts that a grammar ruled out",
    PAST_THE_END,
)
OF_AVERAGE = f"{AVERAGE} is tokens a step of a request, the target's own in; requests weigh by their steps"


def read(path: Path, k: int | None) -> Imported:
    """Import saved responses: JSON or JSONL; see `import_histogram`."""
    records = read_values(path, read_response, EXPECTED)
    requests = tuple(row for rows in records.rows for row in rows if isinstance(row, RequestRounds))
    if requests:
        kept = Records(path=path, rows=requests, skipped=records.skipped)
        return import_requests(kept, k, meaning=MEANING, notes=NOTES)
    counters = sum_counters(row for rows in records.rows for row in rows if isinstance(row, Counters))
    return import_counters(path, counters, k, meaning=OF_AVERAGE, skipped=records.skipped)


def read_response(response: Field, line: int) -> tuple[RequestRounds | Counters, ...]:
    """Read one response: a request, or as many as it has choices."""
    of_choices = [c for c in choices_of(response) if c["speculative_decoding"].is_given]
    if of_choices:
        return tuple(read_request(choice["speculative_decoding"], line) for choice in of_choices)
    statistics = response["metrics"]["speculative_decoding"] if response["metrics"].is_given else response["metrics"]
    if statistics.is_given:
        return (read_request(statistics, line),)
    averaged = [choice[AVERAGE] for choice in choices_of(response) if choice[AVERAGE].is_given]
    if len(averaged) == 1 and response["usage"].is_given:
        return (of_average(averaged[0], count_of(response["usage"]["completion_tokens"])),)
    raise BadRecord("no object under 'metrics.speculative_decoding' (vLLM leaves it out for n > 1) or under a choice")


def choices_of(response: Field) -> list[Field]:
    """Return the choices of a response that are objects."""
    choices = response["choices"]
    return [c for c in choices.elements() if isinstance(c.value, dict)] if isinstance(choices.value, list) else []


def of_average(average: Field, tokens: int) -> Counters:
    """Return the totals of a request of which the mean and all tokens are known."""
    mean = average.number(1)
    counters = Counters(rounds=tokens / mean, drafted=None, accepted=tokens - tokens / mean, per_position=())
    check_counters(counters)
    return counters
