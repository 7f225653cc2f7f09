"""What a sweep answers: the best draft length at each of its other values, or over ranges of batch sizes; no text."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.costs.kinds import is_models
from simulator.costs.parameters import Point, key_of
from simulator.costs.step import Costs, Floats
from simulator.ground.streams import stream
from simulator.rounds.acceptance_law import AcceptanceModel, IidAcceptance, Ints
from simulator.rounds.grid import Columns, Grid, Sweep
from simulator.rounds.sweeping import run_sweep

from .schedule import LEAST_GAIN, Range, ranges
from .uncertainty import drawn_lengths, ends95, is_open, speedups
from .verdict import DOES_NOT_FIT, answer

BATCH, K = "batch", "draft_length"
# Batch sizes up to which each has an answer of its own; answers, and combinations with ranges each, that are told of.
MOST_LISTED, MOST_ROWS, MOST_PLANS = 12, 24, 8
SAMPLES = 400
# What of a load has an interval: columns, and their units.
LOAD_COLUMNS = {
    "tpot_s": ("ms_per_token", 1e3),
    "ttft_s": ("first_token_ms", 1e3),
    "output_tokens_per_s": ("tokens_per_s", 1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The best of some draft lengths where the other values are these, by the closed form.

    values: by the names of results. batches: first and last of a range of batch sizes that share the answer; None where
    each has its own. draft_length: None where nothing fits into memory, 0 where plain decoding is best. drafted: the
    best that drafts. as_good: other draft lengths within `LEAST_GAIN` of the best, 0 (off) among them; over a range,
    those that are so throughout. speedup: of the best that drafts, in a range at its first batch size; speedup_at_last:
    at its last. speedup_ci95: by what is not known of constants and acceptance, of both; None where nothing says how
    much. at_edge: whether the best is the longest that was looked at. verdict, verdict_at_last: whether these speedups
    pay, as `verdict.answer` says. served: what a load comes to with the best that drafts, by `LOAD_COLUMNS`; None of
    none. below_1: first and last batch size of a range at which its draft length is below 1x,
    by less than a switch is worth.
    """

    values: dict[str, float]
    batches: tuple[int, int] | None = None
    draft_length: int | None = None
    drafted: int | None = None
    as_good: tuple[int, ...] = ()
    speedup: float | None = None
    speedup_at_last: float | None = None
    speedup_ci95: tuple[float, float] | None = None
    at_edge: bool = False
    verdict: str = DOES_NOT_FIT
    verdict_at_last: str | None = None
    below_1: tuple[int, int] | None = None
    served: dict[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The points of a grid that share all values but draft length, and batch size where answers are of ranges.

    point: the shared values, by the names of parameters. gains: speedups, [batch sizes, draft lengths]. fits: [batch
    sizes]. served: what loads come to with drafts, by `LOAD_COLUMNS`, [draft lengths, batch sizes]; empty of none.
    """

    point: dict[str, float]
    sizes: Floats
    lengths: NDArray[np.int64]
    gains: Floats
    fits: NDArray[np.bool_]
    served: Columns = field(default_factory=dict)


def has_ranges(grid: Grid) -> bool:
    """Whether so many batch sizes were looked at that answers are of ranges of them."""
    return len(grid.values.get(BATCH, ())) > MOST_LISTED


def answers_of(sweep: Sweep) -> list[Answer]:
    """Return an answer for each combination of the values besides draft length; some evenly chosen where many are.

    Where many batch sizes were looked at, the answers are of ranges of them.
    """
    found = []
    for block in blocks_of(sweep):
        values = {
            key_of(name, sweep.pricing.load): block.point[name] for name in sweep.grid.axes if name in block.point
        }
        answers = over_ranges(sweep, block) if has_ranges(sweep.grid) else [at_point(sweep, block)]
        found += [replace(answer, values=values) for answer in answers]
    return found


def blocks_of(sweep: Sweep) -> Iterator[Block]:
    """Yield the blocks that are told of, each a small sweep of its own by the closed form."""
    grid = sweep.grid
    inner = (BATCH, K) if has_ranges(grid) else (K,)
    others = [name for name in grid.values if name not in inner]
    counts = [len(grid.values[name]) for name in others]
    for row in shown(math.prod(counts), MOST_PLANS if has_ranges(grid) else MOST_ROWS):
        at = dict(zip(others, np.unravel_index(row, counts), strict=True))
        own = {name: v[at[name] : at[name] + 1] if name in at else v for name, v in grid.values.items()}
        columns = run_sweep(replace(sweep, grid=Grid(values=own), replications=0))
        # Draft lengths come before batch sizes in a grid.
        lengths = grid.values[K].astype(np.int64)
        gains = columns["closed_form_speedup"].reshape(len(lengths), -1).T
        fits = columns["fits"].reshape(len(lengths), -1)[0] > 0 if "fits" in columns else np.ones(len(gains), np.bool_)
        yield Block(
            point={name: float(own[name][0]) for name in others},
            sizes=grid.values.get(BATCH, np.ones(1)),
            lengths=lengths,
            gains=gains,
            fits=fits,
            served={n: columns[f"speculative_{n}"] for n, _ in LOAD_COLUMNS.values()} if sweep.pricing.load else {},
        )


def shown(rows: int, most: int) -> NDArray[np.int64]:
    """Return which rows are told of: the first and the last, and some between them where there are many."""
    return np.unique(np.linspace(0, rows - 1, min(rows, most)).round().astype(np.int64))


def at_point(sweep: Sweep, block: Block) -> Answer:
    """Return the answer of a block of one batch size."""
    if not block.fits[0]:
        return Answer(values={})
    gains = block.gains[0]
    at = int(gains.argmax())
    (ends,) = intervals_at(sweep, block, at, [{}])
    served = {name: float(values[at]) for name, values in block.served.items()} or None
    found = replace(best_of(block.lengths, gains), speedup_ci95=ends, verdict=answer(float(gains.max()), ends))
    return replace(found, served=served)


def best_of(lengths: NDArray[np.int64], gains: Floats) -> Answer:
    """Return which of some draft lengths is best, and which do as well."""
    at = int(gains.argmax())
    all_lengths, all_gains = np.concatenate(([0], lengths)), np.concatenate(([1.0], gains))
    best = int(all_gains.argmax())
    near = all_gains * (1 + LEAST_GAIN) > all_gains[best]
    near[best] = False
    return Answer(
        values={},
        draft_length=int(all_lengths[best]),
        drafted=int(lengths[at]),
        as_good=tuple(int(k) for k in all_lengths[near]),
        speedup=float(gains[at]),
        at_edge=len(lengths) > 1 and best == len(lengths),
    )


def plan_of(block: Block) -> tuple[Range, ...]:
    """Return the ranges of batch sizes of a block that fit into memory, with their best draft lengths."""
    fits, lengths = block.fits, np.concatenate(([0], block.lengths))
    if not fits.any():
        return ()
    found = ranges(np.vstack([np.ones(fits.sum()), block.gains[fits].T]), block.sizes[fits])
    return tuple(replace(r, draft_length=int(lengths[r.draft_length])) for r in found)


def named_lengths(grid: Grid, columns: Columns) -> Floats:
    """Return the draft lengths that answers name, over the axes besides it: 0 for off, NaN where nothing fits."""
    lengths, names = grid.values[K].astype(np.int64), [name for name in grid.axes if name != K]
    order = sorted(names, key=lambda name: name == BATCH and has_ranges(grid))
    at, shape = [grid.axes.index(name) for name in (*order, K)], [len(grid.values[name]) for name in grid.axes]
    gains, fits = (
        np.asarray(columns.get(key, np.ones(grid.points)), np.float64).reshape(shape).transpose(at)
        for key in ("closed_form_speedup", "fits")
    )
    every = np.concatenate([np.ones((*gains.shape[:-1], 1)), gains], -1)
    found = np.where(fits[..., 0] > 0, np.concatenate(([0], lengths))[every.argmax(-1)], np.nan)
    for place in np.ndindex(found.shape[:-1]) if has_ranges(grid) else ():
        known, sizes = fits[place][:, 0] > 0, grid.values[BATCH]
        for r in plan_of(Block(point={}, sizes=sizes, lengths=lengths, gains=gains[place], fits=known)):
            found[place][known & (r.first <= sizes) & (sizes <= r.last)] = r.draft_length
    return found.transpose([order.index(name) for name in names])


def over_ranges(sweep: Sweep, block: Block) -> Iterator[Answer]:
    """Yield the answers of a block, a range of batch sizes each."""
    for r in plan_of(block):
        within = block.fits & (r.first <= block.sizes) & (block.sizes <= r.last)
        gains, sizes = block.gains[within], block.sizes[within]
        at = int(np.log(gains).mean(0).argmax())
        if r.draft_length:
            at = block.lengths.tolist().index(r.draft_length)
        of_plan = gains[:, at] if r.draft_length else np.ones(len(gains))
        near = [int(k) for k, of in zip(block.lengths, gains.T, strict=True) if (of * (1 + LEAST_GAIN) > of_plan).all()]
        off = [0] if r.draft_length and (of_plan < 1 + LEAST_GAIN).all() else []
        ends = intervals_at(sweep, block, at, [{BATCH: float(r.first)}, {BATCH: float(r.last)}])
        known, below = [both for both in ends if both], sizes[of_plan < 1]
        yield Answer(
            values={},
            batches=(r.first, r.last),
            draft_length=r.draft_length,
            drafted=int(block.lengths[at]),
            as_good=tuple(k for k in off + near if k != r.draft_length),
            speedup=float(gains[0, at]),
            speedup_at_last=float(gains[-1, at]),
            speedup_ci95=(min(low for low, _ in known), max(high for _, high in known)) if known else None,
            at_edge=len(block.lengths) > 1 and r.draft_length == int(block.lengths[-1]),
            verdict=answer(float(gains[0, at]), ends[0]),
            verdict_at_last=answer(float(gains[-1, at]), ends[1]),
            below_1=(int(below[0]), int(below[-1])) if len(below) else None,
        )
    if not block.fits.all():
        first, last = block.sizes[~block.fits][[0, -1]]
        yield Answer(values={}, batches=(int(first), int(last)))


def schedules(sweep: Sweep, draft: str | None) -> list[dict[str, Any]]:
    """Return where to turn drafting off and what engines take, under plain keys; nothing without ranges.

    draft: what the user calls the drafter.
    """
    from simulator.costs.engines.all import as_engines_take_it

    from .recommendation import of_sweep

    told = of_sweep(sweep, draft)
    return [values | {"off_above_batch": off} | as_engines_take_it(said) for values, off, said in told]


def intervals_at(
    sweep: Sweep, block: Block, at: int, places: list[dict[str, float]]
) -> list[tuple[float, float] | None]:
    """Return the interval of the speedup of a draft length at each of some places; None where nothing is uncertain."""
    ends = [ends_at(sweep, {**block.point, **place, K: float(block.lengths[at])}) for place in places]
    return [both if is_open(*both) else None for both in ends]


@lru_cache(maxsize=1)
def drawn_tokens(model: AcceptanceModel, whole: str, seed: int, lengths: tuple[int, ...]) -> tuple[Floats, Any]:
    """Draw the tokens a round of what was measured, once for all points, and return the state of the stream then.

    whole: all of the model, of which some does not count where models are compared, such as how well it is known.
    """
    rng = stream(seed, 0, "uncertainty")
    return model.sample_tokens_per_round(np.array(lengths), rng, SAMPLES), rng.bit_generator.state


def ends_at(sweep: Sweep, point: dict[str, float]) -> tuple[float, float]:
    """Return both ends of the interval of the speedup at a point of the grid."""
    if sweep.pricing.load is not None:
        return load_ends_at(sweep, point)["closed_form_speedup"]
    costs, acceptance, lengths, tokens, rng = drawn_at(sweep, point)
    drawn = speedups(costs.sample(rng, SAMPLES), acceptance, lengths, tokens, overlap=sweep.overlap)
    middle = speedups(costs, acceptance, lengths, overlap=sweep.overlap)
    return ends_of(drawn, middle, lengths == point[K])


def drawn_at(
    sweep: Sweep, point: dict[str, float]
) -> "tuple[Costs, AcceptanceModel, Ints, Floats, np.random.Generator]":
    """Return costs and acceptance at a point, with draws of tokens a round at draft lengths, and what draws on."""
    k = int(point[K])
    costs = sweep.pricing.costs(Point(**{**point, K: k}))
    acceptance: AcceptanceModel = sweep.acceptance.model or IidAcceptance(point["alpha"])
    rng, lengths = stream(sweep.seed, 0, "uncertainty"), drawn_lengths(costs, np.array([k]))
    if sweep.acceptance.model is None:
        tokens = acceptance.sample_tokens_per_round(lengths, rng, SAMPLES)
    else:
        every = drawn_lengths(costs, sweep.grid.values[K].astype(np.int64))
        model, given = sweep.acceptance.model, (sweep.seed, tuple(every.tolist()))
        drawn_at_all, rng.bit_generator.state = drawn_tokens(model, repr(model), *given)
        tokens = drawn_at_all[:, np.searchsorted(every, lengths)]
    return costs, acceptance, lengths, tokens, rng


def ends_of(drawn: Floats, middle: Floats, at: NDArray[np.bool_]) -> tuple[float, float]:
    """Return both ends of 95 % of draws, [samples, lengths], about what is expected, at one length."""
    low, high = np.array(ends95(drawn, middle))[:, at].ravel()
    return float(low), float(high)


def load_ends_at(sweep: Sweep, point: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Return the same of what a load comes to, and of the speedup, by the names of columns."""
    from simulator.rounds.loads import drawn_loads, served

    costs, acceptance, lengths, tokens, rng = drawn_at(sweep, point)
    assert is_models(costs)
    assert sweep.pricing.load is not None
    load, means = (sweep.pricing.load, point["isl"], point["osl"], lengths), acceptance.tokens_per_round(lengths)
    drawn, middle = drawn_loads(costs, *load, means, tokens, rng), served(costs, *load, means)
    at = lengths == point[K]
    found = {"closed_form_speedup": ends_of(drawn.speedup, middle.speedup, at)}
    for side, name in (("plain", "baseline"), ("drafted", "speculative")):
        for of, (column, scale) in LOAD_COLUMNS.items():
            one, other = (scale * np.asarray(getattr(getattr(b, side), of)) for b in (drawn, middle))
            every = np.zeros(np.shape(middle.speedup))
            found[f"{name}_{column}"] = ends_of(one + every, other + every, at)
    return found


def load_intervals(sweep: Sweep) -> Columns:
    """Return the ends of the intervals of every point of loads, as columns, [points] each."""
    points = sweep.grid.columns(np.arange(sweep.grid.points))
    each = [load_ends_at(sweep, {n: float(v[i]) for n, v in points.items()}) for i in range(sweep.grid.points)]
    return end_columns(each)


def end_columns(each: Sequence[Mapping[str, tuple[float, float]]]) -> Columns:
    """Return the ends of intervals as columns: of each name a low one and a high one."""
    return {
        f"{name}_{end}95": np.array([ends[name][at] for ends in each], np.float64)
        for name in each[0]
        for at, end in enumerate(("low", "high"))
    }


def intervals(sweep: Sweep) -> tuple[Floats, Floats] | None:
    """Return both ends of the interval of every point, [points] each; None where nothing is uncertain."""
    points = sweep.grid.columns(np.arange(sweep.grid.points))
    ends = [ends_at(sweep, {n: float(v[i]) for n, v in points.items()}) for i in range(sweep.grid.points)]
    low, high = np.array(ends, np.float64).T
    return (low, high) if any(map(is_open, low, high)) else None
