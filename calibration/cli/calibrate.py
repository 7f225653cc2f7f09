"""The command `calibrate`: parse, load, fit, check, write, print."""

import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError, check_outputs, envelope, read_bytes, to_json, write_json
from simulator.ground.command import command

if TYPE_CHECKING:
    from calibration.fit.build_profile import Judged
    from simulator.costs.profile import Profile

FILE = click.Path(path_type=Path)
EXIT_FAILED_CHECKS = 3


@command("calibrate")
@click.argument("probe", type=FILE, required=False)
@click.option("--from-decode", type=FILE, help="Results of bench-decode, in place of a probe: costs of that pair.")
@click.option("--from-passes", type=FILE, help="Passes of bench-decode time-passes, in place of a probe.")
@click.option("--fit-k", metavar="VALUES", help="Without PROBE: draft lengths to fit, the others stay unseen.")
@click.option("--out", "-o", type=FILE, default=Path("profile.json"), help="The profile.")
@click.option("--name", help="What to call it.  [default: the name of --out]")
@click.option("--report", type=FILE, help="Write every fit with its diagnostics as .json, passed or not.")
@click.option("--plot", type=FILE, help="Draw measured against fitted times and the residuals, .png or .svg.")
@click.option("--compare", type=FILE, help="An earlier profile: say what is faster or slower now.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def calibrate(**options: Any) -> None:
    """Fit what passes cost on a device to what was timed there, and write it as a profile.

    PROBE is a file of probe-gpu; a file of bench-decode may stand in its place. Some of its points are held out, and
    tell how well the fit forecasts. Exit code 3 if no fit passes its checks: then no profile is written, and --report
    has the partial estimate.
    """
    from calibration.fit.report import comparison_json, report_json, report_text

    check(options)
    name = options["name"] or options["out"].stem
    before = load_before(options)
    found, profile = fitted(name, options)
    payload = report_json(found, told(options))
    if before is not None and profile is not None:
        payload["comparison"] = comparison_json(before, profile)
    if options["report"]:
        write_json(options["report"], payload)
    if options["plot"]:
        draw(options["plot"], found)
    click.echo(to_json(payload) if options["as_json"] else report_text(found) + "\n", nl=False)
    say_left_out(found)
    if profile is None:
        click.echo(f"calibrate: no fit passes its checks, {options['out']} is not written", err=True)
        sys.exit(EXIT_FAILED_CHECKS)
    save(options["out"], profile, told(options))
    if not options["as_json"]:
        say_profile(profile, before, options)


def say_profile(profile: "Profile", before: "Profile | None", options: Mapping[str, Any]) -> None:
    """Print what is in the profile besides fits, how it compares, and what was written."""
    from calibration.fit.report import comparison_text, pair_text

    if profile.decoding is not None:
        click.echo(pair_text(profile))
    if before is not None:
        click.echo(comparison_text(before, profile))
    for key in ("out", "report", "plot"):
        if options[key]:
            click.echo(f"wrote {options[key]}")


def say_left_out(found: "Mapping[str, Judged]") -> None:
    """Name the fits that failed, and why."""
    for key, own in found.items():
        if not own.passed:
            click.echo(f"calibrate: {key}: left out, {'; '.join(own.reasons)}", err=True)


def check(options: Mapping[str, Any]) -> None:
    """Refuse what can be refused before anything is read."""
    from simulator.ground.pictures import check_format

    probe, decode, passes = (options[name] for name in ("probe", "from_decode", "from_passes"))
    if sum(given is not None for given in (probe, decode, passes)) != 1:
        raise UserError("expected either PROBE, a file of probe-gpu, --from-decode FILE or --from-passes FILE")
    if options["fit_k"] is not None and probe is not None:
        raise UserError(f"--fit-k: {options['fit_k']} without --from-decode or --from-passes, expected one of them")
    for name in ("out", "report"):
        if options[name] is not None and options[name].suffix != ".json":
            raise UserError(f"--{name} {options[name]}: suffix {options[name].suffix!r}, expected .json")
    check_format(options["plot"])
    inputs = {"PROBE": probe, "--from-decode": decode, "--from-passes": passes, "--compare": options["compare"]}
    check_outputs({f"--{n}": options[n] for n in ("out", "report", "plot")}, options["force"], inputs)


def load_before(options: Mapping[str, Any]) -> "Profile | None":
    """Return the profile to compare with."""
    from simulator.costs.profile_file import load_profile

    return load_profile(options["compare"]) if options["compare"] else None


def fitted(name: str, options: Mapping[str, Any]) -> "tuple[dict[str, Judged], Profile | None]":
    """Return every fit, and the profile that they make; none where no fit passed."""
    from calibration.fit.build_profile import fit_probe, probe_profile

    if options["from_decode"] is not None:
        return fitted_pair(name, options)
    if options["from_passes"] is not None:
        return fitted_passes(name, options)
    from cuda_probe.probe.report import load_probe

    results = load_probe(options["probe"], raw=False)
    found = fit_probe(results)
    if not found:
        raise UserError(f"{options['probe']}: timed neither burn kernels nor products, expected some of either")
    passed = any(own.passed for own in found.values())
    return found, probe_profile(name, results, found) if passed else None


def fitted_pair(name: str, options: Mapping[str, Any]) -> "tuple[dict[str, Judged], Profile | None]":
    """Return the fit of a pair that was timed while it decoded."""
    from calibration.fit.from_decode import fit_pair, judge_pair, pair_profile
    from calibration.fit.report import PAIR
    from calibration.sources.decode_log import load_decode

    lengths = fitted_lengths(options)
    log = load_decode(options["from_decode"])
    found = fit_pair(log, lengths)
    own = judge_pair(found)
    return {PAIR: own}, pair_profile(name, log, found) if own.passed else None


def fitted_passes(name: str, options: Mapping[str, Any]) -> "tuple[dict[str, Judged], Profile | None]":
    """Return the fit of passes of two models."""
    from calibration.fit.from_passes import fit_passes, pass_profile
    from calibration.sources.passes import load_passes

    lengths = fitted_lengths(options)
    times = load_passes(options["from_passes"])
    own = fit_passes(times, lengths)
    return {times.dtype: own}, pass_profile(name, times, own, lengths) if own.passed else None


def fitted_lengths(options: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the draft lengths of --fit-k; None: all."""
    from simulator.ground.ranges import parse_whole

    from .live_options import MOST_DRAFTED

    return None if options["fit_k"] is None else parse_whole("--fit-k", options["fit_k"], 1, MOST_DRAFTED)


def told(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the fit was made of."""
    found = {key: options[key] and str(options[key]) for key in ("probe", "from_decode", "fit_k")}
    passes = options["from_passes"]
    if passes is not None:
        found |= {"from_passes": str(passes), "passes_sha256": sha256(read_bytes(passes)).hexdigest()}
    return found


def save(path: Path, profile: "Profile", parameters: Mapping[str, Any]) -> None:
    """Write a profile with its provenance."""
    from simulator.costs.profile_file import KIND, SCHEMA_VERSION, profile_json

    write_json(path, envelope(KIND, SCHEMA_VERSION, parameters) | profile_json(profile))


def draw(path: Path, found: "Mapping[str, Judged]") -> None:
    """Save the picture of every fit."""
    from calibration.fit.plots import fit_figure
    from simulator.ground.pictures import save_figure

    save_figure(path, fit_figure({name: own.fit for name, own in found.items() if own.fit is not None}))


if __name__ == "__main__":
    calibrate(prog_name="calibrate")
