"""The command `bench-sampling`: parse, open the device, measure, write, print."""

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cuda_probe.probe.probes import ITEM_BYTES, AxisValue
from cuda_probe.sampling_bench.shapes import BACKENDS, grid
from simulator.ground.artefacts import UserError, to_json, write_json
from simulator.ground.command import FILE, command, progress, say
from simulator.ground.names import number_format

from .outputs import EXIT_WRONG_RESULT, Outputs

if TYPE_CHECKING:
    from cuda_probe.sampling_bench.runner import BenchResults

# Option, axis, least and largest value; the kernels count tokens and rows in 32 bits.
NUMBERS = (("--batch", "batch", 1, 65_536), ("--k", "k", 1, 1_024), ("--vocab", "vocabulary", 2, 2**24))
VOCABULARIES = (32_768, 65_536, 131_072, 262_144)
QUICK_VOCABULARIES = (32_768, 131_072, 262_144)
DTYPES = tuple(ITEM_BYTES)
Axes = dict[str, tuple[AxisValue, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions(Outputs):
    """What the user chose; lists and ranges as typed, None for the device's own values."""

    device: str
    quick: bool
    backend: str | None
    batch: str | None
    k: str | None
    vocabulary: str | None
    dtype: str | None
    temperature: float
    seed: int


@command("bench-sampling")
@click.option("--device", default="auto", help="cuda:0, cuda:1, ..., or cpu; auto: the first CUDA device.")
@click.option("--quick/--full", default=True, help="A minute or so, or a finer grid until the noise has settled.")
@click.option("--backend", metavar="NAMES", help=f"Only these, joined by commas: {', '.join(BACKENDS)}.")
@click.option("--batch", metavar="VALUES", help="Sequences, list or range (1,8,64).")
@click.option("--k", metavar="VALUES", help="Drafted tokens of a sequence.")
@click.option("--vocab", "vocabulary", metavar="VALUES", help="Tokens of the vocabulary (32000:256000:32000).")
@click.option("--dtype", metavar="NAMES", help=f"Types of the logits: {', '.join(DTYPES)}.")
@click.option("--temperature", default=1.0, type=float, help="Of both models.")
@click.option("--seed", default=0, type=click.IntRange(0, 2**31), help="Seed of logits, drafts and decisions.")
@click.option("--out", type=FILE, default=Path("bench_sampling.json"), help="Result; raw samples beside it, as .npz.")
@click.option("--csv", type=FILE, help="Write one row for each backend at each point.")
@click.option("--plot", type=FILE, help="Picture, .png or .svg: time by vocabulary, share of copy bandwidth.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def bench_sampling(**values: Any) -> None:
    """Time speculative sampling: our backends, a compiled torch version and transformers' own function.

    All take the same logits, in turn, on one clock. The bytes counted are those that sampling has to read at least.
    transformers' function takes one sequence: a batch is as many calls (column calls). Exit code 1 if a backend of ours
    accepted other counts than the reference; Ctrl-C keeps what was measured.
    """
    run(BenchOptions(**values))


def run(options: BenchOptions) -> None:
    """Measure, write and print; an interrupted run is written too before it ends as one."""
    if not 0.01 <= options.temperature <= 100:  # beyond, the peers' arithmetic in float32 has no meaning
        raise UserError(f"--temperature: {options.temperature:g} is not allowed, expected 0.01 to 100")
    given, backends = named_axes(options), names("--backend", options.backend, BACKENDS)
    options.check()
    results, axes = measure(options, given, backends)
    if results.interrupted and not results.points:
        raise KeyboardInterrupt("nothing was measured yet")
    check_timed(results)
    present(results, options, axes, backends)
    if results.interrupted:
        raise KeyboardInterrupt(options.kept())
    if any(bench.agrees is False for bench in results.points) or any(left.failed for left in results.left_out):
        click.echo("bench-sampling: a result was wrong, see the table or the file", err=True)
        sys.exit(EXIT_WRONG_RESULT)


def named_axes(options: BenchOptions) -> Axes:
    """Return the values that the user named, by axis; refuses what is no whole number in its bounds, or no type."""
    from simulator.ground.ranges import parse_whole

    typed = {axis: (flag, getattr(options, axis), least, most) for flag, axis, least, most in NUMBERS}
    given: Axes = {axis: parse_whole(*words) for axis, words in typed.items() if words[1] is not None}
    return (
        given
        if options.dtype is None
        else given | {"dtype": names("--dtype", ",".join(map(number_format, options.dtype.split(","))), DTYPES)}
    )


def names(flag: str, text: str | None, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Read a list of names, all that are allowed where none is given; refuses one that is unknown or there twice."""
    if text is None:
        return allowed
    chosen = tuple(part.strip() for part in text.split(","))
    for name in chosen:
        if name not in allowed:
            raise UserError(f"{flag}: {name!r} is not one, expected {', '.join(allowed)}")
    if len(set(chosen)) < len(chosen):
        raise UserError(f"{flag}: {text!r} names one twice, expected each once")
    return tuple(name for name in allowed if name in chosen)


def default_axes(*, on_cpu: bool, quick: bool) -> Axes:
    """Return the grid where the user names none."""
    if quick:
        dtypes = ("float32", "float16") if on_cpu else ("float32", "bfloat16")
        return {"batch": (1, 4 if on_cpu else 16), "k": (4,), "vocabulary": QUICK_VOCABULARIES, "dtype": dtypes}
    batches = (1, 4, 16) if on_cpu else (1, 8, 64)
    return {"batch": batches, "k": (2, 8) if on_cpu else (2, 4, 8), "vocabulary": VOCABULARIES, "dtype": DTYPES}


def measure(options: BenchOptions, given: Axes, backends: tuple[str, ...]) -> tuple["BenchResults", Axes]:
    """Open the device and time the backends on it, if the largest point fits; returns results and the whole grid."""
    from cuda_probe.devices.opening import open_device
    from cuda_probe.probe.runner import FULL, QUICK
    from cuda_probe.sampling_bench.places import place_of
    from cuda_probe.sampling_bench.report import result_json
    from cuda_probe.sampling_bench.runner import check_memory, run_bench

    def keep(results: "BenchResults") -> None:
        write_json(options.out, result_json(results, parameters_of(results, options, axes, backends), None), kept=True)

    with closing(open_device(options.device)) as device:
        place, axes = place_of(device), default_axes(on_cpu=device.name == "cpu", quick=options.quick) | given
        shapes, rule = grid(axes), QUICK if options.quick else FULL
        check_memory(place, shapes, backends)
        with progress("measuring", len(shapes)) as bar:
            temperature, seed = options.temperature, options.seed
            how: dict[str, Any] = {"temperature": temperature, "seed": seed, "progress": bar.update, "keep": keep}
            results = run_bench(place, shapes, backends, rule, **how)
        return results, axes


def parameters_of(
    results: "BenchResults", options: BenchOptions, axes: Axes, backends: tuple[str, ...]
) -> dict[str, Any]:
    """Return what was asked for, of what."""
    parameters: dict[str, Any] = {"device": results.device["name"], "quick": options.quick, "backends": list(backends)}
    parameters |= {"temperature": options.temperature, "seed": options.seed}
    return parameters | {axis: list(chosen) for axis, chosen in axes.items()}


def check_timed(results: "BenchResults") -> None:
    """Refuse a run in which no backend could run, with the reason of each."""
    if not results.points and not any(left.failed for left in results.left_out):
        reasons = dict.fromkeys(f"{left.probe}: {left.reason}" for left in results.left_out)
        raise UserError(f"nothing can be timed on {results.device['name']}: {'; '.join(reasons)}")


def present(results: "BenchResults", options: BenchOptions, axes: Axes, backends: tuple[str, ...]) -> None:
    """Write the files, then print what was found and where it is."""
    from cuda_probe.sampling_bench.report import disagreement_text, result_text, save_bench, write_csv

    payload = save_bench(options.out, results, parameters_of(results, options, axes, backends))
    if options.csv:
        write_csv(options.csv, results)
    if options.plot:
        from cuda_probe.sampling_bench.plots import bench_figure
        from simulator.ground.pictures import save_figure

        save_figure(options.plot, bench_figure(results))
    if options.as_json:
        click.echo(to_json(payload), nl=False)
        click.echo(disagreement_text(results), err=True, nl=bool(disagreement_text(results)))
    else:
        say(f"{result_text(results)}\n")
        click.echo(options.written())


if __name__ == "__main__":
    bench_sampling(prog_name="bench-sampling")
