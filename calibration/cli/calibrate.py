"""The command `calibrate`: parse, fit, check, write, print."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError, check_outputs, read_bytes, to_json, write_json
from simulator.ground.command import FILE, command, say

from .from_server import are_loads, run_servers, server_options
from .serving import (
    ROWS,
    digest_of,
    named,
    one_or_rows,
    refuse_rows,
    row_options,
    run_calibration,
    sheet_option,
    weights_option,
)

if TYPE_CHECKING:
    from calibration.fit.calibrate import Calibration
    from simulator.costs.profile import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateOptions:
    """The options as they were given; refuses those that do not go together, and an output in the way."""

    probe: Path | None
    from_decode: Path | None
    from_passes: Path | None
    from_serving: tuple[Path, ...]
    profile: Path | None
    servers: tuple[str, ...]
    draft_model: str | None
    clients: str | None
    seconds: float | None
    rows: Mapping[str, Any]
    fit_k: str | None
    out: Path
    name: str | None
    report: Path | None
    plot: Path | None
    compare: Path | None
    as_json: bool
    force: bool

    def __post_init__(self) -> None:
        """Refuse what can be refused before anything is read."""
        from simulator.ground.pictures import check_format

        sources = {"PROBE": self.probe, "--from-decode": self.from_decode, "--from-passes": self.from_passes}
        if sum(path is not None for path in sources.values()) + bool(self.from_serving) + bool(self.servers) != 1:
            files = "--from-decode FILE, --from-passes FILE, --from-serving FILE or --from-server URL"
            raise UserError(f"expected either PROBE, a file of probe-gpu, {files}")
        if self.fit_k is not None and (self.probe is not None or self.from_serving or self.servers):
            raise UserError(f"--fit-k: {self.fit_k} without --from-decode or --from-passes, expected one of them")
        self.check_rows()
        for flag, path in (("--out", self.out), ("--report", self.report)):
            if path is not None and path.suffix != ".json":
                raise UserError(f"{flag} {path}: suffix {path.suffix!r}, expected .json")
        check_format(self.plot)
        outputs = {"--out": self.out, "--report": self.report, "--plot": self.plot}
        sources |= {f"--from-serving {path}": path for path in self.from_serving}
        check_outputs(outputs, self.force, sources | {"--compare": self.compare})

    def check_rows(self) -> None:
        """Refuse what does not go with rows of a server, and what goes with them alone."""
        if not self.servers:
            for name in ("clients", "seconds"):
                if (value := getattr(self, name)) is not None:
                    raise UserError(f"--{name}: {value} without --from-server URL, expected it beside")
        if not self.has_loads and self.draft_model is not None:
            expected = "files of bench-server" if self.from_serving else "--from-server URL"
            raise UserError(f"--draft-model: {self.draft_model} without a load of servers, expected {expected}")
        if not self.from_serving and not self.servers:
            refuse_rows(self.rows, "--from-serving FILE")
            if self.profile is not None:
                raise UserError(f"--profile: {self.profile} without --from-serving FILE, expected it beside")
        elif self.compare is not None:
            option = "--from-serving" if self.from_serving else "--from-server"
            raise UserError(f"--compare: {self.compare} beside {option}, expected profiles compare A B after it")
        elif self.profile is None and not self.has_loads:
            raise UserError(f"--from-serving {self.from_serving[0]}: no device, expected --profile NAME beside it")

    @property
    def has_loads(self) -> bool:
        """Whether a load on servers is fitted, in place of rows."""
        return bool(self.servers) or are_loads(self.from_serving)

    @property
    def parameters(self) -> dict[str, Any]:
        """What files say of where they come from."""
        parameters = {
            "probe": self.probe and str(self.probe),
            "from_decode": self.from_decode and str(self.from_decode),
            "fit_k": self.fit_k,
        }
        if self.from_serving:
            return parameters | {"from_serving": named(self.from_serving), "rows_sha256": digest_of(self.from_serving)}
        if self.from_passes is None:
            return parameters
        digest = sha256(read_bytes(self.from_passes)).hexdigest()
        return parameters | {"from_passes": str(self.from_passes), "passes_sha256": digest}


@command("calibrate")
@click.argument("probe", type=FILE, nargs=-1, metavar="[PROBE]")
@click.option("--from-decode", type=FILE, help="Results of bench-decode, in place of a probe: costs of that pair.")
@click.option("--from-passes", type=FILE, help="Passes of bench-decode time-passes, in place of a probe.")
@click.option(
    "--from-serving",
    type=FILE,
    multiple=True,
    metavar="FILE|FOLDER",
    help="Rows of load tests, in place of a probe: CSV, or JSON of a bench; several files, or again.",
)
@server_options
@sheet_option
@row_options
@weights_option
@click.option("--fit-k", metavar="VALUES", help="Without PROBE: draft lengths to fit, the others stay unseen.")
@click.option("--out", "-o", type=FILE, default=Path("profile.json"), help="The profile.")
@click.option("--name", help="What to call it.  [default: the name of --out]")
@click.option("--report", type=FILE, help="Write every fit with its diagnostics as .json, passed or not.")
@click.option("--plot", type=FILE, help="Draw measured against fitted times and the residuals, .png or .svg.")
@click.option("--compare", type=FILE, help="An earlier profile: say what is faster or slower now.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def calibrate(**values: Any) -> int:
    """Fit what passes cost on a device to what was timed there, and write it as a profile.

    PROBE is a file of probe-gpu; a file of bench-decode may stand in its place. Some of its points are held out, and
    tell how well the fit forecasts. With --from-serving five to ten rows of concurrency, isl, osl and tpot_ms (and
    ttft_ms, tp, dtype ...) are fitted, with the data sheet of --profile as the prior. With --from-server, or files of
    bench-server, steps of servers are, and nothing has to be known of the device. Exit code 3 if no fit passes its
    checks: then no profile is written, and --report has the partial estimate.
    """
    rows = {name: values.pop(name) for name in ROWS}
    values["probe"], values["from_serving"] = one_or_rows(values["probe"], values["from_serving"])
    options = CalibrateOptions(rows=rows, **values)
    return run_servers(options) if options.has_loads else run(options)


def run(options: CalibrateOptions) -> int:
    """Fit, write, print; return the exit code."""
    from calibration.fit.calibrate import EXIT_FAILED_CHECKS
    from calibration.fit.plots import fit_figure
    from calibration.fit.report import comparison_json, report_json, report_text
    from simulator.costs.profile_file import load_profile, save_profile
    from simulator.ground.pictures import save_figure

    if options.from_serving and options.profile is not None:
        name = options.name or options.out.stem
        return run_calibration(options.from_serving, options.profile, options.rows, name, options)
    before = load_profile(options.compare) if options.compare else None
    calibration = fitted(options)
    payload = report_json(calibration.fits, options.parameters)
    if before is not None and calibration.profile is not None:
        payload["comparison"] = comparison_json(before, calibration.profile)
    if options.report:
        write_json(options.report, payload)
    if options.plot:
        source = options.probe or options.from_decode or options.from_passes
        save_figure(options.plot, fit_figure(calibration.fits, str(source)))
    if options.as_json:
        click.echo(to_json(payload), nl=False)
    else:
        say(report_text(calibration.fits))
    for name, checked in calibration.fits.items():
        if not checked.passed:
            click.echo(f"calibrate: {name}: left out, {'; '.join(checked.reasons)}", err=True)
    if calibration.profile is None:
        click.echo(f"calibrate: no fit passes its checks, {options.out} is not written", err=True)
        return EXIT_FAILED_CHECKS
    save_profile(options.out, calibration.profile, options.parameters)
    if not options.as_json:
        say_profile(calibration.profile, before, options)
    return 0


def fitted(options: CalibrateOptions) -> "Calibration":
    """Return what the file that was given allows."""
    from calibration.fit.calibrate import calibrate_decode, calibrate_passes, calibrate_probe
    from calibration.fit.lengths import parse_lengths

    name = options.name or options.out.stem
    if options.probe is not None:
        return calibrate_probe(options.probe, name)
    lengths = None if options.fit_k is None else parse_lengths("--fit-k", options.fit_k)
    if options.from_decode is not None:
        return calibrate_decode(options.from_decode, name, lengths)
    assert options.from_passes is not None
    return calibrate_passes(options.from_passes, name, lengths)


def say_profile(profile: "Profile", before: "Profile | None", options: CalibrateOptions) -> None:
    """Print what is in the profile besides fits, how it compares, and what was written."""
    from calibration.fit.report import comparison_text, pair_text

    if profile.decoding is not None:
        say(pair_text(profile))
    if before is not None:
        say(comparison_text(before, profile))
    for path in (options.out, options.report, options.plot):
        if path:
            click.echo(f"wrote {path}")


if __name__ == "__main__":
    calibrate(prog_name="calibrate")
