"""A file while it is written: beside the one that it is to become, under a name of its own, locked by its writer.

The lock goes with the process that holds it, however that ends: what lies there unlocked nobody will finish, and the
next start sweeps it away.
"""

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # no such locks on this system: nothing is swept there
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".partial"
# Between two times that a long run keeps what it has found.
EVERY_S = 5.0
# As mkstemp names them: a dot, the name, a dot, eight characters.
PATTERN = f".*.????????{SUFFIX}"
# Of a file system that has no second names for a file.
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)


def begin(path: Path) -> tuple[int, Path]:
    """Create the file that is to become another, and the folder of both; returns its descriptor and its name."""
    import tempfile

    make_folder(path.parent)
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=SUFFIX)
        if lock(handle) is not False and Path(name).exists():
            return handle, Path(name)
        os.close(handle)  # swept away before it was locked


def lock(handle: int) -> bool | None:
    """Lock an open file without waiting; False where another process has, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def finish(handle: int, partial: Path, path: Path, *, is_new: bool) -> None:
    """Have what was written take its name, on disk before this returns. is_new: refuse a name that is there by now.

    Raises:
        FileExistsError: It is.
    """
    os.fsync(handle)
    umask = os.umask(0)
    os.umask(umask)
    partial.chmod(0o666 & ~umask)
    if is_new:
        try:
            os.link(partial, path)
            partial.unlink()
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            is_new = False
    if not is_new:
        partial.replace(path)
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, each on disk before this returns."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder reach the disk, where the system can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what processes that ended have left unfinished in a folder; what is being written stays."""
    for path in folder.glob(PATTERN):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if lock(handle):
                    path.unlink()
            finally:
                os.close(handle)


class NowAndThen:
    """Keeps what a long run has found so far, every few seconds: what is killed then has lost no more than that."""

    def __init__(self, keep: Callable[[Any], object] | None) -> None:
        self.keep, self.kept_s = keep, time.monotonic()

    def __call__(self, found: Callable[[], Any]) -> None:
        """Keep what a function returns, if it is time."""
        if self.keep is not None and time.monotonic() - self.kept_s >= EVERY_S:
            self.keep(found())
            self.kept_s = time.monotonic()
