"""From a probe.json to a profile: one fit for burn units, one for each number format of matrix products."""

from collections.abc import Mapping
from functools import partial

from calibration.sources.probe import Observations, from_probe
from cuda_probe.probe.runner import Results
from simulator.costs.profile import BURN_UNITS, KERNELS_MEASURED, BurnUnits, Profile

from .diagnostics import CheckedFit, checked
from .fit import KNOTS, best_fit

# Of engines, which a probe does not see; the errors are standard errors, relative. Presets assume the same overhead.
CUDA_LAUNCHES_PER_LAYER, CPU_LAUNCHES_PER_LAYER, LAUNCHES_ERROR = 10.0, 8.0, 0.3
ROUND_OVERHEAD_S, ROUND_OVERHEAD_ERROR = 6e-4, 0.5


def fit_probe(results: Results) -> dict[str, CheckedFit]:
    """Fit everything that a probe timed, by what a profile calls it."""
    return {name: checked(partial(best_fit, seen, knots_for(name, seen))) for name, seen in from_probe(results).items()}


def knots_for(name: str, seen: Observations) -> tuple[float, ...]:
    """Return where a curve may bend: burn units are as fast at one token as at many."""
    if name == BURN_UNITS:
        return (1.0,)
    return tuple(k for k in KNOTS if seen.tokens.min() <= k <= seen.tokens.max())


def probe_profile(name: str, results: Results, fits: Mapping[str, CheckedFit]) -> Profile:
    """Return the profile of a device, of the fits that passed, by what a profile calls them; at least one has."""
    passed = {key: fit.fit for key, fit in fits.items() if fit.passed and fit.fit is not None}
    burns, sizes = passed.pop(BURN_UNITS, None), results.units
    units = None
    if burns is not None:
        units = BurnUnits(workflops_flop=sizes.workflops_flop, workmem_bytes=sizes.workmem_bytes, cost=burns.cost)
    device, memory = results.device, results.device.get("memory_bytes")
    on_gpu = str(device.get("name", "")).startswith("cuda")
    return Profile(
        name=name,
        device=str(device.get("model", device.get("name", "unknown"))),
        status=KERNELS_MEASURED,
        passes={dtype: fit.cost for dtype, fit in passed.items()},
        units=units,
        launches_per_layer=CUDA_LAUNCHES_PER_LAYER if on_gpu else CPU_LAUNCHES_PER_LAYER,
        launches_per_layer_error=LAUNCHES_ERROR,
        round_overhead_s=ROUND_OVERHEAD_S,
        round_overhead_error=ROUND_OVERHEAD_ERROR,
        memory_bytes=int(memory) if memory else None,
        notes=notes(fits, on_gpu),
    )


def notes(fits: Mapping[str, CheckedFit], on_gpu: bool) -> tuple[str, ...]:
    """Say what a reader of the profile should know."""
    launches = CUDA_LAUNCHES_PER_LAYER if on_gpu else CPU_LAUNCHES_PER_LAYER
    counted = f"{launches:g} launches a layer, uncertain by {100 * LAUNCHES_ERROR:g} %"
    besides = f"{1e6 * ROUND_OVERHEAD_S:g} us a round besides, by {100 * ROUND_OVERHEAD_ERROR:g} %"
    lines = [f"Fitted to single kernels; {counted}, and {besides}, are assumed."]
    for name, fit in fits.items():
        diagnosis = fit.diagnosis
        if fit.passed and diagnosis is not None and diagnosis.held_out_median is not None:
            held_out = diagnosis.held_out_points
            lines.append(f"{name}: {diagnosis.held_out_median:.1%} median error of {held_out} points held out.")
        elif not fit.passed:
            lines.append(f"{name}: left out, {fit.reasons[0]}.")
    return tuple(lines)
