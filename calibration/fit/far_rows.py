"""Rows that lie far beyond the others: where each stands, what it says and the others make of it, a slip that fits."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from calibration.sources.serving import ServingRow
from simulator.costs.step import Floats

from .from_serving import TPOT_NOISE, TTFT_NOISE, ServingCalibration

# Beyond so many spreads of the rows, and by such a factor at least, a row is far.
FAR, LEAST_FACTOR = 6.0, 1.5
# Within so many a row is like the others.
NEAR = 3.0
# Of a normal law: its standard deviation by the median of sizes.
SIZES = 1.4826
TIMES = ("tpot_s", "ttft_s")
SLIPS = {0.1: "a decimal point", 10.0: "a decimal point"}
UNITS = {1e-3: "other units", 1e3: "other units"}


class FarRow(NamedTuple):
    """A row that is far: which of its times, in ms, what the others make of it, and which slip would explain it."""

    row: ServingRow
    time: str
    measured_ms: float
    expected_ms: float
    slip: str

    @property
    def said(self) -> str:
        """What is wrong with it."""
        column = self.row.columns[TIMES.index(self.time)]
        made = "makes a token take" if self.row.is_derived and self.time == "tpot_s" else "is"
        told = f"{self.row.place}: {column} {made} {in_words(self.measured_ms)} ms"
        return f"{told}, the other rows expect about {in_words(self.expected_ms)}{self.slip and f'; {self.slip}'}"


def in_words(value: float) -> str:
    """Return a number of four digits, or a whole one."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def spreads(calibration: ServingCalibration) -> Floats:
    """Return what rows are off by without their own load, of each kind, however far some lie."""
    found = []
    for off, noise in ((calibration.held_out_tpot, TPOT_NOISE), (calibration.held_out_ttft, TTFT_NOISE)):
        sizes = np.abs(np.log1p(off[np.isfinite(off)]))
        found.append(max(SIZES * float(np.median(sizes)), noise) if len(sizes) else noise)
    return np.array(found)


def far_rows(calibration: ServingCalibration) -> Iterator[FarRow]:
    """Yield them, by the time that is farther where both are."""
    both = np.log1p([calibration.held_out_tpot, calibration.held_out_ttft])
    over = np.abs(both) / np.maximum(FAR * spreads(calibration), np.log(LEAST_FACTOR))[:, None]
    for at in np.flatnonzero(np.nanmax(np.nan_to_num(over), 0) > 1):
        kind = int(np.nanargmax(over[:, at]))
        row = calibration.loads.rows[at]
        measured_ms = 1e3 * getattr(row, TIMES[kind])
        expected_ms = measured_ms * float(np.exp(both[kind, at]))
        yield FarRow(row, TIMES[kind], measured_ms, expected_ms, reason_of(calibration, int(at)))


def reason_of(calibration: ServingCalibration, at: int) -> str:
    """Say why a row may be far: what would make it like the others, or that it hangs on memory; "" for neither."""
    name, said = slip_of(calibration, at)
    is_full = calibration.loads.hanging(calibration.prior)[at]
    return "what waits hangs on memory there" if is_full and (not said or name in TIMES) else said


def slip_of(calibration: ServingCalibration, at: int) -> tuple[str, str]:
    """Return which cell of a row, ten times as much or a tenth, would make it like the others, and say so, or ""."""
    loads, row = calibration.loads, calibration.loads.rows[at]
    names = ("concurrency", "isl", "osl", *(name for name in TIMES if getattr(row, name) is not None))
    slips = [(name, factor) for name in names for factor in (SLIPS | UNITS if name in TIMES else SLIPS)]
    tried = [(name, factor) for name, factor in slips if name != "osl" or row.osl * factor >= 2]
    rows = tuple(replace(row, **{name: getattr(row, name) * factor}) for name, factor in tried)
    other = replace(loads, rows=rows, placings=(loads.placings[at],) * len(rows))
    found = other.priced(calibration.profile)
    off = np.abs(np.log([found.tpot_s / other.column("tpot_s"), found.ttft_s / other.column("ttft_s")]))
    near = np.maximum(NEAR * spreads(calibration), np.log(LEAST_FACTOR))[:, None]
    worst = np.nanmax(np.where(np.isnan(off), 0.0, off) / near, 0)
    worst[np.isnan(off[0])] = np.inf
    best = int(worst.argmin())
    if worst[best] > 1:
        return "", ""
    name, factor = tried[best]
    column = dict(zip(TIMES, row.columns, strict=True)).get(name, name)
    scale = 1e3 if name in TIMES else 1.0
    return name, f"{column} of {scale * getattr(row, name) * factor:,.5g} would fit ({(SLIPS | UNITS)[factor]}?)"
