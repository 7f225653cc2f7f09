"""The signals that ask a process to end: all are taken as Ctrl-C is."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXIT_BY_SIGNAL = 128  # plus the signal's number, as shells have it
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def heard() -> dict[int, Any]:
    """Return what handles each of them, but for those that are ignored (nohup) or that another thread hears."""
    here = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in ENDING if here}
    return {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}


@contextmanager
def handled(end: Any) -> Iterator[None]:
    """Have a function hear them, for a while."""
    before = heard()
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def endings() -> Iterator[list[int]]:
    """Have them interrupt this process; yields those that came. Only Ctrl-C interrupts again what is kept then."""
    came: list[int] = []

    def end(number: int, _: Any) -> None:
        came.append(number)
        if number == signal.SIGINT or len(came) == 1:
            raise KeyboardInterrupt

    with handled(end):
        yield came


@contextmanager
def unbroken() -> Iterator[None]:
    """Hold them back until what is within is done."""
    came: list[int] = []
    with handled(lambda number, _: came.append(number)):
        yield
    for number in came:
        os.kill(os.getpid(), number)


def leave(code: int) -> None:
    """End a process that was asked to end, where threads are at work that hear nothing, such as a compiler's."""
    if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
