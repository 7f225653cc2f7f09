"""The trace file: round trip, and refusal of what is not one."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from acceptance.trace import Trace, join, load_trace, save_trace
from simulator.artefacts import UserError


def some_trace(first_prompt: int = 0) -> Trace:
    return Trace(
        token=np.array([5, 6, 7, 8, 9], np.int32),
        accept=np.array([1, 0.5, 0, 0.25, 1]),
        prompt=np.array([0, 0, 0, 2, 2], np.int32) + first_prompt,
        position=np.array([0, 1, 2, 0, 1], np.int32),
        context_length=np.array([3, 4, 5, 9, 10], np.int32),
    )


def same(a: Trace, b: Trace) -> bool:
    return all((getattr(a, f.name) == getattr(b, f.name)).all() for f in dataclasses.fields(Trace))


def test_a_trace_reads_back_the_same_with_its_provenance(tmp_path: Path) -> None:
    arrays, sidecar = save_trace(tmp_path, some_trace(), {"temperature": 0.0})
    assert same(load_trace(sidecar), some_trace())
    about = json.loads(sidecar.read_text())
    assert (about["positions"], about["prompts"], about["arrays"]) == (5, 2, arrays.name)
    assert about["parameters"] == {"temperature": 0.0}
    assert {"kind", "schema_version", "created_utc", "environment", "tool"} <= about.keys()


def test_prompts_become_rows_padded_with_zero() -> None:
    dense, lengths = some_trace().by_prompt()
    assert dense.tolist() == [[1, 0.5, 0], [0.25, 1, 0]]
    assert lengths.tolist() == [3, 2]


def test_joined_traces_follow_one_another() -> None:
    joined = join([some_trace(), some_trace(first_prompt=3)])
    assert joined.prompts == 4
    assert joined.by_prompt()[1].tolist() == [3, 2, 3, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accept": np.array([1, 2, 0, 0, 0.0])}, "outside 0..1"),
        ({"accept": np.array([1, np.nan, 0, 0, 0.0])}, "outside 0..1"),
        ({"accept": np.array([1.0])}, "differ in length"),
        ({"position": np.array([0, 2, 1, 0, 1], np.int32)}, "reading order"),
        ({"position": np.array([1, 2, 3, 0, 1], np.int32)}, "reading order"),
        ({"prompt": np.array([2, 2, 2, 0, 0], np.int32)}, "reading order"),
    ],
)
def test_arrays_that_are_no_trace_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(some_trace(), **changes)


def test_broken_files_are_named(tmp_path: Path) -> None:
    arrays, sidecar = save_trace(tmp_path, some_trace(), {})
    about = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(about | {"positions": 4}))
    with pytest.raises(UserError, match="positions is 4"):
        load_trace(sidecar)
    sidecar.write_text(json.dumps(about | {"kind": "other"}))
    with pytest.raises(UserError, match="kind is 'other'"):
        load_trace(sidecar)
    sidecar.write_text(json.dumps(about))
    for content in (b"", b"not a zip", arrays.read_bytes()[:200]):
        arrays.write_bytes(content)
        with pytest.raises(UserError, match="not a trace"):
            load_trace(sidecar)
