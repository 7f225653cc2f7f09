"""Prompt files: every data set's layout, what is skipped and why, and files that hold nothing to read."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acceptance.text.prompts import DATASETS, Prompt, load_prompts, unique_names
from acceptance.text.texts import load_texts
from simulator.ground.artefacts import UserError
from simulator.ground.records import Skipped

GOOD = '{"prompt": "good"}'
MT_BENCH = {"question_id": 81, "category": "writing", "turns": ["write", "rewrite"], "reference": ["x"]}
SHAREGPT = {"id": "QWJhYvA_0", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes?"}]}
CHAT = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes?"}]}


def write_lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def write_list(path: Path, *records: object) -> Path:
    path.write_text(json.dumps(records, indent=1))
    return path


def conversation(*messages: tuple[str, Any], **others: object) -> dict[str, object]:
    return {"conversations": [{"from": role, "value": value} for role, value in messages], **others}


def test_records_and_plain_text_are_read(tmp_path: Path) -> None:
    lines, plain = tmp_path / "p.jsonl", tmp_path / "p.txt"
    lines.write_text('{"prompt": "a\\nb", "source": "s", "category": "c"}\n\n{"prompt": "c\u2028d"}\n')
    plain.write_text("first one\n\n  second\r\n")
    assert load_prompts(lines).rows == (
        Prompt(turns=("a\nb",), source="s", category="c"),
        Prompt(turns=("c\u2028d",), source="p.jsonl:3"),
    )
    assert load_prompts(plain).rows == (
        Prompt(turns=("first one",), source="p.txt:1"),
        Prompt(turns=("  second",), source="p.txt:3"),
    )


@pytest.mark.parametrize("dataset", ["auto", "mt-bench", "spec-bench", "jsonl"])
def test_questions_are_read_to_the_turn_that_was_asked_for(tmp_path: Path, dataset: str) -> None:
    path = write_lines(tmp_path / "question.jsonl", MT_BENCH)
    for turns, kept in ((1, 1), (2, 2), (3, 2), (None, 2)):
        expected = Prompt(turns=("write", "rewrite")[:kept], source="81", category="writing")
        assert load_prompts(path, dataset, turns=turns).rows == (expected,)


@pytest.mark.parametrize("write", [write_lines, write_list])
def test_conversations_are_read_in_both_spellings_from_lists_and_lines(tmp_path: Path, write: Any) -> None:
    both = conversation(("system", "be brief"), ("user", "one"), ("gpt", "1"), ("human", "two"), id=7)
    for suffix, dataset in ((".json", "auto"), (".json", "sharegpt"), ("", "sharegpt")):
        path = write(tmp_path / f"talk{suffix}", SHAREGPT, CHAT, both)
        assert load_prompts(path, dataset, turns=None).rows == (
            Prompt(turns=("hi",), source="QWJhYvA_0"),
            Prompt(turns=("hello",), source=f"talk{suffix}:2"),
            Prompt(turns=("one", "two"), source="7"),
        )


def test_auto_decides_by_the_keys_of_each_record(tmp_path: Path) -> None:
    null = {"turns": None, "conversations": None, "prompt": "p"}
    for suffix in (".jsonl", ".JSONL"):
        path = write_lines(tmp_path / f"mixed{suffix}", MT_BENCH, SHAREGPT, CHAT, {"prompt": "p"}, null)
        assert [p.turns[0] for p in load_prompts(path).rows] == ["write", "hi", "hello", "p", "p"]


NO_TALK, NO_HUMAN = "no conversations or messages", "does not begin with a human turn"
NO_KEY = "no prompt under its keys "
BAD_LINES = [
    ("{", "not JSON"),
    ("[" * 100_000, "nested too deeply"),
    ("1" * 5000, "holds a number that cannot be read"),
    ('{"prompt": "x", "score": NaN}', "holds NaN"),
    ('"text"', "it is 'text', expected an object"),
    ("{}", NO_KEY + "[]"),
    ('{"prompt": null}', NO_KEY + "['prompt']"),
    ('{"prompt": ""}', "prompt is '', expected text"),
    ('{"prompt": 3}', "prompt is 3, expected text"),
    ('{"prompt": "\\ud800"}', r"prompt is '\ud800', expected text in Unicode"),
    ('{"prompt": "x", "category": ["a"]}', "category is no printable text"),
    ('{"prompt": "x", "category": "a\\nb"}', "category is no printable text"),
    ('{"prompt": "x", "category": "\\udfff"}', "category is no printable text"),
    ('{"turns": []}', "turns is empty"),
    ('{"turns": "x"}', "turns is 'x', expected a list"),
    ('{"turns": ["x", 3]}', "turns[1] is 3, expected text"),
    ('{"turns": [1e999]}', "holds 1e999"),
]
BAD_CONVERSATIONS = [
    (conversation(), "conversations is empty"),
    ({"conversations": "hi"}, "conversations is 'hi', expected a list"),
    ({"messages": {}}, "messages is {}, expected a list"),
    ({"id": "x"}, NO_TALK),
    ({"prompt": "x"}, NO_TALK),
    (conversation(("gpt", "a"), ("human", "b")), NO_HUMAN),
    (conversation(("system", "a"), ("gpt", "b"), ("human", "c")), NO_HUMAN),
    (conversation(("system", "a"), ("system", "b"), ("human", "c")), NO_HUMAN),
    (conversation(("system", "a")), NO_HUMAN),
    (conversation(("human", "")), "conversations[0].value is '', expected text"),
    (conversation(("human", "a"), ("gpt", "b"), ("human", None)), "conversations[2].value is None, expected text"),
    (conversation(("human", "\ud800")), r"conversations[0].value is '\ud800', expected text in Unicode"),
    ({"messages": [{"role": "user"}]}, "messages[0].content is missing, expected text"),
    ({"conversations": [["human", "hi"]]}, "conversations[0] is ['human', 'hi'], expected an object"),
    ({"conversations": [{"value": "hi"}]}, "conversations[0].role is missing, expected text"),
    ({"conversations": [{"from": ["human"], "value": "hi"}]}, "conversations[0].from is ['human'], expected text"),
    (["hi"], "it is ['hi'], expected an object"),
]


def test_bad_records_are_skipped_with_their_place_and_a_reason(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("".join(f"{GOOD}\n\n{line}\n" for line, _ in BAD_LINES) + GOOD)
    found = load_prompts(tmp_path / "p.jsonl")
    assert found.skipped == tuple(Skipped(line=3 * i + 3, reason=why) for i, (_, why) in enumerate(BAD_LINES))
    assert len(found.rows) == len(BAD_LINES) + 1
    path = write_list(tmp_path / "talk.json", SHAREGPT, *(bad for bad, _ in BAD_CONVERSATIONS), CHAT)
    found = load_prompts(path, "sharegpt")
    assert found.skipped == tuple(Skipped(line=i, reason=why) for i, (_, why) in enumerate(BAD_CONVERSATIONS, 2))
    assert [p.turns for p in found.rows] == [("hi",), ("hello",)]


def test_a_data_set_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    for dataset, record, reason in (
        ("mt-bench", {"turns": ["x"], "category": "c"}, "no question_id"),
        ("spec-bench", {"turns": ["x"], "question_id": 1}, "no category"),
        ("mt-bench", {"question_id": 1, "category": "c", "prompt": "x"}, "no turns"),
        ("spec-bench", SHAREGPT, "no question_id"),
        ("sharegpt", MT_BENCH, "no conversations or messages"),
        ("jsonl", SHAREGPT, "no turns or prompt"),
    ):
        path = write_lines(tmp_path / "p.jsonl", record)
        message = rf"\A.*p\.jsonl: holds nothing to read \(line 1: {reason}\), expected.*\Z"
        with pytest.raises(UserError, match=message):
            load_prompts(path, dataset)


def test_text_takes_json_lines_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(GOOD)
    assert load_prompts(tmp_path / "p.jsonl", "text").rows == (Prompt(turns=(GOOD,), source="p.jsonl:1"),)


@pytest.mark.parametrize("dataset", DATASETS)
def test_an_empty_file_is_refused(tmp_path: Path, dataset: str) -> None:
    for name, content in product(("p.txt", "p.jsonl", "p.json", "p"), (b"", b"\n \n\r\n", b"\xef\xbb\xbf")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"holds nothing to read \(it is empty\)"):
            load_prompts(tmp_path / name, dataset)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for name, content, message in (
        ("p.json", b'[{"prompt": "x"}', "p.json: not JSON, expected a list of"),
        ("p.json", b'[{"prompt": "x"}, NaN]', "p.json: holds NaN, expected a list of"),
        ("p.json", b"[" * 100_000, "p.json: nested too deeply"),
        ("p.json", b"[]", "it is empty"),
        ("p.json", b"[[], {}]", "record 1: it is \\[\\], expected an object"),
        ("p.json", b"{\n}\n", "record 1: no prompt under its keys \\[\\]"),
        ("p.json", b"{\n\n", "line 1: not JSON"),
        ("p.json", b"3", "line 1: it is 3, expected an object"),
        ("p.json", b'["\xff"]', "not UTF-8"),
        ("p.jsonl", json.dumps([SHAREGPT]).encode(), r"line 1: it is \[.*, expected an object"),
        ("p.txt", b"\xff\xfe\x00", "p.txt"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_prompts(tmp_path / name)
    (tmp_path / "folder").mkdir()
    for name in ("missing.jsonl", "folder"):
        with pytest.raises(UserError, match=name):
            load_prompts(tmp_path / name)


def test_a_list_may_begin_after_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(b'\xef\xbb\xbf\r\n\r\n [\r\n{"prompt": "x"}]')
    assert [p.source for p in load_prompts(tmp_path / "p.json").rows] == ["p.json:1"]


def test_a_source_is_the_records_own_id_or_where_it_stands(tmp_path: Path) -> None:
    named = [
        ({"question_id": 1, "id": "b", "source": "c"}, "1"),
        ({"question_id": None, "id": "b", "source": "c"}, "b"),
        ({"id": "", "source": "c"}, "c"),
        ({"id": 0}, "0"),
        ({"id": 10**4000}, str(10**4000)),
    ]
    unusable = [True, 1.5, ["a"], "two\nlines", "\ud800", "\x1b[2J"]
    named += [({"id": value}, f"p.jsonl:{line}") for line, value in enumerate(unusable, len(named) + 1)]
    path = write_lines(tmp_path / "p.jsonl", *({"prompt": "x", **keys} for keys, _ in named))
    assert [p.source for p in load_prompts(path).rows] == [source for _, source in named]


def test_sources_that_repeat_are_numbered(tmp_path: Path) -> None:
    repeated = [{"prompt": "x", "id": i} for i in (81, "81", "81#2", 82, 81)]
    path = write_lines(tmp_path / "p.jsonl", *repeated)
    assert [p.source for p in load_prompts(path).rows] == ["81", "81#2", "81#2#2", "82", "81#3"]


@given(st.lists(st.text("a#23", max_size=4)))
def test_names_told_apart_are_all_different_and_keep_what_they_were(names: list[str]) -> None:
    unique = unique_names(names)
    assert len(set(unique)) == len(names)
    assert all(t == n or t.startswith(f"{n}#") for t, n in zip(unique, names, strict=True))


def test_a_limit_counts_usable_prompts_and_reads_no_further(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f"{{\n{GOOD}\n{{\n{GOOD}\n{{\n{GOOD}\n")
    found = load_prompts(path, limit=2)
    assert [p.source for p in found.rows] == ["p.jsonl:2", "p.jsonl:4"]
    assert [s.line for s in found.skipped] == [1, 3]
    assert len(load_prompts(path, limit=99).rows) == 3


def test_arguments_out_of_range_are_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", MT_BENCH)
    for arguments, message in (
        ({"turns": 0}, "turns is 0, expected at least 1"),
        ({"limit": -1}, "limit is -1, expected at least 1"),
        ({"dataset": "guess"}, "dataset is 'guess', expected auto, mt-bench"),
    ):
        with pytest.raises(UserError, match=message):
            load_prompts(path, **arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose files every example of a property writes anew."""
    return tmp_path_factory.mktemp("prompts")


