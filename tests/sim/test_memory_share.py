"""The share of a device's memory that an engine uses: how many sequences run, what is said where nobody states it."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from simulator.answers.load_curve_report import memory_in_words
from simulator.answers.scene import RATE
from simulator.costs.cautions import cautions
from simulator.costs.model_costs import ModelPair
from simulator.costs.parameters import DeviceOptions
from simulator.costs.priced import load_pricing
from simulator.costs.profile_file import load_profile, save_profile
from simulator.costs.room import room
from simulator.ground.artefacts import UserError

TIGHT = {"profile": "b200", "target_model": "minimax-m2", "dtype": "fp8", "tp": 2, "method": "ngram"}
LOAD = ("--profile", "b200", "--target-model", "minimax-m2", "--dtype", "fp8", "--tp", 2)
LOAD += ("--concurrency", 512, "--isl", 1024, "--osl", 1024)


def pair_of(**given: Any) -> ModelPair:
    pair = load_pricing(DeviceOptions(**TIGHT | given)).models
    assert pair is not None
    return replace(pair, batch=512, context=1536)


def test_room_grows_with_the_share_as_bytes_do() -> None:
    shares = np.array([0.7, 0.8, 0.95, 1.0])
    rooms = [float(room(pair_of(gpu_memory_utilization=s), 1536)) for s in shares]
    one = replace(pair_of(), batch=1).memory_bytes - replace(pair_of(), batch=0).memory_bytes
    assert np.diff(rooms) == pytest.approx(np.diff(shares) * pair_of().profile.memory_bytes / float(one))
    assert float(room(pair_of(), 1536)) == float(room(pair_of(gpu_memory_utilization=0.9), 1536))
    one_share = pair_of(gpu_memory_utilization=0.95).fits, pair_of().fits
    assert [bool(fits) for fits in one_share] == [False, False]
    assert bool(replace(pair_of(gpu_memory_utilization=0.95), batch=340).fits)


def test_an_answer_that_hangs_on_a_share_that_nobody_states_says_so() -> None:
    """Of a load where some wait, of a batch where it tells whether all of it fits; elsewhere nothing is said."""

    def said(pair: ModelPair, **load: float) -> list[str]:
        return [line for line in cautions(pair, 1, **load) if "--gpu-memory-utilization" in line]

    load = {"isl": 1024, "osl": 1024}
    (line,) = said(pair_of(), **load)
    assert line.startswith("of 512 sequences memory holds 302 at 90%, 252 at 85%, 351 at 95% of it")
    assert not said(pair_of(gpu_memory_utilization=0.9), **load)
    assert not said(replace(pair_of(), batch=250), **load)
    assert not said(pair_of(), **load, most_running=250)
    assert [len(said(replace(pair_of(), batch=b))) for b in (250, 300, 340, 512)] == [0, 1, 1, 0]
    unknown = replace(pair_of(), profile=replace(pair_of().profile, memory_bytes=None))
    assert not said(unknown, **load)


def test_simulate_and_sweep_take_the_engine_s_own_option(run, output) -> None:
    def told(*more: object) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(output("simulate", *LOAD, *more, "--json"))
        return found

    plain, wide = told(), told("--gpu-memory-utilization", 0.95)
    assert (plain["plain"]["running"], wide["plain"]["running"]) == (302, 351)
    assert wide["plain"]["ttft_ms"] < 0.7 * plain["plain"]["ttft_ms"]
    assert [any("memory holds" in w for w in found["warnings"]) for found in (plain, wide)] == [True, False]
    assert wide["parameters"]["gpu_memory_utilization"] == 0.95
    assert "gpu_memory_utilization" not in plain["parameters"]
    assert told("--mem-fraction-static", "95%")["plain"] == wide["plain"]
    swept = output("sweep", *LOAD, "--gpu-memory-utilization", 0.95)
    assert "memory holds" not in swept
    assert "memory holds" in output("sweep", *LOAD)
    for wrong, answer in (("95", "95 is not a fraction; 0.95?"), ("0", "expected a number above 0, at most 1")):
        refused = run("simulate", *LOAD, "--gpu-memory-utilization", wrong)
        assert refused.returncode == 2
        assert answer in refused.stderr
    refused = run("simulate", "--profile", "h200", "--gpu-memory-utilization", 0.9)
    assert "--gpu-memory-utilization: 0.9 without models" in refused.stderr


def test_a_load_step_for_step_says_from_where_on_it_hangs_on_the_share() -> None:
    points = [
        SimpleNamespace(load=at, arms=[{"kv_used_most": np.array([used])}]) for at, used in ((2.0, 0.9), (8.0, 0.97))
    ]
    found, traffic = SimpleNamespace(points=points), SimpleNamespace(kind=RATE)
    said = [memory_in_words(SimpleNamespace(usual_share=usual, traffic=traffic), found) for usual in (True, False)]
    assert [len(lines) for lines in said] == [1, 0]
    assert said[0][0].startswith("KV fills its room from 8 requests/s on, 90% of the memory")


def test_a_profile_keeps_its_share(tmp_path: Path) -> None:
    path, sheet = tmp_path / "p.json", load_profile("b200")
    save_profile(path, replace(sheet, memory_share=0.8), {})
    assert load_profile(str(path)).memory_share == 0.8
    assert float(room(pair_of(profile=str(path)), 1536)) < float(room(pair_of(), 1536))
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"memory_share": 1.5}))
    with pytest.raises(UserError, match=r"memory_share is 1\.5"):
        load_profile(str(path))
    path.write_text(json.dumps(told | {"memory_bytes": None}))
    with pytest.raises(UserError, match=r"--gpu-memory-utilization: 0\.9, but the profile b200 does not say"):
        pair_of(profile=str(path), gpu_memory_utilization=0.9)
