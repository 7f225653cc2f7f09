"""The unfinished measurement: one file for each batch that is done, so that an interruption loses at most one batch."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.artefacts import UserError, check_kind, envelope, read_json_object, write_json

from .trace import PromptInfo, Trace, load_arrays, save_arrays

KIND = "unfinished_measurement"
SCHEMA_VERSIONS = (1,)
FOLDER = "unfinished"


@dataclass(frozen=True, slots=True)
class Parts:
    """A folder of finished batches beside what the measurement was told."""

    folder: Path

    @property
    def about(self) -> Path:
        """The file that says what was told."""
        return self.folder / "unfinished.json"

    def open(self, told: Mapping[str, Any], *, resume: bool, force: bool) -> None:
        """Start anew, or go on where the same measurement stopped.

        Args:
            told: What decides the numbers.
            resume: Go on with what is there.
            force: Throw away what is there.

        Raises:
            UserError: Something is there and neither was asked for, or it is another measurement's.
        """
        if self.about.exists() and resume:
            self.check_same(told)
            return
        if self.folder.exists() and not force:
            raise UserError(
                f"{self.folder}: an interrupted measurement lies here (--resume goes on with it, --force starts anew)"
            )
        shutil.rmtree(self.folder, ignore_errors=True)
        write_json(self.about, envelope(KIND, SCHEMA_VERSIONS[-1], told))

    def check_same(self, told: Mapping[str, Any]) -> None:
        """Refuse to go on with a measurement that was told something else."""
        found = read_json_object(self.about)
        check_kind(self.about, found, KIND, SCHEMA_VERSIONS)
        before = found.get("parameters")
        if not isinstance(before, dict):
            raise UserError(f"{self.about}: parameters is {before!r}, expected an object")
        for key in sorted(told.keys() | before.keys()):
            if told.get(key) != before.get(key):
                raise UserError(
                    f"--resume: {key} is {told.get(key)!r}, but {before.get(key)!r} in {self.about}; "
                    "expected the same measurement, or --force to start anew"
                )

    def path(self, number: int) -> Path:
        """Return the file of a batch."""
        return self.folder / f"batch-{number:06d}.npz"

    def load(self, number: int, prompts: tuple[PromptInfo, ...]) -> Trace | None:
        """Return a batch that is done, or None.

        Raises:
            UserError: Its file is broken.
        """
        path = self.path(number)
        return load_arrays(path, prompts) if path.exists() else None

    def save(self, number: int, trace: Trace) -> None:
        """Keep a batch."""
        save_arrays(self.path(number), trace)

    def close(self) -> None:
        """Remove the folder: the whole trace is written."""
        shutil.rmtree(self.folder)