texts = st.text(min_size=1)


@given(
    conversations=st.lists(st.lists(texts, min_size=1, max_size=4), min_size=1, max_size=5),
    others=st.tuples(st.text(), st.none() | st.text()),
    keys=st.sampled_from([("conversations", "from", "value"), ("messages", "role", "content")]),
    how=st.tuples(st.booleans(), st.booleans()),
    kept=st.none() | st.integers(1, 5),
)
@settings(deadline=None)
def test_any_conversations_come_back_as_they_were_written(
    folder: Path, conversations: list[list[str]], others: tuple, keys: tuple, how: tuple, kept: int | None
) -> None:
    (answer, system), (under, speaker, content), (as_list, ascii_only) = others, keys, how

    def written(turns: Sequence[str]) -> dict[str, object]:
        first = [] if system is None else [{speaker: "system", content: system}]
        pairs = [[{speaker: "user", content: t}, {speaker: "assistant", content: answer}] for t in turns]
        return {under: first + [m for pair in pairs for m in pair]}

    path = folder / ("talk.json" if as_list else "talk.jsonl")
    lines = [json.dumps(written(turns), ensure_ascii=ascii_only) for turns in conversations]
    path.write_text(f"[{', '.join(lines)}]" if as_list else "\n".join(lines), encoding="utf-8")
    found = load_prompts(path, turns=kept)
    assert [p.turns for p in found.rows] == [tuple(turns[:kept]) for turns in conversations]
    assert [p.source for p in found.rows] == [f"{path.name}:{i}" for i in range(1, len(conversations) + 1)]
    assert not found.skipped


