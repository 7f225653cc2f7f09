"""The command `validate`: parse, forecast, write, print."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError, check_outputs, to_json, write_json
from simulator.ground.command import FILE, command, say

from .live_options import live_options, plan_of, taken_live_options
from .served import Served, served_options, taken
from .serving import ROWS, loads_from, named, one_or_rows, refuse_rows, row_options

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from calibration.validate.rows import Validation

EXIT_BOUND_BROKEN = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateOptions:
    """The options but for those of --live; refuses those that do not go together, and an output in the way."""

    decode: Path | None
    passes: Path | None
    serving: tuple[Path, ...]
    rows: Mapping[str, Any]
    served: Served
    profile: Path | None
    hist: Path | None
    live: bool
    methods: bool
    published: bool
    decisions: bool
    files: tuple[Path, ...]
    max_error: float | None
    summary: bool
    as_json: bool
    out: Path | None
    plot: Path | None
    force: bool

    def __post_init__(self) -> None:
        """Refuse what can be refused before anything is read."""
        from simulator.ground.pictures import check_format

        self.check_ways()
        if self.max_error is not None and not 0 <= self.max_error <= 10:  # NaN is neither
            raise UserError(f"--max-error: {self.max_error:g} is not allowed, expected a fraction from 0 to 10")
        if self.out and self.out.suffix != ".json":
            raise UserError(f"--out {self.out}: suffix {self.out.suffix!r}, expected .json")
        check_format(self.plot)
        inputs: dict[str, Path | None] = {f"--published-file {file}": file for file in self.files}
        inputs |= {"DECODE": self.decode, "--passes": self.passes}
        inputs |= {f"--serving {path}": path for path in self.serving}
        inputs |= {f"--serving-log {path}": path for path in self.served.logs}
        inputs |= {"--profile": self.profile, "--hist": self.hist}
        check_outputs({"--out": self.out, "--plot": self.plot}, self.force, inputs)

    def check_ways(self) -> None:
        """Refuse several things to check at once, and what does not go with the one."""
        files = [path is not None for path in (self.decode, self.passes)]
        inputs = [*files, bool(self.serving), bool(self.served), self.live, self.published or bool(self.files)]
        inputs.append(self.decisions)
        if sum(inputs) != 1:
            count = "several" if any(inputs) else "nothing"
            ways = "DECODE, --passes, --serving, --serving-log, --server, --live, --decisions, --published or"
            ways += " --published-file"
            raise UserError(f"{count} to check, expected one of {ways}")
        for name, path in {"DECODE": self.decode, "--passes": self.passes}.items():
            if path is not None and not path.exists():
                raise UserError(f"{name} {path}: no such file")
        self.check_rows()
        for name, path in {"profile": self.profile, "hist": self.hist}.items() if not self.of_servers else ():
            if path is not None and self.decode is None and self.passes is None:
                raise UserError(f"--{name} {path}: without DECODE or --passes, expected either beside it")
            if path is None and self.passes is not None:
                both = "expected --profile FILE and --hist FILE beside it"
                raise UserError(f"--passes {self.passes}: no --{name}, {both}")
        if self.methods and not (self.live or (self.decode is not None and self.profile is None and self.hist is None)):
            raise UserError("--methods: expected --live, or DECODE without --profile and --hist beside it")
        if self.decode is not None and self.profile is None and not self.methods:
            raise UserError(f"{self.decode}: no profile to forecast it with, expected --profile FILE beside it")

    @property
    def of_servers(self) -> str:
        """What of servers is checked, in words; empty where that is none."""
        return f"--serving {self.serving[0]}" if self.serving else self.served.option if self.served else ""

    def check_rows(self) -> None:
        """Refuse options of rows of a server without these, and rows without a profile."""
        if not self.serving:
            refuse_rows(self.rows, "--serving FILE")
        if self.of_servers and self.hist is not None:
            raise UserError(f"--hist {self.hist}: beside {self.of_servers}, expected no such option")
        if self.of_servers and self.profile is None:
            raise UserError(f"{self.of_servers}: expected --profile FILE beside it, or the name of a device")


@command("validate")
@click.argument("decode", type=FILE, nargs=-1, metavar="[DECODE]")
@click.option("--passes", type=FILE, help="Passes of bench-decode time-passes, in place of DECODE.")
@click.option(
    "--serving",
    type=FILE,
    multiple=True,
    metavar="FILE|FOLDER",
    help="Rows of load tests, in place of DECODE: CSV, or JSON of a bench; several files, or again.",
)
@row_options
@served_options
@click.option(
    "--profile",
    type=FILE,
    help="What calibrate wrote; with --serving, --serving-log and --server the name of a device too.",
)
@click.option(
    "--hist", type=FILE, help="With DECODE or --passes: histograms, a file or folder.  [default: DECODE's own]"
)
@click.option("--live", is_flag=True, help="Measure, decode, fit and forecast on this machine, with the bundled pair.")
@click.option(
    "--methods",
    is_flag=True,
    help="With --live or DECODE of bench-decode --time-parts: forecast every method from parts of its rounds.",
)
@click.option("--published", is_flag=True, help="Check the forecasts of the published results that come with specsim.")
@click.option(
    "--decisions", is_flag=True, help="Hold what advise takes against the best of the ways that others measured."
)
@click.option(
    "--published-file", "files", type=FILE, multiple=True, metavar="FILE", help="Check cases of your own; repeatable."
)
@click.option(
    "--max-error",
    type=click.FloatRange(0, 10),
    metavar="FRACTION",
    help="Bound on the error of each forecast row, such as 0.05, in place of the stated bounds.",
)
@click.option("--summary", is_flag=True, help="Of published results, print only a line for each case.")
@live_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--out", type=FILE, help="Write the result as .json.")
@click.option("--plot", type=FILE, help="Draw forecast against measurement, .png or .svg.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def validate(**values: Any) -> int:
    """Hold forecasts against measurements, and print the error of every row.

    DECODE is a file of bench-decode: the profile forecasts its rows. With --published costs are fitted on some rows of
    a table; the others are forecast from their acceptance. Exit code 1 if a forecast row is beyond its bound; of real
    decoding, if the median error is above 5 %, the 90th percentile above 10 %, or the forecast's best K more than 2 %
    slower than the measured best; of timed passes, if the median error is above 8 %; of --serving, if the median error
    of the time a token is above --max-error; of --serving-log and --server, if the median error of the time a token is
    above 6 % (P99: 15 %), of the first token above 20 %, of tokens/s or the gain of speculation above 5 %, or a gain
    beyond 5 % has the other sign; of --methods, if the median error is above 5 %, or the forecast's best
    method more than 3 % slower than the measured best; of --decisions, if more than one in six are, of
    those that nothing was changed for.
    """
    served = taken(values)
    rows = {name: values.pop(name) for name in ROWS if name != "dtype"}
    if values["serving"]:
        # Of rows it is no option of --live.
        rows["dtype"], values["dtype"] = values["dtype"], None
    values["decode"], values["serving"] = one_or_rows(values["decode"], values["serving"])
    live, others = taken_live_options(values, live=values["live"])
    options = ValidateOptions(rows=rows, served=served, **others)
    if options.served:
        return run_served(options)
    if options.serving:
        return run_serving(options)
    if options.methods:
        return run_methods(options, live)
    if options.live:
        return run_live(options, live)
    if options.decisions:
        return run_decisions(options)
    return run_published(options) if options.published or options.files else run_rows(options)


def run_decisions(options: ValidateOptions) -> int:
    """Check what `advise` takes."""
    from calibration.published.decisions import decisions
    from calibration.validate.regret import LITTLE, decisions_json, decisions_text, holds
    from simulator.cli.running import running

    from .decisions import chosen

    there, found = decisions(), []
    with running("validate", "decisions", len(there), len(there)) as update:
        for decision in there:
            found.append(chosen(decision))
            update(1)
    most = LITTLE if options.max_error is None else options.max_error
    payload = decisions_json(found, most, {"decisions": True, "max_error": options.max_error})
    deliver(payload, decisions_text(found, most), None, options)
    return 0 if holds(found, most) else EXIT_BOUND_BROKEN


def run_published(options: ValidateOptions) -> int:
    """Check tables of results."""
    from calibration.published.cases import collect_cases
    from calibration.validate.published.fit import validate_case
    from calibration.validate.published.plots import validation_figure
    from calibration.validate.published.report import result_json, result_text, summary_text

    results = [validate_case(case, options.max_error) for case in collect_cases(options.files, options.published)]
    parameters = {"published": options.published, "published_files": [str(file) for file in options.files]}
    payload = result_json(results, parameters | {"max_error": options.max_error})
    text = summary_text(results) if options.summary else result_text(results)
    deliver(payload, text, lambda: validation_figure(results), options)
    return 0 if all(result.holds for result in results) else EXIT_BOUND_BROKEN


def run_rows(options: ValidateOptions) -> int:
    """Check the rows of a results file, or those that timed passes make."""
    from calibration.validate.decode import validate_decode
    from calibration.validate.passes import validate_passes
    from calibration.validate.row_report import decode_json, rows_json

    assert options.profile is not None
    paths = {"profile": options.profile, "hist": options.hist}
    if options.decode is not None:
        paths["decode"] = options.decode
        validation = validate_decode(options.decode, options.profile, options.hist)
    else:
        assert options.passes is not None
        assert options.hist is not None
        paths["passes"] = options.passes
        validation = validate_passes(options.passes, options.profile, options.hist)
    parameters = {name: path and str(path) for name, path in paths.items()} | {"max_error": options.max_error}
    if options.decode is not None:
        return deliver_rows(validation, decode_json(validation, parameters), options)
    return deliver_rows(validation, rows_json("pass_validation", validation, parameters), options)


def run_serving(options: ValidateOptions) -> int:
    """Check forecasts of rows of a server."""
    from calibration.fit.serving_report import errors_of
    from calibration.validate.serving import serving_figure, serving_json, serving_text, validate_serving
    from simulator.costs.profile_file import load_profile

    assert options.profile is not None
    profile = load_profile(options.profile)
    validation = validate_serving(loads_from(options.serving, profile, options.rows), profile)
    median, most = errors_of(validation.tpot).median_error, options.max_error
    holds = most is None or (median is not None and median <= most)
    parameters = {"serving": named(options.serving), "profile": str(options.profile), **options.rows, "max_error": most}
    payload = serving_json(validation, parameters) | {"holds": holds}
    deliver(payload, serving_text(validation), lambda: serving_figure(validation, failed=not holds), options)
    return 0 if holds else EXIT_BOUND_BROKEN


def run_served(options: ValidateOptions) -> int:
    """Check forecasts of loads of real servers, request for request."""
    from calibration.validate.served.plots import served_figure
    from calibration.validate.served.report import headline, served_json, served_text

    from .served import validation_of

    assert options.profile is not None
    validation, told = validation_of(options.served, options.profile, options.max_error)

    def draw() -> "Figure":
        return served_figure(validation, headline(validation), failed=not validation.holds)

    payload = served_json(validation, told | {"max_error": options.max_error})
    deliver(payload, served_text(validation), draw, options)
    return 0 if validation.holds else EXIT_BOUND_BROKEN


def run_methods(options: ValidateOptions, live: Mapping[str, Any]) -> int:
    """Check forecasts of all methods from parts of their rounds, of a file or live."""
    from calibration.validate.live import validate_live_methods
    from calibration.validate.method_plots import method_figure
    from calibration.validate.method_report import headline, method_json, method_text
    from calibration.validate.methods import validate_methods

    parameters: dict[str, Any] = {"methods": True, "max_error": options.max_error}
    if options.decode is not None:
        parameters["decode"] = str(options.decode)
        validation = validate_methods([options.decode])
    else:
        plan = plan_of(live, methods=True)
        parameters |= {"live": True} | {name: str(value) for name, value in asdict(plan).items()}
        with kept_if_interrupted(plan.folder):
            validation = validate_live_methods(plan, lambda text: click.echo(f"validate: {text}", err=True))
    holds = validation.verdict.holds(validation.bounds, options.max_error)

    def draw() -> "Figure":
        return method_figure(validation.rows, headline(validation, options.max_error), failed=not holds)

    deliver(method_json(validation, parameters), method_text(validation, options.max_error), draw, options)
    return 0 if holds else EXIT_BOUND_BROKEN


@contextmanager
def kept_if_interrupted(folder: Path) -> Iterator[None]:
    """Say where an interrupted run goes on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what is done is kept in {folder}, the same command goes on") from None


