"""The share of a device's memory that an engine uses: how many sequences run, what is said where nobody states it."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from simulator.answers.load_curve_report import memory_in_words
from simulator.answers.ways import Server, blocks_of, less_room
from simulator.costs.cautions import cautions
from simulator.costs.model_costs import ModelPair
from simulator.costs.parameters import DeviceOptions
from simulator.costs.priced import load_pricing
from simulator.costs.profile_file import load_profile, save_profile
from simulator.costs.room import room, with_share
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
        SimpleNamespace(load=at, arms=[{"kv_used_most": np.array([used])}]) for at, used in ((2.0, 0.6), (8.0, 0.7))
    ]
    found, traffic = SimpleNamespace(points=points), SimpleNamespace(unit="requests/s")
    scenes = [SimpleNamespace(arms=[SimpleNamespace(less_room=less)], traffic=traffic) for less in (0.64, 1.0)]
    said = [memory_in_words(scene, found) for scene in scenes]
    assert [len(lines) for lines in said] == [1, 0]
    assert said[0][0].startswith("from 8 requests/s on KV takes more room than 85% of the memory leave, 90% are")


def test_room_on_less_of_the_memory_is_what_weights_leave_of_it() -> None:
    server = Server(longest=4096)
    models = pair_of(profile="h100-sxm", target_model="qwen3-32b", tp=1, dtype=None).placed_target
    blocks = [blocks_of(of, server, 230.0) for of in (models, with_share(models, 0.85), with_share(models, 0.9))]
    assert blocks[0] == blocks[2]
    assert less_room(models, server, 230.0) == pytest.approx(blocks[1] / blocks[0], abs=1e-3)
    assert blocks[1] / blocks[0] == pytest.approx(28_560 / 44_944, rel=0.01)
    assert less_room(with_share(models, 0.9), server, 230.0) == 1
    assert less_room(models, replace(server, num_blocks=9), 230.0) == 1


def test_a_model_without_room_for_a_request_is_told_what_would_have_it(run) -> None:
    load = ("--profile", "h100-sxm", "--isl", 200, "--osl", 60, "--target-model")
    cases = [
        (("llama-3.1-70b",), "llama-3.1-70b does"),
        (("qwen3-32b", "--draft-model", "llama-3.1-8b", "--alpha", 0.7), "qwen3-32b and what drafts for it do"),
    ]
    for models, name in cases:
        told = run("simulate", *load, *models, "--concurrency", 4).stdout
        remedy = next(line for line in told.splitlines() if line.startswith("It would"))
        refused = run("simulate-serving", *load, *models, "--rate", 4, "--max-model-len", 300)
        said = f"--target-model: {name} not fit into memory: no request can run. {remedy}\n"
        assert (refused.returncode, refused.stderr) == (2, f"simulate-serving: {said}")


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
