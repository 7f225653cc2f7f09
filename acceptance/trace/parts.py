"""The unfinished measurement: one file for each batch that is done, so that an interruption loses at most one batch."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from simulator.ground.artefacts import UserError, check_kind, envelope, write_json
from simulator.ground.fields import read_json_object

from .lock import Lock
from .trace import PromptInfo, Trace, load_arrays, save_arrays

KIND = "unfinished_measurement"
SCHEMA_VERSIONS = (1,)
FOLDER, LOCK = "unfinished", ".lock"


class Parts:
    """A folder of finished batches beside the measurement's parameters; one process at a time works in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = Lock(folder / LOCK, f"--out-dir: another measurement is at work in {folder}")

    @property
    def about(self) -> Path:
        """The file of the parameters."""
        return self.folder / "unfinished.json"

    def open(self, parameters: Mapping[str, Any], *, resume: bool, force: bool) -> None:
        """Start anew, or go on where the same measurement stopped.

        Args:
            parameters: What decides the numbers.
            resume: Go on with what is there.
            force: Throw away what is there.

        Raises:
            UserError: Something is there and neither was asked for, or it is another measurement's.
        """
        there = set() if not self.folder.is_dir() else {p.name for p in self.folder.iterdir()} - {LOCK}
        if self.folder.is_file() or (there and self.about.name not in there):
            raise UserError(f"--out-dir: {self.folder} is there already and not ours, expected another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock.take()
        if self.about.exists() and resume:
            self.check_same(parameters)
            return
        if self.about.exists() and not force:
            raise UserError(
                f"{self.folder}: an interrupted measurement lies here (--resume goes on with it, --force starts anew)"
            )
        self.clear()
        write_json(self.about, envelope(KIND, SCHEMA_VERSIONS[-1], parameters))

    def check_same(self, parameters: Mapping[str, Any]) -> None:
        """Refuse to go on with a measurement of other parameters."""
        about = read_json_object(self.about)
        check_kind(self.about, about, KIND, SCHEMA_VERSIONS)
        before = about.get("parameters")
        if not isinstance(before, dict):
            raise UserError(f"{self.about}: parameters is {before!r}, expected an object")
        for key in (*parameters, *sorted(before.keys() - parameters.keys())):
            if parameters.get(key) != before.get(key) and key.endswith("sha256"):
                raise UserError(
                    f"--resume: the prompts or texts are not those of {self.about}; "
                    "expected the same measurement, or --force to start anew"
                )
            if parameters.get(key) != before.get(key):
                raise UserError(
                    f"--resume: {key} is {parameters.get(key)!r}, but {before.get(key)!r} in {self.about}; "
                    "expected the same measurement, or --force to start anew"
                )

    def path(self, number: int) -> Path:
        """Return the file of a batch."""
        return self.folder / f"batch-{number:06d}.npz"

    def load(self, number: int, prompts: tuple[PromptInfo, ...]) -> Trace | None:
        """Return a batch that is done; None where it is not, or where its file is broken."""
        try:
            return load_arrays(self.path(number), prompts)
        except UserError:
            return None

    def save(self, number: int, trace: Trace) -> None:
        """Keep a batch."""
        save_arrays(self.path(number), trace)

    def close(self) -> None:
        """Remove what was kept, now that the whole trace is written, and let others work here."""
        self.clear()
        self.lock.release()
        with suppress(OSError):  # something else is in it
            self.folder.rmdir()

    def clear(self) -> None:
        """Remove what was kept."""
        for path in (*self.folder.glob("batch-*.npz"), *self.folder.glob(".batch-*.npz*"), self.about):
            path.unlink(missing_ok=True)
