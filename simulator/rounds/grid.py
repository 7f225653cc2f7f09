"""Grids of parameters, and what to evaluate over them; `sweeping` does."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.costs.parameters import BY_NAME
from simulator.costs.priced import Pricing
from simulator.costs.step import Floats
from simulator.ground.artefacts import UserError
from simulator.ground.histogram import tokens_per_round_iid
from simulator.ground.ranges import MAX_VALUES

from .acceptance_law import (
    EquivalentAcceptance,
    HistogramAcceptance,
    IidAcceptance,
    LawTable,
    iid_hit_rates,
    iid_laws,
    law_table,
)
from .guesses import hit_rates

# What rounds are drawn by, in front of all that they are priced by.
ACCEPTANCE_NAMES = ("total", "draft_length", "alpha")
MAX_POINTS = MAX_VALUES

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Values of parameters by name, within their bounds; the points are their product, the last name fastest.

    `ACCEPTANCE_NAMES`, where they are there, come first.
    """

    values: Mapping[str, Floats]

    def __post_init__(self) -> None:
        drawn = [name for name in self.values if name in ACCEPTANCE_NAMES]
        if list(self.values)[: len(drawn)] != drawn:
            raise ValueError(f"values are of {', '.join(self.values)}, expected {', '.join(ACCEPTANCE_NAMES)} first")
        for name, values in self.values.items():
            BY_NAME[name].check(values)
        if self.points > MAX_POINTS:
            raise UserError(f"the grid has {self.points:,} points, at most {MAX_POINTS:,} are allowed")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(v) for v in self.values.values())

    @property
    def points(self) -> int:
        return math.prod(self.shape)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names with more than one value."""
        return tuple(name for name, values in self.values.items() if len(values) > 1)

    def columns(self, points: NDArray[np.int64]) -> Columns:
        """Return each parameter's values at the points, by name; whole numbers as integers."""
        at = np.unravel_index(points, self.shape)
        return {name: typed(name, values[i]) for (name, values), i in zip(self.values.items(), at, strict=True)}

    def box(self, ranges: tuple[slice, ...]) -> Columns:
        """Return the values within a range of each parameter, along an axis of its own each."""
        axes = {}
        for axis, ((name, values), within) in enumerate(zip(self.values.items(), ranges, strict=True)):
            shape = [1] * len(ranges)
            shape[axis] = -1
            axes[name] = typed(name, values[within].reshape(shape))
        return axes

    def boxes(self, most: int) -> Iterator[tuple[slice, ...]]:
        """Yield ranges that part the grid into boxes of at most so many points, each in a row, in order."""
        shape, axis, inner = self.shape, len(self.shape), 1
        while axis and inner * shape[axis - 1] <= most:
            axis -= 1
            inner *= shape[axis]
        whole = tuple(slice(0, n) for n in shape)
        if axis == 0:
            yield whole
            return
        parts = -(-shape[axis - 1] // max(most // inner, 1))
        ends = [shape[axis - 1] * part // parts for part in range(parts + 1)]
        for outer in np.ndindex(shape[: axis - 1]):
            for first, last in pairwise(ends):
                yield *(slice(i, i + 1) for i in outer), slice(first, last), *whole[axis:]


def typed(name: str, values: Floats) -> NDArray[Any]:
    """Return values of a parameter, whole numbers as integers."""
    return values.astype(np.int64) if BY_NAME[name].whole else values


def grid_over(pricing: Pricing, values: Mapping[str, ArrayLike]) -> Grid:
    """Return the grid over some parameters; the others are what the profile says, else their defaults.

    Raises:
        UserError: A parameter has no part in these costs, or a value is not allowed.
    """
    pricing.refuse_unused(values)
    pricing.check_work(values)
    known: Mapping[str, ArrayLike] = {**pricing.defaults(values.get("draft_length")), **values}
    axes = {name: np.atleast_1d(known.get(name, BY_NAME[name].default)) for name in pricing.names}
    return Grid(values={name: np.asarray(axis, np.float64) for name, axis in axes.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """Where the acceptance of a grid's points comes from: i.i.d. at the column alpha, or histograms."""

    model: HistogramAcceptance | EquivalentAcceptance | None = None

    @property
    def caveat(self) -> str:
        """What kind of approximation that is; empty for none."""
        return "" if self.model is None else self.model.caveat

    @property
    def is_measured(self) -> bool:
        """Whether rounds are drawn from measured histograms themselves."""
        return isinstance(self.model, HistogramAcceptance) and not self.model.assumed

    def table(self, columns: Columns, width: int) -> LawTable:
        """Return the laws of each point, `width` buckets wide."""
        draft_lengths = columns["draft_length"]
        if self.model is not None:
            return law_table(self.model, draft_lengths, width)
        return LawTable(iid_laws(columns["alpha"], draft_lengths, width), np.asarray(columns["alpha"], np.float64))

    def tokens_per_round(self, columns: Columns) -> Floats:
        """Return 1 + E[A] of each point."""
        if self.model is not None:
            return self.model.tokens_per_round(columns["draft_length"].astype(np.int64))
        return tokens_per_round_iid(columns["alpha"], columns["draft_length"])

    def hit_rates(self, columns: Columns, guesses: int) -> Floats:
        """Return P(the next draft can be used) of each point, where it is made for so many outcomes meanwhile."""
        if self.model is not None:
            return hit_rates(self.model, columns["draft_length"].astype(np.int64), guesses)
        if guesses == 1:
            return iid_hit_rates(columns["alpha"], columns["draft_length"])
        alphas, which = np.unique(columns["alpha"], return_inverse=True)
        lengths = columns["draft_length"].astype(np.int64)
        each = np.stack([hit_rates(IidAcceptance(float(alpha)), lengths, guesses) for alpha in alphas])
        which = which.reshape(np.shape(columns["alpha"]))
        return np.asarray(sum(np.where(which == i, one, 0.0) for i, one in enumerate(each)), np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What to evaluate: the grid, where acceptance and costs come from, how often a point is simulated (0: never)."""

    grid: Grid
    acceptance: Acceptance
    pricing: Pricing = field(default_factory=Pricing)
    overlap: int = 0
    replications: int = 16
    seed: int = 0

    @property
    def width(self) -> int:
        return int(self.grid.values["draft_length"].max()) + 1

    @property
    def drawn_grid(self) -> Grid:
        """The grid of what the draws depend on."""
        return Grid(values={k: v for k, v in self.grid.values.items() if k in ACCEPTANCE_NAMES})

    @property
    def steps(self) -> int:
        """Units of progress that `run_sweep` reports in all."""
        return self.grid.points + (self.drawn_grid.points if self.replications else 0)
