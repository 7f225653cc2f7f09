"""The trace file: round trip, and refusal of what is not one."""

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from acceptance.trace.trace import SINCE_3, PromptInfo, Trace, join, load_trace, save_trace
from simulator.ground.artefacts import UserError, file_sha256

from .traces import make_trace, same_trace

TOLD = {"temperature": 0.0, "draft_temperature": 0.0}
PROMPTS = tuple(PromptInfo(source=f"p{i}", category="ab"[i % 2]) for i in range(8))


def some_trace(first_prompt: int = 0) -> Trace:
    unknown = {n: np.linspace(0, 1, 5) for n in ("max_q", "entropy_p", "entropy_q", "overlap")}
    unknown |= {"p_argmax_q": np.full(5, np.nan), "rank_p": np.arange(5), "rank_q": np.arange(5)}
    known = {"token": [5, 6, 7, 8, 9], "log_p": [-1, -2, -0.5, 0, -3], "context_length": [3, 4, 5, 9, 10]}
    owners = np.array([0, 0, 2]) + first_prompt
    trace = make_trace([[1, 0.5], [0, 0.25], [1]], prompts=owners.tolist(), **unknown, **known)
    return dataclasses.replace(trace, accept_greedy=np.array([True, False, True, False, True]), prompts=PROMPTS)


def test_a_trace_reads_back_the_same_with_its_provenance(tmp_path: Path) -> None:
    arrays, sidecar = save_trace(tmp_path, some_trace(), TOLD)
    trace, told = load_trace(sidecar)
    assert same_trace(trace, some_trace())
    assert told == TOLD | {"trace_sha256": file_sha256(arrays)}
    about = json.loads(sidecar.read_text())
    assert (about["positions"], about["arrays"]) == (5, arrays.name)
    assert about["prompts"][1] == {"source": "p1", "category": "b"}
    assert {"kind", "schema_version", "created_utc", "environment", "tool"} <= about.keys()


def test_a_trace_of_version_2_is_read_and_lacks_what_came_later(tmp_path: Path) -> None:
    new = dataclasses.replace(some_trace(), **dict.fromkeys(SINCE_3[1:], -np.ones(5, "f4")), margin_q=np.ones(5, "f4"))
    arrays, sidecar = save_trace(tmp_path, new, TOLD)
    assert same_trace(load_trace(sidecar)[0], new)
    with np.load(arrays) as held:
        old = {name: held[name] for name in held.files if name not in SINCE_3}
    np.savez_compressed(arrays, **old)
    for version, message in ((2, ""), (3, "has no array 'margin_q'")):
        about = json.loads(sidecar.read_text()) | {"schema_version": version, "arrays_sha256": file_sha256(arrays)}
        sidecar.write_text(json.dumps(about))
        with pytest.raises(UserError, match=message) if message else nullcontext():
            assert same_trace(load_trace(sidecar)[0], some_trace())


def test_text_that_the_target_would_not_write_is_kept(tmp_path: Path) -> None:
    """Top-k and top-p exclude tokens of text that was written without them."""
    trace = dataclasses.replace(some_trace(), log_p=np.array([-1, -np.inf, -2, 0, -np.inf], np.float32))
    _, sidecar = save_trace(tmp_path, trace, TOLD)
    assert same_trace(load_trace(sidecar)[0], trace)
    for value, told in ((np.inf, "inf"), (0.1, "0.1"), (np.nan, "nan")):
        wrong = dataclasses.replace(trace, log_p=np.array([-1, value, -2, 0, 0], np.float32))
        _, sidecar = save_trace(tmp_path, wrong, TOLD)
        with pytest.raises(UserError, match=f"'log_p' holds {told}, expected numbers of at most 0.001"):
            load_trace(sidecar)


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
    assert same_trace(joined.select(joined.prompt < 3), some_trace())


def test_arrays_that_are_no_trace_are_refused() -> None:
    for name, values, message in (
        ("accept_sampled", np.array([1, 2, 0, 0, 0.0]), "outside 0..1"),
        ("accept_sampled", np.array([1, np.nan, 0, 0, 0.0]), "outside 0..1"),
        ("accept_greedy", np.array([True]), "differ in length"),
        ("position", np.array([0, 2, 1, 0, 1], np.int32), "reading order"),
        ("position", np.array([1, 2, 3, 0, 1], np.int32), "reading order"),
        ("prompt", np.array([2, 2, 2, 2, 0], np.int32), "reading order"),
        ("turn", np.array([1, 1, 0, 0, 0], np.int32), "reading order"),
        ("turn", np.array([-1, -1, 0, 0, 0], np.int32), "reading order"),
        ("prompts", PROMPTS[:2], "prompt 2 of a trace of 2 prompts"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(some_trace(), **{name: values})


def test_broken_sidecars_and_arrays_are_named(tmp_path: Path) -> None:
    arrays, sidecar = save_trace(tmp_path, some_trace(), TOLD)
    whole, content = json.loads(sidecar.read_text()), arrays.read_bytes()
    for changes, message in (
        ({"positions": 4}, "positions is 4"),
        ({"kind": "other"}, "kind is 'other'"),
        ({"schema_version": 1}, "schema_version is 1, supported: 2, 3"),
        ({"arrays": None}, "arrays is None"),
        ({"parameters": []}, "parameters is"),
        ({"parameters": {}}, "parameters.temperature is None, expected a number"),
        ({"prompts": 3}, "prompts is not a list"),
        ({"prompts": [{"source": "a"}]}, "prompts is not a list"),
    ):
        sidecar.write_text(json.dumps(whole | changes))
        with pytest.raises(UserError, match=message):
            load_trace(sidecar)
    for hashed, message in ((True, "is not what trace.json was written with"), (False, "is no .npz of arrays")):
        kept = whole if hashed else {key: value for key, value in whole.items() if key != "arrays_sha256"}
        sidecar.write_text(json.dumps(kept))
        for broken in (content[:0], content[:200], b"not a zip"):
            arrays.write_bytes(broken)
            with pytest.raises(UserError, match=message):
                load_trace(sidecar)
