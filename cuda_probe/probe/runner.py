"""Runs probes on a device: plans the points, checks each result before timing it, and keeps what was left out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.ground.artefacts import UserError
from simulator.ground.partial import NowAndThen

from .probes import BY_NAME, MAX_POINTS, Axes, AxisValue, Device, DeviceFault, Probe, Units, Unsupported, points
from .stats import LineFit, fit_line
from .timing import Measurement, StopRule, measure

QUICK = StopRule(
    max_noise=0.01,
    max_median_error=0.01,
    min_samples=10,
    max_samples=200,
    time_limit_s=0.6,
    warm_ups=2,
    warm_up_s=0.05,
    sample_s=1e-3,
)
FULL = StopRule(sample_s=1e-3)
# Of points that were not reached before Ctrl-C.
NOT_RUN = "not run: interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One point to measure."""

    probe: Probe
    axes: Axes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Point:
    """One point measured: FLOP and bytes of a launch, and what the device said of itself before and after."""

    probe: str
    axes: Axes
    flop: int
    bytes: int
    measurement: Measurement
    states: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})

    @property
    def flop_per_s(self) -> float | None:
        return self.rate(self.flop)

    @property
    def bytes_per_s(self) -> float | None:
        return self.rate(self.bytes)

    def rate(self, work: int) -> float | None:
        """Return work per second; None where there is no work or no time was resolved."""
        median_s = self.measurement.median_s
        return work / median_s if work and median_s > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A point that was not timed, and why; `failed` where its result was wrong or the device failed."""

    probe: str
    axes: Axes
    reason: str
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkFit:
    """Time of a probe as a line in one of its axes, the others held."""

    probe: str
    axis: str
    held: Axes
    line: LineFit
    points: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Results:
    """What a device did; `interrupted` where the user ended it before all was measured."""

    device: Mapping[str, Any]
    units: Units
    points: tuple[Point, ...]
    left_out: tuple[LeftOut, ...]
    interrupted: bool = False

    def of(self, *probes: str) -> tuple[Point, ...]:
        """Return the points of these probes, in order."""
        return tuple(point for point in self.points if point.probe in probes)


def plan(
    device: Device, probes: Sequence[Probe], given: Mapping[str, Sequence[AxisValue]], *, quick: bool
) -> list[Planned]:
    """Return the points to measure: the user's values where there are, else the device's own.

    Raises:
        UserError: More points than anyone would wait for, or values that no chosen probe takes.
    """
    for axis in given:
        if not any(axis in probe.axes for probe in probes):
            raise UserError(f"{axis}: no axis of {', '.join(p.name for p in probes)}, expected a probe that has it")
    planned: list[Planned] = []
    for probe in probes:
        values = {**device.axis_values(probe.name, quick=quick), **given}
        count = int(np.prod([len(values[axis]) for axis in probe.axes], dtype=object))
        if len(planned) + count > MAX_POINTS:
            raise UserError(f"{probe.name}: {len(planned) + count} points, expected at most {MAX_POINTS}")
        planned += [Planned(probe=probe, axes=axes) for axes in points(probe, values)]
    return planned


def run_probes(
    device: Device,
    planned: Sequence[Planned],
    rule: StopRule,
    *,
    seed: int = 0,
    progress: Callable[[int], object] = lambda done: None,
    keep: Callable[[Results], object] | None = None,
) -> Results:
    """Measure the points.

    Within a probe they are taken in an order drawn from the seed, so that a slow change of the device does not look
    like an effect of an axis; they are returned as planned. A device that is lost and a user who interrupts leave out
    the points that are to come.

    Args:
        device: What runs them.
        planned: The points, those of one probe next to one another.
        rule: When a point is done.
        seed: Of the order and of the data.
        progress: Called with 1 after every point.
        keep: Called now and then with what there is so far, as if interrupted there.
    """
    outcomes: dict[int, Point | LeftOut] = {}
    lost, interrupted, kept = "", False, NowAndThen(keep)

    def found(*, interrupted: bool) -> Results:
        ordered = [outcomes.get(i) or not_run(planned[i], NOT_RUN) for i in range(len(planned))]
        return Results(
            device=device.environment(),
            units=device.units,
            points=tuple(f for f in ordered if isinstance(f, Point)),
            left_out=tuple(f for f in ordered if isinstance(f, LeftOut)),
            interrupted=interrupted,
        )

    try:
        for index in shuffled(planned, seed):
            if lost:
                outcomes[index] = not_run(planned[index], f"not run after: {lost}", failed=True)
            else:
                try:
                    outcomes[index] = run_point(device, planned[index], rule, seed)
                except DeviceFault as error:
                    outcomes[index] = not_run(planned[index], str(error), failed=True)
                    lost = str(error) if error.lost else ""
            progress(1)
            kept(lambda: found(interrupted=True))
    except KeyboardInterrupt:
        interrupted = True
    return found(interrupted=interrupted)


def not_run(planned: Planned, reason: str, *, failed: bool = False) -> LeftOut:
    return LeftOut(probe=planned.probe.name, axes=planned.axes, reason=reason, failed=failed)


def shuffled(planned: Sequence[Planned], seed: int) -> list[int]:
    """Return the indices probe by probe, those of each in an order drawn from the seed."""
    rng = np.random.default_rng([seed, 0x0DE])
    order: list[int] = []
    for name in dict.fromkeys(p.probe.name for p in planned):
        indices = [i for i, p in enumerate(planned) if p.probe.name == name]
        order += rng.permutation(indices).tolist()
    return order


def run_point(device: Device, planned: Planned, rule: StopRule, seed: int) -> Point | LeftOut:
    """Prepare, check and time one point."""
    probe, axes = planned.probe, planned.axes
    try:
        with device.prepare(probe.name, axes, seed=seed) as job:
            wrong = job.check()
            if wrong is not None:
                return not_run(planned, f"wrong result: {wrong}", failed=True)
            before = device.state()
            flush = device.flush if probe.flushes and not job.misses_cache else None
            measurement = measure(job.launch, device.clock, rule, flush, job.works)
            states = before, device.state(job.launch)
    except Unsupported as error:
        return not_run(planned, str(error))
    except MemoryError:
        return not_run(planned, "does not fit into memory")
    return Point(
        probe=probe.name,
        axes=axes,
        flop=probe.flop(axes, device.units),
        bytes=probe.bytes(axes, device.units),
        measurement=measurement,
        states=states,
    )


def line_fits(results: Results) -> tuple[WorkFit, ...]:
    """Fit a line to the time of every probe that has an axis to be linear in, and three values on it at least."""
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for point in results.points:
        probe = BY_NAME.get(point.probe)
        if probe is None or probe.linear_in is None or point.measurement.median_s <= 0:
            continue
        held = tuple(sorted((axis, value) for axis, value in point.axes.items() if axis != probe.linear_in))
        groups.setdefault((probe.name, probe.linear_in, held), []).append(point)
    fits = []
    for (name, axis, held), group in groups.items():
        if len(group) < 3:
            continue
        line = fit_line([float(p.axes[axis]) for p in group], [p.measurement.median_s for p in group])
        fits.append(WorkFit(probe=name, axis=axis, held=dict(held), line=line, points=len(group)))
    return tuple(fits)


def timed_ms(device: Device, probe: str, *, seed: int = 0, **axes: AxisValue) -> float:
    """Run one launch of a probe that was checked and launched before, and return its milliseconds.

    `timed_ms(device, "draft", draft_n=4, work_flops=32, work_mem=4)`, and so for verify and baseline: one clock for
    all of them.

    Raises:
        Unsupported: The device cannot run it.
        ArithmeticError: Its result is wrong.
    """
    with device.prepare(probe, axes, seed=seed) as job:
        wrong = job.check()
        if wrong is not None:
            raise ArithmeticError(f"{probe}: {wrong}")
        return device.clock.elapsed_s(job.launch, 1) / job.works * 1e3
