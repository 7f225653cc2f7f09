"""Logged texts: every spelling of a record, what is skipped and why; test_prompts damages them."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acceptance.text.texts import LARGEST_ID, Text, load_texts
from simulator.ground.artefacts import UserError
from simulator.ground.records import Skipped

from .test_prompts import write_lines

GOOD = {"prompt": "p", "output": "o"}
ID = "expected a whole number from 0 to 2147483647"


@pytest.mark.parametrize("key", ["output", "response", "completion", "text"])
def test_texts_are_read_in_every_spelling(tmp_path: Path, key: str) -> None:
    for reason in ("stop", "length", None, ""):
        record = {"prompt": "p", key: "o\n", "finish_reason": reason, "id": "r-1", "category": "chat"}
        expected = Text(prompt="p", output="o\n", ended=reason == "stop", source="r-1", category="chat")
        assert load_texts(write_lines(tmp_path / "log.jsonl", record)).rows == (expected,)


def test_token_ids_are_read_and_hold_their_own_end(tmp_path: Path) -> None:
    for key in ("output_token_ids", "token_ids"):
        record = {"prompt_token_ids": [1, 0], key: [LARGEST_ID, 2], "finish_reason": "stop"}
        expected = Text(prompt=(1, 0), output=(LARGEST_ID, 2), ended=False, source="log.jsonl:1")
        assert load_texts(write_lines(tmp_path / "log.jsonl", record)).rows == (expected,)


def test_token_ids_count_where_there_is_text_too_unless_they_are_null(tmp_path: Path) -> None:
    both = {**GOOD, "prompt_token_ids": [1], "token_ids": [2]}
    null = {**GOOD, "prompt_token_ids": None, "token_ids": None}
    mixed = {"prompt_token_ids": [1], "output": None, "response": "o", "finish_reason": "stop"}
    rows = load_texts(write_lines(tmp_path / "log.jsonl", both, null, mixed)).rows
    assert [(t.prompt, t.output, t.ended) for t in rows] == [((1,), (2,), False), ("p", "o", False), ((1,), "o", True)]


BAD = [
    *(({key: ""}, f"{key} is empty") for key in ("output", "prompt")),
    *(({key: []}, f"{key} is empty") for key in ("token_ids", "prompt_token_ids")),
    ({"output": None}, "no output or response or completion or text or output_token_ids or token_ids"),
    ({"prompt": None}, "no prompt or prompt_token_ids"),
    *(({"output": value}, f"output is {value!r}, expected text") for value in (3, ["a"])),
    *(({"prompt": value}, f"prompt is {value!r}, expected text") for value in ({"a": "b"}, [{"role": "x"}])),
    ({"output": "\udfff"}, r"output is '\udfff', expected text in Unicode"),
    *(({"token_ids": value}, f"token_ids is {value!r}, expected a list") for value in ("12", 12)),
    *(({"token_ids": [1, value]}, f"token_ids[1] is {value}, {ID}") for value in (-1, True)),
    *(({"token_ids": [v]}, f"token_ids[0] is {v!r}, {ID}") for v in (1.5, None, "1", [1], LARGEST_ID + 1)),
    ({"prompt_token_ids": [10**4000]}, f"prompt_token_ids[0] is 1{'0' * 76}..., {ID}"),
    *(({"finish_reason": value}, f"finish_reason is {value!r}, expected text") for value in (3, ["stop"])),
    ({"category": {}}, "category is no printable text"),
    ({"score": float("nan")}, "holds NaN"),
]


def test_bad_records_are_skipped_with_a_reason(tmp_path: Path) -> None:
    found = load_texts(write_lines(tmp_path / "log.jsonl", GOOD, *({**GOOD, **changes} for changes, _ in BAD)))
    assert found.skipped == tuple(Skipped(line=line, reason=reason) for line, (_, reason) in enumerate(BAD, 2))
    assert len(found.rows) == 1


def test_a_file_without_texts_is_refused(tmp_path: Path) -> None:
    for line, reason in (
        (b"{", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"token_ids": [' + b"1" * 5000 + b"]}", "holds a number that cannot be read"),
        (b"[1]", "expected an object"),
        (b"null", "expected an object"),
        (b"{}", "no output"),
        (b'"\xff"', "not UTF-8"),
        (b"", "it is empty"),
    ):
        (tmp_path / "log.jsonl").write_bytes(line)
        with pytest.raises(UserError, match=rf"\A.*{reason}.*\Z"):
            load_texts(tmp_path / "log.jsonl")


def test_sources_that_repeat_are_numbered_and_a_limit_ends_the_reading(tmp_path: Path) -> None:
    repeated = {**GOOD, "source": "s"}
    path = write_lines(tmp_path / "log.jsonl", repeated, {}, repeated, GOOD, {})
    assert [t.source for t in load_texts(path).rows] == ["s", "s#2", "log.jsonl:4"]
    found = load_texts(path, limit=2)
    assert [t.source for t in found.rows] == ["s", "s#2"]
    assert [s.line for s in found.skipped] == [2]
    with pytest.raises(UserError, match="limit is 0, expected at least 1"):
        load_texts(path, limit=0)


ids = st.lists(st.integers(0, LARGEST_ID), min_size=1).map(tuple)
sides = st.text(min_size=1) | ids


@given(st.lists(st.tuples(sides, sides, st.booleans()), min_size=1))
@settings(deadline=None)
def test_any_texts_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[Any, Any, bool]]
) -> None:
    def key(side: str, value: object) -> str:
        return side if isinstance(value, str) else f"{side}_token_ids"

    records = [
        {key("prompt", p): p, key("output", o): o, "finish_reason": "stop" if ended else "length"}
        for p, o, ended in texts
    ]
    rows = load_texts(write_lines(tmp_path_factory.getbasetemp() / "log.jsonl", *records)).rows
    expected = [(p, o, ended and isinstance(o, str)) for p, o, ended in texts]
    assert [(t.prompt, t.output, t.ended) for t in rows] == expected
