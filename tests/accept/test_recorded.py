"""What a real vLLM 0.32 left: its /metrics around a run of `vllm bench serve`, its log and the client's result agree.

Recorded by `python -m tests.server.live --keep FOLDER`; names of models are replaced, other metrics and lines left out.
"""

import json
from pathlib import Path

import pytest

from acceptance.importers.formats import import_histogram, recognised
from acceptance.importers.imported import Imported

HERE = Path(__file__).with_name("recorded")
SERVED = {"draft": ("bundled-target", 2), "ngram": ("bundled-target", 8)}


def read(name: str, tool: str, before: str | None = None) -> Imported:
    """Import a file that has to be known by its content."""
    path = HERE / name
    assert recognised(path) == tool
    return import_histogram(None, path, before=HERE / before if before else None)


@pytest.mark.parametrize("way", SERVED)
def test_metrics_and_the_clients_result_tell_the_same_of_a_run(way: str) -> None:
    metrics = read(f"{way}-after.txt", "vllm-metrics", f"{way}-before.txt")
    result = read(f"{way}-theirs.json", "vllm-bench")
    told = json.loads((HERE / f"{way}-theirs.json").read_text())
    assert list(metrics.histogram.counts) == list(result.histogram.counts)
    assert metrics.histogram.samples == told["spec_decode_num_drafts"]
    assert metrics.histogram.tokens_per_round == pytest.approx(told["spec_decode_acceptance_length"])
    assert (metrics.model, metrics.histogram.draft_length) == SERVED[way]


@pytest.mark.parametrize("way", SERVED)
def test_a_log_tells_what_metrics_count_since_the_start(way: str) -> None:
    whole, log = read(f"{way}-after.txt", "vllm-metrics"), read(f"{way}-server.log", "vllm-log")
    assert log.histogram.samples == whole.histogram.samples
    assert list(log.histogram.counts) == pytest.approx(list(whole.histogram.counts), abs=3)
