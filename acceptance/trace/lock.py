"""One process at a time at a piece of work: a lock that goes with the process that holds it, however it ends."""

from pathlib import Path

from filelock import FileLock, Timeout

from simulator.ground.artefacts import UserError


class Lock:
    """A lock file, there while a process is at work; where the file system has no locks, nobody is kept out."""

    def __init__(self, path: Path, busy: str) -> None:
        """Name the file, and what to say where another process holds it."""
        self.file, self.busy = FileLock(path, timeout=0, thread_local=False), busy

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
