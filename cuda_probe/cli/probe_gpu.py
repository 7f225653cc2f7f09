"""The command `probe-gpu`: parse, open the device, measure, write, print."""

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError, envelope, to_json, write_json
from simulator.ground.command import FILE, command, progress, say, table

from .outputs import EXIT_WRONG_RESULT, Outputs

if TYPE_CHECKING:
    from cuda_probe.probe.probes import AxisValue, Probe
    from cuda_probe.probe.runner import Results

    Axes = dict[str, tuple[AxisValue, ...]]

# Option, the axis it sets, its least and its largest value.
KNOB_OPTIONS = (
    ("--draftN", "draft_n", 1, 1024),
    ("--workflops", "work_flops", 0, 100_000_000),
    ("--workmem", "work_mem", 0, 100_000_000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOptions(Outputs):
    """What the user chose; a knob is a list or range as typed, None for the device's own values."""

    device: str
    quick: bool
    only: tuple[str, ...]
    draft_n: str | None
    work_flops: str | None
    work_mem: str | None
    as_list: bool
    seed: int


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
def probe_gpu(**values: Any) -> None:
    """Measure a device: launches, arithmetic, memory, matrix products, and the parts of a speculative round.

    Every probe is checked against a reference before it is timed. Exit code 1 if a result was wrong or a point failed;
    Ctrl-C keeps what was measured.
    """
    run(ProbeOptions(**values))


def run(options: ProbeOptions) -> None:
    """Measure, write and print; an interrupted run is written too before it ends as one."""
    from cuda_probe.probe.probes import select_probes

    probes = select_probes(options.only)
    if options.as_list:
        listed = [{"name": probe.name, "axes": list(probe.axes), "summary": probe.summary} for probe in probes]
        if options.as_json:
            click.echo(to_json(envelope("probe_list", 1, {"only": list(options.only)}) | {"probes": listed}), nl=False)
            return
        rows = [(probe.name, ", ".join(probe.axes), probe.summary) for probe in probes]
        click.echo(table([("probe", "axes", "what"), *rows], left=(0, 1, 2)))
        return
    given = knobs(options, probes)
    options.check()
    results = measure(options, probes, given)
    if results.interrupted and not results.points:
        raise KeyboardInterrupt("nothing was measured yet")
    present(results, options, probes, given)
    if results.interrupted:
        raise KeyboardInterrupt(options.kept())
    if any(left.failed for left in results.left_out):
        click.echo("probe-gpu: points failed and were not timed, see FAILED above or in the file", err=True)
        sys.exit(EXIT_WRONG_RESULT)


def knobs(options: ProbeOptions, probes: "tuple[Probe, ...]") -> "Axes":
    """Return the values that the user named, by axis; refuses what is out of bounds or for an axis of no probe."""
    from simulator.ground.ranges import parse_whole

    given: Axes = {}
    for flag, axis, least, most in KNOB_OPTIONS:
        text: str | None = getattr(options, axis)
        if text is None:
            continue
        if not any(axis in probe.axes for probe in probes):
            raise UserError(f"{flag}: not used by {', '.join(options.only)}, expected a probe with {axis}")
        given[axis] = parse_whole(flag, text, least, most)
    return given


def measure(options: ProbeOptions, probes: "tuple[Probe, ...]", given: "Axes") -> "Results":
    """Open the device and measure the probes' points on it."""
    from cuda_probe.devices.opening import open_device
    from cuda_probe.probe.report import result_json
    from cuda_probe.probe.runner import FULL, QUICK, plan, run_probes

    def keep(results: "Results") -> None:
        write_json(options.out, result_json(results, parameters_of(results, options, probes, given), None), kept=True)

    with closing(open_device(options.device)) as device:
        planned = plan(device, probes, given, quick=options.quick)
        with progress("measuring", len(planned)) as bar:
            rule = QUICK if options.quick else FULL
            return run_probes(device, planned, rule, seed=options.seed, progress=bar.update, keep=keep)


def parameters_of(
    results: "Results", options: ProbeOptions, probes: "tuple[Probe, ...]", given: "Axes"
) -> dict[str, Any]:
    """Return what was asked for, of what."""
    parameters = {"device": results.device["name"], "quick": options.quick, "seed": options.seed}
    return parameters | {"probes": [p.name for p in probes]} | {axis: list(chosen) for axis, chosen in given.items()}


def present(results: "Results", options: ProbeOptions, probes: "tuple[Probe, ...]", given: "Axes") -> None:
    """Write the files and print; the picture after all else, as there may be nothing to draw."""
    from cuda_probe.probe.report import left_text, result_text, save_probe, write_csv

    payload = save_probe(options.out, results, parameters_of(results, options, probes, given))
    if options.csv:
        write_csv(options.csv, results)
    if options.as_json:
        click.echo(to_json(payload), nl=False)
        if any(left.failed for left in results.left_out):
            click.echo(left_text(results.left_out), err=True)
    else:
        say(result_text(results) + "\n")
    if options.plot:
        from cuda_probe.probe.plots import probe_figure
        from simulator.ground.pictures import save_figure

        save_figure(options.plot, probe_figure(results))
    if not options.as_json:
        click.echo(options.written())


if __name__ == "__main__":
    probe_gpu(prog_name="probe-gpu")
