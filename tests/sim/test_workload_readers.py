"""Readers of recorded traffic on small files, made up in each format; what is left out, and what is refused."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.ground.artefacts import UserError
from simulator.workloads.readers.account import Account
from simulator.workloads.readers.format import Options
from simulator.workloads.readers.rows import elements, even_cells, line_blocks, open_source
from simulator.workloads.readers.tokens import estimate
from simulator.workloads.reading import read_column, read_workload
from simulator.workloads.requests import unit_counts

TOKENIZER = Path(__file__).parents[2] / "acceptance/tiny_pair/draft"
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:46.7805900,12,1
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 23:59:59.500000+00:00,10,2
2024-05-11 00:00:00.750000+00:00,20,3
"""
BURST = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
45.0,s1,3.1,GPT-4,10,5,15,Conversation log
50.0,,1,ChatGPT,20,0,20,API log
51.0,,1,ChatGPT,30,7,37,API log
many,,1,ChatGPT,30,7,37,API log
52.5,s1,2,GPT-4,40,9,49,Conversation log
"""
PLAIN = [
    {"sent_s": 9.5, "prompt_tokens": 7, "output_tokens": 3, "category": "code"},
    {"sent_s": 8.0, "prompt_tokens": 5, "output_tokens": 2, "category": "chat"},
]
MOONCAKE = [
    {"timestamp": 500, "input_length": 1000, "output_length": 4, "hash_ids": [3, 8]},
    {"timestamp": 3500, "input_length": 513, "output_length": 5, "hash_ids": [3, 9]},
    {"timestamp": 3500, "input_length": 600, "output_length": 6, "hash_ids": [3]},
]
BAILIAN = [
    {"chat_id": 9, "parent_chat_id": -1, "timestamp": 61.5, "input_length": 30, "output_length": 4, "type": "text",
     "turn": 1, "hash_ids": [1, 2]},
    {"chat_id": 10, "parent_chat_id": 9, "timestamp": 62.5, "input_length": 40, "output_length": 5, "type": "file",
     "turn": 2, "hash_ids": [1, 2, 18446744073709551615]},
]  # fmt: skip
BENCH = {
    "total_input_tokens": 30, "total_output_tokens": 9, "input_lens": [10, 20, 5], "output_lens": [4, 5, 0],
    "start_times": [100.5, 100.0, 101.0],
}  # fmt: skip


def said(*texts: str) -> dict[str, object]:
    return {"id": "x", "conversations": [{"from": "human", "value": text} for text in texts]}


SHAREGPT = [said("a" * 40, "b" * 80, "c"), said("a" * 40), said("a" * 5000, "b" * 80), said("a" * 40, "b"), {"id": 1},
            said("é" * 10, "b" * 16)]  # fmt: skip


def lines(rows: list[dict[str, object]]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


@pytest.mark.parametrize(
    ("content", "name", "prompt", "output", "times"),
    [
        (AZURE, "Azure LLM", [374, 12, 396], [44, 1, 109], [0, 0.1, 4.314579]),
        (AZURE_2024, "Azure LLM", [10, 20], [2, 3], [0, 1.25]),
        (AZURE_2024.replace("11 00:00:00.750000+00", "11 02:00:00.75+02"), "Azure LLM", [10, 20], [2, 3], [0, 1.25]),
        (BURST, "BurstGPT", [10, 30, 40], [5, 7, 9], [0, 6, 7.5]),
        (lines(MOONCAKE), "Mooncake", [1000, 513, 600], [4, 5, 6], [0, 3, 3]),
        (lines(BAILIAN), "Bailian", [30, 40], [4, 5], [0, 1]),
        (lines(PLAIN), "rows of prompt_tokens and output_tokens", [5, 7], [2, 3], [0, 1.5]),
        ("prompt_tokens;output_tokens\n5;2\n7;3\n", "rows of prompt_tokens and output_tokens", [5, 7], [2, 3], [0, 0]),
        (json.dumps(BENCH), "vLLM bench result", [20, 10], [5, 4], [0, 0.5]),
        (json.dumps(BENCH, indent=2), "vLLM bench result", [20, 10], [5, 4], [0, 0.5]),
        (json.dumps(SHAREGPT), "ShareGPT", [10, 5], [20, 4], [0, 0]),
        (lines(SHAREGPT), "ShareGPT", [10, 5], [20, 4], [0, 0]),
        (lines([{"prompt": "a" * 9, "output_tokens": 6}, {"prompt": "b"}]), "vLLM custom", [3, 1], [6, 256], [0, 0]),
        (lines([{"question_id": 1, "category": "qa", "turns": ["a" * 8, "b"]}]), "questions", [2], [256], [0]),
    ],
)  # fmt: skip
def test_the_content_says_the_format(
    tmp_path: Path, content: str, name: str, prompt: list[int], output: list[int], times: list[float]
) -> None:
    path = tmp_path / "anything.txt"
    path.write_text(content)
    found = read_workload(path)
    assert found.format == name
    assert (found.requests.prompt.tolist(), found.requests.output.tolist()) == (prompt, output)
    assert np.allclose(found.requests.arrival_s, times, rtol=0, atol=1e-6)
    assert found.is_timed == (name not in ("ShareGPT", "vLLM custom", "questions") and ";" not in content)


def test_what_is_left_out_is_counted_and_placed(tmp_path: Path) -> None:
    path = tmp_path / "burst.csv"
    path.write_text(BURST + "1,2\n")
    found = read_workload(path)
    assert found.notes == (
        "left out 3 of 6 lines: 1 without an answer (first in line 3), 1 without a time (first in line 5), "
        "1 not of 8 fields (first in line 7)",
        "what the turns of its sessions share is not told, so nothing is",
    )
    assert (found.sessions, found.categories, found.requests.category.tolist()) == (
        1,
        ("Conversation log", "API log"),
        [0, 1, 0],
    )
    path.write_text(json.dumps(SHAREGPT))
    assert read_workload(path).notes[0] == (
        "left out 4 of 6 records: 2 of fewer than two texts (first in record 2), "
        "2 not of 4 to 1,024 tokens in, 4 or more out and at most 2,048 in all (first in record 3)"
    )
    assert read_workload(path).notes[1].startswith("tokens are estimated, one for 4 bytes of UTF-8")


def test_blocks_of_prompts_keep_their_names(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(lines(MOONCAKE))
    requests = read_workload(path).requests
    assert (requests.unit_tokens, requests.shared.tolist(), unit_counts(requests).tolist()) == (
        512,
        [1000, 513, 512],
        [2, 2, 1],
    )
    assert requests.units[requests.units_start].tolist() == [0, 0, 0]
    assert len(set(requests.units.tolist())) == 3
    path.write_text(lines(BAILIAN))
    found = read_workload(path)
    assert (found.requests.unit_tokens, found.sessions, found.categories) == (16, 1, ("text", "file"))
    assert found.requests.units.tolist()[:2] == found.requests.units.tolist()[2:4]
    assert len(set(found.requests.units.tolist())) == 3
    path.write_text(lines([MOONCAKE[0] | {"hash_ids": [1, -1]}, MOONCAKE[0] | {"hash_ids": [1, True]}, *MOONCAKE]))
    assert "2 with hash_ids that are no whole numbers (first in record 1)" in read_workload(path).notes[0]


def test_turns_of_a_session_wait_for_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "sessions.jsonl"
    row = {"input_length": 10, "output_length": 2}
    path.write_text(
        lines([
            {"session_id": "a", "timestamp": 1000} | row, {"session_id": "b", "timestamp": 1500} | row,
            {"session_id": "a", "delay": 250} | row, {"session_id": "a", "delay": 0} | row, {"timestamp": 1200} | row,
        ])
    )  # fmt: skip
    found = read_workload(path)
    assert found.sessions == 2
    requests = found.requests
    assert requests.after.tolist() == [-1, 0, 1, -1, -1]
    assert requests.think_s.tolist() == [0, 0.25, 0, 0, 0]
    assert np.allclose(requests.arrival_s[requests.after < 0], [0, 0.2, 0.5], rtol=0, atol=1e-12)
    assert len(set(requests.stream.tolist())) == 3


def test_what_bench_server_writes_is_the_load_of_its_first_arm(tmp_path: Path) -> None:
    path = tmp_path / "load.jsonl"
    own = {"type": "request", "arm": "plain", "load": 2.0, "part": 0, "try": 1, "prompt_tokens": 9, "output_tokens": 4}
    path.write_text(
        lines([
            {"created_utc": "", "kind": "server_load", "parameters": {}}, {"type": "setup"},
            own | {"sent_s": 1.0, "e2e_s": 0.5}, own | {"sent_s": 0.5, "e2e_s": 3.0, "prompt_tokens": 7},
            {"type": "block", "arm": "plain"}, own | {"arm": "drafts", "sent_s": 0.0, "e2e_s": 1.0},
            own | {"load": 4.0, "sent_s": 0.0, "e2e_s": 1.0}, own | {"part": 1, "sent_s": 0.1},
            own | {"part": 1, "try": 2, "sent_s": 0.25, "e2e_s": 1.0, "output_tokens": 5},
        ])
    )  # fmt: skip
    found = read_workload(path)
    # The second block begins where the first ended, 3.5 s after its beginning; what was tried again counts once.
    assert found.requests.prompt.tolist() == [7, 9, 9]
    assert found.requests.output.tolist() == [4, 4, 5]
    assert found.requests.arrival_s == pytest.approx([0, 0.5, 3.25])
    assert found.notes == ("those of arm plain at load 2, the first of several",)


def test_agents_wait_for_starts_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "agents.jsonl"
    row = {"input_length": 100, "output_length": 2, "hash_ids": [1, 2], "session_id": "s", "not_before_ms": 500.0}

    def waits(*names: str, trigger: str = "completion") -> list[dict[str, object]]:
        return [{"request_id": n, "trigger": trigger, "delay_ms": 250.0, "relation": "sequence"} for n in names]

    path.write_text(
        lines([
            {"schema": "agentic", "version": 1, "block_size": 64, "hash_id_scope": "local"},
            {"request_id": "a"} | row, {"request_id": "b", "dependencies": waits("a")} | row,
            {"request_id": "c", "dependencies": waits("b", trigger="dispatch")} | row,
            {"request_id": "d", "dependencies": waits("a", trigger="dispatch")} | row,
            {"request_id": "e", "wait_for": ["b", "c"], "delay": 100, "tool_wait_ms": 400} | row,
        ])
    )  # fmt: skip
    found = read_workload(path)
    requests = found.requests
    assert (found.format, requests.unit_tokens, found.sessions) == ("agentic Mooncake", 64, 1)
    assert found.notes == ("1 requests wait for several others: the last that is named counts",)
    # a, b, c (as b, a quarter of a second later), e behind c; and d at a time of its own.
    assert requests.after.tolist() == [-1, 0, 0, 2, -1]
    assert requests.think_s.tolist() == [0, 0.25, 0.5, 0.5, 0]
    assert requests.arrival_s[[0, 4]].tolist() == [0, 0.25]
    for size in (0, -5, 10**30):
        path.write_text(lines([{"schema": "agentic", "block_size": size}, {"request_id": "a"} | row]))
        with pytest.raises(UserError, match=rf"agents.jsonl: block_size {size} is not allowed, expected 1 to"):
            read_workload(path)


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lzma.compress, lambda data: data.decode().encode("utf-16")]
)
def test_packed_files_are_read_as_they_are(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "traffic"
    path.write_bytes(pack(AZURE.encode()))
    assert read_workload(path).requests.prompt.tolist() == [374, 12, 396]


def test_zstd_and_parquet_are_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "traffic"
    path.write_bytes(pyarrow.compress(AZURE.encode(), codec="zstd", asbytes=True))
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.CompressedOutputStream(file, "zstd") as packed:
        packed.write(AZURE.encode())
    assert read_workload(path).requests.prompt.tolist() == [374, 12, 396]
    from pyarrow import parquet

    for rows in (MOONCAKE, PLAIN):
        path.unlink()
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        of_parquet = read_workload(path)
        (tmp_path / "rows").write_text(lines(rows))
        of_lines = read_workload(tmp_path / "rows")
        assert of_parquet.format == of_lines.format
        for one, other in zip(of_parquet.requests, of_lines.requests, strict=True):
            assert np.array_equal(one, other)


def test_a_tokenizer_counts_what_is_else_estimated(tmp_path: Path, user_error, run) -> None:
    path = tmp_path / "custom.jsonl"
    path.write_text(lines([{"prompt": "def f(x):\n    return x", "output_tokens": 6}]))
    counted = read_workload(path, Options(TOKENIZER))
    assert counted.notes == ()
    assert counted.requests.prompt[0] != read_workload(path).requests.prompt[0] == 6
    assert estimate(["", "a", "abcd", "abcde", "日本"]).tolist() == [0, 1, 1, 2, 2]
    (tmp_path / "none").mkdir()
    (tmp_path / "bad.json").write_text("{}")
    user_error(run("workload", "describe", path, "--tokenizer", "none"), "--tokenizer none: ", "tokenizer.json")
    user_error(run("workload", "describe", path, "--tokenizer", "bad.json"), "--tokenizer bad.json: cannot be read")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds nothing to read"),
        ("a,b,c,d,e\n1,2,3,4,5\n", "traffic of no known format (a, b, c, d, ...), expected Azure LLM; BurstGPT; "),
        ('{"a": 1}', "traffic of no known format (a), expected "),
        ("[1, 2]", "holds no JSON objects"),
        ('[{"conversations": []}, {"conv', "not JSON (element 2 of the array is cut short or damaged)"),
        ('{"a": 1,\n', "not JSON"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "Azure LLM traffic without a request to use (no rows)"),
        (AZURE.replace("44", "0").replace("109", "x").replace(",1\n", ",0\n"),
         "without a request to use (2 without an answer (first in line 2), 1 without tokens in whole numbers (first"),
        (json.dumps({"total_input_tokens": 1, "total_output_tokens": 1}), "has no input_lens and output_lens, exp"),
        (lines([BENCH, BENCH]), "holds 2 results, expected that of one run"),
        ('prompt_tokens,output_tokens\n1,"2\n', "not CSV (unexpected end of data, in or behind line 2)"),
    ],
)  # fmt: skip
def test_what_is_no_traffic_is_refused_in_one_line(run, user_error, tmp_path, content: str, message: str) -> None:
    (tmp_path / "file.txt").write_text(content)
    done = run("workload", "describe", "file.txt")
    user_error(done, "workload: FILE file.txt: ", message)
    assert len(done.stderr) < 300


def test_what_is_not_text_is_refused_by_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content, message in ((b"PK\x03\x04\0\0", "ZIP"), (b"%PDF-1.7\n", "a PDF"), (b"PAR1 and no more", "Parquet")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_workload(path)
    with pytest.raises(UserError, match="no such file"):
        read_workload(tmp_path / "missing")
    path.write_bytes(gzip.compress(AZURE.encode() * 100)[:-20])
    with pytest.raises(UserError, match="gzip data that cannot be unpacked"):
        read_workload(path)


def test_text_comes_in_the_same_rows_however_it_is_cut() -> None:
    data = json.dumps([{"a": "é,]", "b": [1, {"c": 2}]}, {"a": 12}, 13, "x"]).encode()
    whole = list(elements(Path("x"), [data]))
    assert [value for _, value in whole] == json.loads(data)
    for size in (1, 2, 3, 7, 20):
        parts = [data[i : i + size] for i in range(0, len(data), size)]
        assert list(elements(Path("x"), parts)) == whole
        text = "a\nbé\n\ncd"
        cut = [text.encode()[i : i + size] for i in range(0, len(text.encode()), size)]
        assert "".join(line_blocks(cut)) == text
        assert all(block.endswith("\n") for block in list(line_blocks(cut))[:-1])


@given(st.text(alphabet='ab1,\n\r"é ', max_size=24), st.integers(1, 3))
def test_even_lines_are_cut_as_csv_cuts_them(text: str, width: int) -> None:
    cells = even_cells(text, ",", width)
    if cells:
        rows = list(csv.reader(io.StringIO(text, newline="")))
        assert [cell for row in rows for cell in row or [""]] == cells
        assert all(len(row or [""]) == width for row in rows)


def test_even_lines_are_found() -> None:
    assert even_cells("1,2\r\n3,4", ",", 2) == ["1", "2", "3", "4"]
    assert even_cells("1,2\n3\n", ",", 2) == even_cells("1,2,3\n4\n", ",", 2) == []


def test_many_blocks_are_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.ground.plain_text.PART", 100)
    monkeypatch.setattr("simulator.workloads.readers.rows.ROWS_A_BLOCK", 7)
    path = tmp_path / "rows"
    rows = [{"sent_s": i, "prompt_tokens": i + 1, "output_tokens": 1 if i % 10 else 0} for i in range(100)]
    for content in (lines(rows), json.dumps(rows), "sent_s,prompt_tokens,output_tokens\n" + "".join(
        f"{r['sent_s']},{r['prompt_tokens']},{r['output_tokens']}\n" for r in rows)):  # fmt: skip
        path.write_text(content)
        found = read_workload(path)
        assert found.requests.prompt.tolist() == [i + 1 for i in range(100) if i % 10]
        assert found.notes[0].startswith("left out 10 of 100 ")
        assert read_column("--isl", path, "Prompt_Tokens").tolist() == list(range(1, 101))
    source = open_source(path)
    assert sum(len(block.places) for block in source.blocks(("sent_s",), Account("line"))) == 100
