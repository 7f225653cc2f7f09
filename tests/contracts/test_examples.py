"""Every example runs, on small settings, and none is left out."""

import json
import subprocess
import sys
from pathlib import Path

from simulator.ground.histogram import load_histogram

EXAMPLES = Path(__file__).parents[2] / "examples"
COVERED = {
    "cut_task.py",
    "train_judge.py",
    "train_heads.py",
    "01_first_light.py",
    "02_one_trace.py",
    "03_timing_to_forecast.py",
    "train_tiny_pair.py",
}


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_every_example_is_covered_here() -> None:
    assert {p.name for p in EXAMPLES.glob("*.py")} == COVERED


def test_first_light_goes_from_the_pair_to_the_surface(tmp_path: Path) -> None:
    out = tmp_path / "out"
    expected = {f"accept_hist_k{k}.json" for k in range(1, 9)} | {"trace.npz", "trace.json", "simulate_k4.csv"}
    expected |= {"sweep.csv", "speedup_surface.png", "speedup_by_k.png"}
    out.mkdir()
    for name in expected - {"trace.npz"}:  # of an earlier run: overwritten
        (out / name).write_text("{}")
    done = run("01_first_light.py", "--out", out, "--max-new-tokens", 24)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in out.iterdir()} == expected
    assert all((out / name).stat().st_size > 100 for name in expected)
    for name in expected:
        assert name in done.stdout
    assert "$ simulate --draftN 4 --hist" in done.stdout
    assert "Best draft length of the bundled pair" in done.stdout


def test_one_trace_answers_for_both_kinds_of_draft(tmp_path: Path) -> None:
    done = run("02_one_trace.py", "--out", tmp_path / "out", "--max-new-tokens", 24)
    assert done.returncode == 0, done.stderr
    assert "sampled draft    greedy draft" in done.stdout
    assert "oracle" in done.stdout
    assert (tmp_path / "out" / "acceptance.png").exists()


def test_timing_to_forecast_runs_the_whole_chain(tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = ("--inflate", 1, "--longest", 2, "--max-prompts", 2, "--max-new-tokens", 12)
    done = run("03_timing_to_forecast.py", "--out", out, *small)
    # A busy machine may fail a fit's checks, which ends the chain; but nothing else may.
    assert done.returncode in (0, 3), done.stderr
    expected = {"probe.json", "trace.json", "accept_hist_k1.json", "accept_hist_k2.json", "decode.jsonl"}
    assert expected <= {p.name for p in out.iterdir()}
    assert "$ calibrate --from-decode" in done.stdout
    if done.returncode == 0:
        assert "every row was fitted: nothing was forecast" in done.stdout
        assert (out / "pair.json").exists()


def test_the_training_script_makes_a_pair_that_can_be_measured(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for i in range(80):
        lines = (f"def f{i}_{j}(x):\n    return x + {j}\n" for j in range(80))
        (source / f"m{i}.py").write_text("\n".join(lines))
    out = tmp_path / "pair"
    sizes = ("--vocab-size", 300, "--target-shape", "64x2", "--draft-shape", "32x1", "--batch-size", 2)
    settings = (*sizes, "--seq-len", 256, "--target-steps", 3, "--draft-steps", 2, "--prompts", 3)
    done = run("train_tiny_pair.py", "--out", out, "--source", source, *settings)
    assert done.returncode == 0, done.stderr
    for name, steps in (("target", 3), ("draft", 2)):
        record = json.loads((out / name / "training.json").read_text())
        assert record["steps"] == steps
        assert f"{record['held_out_loss_nats']:.4f}" in done.stdout
    command = [Path(sys.executable).parent / "measure-acceptance", "--k", "2", "--max-new-tokens", "4"]
    pair = ["--target", out / "target", "--draft", out / "draft", "--prompts", out / "prompts.jsonl"]
    subprocess.run([*command, *pair, "--out-dir", out], check=True, capture_output=True)
    assert load_histogram(out / "accept_hist_k2.json").samples > 0
