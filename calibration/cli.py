"""The command `validate`: parse, load, fit and forecast, write, print."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.artefacts import UserError, check_outputs, to_json, write_json
from simulator.command import command

if TYPE_CHECKING:
    from .cases import Case
    from .published_fit import CaseResult

FILE = click.Path(path_type=Path)
EXIT_BOUND_BROKEN = 1


@command("validate")
@click.option("--published", is_flag=True, help="Check the forecasts of the published results that come with specsim.")
@click.option(
    "--published-file", "files", type=FILE, multiple=True, metavar="FILE", help="Check cases of your own; repeatable."
)
@click.option(
    "--max-error",
    type=float,
    metavar="FRACTION",
    help="Bound on the error of each forecast row, such as 0.05, in place of each case's own.",
)
@click.option("--summary", is_flag=True, help="Print only a line for each case.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--out", type=FILE, help="Write the result as .json.")
@click.option("--plot", type=FILE, help="Draw forecast against measurement, .png or .svg.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def validate(**options: Any) -> int:
    """Hold forecasts against measurements, and print the error of every row.

    Costs are fitted on some rows of a table; the others are forecast from their acceptance. Exit code 1 if a forecast
    row is beyond its bound.
    """
    from .published_fit import validate_case

    check(options)
    results = [validate_case(case, options["max_error"]) for case in load(options)]
    present(results, options)
    return 0 if all(result.holds for result in results) else EXIT_BOUND_BROKEN


def check(options: Mapping[str, Any]) -> None:
    """Refuse what can be refused before anything is read."""
    from simulator.pictures import check_format

    if not (options["published"] or options["files"]):
        raise UserError("nothing to check, expected --published or --published-file FILE")
    bound = options["max_error"]
    if bound is not None and not 0 <= bound <= 10:  # NaN is neither
        raise UserError(f"--max-error: {bound:g} is not allowed, expected a fraction from 0 to 10")
    if options["out"] and options["out"].suffix != ".json":
        raise UserError(f"--out {options['out']}: suffix {options['out'].suffix!r}, expected .json")
    check_format(options["plot"])
    inputs = {f"--published-file {file}": file for file in options["files"]}
    check_outputs({f"--{name}": options[name] for name in ("out", "plot")}, options["force"], inputs)


def load(options: Mapping[str, Any]) -> "list[Case]":
    """Return every case that was asked for."""
    from .cases import check_names, load_cases, published_cases

    cases = list(published_cases()) if options["published"] else []
    for file in options["files"]:
        cases += load_cases(file)
        check_names(str(file), cases)
    return cases


def present(results: "list[CaseResult]", options: Mapping[str, Any]) -> None:
    """Write the files and print."""
    from .report import result_json, result_text, summary_text

    told = {"published": options["published"], "published_files": [str(file) for file in options["files"]]}
    payload = result_json(results, told | {"max_error": options["max_error"]})
    if options["out"]:
        write_json(options["out"], payload)
    if options["plot"]:
        from simulator.pictures import save_figure

        from .plots import validation_figure

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
