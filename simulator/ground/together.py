"""Files that one command writes together: which of them the same command, killed between two, has written already.

Until the last of them is written a file beside the first names those that are, a line each, with what they hold. The
same command goes on over them without being told to overwrite; anything else that lies there is refused as ever. The
file is locked by its process: one that nobody holds, and that is of another command, is swept away as what is half
written is.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .partial import SUFFIX, lock

MIDDLE = "together"


def marker_of(path: str) -> Path:
    """Return the name of the file that lies beside the first of some files."""
    return Path(path).with_name(f".{Path(path).name}.{MIDDLE}{SUFFIX}")


def file_sha256(path: str | Path) -> str:
    """Return the hash of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Together:
    """The command of this process: its words, the files it is to write, those that it has not, and what names these."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.names: list[str] = []
        self.missing: set[str] = set()
        self.handle: int | None = None

    def start(self, words: Sequence[str]) -> None:
        """Begin with a command's words, but for what tells it to overwrite."""
        self.close()
        self.words, self.names, self.missing = [word for word in words if word != "--force"], [], set()

    def expect(self, paths: Sequence[Path]) -> set[str]:
        """Say what is to be written; returns the real names of what the same command has written of it."""
        self.names = [os.path.realpath(path) for path in paths]
        self.missing = set(self.names) if self.words and len(self.names) > 1 else set()
        if not self.missing:
            return set()
        with suppress(OSError, ValueError):
            told = [json.loads(line) for line in marker_of(self.names[0]).read_bytes().split(b"\n")[:-1]]
            own = {of["file"]: of["sha256"] for of in told if of["words"] == self.words and of["file"] in self.missing}
            if own and self.open():
                return {name for name, told in own.items() if Path(name).is_file() and file_sha256(name) == told}
        return set()

    def open(self) -> bool:
        """Open the file that names what is written, and keep it from being swept; whether no other process has."""
        if self.handle is None:
            self.handle = os.open(marker_of(self.names[0]), os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o666)
            if lock(self.handle) is False:
                self.close()
        return self.handle is not None

    def note(self, path: Path, partial: Path) -> None:
        """Write down, before a file takes its name, that it is ours: not of the last, behind which none is missing."""
        name = str(path)
        if self.missing - {name} and name in self.names:
            with suppress(OSError):  # the files themselves matter more
                if self.open() and self.handle is not None:
                    of = {"words": self.words, "file": name, "sha256": file_sha256(partial)}
                    os.write(self.handle, json.dumps(of).encode() + b"\n")
                    os.fsync(self.handle)

    def settle(self, path: Path) -> None:
        """Take note that a file has its name; with the last of them nothing has to be known of the others."""
        self.missing.discard(str(path))
        if not self.missing:
            self.end()

    def end(self) -> None:
        """Leave nothing behind of a command that has come to its end."""
        if self.handle is not None:
            with suppress(OSError):
                marker_of(self.names[0]).unlink()
        self.close()

    def close(self) -> None:
        """Let others have the file that names what is written."""
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None


together = Together()
