"""Rows that lie far beyond the others: where each stands, what it says and the others make of it, a slip that fits."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from calibration.sources.serving import ServingRow
from simulator.costs.profile import Profile
from simulator.costs.step import Floats

from .from_serving import LEAST_LOADS, TPOT_NOISE, TTFT_NOISE, ServingCalibration, calibrate_serving
from .loads import Loads

# Beyond so many spreads of the rows, and by such a factor at least, a row is far.
FAR, LEAST_FACTOR = 6.0, 1.5
# Within so many a row is like the others.
NEAR = 3.0
# Of a normal law: its standard deviation by the median of sizes.
SIZES = 1.4826
TIMES, LOADED = ("tpot_s", "ttft_s"), ("concurrency", "isl", "osl")
# Rows that are named at most; of fewer loads than some, of how many that are off each is tried whether it is the one.
MOST_FAR, FEW_LOADS, MOST_TRIED = 5, 8, 3
SLIPS = {0.1: "a decimal point", 10.0: "a decimal point"}
UNITS = {1e-3: "other units", 1e3: "other units"}


class Held(NamedTuple):
    """Rows held against what is made of them.

    profile: that prices rows as they would be. off: logarithms of what is made of times over what they were, NaN where
    there is none, [2, rows]. words: who makes it of them.
    """

    loads: Loads
    profile: Profile
    off: Floats
    words: str = "the other rows expect about"

    @property
    def spreads(self) -> Floats:
        """What rows are off by, of each time, however far some lie."""
        found = []
        for off, noise in zip(self.off, (TPOT_NOISE, TTFT_NOISE), strict=True):
            sizes = np.abs(off[np.isfinite(off)])
            found.append(max(SIZES * float(np.median(sizes)), noise) if len(sizes) else noise)
        return np.array(found)

    def over(self, scales: Floats) -> Floats:
        """Return how far rows are of what counts as far, by what others are off by."""
        return np.asarray(np.abs(self.off) / np.maximum(FAR * scales, np.log(LEAST_FACTOR))[:, None])


class FarRow(NamedTuple):
    """A row that is far: which of its times, in ms, what is made of it, by whom, and which slip would explain it."""

    row: ServingRow
    time: str
    measured_ms: float
    expected_ms: float
    words: str
    slip: str

    @property
    def said(self) -> str:
        """What is wrong with it."""
        column = self.row.columns[TIMES.index(self.time)]
        made = "makes a token take" if self.row.is_derived and self.time == "tpot_s" else "is"
        told = f"{self.row.place}: {column} {made} {in_words(self.measured_ms)} ms"
        return f"{told}, {self.words} {in_words(self.expected_ms)}{self.slip and f'; {self.slip}'}"


def in_words(value: float) -> str:
    """Return a number of four digits, or a whole one."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def far_rows(held: Held) -> tuple[FarRow, ...]:
    """Return rows that lie far beyond the others, each by the time that is farther.

    Not those whose requests wait or not by how much memory is used, which `row_warnings` counts, unless a slip in what
    they were loaded with explains them.
    """
    over = held.over(held.spreads)
    found, hanging, running = [], held.loads.hanging(held.profile), held.loads.priced(held.profile).running
    for at in np.flatnonzero(np.nanmax(np.nan_to_num(over), 0) > 1).tolist():
        kind = int(np.nanargmax(over[:, at]))
        row = held.loads.rows[at]
        measured_ms = 1e3 * getattr(row, TIMES[kind])
        expected_ms = measured_ms * float(np.exp(held.off[kind, at]))
        name, said = slip_of(held, at)
        if running[at] < row.concurrency and name not in LOADED:
            said = f"by the forecast {running[at]:,.0f} of its {row.concurrency:,.10g} requests run, the others wait"
        if not hanging[at] or name in LOADED:
            found.append(FarRow(row, TIMES[kind], measured_ms, expected_ms, held.words, said))
    return tuple(found)


def far_of_fit(calibration: ServingCalibration) -> tuple[FarRow, ...]:
    """Return rows that lie far beyond the others that were fitted.

    One that does draws a fit to few others away from these, which then seem to be far: of few, rows are taken out one
    by one, each time that without which the others agree best, as long as it is far from what these make of it.
    """
    if calibration.loads.distinct >= FEW_LOADS:
        return far_rows(held_out(calibration))
    found: list[FarRow] = []
    while calibration.loads.distinct > LEAST_LOADS:
        tried = [taken_out(calibration, at) for at in suspects(calibration)]
        if not tried:
            break
        calibration, far = min(tried, key=lambda one: disagreement(one[0]))
        if not far:
            break
        found.append(far[0])
    return tuple(sorted(found, key=lambda far: (far.row.path, far.row.line)))


