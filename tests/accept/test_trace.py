"""The trace file: round trip, and refusal of what is not one."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from acceptance.trace.trace import ARRAYS, PromptInfo, Trace, join, load_trace, save_trace
from simulator.ground.artefacts import UserError

TOLD = {"temperature": 0.0, "draft_temperature": 0.0}
PROMPTS = tuple(PromptInfo(source=f"p{i}", category="ab"[i % 2]) for i in range(8))


def some_trace(first_prompt: int = 0) -> Trace:
    floats = {n: np.linspace(0, 1, 5, dtype=np.float32) for n in ("max_q", "entropy_p", "entropy_q", "overlap")}
    ranks = {n: np.arange(5, dtype=np.int32) for n in ("rank_p", "rank_q")}
    return Trace(
        **floats,
        **ranks,
        token=np.array([5, 6, 7, 8, 9], np.int32),
        accept_sampled=np.array([1, 0.5, 0, 0.25, 1], np.float32),
        accept_greedy=np.array([True, False, True, False, True]),
        log_p=np.array([-1, -2, -0.5, 0, -3], np.float32),
        p_argmax_q=np.full(5, np.nan, np.float32),
        prompt=np.array([0, 0, 0, 0, 2], np.int32) + first_prompt,
        turn=np.array([0, 0, 1, 1, 0], np.int32),
        position=np.array([0, 1, 0, 1, 0], np.int32),
        context_length=np.array([3, 4, 5, 9, 10], np.int32),
        prompts=PROMPTS,
    )


def same(a: Trace, b: Trace) -> bool:
    return a.prompts == b.prompts and all(np.array_equal(getattr(a, n), getattr(b, n), equal_nan=True) for n in ARRAYS)


def test_a_trace_reads_back_the_same_with_its_provenance(tmp_path: Path) -> None:
    arrays, sidecar = save_trace(tmp_path, some_trace(), TOLD)
    trace, told = load_trace(sidecar)
    assert same(trace, some_trace())
    assert told == TOLD
    about = json.loads(sidecar.read_text())
    assert (about["positions"], about["arrays"]) == (5, arrays.name)
    assert about["prompts"][1] == {"source": "p1", "category": "b"}
    assert {"kind", "schema_version", "created_utc", "environment", "tool"} <= about.keys()


def test_outputs_begin_where_a_prompt_or_a_turn_does() -> None:
    trace = some_trace()
    assert trace.starts.tolist() == [0, 2, 4, 5]
    assert trace.prompt_of_output.tolist() == [0, 0, 1]
    assert trace.measured_prompts == 2
    assert trace.category.tolist() == ["a"] * 5
    assert trace.accept("greedy").tolist() == [1, 0, 1, 0, 1]
    assert trace.accept("sampled").tolist() == [1, 0.5, 0, 0.25, 1]


def test_joined_and_selected_traces_follow_one_another() -> None:
    joined = join([some_trace(), some_trace(first_prompt=3)])
    assert joined.measured_prompts == 4
    assert joined.starts.tolist() == [0, 2, 4, 5, 7, 9, 10]
    assert same(joined.select(joined.prompt < 3), some_trace())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accept_sampled": np.array([1, 2, 0, 0, 0.0])}, "outside 0..1"),
        ({"accept_sampled": np.array([1, np.nan, 0, 0, 0.0])}, "outside 0..1"),
        ({"accept_greedy": np.array([True])}, "differ in length"),
        ({"position": np.array([0, 2, 1, 0, 1], np.int32)}, "reading order"),
        ({"position": np.array([1, 2, 3, 0, 1], np.int32)}, "reading order"),
        ({"prompt": np.array([2, 2, 2, 2, 0], np.int32)}, "reading order"),
        ({"turn": np.array([1, 1, 0, 0, 0], np.int32)}, "reading order"),
        ({"turn": np.array([-1, -1, 0, 0, 0], np.int32)}, "reading order"),
        ({"prompts": PROMPTS[:2]}, "prompt 2 of a trace of 2 prompts"),
    ],
)
def test_arrays_that_are_no_trace_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(some_trace(), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": 4}, "positions is 4"),
        ({"kind": "other"}, "kind is 'other'"),
        ({"schema_version": 1}, "schema_version is 1, supported: 2"),
        ({"arrays": None}, "arrays is None"),
        ({"parameters": []}, "parameters is"),
        ({"parameters": {}}, "parameters.temperature is None, expected a number"),
        ({"prompts": 3}, "prompts is not a list"),
        ({"prompts": [{"source": "a"}]}, "prompts is not a list"),
    ],
)
def test_a_broken_sidecar_is_named(tmp_path: Path, changes: dict, message: str) -> None:
    _, sidecar = save_trace(tmp_path, some_trace(), TOLD)
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        load_trace(sidecar)


@pytest.mark.parametrize("keep", [0, 200])
def test_broken_arrays_are_named(tmp_path: Path, keep: int) -> None:
    arrays, sidecar = save_trace(tmp_path, some_trace(), TOLD)
    for content in (arrays.read_bytes()[:keep], b"not a zip"):
        arrays.write_bytes(content)
        with pytest.raises(UserError, match="not a trace"):
            load_trace(sidecar)
