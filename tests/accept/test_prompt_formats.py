"""Prompts as people have them: tables, packed and UTF-16 files, requests, instructions; and what is no text at all."""

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from acceptance.text.prompts import load_prompts
from simulator.ground.artefacts import UserError

# Without a time: names of tests come from these bytes, and each process has to find the same.
gzipped = partial(gzip.compress, mtime=0)

ROWS = [
    {"prompt": "import os", "category": "code", "id": "a"},
    {"prompt": "hello, world", "category": "talk", "id": "b"},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def written(rows: list[dict[str, str]], delimiter: str = ",") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def in_parquet(rows: list[dict[str, Any]], compression: str = "snappy") -> bytes:
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), out, compression=compression)
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return out.getvalue().to_pybytes()


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Any]:
    def from_bytes(name: str, content: bytes, *arguments: Any, **options: Any) -> Any:
        (tmp_path / name).write_bytes(content)
        return load_prompts(tmp_path / name, *arguments, **options)

    return from_bytes


def refused(load: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        load(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


AS_CSV = written(ROWS)
EVERY_WAY = [
    ("p.csv", AS_CSV, "CSV, column prompt"),
    ("p.txt", AS_CSV, "CSV, column prompt"),
    ("p.csv", b"\xef\xbb\xbf" + AS_CSV, "CSV, column prompt"),
    ("p.csv", written(ROWS, ";"), "CSV with semicolons, column prompt"),
    ("p.tsv", written(ROWS, "\t"), "TSV, column prompt"),
    ("p.parquet", in_parquet(ROWS), "Parquet, column prompt"),
    ("p", in_parquet(ROWS, "none"), "Parquet, column prompt"),
    ("p.json", json.dumps(ROWS, indent=2).encode(), "JSON, key prompt"),
    ("p.txt", json.dumps(ROWS, indent=2).encode(), "JSON, key prompt"),
    ("p.json", json.dumps({"version": 1, "data": ROWS}).encode(), "JSON, key prompt"),
    ("p.jsonl", LINES, "JSON a line, key prompt"),
    ("p.jsonl.gz", gzipped(LINES), "gzip, JSON a line, key prompt"),
    ("p.jsonl", bz2.compress(LINES), "bzip2, JSON a line, key prompt"),
    ("p.jsonl.xz", lzma.compress(LINES), "xz, JSON a line, key prompt"),
    ("p.jsonl.zst", zstd(LINES), "zstd, JSON a line, key prompt"),
    ("p.csv.gz", gzipped(AS_CSV), "gzip, CSV, column prompt"),
    ("p.csv", AS_CSV.decode().encode("utf-16"), "UTF-16, CSV, column prompt"),
    ("p.jsonl", LINES.decode().encode("utf-16-be"), "UTF-16, JSON a line, key prompt"),
    ("p.jsonl.gz", gzipped(LINES.decode().encode("utf-32")), "gzip, UTF-32, JSON a line, key prompt"),
]


@pytest.mark.parametrize(("name", "content", "read_as"), EVERY_WAY)
def test_the_same_prompts_come_from_every_kind_of_file(load: Any, name: str, content: bytes, read_as: str) -> None:
    found = load(name, content)
    assert [(p.turns, p.source, p.category) for p in found.rows] == [
        (("import os",), "a", "code"),
        (("hello, world",), "b", "talk"),
    ]
    assert found.skipped == ()
    assert found.notes() == [f"{found.path}: read as {read_as}"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_lines_of_any_unicode_encoding_are_text(load: Any, encoding: str) -> None:
    found = load("p.txt", "import os\r\n\r\nimport sys\r\n".encode(encoding))
    assert [(p.turns, p.source) for p in found.rows] == [(("import os",), "p.txt:1"), (("import sys",), "p.txt:3")]


RECORDS: list[tuple[str, dict[str, Any], tuple[tuple[str, ...], str]]] = [
    ("alpaca", {"instruction": "Sort", "input": "", "output": "x"}, (("Sort",), "f:1")),
    ("alpaca", {"instruction": "Sort", "input": "2, 1", "output": "x"}, (("Sort\n2, 1",), "f:1")),
    ("alpaca", {"instruction": "Sort", "context": "2, 1", "category": "qa"}, (("Sort\n2, 1",), "f:1")),
    ("humaneval", {"task_id": "HumanEval/0", "prompt": "def f():", "test": "t"}, (("def f():",), "HumanEval/0")),
    ("humaneval", {"task_id": 11, "text": "Write f", "code": "c"}, (("Write f",), "11")),
    (
        "messages",
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]},
        (("hi",), "f:1"),
    ),
    (
        "messages",
        {"custom_id": "r-1", "method": "POST", "body": {"model": "m", "messages": [{"role": "user", "content": "hi"}]}},
        (("hi",), "r-1"),
    ),
    ("auto", {"custom_id": "r-2", "body": {"model": "m", "prompt": "go on"}}, (("go on",), "r-2")),
    ("auto", {"custom_id": "r-3", "body": {"input": "hi"}}, (("hi",), "r-3")),
    (
        "auto",
        {"body": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}]}},
        (("a",), "f:1"),
    ),
    ("auto", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 2}]}, (("a\na",), "f:1")),
    ("auto", {"prompt": [{"role": "user", "content": "hi"}]}, (("hi",), "f:1")),
    ("auto", {"conversation": [{"role": "user", "content": "hi"}]}, (("hi",), "f:1")),
    ("auto", {"question": "Why?", "answer": "So."}, (("Why?",), "f:1")),
    ("auto", {"instruction": "Sort", "input": "2 1", "output": "1 2", "text": "all of it"}, (("Sort\n2 1",), "f:1")),
    ("auto", {"text": "Once"}, (("Once",), "f:1")),
    ("messages", {"params": {"messages": [{"role": "User", "content": "hi"}]}}, (("hi",), "f:1")),
]


