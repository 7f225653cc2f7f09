"""The command `specsim`: every command of the project under one name. Imports none but the one that runs."""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

import click

from simulator.ground.command import OneLineErrorsGroup, command, no_traceback


class Entry(NamedTuple):
    """Where a command is, and its help in one sentence, as the command itself has it."""

    module: str
    attribute: str
    help: str

    def load(self) -> click.Command:
        """Import the command."""
        loaded: click.Command = getattr(import_module(self.module), self.attribute)
        return loaded


# In the order of the work: forecast, measure, calibrate, check.
COMMANDS: Mapping[str, Entry] = {
    "advise": Entry(
        "calibration.cli.advise",
        "advise",
        "Say whether to turn speculation on for a load, with which method and draft length, and what to type.",
    ),
    "simulate": Entry(
        "simulator.cli.simulate",
        "simulate",
        "Forecast speculative decoding in a closed loop: does it pay, by how much, and with which K.",
    ),
    "sweep": Entry(
        "simulator.cli.sweep",
        "sweep",
        "Evaluate a grid: options with VALUES take lists and ranges, such as 1:8, 0.05,0.1 or 0.5:0.95:0.05.",
    ),
    "profiles": Entry(
        "simulator.cli.profiles", "profiles", "Hardware profiles: what a forward pass costs on a device."
    ),
    "simulate-serving": Entry(
        "simulator.cli.simulate_serving",
        "simulate_serving",
        "Serve requests step for step as an engine schedules them: does speculation pay under load?",
    ),
    "shapes": Entry(
        "simulator.cli.shapes",
        "shapes",
        "Model shapes: the models whose sizes come along, for --target-model and --draft-model.",
    ),
    "drafters": Entry(
        "simulator.cli.drafters", "drafters", "Drafters: what --draft-model takes besides language models of their own."
    ),
    "pairs": Entry(
        "simulator.cli.pairs", "pairs", "Pairs: what published drafts accept, for --acceptance PAIR[:TASK]."
    ),
    "workload": Entry(
        "simulator.cli.workload", "workload", "Workloads: what clients send, as recorded traffic tells it."
    ),
    "measure-acceptance": Entry(
        "acceptance.cli.measure_acceptance",
        "measure_acceptance",
        "Measure what a draft/target pair accepts, and write accept_hist_k{K}.json for each K.",
    ),
    "bench-decode": Entry(
        "acceptance.cli.bench_decode",
        "bench_decode",
        "Decode the same prompts with every method, in turns, and say which is how much faster.",
    ),
    "replay-policies": Entry(
        "calibration.cli.replay_policies",
        "replay_policies",
        "Replay how engines choose draft lengths, batch by batch, over a trace or a law of acceptance.",
    ),
    "probe-gpu": Entry(
        "cuda_probe.cli.probe_gpu",
        "probe_gpu",
        "Measure a device: launches, arithmetic, memory, matrix products, and the parts of a speculative round.",
    ),
    "bench-sampling": Entry(
        "cuda_probe.cli.bench_sampling",
        "bench_sampling",
        "Time speculative sampling: our backends, a compiled torch version and transformers' own function.",
    ),
    "monitor-gpu": Entry(
        "cuda_probe.cli.monitor_gpu",
        "monitor_gpu",
        "Log power, energy, utilisation, memory, temperature and clocks of the GPUs while COMMAND runs.",
    ),
    "bench-server": Entry(
        "calibration.cli.bench_server",
        "bench_server",
        "Put load on OpenAI-compatible servers: what their users see, one alone or several in turns.",
    ),
    "calibrate": Entry(
        "calibration.cli.calibrate",
        "calibrate",
        "Fit what passes cost on a device to what was timed there, and write it as a profile.",
    ),
    "validate": Entry(
        "calibration.cli.validate", "validate", "Hold forecasts against measurements, and print the error of every row."
    ),
    "report": Entry(
        "calibration.cli.report",
        "report",
        "Make one page for a browser of results: the answer first, pictures, tables, and where they come from.",
    ),
    "explore": Entry(
        "calibration.cli.explore",
        "explore",
        "Explore forecasts on a page in the browser: models, device, method, acceptance and load as controls.",
    ),
}


class Umbrella(OneLineErrorsGroup):
    """A group whose commands run as if they stood alone: their own one-line errors and exit codes."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run as a program; never returns."""
        words = [*(sys.argv[1:] if args is None else args)]
        if words and words[0] in COMMANDS:
            name = f"{prog_name or self.name} {words[0]}"
            with no_traceback(name):
                chosen = COMMANDS[words[0]].load()
            chosen.main(words[1:], name, **extra)
        super().main(words or ["--help"], prog_name, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, imported now."""
        return COMMANDS[cmd_name].load() if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list, and import none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


@command("specsim", cls=Umbrella)
def specsim() -> None:
    """Forecast whether speculative decoding pays.

    Measure what a draft model's tokens are accepted and what forward passes cost, simulate, and check the forecast
    against real decoding. Each command also stands alone: `specsim simulate` is `simulate`.
    """


if __name__ == "__main__":
    specsim(prog_name="specsim")
