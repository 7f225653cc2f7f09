"""How long calibration and forecasts take, beside a named reference in the same process. Prints, asserts nothing.

The reference is one least-squares fit of the same points by a single scale each, from one start. Aims: a full probe in
under 5 s, a forecast with 1000 samples in under 1 s.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
from scipy.optimize import least_squares
from timing import best_s, options

from calibration.fit.from_decode import fit_pair, pair_profile
from calibration.fit.from_probe import fit_probe, probe_profile
from calibration.sources.decode import load_decode
from calibration.sources.probe import Observations, from_probe
from calibration.validate.decode import forecast_rows, own_acceptance, pair_costs
from cuda_probe.probe.report import load_probe
from simulator.answers.uncertainty import SAMPLES, uncertainty
from simulator.costs.model_costs import ModelPair
from simulator.costs.shapes import read_shape
from simulator.rounds.acceptance_law import IidAcceptance

FULL = {
    "dtype": ("float32", "float16", "bfloat16"),
    "weight": ("4096x4096", "4096x11008", "8192x28672"),
    "size": (256, 512, 1024, 2048, 4096, 8192, 16384),
}

FEW = {"weight": ("4096x4096",), "size": (256, 1024, 4096), "tokens": (1, 2, 4, 8, 32, 256)}


def helper(name: str) -> ModuleType:
    """Load a module of tests/calib, which is no package."""
    path = Path(__file__).parents[1] / "calib" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def reference(seen: Observations) -> None:
    """Fit seconds a FLOP, a byte and a launch, which add up."""
    own = seen.fitted
    design = np.stack([own.flops, own.bytes, own.launches]) * own.passes

    def residuals(logs: np.ndarray) -> np.ndarray:
        return np.log(np.exp(logs) @ design) - np.log(own.seconds)

    least_squares(residuals, np.log([1e-14, 1e-12, 1e-6]), loss="soft_l1")


def main() -> None:
    smoke = options(__doc__).parse_args().smoke
    repeats = 1 if smoke else 3
    made, decode = helper("made_probe"), helper("made_decode")
    made.AXES = {**made.AXES, **(FEW if smoke else FULL)}
    with tempfile.TemporaryDirectory() as name:
        path = made.write_probe(Path(name) / "probe.json", made.made_results(products=made.CURVED_COST))
        load_s = best_s(lambda: load_probe(path, raw=False), repeats)
        probed = load_probe(path, raw=False)
        log = load_decode(decode.write_decode(Path(name) / "d.jsonl", prompts=80, noise=0.02))
    seen = from_probe(probed)
    points = sum(map(len, seen.values()))
    reference_s = best_s(lambda: [reference(own) for own in seen.values()], repeats)
    print(f"reference: one start of three scales for each number format, {reference_s:.3f} s for {points} points\n")
    print(f"{'what':52} {'seconds':>8} {'ours / reference':>18}")

    def show(what: str, own_s: float) -> None:
        print(f"{what:52} {own_s:>8.3f} {own_s / reference_s:>17.1f}x")

    found = fit_probe(probed)
    shown = ", ".join(f"{name} {len(own.fit.form.flop_knots)}" for name, own in found.items() if own.fit is not None)
    show("read a full probe", load_s)
    show(f"calibrate a full probe ({points} points)", best_s(lambda: fit_probe(probed), min(repeats, 2)))
    print(f"  knots of the curves: {shown}")
    profile = probe_profile("made", probed, found)
    shapes = {role: read_shape(shape) for role, shape in (("target", "llama-3.1-8b"), ("draft", "llama-3.2-1b"))}
    pair = ModelPair(profile=profile, **shapes, dtype="bfloat16", draft_dtype="bfloat16")
    rng, model = np.random.default_rng(0), IidAcceptance(0.8)
    show(
        f"forecast of two models, K to 16, {SAMPLES} samples",
        best_s(lambda: uncertainty(pair, model, 4, 16, rng, overlap=False), repeats),
    )
    show("fit of a pair that decoded, 8 draft lengths", best_s(lambda: fit_pair(log), repeats))
    costs, taken = pair_costs(pair_profile("x", log, fit_pair(log))), own_acceptance(log)
    show(f"its 8 rows with {SAMPLES} samples", best_s(lambda: forecast_rows(log, costs, taken, (), rng), repeats))


if __name__ == "__main__":
    main()
