"""Runs of a scene on the workers of a Dask cluster: what a lost worker was at is done by another."""

import logging
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

from simulator.ground.artefacts import UserError
from simulator.ground.dependency import Dependency, require
from simulator.ground.fields import shortened
from simulator.ground.version import VERSION

from .load_curve import Figures, Task, play_one
from .scene import Scene

DASK = Dependency("distributed", "a cluster", "cluster")
# Seconds in which a scheduler has to answer, and have a worker.
ANSWERS_S, WORKS_S = 10.0, 30.0
# How often a run is begun anew that lost its workers: Dask itself gives it to four, one after another.
AGAIN = 3
# How often it is looked whether the scheduler is there: of a run begun as it goes, Dask tells nothing.
LOOKS_S = 1.0


class LostCluster(UserError):
    """A scheduler that no longer answers."""


@contextmanager
def on_cluster(address: str, scene: Scene) -> Iterator[tuple[Callable[[Task], Future[Figures]], int]]:
    """Yield what begins tasks on a cluster, and how many it does at once now.

    Raises:
        UserError: Nobody answers there, or has no worker.
    """
    require(DASK, "--cluster")
    from distributed import Client

    option = f"--cluster {address}"
    logging.disable(logging.CRITICAL)  # it tells of each worker that comes and goes
    try:
        client: Any = Client(address, timeout=ANSWERS_S, set_as_default=False)
    except (OSError, ValueError) as error:
        logging.disable(logging.NOTSET)
        raise UserError(f"{option}: no scheduler answers ({type(error).__name__}), expected `dask scheduler`") from None
    ended = Event()
    try:
        with suppress(TimeoutError):
            client.wait_for_workers(1, timeout=WORKS_S)
        workers = sum(client.nthreads().values())
        if not workers:
            raise UserError(f"{option}: no worker within {WORKS_S:g} s, expected `dask worker {address}`")
        # As a task, whose outcome is made anew where the worker that had it is lost.
        shared, crew = client.submit(pickle.loads, pickle.dumps(scene), pure=False), client.get_executor(pure=False)

        unsettled = set[Future[Figures]]()
        Thread(target=watch, args=(client, unsettled, ended, option), daemon=True).start()

        def submit(task: Task) -> Future[Figures]:
            found = Future[Figures]()
            unsettled.add(found)
            found.add_done_callback(unsettled.discard)
            begin(crew, shared, task, found, option, AGAIN)
            return found

        yield submit, workers
    finally:
        ended.set()
        with suppress(Exception):  # one that is lost cannot be told
            client.close(timeout=1)
        logging.disable(logging.NOTSET)


def watch(client: Any, unsettled: set[Future[Figures]], ended: Event, option: str) -> None:
    """Settle what a lost scheduler leaves open."""
    while not ended.wait(LOOKS_S):
        if client.status != "running":
            for found in tuple(unsettled):
                with suppress(InvalidStateError):
                    found.set_exception(lost(option))


def lost(option: str) -> LostCluster:
    """Say that the scheduler is lost."""
    return LostCluster(f"{option}: the scheduler was lost, expected it to answer to the end")


def begin(crew: Any, shared: Any, task: Task, found: Future[Figures], option: str, left: int) -> None:
    """Have a task run; where its workers were lost, again."""
    from distributed import KilledWorker

    def settle(done: Future[Figures]) -> None:
        with suppress(InvalidStateError):  # it is not wanted any more
            if done.cancelled():
                found.set_exception(lost(option))
            elif (error := done.exception()) is None:
                found.set_result(done.result())
            elif isinstance(error, KilledWorker) and left:
                begin(crew, shared, task, found, option, left - 1)
            else:
                found.set_exception(told(error, option))

    try:
        crew.submit(play_there, shared, task, VERSION).add_done_callback(settle)
    except Exception as error:
        said = f"{option}: no run can be begun any more ({type(error).__name__}), expected a scheduler to the end"
        with suppress(InvalidStateError):
            found.set_exception(LostCluster(said))


def told(error: BaseException, option: str) -> BaseException:
    """Return what went wrong on a worker as a user can mend it, where one can."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return UserError(f"{option}: one run lost its workers again and again, expected more memory for each")
    if isinstance(error, ModuleNotFoundError):
        return UserError(f"{option}: a worker has no {error.name}, expected specsim {VERSION} on each, as here")
    if isinstance(error, UserError) or not isinstance(error, Exception):
        return error
    what = f"{type(error).__name__}: {shortened(str(error), 80)}"
    return UserError(f"{option}: a run failed on a worker ({what}), expected specsim {VERSION} on each, as here")


def play_there(scene: Scene, task: Task, version: str) -> Figures:
    """Run once, on a worker.

    Raises:
        UserError: It has another version.
    """
    if version != VERSION:
        raise UserError(f"--cluster: a worker has specsim {VERSION}, expected {version} on each, as here")
    return play_one(scene, task)
