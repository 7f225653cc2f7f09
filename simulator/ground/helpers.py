"""Processes that do for threads what Python does one at a time: asked over a pipe, and gone when that closes.

They are of this interpreter and its path, hear no Ctrl-C of the terminal, and end with whoever started them.
"""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock
from typing import Any

from .machine import cores

MOST, PIPE = 8, 1 << 20
# What lies in the current folder is no module of ours.
SERVE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from simulator.ground.helpers import serve; serve()"


def serve() -> None:
    """Answer calls until there are no more."""
    while True:
        try:
            work, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(work(*arguments), sys.stdout.buffer)
        sys.stdout.buffer.flush()


def started() -> subprocess.Popen[bytes]:
    """Start a helper."""
    command = [sys.executable, "-P", "-c", SERVE, json.dumps([folder for folder in sys.path if folder])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "pipesize": PIPE}
    return subprocess.Popen(command, start_new_session=True, **pipes)  # type: ignore[call-overload,no-any-return]


def started_if_it_can() -> subprocess.Popen[bytes] | None:
    """Start a helper; None where the machine has no room for one."""
    try:
        return started()
    except OSError:
        return None


def asked(helper: subprocess.Popen[bytes], work: Callable[..., Any], arguments: Any) -> Any:
    """Return what a helper answers."""
    if helper.stdin is None or helper.stdout is None:
        raise EOFError
    pickle.dump((work, arguments), helper.stdin, pickle.HIGHEST_PROTOCOL)
    helper.stdin.flush()
    return pickle.load(helper.stdout)


class Helpers:
    """Helpers from the first call on, as many as there are cores where nobody says otherwise.

    opening: A function and its arguments that each is asked first, once.
    """

    def __init__(self, most: int | None = None, opening: tuple[Callable[..., Any], Any] | None = None) -> None:
        self.most = min(cores(), MOST) if most is None else most
        self.opening, self.opened, self.is_closed = opening, set[int](), False
        self.free = SimpleQueue[subprocess.Popen[bytes] | None]()
        self.helpers: list[subprocess.Popen[bytes] | None] = []
        self.starting = Lock()

    def call(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function, by its name, makes of arguments: in a helper, or here where none answers."""
        if self.most == 1:
            return work(*arguments)
        with self.starting:
            if self.is_closed:
                raise EOFError
            while len(self.helpers) < self.most:
                self.helpers.append(started_if_it_can())
                self.free.put(self.helpers[-1])
        helper = self.free.get()
        try:
            if helper is None or self.is_closed:
                raise EOFError
            if self.opening and helper.pid not in self.opened:
                asked(helper, *self.opening)
                self.opened.add(helper.pid)
            answer = asked(helper, work, arguments)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError):  # of a closed pipe
            helper = None
            if self.is_closed:
                raise
            answer = work(*arguments)
        finally:
            self.free.put(helper)
        return answer

    def close(self) -> None:
        """Let them end; what they are asked has no answer then."""
        with self.starting:
            self.is_closed = True
        for helper in filter(None, self.helpers):
            helper.kill()
            helper.communicate()
