"""Options of devices and of loads of which `sweep` takes lists: each combination of their values is a case."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import click

from simulator.ground.artefacts import UserError
from simulator.ground.ranges import parse_values

# Options whose values part no grid, but make one each.
LISTED = ("tp", "dp", "draft_tp", "chunk", "max_running", "requests", "prefix_hit")
# Cases that a sweep looks at.
MOST = 64

Case = dict[str, Any]


class Several(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """What an option takes, or a list or range of it."""

    name = "VALUES"

    def __init__(self, each: click.ParamType) -> None:  # type: ignore[type-arg]
        self.each = each

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return one value, or several as a tuple."""
        text = str(value)
        if param is None or not {",", ":"} & set(text):
            return self.each.convert(value, param, ctx)
        values = parse_values(param.opts[0], text, percent=getattr(self.each, "max", None) == 1)
        found = tuple(self.each.convert(f"{v:.17g}", param, ctx) for v in values)
        return found if len(found) > 1 else found[0]


def takes_lists(command: click.Command) -> click.Command:
    """Have a command take lists of these options."""
    for parameter in command.params:
        if parameter.name in LISTED:
            parameter.type, parameter.metavar = Several(parameter.type), "VALUES"
    return command


def cases_of(values: Mapping[str, Any]) -> list[Case]:
    """Return each combination of the values of options that have several, by their names; one, empty, where none has.

    Raises:
        UserError: There are too many.
    """
    several = {name: values[name] for name in LISTED if isinstance(values[name], tuple)}
    cases = [dict(zip(several, chosen, strict=True)) for chosen in product(*several.values())]
    if len(cases) > MOST:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in several)
        raise UserError(f"{flags}: {len(cases)} combinations, expected at most {MOST}")
    return cases


def refuse_cases(case: Case, beside: str) -> None:
    """Refuse several values beside what is of one case."""
    for name in case:
        raise UserError(f"--{name.replace('_', '-')}: several values beside {beside}, expected one")


def named(case: Case) -> dict[str, float]:
    """Return what is of a case alone, by the names of results, which are those of options."""
    return {name: float(value) for name, value in case.items()}
