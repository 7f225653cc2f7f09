"""The command `bench-decode time-passes`: parse, build, time, write, print."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from acceptance.models.bundled import load_libraries
from simulator.ground.artefacts import UserError, check_outputs, envelope, write_json
from simulator.ground.command import FILE, command, progress, table
from simulator.ground.fields import read_json
from simulator.ground.ranges import parse_whole

if TYPE_CHECKING:
    from acceptance.bench.passes import Grid, Subject

MOST_BATCH, MOST_CONTEXT, MOST_DRAFTED = 1_000_000, 10_000_000, 64
MODELS = {"--target-model": "target_model", "--draft-model": "draft_model"}
# Below, a median has no error.
LEAST_REPEATS = 3


@command("time-passes", short_help="Time forward passes of models with random weights.")
@click.option("--target-model", required=True, help="config.json, its folder, or a name of the catalogue of shapes.")
@click.option("--draft-model", required=True, help="The same, of the draft.")
@click.option("--batch", default="1", metavar="VALUES", help="Sequences at a time.")
@click.option("--context", default="512", metavar="VALUES", help="Tokens that the KV cache holds of each.")
@click.option("--k", default="1:8", metavar="VALUES", help="Draft lengths to verify.")
@click.option("--dtype", type=click.Choice(("float32", "bfloat16", "float16")), default="bfloat16", help="Weights.")
@click.option("--device", default="cpu", help="cpu, or cuda:0.")
@click.option("--repeats", type=click.IntRange(LEAST_REPEATS, 100_000), default=15, help="Samples of each pass.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, help="Of orders, caches and tokens.")
@click.option("--out", type=FILE, default=Path("passes.json"), help="What was timed, for calibrate --from-passes.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def time_passes(**options: Any) -> None:
    """Time passes of a target and a draft by batch, context and new tokens.

    Models are built from their config.json with random weights, and the KV cache is filled with random numbers: time
    hangs on neither. Passes that find no memory are left out, with the reason.
    """
    from simulator.costs.shapes import config_file

    grid = grid_of(options)
    if options["out"].suffix != ".json":
        raise UserError(f"--out {options['out']}: suffix {options['out'].suffix!r}, expected .json")
    configs = {flag: config_file(options[key])[0] for flag, key in MODELS.items()}
    check_outputs({"--out": options["out"]}, options["force"], configs)
    load_libraries()
    from acceptance.bench.clock import clock_for
    from acceptance.bench.machine import surroundings, system_metadata
    from acceptance.bench.passes import KIND, SCHEMA_VERSION, payload, time_all
    from acceptance.models.load import pick_device

    device, dtype = pick_device(options["device"]), options["dtype"]
    subjects = subjects_of(options, grid, device)
    rng = np.random.default_rng(options["seed"])
    groups = 2 * len(grid.batches) * len(grid.contexts) * (options["repeats"] + 1)
    with progress("timing", groups) as bar:
        found = time_all(subjects, grid, clock_for([device]), options["repeats"], rng, bar.update)
    if not found[0]:
        raise UserError(f"--batch: no pass fits into memory ({next(iter(found[1].values()))}), expected smaller ones")
    told = {name: value for name, value in options.items() if name not in ("out", "force")}
    written = envelope(KIND, SCHEMA_VERSION, told) | payload(subjects, *found, dtype)
    written["environment"] |= surroundings([device])
    write_json(options["out"], written | {"device": device, "dtype": dtype, "system": system_metadata([device])})
    click.echo(text(written))
    click.echo(f"wrote {options['out']}")


def grid_of(options: Mapping[str, Any]) -> "Grid":
    """Return what to time.

    Raises:
        UserError: A value that is not allowed.
    """
    from acceptance.bench.passes import Grid

    return Grid(
        batches=parse_whole("--batch", options["batch"], 1, MOST_BATCH),
        contexts=parse_whole("--context", options["context"], 1, MOST_CONTEXT),
        draft_lengths=parse_whole("--k", options["k"], 1, MOST_DRAFTED),
    )


def subjects_of(options: Mapping[str, Any], grid: "Grid", device: str) -> "dict[str, Subject]":
    """Build both models; shapes are checked before either is.

    Raises:
        UserError: A model that cannot be found, timed or built.
    """
    from acceptance.bench.passes import DRAFT, TARGET, Subject, build, check_shape
    from simulator.costs.shapes import config_file, shape_of

    found = {}
    for role in (TARGET, DRAFT):
        option = f"--{role}-model"
        path, name = config_file(options[f"{role}_model"])
        config = read_json(path)
        shape = shape_of(config, name)
        check_shape(option, shape, grid)
        found[role] = (option, path, name, config.object(), shape)
    return {
        role: Subject(
            name=name, config=config, shape=shape, module=build(option, path, config, device, options["dtype"])
        )
        for role, (option, path, name, config, shape) in found.items()
    }


def text(written: Mapping[str, Any]) -> str:
    """Return a row for each pass."""
    rows = [("model", "role", "batch", "context", "new tokens", "median", "std. error")]
    for own in written["points"]:
        sizes = (own[name] for name in ("batch", "context", "new_tokens"))
        error = f"{own['error_s'] / own['median_s']:.1%}"
        rows.append((own["model"], own["role"], *map(str, sizes), f"{own['median_s'] * 1e3:.3f} ms", error))
    for own in written["left_out"]:
        sizes = (own[name] for name in ("batch", "context", "new_tokens"))
        rows.append((own["model"], own["role"], *map(str, sizes), "left out", own["reason"]))
    return table(rows, left=(0, 1))
