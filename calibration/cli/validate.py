"""The command `validate`: parse, load, fit and forecast, write, print."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError, check_outputs, to_json, write_json
from simulator.ground.command import command

from .live_options import check_live, live_options

if TYPE_CHECKING:
    from calibration.sources.decode_log import DecodeLog
    from calibration.validate.cases import Case
    from calibration.validate.decode_forecast import Row
    from calibration.validate.published_fit import CaseResult
    from simulator.costs.profile import Profile

FILE = click.Path(path_type=Path)
EXIT_BOUND_BROKEN = 1
EXIT_FAILED_CHECKS = 3


@command("validate")
@click.argument("decode", type=FILE, required=False)
@click.option("--passes", type=FILE, help="Passes of bench-decode time-passes, in place of DECODE.")
@click.option("--profile", type=FILE, help="With DECODE or --passes: what calibrate wrote from either.")
@click.option(
    "--hist", type=FILE, help="With DECODE or --passes: histograms, a file or folder.  [default: DECODE's own]"
)
@click.option("--live", is_flag=True, help="Measure, decode, fit and forecast on this machine, with the bundled pair.")
@click.option("--published", is_flag=True, help="Check the forecasts of the published results that come with specsim.")
@click.option(
    "--published-file", "files", type=FILE, multiple=True, metavar="FILE", help="Check cases of your own; repeatable."
)
@click.option(
    "--max-error",
    type=float,
    metavar="FRACTION",
    help="Bound on the error of each forecast row, such as 0.05, in place of the stated bounds.",
)
@click.option("--summary", is_flag=True, help="Of published results, print only a line for each case.")
@live_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--out", type=FILE, help="Write the result as .json.")
@click.option("--plot", type=FILE, help="Draw forecast against measurement, .png or .svg.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def validate(**options: Any) -> int:
    """Hold forecasts against measurements, and print the error of every row.

    DECODE is a file of bench-decode: the profile forecasts its rows. With --published costs are fitted on some rows of
    a table; the others are forecast from their acceptance. Exit code 1 if a forecast row is beyond its bound; of real
    decoding, if the median error is above 5 %, the 90th percentile above 10 %, or the forecast's best K more than 2 %
    slower than the measured best; of timed passes, if the median error is above 8 %.
    """
    check(options)
    if options["live"]:
        return validate_live(options)
    if options["decode"] is not None:
        return validate_decode(options)
    if options["passes"] is not None:
        return validate_passes(options)
    return validate_published(options)


def validate_published(options: Mapping[str, Any]) -> int:
    """Check tables of results."""
    from calibration.validate.published_fit import validate_case

    results = [validate_case(case, options["max_error"]) for case in load(options)]
    present(results, options)
    return 0 if all(result.holds for result in results) else EXIT_BOUND_BROKEN


def validate_decode(options: Mapping[str, Any]) -> int:
    """Check the rows of a results file."""
    from calibration.sources.decode_log import load_decode
    from calibration.validate.decode_forecast import check_fits, fitted_lengths, forecast_rows, own_acceptance
    from calibration.validate.live import pair_costs
    from simulator.costs.profile_file import load_profile
    from simulator.ground.histogram import load_histograms
    from simulator.ground.streams import stream
    from simulator.rounds.acceptance_law import HistogramAcceptance

    log = load_decode(options["decode"])
    profile = load_profile(options["profile"])
    costs = pair_costs(profile)
    acceptance = own_acceptance(log)
    if options["hist"] is not None:
        acceptance = HistogramAcceptance(load_histograms(options["hist"]))
    check_fits(log, costs.decoding, acceptance)
    rows = forecast_rows(log, costs, acceptance, fitted_lengths(log, costs.decoding), stream(0, 0, "validate"))
    told = {key: options[key] and str(options[key]) for key in ("decode", "profile", "hist")}
    return present_decode(rows, [], told, options, remarks(log, profile, options["hist"]))


def remarks(log: "DecodeLog", profile: "Profile", hist: Path | None) -> list[str]:
    """Say what the errors of a check are of."""
    said = []
    if hist is None:
        said.append(
            "acceptance is the run's own: the errors are of costs alone (--hist FILE for acceptance measured apart)"
        )
    pair = profile.decoding
    if pair is not None and pair.source_sha256 != log.sha256:
        said.append("the profile was fitted to another file: no row counts as fitted")
    if log.device != profile.device:
        said.append(f"the profile is of {profile.device}, the run of {log.device}")
    return said


def validate_passes(options: Mapping[str, Any]) -> int:
    """Check the rows that timed passes make."""
    from calibration.sources.passes import load_passes
    from calibration.validate.decode_forecast import judge
    from calibration.validate.pass_forecast import fitted_of, pass_rows
    from calibration.validate.pass_report import holds, result_json, result_text
    from simulator.costs.profile_file import load_profile
    from simulator.ground.histogram import load_histograms
    from simulator.ground.streams import stream
    from simulator.rounds.acceptance_law import HistogramAcceptance

    times, profile = load_passes(options["passes"]), load_profile(options["profile"])
    acceptance = HistogramAcceptance(load_histograms(options["hist"]))
    rows = pass_rows(times, profile, acceptance, fitted_of(options["profile"]), stream(0, 0, "validate"))
    verdict, bound = judge(rows), options["max_error"]
    told = {key: str(options[key]) for key in ("passes", "profile", "hist")} | {"max_error": bound}
    text = result_text(rows, verdict, bound)
    if not any(row.fitted for row in rows):
        text += "\nthe profile was fitted to another file: no row counts as fitted"
    deliver(rows, result_json(rows, verdict, told), text, options)
    return 0 if holds(verdict, bound) else EXIT_BOUND_BROKEN


def validate_live(options: Mapping[str, Any]) -> int:
    """Run the whole chain, and check what it forecast."""
    from calibration.validate.live import FitFailed, run_live

    from .live_options import plan_of

    plan = plan_of(options)
    try:
        live = run_live(plan, lambda text: click.echo(f"validate: {text}", err=True))
    except FitFailed as error:
        click.echo(f"validate: {error}", err=True)
        return EXIT_FAILED_CHECKS
    told = {"live": True} | {key: str(getattr(plan, key)) for key in plan.__dataclass_fields__}
    return present_decode(live.rows, live.ablations, told, options)


def present_decode(
    rows: "Sequence[Row]",
    ablations: "Sequence[Mapping[str, Mapping[int, float]]]",
    told: Mapping[str, Any],
    options: Mapping[str, Any],
    said: Sequence[str] = (),
) -> int:
    """Write the files and print; return the exit code."""
    from calibration.validate.decode_forecast import judge
    from calibration.validate.decode_report import result_json, result_text

    verdict = judge(rows)
    payload = result_json(rows, verdict, ablations, dict(told) | {"max_error": options["max_error"]})
    text = "\n".join([result_text(rows, verdict, ablations, options["max_error"]), *said])
    deliver(rows, payload | {"remarks": list(said)}, text, options)
    return 0 if verdict.holds(options["max_error"]) else EXIT_BOUND_BROKEN


def deliver(rows: "Sequence[Row]", payload: Mapping[str, Any], text: str, options: Mapping[str, Any]) -> None:
    """Write the files and print."""
    if options["out"]:
        write_json(options["out"], payload)
    if options["plot"]:
        from calibration.validate.decode_plots import decode_figure
        from simulator.ground.pictures import save_figure

        save_figure(options["plot"], decode_figure(rows))
    click.echo(to_json(payload) if options["as_json"] else text + "\n", nl=False)
    if not options["as_json"]:
        for name in ("out", "plot"):
            if options[name]:
                click.echo(f"wrote {options[name]}")


def check(options: Mapping[str, Any]) -> None:
    """Refuse what can be refused before anything is read."""
    from simulator.ground.pictures import check_format

    decode, passes = options["decode"], options["passes"]
    asked = [decode is not None, passes is not None, options["live"], bool(options["published"] or options["files"])]
    if sum(asked) != 1:
        found = "nothing" if not any(asked) else "several"
        ways = "DECODE, --passes FILE, --live, or --published and --published-file FILE"
        raise UserError(f"{found} to check, expected one of {ways}")
    for name in ("profile", "hist"):
        if options[name] is not None and decode is None and passes is None:
            raise UserError(f"--{name} {options[name]}: without DECODE or --passes, expected either beside it")
    if decode is not None and options["profile"] is None:
        raise UserError(f"{decode}: no profile to forecast it with, expected --profile FILE beside it")
    for name in ("profile", "hist"):
        if passes is not None and options[name] is None:
            raise UserError(f"--passes {passes}: no --{name}, expected --profile FILE and --hist FILE beside it")
    check_live(options)
    bound = options["max_error"]
    if bound is not None and not 0 <= bound <= 10:  # NaN is neither
        raise UserError(f"--max-error: {bound:g} is not allowed, expected a fraction from 0 to 10")
    if options["out"] and options["out"].suffix != ".json":
        raise UserError(f"--out {options['out']}: suffix {options['out'].suffix!r}, expected .json")
    check_format(options["plot"])
    inputs: dict[str, Path | None] = {f"--published-file {file}": file for file in options["files"]}
    inputs |= {"DECODE": decode, "--passes": passes, "--profile": options["profile"], "--hist": options["hist"]}
    check_outputs({f"--{name}": options[name] for name in ("out", "plot")}, options["force"], inputs)


def load(options: Mapping[str, Any]) -> "list[Case]":
    """Return every case that was asked for."""
    from calibration.validate.cases import check_names, load_cases, published_cases

    cases = list(published_cases()) if options["published"] else []
    for file in options["files"]:
        cases += load_cases(file)
        check_names(str(file), cases)
    return cases


def present(results: "list[CaseResult]", options: Mapping[str, Any]) -> None:
    """Write the files and print."""
    from calibration.validate.published_report import result_json, result_text, summary_text

    told = {"published": options["published"], "published_files": [str(file) for file in options["files"]]}
    payload = result_json(results, told | {"max_error": options["max_error"]})
    if options["out"]:
        write_json(options["out"], payload)
    if options["plot"]:
        from calibration.validate.published_plots import validation_figure
        from simulator.ground.pictures import save_figure

        save_figure(options["plot"], validation_figure(results))
    if options["as_json"]:
        click.echo(to_json(payload), nl=False)
        return
    click.echo(summary_text(results) if options["summary"] else result_text(results))
    for name in ("out", "plot"):
        if options[name]:
            click.echo(f"wrote {options[name]}")


if __name__ == "__main__":
    validate(prog_name="validate")
