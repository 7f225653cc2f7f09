"""Runs of a scene on all cores, the same answers whatever their number."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from simulator.ground.compiled import IS_COMPILED
from simulator.ground.machine import cores

from .load_curve import Figures, Play, Task, play_one
from .scene import Scene


@contextmanager
def playing(progress: Callable[[int], None]) -> Iterator[Play]:
    """Yield what runs tasks: side by side where loops are compiled, which hold no lock.

    progress: Called with 1 after each run.
    """
    workers = cores() if IS_COMPILED else 1
    with ThreadPoolExecutor(workers) as pool:

        def play(scene: Scene, tasks: Sequence[Task]) -> Iterable[Figures]:
            waiting: deque[Future[Figures]] = deque()
            for task in tasks:
                waiting.append(pool.submit(play_one, scene, task))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
                    progress(1)
            while waiting:
                yield waiting.popleft().result()
                progress(1)

        yield play
