"""The options of `validate --live`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError

if TYPE_CHECKING:
    from calibration.validate.live import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOptions:
    """The options as they were given, or their defaults."""

    out_dir: Path = Path("live")
    inflate: str = "4,8,16,32"
    k: str = "1:8"
    fit_k: str = "1,4,8"
    max_prompts: int = 12
    max_new_tokens: int = 64
    runs: int = 1
    dtype: str = "bfloat16"
    device: str = "cpu"
    seed: int = 0

    @property
    def plan(self) -> "Plan":
        """What to run; a UserError names a value that is not allowed."""
        from calibration.fit.lengths import parse_lengths
        from calibration.validate.live import Plan
        from simulator.ground.ranges import parse_whole

        return Plan(
            folder=self.out_dir,
            times=parse_whole("--inflate", self.inflate, 1, 1000),
            draft_lengths=parse_lengths("--k", self.k),
            fitted=parse_lengths("--fit-k", self.fit_k),
            prompts=self.max_prompts,
            tokens=self.max_new_tokens,
            runs=self.runs,
            dtype=self.dtype,
            device=self.device,
            seed=self.seed,
        )


COUNT = click.IntRange(1, 1_000_000)
ABOUT: Mapping[str, tuple[str, dict[str, Any]]] = {
    "out_dir": ("folder of all files; what is there is kept.", {"type": click.Path(path_type=Path)}),
    "inflate": ("how many times as costly targets are.", {"metavar": "VALUES"}),
    "k": ("draft lengths.", {"metavar": "VALUES"}),
    "fit_k": ("those whose times are fitted; the others are forecast.", {"metavar": "VALUES"}),
    "max_prompts": ("prompts.", {"type": COUNT}),
    "max_new_tokens": ("tokens of an output, at most.", {"type": COUNT}),
    "runs": ("repeats of everything.", {"type": COUNT}),
    "dtype": ("weights.", {"type": click.Choice(("float32", "bfloat16", "float16"))}),
    "device": ("cpu, or cuda:0.", {}),
    "seed": ("of turns and intervals.", {"type": click.IntRange(0, 2**31)}),
}


def live_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add them; none has a default of its own, so that one without --live is noticed."""
    for field in reversed(fields(LiveOptions)):
        words, more = ABOUT[field.name]
        about = f"With --live: {words}  [default: {field.default}]"
        function = click.option(f"--{field.name.replace('_', '-')}", help=about, default=None, **more)(function)
    return function


def taken_live_options(values: dict[str, Any], *, live: bool) -> tuple[LiveOptions, dict[str, Any]]:
    """Return the options of --live, and the others; refuses one of the first without --live."""
    given = {field.name: values[field.name] for field in fields(LiveOptions) if values[field.name] is not None}
    for name, value in given.items():
        if not live:
            raise UserError(f"--{name.replace('_', '-')}: {value} without --live, expected both")
    return LiveOptions(**given), {name: value for name, value in values.items() if name not in ABOUT}
