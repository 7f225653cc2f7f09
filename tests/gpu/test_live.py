"""On a real GPU: the whole chain of `validate --live`, from probe to forecast, with CUDA timing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "calibration.cli.validate")


def test_forecasts_of_inflated_targets_hold_on_the_gpu(device: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("jsonschema")  # records are checked against their schema
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    told = ("--live", "--device", "cuda:0", "--inflate", "100,1000", "--k", "1:8", "--fit-k", "1,4,8")
    size = ("--max-prompts", "6", "--max-new-tokens", "64", "--out", "live.json", "--plot", "live.png")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [*COMMAND, *told, *size]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "live.json").read_text())
    assert len(found["rows"]) == 16
    assert found["verdict"]["rows"] == 10
    device_profile = json.loads((tmp_path / "live" / "device.json").read_text())
    assert device_profile["units"]["cost"]["flop_scale_s"] > 0
