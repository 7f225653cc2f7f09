"""Probes whose truth is known: the points of a real plan, each as long as a cost says, with noise of a stated size."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cuda_probe.probe.probes import BY_NAME, AxisValue, Units, points
from cuda_probe.probe.report import save_probe
from cuda_probe.probe.runner import Point, Results
from cuda_probe.probe.stats import Verdict
from cuda_probe.probe.timing import QUIET, Measurement
from simulator.costs.profile import Curve, PassCost, constant

SIZES = {"workflops_flop": 1_600_000, "workmem_bytes": 2_000_000, "workmem_flop": 600_000}
UNITS = Units(**SIZES, workflops_means="made", workmem_means="made")
DEVICE = {"name": "cuda:0", "model": "Made device", "memory_bytes": 80 * 2**30}
LENGTHS = (*range(1, 9), 12, 16)
# What a full probe takes on a GPU, in fewer sizes.
AXES: Mapping[str, Sequence[AxisValue]] = {
    "draft_n": LENGTHS,
    "work_flops": (2_000,),
    "work_mem": (16,),
    "weight": ("4096x4096", "4096x11008"),
    "dtype": ("bfloat16",),
    "tokens": (*range(1, 9), 12, 16, 24, 32, 48, 64, 96, 128, 256),
    "size": (256, 512, 1024, 2048, 4096, 8192),
}
BURNS: Mapping[str, Mapping[str, Sequence[AxisValue]]] = {
    "burn_flops": {"work_flops": tuple(2**i for i in range(12, 20))},
    "burn_memory": {"work_mem": tuple(range(16, 257, 16))},
    "draft": {},
    "verify": {},
    "baseline": {},
}
PRODUCTS: Mapping[str, Mapping[str, Sequence[AxisValue]]] = {"skinny": {}, "matmul": {}}
# Both limits are met: the burns of one pass take about as long on either side.
BURN_COST = PassCost(flop_scale=constant(2.5e-14), mem_scale=constant(4e-13), launch_s=4e-6, overlap_exponent=3.0)
PRODUCT_COST = replace(BURN_COST, flop_scale=constant(2e-15), launch_s=5e-6)
CURVED_COST = replace(PRODUCT_COST, flop_scale=Curve(np.array([1.0, 8.0, 64.0]), np.array([4e-13, 6e-14, 4e-15])))


def made_points(
    probes: Mapping[str, Mapping[str, Sequence[AxisValue]]],
    cost: PassCost,
    noise: float,
    rng: np.random.Generator,
    stated: float | None = None,
) -> list[Point]:
    """Time the points of some probes by a cost, each off by a factor exp(noise x normal).

    probes: values of axes that differ from `AXES`. stated: relative standard error that points claim; None: the noise.
    """
    found = []
    for name, values in probes.items():
        for axes in points(BY_NAME[name], {**AXES, **values}):
            seconds = true_s(name, axes, cost) * float(np.exp(noise * rng.standard_normal()))
            found.append(made_point(name, axes, seconds, noise if stated is None else stated))
    return found


def true_s(name: str, axes: Mapping[str, AxisValue], cost: PassCost) -> float:
    """Return what a run takes, worked out from its axes: passes one after another, the work and tokens of each.

    Of burn units as `simulate` counts them: the additions of memory traffic are part of it.
    """
    probe, whole = BY_NAME[name], {axis: v for axis, v in axes.items() if isinstance(v, int)}
    by_probe = {"verify": whole.get("draft_n", 0) + 1, "skinny": whole.get("tokens"), "matmul": whole.get("size")}
    tokens = by_probe.get(name)
    flops, moved = float(probe.flop(axes, UNITS)), float(probe.bytes(axes, UNITS))
    passes = whole["draft_n"] if name == "draft" else 1
    if name in BURNS:
        flops = whole.get("work_flops", 0) * (tokens or 1) * UNITS.workflops_flop
        moved = whole.get("work_mem", 0) * UNITS.workmem_bytes
    return passes * float(cost.pass_s(flops, moved, tokens or 1, 1))


def made_point(name: str, axes: Mapping[str, AxisValue], seconds: float, error: float) -> Point:
    """Return a point of a probe that took so long."""
    probe, verdict = BY_NAME[name], Verdict(word="quiet", reason="made")
    times = {"median_s": seconds, "iqr_s": 2 * error * seconds, "median_error_s": error * seconds}
    samples = {"samples_s": np.full(5, seconds), "warm_ups_s": np.full(2, seconds)}
    timed = Measurement(**times, **samples, batch=1, flushed=probe.flushes, reason=QUIET, verdict=verdict)
    return Point(probe=name, axes=axes, flop=probe.flop(axes, UNITS), bytes=probe.bytes(axes, UNITS), measurement=timed)


def made_results(
    burns: PassCost = BURN_COST, products: PassCost | None = PRODUCT_COST, noise: float = 0.005, seed: int = 0
) -> Results:
    """Return a whole probe of a device of known costs."""
    rng = np.random.default_rng(seed)
    found = made_points({"empty": {}, **BURNS}, burns, noise, rng)
    return results(found + (made_points(PRODUCTS, products, noise, rng) if products is not None else []))


def results(points: Iterable[Point]) -> Results:
    """Return a probe of these points alone."""
    return Results(device=DEVICE, units=UNITS, points=tuple(points), left_out=())


def write_probe(path: Path, probed: Results) -> Path:
    """Write a probe.json and its raw samples."""
    save_probe(path, probed, {"made": True})
    return path