def suspects(calibration: ServingCalibration) -> list[int]:
    """Return which rows may be far: some that are off by most without their load, whatever the others are off by."""
    over = np.nanmax(np.nan_to_num(held_out(calibration).over(np.array([TPOT_NOISE, TTFT_NOISE]))), 0)
    return [int(at) for at in np.argsort(-over)[:MOST_TRIED] if over[at] > 1]


def taken_out(calibration: ServingCalibration, at: int) -> tuple[ServingCalibration, tuple[FarRow, ...]]:
    """Return a fit without the load of a row, and that row where it is far of it."""
    loads, numbers = calibration.loads, calibration.loads.numbers()
    others = loads.select([int(i) for i in np.flatnonzero(numbers != numbers[at])])
    without = calibrate_serving(others, calibration.prior, calibration.profile.name)
    found = loads.select([at]).priced(without.profile)
    row = loads.rows[at]
    made = [found.tpot_s[0] / row.tpot_s, np.nan if row.ttft_s is None else found.ttft_s[0] / row.ttft_s]
    rest = held_out(without)
    joined = replace(others, rows=(*others.rows, row), placings=(*others.placings, loads.placings[at]))
    held = Held(joined, without.profile, np.append(rest.off, np.log(made)[:, None], 1))
    return without, tuple(far for far in far_rows(held) if far.row is row)


def disagreement(calibration: ServingCalibration) -> float:
    """Return what rows are off by without their load, in what they are expected to be."""
    sizes = np.abs(held_out(calibration).off) / np.array([[TPOT_NOISE], [TTFT_NOISE]])
    return float(np.nanmean(np.nanmedian(sizes, 1)))


def held_out(calibration: ServingCalibration) -> Held:
    """Return rows held against fits without their load, by which one that is off draws nothing to itself."""
    off = np.log1p([calibration.held_out_tpot, calibration.held_out_ttft])
    return Held(calibration.loads, calibration.profile, off)


def far_in_words(found: Sequence[FarRow], what: str) -> Iterator[str]:
    """Say which rows are far; what: is to be done with them."""
    yield from (one.said for one in found[:MOST_FAR])
    if len(found) > MOST_FAR:
        yield f"{len(found) - MOST_FAR} rows more lie as far: --json names them"
    if found:
        yield f"{'these rows lie' if len(found) > 1 else 'this row lies'} far beyond the others: {what}"


def far_json(found: Sequence[FarRow]) -> list[dict[str, Any]]:
    """Return them under the names of files."""
    return [{"path": far.row.path, "line": far.row.line, "time": far.time, "said": far.said} for far in found]


def is_count(value: float) -> bool:
    """Whether so many clients, or tokens, may have been meant."""
    return value >= 2 and value == round(value)


def slip_of(held: Held, at: int) -> tuple[str, str]:
    """Return which cell of a row, ten times as much or a tenth, would make it like the others, and say so, or ""."""
    loads, row = held.loads, held.loads.rows[at]
    names = (*LOADED, *(name for name in TIMES if getattr(row, name) is not None))
    slips = [(name, factor) for name in names for factor in (SLIPS | UNITS if name in TIMES else SLIPS)]
    tried = [(name, factor) for name, factor in slips if name in TIMES or is_count(getattr(row, name) * factor)]
    rows = tuple(replace(row, **{name: getattr(row, name) * factor}) for name, factor in tried)
    other = replace(loads, rows=rows, placings=(loads.placings[at],) * len(rows))
    found = other.priced(held.profile)
    off = np.abs(np.log([found.tpot_s / other.column("tpot_s"), found.ttft_s / other.column("ttft_s")]))
    near = np.maximum(NEAR * held.spreads, np.log(LEAST_FACTOR))[:, None]
    worst = np.nanmax(np.where(np.isnan(off), 0.0, off) / near, 0)
    worst[np.isnan(off[0])] = np.inf
    best = int(worst.argmin())
    if worst[best] > 1:
        return "", ""
    name, factor = tried[best]
    column = dict(zip(TIMES, row.columns, strict=True)).get(name, name)
    scale = 1e3 if name in TIMES else 1.0
    return name, f"{column} of {scale * getattr(row, name) * factor:,.5g} would fit ({(SLIPS | UNITS)[factor]}?)"
