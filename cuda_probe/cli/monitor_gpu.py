"""The command `monitor-gpu`: watch the GPUs, while a command runs or for a while; log, sum up, print."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError, check_outputs, created_utc, envelope, to_json, write_json
from simulator.ground.command import EXIT_USER_ERROR, OneLineErrors, command, table

if TYPE_CHECKING:
    from cuda_probe.monitor.monitor import MonitorSummary

FILE = click.Path(path_type=Path)
KIND, SCHEMA_VERSION = "gpu_monitor", 1
# Faster than the driver refreshes, and slower than anyone waits.
MIN_INTERVAL_S, MAX_S = 0.001, 1e6


class Wrapper(OneLineErrors):
    """A command whose options end where the words of the command to run begin."""

    allow_interspersed_args = False


@command("monitor-gpu", cls=Wrapper)
@click.option("--interval", default=0.1, metavar="SECONDS", help="Time between samples.")
@click.option("--idle", default=2.0, metavar="SECONDS", help="Measure the idle power that long before; 0 for not.")
@click.option("--duration", type=float, metavar="SECONDS", help="Without COMMAND: how long.  [default: until Ctrl-C]")
@click.option("--gpu", "gpus", type=click.IntRange(0), multiple=True, metavar="INDEX", help="As in nvidia-smi.")
@click.option("--out", type=FILE, metavar="FILE.csv", help="Log every sample, with the column names of nvidia-smi.")
@click.option("--summary", type=FILE, metavar="FILE.json", help="Write the summary to a file as well.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND ...]")
def monitor_gpu(words: tuple[str, ...], **options: Any) -> int:
    """Log power, energy, utilisation, memory, temperature and clocks of the GPUs while COMMAND runs.

    COMMAND keeps its stdin, stdout and stderr, gets the signals that monitor-gpu gets, and its exit code is passed on
    (128 + N where signal N killed it); the summary then goes to stderr, behind what COMMAND wrote. Without COMMAND it
    goes to stdout, after --duration or a Ctrl-C.

    The log is written row by row, in place: it is complete up to the moment at which anything ended it.
    """
    from cuda_probe.monitor.child import check, run, wait
    from cuda_probe.monitor.monitor import Monitor

    check_options(options, words)
    if words:
        check(words)
    began_utc = created_utc()
    chosen = {"gpus": list(options["gpus"]) or None, "interval_s": options["interval"], "idle_s": options["idle"]}
    monitor = Monitor(**chosen)
    with ExitStack() as stack:
        if options["out"]:
            monitor.sink = stack.enter_context(log(options))
        with monitor:
            code = run(words) if words else ended_by(wait(options["duration"]), options["duration"])
    told = chosen | {"command": list(words) or None, "duration_s": options["duration"]}
    told |= {"out": str(options["out"]) if options["out"] else None}
    payload = {"began_utc": began_utc, "exit_code": code} | monitor.summary().as_json()
    present(envelope(KIND, SCHEMA_VERSION, told) | payload, monitor.summary(), options, to_stderr=bool(words))
    return code or (EXIT_USER_ERROR if monitor.failure else 0)


def log(options: Mapping[str, Any]) -> Any:
    """Open the log."""
    from cuda_probe.monitor.csv_file import logging_to

    return logging_to(options["out"], force=options["force"])


def check_options(options: Mapping[str, Any], words: tuple[str, ...]) -> None:
    """Refuse what can be refused before anything is asked or run."""
    for name, least in (("interval", MIN_INTERVAL_S), ("idle", 0.0), ("duration", 0.0)):
        value = options[name]
        if value is not None and not least <= value <= MAX_S:  # NaN is neither
            raise UserError(f"--{name}: {value:g} is not allowed, expected {least:g} to {MAX_S:g} seconds")
    if words and options["duration"] is not None:
        raise UserError("--duration: not used with COMMAND, whose end ends the log")
    check_outputs({"--out": options["out"], "--summary": options["summary"]}, options["force"])


def ended_by(number: int | None, duration_s: float | None) -> int:
    """Return the exit code: a signal is how an endless log is ended, but cuts short one that was to last."""
    from cuda_probe.monitor.child import EXIT_BY_SIGNAL

    return 0 if number is None or duration_s is None else EXIT_BY_SIGNAL + number


def present(payload: dict[str, Any], summary: "MonitorSummary", options: Mapping[str, Any], to_stderr: bool) -> None:
    """Write the summary's file, and print it."""
    if options["summary"]:
        write_json(options["summary"], payload)
    if options["as_json"]:
        click.echo(to_json(payload), nl=False, err=to_stderr)
        return
    written = [f"wrote {options[name]}" for name in ("out", "summary") if options[name]]
    click.echo(("\n" if to_stderr else "") + summary_text(summary), err=to_stderr)
    if written:
        click.echo("\n" + "\n".join(written), err=to_stderr)


def summary_text(summary: "MonitorSummary") -> str:
    """Lay the summary out as a table, a line a GPU, and what is doubtful below it."""
    heads = ("GPU", "s", "J", "J above idle", "W idle", "W average", "W peak", "°C peak", "GiB peak", "% busy")
    rows = [heads]
    for gpu in summary.gpus:
        rows.append(
            (
                f"{gpu.index} {gpu.name}",
                number(gpu.duration_s, 2),
                number(gpu.energy_j, 1),
                number(gpu.energy_above_idle_j, 1),
                number(gpu.idle_power_w, 1),
                number(gpu.average_power_w, 1),
                number(gpu.peak_power_w, 1),
                number(gpu.peak_temperature_c, 0),
                number(gpu.peak_memory_used_bytes, 2, 1 / 2**30),
                number(gpu.average_utilization_gpu, 0, 100),
            )
        )
    sources = sorted({gpu.energy_source for gpu in summary.gpus if gpu.energy_source})
    energy = [f"energy from: {', '.join(sources)}"] if sources else []
    return "\n".join([table(rows), *energy, *summary.notes])


def number(value: float | None, decimals: int, scale: float = 1.0) -> str:
    """Write a number, or a dash where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value * scale:,.{decimals}f}"


if __name__ == "__main__":
    monitor_gpu()
