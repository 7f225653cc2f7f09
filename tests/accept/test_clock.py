"""Phases of decoding: they add up, begin and end where they should, and the trace of them opens."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acceptance import laws
from acceptance.bench.clock import PHASES, Clock, clock_for, write_chrome_trace
from acceptance.decoders import baseline
from acceptance.decoders.batch import Task
from acceptance.decoders.chain import Chain, FixedLength
from acceptance.decoders.decoder import run
from acceptance.decoders.model_draft import ModelDraft
from acceptance.rule import SamplingRule

from .tiny_models import random_model, related_model


def clock_of(times: list[int]) -> Clock:
    """A clock that shows these times, in milliseconds, one a look."""
    return Clock(iter(times).__next__, lambda stamps: [s / 1e3 for s in stamps])


@given(st.lists(st.tuples(st.sampled_from(PHASES), st.integers(0, 1000)), max_size=30))
def test_phases_are_what_lies_between_marks(marks: list[tuple[str, int]]) -> None:
    times = [5]
    for _, took in marks:
        times.append(times[-1] + took)
    clock = clock_of(times)
    clock.start()
    for phase, _ in marks:
        clock.mark(phase)
    found = clock.stop()
    for phase in PHASES:
        assert getattr(found, f"{phase}_s") == pytest.approx(sum(t for p, t in marks if p == phase) / 1e3)
    assert found.total_s == pytest.approx(sum(t for _, t in marks) / 1e3)
    assert sum(getattr(found, f"{phase}_s") for phase in PHASES) == pytest.approx(found.total_s)


def test_the_first_token_is_there_when_the_first_round_is_committed() -> None:
    clock = clock_of([0, 10, 13, 20, 21, 22, 23, 30, 40])
    clock.start()
    for phase in ("prefill", "draft", "verify", "sample", "other", "kv", "draft", "other"):
        clock.mark(phase)
    assert clock.stop().first_token_s == pytest.approx(0.022)


def test_starting_again_forgets() -> None:
    clock = clock_of([0, 10, 100, 101])
    clock.start()
    clock.mark("draft")
    clock.start()
    clock.mark("verify")
    assert clock.stop().draft_s == 0
    assert clock.stop().total_s == pytest.approx(1e-3)


@pytest.mark.parametrize("method", ["baseline", "chain"])
def test_a_real_decoder_tells_all_its_phases(method: str) -> None:
    target = random_model("llama", 1, 8)
    clock = clock_for("cpu")
    task = Task(rule=SamplingRule(temperature=0), max_new_tokens=9, rngs=laws.streams(0, [0]), mark=clock.mark)
    clock.start()
    if method == "baseline":
        decoded = run(baseline.Plain(target, [[1, 2, 3]], task))
    else:
        draft = ModelDraft(related_model(target, 2, 0.3), task.rule)
        decoded = run(Chain(target, draft, [[1, 2, 3]], task, lengths=FixedLength(3)))
    found, spans = clock.stop(), clock.timeline()
    assert [phase for phase, *_ in spans].count("verify") == len(decoded[0].rounds)
    assert all(begin <= end for _, begin, end in spans)
    assert found.verify_s > 0
    assert [phase for phase, *_ in spans].count("kv") == (len(decoded[0].rounds) if method == "chain" else 0)
    assert 0 < found.prefill_s < found.first_token_s < found.total_s


def test_the_chrome_trace_holds_every_span(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    write_chrome_trace(path, [("a", [("draft", 0.0, 0.5), ("verify", 0.5, 0.75)]), ("b", [("other", 0.0, 1.0)])])
    events = json.loads(path.read_text())["traceEvents"]
    assert [e["args"]["name"] for e in events if e["ph"] == "M"] == ["a", "b"]
    spans = [(e["tid"], e["name"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"]
    assert spans == [(1, "draft", 0, 500_000), (1, "verify", 500_000, 250_000), (2, "other", 0, 1_000_000)]
