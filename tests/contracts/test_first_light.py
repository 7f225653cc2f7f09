"""The one command of the GPU, by its twin on the processor: every step passes, and none that fails stops the next."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "gpu" / "first_light.sh"
MOST_FILES, MOST_BYTES = 8, 1 << 20


@pytest.fixture(scope="module")
def driver() -> ModuleType:
    spec = importlib.util.spec_from_file_location("first_light", SCRIPT.with_suffix(".py"))
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["first_light"] = found  # where its dataclasses look for their annotations
    spec.loader.exec_module(found)
    return found


@pytest.mark.whole
def test_every_step_passes_on_the_processor(driver: ModuleType, tmp_path: Path) -> None:
    from calibration.sources.passes import load_passes
    from cuda_probe.probe.report import load_probe

    out = tmp_path / "reports"
    environment = os.environ | {"PYTHON": sys.executable, "OUT": str(out)}
    words = ["sh", str(SCRIPT), "--device", "cpu"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    summary = json.loads((out / "summary.json").read_text())
    steps = {step["name"]: step for step in summary["steps"]}
    assert [step.name for step in driver.cpu_steps()] == list(steps)
    assert {name: step["status"] for name, step in steps.items()} == dict.fromkeys(steps, "passed"), done.stdout
    assert done.returncode == 0, done.stdout + done.stderr
    files = list(out.iterdir())
    assert {file.name for file in files} == {*driver.KEPT, "summary.json", "log.txt"}
    assert len(files) <= MOST_FILES
    assert sum(file.stat().st_size for file in files) < MOST_BYTES
    assert list(tmp_path.iterdir()) == [out]
    assert {"numpy", "torch", "transformers"} <= summary["versions"].keys()
    assert steps["kernels"]["last_lines"][-1] == "done"
    assert load_probe(out / "probe.json", raw=False).points
    assert load_passes(out / "passes.json").times
    assert json.loads((out / "validation.json").read_text())["verdict"]["rows"] > 0
    assert all(step["name"] in done.stdout for step in summary["steps"])


@pytest.mark.whole
def test_no_step_stops_the_next(driver: ModuleType, tmp_path: Path) -> None:
    """One fails, one hangs with a child of its own, one lacks a library, one a file, and one finds no time left."""
    child = f"import time; time.sleep(4); open({str(tmp_path / 'outlived')!r}, 'w')"
    hangs = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"

    def step(name: str, code: str, limit_s: float = 30.0, **more: Any) -> Any:
        return driver.Step(name=name, words=("-c", code), limit_s=limit_s, **{"needs": (), **more})

    out = tmp_path / "reports"
    steps = [
        step("fails", "import sys; print('told why'); sys.exit(3)"),
        step("hangs", hangs, limit_s=1.0),
        step("lacks a library", "", needs=("no_such_library",)),
        step("lacks a file", "", reads=("absent.json",)),
        step("passes", "open('passes.json', 'w').write('{}'); print('x' * 100_000)"),
        step("late", "", limit_s=-1.0),
    ]
    driver.LEAST_S = 0.0
    began = time.monotonic()
    outcomes = driver.run_all(steps, out, 60.0, {"device": "none"})
    assert time.monotonic() - began < 30
    told = {found.step.name: (found.status, found.exit_code, found.reason) for found in outcomes}
    assert told == {
        "fails": ("failed", 3, "exit code 3"),
        "hangs": ("timed out", None, "ended after 1 s"),
        "lacks a library": ("not run", None, "no_such_library not installed"),
        "lacks a file": ("not run", None, "absent.json not made by an earlier step"),
        "passes": ("passed", 0, ""),
        "late": ("not run", None, "no time left"),
    }
    summary = json.loads((out / "summary.json").read_text())
    assert [step["status"] for step in summary["steps"]] == [found.status for found in outcomes]
    assert summary["steps"][0]["last_lines"] == ["told why"]
    assert (out / "passes.json").read_text() == "{}"
    log = (out / "log.txt").read_text()
    assert "time.sleep" in log or "most recent call first" in log  # where it hung
    assert len(log) < 40_000
    time.sleep(max(0.0, began + 6 - time.monotonic()))
    assert not (tmp_path / "outlived").exists()


@pytest.mark.whole
def test_a_signal_ends_the_step_under_way_and_is_told(tmp_path: Path) -> None:
    code = "import first_light as f; import sys, pathlib; s = f.Step(name='long', words=('-c', 'print(1, flush=True);"
    code += " import time; time.sleep(60)'), limit_s=50, needs=()); f.cpu_steps = lambda: [s, s]; f.main(sys.argv[1:])"
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parent)}
    words = [sys.executable, "-c", code, "--device", "cpu", "--out", str(tmp_path / "out")]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the device: from here on signals are heard
        time.sleep(2)
        process.terminate()
        said = process.communicate(timeout=30)[0]
    (step,) = json.loads((tmp_path / "out" / "summary.json").read_text())["steps"]
    assert (step["name"], step["reason"]) == ("long", "interrupted")
    assert "interrupted" in said


def test_a_gpu_is_measured_within_the_deadline_what_tells_most_first(driver: ModuleType) -> None:
    steps = driver.gpu_steps("cuda:0")
    names = [step.name for step in steps]
    assert names[:4] == ["kernels", "probe", "sampling", "passes"]
    assert driver.DEADLINE_S <= 9 * 60
    assert sum(step.limit_s for step in steps[:4]) < driver.DEADLINE_S
    suites = {name.removeprefix("suite: ") for name in names if name.startswith("suite: ")}
    assert suites == {path.stem.removeprefix("test_") for path in (ROOT / "tests" / "gpu").glob("test_*.py")}


@pytest.mark.whole
def test_a_wrong_kernel_is_told_and_the_others_are_tried_where_torch_is_not_installed_too() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "FAKE_CUPY": '{"fails": {"wrong gemm": 1}}'}
    code = "import sys; sys.modules['torch'] = None; sys.path.insert(0, 'tests/gpu')"
    words = [sys.executable, "-c", f"{code}; import smoke; sys.exit(smoke.main('cpu'))"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "sampling in bfloat16: not tried" in done.stdout
    wrong = {line.split()[0] for line in done.stdout.splitlines() if "WRONG" in line}
    assert wrong == {"matmul", "skinny"}
    assert done.stdout.count(" ok\n") >= 20
