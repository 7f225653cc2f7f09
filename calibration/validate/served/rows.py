"""Measured loads and their forecasts side by side: errors, what noise alone would give, and whether bounds hold."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

import numpy as np

from calibration.servers.metrics import Part, figures, gains, seen_by
from simulator.answers.latency import Told, percentile
from simulator.answers.scene import Arm, loaded, unit_of
from simulator.ground.streams import stream

from .measured import Measured
from .replay import asked_in, replayed

GAIN = "gain"
# A gain of less is none whose sign counts.
LEAST_GAIN = 0.05
# Between draws of constants that are taken: those beside each other in a file may be alike.
DRAW_STEP = 7


class Figure(NamedTuple):
    """What is compared: in words, and how far off forecasts may be in the median; None: as far as they like."""

    title: str
    bound: float | None
    is_time: bool = True


FIGURES = {
    "ttft_p50": Figure("first token, P50", 0.20),
    "ttft_p99": Figure("first token, P99", None),
    "tpot_p50": Figure("time a token, P50", 0.06),
    "tpot_p99": Figure("time a token, P99", 0.15),
    "output_tokens_per_s": Figure("tokens/s", 0.05, is_time=False),
    GAIN: Figure("gain of speculation", 0.05, is_time=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An arm at a load. measured, forecast: figures of `FIGURES` with their intervals, `GAIN` of who speculates."""

    load: Measured
    arm: str
    measured: Mapping[str, Told]
    forecast: Mapping[str, Told]

    @property
    def loaded(self) -> str:
        """The load in words."""
        return loaded(self.load.load, unit_of(self.load.kind, sessions=False))

    def error(self, name: str) -> float:
        """Return how far a forecast is off, relative; NaN where there is none."""
        if name not in self.measured or name not in self.forecast or not self.measured[name].value > 0:
            return float("nan")
        return self.forecast[name].value / self.measured[name].value - 1

    @property
    def is_clear(self) -> bool:
        """Whether the measured gain is one whose sign counts."""
        return GAIN in self.measured and abs(self.measured[GAIN].value - 1) > LEAST_GAIN

    @property
    def has_sign(self) -> bool:
        """Whether the forecast gain is on the side of 1 that was measured."""
        return (self.forecast[GAIN].value > 1) == (self.measured[GAIN].value > 1)