# How every kind of file is read, and a record that it takes.
LOGGED = {"prompt": "p", "output": "o"}
READERS: dict[str, tuple[Callable[..., Any], object]] = {
    **{name: (partial(load_prompts, dataset=name), MT_BENCH) for name in DATASETS},
    **{"sharegpt": (partial(load_prompts, dataset="sharegpt"), SHAREGPT), "texts": (load_texts, LOGGED)},
}
names = "turns prompt conversations messages from value id category prompt_token_ids output token_ids finish_reason"
record_keys = st.sampled_from(names.split())
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["human", "gpt", "", "\ud800", "stop"]),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(record_keys, v),
    max_leaves=12,
)


@given(records=st.lists(values), reader=st.sampled_from(["auto", "sharegpt", "jsonl", "texts"]))
@settings(deadline=None)
def test_every_record_is_either_read_or_skipped(folder: Path, records: list[object], reader: str) -> None:
    load, good = READERS[reader]
    found = load(write_lines(folder / "any.jsonl", good, *records))
    assert len(found.rows) + len(found.skipped) == 1 + len(records)
    assert len({row.source for row in found.rows}) == len(found.rows)
    assert reader == "texts" or all(p.turns and all(p.turns) for p in found.rows)


@given(
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6),
    suffix=st.sampled_from([".jsonl", ".json", ".txt"]),
    reader=st.sampled_from(list(READERS)),
)
@settings(deadline=None)
def test_a_damaged_file_never_raises_anything_but_a_user_error(
    folder: Path, changes: list[tuple[int, int]], suffix: str, reader: str
) -> None:
    records = [MT_BENCH, SHAREGPT, CHAT, LOGGED, {"prompt_token_ids": [1, 2], "token_ids": [3], "id": 1}]
    whole = json.dumps(records) if suffix == ".json" else "\n".join(json.dumps(r) for r in records)
    content = bytearray(whole.encode())
    for place, byte in changes:
        content[place % len(content)] = byte
    path = folder / f"damaged{suffix}"
    path.write_bytes(content)
    with suppress(UserError):
        assert READERS[reader][0](path).rows


