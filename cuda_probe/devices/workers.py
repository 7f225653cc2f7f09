"""Threads that each always do the same part of a job: the caller does the first, a thread of its own each other.

A ThreadPoolExecutor would not do: it starts fewer threads than asked where jobs are short, and any thread takes any
part, so that parts of one job end up one after another, on a core whose cache knows nothing of them. They are not
tied to cores: where other work keeps a core busy, a part bound to it would wait for slices of its time.
"""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

Part = Callable[[int], object]


class Workers:
    """Runs a job's parts side by side."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.waiting: list[SimpleQueue[Part | None]] = [SimpleQueue() for _ in range(count - 1)]
        self.done: SimpleQueue[BaseException | None] = SimpleQueue()
        self.threads = [Thread(target=self.work, args=(index,), daemon=True) for index in range(1, count)]
        for thread in self.threads:
            thread.start()

    def work(self, index: int) -> None:
        """Do this part of every job that comes, until there is none."""
        while (part := self.waiting[index - 1].get()) is not None:
            try:
                part(index)
            except BaseException as error:
                self.done.put(error)
            else:
                self.done.put(None)

    def run(self, part: Part, parts: int | None = None) -> None:
        """Do parts 0, 1, ... of a job, one a thread if None, each in its thread, and wait for all."""
        others = (parts or self.count) - 1
        for queue in self.waiting[:others]:
            queue.put(part)
        try:
            part(0)
        finally:
            errors = [self.done.get() for _ in range(others)]
        for error in errors:
            if error is not None:
                raise error

    def close(self) -> None:
        """End the threads."""
        for queue in self.waiting:
            queue.put(None)
        for thread in self.threads:
            thread.join()
