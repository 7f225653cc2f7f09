"""On a real GPU: passes of 8B- and 1B-class shapes, timed by CUDA events, are fitted, and the others forecast."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "bench-decode": "acceptance.cli.bench_decode",
    "calibrate": "calibration.cli.calibrate",
    "validate": "calibration.cli.validate",
}
# Weights and caches of the largest pass, with room to spare.
LEAST_MEMORY = 60 * 10**9
pytestmark = pytest.mark.usefixtures("device")


def test_forecasts_of_other_draft_lengths_and_batches_hold_on_the_gpu(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    if torch.cuda.get_device_properties(0).total_memory < LEAST_MEMORY:
        pytest.skip(f"the GPU has less than {LEAST_MEMORY:.0e} bytes")

    def run(command: str, *told: str) -> None:
        line = [sys.executable, "-m", COMMANDS[command], *told]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    models = ("--target-model", "llama-3.1-8b", "--draft-model", "llama-3.2-1b")
    sizes = ("--batch", "1,8,32", "--context", "512,4096", "--k", "1:8", "--dtype", "bfloat16", "--repeats", "15")
    run("bench-decode", "time-passes", *models, *sizes, "--device", "cuda:0", "--out", "passes.json")
    found = json.loads((tmp_path / "passes.json").read_text())
    assert not found["left_out"]
    assert len(found["points"]) == 6 * 10
    run("calibrate", "--from-passes", "passes.json", "--fit-k", "1,4,8", "-o", "profile.json")
    hist = {str(a): 0.3 * 0.7**a for a in range(8)} | {"8": 0.7**8}
    (tmp_path / "hist.json").write_text(json.dumps({"k": 8, "hist": hist, "samples": 1}))
    told = ("--passes", "passes.json", "--profile", "profile.json", "--hist", "hist.json")
    run("validate", *told, "--out", "validation.json")
    verdict = json.loads((tmp_path / "validation.json").read_text())["verdict"]
    assert verdict["rows"] == 33
    assert verdict["median"] <= 0.08
