"""The command `probe-gpu`: parse, open the device, measure, write, print."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError, check_outputs, to_json
from simulator.ground.command import command, progress, table
from simulator.ground.dependency import Dependency, require

if TYPE_CHECKING:
    from cuda_probe.probe.probes import AxisValue, Device, Probe
    from cuda_probe.probe.runner import Results

FILE = click.Path(path_type=Path)
CUPY = Dependency(import_name="cupy", purpose="measuring a CUDA device", extra="gpu")
EXIT_WRONG_RESULT = 1
# Option, the axis it sets, its least and its largest value.
KNOB_OPTIONS = (
    ("--draftN", "draft_n", 1, 1024),
    ("--workflops", "work_flops", 0, 100_000_000),
    ("--workmem", "work_mem", 0, 100_000_000),
)


@command("probe-gpu")
@click.option("--device", default="auto", help="cuda:0, cuda:1, ..., or cpu; auto: the first CUDA device.")
@click.option("--quick/--full", default=True, help="A minute or so, or a finer grid until the noise has settled.")
@click.option("--only", multiple=True, metavar="NAME", help="Only this probe; may be given several times.")
@click.option("--draftN", "draft_n", metavar="VALUES", help="Draft lengths, list or range (1:8).")
@click.option("--workflops", "work_flops", metavar="VALUES", help="Compute work of a token, in burn units.")
@click.option("--workmem", "work_mem", metavar="VALUES", help="Memory work of a pass, in burn units.")
@click.option("--out", type=FILE, default=Path("probe.json"), help="Result; raw samples go beside it, as .npz.")
@click.option("--csv", type=FILE, help="Write one row for each point.")
@click.option("--plot", type=FILE, help="Picture, .png or .svg: roofline, streams, products, time against work.")
@click.option("--list", "as_list", is_flag=True, help="Print what can be measured, and measure nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--seed", default=0, type=click.IntRange(0, 2**31), help="Seed of the data and of the order of points.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def probe_gpu(**options: Any) -> None:
    """Measure a device: launches, arithmetic, memory, matrix products, and the parts of a speculative round.

    Every probe is checked against a reference before it is timed. Exit code 1 if a result was wrong or a point failed;
    Ctrl-C keeps what was measured.
    """
    from cuda_probe.probe.probes import PROBES, chosen

    probes = chosen(options["only"])
    if options["as_list"]:
        click.echo(list_text(probes if options["only"] else PROBES))
        return
    given = knobs(options)
    check_files(options)
    device = open_device(options["device"])
    try:
        failed = measure(device, probes, given, options)
    finally:
        device.close()
    if failed:
        click.echo("probe-gpu: points failed and were not timed, see FAILED above or in the file", err=True)
        sys.exit(EXIT_WRONG_RESULT)


def check_files(options: Mapping[str, Any]) -> None:
    """Refuse outputs that cannot be written, before anything is measured."""
    from cuda_probe.probe.report import raw_path
    from simulator.ground.pictures import check_format

    for name, suffix in (("out", ".json"), ("csv", ".csv")):
        path = options[name]
        if path is not None and path.suffix != suffix:
            raise UserError(f"--{name} {path}: suffix {path.suffix!r}, expected {suffix}")
    check_format(options["plot"])
    outputs = {"--out": options["out"], "the raw samples of --out": raw_path(options["out"])}
    check_outputs(outputs | {"--csv": options["csv"], "--plot": options["plot"]}, options["force"])


def knobs(options: Mapping[str, Any]) -> "dict[str, tuple[AxisValue, ...]]":
    """Return the values that the user named, by axis.

    Raises:
        UserError: Not whole numbers in their bounds.
    """
    from cuda_probe.probe.probes import chosen
    from simulator.ground.ranges import parse_whole

    given: dict[str, tuple[AxisValue, ...]] = {}
    for flag, axis, least, most in KNOB_OPTIONS:
        if options[axis] is None:
            continue
        if not any(axis in probe.axes for probe in chosen(options["only"])):
            raise UserError(f"{flag}: not used by {', '.join(options['only'])}, expected a probe with {axis}")
        given[axis] = parse_whole(flag, options[axis], least, most)
    return given


def open_device(name: str) -> "Device":
    """Open the device of that name.

    Raises:
        UserError: There is none; says what is missing, and that the processor can be measured instead.
    """
    if name == "cpu":
        from cuda_probe.devices.cpu import CpuDevice

        return CpuDevice()
    kind, _, index = name.partition(":")
    if name != "auto" and (kind != "cuda" or (index and not index.isdecimal()) or name.endswith(":")):
        raise UserError(f"--device: {name!r} is no device, expected auto, cpu or cuda:N")
    try:
        require(CUPY)
        from cuda_probe.devices.cuda import open_device as open_cuda

        return open_cuda("cuda:0" if name in ("auto", "cuda") else name)
    except UserError as error:
        raise UserError(f"--device {name}: {error}; --device cpu measures this machine's processor") from None


def measure(device: "Device", probes: "tuple[Probe, ...]", given: Mapping[str, Any], options: Mapping[str, Any]) -> int:
    """Measure, write and print; returns how many points failed.

    Raises:
        KeyboardInterrupt: The user ended it; what had been measured is written.
    """
    from cuda_probe.probe.report import left_text, result_text, save_probe, write_csv
    from cuda_probe.probe.runner import FULL, QUICK, plan, run_probes

    quick = options["quick"]
    planned = plan(device, probes, given, quick=quick)
    with progress("measuring", len(planned)) as bar:
        results = run_probes(device, planned, QUICK if quick else FULL, seed=options["seed"], progress=bar.update)
    if results.interrupted and not results.points:
        raise KeyboardInterrupt
    told = {"device": device.name, "quick": quick, "seed": options["seed"], "probes": [p.name for p in probes]}
    payload = save_probe(options["out"], results, told | {axis: list(values) for axis, values in given.items()})
    if options["csv"]:
        write_csv(options["csv"], results)
    if options["as_json"]:
        click.echo(to_json(payload), nl=False)
        if any(left.failed for left in results.left_out):
            click.echo(left_text(results), err=True)
    else:
        click.echo(result_text(results) + "\n")
    draw(results, options["plot"])
    if not options["as_json"]:
        for path in written(options):
            click.echo(f"wrote {path}")
    if results.interrupted:
        raise KeyboardInterrupt
    return sum(left.failed for left in results.left_out)


def draw(results: "Results", path: Path | None) -> None:
    """Save the picture, where one is asked for; after all else, as there may be nothing to draw."""
    if path is not None:
        from cuda_probe.probe.plots import probe_figure
        from simulator.ground.pictures import save_figure

        save_figure(path, probe_figure(results))


def written(options: Mapping[str, Any]) -> list[Path]:
    """Return every file of the run."""
    from cuda_probe.probe.report import raw_path

    return [options["out"], raw_path(options["out"]), *filter(None, (options["csv"], options["plot"]))]


def list_text(probes: "tuple[Probe, ...]") -> str:
    """Return the registry as a table."""
    return table([("probe", "axes", "what"), *((p.name, ", ".join(p.axes), p.summary) for p in probes)], left=(0, 1, 2))


if __name__ == "__main__":
    probe_gpu(prog_name="probe-gpu")
