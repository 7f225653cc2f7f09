"""Every example runs, on small settings, and none is left out."""

import json
import runpy
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from simulator.ground.histogram import load_histogram

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = Path(sysconfig.get_path("scripts"))
COVERED = {
    "cut_task.py",
    "train_judge.py",
    "train_heads.py",
    "own_answers.py",
    "heads_text.py",
    "training.py",
    "01_first_light.py",
    "02_one_trace.py",
    "03_timing_to_forecast.py",
    "train_tiny_pair.py",
}
Play = Callable[..., tuple[int, str]]


@pytest.fixture
def play(
    run_in, quick_probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Play:
    """Return what runs an example, and the commands that it starts, in this process: exit code and what is printed."""
    start = subprocess.run

    def start_here(words: list, **how: object) -> subprocess.CompletedProcess[str]:
        if Path(words[0]).parent != SCRIPTS:
            return start(words, **how)
        assert Path(words[0]).is_file()
        done = run_in(tmp_path, Path(words[0]).name, *words[1:])
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
        return done

    def call(name: str, *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.syspath_prepend(EXAMPLES)  # as `python FILE` has it
        monkeypatch.setattr(subprocess, "run", start_here)
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0), capsys.readouterr().out
        return 0, capsys.readouterr().out

    return call


def test_every_example_is_covered_here() -> None:
    assert {p.name for p in EXAMPLES.glob("*.py")} == COVERED


def test_first_light_goes_from_the_pair_to_the_surface(play: Play, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expected = {f"accept_hist_k{k}.json" for k in range(1, 9)} | {"trace.npz", "trace.json", "simulate_k4.csv"}
    expected |= {"sweep.csv", "speedup_surface.png", "speedup_by_k.png"}
    out.mkdir()
    for name in expected - {"trace.npz"}:  # of an earlier run: overwritten
        (out / name).write_text("{}")
    code, shown = play("01_first_light.py", "--out", out, "--max-new-tokens", 12)
    assert code == 0
    assert {p.name for p in out.iterdir()} == expected
    assert all((out / name).stat().st_size > 100 for name in expected)
    for name in expected:
        assert name in shown
    assert "$ simulate --draftN 4 --hist" in shown
    assert "draft_cost  best K  speedup" in shown


def test_one_trace_answers_for_both_kinds_of_draft(play: Play, tmp_path: Path) -> None:
    code, shown = play("02_one_trace.py", "--out", tmp_path / "out", "--max-new-tokens", 12)
    assert code == 0
    assert "sampled draft    greedy draft" in shown
    assert "oracle" in shown
    assert (tmp_path / "out" / "acceptance.png").exists()


def test_timing_to_forecast_runs_the_whole_chain(play: Play, tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = ("--inflate", 1, "--longest", 2, "--max-prompts", 2, "--max-new-tokens", 12)
    code, shown = play("03_timing_to_forecast.py", "--out", out, *small)
    # A busy machine may fail a fit's checks, which ends the chain; but nothing else may.
    assert code in (0, 3)
    expected = {"probe.json", "trace.json", "accept_hist_k1.json", "accept_hist_k2.json", "decode.jsonl"}
    assert expected <= {p.name for p in out.iterdir()}
    assert "$ calibrate --from-decode" in shown
    if code == 0:
        assert "every row was fitted, nothing was forecast" in " ".join(shown.split())
        assert (out / "pair.json").exists()


def test_the_whole_chain_refuses_histograms_of_another_run_before_it_starts(play: Play, tmp_path: Path) -> None:
    (tmp_path / "accept_hist_k7.json").write_text("{}")
    assert play("03_timing_to_forecast.py", "--out", tmp_path) == (2, "")
    assert [p.name for p in tmp_path.iterdir()] == ["accept_hist_k7.json"]


def test_the_training_script_makes_a_pair_that_can_be_measured(play: Play, run_in, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for i in range(80):
        lines = (f"def f{i}_{j}(x):\n    return x + {j}\n" for j in range(80))
        (source / f"m{i}.py").write_text("\n".join(lines))
    out = tmp_path / "pair"
    sizes = ("--vocab-size", 300, "--target-shape", "64x2", "--draft-shape", "32x1", "--batch-size", 2)
    settings = (*sizes, "--seq-len", 256, "--target-steps", 3, "--draft-steps", 2, "--prompts", 3)
    code, shown = play("train_tiny_pair.py", "--out", out, "--source", source, *settings)
    assert code == 0
    for name, steps in (("target", 3), ("draft", 2)):
        record = json.loads((out / name / "training.json").read_text())
        assert record["steps"] == steps
        assert f"{record['held_out_loss_nats']:.4f}" in shown
    pair = ("--target", out / "target", "--draft", out / "draft", "--prompts", out / "prompts.jsonl")
    measured = run_in(tmp_path, "measure-acceptance", "--k", 2, "--max-new-tokens", 4, *pair, "--out-dir", out)
    assert measured.returncode == 0, measured.stderr
    assert load_histogram(out / "accept_hist_k2.json").samples > 0
