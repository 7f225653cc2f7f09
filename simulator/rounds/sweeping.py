"""The evaluation of a grid: part by part, in order, on all cores, in memory that does not grow with the grid.

Acceptance is drawn once for each (total, K, alpha) of the grid and priced at every cost: points that differ only in
costs share their random numbers, so their differences carry no noise. The draws belong to the grid: the same grid and
seed give the same numbers; a point in another grid gets others of the same law.

A part is a box of the grid. Its columns are arrays that broadcast to the box: what hangs on some parameters alone is
computed, and written, once for each of their values.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from simulator.costs.kinds import is_models
from simulator.costs.parameters import Point, key_of
from simulator.costs.step import Costs, Floats, RoundCost
from simulator.ground.endings import unbroken
from simulator.ground.machine import cores, keep_freed
from simulator.ground.streams import stream
from simulator.ground.tables import Table

from .analytic import long_run
from .engine import Counts, draw_counts, elapsed_s
from .experiment import Progress, interval95
from .grid import ACCEPTANCE_NAMES, Columns, Sweep
from .guesses import guessed
from .kept import Kept

ROWS_A_CHUNK = POINTS_A_PART = 1 << 16
# Points times runs that are priced together.
RUNS_A_PART = 1 << 18

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A box of a grid: the number of its first point, all of which follow each other, and its ranges of values."""

    first: int
    ranges: tuple[slice, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(r.stop - r.start for r in self.ranges)

    @property
    def points(self) -> int:
        return math.prod(self.shape)

    def fill(self, whole: Columns, columns: Columns, points: int) -> None:
        """Put the columns of this part where they belong in those of all points, which are made when first needed."""
        for key, values in columns.items():
            if key not in whole:
                whole.setdefault(key, np.empty(points, values.dtype))
            whole[key][self.first : self.first + self.points].reshape(self.shape)[...] = values


def parts_of(sweep: Sweep) -> Iterator[Part]:
    """Yield the parts of a sweep in order."""
    first = 0
    for ranges in sweep.grid.boxes(min(POINTS_A_PART, max(RUNS_A_PART // max(sweep.replications, 1), 1))):
        part = Part(first=first, ranges=ranges)
        yield part
        first += part.points


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
    found: Columns = {}

    def fill(part: Part, columns: Columns) -> None:
        part.fill(found, columns, sweep.grid.points)

    for _ in each_part(sweep, fill, progress):
        pass
    return found


@dataclass(slots=True, kw_only=True)
class Overview:
    """What a sweep says as a whole, by the closed form.

    best, speedup: the first point of the largest speedup, where models fit into memory; None where they do nowhere.
    above_1, unfit: points that gain, and that do not fit. columns: what pictures show, where it is kept. points: those
    that were seen and written: all, unless the user ended it.
    """

    best: int | None = None
    speedup: float = -math.inf
    above_1: int = 0
    unfit: int = 0
    points: int = 0
    columns: Columns


def overview(
    sweep: Sweep,
    progress: Progress,
    table: Table | None,
    constants: Mapping[str, Any],
    *,
    keep: bool,
    kept: Kept | None = None,
    beside: Columns | None = None,
) -> Overview:
    """Evaluate a sweep without holding it: write it into a table as it comes, beside `constants`, and look it over.

    Interrupted, it ends with what is written.

    keep: whether pictures will be drawn of it. kept: what is done of it, and where it is kept on the way. beside: more
    columns of the table, [points] each.
    """
    drawn = ("closed_form_speedup", "fits") if keep else ()
    seen = Overview(columns={})

    def finish(part: Part, columns: Columns) -> tuple[Part, Floats, Columns, Any]:
        gains = np.broadcast_to(columns["closed_form_speedup"], part.shape).ravel()
        if "fits" in columns:
            gains = np.where(np.broadcast_to(columns["fits"], part.shape).ravel() > 0, gains, np.nan)
        more = {
            key: values[part.first : part.first + part.points].reshape(part.shape)
            for key, values in (beside or {}).items()
        }
        encoded = None if table is None else table.encode({**columns, **more, **constants}, part.shape)
        return part, gains, columns, encoded

    try:
        for part, gains, columns, encoded in each_part(sweep, finish, progress, kept):
            fits = ~np.isnan(gains)
            seen.above_1 += int((gains > 1).sum())
            seen.unfit += int((~fits).sum())
            if fits.any() and np.nanmax(gains) > seen.speedup:
                seen.best, seen.speedup = part.first + int(np.nanargmax(gains)), float(np.nanmax(gains))
            part.fill(seen.columns, {key: columns[key] for key in drawn if key in columns}, sweep.grid.points)
            with unbroken():
                if table is not None:
                    table.write(encoded)
                if kept is not None:
                    kept.save(part.first, columns)
                seen.points += part.points
    except KeyboardInterrupt:
        if table is None or not seen.points:
            raise
    return seen


def each_part(
    sweep: Sweep, finish: Callable[[Part, Columns], T], progress: Progress, kept: Kept | None = None
) -> Iterator[T]:
    """Evaluate every part that is not kept, on all cores, and yield in order what `finish` makes of each there."""
    chunk, costs = points_a_chunk(sweep), cost_points(sweep)
    draws: dict[int, Any] = {}
    counted = 0
    waiting: deque[tuple[int, Any]] = deque()

    def work(part: Part, first_chunk: int, drawn: list[Any]) -> T:
        if kept is not None and kept.has(part.first):
            return finish(part, kept.load(part.first))
        counts = joined([each.result() for each in drawn], part, sweep, first_chunk * chunk) if drawn else None
        return finish(part, evaluate(sweep, part, counts))

    def done() -> T:
        units, future = waiting.popleft()
        result: T = future.result()
        progress(units)
        return result

    is_large = sweep.grid.points * max(sweep.replications, 1) > POINTS_A_PART
    workers = cores() if is_large else 1
    if is_large:
        keep_freed()
    with submitting(workers) as submit:
        for part in parts_of(sweep):
            needed = range(part.first // costs // chunk, (part.first + part.points - 1) // costs // chunk + 1)
            drawn = needed if sweep.replications and not (kept is not None and kept.has(part.first)) else range(0)
            draws |= {number: submit(draw_chunk, sweep, number) for number in drawn if number not in draws}
            for number in [number for number in draws if number < needed.start]:
                del draws[number]
            new = range(max(needed.start, counted), needed.stop) if sweep.replications else ()
            counted = needed.stop
            units = part.points + sum(len(chunk_points(sweep, number)) for number in new)
            waiting.append((units, submit(work, part, needed.start, [draws[number] for number in drawn])))
            if len(waiting) > 2 * workers:
                yield done()
        while waiting:
            yield done()


@dataclass(frozen=True, slots=True)
class Done:
    """What was done at once, as a future."""

    value: Any

    def result(self) -> Any:
        return self.value


@contextmanager
def submitting(workers: int) -> Iterator[Callable[..., Any]]:
    """Yield what runs a function with arguments, in the order of the calls, and returns its future."""
    if workers == 1:
        yield lambda work, *arguments: Done(work(*arguments))
        return
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(workers)
    try:
        yield pool.submit
    finally:
        pool.shutdown(cancel_futures=True)


def cost_points(sweep: Sweep) -> int:
    """Return how many points share their draws."""
    return math.prod(len(v) for name, v in sweep.grid.values.items() if name not in ACCEPTANCE_NAMES)


def points_a_chunk(sweep: Sweep) -> int:
    """Return how many points are drawn from one stream: fewer where laws are wide, so that memory stays bounded."""
    return max(rows_at_once(sweep) // max(sweep.replications, 1), 1)


def rows_at_once(sweep: Sweep) -> int:
    """Return how many runs are drawn at once at most."""
    return max(ROWS_A_CHUNK * 16 // max(sweep.width, 16), 1)


def chunk_points(sweep: Sweep, number: int) -> range:
    """Return the points of the drawn grid that are drawn from one stream."""
    size = points_a_chunk(sweep)
    return range(number * size, min((number + 1) * size, sweep.drawn_grid.points))


def draw_chunk(sweep: Sweep, number: int) -> Counts:
    """Simulate some of the (total, K, alpha) of the grid; arrays of shape [points, replications]."""
    points = chunk_points(sweep, number)
    columns = sweep.drawn_grid.columns(np.arange(points.start, points.stop))
    laws, rates = sweep.acceptance.table(columns, sweep.width)
    rates, others = guessed(laws, columns["draft_length"], rates, sweep.overlap)
    streams = stream(sweep.seed, number, "sweep"), stream(sweep.seed, number, "sweep hits")
    runs, most, parts = len(points) * sweep.replications, rows_at_once(sweep), []
    for first in range(0, runs, most):
        rows = np.arange(first, min(first + most, runs)) // sweep.replications
        k, total = (columns[name][rows].astype(np.int64) for name in ("draft_length", "total"))
        parts.append(draw_counts(laws[rows], k, total, rates[rows], *streams, others[rows]))
    whole = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Counts._fields}
    return Counts(**{name: values.reshape(len(points), sweep.replications) for name, values in whole.items()})


def joined(drawn: list[Counts], part: Part, sweep: Sweep, first_drawn: int) -> Counts:
    """Return the draws of a part, [*box, replications], from those of chunks; first_drawn: the first point of these."""
    costs = cost_points(sweep)
    first, last = part.first // costs - first_drawn, (part.first + part.points - 1) // costs - first_drawn + 1
    inner = [name in ACCEPTANCE_NAMES for name in sweep.grid.values]
    shape = [n if is_drawn else 1 for n, is_drawn in zip(part.shape, inner, strict=True)]

    def of(name: str) -> Any:
        arrays = [getattr(counts, name) for counts in drawn]
        whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return whole[first:last].reshape(*shape, sweep.replications)

    return Counts(**{name: of(name) for name in Counts._fields})


def evaluate(sweep: Sweep, part: Part, drawn: Counts | None) -> Columns:
    """Price the points of a part: closed form always, simulation where rounds were drawn."""
    columns = sweep.grid.box(part.ranges)
    costs, load = sweep.pricing.costs(Point(**columns)), sweep.pricing.load
    unused = ("alpha",) if sweep.acceptance.model else ()
    named = {key_of(name, load): values for name, values in columns.items() if name not in unused}
    if load is not None and is_models(costs):
        from .loads import load_columns

        return {key: np.asarray(v) for key, v in (named | load_columns(sweep, load, costs, columns)).items()}
    cost = costs.round_cost(columns["draft_length"])
    tokens_per_round = sweep.acceptance.tokens_per_round(columns)
    form = long_run(
        cost, tokens_per_round, sweep.acceptance.hit_rates(columns, sweep.overlap) if sweep.overlap else None
    )
    priced = {
        "baseline_ms_per_token": cost.baseline_s * 1e3,
        "draft_ms_per_round": cost.draft_s * 1e3,
        "verify_ms_per_round": cost.verify_s * 1e3,
        "closed_form_tokens_per_round": form.tokens_per_round,
        "closed_form_speculative_ms_per_token": form.round_s / form.tokens_per_round * 1e3,
        "closed_form_speedup": form.speedup,
    }
    simulated = {} if drawn is None else price_draws(sweep, columns, cost, drawn)
    return {key: np.asarray(v) for key, v in (named | memory_columns(costs) | priced | simulated).items()}


def memory_columns(costs: Costs) -> Columns:
    """Return what models take of each device's memory, and whether that fits; nothing for burn units."""
    if not is_models(costs):
        return {}
    columns: Columns = {"memory_bytes": costs.memory_bytes}
    return columns if costs.fits is None else columns | {"fits": costs.fits.astype(np.int64)}


def price_draws(sweep: Sweep, columns: Columns, cost: RoundCost, drawn: Counts) -> Columns:
    """Price the rounds drawn for these points: mean times, speedup and its noise, counts a run."""
    times_s = np.ascontiguousarray(elapsed_s(cost.with_axis(), drawn))
    mean_s, rounds, accepted = times_s.mean(-1), drawn.rounds.mean(-1), drawn.accepted.mean(-1)
    totals = columns["total"].astype(np.float64)
    baseline_s = totals * cost.baseline_s
    low, high = interval95(times_s, baseline_s) if sweep.replications > 1 else (np.array(np.nan),) * 2
    return {
        "speculative_ms_per_token": mean_s / totals * 1e3,
        "speedup": baseline_s / mean_s,
        "simulation_noise_low95": low,
        "simulation_noise_high95": high,
        "rounds": rounds,
        "drafted": rounds * cost.tokens_drafted,
        "cut_tokens": drawn.cut.mean(-1),
        "accepted": accepted,
        "tokens_per_round": 1 + accepted / rounds,
    }
