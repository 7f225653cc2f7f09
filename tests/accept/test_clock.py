"""Phases of decoding: they add up, begin and end where they should, and the trace of them opens."""

import json
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acceptance.bench.clock import PHASES, Clock, Lane, Phases, clock_for, clock_of, since_first, write_chrome_trace
from acceptance.decoders import baseline
from acceptance.decoders.batch import Task
from acceptance.decoders.chain import Chain, FixedLength
from acceptance.decoders.decoder import run
from acceptance.decoders.model_draft import ModelDraft
from acceptance.models import laws
from acceptance.models.rule import SamplingRule

from .tiny_models import random_model, related_model


def shows(times: list[int]) -> Clock:
    """A clock that shows these times, in milliseconds, one a look."""
    return Clock(iter(times).__next__, lambda stamps: [s / 1e3 for s in stamps])


def marked(clock: Clock, phases: Iterable[str]) -> Phases:
    """Start the clock, mark these phases, and return what it found."""
    clock.start()
    for phase in phases:
        clock.mark(phase)
    return clock.stop()


@given(st.lists(st.tuples(st.sampled_from(PHASES), st.integers(0, 1000)), max_size=30))
def test_phases_are_what_lies_between_marks(marks: list[tuple[str, int]]) -> None:
    found = marked(shows([*accumulate((took for _, took in marks), initial=5)]), (phase for phase, _ in marks))
    for phase in PHASES:
        assert getattr(found, f"{phase}_s") == pytest.approx(sum(t for p, t in marks if p == phase) / 1e3)
    assert found.total_s == pytest.approx(sum(t for _, t in marks) / 1e3)
    assert sum(getattr(found, f"{phase}_s") for phase in PHASES) == pytest.approx(found.total_s)


def test_the_first_token_is_there_when_the_first_round_is_committed() -> None:
    phases = ("prefill", "draft", "verify", "sample", "other", "kv", "draft", "other")
    assert marked(shows([0, 10, 13, 20, 21, 22, 23, 30, 40]), phases).first_token_s == pytest.approx(0.022)


def test_starting_again_forgets_and_waits_for_all_devices() -> None:
    clock = shows([0, 10, 100, 101])
    marked(clock, ["draft"])
    found = marked(clock, ["verify"])
    assert (found.draft_s, found.total_s) == (0, pytest.approx(1e-3))
    waited = []
    clock = Clock(iter(range(5)).__next__, settle=lambda: waited.append(len(clock.stamps)))
    clock.start()
    assert waited == [0]


def devices_of(*stamps: list[int]) -> Clock:
    """A clock of devices that show these times, one a mark."""
    return clock_of([Lane(iter(own).__next__, since_first) for own in stamps], lambda: None)


@given(
    st.lists(st.tuples(st.sampled_from(PHASES), st.integers(0, 100), st.integers(0, 100)), max_size=20),
    st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
)
def test_a_phase_over_several_devices_ends_with_the_last_of_them(marks, epochs) -> None:
    """Every device counts from an epoch of its own, and has done so much more at every mark."""
    done = [[*accumulate((m[d] for m in marks), initial=0)] for d in (1, 2)]
    clock = devices_of(*([epoch + t for t in own] for epoch, own in zip(epochs, done, strict=True)))
    ends = [max(a, b) for a, b in zip(*done, strict=True)]
    found = marked(clock, (phase for phase, *_ in marks))
    for phase in PHASES:
        expected = sum(b - a for (p, *_), a, b in zip(marks, ends[:-1], ends[1:], strict=True) if p == phase)
        assert getattr(found, f"{phase}_s") == expected
    assert found.total_s == ends[-1]


def test_a_draft_on_a_device_of_its_own_counts_as_drafting() -> None:
    """The target is idle while the draft works from 5 to 11, and verifies from then to 23."""
    target, draft = [100, 105, 105, 123], [7000, 7002, 7011, 7011]
    for devices, expected in (((target, draft), (5, 6, 12)), ((target,), (5, 0, 18))):
        found = marked(devices_of(*devices), ("prefill", "draft", "verify"))
        # The target's own clock, the second time, puts the wait for the draft down to verifying.
        assert (found.prefill_s, found.draft_s, found.verify_s) == expected


@pytest.mark.parametrize("method", ["baseline", "chain"])
def test_a_real_decoder_tells_all_its_phases(method: str) -> None:
    target = random_model("llama", 1, 8)
    clock = clock_for(["cpu"])
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
    assert [e["args"]["name"] for e in events if e["name"] == "thread_name"] == ["a", "b"]
    spans = [(e["tid"], e["name"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"]
    assert spans == [(1, "draft", 0, 500_000), (1, "verify", 500_000, 250_000), (2, "other", 0, 1_000_000)]
