"""The file of records: only whole lines, whatever happens; one process; one configuration."""

import errno
import fcntl
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acceptance.results.journal import OPENING, Journal, first_difference, read_records, to_line
from simulator.ground.artefacts import UserError

HEADER = {
    "kind": "decode_run",
    "schema_version": 2,
    "created_utc": "2026-01-02T03:04:05+00:00",
    "tool_version": "1.0",
    "parameters": {
        "seed": 0,
        "models": {"target": {"name": "a"}},
        "methods": [{"name": "baseline", "knobs": {}}, {"name": "x", "knobs": {"k": 4, "tau": 0.5}}],
    },
}


def begun(path: Path) -> Path:
    """Begin a file of three records."""
    journal = Journal(path)
    assert journal.open(HEADER, force=False) == []
    for i in range(3):
        journal.append({"i": i, "text": "ä\n" * i})
    journal.close()
    return path


def reopened(path: Path, force: bool = False) -> list[dict[str, object]]:
    """Open and close a file; return the records that it held."""
    journal = Journal(path)
    records = journal.open(HEADER, force=force)
    journal.close()
    return records


def refused(path: Path, message: str, header: dict[str, object] = HEADER, force: bool = False) -> None:
    """Check that this file is refused by such a message, and left as it is."""
    before = path.read_bytes()
    with pytest.raises(UserError, match=re.escape(message)):
        Journal(path).open(header, force=force)
    assert path.read_bytes() == before


def test_records_come_back_as_they_went_and_each_takes_one_line(tmp_path: Path) -> None:
    path = begun(tmp_path / "a.jsonl")
    assert path.read_bytes().count(b"\n") == 4
    journal = Journal(path)
    assert journal.open(HEADER, force=False) == [{"i": i, "text": "ä\n" * i} for i in range(3)]
    assert journal.torn == 0
    assert json.loads(to_line({"a": float("inf")})) == {"a": "inf"}  # what is no number is written as text


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 10_000))
def test_cut_at_any_byte_behind_the_header_whole_records_stay_and_the_next_is_readable(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = begun(tmp_path_factory.mktemp("cut") / "a.jsonl")
    data = path.read_bytes()
    first = data.index(b"\n") + 1
    cut = first + cut % (len(data) - first + 1)
    path.write_bytes(data[:cut])
    whole = data[:cut].count(b"\n") - 1
    journal = Journal(path)
    there = journal.open(HEADER, force=False)
    assert [r["i"] for r in there] == list(range(whole))
    assert journal.torn == cut - (data[:cut].rindex(b"\n") + 1)
    journal.append({"i": "next"})
    journal.close()
    records, torn = read_records(path)
    assert torn == 0
    assert [r.get("i") for r in records[1:]] == [*range(whole), "next"]


BASELINE = {"name": "baseline", "knobs": {}}
OTHER = {
    "seed is 1, but 0 there": {"seed": 1},
    "models.target.name is 'b', but 'a' there": {"models": {"target": {"name": "b"}}},
    "runs is 2, but None there": {"runs": 2},
    "methods[1].knobs.k is 5, but 4 there": {"methods": [BASELINE, {"name": "x", "knobs": {"k": 5, "tau": 0.5}}]},
    "methods has 1 items, but 2 there": {"methods": [BASELINE]},
}


def test_another_configuration_is_refused_by_its_field_and_nothing_is_lost(tmp_path: Path) -> None:
    path, parameters = begun(tmp_path / "a.jsonl"), HEADER["parameters"]
    for message, change in OTHER.items():
        refused(path, message, HEADER | {"parameters": parameters | change})
    gone = {name: value for name, value in parameters.items() if name != "models"}
    refused(path, "models is None", HEADER | {"parameters": gone})
    refused(path, "tool_version is '2.0', but '1.0' there", HEADER | {"tool_version": "2.0"})


def test_what_is_null_and_what_is_missing_are_the_same_at_any_depth() -> None:
    for now, before in (({"a": None}, {}), ([{"a": None}], [{}]), ({"b": {"a": None}}, {"b": {}})):
        assert first_difference({"x": now}, {"x": before}) == first_difference({"x": before}, {"x": now}) == ""
    assert first_difference({"x": {"a": None, "b": 1}}, {"x": {}}) == "x.b is 1, but None there"
    assert first_difference({"x": [{"a": None}, 1]}, {"x": [{}]}) == "x has 2 items, but 1 there"


def test_a_header_that_was_never_whole_is_no_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(OPENING + b"[" * 100_000)
    assert reopened(path) == []
    for cut in (0, 1, 10, 40, len(to_line(HEADER)) - 1):
        path.write_bytes(to_line(HEADER)[:cut])
        assert reopened(path) == []
        assert path.read_bytes() == to_line(HEADER)


FOREIGN = (b"mine\n", b'{"a": 1}\n', b'{"kind": "trace"}\n', b"no line end", b"[1]\n")
FOREIGN += (b'{"created_utc":"2026-01-02","kind":"trace"}',)


def test_a_file_that_is_not_ours_is_left_alone_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for content in FOREIGN:
        path.write_bytes(content)
        refused(path, "a.jsonl")
        assert reopened(path, force=True) == []
        assert path.read_bytes() == to_line(HEADER)


def test_a_newer_version_and_a_broken_line_in_the_middle_are_refused(tmp_path: Path) -> None:
    path = begun(tmp_path / "a.jsonl")
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], lines[1][:-3], *lines[2:]]) + b"\n")
    refused(path, "line 2")
    path.write_bytes(to_line(HEADER | {"schema_version": 99}))
    refused(path, "schema_version is 99")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = begun(tmp_path / "a.jsonl")
    for force in (False, True):
        held = Journal(path)
        held.open(HEADER, force=False)
        refused(path, "another benchmark", force=force)
        held.close()
        reopened(path, force)


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    begun(tmp_path / "a.jsonl")
    assert len(read_records(tmp_path / "a.jsonl")[0]) == 4


def test_of_two_started_at_once_one_works_and_the_other_is_told(tmp_path: Path) -> None:
    together = Barrier(2, timeout=60)

    def begin(path: Path, who: int) -> str:
        journal = Journal(path)
        together.wait()
        try:
            journal.open(HEADER, force=False)
        except UserError as error:
            return str(error)
        else:
            journal.append({"who": who})
            return "works"
        finally:
            together.wait()  # held until the other has tried
            journal.close()

    with ThreadPoolExecutor(2) as pool:
        for turn in range(100):
            path = tmp_path / f"{turn}.jsonl"
            told = list(pool.map(begin, (path, path), (0, 1)))
            assert sorted(told) == [f"--out: another benchmark is at work in {path}", "works"]
            assert read_records(path) == ([HEADER, {"who": told.index("works")}], 0)


def test_where_there_is_no_room_left_nothing_of_a_record_stays(tmp_path: Path) -> None:
    code = f"""
import resource, signal
from pathlib import Path
from acceptance.results.journal import Journal
from simulator.ground.artefacts import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path({str(tmp_path / "a.jsonl")!r}))
journal.open({HEADER!r}, force=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    for i in range(100):
        journal.append({{"i": i, "text": "x" * 100}})
except UserError as error:
    print(i, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    written, _, message = done.stdout.partition(" ")
    assert "cannot be written" in message
    records, torn = read_records(tmp_path / "a.jsonl")
    assert torn == 0
    assert [r["i"] for r in records[1:]] == list(range(int(written)))