class Noise(NamedTuple):
    """How two runs of one server at one load differ, relative, by figures."""

    load: Measured
    arm: str
    again: str
    apart: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedValidation:
    """Rows, and what noise alone gives.

    bounds: of medians, by figures. is_drawn: whether intervals of forecasts hold those of constants. notes: what to
    know before the numbers.
    """

    rows: tuple[Row, ...]
    noise: tuple[Noise, ...]
    bounds: Mapping[str, float]
    replications: int
    is_drawn: bool = False
    notes: tuple[str, ...] = field(default=())

    def errors(self, name: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
        """Return the errors of a figure, of rows that have it."""
        found = np.array([row.error(name) for row in self.rows])
        return np.asarray(found[~np.isnan(found)], np.float64)

    def median(self, name: str) -> float:
        """Return the median of them without signs, NaN of none."""
        return percentile(np.abs(self.errors(name)), 50)

    def inside(self, name: str) -> float:
        """Return the share of rows whose intervals, measured and forecast, have something in common; NaN of none."""
        both = [(r.measured[name], r.forecast[name]) for r in self.rows if np.isfinite(r.error(name))]
        known = [(m, f) for m, f in both if np.isfinite([m.low, f.low]).all()]
        meets = [f.low <= m.high and m.low <= f.high for m, f in known]
        return sum(meets) / len(meets) if meets else float("nan")

    def noise_of(self, name: str) -> float:
        """Return the median of how far two runs of one server are apart; NaN: there are none."""
        return percentile(np.array([abs(n.apart[name]) for n in self.noise if name in n.apart]), 50)

    @property
    def broken(self) -> tuple[str, ...]:
        """The figures whose bounds are broken."""
        return tuple(name for name, bound in self.bounds.items() if self.median(name) > bound)

    @property
    def clear(self) -> list[Row]:
        """Rows whose measured gain has a sign."""
        return [row for row in self.rows if row.is_clear]

    @property
    def wrong_signs(self) -> list[Row]:
        """Rows of a gain that was forecast as a loss, or the other way round."""
        return [row for row in self.clear if not row.has_sign]

    @property
    def holds(self) -> bool:
        """Whether something was held against a bound, all bounds hold, and all signs."""
        is_told = any(np.isfinite(self.median(name)) for name in self.bounds)
        return is_told and not self.broken and not self.wrong_signs


def validated(
    loads: Sequence[Measured],
    arms_of: Callable[[Measured, int | None], Mapping[str, Arm]],
    bounds: Mapping[str, float],
    replications: int,
    draws: int,
    seed: int,
    progress: Callable[[int], None] = lambda _: None,
) -> ServedValidation:
    """Forecast all loads.

    Args:
        loads: As they were measured; in each the first arm is that which others are held against.
        arms_of: Returns ways of serving by the names of arms, with constants as fitted (None) or of a draw of them.
        bounds: Of medians, by figures.
        replications: How often each load is simulated, each time with other luck of what is accepted.
        draws: Of constants; 0: they are taken as known.
        seed: Of all draws.
        progress: Called with 1 after each load of each arm.
    """
    rows: list[Row] = []
    noise: list[Noise] = []
    for load in loads:
        measured = {arm: measured_figures(load, arm, seed) for arm in load.arms}
        again = repeated(load)
        noise += [apart_of(load, arm, first, measured) for arm, first in again.items()]
        own = [arm for arm in load.arms if arm not in again]
        ways: dict[int | None, Mapping[str, Arm]] = {None: arms_of(load, None)}
        ways |= {at: arms_of(load, at * DRAW_STEP % draws) for at in range(replications if draws else 0)}
        plain: dict[tuple[int, bool], list[Part]] = {}
        for arm in own:
            runs: dict[bool, list[dict[str, float]]] = {False: [], True: []}
            for at, is_drawn in product(range(replications), (False, True)[: 1 + (draws > 0)]):
                way = ways[at if is_drawn else None][arm]
                made = replayed(way, load, load.parts(arm), seed + at + replications * is_drawn)
                runs[is_drawn].append(points(made, plain.get((at, is_drawn))))
                plain.setdefault((at, is_drawn), made)
            forecast = together(runs[False], runs[True] or runs[False])
            rows.append(Row(load=load, arm=arm, measured=measured[arm], forecast=forecast))
            progress(1)
    return ServedValidation(
        rows=tuple(rows),
        noise=tuple(noise),
        bounds=bounds,
        replications=replications,
        is_drawn=draws > 0,
        notes=tuple(notes_of(loads)),
    )


def measured_figures(load: Measured, arm: str, seed: int) -> dict[str, Told]:
    """Return what was measured of an arm, with intervals."""
    first, parts = next(iter(load.arms)), load.parts(arm)
    told = figures(parts, (), stream(seed, 0, "bootstrap"))
    found = {name: told[name] for name in FIGURES if name in told}
    if arm != first:
        gain = gains(load.parts(first), parts, stream(seed, 1, "bootstrap")).get("e2e")
        found |= {GAIN: gain} if gain else {}
    return found


def points(parts: Sequence[Part], plain: Sequence[Part] | None) -> dict[str, float]:
    """Return figures of blocks, without intervals; the gain over those of plain decoding."""
    seen = seen_by([answer for part in parts for _, answer in part.counted])
    taken_s = sum(part.duration_s for part in parts)
    tokens = sum(a.tokens for part in parts for a in part.answers)
    found = {
        f"{name}_p{q}": percentile(getattr(seen, f"{name}_s"), q) for name in ("ttft", "tpot") for q in (50, 99)
    } | {"output_tokens_per_s": tokens / taken_s if taken_s else float("nan")}
    return found if plain is None else found | {GAIN: gain_of(plain, parts)}


def gain_of(plain: Sequence[Part], other: Sequence[Part]) -> float:
    """Return how many times as fast answers come, of requests that both answered."""
    before = {(p.part, row): a for p in plain for row, a in p.counted}
    pairs = [(before[p.part, row], a) for p in other for row, a in p.counted if (p.part, row) in before]
    sides = [float(seen_by(side).e2e_s.sum()) for side in zip(*pairs, strict=True)] if pairs else [np.nan, np.nan]
    return sides[0] / sides[1] if sides[1] else float("nan")


def together(runs: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]) -> dict[str, Told]:
    """Return the means of figures over runs, and between which 95 % of others lie."""
    found = {}
    for name in runs[0]:
        values, apart = (np.array([run[name] for run in of]) for of in (runs, others))
        low, high = np.quantile(apart, (0.025, 0.975)) if len(apart) > 1 else (np.nan, np.nan)
        found[name] = Told(float(values.mean()), float(low), float(high))
    return found


def repeated(load: Measured) -> dict[str, str]:
    """Return arms that are the server of an arm before them, with that one."""
    found: dict[str, str] = {}
    names = list(load.arms)
    for at, arm in enumerate(names):
        same = (other for other in names[:at] if load.urls[arm] and load.urls[other] == load.urls[arm])
        if (first := next(same, None)) is not None:
            found[arm] = first
    return found


def apart_of(load: Measured, arm: str, first: str, measured: Mapping[str, Mapping[str, Told]]) -> Noise:
    """Return how far an arm is off another that is the same server."""
    one = {GAIN: Told(1.0, np.nan, np.nan), **measured[first]}
    apart = {name: told.value / one[name].value - 1 for name, told in measured[arm].items() if name in one}
    return Noise(load, first, arm, {name: value for name, value in apart.items() if np.isfinite(value)})


def notes_of(loads: Sequence[Measured]) -> Iterator[str]:
    """Yield what to know of requests before the numbers."""
    yield from dict.fromkeys(f"{load.path}: {lack.removesuffix('.')}" for load in loads for lack in load.lacks)
    failed = whole = 0
    for load in loads:
        for arm in load.arms:
            for part in load.parts(arm):
                whole += len(part.answers)
                failed += len(part.answers) - len(asked_in(part))
    if failed:
        yield f"{failed:,} of {whole:,} requests failed and are left out: their load is not forecast"
