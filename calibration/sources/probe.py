"""What calibration fits: timed passes with their work, one array a quantity, taken from a probe.json.

Some points are held out by design, so that a fit is judged where it was not fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cuda_probe.probe.probes import Units, number
from cuda_probe.probe.runner import Point, Results
from simulator.costs.profile import BURN_UNITS
from simulator.ground.artefacts import UserError

Floats = NDArray[np.float64]
BURNS = ("burn_flops", "burn_memory", "draft", "verify", "baseline")
PRODUCTS = ("skinny", "matmul")
# Along which a probe's points make a series.
RUNNING_AXES = ("draft_n", "tokens", "size", "work_flops", "work_mem")
# A series of fewer points is fitted whole.
LEAST_SERIES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """Timed runs of equal passes; every array is [points].

    passes: how many a run is made of, one after another. flops, bytes, tokens, launches: of one pass. seconds: of the
    run; error_s: standard error of that.
    """

    labels: tuple[str, ...]
    passes: Floats
    flops: Floats
    bytes: Floats
    tokens: Floats
    launches: Floats
    seconds: Floats
    error_s: Floats
    held_out: NDArray[np.bool_]

    def __len__(self) -> int:
        """Points."""
        return len(self.labels)

    def select(self, which: NDArray[np.bool_]) -> "Observations":
        """Return the points of a mask."""
        arrays = {name: getattr(self, name)[which] for name in self.__slots__ if name != "labels"}
        return Observations(labels=tuple(np.array(self.labels, object)[which]), **arrays)

    @property
    def fitted(self) -> "Observations":
        """The points that a fit may see."""
        return self.select(~self.held_out)


def from_probe(results: Results) -> dict[str, Observations]:
    """Return what a probe timed, by what a profile calls it: burn units, or a number format of matrix products.

    Launches alone (`empty`) belong to each of them.
    """
    groups = {BURN_UNITS: results.of(*BURNS)}
    for point in results.of(*PRODUCTS):
        dtype = str(point.axes["dtype"])
        groups[dtype] = (*groups.get(dtype, ()), point)
    empty = results.of("empty")
    return {name: observations((*empty, *points), results.units) for name, points in groups.items() if points}


def observations(points: Sequence[Point], units: Units) -> Observations:
    """Return points of a probe as arrays."""
    passes = [pass_count(p) for p in points]
    work = [(flop_count(p, units), p.bytes / n, token_count(p)) for p, n in zip(points, passes, strict=True)]
    flops, moved, tokens = (np.array(column, np.float64) for column in zip(*work, strict=True))
    return Observations(
        labels=tuple(label(p) for p in points),
        passes=np.array(passes, np.float64),
        flops=flops,
        bytes=moved,
        tokens=tokens,
        launches=np.ones(len(points)),
        seconds=np.array([p.measurement.median_s for p in points], np.float64),
        error_s=np.array([p.measurement.median_error_s for p in points], np.float64),
        held_out=held_out(points),
    )


def pass_count(point: Point) -> int:
    """Return how many passes one after another a run of a probe is."""
    return number(point.axes, "draft_n") if point.probe == "draft" else 1


def flop_count(point: Point, units: Units) -> float:
    """Return the FLOP of a pass, without the additions of its memory traffic: those are part of a workmem unit.

    Raises:
        UserError: There are fewer than the axes of the point make.
    """
    additions = number(point.axes, "work_mem") * units.workmem_flop if "work_mem" in point.axes else 0
    flop = point.flop / pass_count(point) - additions
    if flop < 0:
        raise UserError(f"{label(point)}: flop is {point.flop:,}, expected {additions * pass_count(point):,} at least")
    return flop


def token_count(point: Point) -> int:
    """Return the tokens of a pass; of a product, the rows of its activation."""
    if point.probe == "verify":
        return number(point.axes, "draft_n") + 1
    axis = {"skinny": "tokens", "matmul": "size"}.get(point.probe)
    return 1 if axis is None else number(point.axes, axis)


def label(point: Point) -> str:
    """Name a point."""
    return ", ".join([point.probe, *(f"{axis} {value}" for axis, value in point.axes.items())])


def held_out(points: Sequence[Point]) -> NDArray[np.bool_]:
    """Return which points no fit may see: of each series along one axis every third, neither the first nor the last."""
    flags = np.zeros(len(points), np.bool_)
    series: dict[tuple[object, ...], list[tuple[int, int]]] = {}
    for i, point in enumerate(points):
        axis = next((a for a in RUNNING_AXES if a in point.axes), None)
        if axis is not None:
            rest = tuple(v for k, v in point.axes.items() if k != axis)
            series.setdefault((point.probe, axis, *rest), []).append((number(point.axes, axis), i))
    for members in series.values():
        if len(members) >= LEAST_SERIES:
            flags[[i for _, i in sorted(members)][2:-1:3]] = True
    return flags
