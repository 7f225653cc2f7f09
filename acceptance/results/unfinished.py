"""The unfinished measurement: what is done of it, batch by batch, in one file beside its results until all are written.

Its last step is to remove that file. Killed at any moment, the same command goes on to the same bytes.
"""

import base64
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from acceptance.trace.trace import PromptInfo, Trace, load_arrays, save_arrays
from simulator.ground.artefacts import UserError, envelope

from .journal import Journal, JournalKind, read_records

KIND = JournalKind(
    name="unfinished_measurement",
    versions=(3,),  # of the arrays that batches hold
    command="measure-acceptance",
    option="--out-dir",
    work="measurement",
    more_words="another folder",
)
FILE = "unfinished.jsonl"


class Unfinished:
    """The file of finished batches; one process at a time works in its folder."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder / FILE, KIND)
        self.batches: dict[int, Any] = {}

    @property
    def path(self) -> Path:
        """The file."""
        return self.journal.path

    @property
    def is_open(self) -> bool:
        """Whether a measurement is at work, or has all but written its end."""
        return self.journal.file is not None

    @property
    def outputs(self) -> set[str]:
        """Real names of what an interrupted measurement was to write: what is there of it is its own."""
        try:
            there = read_records(self.path, KIND)[0][0].get("outputs") if self.path.exists() else []
        except UserError:
            return set()
        names = there if isinstance(there, list) else []
        own = set()
        for name in names:
            with suppress(ValueError):  # no file can have this name
                own.add(os.path.realpath(self.path.parent / str(name)))
        return own

    def hold(self, check: Callable[[], None]) -> None:
        """Keep other processes out; then see once more whether anything is in the way of what is to be written."""
        self.journal.hold()
        try:
            check()
        except UserError:
            (self.close if self.path.stat().st_size else self.remove)()
            raise

    def open(self, parameters: Mapping[str, Any], outputs: Iterable[Path] = (), *, force: bool = False) -> int:
        """Start anew, or go on where the same measurement stopped, with force too; return the batches that are done.

        Args:
            parameters: What decides the numbers.
            outputs: What it is to write.
            force: Throw away what is there of another measurement.

        Raises:
            UserError: What is there is another's, or another process is at work in it.
        """
        names = [os.path.relpath(path, self.path.parent) for path in outputs]
        header = envelope(KIND.name, KIND.versions[-1], parameters) | {"outputs": names}
        records = self.journal.open(header, force=force, same_stays=True)
        self.batches = {r["number"]: r.get("npz") for r in records if isinstance(r.get("number"), int)}
        return len(self.batches)

    def load(self, number: int, prompts: tuple[PromptInfo, ...]) -> Trace | None:
        """Return a batch that is done; None where it is not, or where its record is broken."""
        try:
            return load_arrays(BytesIO(base64.b64decode(self.batches[number], validate=True)), prompts)
        except (KeyError, TypeError, ValueError):
            return None

    def save(self, number: int, trace: Trace) -> None:
        """Keep a batch."""
        file = BytesIO()
        save_arrays(file, trace)
        self.journal.append({"kind": "batch", "number": number, "npz": base64.b64encode(file.getvalue()).decode()})

    def close(self) -> None:
        """Let others work here; what is done stays."""
        self.journal.close()

    def remove(self) -> None:
        """Remove what was kept, now that all is written."""
        self.journal.remove()
