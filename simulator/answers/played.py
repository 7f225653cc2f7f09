"""Runs of a scene, each once, on the cores of this machine or on a cluster: the same bytes whatever does them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from threading import Event, RLock
from typing import TypeVar

from simulator.ground.compiled import IS_COMPILED, is_kept
from simulator.ground.helpers import Helpers
from simulator.ground.machine import cores
from simulator.rounds.kept import Kept
from simulator.serving.loop import advance

from .load_curve import Figures, Task, joined, play_one
from .scene import Scene

T = TypeVar("T")
Submit = Callable[[Task], Future[Figures]]
# Requests that a core serves a second, roughly, compiled or not; seconds of work from which on processes share it. They
# take one to start, and do side by side what Python does around each run.
SERVED_A_SECOND, PLAIN_A_SECOND, AROUND_S, SHARED_S = 100_000, 500, 0.006, 6.0
# Scenes that are played, in this process or for another, by numbers.
held, numbers = dict[int, Scene](), count()


class Player:
    """Runs tasks of one scene, those that are kept or were run before not again; any thread may ask."""

    def __init__(self, submit: Submit, workers: int, progress: Callable[[int], None], kept: Kept | None) -> None:
        self.submit, self.workers, self.progress, self.kept = submit, workers, progress, kept
        self.runs: dict[Task, Future[Figures]] = {}
        # Those that were asked for, in place of begun ahead.
        self.asked: set[Task] = set()
        self.lock, self.is_over = RLock(), False

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Figures]:
        """Yield what tasks come to, in their order."""
        self.asked.update(tasks)
        for future in [self.begun(task) for task in tasks]:
            yield future.result()
            if not self.is_over:
                self.progress(1)

    def begun(self, task: Task) -> Future[Figures]:
        """Return the figures of a task as a future.

        Raises:
            CancelledError: Nothing is begun any more.
        """
        key = task.key
        with self.lock:
            if self.is_over:
                raise CancelledError
            if task in self.runs:
                return self.runs[task]
            if self.kept is not None and self.kept.has(key):
                self.runs[task] = future = Future[Figures]()
                future.set_result(self.kept.load(key))
                return future
            self.runs[task] = future = self.submit(task)
        future.add_done_callback(lambda done: self.keep(key, done))
        return future

    def keep(self, key: str, done: Future[Figures]) -> None:
        """Keep what a run came to."""
        with self.lock:
            if self.kept is not None and not self.is_over and not done.cancelled() and not done.exception():
                self.kept.save(key, dict(done.result()))

    def ahead(self, tasks: Iterable[Task]) -> None:
        """Begin tasks that may be asked for, as long as workers have nothing else to do."""
        idle = self.workers - sum(not future.done() for future in list(self.runs.values()))
        for task in tasks:
            if idle <= 0:
                return
            idle -= task not in self.runs
            self.begun(task)

    def looked_at(self, ways: Sequence[int], seeds: Sequence[int]) -> list[dict[float, Figures]]:
        """Return of each way of serving what it came to at all loads that were asked for, in their order."""
        plain = [task for task in self.asked if not task.servers and task.longer == 1]
        loads = [sorted({task.load for task in plain if task.arm == way}) for way in ways]
        return [
            {load: joined([self.runs[Task(way, load, seed)].result() for seed in seeds]) for load in of}
            for way, of in zip(ways, loads, strict=True)
        ]

    def at_once(self, searches: Sequence[Callable[[], T]]) -> list[T]:
        """Return what searches find that go on side by side."""
        pool = ThreadPoolExecutor(max(len(searches), 1))
        try:
            return [future.result() for future in [pool.submit(search) for search in searches]]
        except BaseException:
            self.stop()
            raise
        finally:
            # Runs that go on are called off behind this, and end searches that wait for them.
            pool.shutdown(wait=not self.is_over, cancel_futures=True)

    def stop(self) -> None:
        """Begin nothing more, and keep nothing."""
        with self.lock:
            self.is_over = True
        for future in list(self.runs.values()):
            future.cancel()


@contextmanager
def playing(
    scene: Scene,
    progress: Callable[[int], None],
    runs: int,
    *,
    workers: int | None = None,
    cluster: str | None = None,
    kept: Kept | None = None,
) -> Iterator[Player]:
    """Yield what runs tasks of a scene.

    Args:
        scene: What is compared.
        progress: Called with 1 after each run.
        runs: About how many there will be.
        workers: Runs at once on this machine; None: as many as it has cores.
        cluster: Address of a Dask scheduler, whose workers run them in its place.
        kept: What is done of them, and where it is kept on the way.
    """
    if cluster is None:
        crew = here(scene, runs, workers or cores())
    else:
        from .clustered import on_cluster

        crew = on_cluster(cluster, scene)
    with crew as (submit, at_once):
        player = Player(submit, at_once, progress, kept)
        try:
            yield player
        finally:
            player.stop()


@contextmanager
def here(scene: Scene, runs: int, workers: int) -> Iterator[tuple[Submit, int]]:
    """Yield what begins tasks on this machine, and on how many cores: in processes where that is long, else in threads.

    Threads share the time of what Python does, which is all of it where nothing is compiled.
    """
    seconds = runs * (scene.traffic.count / (SERVED_A_SECOND if IS_COMPILED else PLAIN_A_SECOND) + AROUND_S)
    # What is not kept would be compiled in each process.
    is_shared = workers > 1 and seconds > SHARED_S and is_kept(advance)
    number = next(numbers)
    helpers = Helpers(workers, (hold, (number, scene))) if is_shared else None
    workers = workers if is_shared or IS_COMPILED else 1
    pool, off = ThreadPoolExecutor(workers), Event()

    def submit(task: Task) -> Future[Figures]:
        if helpers is not None:
            return pool.submit(helpers.call, play_held, number, task)
        return pool.submit(play_one, scene, task, off.is_set)

    try:
        hold(number, scene)  # for what no helper answers
        yield submit, workers
    except BaseException:
        # What compiles hears nothing of an end: it is not waited for.
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        off.set()
        if helpers is not None:
            helpers.close()
        del held[number]
    pool.shutdown()


def hold(number: int, scene: Scene) -> None:
    """Have a scene for `play_held`."""
    held[number] = scene


def play_held(number: int, task: Task) -> Figures:
    """Run once."""
    return play_one(held[number], task)
