"""The options of `validate --live`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError

if TYPE_CHECKING:
    from calibration.validate.live import Plan

MOST_DRAFTED = 64
DEFAULTS: Mapping[str, Any] = {
    "out_dir": Path("live"),
    "inflate": "4,8,16,32",
    "k": "1:8",
    "fit_k": "1,4,8",
    "max_prompts": 12,
    "max_new_tokens": 64,
    "runs": 1,
    "dtype": "bfloat16",
    "device": "cpu",
    "seed": 0,
}


def live_options(function: Any) -> Any:
    """Add them; none has a default of its own, so that one without --live is noticed."""
    count = click.IntRange(1, 1_000_000)
    named: tuple[tuple[str, dict[str, Any]], ...] = (
        ("--out-dir", {"type": click.Path(path_type=Path), "help": "Folder of all files; what is there is kept."}),
        ("--inflate", {"metavar": "VALUES", "help": "How many times as costly targets are."}),
        ("--k", {"metavar": "VALUES", "help": "Draft lengths."}),
        ("--fit-k", {"metavar": "VALUES", "help": "Those whose times are fitted; the others are forecast."}),
        ("--max-prompts", {"type": count, "help": "Prompts."}),
        ("--max-new-tokens", {"type": count, "help": "Tokens of an output, at most."}),
        ("--runs", {"type": count, "help": "Repeats of everything."}),
        ("--dtype", {"type": click.Choice(("float32", "bfloat16", "float16")), "help": "Weights."}),
        ("--device", {"help": "cpu, or cuda:0."}),
        ("--seed", {"type": click.IntRange(0, 2**31), "help": "Of turns and intervals."}),
    )
    for name, told in reversed(named):
        key = name[2:].replace("-", "_")
        about = f"With --live: {told['help'][0].lower()}{told['help'][1:]}  [default: {DEFAULTS[key]}]"
        function = click.option(name, **{**told, "help": about, "default": None})(function)
    return function


def check_live(options: Mapping[str, Any]) -> None:
    """Refuse options of --live without it.

    Raises:
        UserError: Names the option.
    """
    for key in DEFAULTS:
        if options[key] is not None and not options["live"]:
            flag = f"--{key.replace('_', '-')}"
            raise UserError(f"{flag}: {options[key]} without --live, expected both")


def plan_of(options: Mapping[str, Any]) -> "Plan":
    """Return what to run.

    Raises:
        UserError: A value that is not allowed.
    """
    from calibration.validate.live import Plan
    from simulator.ground.ranges import parse_whole

    told = {key: options[key] if options[key] is not None else value for key, value in DEFAULTS.items()}
    return Plan(
        folder=told["out_dir"],
        times=parse_whole("--inflate", told["inflate"], 1, 1000),
        draft_lengths=parse_whole("--k", told["k"], 1, MOST_DRAFTED),
        fitted=parse_whole("--fit-k", told["fit_k"], 1, MOST_DRAFTED),
        prompts=told["max_prompts"],
        tokens=told["max_new_tokens"],
        **{key: told[key] for key in ("runs", "dtype", "device", "seed")},
    )