def test_a_folder_is_read_file_after_file_of_its_first_kind(tmp_path: Path) -> None:
    """The three files of ShareGPT for a benchmark; shards of a data set beside its description."""
    names = ("sharegpt_V3_format.jsonl", "sharegpt_gpt4.jsonl", "sharegpt_zh_38K_format.jsonl")
    for name in reversed(names):
        talk = {"conversations": [{"from": "human", "value": name}, {"from": "gpt", "value": "yes"}], "id": "1"}
        (tmp_path / name).write_text(json.dumps(talk) + "\n" + '{"conversations": []}\n')
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "dataset_info.json").write_text("{}")
    found = load_prompts(tmp_path, "sharegpt")
    assert [(p.turns, p.source) for p in found.rows] == [((names[0],), "1"), ((names[1],), "1#2"), ((names[2],), "1#3")]
    assert [line.count("skipped 1 of 2") for line in found.notes()] == [0, 1, 0, 1, 0, 1]
    assert len(load_prompts(tmp_path, limit=2).rows) == 2
    assert len(load_prompts(tmp_path, limit=1).parts) == 1
    for name in names:
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"dataset_info.json"):
        load_prompts(tmp_path)
    (tmp_path / "dataset_info.json").unlink()
    with pytest.raises(UserError, match=r"holds no file of prompts, expected one in \.parquet, \.jsonl"):
        load_prompts(tmp_path)
