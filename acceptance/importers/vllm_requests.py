"""Responses of a vLLM server that reports each request's acceptance (--per-request-spec-decode-metrics)."""

from pathlib import Path

from simulator.ground.fields import Field
from simulator.ground.records import BadRecord

from .imported import Imported
from .request_rounds import RequestRounds, import_requests, read_request
from .values import read_values

EXPECTED = 'responses with {"metrics": {"speculative_decoding": {"acceptance_histogram": [...]}}}'
MEANING = (
    "acceptance_histogram counts the verification steps of a request by accepted drafts, the target's own token out; "
    "the histogram pools the steps that drafted K tokens"
)
NOTES = (
    "vLLM does not count steps without a draft: tokens made in them are in no number here",
    "a step's draft length leaves out drafts that a grammar ruled out",
)


def read(path: Path, k: int | None) -> Imported:
    """Import saved responses: JSON or JSONL; see `import_histogram`."""
    records = read_values(path, read_response, EXPECTED)
    return import_requests(records, k, meaning=MEANING, notes=NOTES)


def read_response(response: Field, line: int) -> RequestRounds:
    """Read one response."""
    statistics = response["metrics"]["speculative_decoding"]
    if not statistics.is_given:
        raise BadRecord("no object under 'metrics.speculative_decoding' (vLLM leaves it out for n > 1)")
    return read_request(statistics, line)