@pytest.mark.parametrize(("dataset", "record", "expected"), RECORDS)
def test_records_of_every_spelling(load: Any, dataset: str, record: Any, expected: Any) -> None:
    for name in (dataset, "auto"):
        (found,) = load("f", json.dumps(record).encode(), name).rows
        assert (found.turns, found.source) == expected


def test_lists_of_texts_are_prompts_and_lines_that_look_like_one_are_text(load: Any) -> None:
    texts = ["import os", "import sys"]
    for content in (json.dumps(texts), json.dumps(texts, indent=1), json.dumps({"prompts": texts})):
        for name in ("p.json", "p.txt"):
            assert [p.turns[0] for p in load(name, content.encode()).rows] == texts
    program = b'["a", "b"]\nprint(1)\n'
    assert [p.turns[0] for p in load("p.txt", program).rows] == program.decode().splitlines()


def test_formats_of_lines_that_are_no_prompts_are_refused(load: Any) -> None:
    for name in ("p.yaml", "p.toml", "p.xml.gz"):
        said = refused(load, name, b"- import os\n- import sys\n")
        assert "is no format of prompts" in said
        assert "--format text takes its lines as prompts" in said
    assert len(load("p.yaml", b"- import os\n- import sys\n", "text").rows) == 2


def test_a_column_by_name(load: Any) -> None:
    rows = [{"nr": "1", "task": "say hi", "prompt": "no"}]
    for name, content in (
        ("p.csv", written(rows)),
        ("p.txt", written(rows)),
        ("p.parquet", in_parquet(rows)),
        ("p.jsonl", json.dumps(rows[0]).encode()),
    ):
        assert [p.turns for p in load(name, content, column="task").rows] == [("say hi",)]
    assert [p.turns for p in load("one.csv", b"q\nsay hi\n", column="q").rows] == [("say hi",)]
    for name, content in (("p.csv", written(rows)), ("p.parquet", in_parquet(rows))):
        said = refused(load, name, content, column="tasks")
        assert "--column 'tasks' is no column of this" in said
        assert said.endswith("expected task (of 3)")
    assert "no tasks" in refused(load, "p.jsonl", json.dumps(rows[0]).encode(), column="tasks")
    assert "is text, a prompt a line" in refused(load, "p.txt", b"say hi\nsay ho\n", column="task")


