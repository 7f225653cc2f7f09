"""What importing costs and needs: NumPy alone for the simulator, no model library before it is asked for."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
HEAVY = ("matplotlib", "pandas", "pyarrow", "scipy")
# Each module of a room by itself: what another of it has loaded already is no excuse. Between rooms arrows go down.
IMPORT_EACH = """
import importlib, json, sys
names, blocked = json.load(sys.stdin)
sys.modules.update(dict.fromkeys(blocked))
missing = {}
for name in names:
    for loaded in [m for m in sys.modules if m.split(".")[:2] == name.split(".")[:2]]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except ImportError as error:
        missing[name] = str(error)
print(json.dumps(missing))
"""


def modules_of(package: str) -> list[str]:
    found = (p.relative_to(ROOT).with_suffix("").parts for p in (ROOT / package).rglob("*.py"))
    return sorted(".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in found)


def missing(names: Sequence[str], *blocked: str) -> dict[str, str]:
    """Import each of these modules in one interpreter that lacks some libraries; return what failed, and why."""
    call = [sys.executable, "-c", IMPORT_EACH]
    done = subprocess.run(
        call, input=json.dumps([names, blocked]), capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def kept_from(library: str) -> tuple[str, ...]:
    """Return the modules and rooms that a contract keeps from a library, whatever they import."""
    (found,) = (c for c in CONTRACTS if library in c.get("forbidden_modules", ()) and "outside" in c["name"])
    return tuple(found["source_modules"])


def is_in(module: str, rooms: Sequence[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


# What models and devices need, and nothing else of ours.
MODELS = ("torch", "transformers", "cupy", "pynvml", *HEAVY)
# Modules of the simulator that may need click; the others are held to more below.
FRAMES = ("simulator.cli", "simulator.ground.command", "simulator.ground.vocabulary")


def may_need_click(module: str) -> bool:
    return is_in(module, FRAMES) or module.endswith("report")


@pytest.mark.parametrize("package", ["simulator", "acceptance", "calibration"])
def test_outside_their_corner_everything_imports_without_the_model_libraries(package: str) -> None:
    names = modules_of(package)
    names = [m for m in names if may_need_click(m)] if package == "simulator" else names
    failed = missing(names, *MODELS)
    assert not {m: why for m, why in failed.items() if is_in(m, kept_from("torch"))}
    assert ("acceptance.models.load" in failed) == (package == "acceptance")


def test_outside_its_devices_everything_imports_without_cupy() -> None:
    failed = missing(modules_of("cuda_probe"), "cupy", "pynvml", "torch", "acceptance", *HEAVY)
    assert not {m: why for m, why in failed.items() if is_in(m, kept_from("cupy"))}
    assert "cuda_probe.devices.cuda" in failed
    assert "cuda_probe.devices.cpu" not in failed


def test_the_simulator_computes_with_numpy_alone() -> None:
    names = [m for m in modules_of("simulator") if not may_need_click(m)]
    assert missing(names, "click", "acceptance", "cuda_probe", *MODELS) == {}
