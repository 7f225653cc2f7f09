"""Reports of GuideLLM: what the server said of each request's speculation, which its JSON keeps."""

from collections.abc import Iterator
from pathlib import Path

from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field
from simulator.ground.records import BadRecord, as_record, read_each

from .imported import Imported
from .request_rounds import RequestRounds, import_requests, read_request
from .values import whole_json
from .vllm_requests import MEANING, NOTES

EXPECTED = (
    'benchmarks.json with {"benchmarks": [{"requests": {"successful": [{"response_metrics": '
    '{"speculative_decoding": ...}}]}}]} (vLLM with --per-request-spec-decode-metrics)'
)


def read(path: Path, k: int | None) -> Imported:
    """Import the JSON report of a run; see `import_histogram`."""
    report = whole_json(path)
    if report is None or not isinstance(report.value, dict):
        raise UserError(f"{path}: is no JSON object, expected {EXPECTED}")
    try:
        benchmarks = report["benchmarks"].elements()
        requests = list(requests_of(benchmarks))
    except BadRecord as error:
        raise UserError(f"{path}: {error}, expected {EXPECTED}") from None
    records = read_each(path, enumerate(requests, 1), read_one, EXPECTED, place="request")
    notes: tuple[str, ...] = NOTES
    if len(benchmarks) > 1:
        notes = (f"{len(benchmarks)} benchmarks of this report are pooled", *notes)
    return import_requests(records, k, meaning=MEANING, notes=notes)


def requests_of(benchmarks: list[Field]) -> Iterator[Field]:
    """Yield the requests that ended well."""
    for benchmark in benchmarks:
        requests = benchmark["requests"]
        yield from (requests if isinstance(requests.value, list) else requests["successful"]).elements()


def read_one(request: Field, line: int) -> RequestRounds:
    """Read one request."""
    statistics = as_record(request.value)["response_metrics"]["speculative_decoding"]
    if not statistics.is_given:
        raise BadRecord("no object under 'response_metrics.speculative_decoding'")
    return read_request(statistics, line)
