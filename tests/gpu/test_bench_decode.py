"""On a real GPU: `bench-decode` times, counts and repeats what it says it does."""

import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

PHASES = ("prefill", "draft", "verify", "sample", "kv", "other")
Decoded = Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]]
TOLD = ["--method", "speculative,specexec,ngram", "--max-prompts", "4", "--max-new-tokens", "48", "--device", "cuda:0"]


@pytest.fixture
def decoded(run_module: Callable[..., None], tmp_path: Path) -> Decoded:
    """Return what runs the command and checks its file: header and records."""

    def call(*more: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        run_module("acceptance.cli.bench_decode", *TOLD, *more, "--out", "decode.jsonl")
        if find_spec("jsonschema"):  # of what we depend on, the one library that such machines often lack
            run_module("acceptance.cli.bench_decode", "validate-results", "decode.jsonl", "--strict")
        lines = [json.loads(line) for line in (tmp_path / "decode.jsonl").read_text().splitlines()]
        return lines[0], [line for line in lines if line["kind"] == "decode_record"]

    return call


def test_records_hold_times_memory_and_energy_of_the_gpu(torch: Any, decoded: Decoded) -> None:
    from acceptance.bench.machine import open_nvml
    from acceptance.models.bundled import TINY_PAIR

    header, records = decoded("--dtype", "float32")
    assert {(r["method"], r["status"]) for r in records} == {
        (name, "ok") for name in ("baseline", "speculative", "specexec", "ngram")
    }
    weights = sum((TINY_PAIR / name / "model.safetensors").stat().st_size for name in ("target", "draft"))
    counts_energy = bool(open_nvml(["cuda:0"])[1])
    for r in records:
        assert sum(r[f"{name}_ms"] for name in PHASES) / 1e3 == pytest.approx(r["total_s"])
        assert 0 < r["ttft_s"] < r["total_s"]
        assert r["verify_ms"] > 0
        # Loaded in float32, however they were saved.
        assert r["memory_peak_bytes"] > weights
        assert (r["energy_j"] is None) != counts_energy
        if counts_energy:
            assert r["energy_j"] >= 0
            assert r["idle_power_w"] > 0
            assert r["energy_is_reliable"] is False  # prompts of a fraction of a second
        divergence = r["first_divergence"]
        assert divergence is None or divergence["verdict"] == "rounding"
    system, around = header["parameters"]["system"], header["environment"]
    assert system["cuda"] == torch.version.cuda
    assert [gpu["device"] for gpu in system["gpus"]] == ["cuda:0"]
    if counts_energy:
        assert around["gpu_driver"]
        assert all(0 < clocks["sm"] <= clocks["sm_max"] for clocks in around["gpu_clocks_mhz"])


@pytest.mark.usefixtures("torch")
def test_sampling_repeats_in_deterministic_mode(decoded: Decoded) -> None:
    told = ("--deterministic", "--temperature", "0.8", "--top-p", "0.9", "--seed", "3", "--force")
    outputs = []
    for _ in range(2):
        records = decoded(*told)[1]
        outputs.append({r["resume_key"]: r["output_sha256"] for r in records})
    assert outputs[0] == outputs[1]


def work(torch: Any, device: str, times: int) -> None:
    """Give a device something to do."""
    x = torch.rand(4096, 4096, device=device)
    for _ in range(times):
        x = x @ x / 4096


def test_phases_are_what_the_device_did_and_not_when_the_host_gave_it(torch: Any) -> None:
    from acceptance.bench.clock import clock_for

    clock = clock_for(["cuda:0"])
    work(torch, "cuda:0", 3)
    clock.start()
    began = time.perf_counter()
    work(torch, "cuda:0", 40)
    clock.mark("verify")
    given = time.perf_counter() - began
    clock.mark("other")
    found = clock.stop()
    on_host_s = time.perf_counter() - began
    assert given < found.verify_s <= 1.05 * on_host_s
    assert found.other_s < 0.1 * found.verify_s
    assert found.total_s == pytest.approx(found.verify_s + found.other_s)


def test_a_draft_on_another_gpu_counts_as_drafting(torch: Any) -> None:
    from acceptance.bench.clock import clock_for

    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU: a second is needed")
    for device in ("cuda:0", "cuda:1"):
        work(torch, device, 3)
    alone, both = clock_for(["cuda:0"]), clock_for(["cuda:0", "cuda:1"])
    found = []
    for clock in (alone, both):
        clock.start()
        work(torch, "cuda:1", 40)
        clock.mark("draft")
        torch.cuda.synchronize("cuda:1")  # as handing the drafts on does
        work(torch, "cuda:0", 10)
        clock.mark("verify")
        found.append(clock.stop())
    blind, seeing = found
    assert blind.draft_s < 0.2 * blind.verify_s
    assert seeing.draft_s > 2 * seeing.verify_s
    assert seeing.total_s == pytest.approx(seeing.draft_s + seeing.verify_s)
