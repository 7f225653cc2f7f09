"""Options and steps of `calibrate --from-serving` and `validate --serving`: rows of load tests of servers."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError, read_bytes, to_json, write_json
from simulator.ground.command import FILE, say, stacked

if TYPE_CHECKING:
    from calibration.fit.loads import Loads
    from simulator.costs.profile import Profile

# Options of rows.
ROWS = ("target_model", "engine", "kv_dtype", "tp")
row_options = stacked(
    click.option("--target-model", metavar="NAME", help="Of rows of a server: the model whose rows are used."),
    click.option("--engine", metavar="NAME", help="Of rows of a server: the engine whose rows are used."),
    click.option("--kv-dtype", metavar="NAME", help="Of rows that do not say: the number format of the KV cache."),
    click.option("--tp", type=click.IntRange(1, 4096), help="The same: devices that share the model."),
)
weights_option = click.option("--dtype", metavar="NAME", help="Of rows that do not say: the number format of weights.")
sheet_option = click.option(
    "--profile", type=FILE, metavar="NAME|FILE", help="With --from-serving: the device, whose data sheet is the prior."
)


def loads_from(path: Path, profile: "Profile", given: Mapping[str, Any]) -> "Loads":
    """Read the rows of a file that a profile can price; rows that cannot be read are named on stderr."""
    from calibration.fit.loads import Options, loads_of
    from calibration.sources.serving import dtype_of, engine_of, read_serving
    from simulator.ground.records import BadRecord

    try:
        formats = {name: dtype_of(given.get(name)) for name in ("dtype", "kv_dtype")}
    except BadRecord as error:
        raise UserError(f"--dtype: {error}") from None
    rows = read_serving(path)
    for note in rows.notes():
        click.echo(f"{note}", err=True)
    fitted = profile.fitted
    options = Options(
        target_model=given["target_model"] or (fitted.model if fitted else ""),
        engine=engine_of(given["engine"] or (fitted.engine if fitted else "")),
        tp=given["tp"],
        dtype=formats["dtype"] or (fitted.dtype if fitted else ""),
        kv_dtype=formats["kv_dtype"],
    )
    return loads_of(rows.rows, profile, options)


def refuse_rows(given: Mapping[str, Any], beside: str) -> None:
    """Refuse options of rows without rows."""
    for name, value in given.items():
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')}: {value} without {beside}, expected it beside")


def run_calibration(rows: Path, sheet: Path, given: Mapping[str, Any], name: str, options: Any) -> int:
    """Fit, write, print; return the exit code."""
    from calibration.fit.calibrate import EXIT_FAILED_CHECKS
    from calibration.fit.from_serving import calibrate_serving
    from calibration.fit.serving_report import failed, serving_json, serving_text
    from calibration.validate.serving import serving_figure, validate_serving
    from simulator.costs.profile_file import load_profile, save_profile
    from simulator.ground.pictures import save_figure

    prior = load_profile(sheet)
    digest = sha256(read_bytes(rows)).hexdigest()
    found = calibrate_serving(loads_from(rows, prior, given), prior, name, digest)
    parameters = options.parameters | {"profile": str(sheet), **given}
    payload, reason = serving_json(found, parameters), failed(found)
    if options.report:
        write_json(options.report, payload)
    if options.plot:
        save_figure(options.plot, serving_figure(validate_serving(found.loads, found.profile), failed=bool(reason)))
    if options.as_json:
        click.echo(to_json(payload), nl=False)
    else:
        say(serving_text(found))
    if reason:
        click.echo(f"calibrate: {reason}: {options.out} is not written", err=True)
        return EXIT_FAILED_CHECKS
    save_profile(options.out, found.profile, parameters)
    if not options.as_json:
        for path in filter(None, (options.out, options.report, options.plot)):
            click.echo(f"wrote {path}")
    return 0
