"""On a real GPU: passes of 8B- and 1B-class shapes, timed by CUDA events, are fitted, and the others forecast."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Weights and caches of the largest pass, with room to spare.
LEAST_MEMORY = 60 * 10**9


def test_forecasts_of_other_draft_lengths_and_batches_hold_on_the_gpu(
    torch: Any, run_module: Callable[..., None], tmp_path: Path
) -> None:
    if torch.cuda.get_device_properties(0).total_memory < LEAST_MEMORY:
        pytest.skip(f"the GPU has less than {LEAST_MEMORY:.0e} bytes")

    models = ("--target-model", "llama-3.1-8b", "--draft-model", "llama-3.2-1b")
    sizes = ("--batch", "1,8,32", "--context", "512,4096", "--k", "1:8", "--dtype", "bfloat16", "--repeats", "15")
    timed = ("--device", "cuda:0", "--out", "passes.json")
    run_module("acceptance.cli.bench_decode", "time-passes", *models, *sizes, *timed)
    found = json.loads((tmp_path / "passes.json").read_text())
    assert not found["left_out"]
    assert len(found["points"]) == 6 * 10
    run_module("calibration.cli.calibrate", "--from-passes", "passes.json", "--fit-k", "1,4,8", "-o", "profile.json")
    hist = {str(a): 0.3 * 0.7**a for a in range(8)} | {"8": 0.7**8}
    (tmp_path / "hist.json").write_text(json.dumps({"k": 8, "hist": hist, "samples": 1}))
    told = ("--passes", "passes.json", "--profile", "profile.json", "--hist", "hist.json")
    run_module("calibration.cli.validate", *told, "--out", "validation.json")
    verdict = json.loads((tmp_path / "validation.json").read_text())["verdict"]
    assert verdict["rows"] == 33
    assert verdict["median"] <= 0.08
