"""On a real GPU: the whole chain of `validate --live`, from probe to forecast, with CUDA timing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.usefixtures("torch")
def test_forecasts_of_inflated_targets_hold_on_the_gpu(run_module: Callable[..., None], tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")  # records are checked against their schema
    told = ("--live", "--device", "cuda:0", "--inflate", "100,1000", "--k", "1:8", "--fit-k", "1,4,8")
    size = ("--max-prompts", "6", "--max-new-tokens", "64", "--out", "live.json", "--plot", "live.png")
    run_module("calibration.cli.validate", *told, *size)
    found = json.loads((tmp_path / "live.json").read_text())
    assert len(found["rows"]) == 16
    assert found["verdict"]["rows"] == 10
    device_profile = json.loads((tmp_path / "live" / "device.json").read_text())
    assert device_profile["units"]["cost"]["flop_scale_s"] > 0
