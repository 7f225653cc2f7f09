"""Runs the benchmark: the device's copy bandwidth first, then every point with all backends in turn."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from cuda_probe.probe.probes import BY_NAME, Unsupported
from cuda_probe.probe.runner import NOT_RUN, LeftOut, Planned, Point, run_point
from cuda_probe.probe.timing import StopRule
from simulator.ground.artefacts import UserError
from simulator.ground.endings import unbroken
from simulator.ground.limits import lacks_memory
from simulator.ground.partial import NowAndThen

from .backends import Arrays, Ready, ready, wrong
from .interleave import measure_in_turn
from .places import Place, environment
from .rounds import accepted_by_law, make_round
from .shapes import OURS, Shape, memory_bytes, needed_bytes

IDLE_CALLS = 15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BenchPoint:
    """One backend at one point.

    Attributes:
        point: Backend, axes, bytes that sampling needs (`shapes.needed_bytes`), and what was timed.
        calls: Calls of the backend's function that decide the batch once.
        accepted_mean: Accepted drafts a sequence, as the float64 reference decides them.
        call_s: Median seconds of a launch on an idle device, the host's part included; None where that is the median.
        agrees: Whether the backend accepted as the reference did, sequence by sequence; None for peers, which draw
            numbers of their own.
    """

    point: Point
    calls: int
    accepted_mean: float
    call_s: float | None
    agrees: bool | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BenchResults:
    """What a device did: every backend at every point, in the order of the grid, and what was not timed.

    copy: its copy of a buffer larger than the cache, in the same run; None where it could not be measured.
    interrupted: whether the user ended it before all was measured.
    """

    device: Mapping[str, Any]
    copy: Point | None
    points: tuple[BenchPoint, ...]
    left_out: tuple[LeftOut, ...]
    interrupted: bool = False

    def share(self, bench: BenchPoint) -> float | None:
        """Return bytes a second of a point over those of the copy."""
        copied, reached = self.copy and self.copy.bytes_per_s, bench.point.bytes_per_s
        return reached / copied if copied and reached else None

    def ratios(self, bench: BenchPoint) -> dict[str, float]:
        """Return the time of every other backend at the same point over the time of this one."""
        median_s = bench.point.measurement.median_s
        others = [p.point for p in self.points if p.point.axes == bench.point.axes and p is not bench]
        return {p.probe: p.measurement.median_s / median_s for p in others if median_s > 0}


def check_memory(place: Place, shapes: Sequence[Shape], backends: Sequence[str]) -> None:
    """Refuse the largest point if it does not fit, with what it takes and what there is."""
    on_cpu, free = place.device.name == "cpu", place.free_bytes()
    taken = {memory_bytes(shape, backends, on_cpu=on_cpu): shape for shape in shapes}
    most = max(taken)
    if most > free:
        raise UserError(
            f"{taken[most].words}: takes {most / 2**30:.3g} GiB with {', '.join(backends)}, "
            f"expected at most the {free / 2**30:.3g} GiB that are free on {place.device.name}"
        )


def run_bench(
    place: Place,
    shapes: Sequence[Shape],
    backends: Sequence[str],
    rule: StopRule,
    *,
    temperature: float,
    seed: int,
    progress: Callable[[int], object] = lambda done: None,
    keep: Callable[[BenchResults], object] | None = None,
) -> BenchResults:
    """Measure every backend at every point, until interrupted; `progress` is called with 1 after each.

    keep: called now and then with what there is so far, as if interrupted there.
    """
    points: list[BenchPoint] = []
    left_out: list[LeftOut] = []
    done, kept = 0, NowAndThen(keep)

    def found(*, interrupted: bool = False) -> BenchResults:
        rest = [LeftOut(probe=name, axes=shape.axes, reason=NOT_RUN) for shape in shapes[done:] for name in backends]
        return BenchResults(
            interrupted=interrupted or bool(rest),
            device={**place.device.environment(), **environment(place)},
            copy=copied if isinstance(copied, Point) else None,
            points=tuple(points),
            left_out=(*left_out, *rest),
        )

    with place.working():
        largest = max(place.device.axis_values("copy", quick=True)["buffer_bytes"])
        copied = run_point(place.device, Planned(probe=BY_NAME["copy"], axes={"buffer_bytes": largest}), rule, seed)
        left_out += [copied] if isinstance(copied, LeftOut) else []
        with suppress(KeyboardInterrupt):
            for shape in shapes:
                outcomes = run_shape(place, shape, backends, rule, temperature, seed)
                with unbroken():
                    points += [outcome for outcome in outcomes if isinstance(outcome, BenchPoint)]
                    left_out += [outcome for outcome in outcomes if isinstance(outcome, LeftOut)]
                    done += 1
                place.release()
                progress(1)
                kept(lambda: found(interrupted=True))
        return found()


def run_shape(
    place: Place, shape: Shape, backends: Sequence[str], rule: StopRule, temperature: float, seed: int
) -> list[BenchPoint | LeftOut]:
    """Make every backend ready, check what it decides, and time them in turn."""
    device, rng = place.device, np.random.default_rng([seed, 0x7A2])
    drafted = make_round(shape, temperature, seed)
    arrays = Arrays(place, drafted, shape)
    entries: dict[str, tuple[Ready, bool | None]] = {}
    left_out: list[LeftOut] = []
    by_law = accepted_by_law(drafted, temperature, seed)
    for name in backends:
        entry = entered(name, arrays, temperature, seed, by_law)
        if isinstance(entry, LeftOut):
            left_out.append(entry)
        else:
            entries[name] = entry
    if not entries:
        return list(left_out)
    launches = {name: entry.launch for name, (entry, _) in entries.items()}
    device.state()  # what was taken so far, by compiling for one, does not disturb what is measured now
    before = device.state()
    measured = measure_in_turn(launches, device.clock, rule, place.lead(), rng)
    idle = {name: idle_call_s(place, launch) for name, launch in launches.items()}
    states = before, device.state(next(iter(launches.values())))
    byte_count = needed_bytes(shape, int((by_law == shape.draft_length).sum()))
    return left_out + [
        BenchPoint(
            point=Point(
                probe=name, axes=shape.axes, flop=0, bytes=byte_count, measurement=measured[name], states=states
            ),
            calls=entry.calls,
            accepted_mean=float(by_law.mean()),
            call_s=idle[name],
            agrees=agrees,
        )
        for name, (entry, agrees) in entries.items()
    ]


def entered(
    name: str, arrays: Arrays, temperature: float, seed: int, by_law: Any
) -> tuple[Ready, bool | None] | LeftOut:
    """Make a backend ready and compare what it decides with the reference."""
    axes = arrays.shape.axes
    try:
        entry = ready(name, arrays, temperature, seed)
        decided = entry.decided()
    except Unsupported as error:
        return LeftOut(probe=name, axes=axes, reason=str(error))
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        return LeftOut(probe=name, axes=axes, reason="does not fit into memory")
    reason = wrong(decided, arrays.shape)
    if reason is not None:
        return LeftOut(probe=name, axes=axes, reason=f"wrong result: {reason}", failed=True)
    return entry, bool((decided[0] == by_law).all()) if name in OURS else None


def idle_call_s(place: Place, launch: Callable[[], object]) -> float | None:
    """Return the median seconds of a call on an idle device."""
    taken = [place.call_s(launch) for _ in range(IDLE_CALLS)]
    return None if None in taken else float(np.median(np.array(taken, np.float64)))
