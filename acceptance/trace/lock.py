"""One process at a time at a piece of work: a lock that goes with the process that holds it, however it ends."""

from pathlib import Path

from filelock import FileLock, Timeout

from simulator.ground.artefacts import UserError
from simulator.ground.partial import SUFFIX

MIDDLE = "lockfile"


class Lock:
    """A lock file, there while a process is at work; where the file system has no locks, nobody is kept out.

    One that a killed process left is swept away as its other files are.
    """

    def __init__(self, path: Path, busy: str) -> None:
        """Name the file that is worked at, and what to say where another process is at it."""
        beside = path.with_name(f".{path.name}.{MIDDLE}{SUFFIX}")
        self.file, self.busy = FileLock(beside, timeout=0, thread_local=False), busy

    def take(self) -> None:
        """Keep other processes out until this one ends, or releases it."""
        try:
            self.file.acquire()
            while not Path(self.file.lock_file).exists():  # the one before removed it between our opening and locking
                self.file.release()
                self.file.acquire()
        except Timeout:
            raise UserError(self.busy) from None
        except (OSError, NotImplementedError):
            pass

    def release(self) -> None:
        """Let others work, and leave no file behind."""
        if self.file.is_locked:
            Path(self.file.lock_file).unlink(missing_ok=True)
            self.file.release()