def test_tables_that_cannot_be_what_they_seem_are_refused(load: Any) -> None:
    """Nothing is taken for a prompt that is not: a header, a row cut by its commas, a column nobody named."""
    for content, expected in (
        (
            b"import os\nimport sys\n",
            "CSV whose columns are import os, expected prompt, question, instruction or --column",
        ),
        (b"a,b,c,d,e\n1,2,3,4,5\n", "CSV whose columns are a, b, c (of 5), expected"),
        (b"prompt,prompt\na,b\n", "CSV with two columns 'prompt'"),
        (b"prompt\n", "holds nothing to read (it is empty)"),
        (b'prompt,id\n"a,1\n', "not CSV (unexpected end of data)"),
        (b"prompt,id\nsay a, b,1\n", "(line 2: 3 fields, but the header has 2)"),
        (b"prompt,id\n,1\n", "(line 2: no prompt under its keys"),
    ):
        assert expected in refused(load, "p.csv", content)
    rows = load("p.csv", b'prompt,id\nsay a, b,1\nok,2\n\n"two\nlines",3\n,4\nlast,5\n')
    assert [p.turns[0] for p in rows.rows] == ["ok", "two\nlines", "last"]
    assert [s.line for s in rows.skipped] == [2, 7]
    # TSV as databases write it: nothing is quoted.
    assert [p.turns[0] for p in load("p.tsv", b'id\tprompt\n1\t"so" she said\n2\t"\n').rows] == ['"so" she said', '"']


def test_text_with_commas_stays_text(load: Any) -> None:
    for content in (
        b"prompt\nsay hi\n",
        b"Hello, world\nprompt, please\n",
        b"a,b\n1,2\n",
        b"Hello, prompt\nHi, you\n",
        b"a,prompt\nfollow me\n",
        b"prompt, please\nsecond, line\n",
        b"prompt, please\nsecond, line\nthird\n",
    ):
        found = load("p.txt", content)
        assert [p.turns[0] for p in found.rows] == content.decode().splitlines()
        assert found.read_as == "text, a prompt a line"


def test_two_lines_are_a_table_where_the_name_the_format_or_a_column_says_so(load: Any) -> None:
    content = b"prompt,id\nsay hi,7\n"
    for name, how in (("p", {}), ("p.csv", {}), ("p.txt", {"dataset": "csv"}), ("p.txt", {"column": "prompt"})):
        assert [p.turns[0] for p in load(name, content, **how).rows] == ["say hi"]


def test_a_format_that_was_asked_for_is_held_to(load: Any) -> None:
    assert [p.turns[0] for p in load("p.csv", AS_CSV, "text").rows] == AS_CSV.decode().split("\r\n")[:3]
    assert len(load("p.txt", b"prompt\nsay hi\n", "csv").rows) == 1
    assert (
        len(load("p.parquet", in_parquet([{"turns": ["a"], "question_id": 1, "category": "c"}]), "mt-bench").rows) == 1
    )
    assert "no Parquet, expected --format auto" in refused(load, "p.parquet", AS_CSV, "parquet")
    for dataset in ("csv", "text", "jsonl"):
        said = refused(load, "p.parquet", in_parquet(ROWS), dataset)
        assert said.endswith(f"Parquet, but --format is {dataset}, expected parquet or auto")


def npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, a=np.arange(9))
    return out.getvalue()


RANDOM = np.random.default_rng(0).bytes(3000)
BINARIES = [
    (b"PK\x03\x04" + bytes(30), "a ZIP archive, not text"),
    (npz(), "a ZIP archive, not text"),
    (b"SQLite format 3\x00" + bytes(99), "an SQLite database, not text"),
    (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "binary data (byte"),
    (RANDOM, "binary data (byte"),
    (RANDOM.replace(b"\0", b""), "binary data (byte"),
    (b"import os\nimport sys\nimport re\nimport \0", "binary data (byte 38), not text"),
    ("été\n".encode("latin-1") * 3, "not UTF-8 text"),
    (b"ORC" + RANDOM, "ORC, not text"),
    (in_parquet(ROWS)[:200], "Parquet that cannot be read"),
    (b"PAR1" + RANDOM + b"PAR1", "Parquet that cannot be read"),
    (gzipped(LINES)[:-9], "gzip data that cannot be unpacked"),
    (gzipped(LINES)[:20] + b"??" + gzipped(LINES)[22:], "gzip data that cannot be unpacked"),
    (lzma.compress(LINES)[:40], "xz data that cannot be unpacked"),
    (zstd(LINES)[:20], "zstd data that cannot be unpacked"),
    (gzipped(RANDOM), "binary data"),
    (gzipped(gzipped(LINES)), "binary data"),
    (LINES.decode().encode("utf-16")[:-1], "UTF-16 text that is damaged"),
    (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n",
        "a Git LFS pointer (git lfs pull brings",
    ),
    (b"%PDF-1.7\n%\xe2\xe3\n1 0 obj\n<< >>\nendobj\n", "a PDF, not text"),
    (b"%!PS-Adobe-3.0\nshowpage\n", "PostScript, not text"),
    (b"{\\rtf1\\ansi Hello}\n", "RTF, not text"),
    (b'<?xml version="1.0"?>\n<svg xmlns="x">\n</svg>\n', "SVG, not text"),
    (b"<!DOCTYPE html>\n<p>Hello\n", "HTML, not text"),
    *((pickle.dumps(value, protocol), "") for value in (["a", "b"], {"a": "b"}) for protocol in range(6)),
]


