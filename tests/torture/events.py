"""What a process does to files of one folder, event by event, and its death, or a full disk, before any of them.

A process is forked off one that has imported everything: it is a real one, is really killed, and starts at once.
"""

import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

FILE_EVENTS = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
MOST_S = 120
FREEING = ("os.remove", "os.rmdir", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a process ended: its exit code (negative: a signal), what it said, and its events up to then."""

    code: int
    said: str
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong before event `at`, from 0.

    how: "kill" this process, half of what is to be written there; "term": ask it to end; "full": the disk is, from
    there on.
    """

    at: int
    how: str = "kill"


class Events:
    """Counts what happens to the files of a folder, up to a fault."""

    def __init__(self, folder: Path, log: Path, fault: Fault | None) -> None:
        self.folder, self.fault, self.count = os.path.realpath(folder), fault, 0
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.write, self.fsync = os.write, os.fsync

    def watch(self) -> None:
        """Begin; there is no end to it."""
        os.write, os.fsync = self.seen_write, self.seen_fsync
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take an event of the interpreter's."""
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITING:
                self.happen(event, path)
        elif event in FILE_EVENTS:
            self.happen(event, arguments[0])

    def seen_fsync(self, handle: int) -> None:
        self.happen("fsync", handle)
        self.fsync(handle)

    def seen_write(self, handle: int, data: bytes) -> int:
        self.happen("write", handle, data)
        return self.write(handle, data)

    def happen(self, event: str, what: Any, data: bytes = b"") -> None:
        """Count an event, or die before it; of what was to be written half is there then."""
        by_handle = isinstance(what, int)
        # No path is resolved: what a link points to is an event of its own.
        path = str(Path(f"/proc/self/fd/{what}").readlink() if by_handle else Path(os.fsdecode(what)).absolute())
        if path != self.folder and not path.startswith(self.folder + os.sep):
            return
        fault, here = self.fault, self.fault is not None and self.count == self.fault.at
        if here and data and fault.how != "term":
            self.write(what, data[: len(data) // 2])
        if here and fault.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault is not None and fault.how == "full" and self.count >= fault.at and event not in FREEING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.count += 1
        self.write(self.log, f"{event} {os.path.relpath(path, self.folder)}\n".encode())
        if here and fault.how == "term":
            os.kill(os.getpid(), signal.SIGTERM)


def run(work: Callable[[], Any], folder: Path, beside: Path, fault: Fault | None = None) -> Ended:
    """Run some work in a process of its own, in a folder; `beside` is for what it says."""
    beside.mkdir(exist_ok=True)
    log, said = beside / "events", beside / "said"
    child = os.fork()
    if child == 0:
        work_and_leave(work, folder, log, said, fault)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(code=code, said=said.read_text(), events=tuple(log.read_text().splitlines()))


def work_and_leave(work: Callable[[], Any], folder: Path, log: Path, said: Path, fault: Fault | None) -> NoReturn:
    """Work in the folder, heard and told of, and end the process."""
    code = 70
    signal.alarm(MOST_S)
    try:
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.chdir(folder)
        Events(folder, log, fault).watch()
        code = work() or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
    except BaseException as error:
        os.write(2, json.dumps(repr(error)).encode())
    finally:
        sys.stdout.flush()
        os._exit(code)
