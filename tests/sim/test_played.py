"""Runs of `simulate-serving` side by side: the same bytes whatever does them, each run once, an ended sweep goes on."""

import json
import os
import signal
from concurrent.futures import CancelledError, Future
from pathlib import Path
from threading import Event, Timer

import pytest

from simulator.answers import clustered, load_curve, played
from simulator.answers.load_curve import Task
from simulator.answers.load_search import narrowed, to_come
from simulator.answers.played import Player
from simulator.answers.scene import Scene, Traffic
from simulator.ground import helpers
from simulator.ground.artefacts import UserError
from simulator.rounds import kept
from simulator.workloads.laws import parse_lengths

SERVED = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--requests", 30, "--isl", "200:400", "--osl", 20)
WORDS = ("simulate-serving", *SERVED, "--method", "eagle3", "--alpha", 0.8, "--rate", "20,400", "--replications", 2)
SEARCHED = (*WORDS[:-4], "--concurrency", "1,6", "--replications", 2, "--slo", "e2e:100ms")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """Return what is run in this process from now on."""
    ran, real = [], load_curve.play_one
    monkeypatch.setattr(played, "play_one", lambda scene, task, *off: ran.append(task) or real(scene, task, *off))
    return ran


def test_threads_processes_and_their_number_give_the_same_bytes(run, tmp_path: Path, monkeypatch, counted) -> None:
    def bytes_of(workers: int, name: str) -> tuple[str, bytes]:
        done = run(*SEARCHED, "--workers", workers, "--out", name)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout.replace(name, "a.csv"), (tmp_path / name).read_bytes()

    alone = bytes_of(1, "a.csv")
    # Searches look at loads of the curve and of each other: none is run twice.
    assert len(counted) == len(set(counted)) > 8
    monkeypatch.setattr(played, "IS_COMPILED", True)  # as for loops that hold no lock
    assert bytes_of(3, "b.csv") == alone
    monkeypatch.setattr(played, "SHARED_S", 0.0)
    counted.clear()
    assert bytes_of(2, "c.csv") == alone
    assert not counted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_ended_sweep_goes_on_to_the_same_bytes(run, tmp_path: Path, monkeypatch, counted, number: int) -> None:
    monkeypatch.setattr(kept, "AFTER_S", 0.0)
    words = (*WORDS, "--out", "a.csv")
    whole = run(*words)
    file, table = tmp_path / "a.csv.unfinished", tmp_path / "a.csv"
    assert (whole.returncode, file.exists(), len(counted)) == (0, False, 8 + len(counted[8:]))
    data, every = table.read_bytes(), set(counted)
    table.unlink()
    keep, calls = Player.keep, []

    def ended(self: Player, key: str, done: Future) -> None:
        keep(self, key, done)
        calls.append(key)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
            Event().wait(0.2)

    with monkeypatch.context() as patch:
        patch.setattr(Player, "keep", ended)
        done = run(*words)
    assert done.returncode == 128 + number
    expected = "simulate-serving: interrupted; a.csv.unfinished keeps what is done, the same command goes on\n"
    assert done.stderr.lstrip() == expected
    assert file.exists()
    assert not table.exists()
    counted.clear()
    other = run(*WORDS, "--warmup", 0.2, "--out", "a.csv")
    assert (other.returncode, other.stderr.count("a.csv.unfinished is kept of another sweep")) == (2, 1)
    assert not counted
    again = run(*words)
    assert (again.stdout, table.read_bytes(), file.exists()) == (whole.stdout, data, False)
    assert len(counted) <= len(every) - 3
    assert set(counted) < every


def test_a_search_begins_ahead_what_it_may_ask_for_and_ends_where_it_would() -> None:
    told, asked = [], []

    def holds(load: float) -> bool:
        asked.append(load)
        return load <= 37.3

    def ahead(loads) -> None:
        told.append([load for load, _ in zip(loads, range(3), strict=False)])

    found = narrowed(1.0, 100.0, holds, whole=False, ahead=ahead)
    assert found == narrowed(1.0, 100.0, lambda load: load <= 37.3, whole=False)
    assert [first for first, *_ in told] == asked
    # Of the two behind the first answer one is what is asked for next.
    assert all(after in guessed[1:] for guessed, after in zip(told, asked[1:], strict=False))
    assert list(to_come(1, 4, whole=True)) == [2, 3]


def test_workers_with_nothing_else_to_do_begin_what_may_be_asked_for() -> None:
    begun, futures = [], []

    def submit(task: Task) -> Future:
        begun.append(task)
        futures.append(Future())
        return futures[-1]

    player, tasks = Player(submit, 2, lambda _: None, None), [Task(0, float(i), 0) for i in range(5)]
    player.begun(tasks[0])
    player.ahead(tasks)
    assert begun == tasks[:2]
    futures[0].set_result({})
    player.ahead(tasks)
    assert begun == tasks[:3]
    # What never fits is told where it is asked for, and only there.
    futures[2].set_exception(UserError("never fits"))
    assert player.begun(tasks[2]) is futures[2]
    player.stop()
    assert futures[1].cancelled()


def test_a_search_that_fails_ends_the_others() -> None:
    player = Player(lambda _: Future(), 1, lambda _: None, None)

    def fails() -> None:
        raise UserError("no load")

    def waits() -> object:
        return next(iter(player([Task(0, 1.0, 0)])))

    with pytest.raises(UserError, match="no load"):
        player.at_once([fails, waits])


