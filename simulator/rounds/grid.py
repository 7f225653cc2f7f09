"""Grids of parameters and their evaluation: `sweep` from lists and ranges to tidy columns.

Acceptance is drawn once for each (total, K, alpha) of the grid and priced at every cost: points that differ only in
costs share their random numbers, so their differences carry no noise. The draws belong to the grid: the same grid and
seed give the same numbers; a point in another grid gets others of the same law.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.costs.model_costs import ModelPair
from simulator.costs.parameters import BY_NAME, Point
from simulator.costs.priced import Pricing
from simulator.costs.step import Costs, Floats, RoundCost
from simulator.ground.artefacts import UserError
from simulator.ground.ranges import MAX_VALUES
from simulator.ground.streams import stream

from .acceptance_law import EquivalentAcceptance, HistogramAcceptance, LawTable, iid_laws, law_table
from .analytic import closed_form
from .engine import Counts, draw_counts, elapsed_s
from .experiment import interval95

ACCEPTANCE_NAMES = ("total", "draft_length", "alpha")
MAX_POINTS = MAX_VALUES
ROWS_A_CHUNK = 1 << 16

Progress = Callable[[int], None]
Columns = dict[str, NDArray[np.float64] | NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Values of parameters by name, within their bounds; the points are their product, the last name fastest."""

    values: Mapping[str, Floats]

    def __post_init__(self) -> None:
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

    def indices(self, points: NDArray[np.int64]) -> dict[str, NDArray[np.intp]]:
        """Return, for each name, which of its values each point has."""
        return dict(zip(self.values, np.unravel_index(points, self.shape), strict=True))

    def columns(self, points: NDArray[np.int64]) -> Columns:
        """Return each parameter's values at the points, by name; whole numbers as integers."""
        columns = {name: self.values[name][i] for name, i in self.indices(points).items()}
        return {name: v.astype(np.int64) if BY_NAME[name].whole else v for name, v in columns.items()}


