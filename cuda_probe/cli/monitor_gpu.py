"""The command `monitor-gpu`: watch the GPUs, while a command runs or for a while; log, sum up, print."""

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError, check_outputs, created_utc, envelope, to_json, write_json
from simulator.ground.command import EXIT_USER_ERROR, FILE, OneLineErrors, command, say, table
from simulator.ground.endings import EXIT_BY_SIGNAL
from simulator.ground.vocabulary import Seconds

if TYPE_CHECKING:
    from cuda_probe.monitor.monitor import MonitorSummary

KIND, SCHEMA_VERSION = "gpu_monitor", 1
# Faster than the driver refreshes, and slower than anyone waits.
MIN_INTERVAL_S, MAX_S = 0.001, 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorOptions:
    """What the user chose.

    words: the command to run; none to watch for a while. interval, idle, duration: seconds between samples, of the idle
    power before, and to watch without a command (None: until a signal). gpus: as in nvidia-smi; none named: all. out:
    the log. summary: where it is written besides. record_command: keep all words.
    """

    words: tuple[str, ...]
    interval: float
    idle: float
    duration: float | None
    gpus: tuple[int, ...]
    out: Path | None
    summary: Path | None
    as_json: bool
    record_command: bool
    force: bool

    def check(self) -> None:
        """Refuse what can be refused before anything is asked or run."""
        times = {
            "interval": (self.interval, MIN_INTERVAL_S),
            "idle": (self.idle, 0.0),
            "duration": (self.duration, 0.0),
        }
        for name, (value, least) in times.items():
            if value is not None and not least <= value <= MAX_S:  # NaN is neither
                raise UserError(f"--{name}: {value:g} is not allowed, expected {least:g} to {MAX_S:g} seconds")
        if self.words and self.duration is not None:
            raise UserError("--duration: not used with COMMAND, whose end ends the log")
        check_outputs({"--out": self.out, "--summary": self.summary}, self.force)

    def parameters(self) -> dict[str, Any]:
        """Return them as the summary keeps them."""
        return {
            "gpus": list(self.gpus) or None,
            "interval_s": self.interval,
            "idle_s": self.idle,
            # What follows a program's name may hold a password.
            "command": [*self.words[: None if self.record_command else 1]] or None,
            "duration_s": self.duration,
            "out": None if self.out is None else str(self.out),
        }


class Wrapper(OneLineErrors):
    """A command whose options end where the words of the command to run begin."""

    allow_interspersed_args = False


@command("monitor-gpu", cls=Wrapper)
@click.option("--interval", type=Seconds(), default=0.1, metavar="SECONDS", help="Time between samples.")
@click.option(
    "--idle", type=Seconds(), default=2.0, metavar="SECONDS", help="Measure the idle power that long before; 0 for not."
)
@click.option(
    "--duration", type=Seconds(), metavar="SECONDS", help="Without COMMAND: how long.  [default: until Ctrl-C]"
)
@click.option("--gpu", "gpus", type=click.IntRange(0), multiple=True, metavar="INDEX", help="As in nvidia-smi.")
@click.option("--out", type=FILE, metavar="FILE.csv", help="Log every sample, with the column names of nvidia-smi.")
@click.option("--summary", type=FILE, metavar="FILE.json", help="Write the summary to a file as well.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--record-command", is_flag=True, help="Keep all words of COMMAND in the summary, not the first alone.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND ...]")
def monitor_gpu(**values: Any) -> int:
    """Log power, energy, utilisation, memory, temperature and clocks of the GPUs while COMMAND runs.

    COMMAND keeps its stdin, stdout and stderr, gets the signals that monitor-gpu gets, and its exit code is passed on
    (128 + N where signal N killed it); the summary then goes to stderr, behind what COMMAND wrote. Without COMMAND it
    goes to stdout, after --duration or a Ctrl-C.

    The log is written row by row, in place: it is complete up to the moment at which anything ended it.
    """
    return watch(MonitorOptions(**values))


def watch(options: MonitorOptions) -> int:
    """Watch, log and sum up; returns the exit code."""
    from cuda_probe.monitor.child import check, run, wait
    from cuda_probe.monitor.csv_file import logging_to
    from cuda_probe.monitor.monitor import Monitor

    options.check()
    if options.words:
        check(options.words)
    began_utc = created_utc()
    monitor = Monitor(gpus=options.gpus or None, interval_s=options.interval, idle_s=options.idle)
    with ExitStack() as stack:
        if options.out:
            monitor.sink = stack.enter_context(logging_to(options.out, force=options.force))
        with monitor:
            code = run(options.words) if options.words else ended_by(wait(options.duration), options.duration)
    payload = {"began_utc": began_utc, "exit_code": code} | monitor.summary().as_json()
    present(envelope(KIND, SCHEMA_VERSION, options.parameters()) | payload, monitor.summary(), options)
    return code or (EXIT_USER_ERROR if monitor.failure else 0)


def ended_by(number: int | None, duration_s: float | None) -> int:
    """Return the exit code: a signal is how an endless log is ended, but cuts short one that was to last."""
    return 0 if number is None or duration_s is None else EXIT_BY_SIGNAL + number


def present(payload: dict[str, Any], summary: "MonitorSummary", options: MonitorOptions) -> None:
    """Write the summary's file, and print it: to stderr behind the output of a command."""
    to_stderr = bool(options.words)
    if options.summary:
        write_json(options.summary, payload)
    if options.as_json:
        click.echo(to_json(payload), nl=False, err=to_stderr)
        return
    say("\n" * to_stderr + summary_text(summary), err=to_stderr)
    written = [f"wrote {path}" for path in (options.out, options.summary) if path]
    if written:
        click.echo("\n" + "\n".join(written), err=to_stderr)


def summary_text(summary: "MonitorSummary") -> str:
    """Return the energy of all GPUs, a table of a line a GPU, and what is doubtful below it."""
    heads = ("GPU", "s", "J", "J above idle", "W idle", "W average", "W peak", "°C peak", "GiB peak", "% busy")
    rows = [heads]
    spent = f"{number(summary.energy_j, 1)} J, {number(summary.energy_above_idle_j, 1)} J of them above idle"
    longest_s = max((gpu.duration_s for gpu in summary.gpus), default=math.nan)
    first = f"{len(summary.gpus)} GPU{'s' * (len(summary.gpus) != 1)}, {number(longest_s, 2)} s: {spent}."
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
    return "\n".join([first, "", table(rows), *energy, *summary.notes])


def number(value: float | None, decimals: int, scale: float = 1.0) -> str:
    """Write a number, or a dash where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value * scale:,.{decimals}f}"


if __name__ == "__main__":
    monitor_gpu()