def test_a_search_begins_no_run_once_another_failed() -> None:
    begun, going = list[Task](), Event()

    def submit(task: Task) -> Future:
        begun.append(task)
        going.set()
        (future := Future()).set_running_or_notify_cancel()
        Timer(0.05, future.set_result, ({},)).start()
        return future

    player = Player(submit, 1, lambda _: None, None)

    def fails() -> None:
        going.wait()
        raise UserError("no load")

    def searches() -> None:
        for load in range(20):
            list(player([Task(0, float(load), 0)]))

    with pytest.raises(UserError, match="no load"):
        player.at_once([fails, searches])
    assert len(begun) <= 2
    with pytest.raises(CancelledError):
        player.begun(Task(0, 99.0, 0))


def test_a_search_that_fails_waits_for_no_run_of_another() -> None:
    (running := Future()).set_running_or_notify_cancel()
    late, going = Timer(5, running.set_result, ({},)), Event()
    late.start()
    player = Player(lambda _: going.set() or running, 1, lambda _: None, None)

    def fails() -> None:
        going.wait()
        raise UserError("no load")

    with pytest.raises(UserError, match="no load"):
        player.at_once([fails, lambda: list(player([Task(0, 1.0, 0)]))])
    assert not running.done()
    late.cancel()
    running.set_result({})


def test_two_scenes_at_once_are_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(played, "SHARED_S", 0.0)
    monkeypatch.setattr(played, "is_kept", lambda _: True)
    monkeypatch.setattr(played, "play_one", lambda scene, task, *off: {"of": scene})
    monkeypatch.setattr(helpers, "started_if_it_can", lambda: None)
    law = parse_lengths("--isl", "10", "prompt")
    first, other = (
        Scene(traffic=Traffic(count=count, isl=law, osl=law, longest=100), arms=()) for count in (100_000, 200_000)
    )
    quiet = {"progress": lambda _: None, "runs": 9, "workers": 2}
    with played.playing(first, **quiet) as one:
        with played.playing(other, **quiet) as two:
            assert [next(iter(of([Task(0, 1.0, 0)])))["of"] for of in (one, two)] == [first, other]
        assert next(iter(one([Task(0, 2.0, 0)])))["of"] is first
    assert not played.held


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--cluster", "there"), "--cluster: 'there' is not allowed, expected tcp://HOST:PORT of a Dask scheduler"),
        (("--cluster", "tcp://h:1", "--workers", 2), "--workers: of this machine, beside --cluster"),
    ],
)
def test_what_is_wrong_is_one_line(run, user_error, options: tuple, message: str) -> None:
    user_error(run(*WORDS, *options), message)


def test_what_goes_wrong_on_a_worker_is_told_as_it_can_be_mended() -> None:
    with pytest.raises(UserError, match=r"a worker has specsim .*, expected 0\.0\.0 on each, as here"):
        clustered.play_there(None, Task(0, 1.0, 0), "0.0.0")
    pytest.importorskip("distributed")
    said = clustered.told(ModuleNotFoundError("No module", name="simulator"), "--cluster tcp://h:1")
    assert str(said).startswith("--cluster tcp://h:1: a worker has no simulator, expected specsim ")
    assert clustered.told(error := UserError("x"), "--cluster") is error
    for error in (AttributeError("no attribute 'most_told'"), RuntimeError("Error during deserialization\n" * 99)):
        said = str(clustered.told(error, "--cluster tcp://h:1"))
        assert said.startswith(f"--cluster tcp://h:1: a run failed on a worker ({type(error).__name__}: ")
        assert (said.count("\n"), len(said) < 220, said.endswith("on each, as here")) == (0, True, True)


def test_a_run_that_cannot_be_begun_again_is_told_and_not_waited_for() -> None:
    distributed = pytest.importorskip("distributed")
    given = list[Future]()

    class Crew:
        def submit(self, *_: object) -> Future:
            if given:
                raise RuntimeError("cannot schedule new futures after shutdown")
            given.append(Future())
            return given[0]

    found, again = Future(), Future()
    clustered.begin(Crew(), None, Task(0, 1.0, 0), found, "--cluster tcp://h:1", 3)
    given[0].set_exception(distributed.KilledWorker("a", None, 1))
    clustered.begin(Crew(), None, Task(0, 1.0, 0), again, "--cluster tcp://h:1", 3)
    for future in (found, again):
        with pytest.raises(clustered.LostCluster, match=r"^--cluster tcp://h:1: no run can be begun any more "):
            future.result(timeout=0)


def test_a_figure_comes_back_from_what_is_kept_as_it_was(tmp_path: Path) -> None:
    file = kept.Kept(tmp_path / "a.csv", json, force=False)
    file.began_s -= 60
    figures = {"a": load_curve.np.array([1.0, load_curve.np.nan]), "b": load_curve.np.array([0.1])}
    file.save("1 0.1 0", figures)
    file.close()
    again = kept.Kept(tmp_path / "a.csv", json, force=False)
    assert {name: of.tobytes() for name, of in again.load("1 0.1 0").items()} == {
        name: of.tobytes() for name, of in figures.items()
    }
    again.end()
