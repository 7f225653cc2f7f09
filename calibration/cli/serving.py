"""Options and steps of `calibrate --from-serving` and `validate --serving`: rows of load tests of servers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.cli.load import memory_option
from simulator.ground.artefacts import UserError, read_bytes, to_json, write_json
from simulator.ground.command import FILE, say, stacked

if TYPE_CHECKING:
    from calibration.fit.loads import Loads
    from calibration.sources.serving import ServingRow
    from simulator.costs.profile import Profile

# Options of rows.
SERVED = ("chunk", "max_running", "prefix_hit", "prompts_first", "same_length")
ROWS = ("target_model", "engine", "dtype", "kv_dtype", "tp", "gpu_memory_utilization", *SERVED)
row_options = stacked(
    click.option("--target-model", metavar="NAME", help="Of rows of a server: the model whose rows are used."),
    click.option("--engine", metavar="NAME", help="Of rows of a server: the engine whose rows are used."),
    click.option("--kv-dtype", metavar="NAME", help="Of rows that do not say: the number format of the KV cache."),
    click.option("--tp", type=click.IntRange(1, 4096), help="The same: devices that share the model."),
    memory_option("The same: share of a device's memory for weights and KV cache."),
    click.option("--chunk", type=click.IntRange(1, 10_000_000), help="Of all rows: tokens of a pass at most.  [8192]"),
    click.option("--max-running", type=click.IntRange(1), help="The same: sequences that run at once at most."),
    click.option("--prefix-hit", type=click.FloatRange(0, 1), help="The same: share of prompts in the cache.  [0]"),
    click.option(
        "--prompts-first/--no-prompts-first", default=None, help="The same: prompts in passes of their own.  [no]"
    ),
    click.option(
        "--same-length/--no-same-length", default=None, help="The same: answers of one length, in step.  [no]"
    ),
)
weights_option = click.option("--dtype", metavar="NAME", help="Of rows that do not say: the number format of weights.")
sheet_option = click.option(
    "--profile",
    type=FILE,
    metavar="NAME|FILE",
    help="With --from-serving: the device, whose data sheet is the prior; of servers it may be unknown.",
)


def loads_from(paths: Sequence[Path], profile: "Profile", given: Mapping[str, Any]) -> "Loads":
    """Read the rows of files that a profile can price; rows that cannot be read are named on stderr."""
    from calibration.fit.loads import Options, loads_of
    from calibration.sources.serving import dtype_of, engine_of
    from calibration.sources.serving_files import read_all
    from simulator.cli.as_rows import in_words
    from simulator.costs.parameters import Load
    from simulator.ground.records import BadRecord

    try:
        formats = {name: dtype_of(given.get(name), name) for name in ("dtype", "kv_dtype")}
    except BadRecord as error:
        raise UserError(f"--{str(error).replace('_', '-', 1).replace(' is', ':', 1)}") from None
    found = read_all(paths)
    for note in found.notes:
        click.echo(f"{note}", err=True)
    # What nobody states is as it was for the rows that the profile was fitted to.
    fitted = profile.fitted
    options = Options(
        target_model=given["target_model"] or (fitted.model if fitted else ""),
        engine=engine_of(given["engine"] or (fitted.engine if fitted else "")),
        tp=given["tp"] or (fitted.tp if fitted else None),
        memory_share=given["gpu_memory_utilization"],
        dtype=formats["dtype"] or (fitted.dtype if fitted else ""),
        kv_dtype=formats["kv_dtype"] or (fitted.kv_dtype if fitted else ""),
        served=(fitted.served if fitted else Load()).with_options({name: given[name] for name in SERVED}),
    )
    if fitted:
        for line in in_words(profile.name, {}, fitted.served, options.served):
            click.echo(line, err=True)
    return loads_of(as_named(found.rows, options.target_model), profile, options)


def as_named(rows: "Sequence[ServingRow]", target: str) -> "Sequence[ServingRow]":
    """Return rows of the model that is named, where they call it, all alike, by a name that no model has."""
    from calibration.fit.loads import shape_name

    names = {row.model for row in rows}
    if not target or len(names) != 1 or not all(names) or any(map(shape_name, names)):
        return rows
    click.echo(f"the rows are of {names.pop()!r}, taken to be {target} (--target-model)", err=True)
    return [replace(row, model="") for row in rows]


def one_or_rows(files: tuple[Path, ...], rows: tuple[Path, ...]) -> tuple[Path | None, tuple[Path, ...]]:
    """Return the one file that an argument names, and files of rows: beside those it names more of them.

    Raises:
        UserError: There are several, and none is said to hold rows.
    """
    if rows:
        return None, rows + files
    if len(files) > 1:
        raise UserError(f"{files[1]}: beside {files[0]}, expected one file")
    return (files[0] if files else None), ()


def named(paths: Sequence[Path]) -> str | list[str]:
    """Return paths as files say where they come from: one as it is, several as a list."""
    return [str(path) for path in paths] if len(paths) > 1 else str(paths[0])


def digest_of(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of all files, one behind the other."""
    from calibration.sources.serving_files import within

    digest = sha256()
    for path in paths:
        for file in within(path) or [path]:
            digest.update(read_bytes(file))
    return digest.hexdigest()


def refuse_rows(given: Mapping[str, Any], beside: str) -> None:
    """Refuse options of rows without rows."""
    for name, value in given.items():
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')}: {value} without {beside}, expected it beside")


def run_calibration(rows: Sequence[Path], sheet: Path, given: Mapping[str, Any], name: str, options: Any) -> int:
    """Fit, write, print; return the exit code."""
    from calibration.fit.calibrate import EXIT_FAILED_CHECKS
    from calibration.fit.far_rows import far_of_fit
    from calibration.fit.from_serving import LEAST_LOADS, calibrate_serving
    from calibration.fit.serving_report import failed, serving_json, serving_text, with_notes
    from calibration.validate.serving import serving_figure, validate_serving
    from simulator.costs.profile_file import load_profile, save_profile
    from simulator.ground.pictures import save_figure

    prior = load_profile(sheet)
    loads = loads_from(rows, prior, given)
    if (distinct := loads.distinct) < LEAST_LOADS:
        count = f"{len(loads)} row{'s' * (len(loads) > 1)} to use"
        count += f", of {distinct} load{'s' * (distinct > 1)}" if distinct < len(loads) else ""
        more = "name more files (again --from-serving), or their folder"
        raise UserError(f"--from-serving {rows[0]}: {count}, expected at least {LEAST_LOADS}, better ten; {more}")
    found = calibrate_serving(loads, prior, name, digest_of(rows))
    parameters = options.parameters | {"profile": str(sheet), **given}
    far = far_of_fit(found)
    payload, reason = serving_json(found, parameters, far), failed(found)
    if options.report:
        write_json(options.report, payload)
    if options.plot:
        save_figure(options.plot, serving_figure(validate_serving(found.loads, found.profile), failed=bool(reason)))
    if options.as_json:
        click.echo(to_json(payload), nl=False)
    else:
        say(serving_text(found, far))
    if reason:
        click.echo(f"calibrate: {reason}: {options.out} is not written", err=True)
        return EXIT_FAILED_CHECKS
    save_profile(options.out, with_notes(found), parameters)
    if not options.as_json:
        for path in filter(None, (options.out, options.report, options.plot)):
            click.echo(f"wrote {path}")
    return 0