def run_live(options: ValidateOptions, live: Mapping[str, Any]) -> int:
    """Run the whole chain, and check what it forecast."""
    from calibration.fit.calibrate import EXIT_FAILED_CHECKS
    from calibration.validate.live import FitFailed, validate_live
    from calibration.validate.row_report import decode_json, measured_json, measured_text

    plan = plan_of(live)
    parameters: dict[str, Any] = {"live": True} | {name: str(value) for name, value in asdict(plan).items()}
    parameters["max_error"] = options.max_error
    try:
        with kept_if_interrupted(plan.folder):
            validation = validate_live(plan, lambda text: click.echo(f"validate: {text}", err=True))
    except FitFailed as error:
        payload, text = measured_json(error.logs, error.reasons, parameters), measured_text(error.logs)
        deliver(payload, text, None, options)
        for reason in error.reasons:
            click.echo(f"validate: {reason}; take more prompts and another --out-dir", err=True)
        return EXIT_FAILED_CHECKS
    return deliver_rows(validation, decode_json(validation, parameters), options)


def deliver_rows(validation: "Validation", payload: Mapping[str, Any], options: ValidateOptions) -> int:
    """Write the files and print; return the exit code."""
    from calibration.validate.row_plots import decode_figure
    from calibration.validate.row_report import headline, validation_text

    holds = validation.verdict.holds(validation.bounds, options.max_error)

    def draw() -> "Figure":
        return decode_figure(validation.rows, headline(validation, options.max_error), failed=not holds)

    deliver(payload, validation_text(validation, options.max_error), draw, options)
    return 0 if holds else EXIT_BOUND_BROKEN


def deliver(
    payload: Mapping[str, Any], text: str, draw: "Callable[[], Figure] | None", options: ValidateOptions
) -> None:
    """Write the files and print; without `draw` there is nothing to draw."""
    from simulator.ground.pictures import save_figure

    written = [options.out] if options.out else []
    if options.out:
        write_json(options.out, payload)
    if options.plot and draw:
        save_figure(options.plot, draw())
        written.append(options.plot)
    if options.as_json:
        click.echo(to_json(payload), nl=False)
    else:
        say(text)
        for path in written:
            click.echo(f"wrote {path}")


if __name__ == "__main__":
    validate(prog_name="validate")