def grid_over(pricing: Pricing, values: Mapping[str, ArrayLike]) -> Grid:
    """Return the grid over some parameters; the others are what the profile says, else their defaults.

    Raises:
        UserError: A parameter has no part in these costs, or a value is not allowed.
    """
    pricing.refuse_unused(values)
    pricing.check_work(values)
    known: Mapping[str, ArrayLike] = {**pricing.defaults(), **values}
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
        return isinstance(self.model, HistogramAcceptance)

    def table(self, columns: Columns, width: int) -> LawTable:
        """Return the laws of each point, `width` buckets wide."""
        draft_lengths = columns["draft_length"]
        if self.model is not None:
            return law_table(self.model, draft_lengths, width)
        return LawTable(iid_laws(columns["alpha"], draft_lengths, width), np.asarray(columns["alpha"], np.float64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What to evaluate: the grid, where acceptance and costs come from, how often a point is simulated (0: never)."""

    grid: Grid
    acceptance: Acceptance
    pricing: Pricing = field(default_factory=Pricing)
    overlap: bool = False
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


def chunks(points: int, size: int) -> list[NDArray[np.int64]]:
    size = max(size, 1)
    return [np.arange(start, min(start + size, points)) for start in range(0, points, size)]


def draw_grid(sweep: Sweep, progress: Progress) -> Counts | None:
    """Simulate every (total, K, alpha) of the grid; arrays of shape [drawn points, replications]."""
    if not sweep.replications:
        return None
    drawn, parts = sweep.drawn_grid, []
    # A row is one law: wide laws (a large K) get fewer rows, so that memory stays bounded.
    rows_a_chunk = max(ROWS_A_CHUNK * 16 // max(sweep.width, 16), 1)
    for number, points in enumerate(chunks(drawn.points, rows_a_chunk // sweep.replications)):
        columns = drawn.columns(points)
        laws, rates = sweep.acceptance.table(columns, sweep.width)
        rows = np.repeat(np.arange(len(points)), sweep.replications)
        counts = draw_counts(
            laws[rows],
            columns["draft_length"][rows].astype(np.int64),
            columns["total"][rows].astype(np.int64),
            (rates * sweep.overlap)[rows],
            stream(sweep.seed, number, "sweep"),
            stream(sweep.seed, number, "sweep hits"),
        )
        parts.append(counts)
        progress(len(points))
    shape = (drawn.points, sweep.replications)
    joined = {f.name: np.concatenate([getattr(p, f.name) for p in parts]).reshape(shape) for f in fields(Counts)}
    return Counts(**joined)


def run_sweep(sweep: Sweep, progress: Progress = lambda units: None) -> Columns:
    """Evaluate every point of the grid.

    Args:
        sweep: What to evaluate.
        progress: Called with how many units were done, `sweep.steps` in all.

    Returns:
        One array a column, all of shape [points]: every parameter, then every result.

    Raises:
        UserError: A combination of values under which a pass takes no time.
    """
    counts = draw_grid(sweep, progress)
    parts = []
    for points in chunks(sweep.grid.points, ROWS_A_CHUNK // max(sweep.replications, 1)):
        parts.append(evaluate(sweep, points, counts))
        progress(len(points))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def evaluate(sweep: Sweep, points: NDArray[np.int64], drawn: Counts | None) -> Columns:
    """Price some points: closed form always, simulation where rounds were drawn."""
    columns = sweep.grid.columns(points)
    costs = sweep.pricing.costs(Point(**columns))
    cost = costs.round_cost(columns["draft_length"])
    form = closed_form(cost, *sweep.acceptance.table(columns, sweep.width), overlap=sweep.overlap)
    priced = {
        "baseline_ms_per_token": cost.baseline_s * 1e3,
        "draft_ms_per_round": cost.draft_s * 1e3,
        "verify_ms_per_round": cost.verify_s * 1e3,
        "closed_form_tokens_per_round": form.tokens_per_round,
        "closed_form_speculative_ms_per_token": form.round_s / form.tokens_per_round * 1e3,
        "closed_form_speedup": form.speedup,
    }
    unused = ("alpha",) if sweep.acceptance.model else ()
    named = {BY_NAME[name].key: values for name, values in columns.items() if name not in unused}
    simulated = {} if drawn is None else price_draws(sweep, points, cost, drawn)
    return named | memory_columns(costs) | priced | simulated


def memory_columns(costs: Costs) -> Columns:
    """Return what models take of each device's memory, and whether that fits; nothing for burn units."""
    if not isinstance(costs, ModelPair):
        return {}
    columns: Columns = {"memory_bytes": costs.memory_bytes}
    return columns if costs.fits is None else columns | {"fits": costs.fits.astype(np.int64)}


def price_draws(sweep: Sweep, points: NDArray[np.int64], cost: RoundCost, drawn: Counts) -> Columns:
    """Price the rounds drawn for these points: mean times, speedup and its noise, counts a run."""
    at = sweep.grid.indices(points)
    drawn_grid = sweep.drawn_grid
    rows = np.ravel_multi_index([at[k] for k in drawn_grid.values], drawn_grid.shape)
    counts = Counts(**{f.name: getattr(drawn, f.name)[rows] for f in fields(Counts)})
    wide = RoundCost(**{f.name: np.broadcast_to(getattr(cost, f.name), len(points))[:, None] for f in fields(cost)})
    times_s = elapsed_s(wide, counts)
    totals = sweep.grid.values["total"][at["total"]]
    baseline_s, rounds = totals * cost.baseline_s, counts.rounds.mean(1)
    low, high = interval95(times_s, baseline_s) if sweep.replications > 1 else (np.full(len(points), np.nan),) * 2
    return {
        "speculative_ms_per_token": times_s.mean(1) / totals * 1e3,
        "speedup": baseline_s / times_s.mean(1),
        "simulation_noise_low95": low,
        "simulation_noise_high95": high,
        "rounds": rounds,
        "drafted": rounds * cost.draft_length,
        "cut_tokens": counts.cut.mean(1),
        "accepted": counts.accepted.mean(1),
        "tokens_per_round": 1 + counts.accepted.mean(1) / rounds,
    }
