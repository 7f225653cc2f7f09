"""From a probe.json to a profile: one fit for burn units, one for each number format of matrix products."""

from collections.abc import Mapping
from dataclasses import dataclass

from calibration.sources.probe import BURN_UNITS, Observations, from_probe
from cuda_probe.probe.runner import Results
from simulator.costs.profile import KERNELS_MEASURED, BurnUnits, Profile

from .diagnostics import Diagnosis, diagnose
from .fit import Fit, best_fit

# Tokens at which a curve may bend: where products turn from vectors to tiles, and where those fill the device.
KNOTS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)
# Of engines, which a probe does not see; the errors are standard errors, relative. Presets assume the same overhead.
CUDA_LAUNCHES_PER_LAYER, CPU_LAUNCHES_PER_LAYER, LAUNCHES_ERROR = 10.0, 8.0, 0.3
ROUND_OVERHEAD_S, ROUND_OVERHEAD_ERROR = 6e-4, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A fit and what was found out about it; no fit where there were too few points, and why."""

    fit: Fit | None
    diagnosis: Diagnosis | None
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether it may become part of a profile."""
        return self.diagnosis is not None and self.diagnosis.passed

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why not."""
        return self.diagnosis.reasons if self.diagnosis else (self.reason,)


def fit_probe(results: Results) -> dict[str, Judged]:
    """Fit everything that a probe timed, by what a profile calls it."""
    return {name: judged(seen, knots_for(name, seen)) for name, seen in from_probe(results).items()}


def judged(seen: Observations, knots: tuple[float, ...]) -> Judged:
    """Fit and check."""
    try:
        found = best_fit(seen, knots)
    except ValueError as error:
        return Judged(fit=None, diagnosis=None, reason=str(error))
    return Judged(fit=found, diagnosis=diagnose(found))


def knots_for(name: str, seen: Observations) -> tuple[float, ...]:
    """Return where a curve may bend: burn units are as fast at one token as at many."""
    if name == BURN_UNITS:
        return (1.0,)
    return tuple(k for k in KNOTS if seen.tokens.min() <= k <= seen.tokens.max())


def probe_profile(name: str, results: Results, found: Mapping[str, Judged]) -> Profile:
    """Return the profile of a device, of the fits that passed.

    Args:
        name: What to call it.
        results: What was measured.
        found: By what a profile calls it; at least one has passed.
    """
    passed = {key: own.fit for key, own in found.items() if own.passed and own.fit is not None}
    units = passed.pop(BURN_UNITS, None)
    device, memory = results.device, results.device.get("memory_bytes")
    on_gpu = str(device.get("name", "")).startswith("cuda")
    return Profile(
        name=name,
        device=str(device.get("model", device.get("name", "unknown"))),
        status=KERNELS_MEASURED,
        passes={dtype: fit.cost for dtype, fit in passed.items()},
        units=None if units is None else burn_units(results, units),
        launches_per_layer=CUDA_LAUNCHES_PER_LAYER if on_gpu else CPU_LAUNCHES_PER_LAYER,
        launches_per_layer_error=LAUNCHES_ERROR,
        round_overhead_s=ROUND_OVERHEAD_S,
        round_overhead_error=ROUND_OVERHEAD_ERROR,
        memory_bytes=int(memory) if memory else None,
        notes=notes(found, on_gpu),
    )


def burn_units(results: Results, fit: Fit) -> BurnUnits:
    """Return what the device's burn units are and cost."""
    sizes = results.units
    return BurnUnits(workflops_flop=sizes.workflops_flop, workmem_bytes=sizes.workmem_bytes, cost=fit.cost)


def notes(found: Mapping[str, Judged], on_gpu: bool) -> tuple[str, ...]:
    """Say what a reader of the profile should know."""
    launches = CUDA_LAUNCHES_PER_LAYER if on_gpu else CPU_LAUNCHES_PER_LAYER
    counted = f"{launches:g} launches a layer, uncertain by {100 * LAUNCHES_ERROR:g} %"
    besides = f"{1e6 * ROUND_OVERHEAD_S:g} us a round besides, by {100 * ROUND_OVERHEAD_ERROR:g} %"
    said = [f"Fitted to single kernels; {counted}, and {besides}, are assumed."]
    for name, own in found.items():
        if own.passed and own.diagnosis is not None and own.diagnosis.held_out_median is not None:
            held_out = own.diagnosis.held_out_points
            said.append(f"{name}: {own.diagnosis.held_out_median:.1%} median error of {held_out} points held out.")
        elif not own.passed:
            said.append(f"{name}: left out, {own.reasons[0]}.")
    return tuple(said)
