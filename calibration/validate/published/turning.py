"""The load from which speculation no longer pays, in a table of throughputs with and without it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from calibration.published.cases import Row


class Forecast(Protocol):
    """A row with its forecast."""

    @property
    def row(self) -> Row:
        """What was measured."""

    @property
    def forecast(self) -> float:
        """In the same unit."""


class Turn(NamedTuple):
    """Where speculation stops paying in a group of rows: clients of a grid, None where it pays with the most."""

    group: str
    grid: tuple[int, ...]
    measured: int | None
    forecast: int | None

    @property
    def steps(self) -> int:
        """By how many steps of the grid the forecast is off."""
        places = [len(self.grid) if at is None else self.grid.index(at) for at in (self.measured, self.forecast)]
        return abs(places[0] - places[1])


def turns_of(rows: Sequence[Forecast]) -> tuple[Turn, ...]:
    """Return the turn of each group whose rows were measured with and without drafts at two loads or more."""
    found = []
    for group in dict.fromkeys(r.row.group for r in rows):
        plain, drafted = (
            {r.row.sequences: r for r in rows if r.row.group == group and r.row.is_plain is of} for of in (True, False)
        )
        grid = tuple(sorted(plain.keys() & drafted.keys()))
        if len(grid) > 1:
            pairs = [(plain[n], drafted[n]) for n in grid]
            measured, forecast = (stops(grid, pairs, of) for of in (lambda r: r.row.measured, lambda r: r.forecast))
            found.append(Turn(group, grid, measured, forecast))
    return tuple(found)


def stops(
    grid: Sequence[int], pairs: Sequence[tuple[Forecast, Forecast]], of: Callable[[Forecast], float]
) -> int | None:
    """Return the first load at which drafts give no more than plain decoding."""
    return next((n for n, (plain, drafted) in zip(grid, pairs, strict=True) if of(drafted) <= of(plain)), None)