@pytest.mark.parametrize(("content", "expected"), BINARIES)
def test_binary_data_is_refused_and_never_measured(load: Any, content: bytes, expected: str) -> None:
    for name in ("p.txt", "p.jsonl", "p.csv", "p"):
        said = refused(load, name, content)
        assert f"{name}: {expected}" in said
        assert expected or ", not text" in said


def test_a_line_of_other_bytes_among_many_is_skipped(load: Any) -> None:
    found = load("p.txt", b"import os\nimport \xff\nimport sys\n")
    assert [p.turns[0] for p in found.rows] == ["import os", "import sys"]
    assert [(s.line, s.reason) for s in found.skipped] == [(2, "not UTF-8 text")]


def test_columns_are_found_in_any_case(load: Any) -> None:
    table = [{"Prompt ": "say hi", "Category": "small", "ID": "7"}]
    for name, content in (
        ("p.csv", written(table)),
        ("p.parquet", in_parquet([{k.strip(): v for k, v in table[0].items()}])),
    ):
        found = load(name, content).rows[0]
        assert (found.turns, found.category, found.source) == (("say hi",), "small", "7")
        for column in ("prompt", "PROMPT", "Prompt"):
            assert load(name, content, column=column).rows[0].turns == ("say hi",)
    assert [p.turns for p in load("p.jsonl", b'{"Prompt": "say hi"}\n{"prompt": "a", "Prompt": "b"}\n').rows] == [
        ("say hi",),
        ("a",),
    ]
    assert load("p.jsonl", b'{"Ask": "say hi"}\n', column="ask").rows[0].turns == ("say hi",)
    # Two that differ in case alone are two.
    assert load("p.csv", b"Prompt,prompt\na,b\n").rows[0].turns == ("b",)
    assert load("p.csv", b"Prompt,prompt\na,b\n", column="Prompt").rows[0].turns == ("a",)


def test_a_table_in_another_encoding_is_said_in_plain_words(load: Any) -> None:
    content = "prompt,x\ncafé,1\n".encode("cp1252")
    said = refused(load, "p.csv", content)
    assert "not UTF-8 text, perhaps Windows-1252 (iconv -f cp1252 -t utf-8" in said
    assert "\\udce9" not in said
    found = load("p.csv", content + b"say hi,2\n")
    assert ([p.turns for p in found.rows], len(found.skipped)) == ([("say hi",)], 1)


def test_without_pyarrow_one_line_says_what_installs_it(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    for content in (in_parquet(ROWS), zstd(LINES)):
        assert 'pip install "specsim[parquet]"' in refused(load, "p", content)


cells = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(str.strip)


@given(prompts=st.lists(cells, min_size=1, max_size=5), delimiter=st.sampled_from(",;\t"))
def test_any_table_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str], delimiter: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(written([{"nr": "1", "prompt": p} for p in prompts], delimiter))
    assert [p.turns[0] for p in load_prompts(path).rows] == prompts


@given(
    content=st.binary(max_size=60),
    name=st.sampled_from(["p.csv", "p.txt", "p", "p.parquet"]),
    head=st.sampled_from(
        [
            b"",
            b"PAR1",
            b"\x1f\x8b\x08\x00",
            b"\xff\xfe",
            b"\xfe\xff",
            b"\x28\xb5\x2f\xfd",
            b"prompt,id\n",
            b'{"prompt": ',
        ]
    ),
)
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str, head: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(head + content)
    with suppress(UserError):
        assert all(turn for p in load_prompts(path).rows for turn in p.turns)
