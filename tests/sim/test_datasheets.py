"""`profiles new`: a device from a few numbers with their units, on the assumptions of those that come along."""

from dataclasses import replace
from pathlib import Path

import pytest

from simulator.costs.profile_file import cost_json, load_profile


def test_a_profile_is_made_of_three_numbers(output, run, user_error, tmp_path: Path) -> None:
    """8 GiB, 272 GB/s and 121 TFLOP/s: what is assumed of them is what presets assume."""
    text = output("profiles", "new", "my-4060", *["--memory", "8GiB", "--bandwidth", "272GB/s", "--bf16", "121TFLOP/s"])
    made = load_profile(tmp_path / "my-4060.json")
    assert made.memory_bytes == 8 * 2**30
    for dtype in ("bfloat16", "float16", "int4", "int8"):
        cost = made.passes[dtype]
        assert float(cost.flop_scale.seconds[0]) == pytest.approx(1 / (0.7 * 121e12), rel=1e-5)
        assert float(cost.mem_scale.seconds[0]) == pytest.approx(1 / (0.8 * 272e9), rel=1e-5)
        assert cost.error("flop_scale[0]") == pytest.approx(0.15)
    preset = load_profile("l4")
    assert made.notes[:3] == preset.notes[:3]
    assert (made.status, made.link, made.power, made.sources) == (preset.status, None, None, ())
    assert "Stated, without a source: memory 8GiB, bandwidth 272GB/s, bf16 121TFLOP/s." in text
    assert text.endswith("wrote my-4060.json (profiles show my-4060.json)\n")
    user_error(
        run("profiles", "new", "my-4060", "--memory", "8GB", "--bandwidth", "1TB/s", "--bf16", "1PFLOPS"), "exists"
    )
    more = (
        "--memory 24GB --bandwidth 0.3TBps --fp16 121TFLOPs --fp8 242.5TFLOPS --int8 242.5TOPS --power 72 --link 32GB/s"
    )
    output("profiles", "new", "mine", *more.split(), "--out", "l4.json")
    made = load_profile(tmp_path / "l4.json")
    assert made.memory_bytes == 24 * 10**9
    assert made.power is not None
    assert (made.power.load_w, made.power.idle_w) == (72.0, 7.2)
    assert made.link
    assert preset.link
    assert made.link == replace(preset.link, devices=None)
    for dtype in ("bfloat16", "fp8", "int8", "int4"):
        assert cost_json(made.passes[dtype]) == cost_json(preset.passes[dtype])


def test_a_number_of_a_profile_needs_its_unit(run, user_error) -> None:
    for memory, bandwidth, rate, option in (
        ("8", "1TB/s", "1TFLOPS", "--memory: '8'"),
        ("8GB/s", "1TB/s", "1TFLOPS", "--memory: '8GB/s'"),
        ("0GiB", "1TB/s", "1TFLOPS", "--memory: '0GiB'"),
        ("8GiB", "272Gb/s", "1TFLOPS", "--bandwidth: '272Gb/s'"),
        ("8GiB", "272GFLOPS", "1TFLOPS", "--bandwidth: '272GFLOPS'"),
        ("8GiB", "1TB/s", "121", "--bf16: '121'"),
        ("8GiB", "1TB/s", "121 W", "--bf16: '121 W'"),
    ):
        words = ("--memory", memory, "--bandwidth", bandwidth, "--bf16", rate)
        user_error(run("profiles", "new", "x", *words), f"{option} is not allowed, expected a number with its unit")
    user_error(run("profiles", "new", "x", "--memory", "8GiB", "--bandwidth", "1TB/s"), "--bf16: is missing")
