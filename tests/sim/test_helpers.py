"""Processes that help to write: the same bytes, whether they answer or not, and none is left behind."""

import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from simulator.ground import helpers, tables
from simulator.ground.helpers import Helpers
from simulator.ground.tables import write_table, writing_table

COLUMNS = {"a": np.arange(6).reshape(3, 2) / 7, "b": np.array([[0.5], [1e-9], [np.nan]]), "c": "x,y"}


def wait_until_gone(pids: list[int]) -> None:
    for _ in range(200):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.05)
    raise AssertionError(f"{pids} still run")


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "cores", lambda: 2)


def test_a_machine_without_room_for_a_helper_does_the_work_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def started() -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(helpers, "started", started)
    crew = Helpers()
    assert [crew.call(max, i, 2) for i in range(5)] == [2, 2, 2, 3, 4]
    crew.close()


def test_a_table_is_the_same_with_helpers_without_and_when_they_die(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {name: np.broadcast_to(values, (3, 2)).ravel() for name, values in COLUMNS.items()}
    write_table(tmp_path / "here.csv", {name: np.tile(values, 4) for name, values in whole.items()})
    monkeypatch.setattr(tables, "HELPED_ROWS", 18)
    with writing_table(tmp_path / "there.csv", rows=18) as table:
        for _ in range(3):
            table.write(table.encode(COLUMNS, (3, 2)))
        pids = [each.pid for each in table.helpers.helpers]
        assert len(pids) == 2
        for each in table.helpers.helpers:
            each.kill()
            each.wait()
        table.write(table.encode(COLUMNS, (3, 2)))
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    wait_until_gone(pids)


def test_an_error_of_the_work_is_raised_where_it_was_asked_for() -> None:
    pool = Helpers()
    assert pool.call(abs, -3) == 3
    with pytest.raises(TypeError, match="bad operand"):
        pool.call(abs, "x")
    pool.close()
    wait_until_gone([each.pid for each in pool.helpers])


def test_helpers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    # Nor is a module of the current folder theirs.
    (tmp_path / "pickle.py").write_text("raise SystemExit('run')")
    script = (
        "import sys, time; sys.path.remove(''); from simulator.ground import helpers; helpers.cores = lambda: 2; "
        "pool = helpers.Helpers(); pool.call(abs, -1); "
        "print(*(each.pid for each in pool.helpers), flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    wait_until_gone(pids)


def test_each_helper_is_opened_once_and_a_closed_one_answers_no_more(tmp_path: Path) -> None:
    crew = Helpers(2, (os.chdir, (tmp_path,)))
    assert {crew.call(os.getcwd) for _ in range(4)} == {str(tmp_path)}
    assert len(crew.opened) == 2
    crew.close()
    with pytest.raises((OSError, EOFError)):
        crew.call(os.getcwd)


def test_none_is_started_once_they_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_go, started, crew = Event(), Event(), [], Helpers(1 + 1)

    def slowly() -> subprocess.Popen[bytes]:
        begun.set()
        may_go.wait()
        started.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return started[-1]

    monkeypatch.setattr(helpers, "started", slowly)

    def calls() -> None:
        with suppress(OSError, EOFError, ValueError, pickle.UnpicklingError):
            crew.call(abs, -1)

    threads = [Thread(target=calls)]
    threads[0].start()
    begun.wait()
    threads.append(Thread(target=crew.close))
    threads[1].start()
    time.sleep(0.05)
    may_go.set()
    for thread in threads:
        thread.join()
    wait_until_gone([each.pid for each in started])
    with pytest.raises(EOFError):
        crew.call(abs, -1)
    late = Helpers(2)
    late.close()
    count = len(started)
    with pytest.raises(EOFError):
        late.call(abs, -1)
    assert len(started) == count
