"""The options of `validate --live`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from acceptance.models.bundled import BUNDLED
from acceptance.text.prompts import DATASETS
from simulator.ground.artefacts import UserError
from simulator.ground.names import number_format, one_of

if TYPE_CHECKING:
    from calibration.validate.live import Plan


class LiveOption(NamedTuple):
    """An option: the field of `Plan` that it states, its default, its help, and what click is told besides."""

    field: str
    default: Any
    help: str
    more: dict[str, Any]


COUNT = click.IntRange(1, 1_000_000)
DTYPES = ("float32", "bfloat16", "float16")
VALUES = {"metavar": "VALUES"}
OPTIONS: dict[str, LiveOption] = {
    "out-dir": LiveOption(
        "folder", Path("live"), "folder of all files; what is there is kept.", {"type": click.Path(path_type=Path)}
    ),
    "inflate": LiveOption("times", "4,8,16,32", "how many times as costly targets are.", VALUES),
    "k": LiveOption("draft_lengths", "1:8", "draft lengths.", VALUES),
    "fit-k": LiveOption("fitted", "1,4,8", "those whose times are fitted; the others are forecast.", VALUES),
    "prompts": LiveOption("prompts_file", BUNDLED, "file of prompts, in any format of --format.", {}),
    "format": LiveOption("prompts_format", "auto", "format of --prompts.", {"type": click.Choice(DATASETS)}),
    "column": LiveOption("column", None, "column or key of --prompts that holds the prompt.", {}),
    "max-prompts": LiveOption("prompts", 12, "prompts.", {"type": COUNT}),
    "max-new-tokens": LiveOption("tokens", 64, "tokens of an output, at most.", {"type": COUNT}),
    "runs": LiveOption("runs", 1, "repeats of everything; of --serving-log, runs (20).", {"type": COUNT}),
    "dtype": LiveOption(
        "dtype", "bfloat16", "weights; of rows of --serving that do not say: theirs.", {"metavar": "NAME"}
    ),
    "device": LiveOption("device", "cpu", "cpu, or cuda:0.", {}),
    "processor-time": LiveOption(
        "processor_time", False, "time by one thread's work, not by the clock: for a busy machine.", {"is_flag": True}
    ),
    "seed": LiveOption("seed", 0, "of turns and intervals.", {"type": click.IntRange(0, 2**31)}),
}


def live_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add them; none has a default of its own, so that one without --live is noticed."""
    for name, option in reversed(OPTIONS.items()):
        default = "off" if option.default is False else "the usual ones" if option.default is None else option.default
        about = f"With --live: {option.help}  [default: {default}]"
        function = click.option(f"--{name}", help=about, default=None, **option.more)(function)
    return function


def taken_live_options(values: dict[str, Any], *, live: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of --live that were given, and the others; refuses one of the first without --live."""
    taken = {name: values[name.replace("-", "_")] for name in OPTIONS}
    given = {name: value for name, value in taken.items() if value is not None}
    for name, value in given.items():
        if not live:
            raise UserError(f"--{name}: {value} without --live, expected both")
    return given, {name: value for name, value in values.items() if name.replace("_", "-") not in OPTIONS}


def plan_of(given: Mapping[str, Any], *, methods: bool = False) -> "Plan":
    """Return what to run: as given, else by default; a UserError names a value that is not allowed.

    methods: all of them.
    """
    if methods and "fit-k" in given:
        raise UserError(f"--fit-k: {given['fit-k']}, but of --methods nothing is fitted, expected one or the other")
    from calibration.fit.lengths import parse_lengths
    from calibration.validate.live import Plan
    from simulator.ground.ranges import parse_whole

    values = {option.field: given.get(name, option.default) for name, option in OPTIONS.items()}
    values["dtype"] = number_format(values["dtype"])
    if values["dtype"] not in DTYPES:
        raise UserError(f"--dtype: {values['dtype']!r} is not allowed, expected {one_of(DTYPES, values['dtype'])}")
    values["times"] = parse_whole("--inflate", values["times"], 1, 1000)
    values["draft_lengths"] = parse_lengths("--k", values["draft_lengths"])
    values["fitted"] = parse_lengths("--fit-k", values["fitted"])
    return Plan(**values, methods=methods)
