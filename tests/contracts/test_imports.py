"""What importing costs and needs: NumPy alone for the simulator, no model library before it is asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(p.relative_to(ROOT).with_suffix("").parts)
    for package in ("simulator", "cuda_probe", "acceptance", "calibration")
    for p in (ROOT / package).rglob("*.py")
    if p.stem != "__init__"
)
CUPY = ("cuda_probe.device", "cuda_probe.products", "cuda_probe.sampling_device")
# What runs models; `measure` plans and drives them.
CORNER = (
    *("bench.forecast", "bench.load", "bench.runner", "context", "cross_tokenizer", "decoders", "inflate", "judge"),
    *("laws", "loop_check", "measure", "mining", "models", "quality", "scoring", "static_context"),
)


def imports_with(blocked: list[str], module: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); import {module}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def needs_click(module: str) -> bool:
    return module.endswith((".cli", ".command", ".report", ".model_report", ".outlook", ".profiles_cli"))


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("simulator.")])
def test_the_simulator_imports_with_numpy_alone(module: str) -> None:
    blocked = ["scipy", "pandas", "matplotlib", "pyarrow", "torch", "transformers", "acceptance", "cuda_probe"]
    done = imports_with(blocked if needs_click(module) else [*blocked, "click"], module)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("acceptance.")])
def test_acceptance_imports_without_the_model_libraries_but_for_one_corner(module: str) -> None:
    done = imports_with(["torch", "transformers", "matplotlib", "pandas"], module)
    name = module.removeprefix("acceptance.")
    corner = name in CORNER or name.partition(".")[0] in CORNER
    assert (done.returncode != 0) == corner, done.stderr


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("cuda_probe.")])
def test_the_probe_imports_without_cupy_but_for_one_module(module: str) -> None:
    done = imports_with(["cupy", "pynvml", "torch", "matplotlib", "pandas", "scipy", "acceptance"], module)
    assert (done.returncode != 0) == (module in CUPY), done.stderr


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("calibration.")])
def test_calibration_imports_without_the_heavy_libraries(module: str) -> None:
    done = imports_with(["cupy", "pynvml", "torch", "transformers", "matplotlib", "pandas", "scipy"], module)
    assert done.returncode == 0, done.stderr
