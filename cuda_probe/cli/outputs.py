"""The files that a command which measures writes, checked before it measures anything."""

from dataclasses import dataclass
from pathlib import Path

from simulator.ground.artefacts import UserError, check_outputs
from simulator.ground.together import together

EXIT_WRONG_RESULT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Where the result goes (its raw samples beside it), its points as rows and its picture; and what is printed."""

    out: Path
    csv: Path | None
    plot: Path | None
    as_json: bool
    force: bool

    def check(self) -> None:
        """Refuse, before anything is measured, a suffix that is not the format's and a file that cannot be written."""
        from cuda_probe.probe.report import raw_path
        from simulator.ground.pictures import check_format

        for flag, path, suffix in (("--out", self.out, ".json"), ("--csv", self.csv, ".csv")):
            if path is not None and path.suffix != suffix:
                raise UserError(f"{flag} {path}: suffix {path.suffix!r}, expected {suffix}")
        check_format(self.plot)
        raw = raw_path(self.out)
        outputs = {"--out": self.out, "the raw samples of --out": raw, "--csv": self.csv, "--plot": self.plot}
        check_outputs(outputs, self.force)

    def kept(self) -> str:
        """Say what an interrupted run has kept; only what is told so overwrites it."""
        together.end()
        return f"what was measured is kept in {self.out}, with --force the same command begins anew"

    def written(self) -> str:
        """Name every file of the run, a line each."""
        from cuda_probe.probe.report import raw_path

        return "\n".join(f"wrote {path}" for path in (self.out, raw_path(self.out), self.csv, self.plot) if path)
