"""What a sweep answers: the best draft length at each of its other values, with "off" among the answers."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.costs.parameters import BY_NAME, Point
from simulator.costs.step import Floats
from simulator.ground.streams import stream
from simulator.rounds.acceptance_law import AcceptanceModel, IidAcceptance
from simulator.rounds.grid import Columns, Sweep

from .schedule import LEAST_GAIN
from .uncertainty import ends95, is_open, speedups

K = "draft_length"
MOST_ROWS = 24
SAMPLES = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The best of some draft lengths where the other values are these, by the closed form.

    values: by the names of results. draft_length: None where nothing fits into memory, 0 where plain decoding is best.
    drafted: the best that drafts. as_good: other draft lengths within `LEAST_GAIN` of the best, 0 (off) among them.
    speedup: of the best that drafts; speedup_ci95: by what is not known of constants and acceptance, None where nothing
    says how much. at_edge: whether the best is the longest that was looked at.
    """

    values: dict[str, float]
    draft_length: int | None
    drafted: int | None
    as_good: tuple[int, ...]
    speedup: float | None
    speedup_ci95: tuple[float, float] | None
    at_edge: bool


def answers_of(sweep: Sweep, columns: Columns) -> list[Answer]:
    """Return an answer for each combination of the values besides draft length; some evenly chosen where many are."""
    grid = sweep.grid
    lengths, others = grid.values[K].astype(int), [name for name in grid.values if name != K]

    def cube(key: str) -> Floats:
        values = np.asarray(columns[key], np.float64).reshape(grid.shape)
        return np.moveaxis(values, list(grid.values).index(K), -1).reshape(-1, len(lengths))

    gains = cube("closed_form_speedup")
    fits = cube("fits")[:, 0] > 0 if "fits" in columns else np.ones(len(gains), np.bool_)
    places = np.unravel_index(np.arange(len(gains)), [len(grid.values[name]) for name in others])
    found = []
    for row in shown(len(gains)):
        point = {name: float(grid.values[name][at[row]]) for name, at in zip(others, places, strict=True)}
        values = {BY_NAME[name].key: value for name, value in point.items() if name in grid.axes}
        if not fits[row]:
            nothing = dict.fromkeys(("draft_length", "drafted", "speedup", "speedup_ci95"))
            found.append(Answer(values=values, as_good=(), at_edge=False, **nothing))
            continue
        found.append(replace(best_of(lengths, gains[row], interval(sweep, point, lengths, gains[row])), values=values))
    return found


def best_of(lengths: NDArray[np.int64], gains: Floats, speedup_ci95: tuple[float, float] | None) -> Answer:
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
        speedup_ci95=speedup_ci95,
        at_edge=len(lengths) > 1 and best == len(lengths),
    )


def shown(rows: int) -> NDArray[np.int64]:
    """Return which rows are told of: the first and the last, and some between them where there are many."""
    return np.unique(np.linspace(0, rows - 1, min(rows, MOST_ROWS)).round().astype(np.int64))


def interval(
    sweep: Sweep, point: dict[str, float], lengths: NDArray[np.int64], gains: Floats
) -> tuple[float, float] | None:
    """Return the interval of the best speedup at a point; None where nothing is uncertain."""
    low, high = ends_at(sweep, {**point, K: float(lengths[gains.argmax()])})
    return (low, high) if is_open(low, high) else None


def ends_at(sweep: Sweep, point: dict[str, float]) -> tuple[float, float]:
    """Return both ends of the interval of the speedup at a point of the grid."""
    k = np.array([int(point[K])])
    costs = sweep.pricing.costs(Point(**{**point, K: int(k[0])}))
    acceptance: AcceptanceModel = sweep.acceptance.model or IidAcceptance(point["alpha"])
    rng = stream(sweep.seed, 0, "uncertainty")
    tokens = acceptance.sample_tokens_per_round(k, rng, SAMPLES)
    drawn = speedups(costs.sample(rng, SAMPLES), acceptance, k, tokens, overlap=sweep.overlap)
    low, high = ends95(drawn[:, 0], speedups(costs, acceptance, k, overlap=sweep.overlap)[0])
    return float(low), float(high)


def intervals(sweep: Sweep) -> tuple[Floats, Floats] | None:
    """Return both ends of the interval of every point, [points] each; None where nothing is uncertain."""
    points = sweep.grid.columns(np.arange(sweep.grid.points))
    ends = [ends_at(sweep, {n: float(v[i]) for n, v in points.items()}) for i in range(sweep.grid.points)]
    low, high = np.array(ends, np.float64).T
    return (low, high) if (high > low).any() else None


def answers_text(sweep: Sweep, answers: list[Answer]) -> str:
    """Return the answers as a table."""
    from simulator.ground.command import table

    names, combinations = list(answers[0].values), sweep.grid.points // len(sweep.grid.values[K])
    heads = (*names, "best K", "speedup", "95 %", "as good, to 2 %")
    rows = [heads, *((*(f"{a.values[name]:g}" for name in names), *cells(a)) for a in answers)]
    # A column that says nothing, or of one draft length, is left out.
    kept = [i for i in range(len(heads)) if i < len(names) or any(row[i] for row in rows[1:])]
    if len(sweep.grid.values[K]) == 1:
        kept.remove(len(names))
    words_at = [at for at, i in enumerate(kept) if i == len(heads) - 1]
    text = table([[row[i] for i in kept] for row in rows], left=words_at)
    told = f"\n{len(answers)} of {combinations:,} combinations are shown; --out FILE has all"
    return text + told * (len(answers) < combinations)


def cells(answer: Answer) -> tuple[str, str, str, str]:
    """Return what stands in a row behind the values."""
    if answer.speedup is None:
        return ("-", "-", "", "does not fit into memory")
    span = "" if answer.speedup_ci95 is None else "{:.2f}x to {:.2f}x".format(*answer.speedup_ci95)
    words = ", ".join(f"K = {k}" if k else "off" for k in answer.as_good)
    if answer.draft_length == 0 and answer.drafted not in answer.as_good:
        words = f"(K = {answer.drafted})"
    edge = "(the longest looked at)" if answer.at_edge else ""
    return (str(answer.draft_length or "off"), f"{answer.speedup:.2f}x", span, f"{words} {edge}".strip())
