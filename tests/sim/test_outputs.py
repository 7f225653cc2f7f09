"""Files that commands write: whole or not at all, in nobody's way, and what a killed writer leaves behind."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from simulator.ground import endings, partial, together
from simulator.ground.artefacts import UserError, check_outputs, claimed, write_json, writing
from simulator.ground.limits import lacks_memory
from simulator.rounds import sweeping

Run = Callable[..., subprocess.CompletedProcess[str]]


def left_behind(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_what_a_killed_writer_left_is_swept_and_what_is_being_written_stays(tmp_path: Path, run: Run) -> None:
    killed = os.fork()
    if killed == 0:
        with writing(tmp_path / "a.json") as file:
            file.write("half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    (orphan,) = left_behind(tmp_path)
    mine = tmp_path / ".notes.json.swp"
    mine.write_text("an editor's")
    with writing(tmp_path / "b.json") as file:
        assert len(left_behind(tmp_path)) == 3
        done = run("simulate", "--json", "--csv", "c.csv")
        assert done.returncode == 0, done.stderr
        assert orphan not in left_behind(tmp_path)
        file.write("whole")
    assert left_behind(tmp_path) == {"b.json", "c.csv", mine.name}
    assert (tmp_path / "b.json").read_text() == "whole"


@pytest.mark.parametrize("has_links", [True, False])
def test_of_two_that_start_at_once_neither_overwrites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    path = tmp_path / "a.json"
    if not has_links:  # there the later one wins, whole
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links")))
    check_outputs({"--out": path}, force=False)
    path.write_text("the other's")
    told = "a.json: exists by now, another process has written it"
    with pytest.raises(UserError, match=told) if has_links else nullcontext(), writing(path) as file:
        file.write("mine")
    assert path.read_text() == ("the other's" if has_links else "mine")
    check_outputs({"--out": path}, force=True)
    with writing(path) as file:
        file.write("forced")
    assert (path.read_text(), left_behind(tmp_path)) == ("forced", {"a.json"})


def test_a_name_that_was_taken_when_a_signal_came_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, link = tmp_path / "a.json", os.link

    def interrupted(*names: object) -> None:
        link(*names)
        os.kill(os.getpid(), signal.SIGTERM)

    check_outputs({"--out": path}, force=False)
    with endings.endings() as came:
        with monkeypatch.context() as patch:
            patch.setattr(os, "link", interrupted)
            with pytest.raises(KeyboardInterrupt):
                write_json(path, {"on": "the way"})
        assert came == [signal.SIGTERM]
        write_json(path, {"at": "the end"})
    assert json.loads(path.read_text()) == {"at": "the end"}
    assert left_behind(tmp_path) == {path.name}


def test_a_name_of_ones_own_is_written_as_often_as_wanted(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    check_outputs({"--out": path}, force=False)
    for text in ("first", "second"):
        with writing(path) as file:
            file.write(text)
    assert path.read_text() == "second"
    assert str(path) not in claimed


def test_a_command_that_was_ended_between_two_files_is_run_again_over_its_own_alone(
    run: Run, user_error, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("sweep", "--alpha", "0.6,0.8", "--replications", 2, "--out", "a.csv", "--plot", "a.svg")

    def ended() -> None:
        for path in tmp_path.iterdir():
            path.unlink()
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with monkeypatch.context() as patch:
            patch.setattr(Figure, "savefig", lambda *_, **__: (_ for _ in ()).throw(full))
            user_error(run(*words), "No space left")
        assert left_behind(tmp_path) == {"a.csv", marker}

    marker, table = together.marker_of("a.csv").name, tmp_path / "a.csv"
    ended()
    mine = table.read_bytes()
    user_error(run(*words, "--seed", 1), "a.csv", "exists already")  # another command
    ended()
    table.write_text("precious")
    user_error(run(*words), "a.csv", "exists already")
    ended()
    (tmp_path / marker).write_bytes((tmp_path / marker).read_bytes()[:-1])  # torn: it was not yet named
    user_error(run(*words), "a.csv", "exists already")
    ended()
    assert run(*words).returncode == 0
    assert left_behind(tmp_path) == {"a.csv", "a.svg"}
    assert table.read_bytes() == mine
    user_error(run(*words), "a.csv", "exists already")


def test_an_output_that_is_an_input_by_any_name_is_refused(run: Run, user_error, hist_file: Path) -> None:
    folder, before = hist_file.parent, hist_file.read_bytes()
    (folder / "hard.csv").hardlink_to(hist_file)
    (folder / "soft.csv").symlink_to(hist_file)
    (folder / "inner").mkdir()
    (folder / "inner" / "accept_hist_k4.json").hardlink_to(hist_file)
    for name in ("hard.csv", "soft.csv"):
        for hist in (hist_file.name, ".", "inner"):
            done = run("simulate", "--hist", hist, "--csv", name, "--force")
            user_error(done, f"--csv {name}: is the file of --hist too")
    assert hist_file.read_bytes() == before


def test_arrays_beside_an_input_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_text("{}")
    (tmp_path / "trace.npz").write_text("arrays")
    (tmp_path / "other.json").write_text("{}")
    for source in (tmp_path, tmp_path / "trace.json"):
        with pytest.raises(UserError, match="is the file of --trace too"):
            check_outputs({"--plot": tmp_path / "trace.npz"}, True, {"--trace": source})
        check_outputs({"--plot": tmp_path / "other.json"}, True, {"--trace": source})


def test_every_file_and_its_name_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
    with writing(tmp_path / "new" / "a.json") as file:
        file.write("x")
        assert synced == [str(tmp_path)]
    assert synced[1].endswith(partial.SUFFIX)
    assert synced[2:] == [str(tmp_path / "new")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_signal_that_ends_is_heard_as_ctrl_c(run: Run, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def interrupted(*_: object) -> None:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGTERM)  # a second one spoils nothing that is being kept
            raise KeyboardInterrupt("all is kept") from None

    monkeypatch.setattr("simulator.cli.simulate.check_outputs", interrupted)
    before = [signal.getsignal(each) for each in endings.ENDING]
    done = run("simulate", "--draftN", 4)
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert done.stderr == "simulate: interrupted; all is kept\n"
    assert [signal.getsignal(each) for each in endings.ENDING] == before


def test_a_sweep_that_is_ended_keeps_the_points_that_it_has(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "POINTS_A_PART", 4)
    monkeypatch.setattr(sweeping, "cores", lambda: 1)
    words = ("sweep", "--draftN", "1:4", "--alpha", "0.1:0.8:0.1", "--replications", 0, "--out")
    assert run(*words, "whole.csv").returncode == 0
    evaluate, parts = sweeping.evaluate, [0]

    def ended(*given: object) -> object:
        parts[0] += 1
        if parts[0] == last:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*given)

    monkeypatch.setattr(sweeping, "evaluate", ended)
    for last in (2, 7):
        parts[0] = 0
        done = run(*words, "a.csv")
        assert (done.returncode, done.stdout) == (143, "")
        assert (tmp_path / "a.csv").exists() == (last > 2)
    assert "the first 16 of 32 points are kept in a.csv, with --force the same" in done.stderr
    whole, kept = ((tmp_path / name).read_text().splitlines() for name in ("whole.csv", "a.csv"))
    assert kept == whole[:17]
    assert left_behind(tmp_path) == {"whole.csv", "a.csv"}


def test_what_is_not_to_be_broken_ends_first() -> None:
    done = []

    def work() -> None:
        with endings.endings(), endings.unbroken():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("whole")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["whole"]


def test_what_went_wrong_outside_is_called_what_it_is(
    run: Run, user_error, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epoch in ("soon", "1e9", "9" * 30):
        done = run("simulate", "--json", SOURCE_DATE_EPOCH=epoch)
        user_error(done, "SOURCE_DATE_EPOCH: '", "expected seconds since 1970")
    for error in (MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes\nx")):

        def lack(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("simulator.cli.simulate.check_outputs", lack)
        user_error(run("simulate"), "simulate: out of memory (")
    assert not lacks_memory(RuntimeError("shapes differ"))
    assert not lacks_memory(ValueError("out of memory"))


@pytest.mark.parametrize(("busy", "code"), [(True, 143), (False, 0)])
def test_who_is_told_to_end_waits_for_no_thread_that_hears_nothing(busy: bool, code: int) -> None:
    work = f"threading.Thread(target=time.sleep, args=(60,), daemon={not busy}).start()"
    words = f"import threading, time; from simulator.ground.endings import leave; {work}; leave(143)"
    assert subprocess.run([sys.executable, "-c", words], timeout=30, check=False).returncode == code
