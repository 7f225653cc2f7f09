"""`validate DECODE` as a user meets it, on records whose truth is known."""

import json
from pathlib import Path
from shutil import copytree

import pytest
from PIL import Image

from calibration.fit.calibrate import calibrate_decode
from simulator.costs.profile_file import save_profile

from .made_decode import Truth, write_decode


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and the profile of it, fitted to three of its eight draft lengths."""
    folder = tmp_path_factory.mktemp("pair")
    found = calibrate_decode(write_decode(folder / "d.jsonl", prompts=40), "pair", (1, 4, 8))
    save_profile(folder / "pair.json", found.profile, {})
    return folder


@pytest.fixture
def pair(made: Path, tmp_path: Path) -> Path:
    """The same in a folder of one test."""
    copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "pair.json"


def test_rows_are_forecast_and_the_bounds_hold(run, pair: Path, tmp_path: Path) -> None:
    done = run("validate", "d.jsonl", "--profile", pair, "--out", "v.json", "--plot", "v.png")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    rows = [line.split() for line in lines if line.startswith("made-target")]
    assert [(r[3], r[4]) for r in rows] == [(f"{k}", "fit" if k in (1, 4, 8) else "forecast") for k in range(1, 9)]
    assert "5 rows not fitted: median error 0." in done.stdout
    assert lines[-2:] == ["wrote v.json", "wrote v.png"]
    found = json.loads((tmp_path / "v.json").read_text())
    assert (found["kind"], found["schema_version"]) == ("decode_validation", 1)
    assert found["verdict"]["rows"] == 5
    assert found["bounds"] == {"median": 0.05, "p90": 0.1, "best_k_loss": 0.02}
    assert found["parameters"]["profile"] == str(pair)
    for r in found["rows"]:
        assert r["error"] == pytest.approx(r["forecast"] / r["measured"] - 1)
        assert abs(r["error"]) < 0.03
    with Image.open(tmp_path / "v.png") as picture:
        assert picture.size[0] > 400


def test_json_is_what_is_written_and_costs_of_a_slower_machine_break_the_bound(run, pair: Path, tmp_path: Path) -> None:
    words = ("validate", "d.jsonl", "--profile", pair)
    good = run(*words, "--json", "--out", "v.json", SOURCE_DATE_EPOCH="0")
    assert good.returncode == 0
    assert good.stdout == (tmp_path / "v.json").read_text()
    assert run(*words, "--json", "--out", "v.json", "--force", SOURCE_DATE_EPOCH="0").stdout == good.stdout
    assert run(*words, "--max-error", 0.05).returncode == 0
    assert run(*words, "--max-error", 0.0001).returncode == 1
    slower = json.loads(pair.read_text())
    slower["decoding"]["baseline_s"] *= 1.2
    (tmp_path / "slower.json").write_text(json.dumps(slower))
    done = run(*words[:-1], "slower.json", "--json")
    assert done.returncode == 1
    for before, after in zip(json.loads(good.stdout)["rows"], json.loads(done.stdout)["rows"], strict=True):
        assert after["forecast"] == pytest.approx(1.2 * before["forecast"])
        assert after["error"] == pytest.approx(0.2, abs=0.04)
    assert run(*words[:-1], "slower.json", "--max-error", 0.3).returncode == 0


def test_a_histogram_stands_in_for_what_the_run_accepted(run, pair: Path, tmp_path: Path) -> None:
    (tmp_path / "accept_hist_k8.json").write_text('{"k": 8, "hist": {"0": 10}, "samples": 10}')
    done = run("validate", "d.jsonl", "--profile", pair, "--hist", "accept_hist_k8.json", "--json")
    assert done.returncode == 1
    truth = Truth()
    for r in json.loads(done.stdout)["rows"]:
        assert r["tokens_per_round"] == 1
        # A token a round costs more than a plain step.
        assert r["forecast"] < truth.target_s(1) / (truth.target_s(2) + truth.draft_step_s) * 1.02


def test_costs_of_another_pair_are_refused(run, user_error, pair: Path, tmp_path: Path) -> None:
    for changes, words in (
        ({"inflate_target": 8.0}, "target is made-target x 4, but made-target x 8"),
        ({"dtype": "float32"}, "dtype is bfloat16, but float32"),
        ({"batch": 2}, "batch is 1, but 2"),
        ({"models": {"target": {"name": "made-target"}, "draft": {"name": "made-other"}}}, "draft is made-draft"),
    ):
        write_decode(tmp_path / "other.jsonl", prompts=2, **changes)
        user_error(run("validate", "other.jsonl", "--profile", pair), "--profile", words, "other.jsonl", "same pair")


def test_a_users_mistake_is_one_line_and_loses_nothing(run, user_error, pair: Path, tmp_path: Path) -> None:
    (tmp_path / "accept_hist_k2.json").write_text('{"k": 2, "hist": {"0": 1, "2": 9}, "samples": 10}')
    (tmp_path / "broken.jsonl").write_text("{")
    write_decode(tmp_path / "tiny.jsonl", prompts=1, tokens=4)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    cases = (
        (("d.jsonl",), ("no profile to forecast it with", "--profile FILE")),
        (("--published", "--profile", pair), ("--profile", "without DECODE")),
        (("d.jsonl", "--published"), ("several to check",)),
        (("d.jsonl", "--live"), ("several to check",)),
        (("d.jsonl", "--profile", "h100-sxm"), ("h100-sxm", "no decoding pair", "calibrate --from-decode")),
        (("d.jsonl", "--profile", "missing.json"), ("missing.json: no such file",)),
        (("missing.jsonl", "--profile", pair), ("missing.jsonl: no such file",)),
        (("broken.jsonl", "--profile", pair), ("broken.jsonl",)),
        (("d.jsonl", "--profile", pair, "--hist", "accept_hist_k2.json"), ("--hist", "k = 2 at most", "drafts 8")),
        (("tiny.jsonl", "--profile", pair), ("tiny.jsonl: k4 has no whole round of 4 drafts", "--hist")),
        (("d.jsonl", "--profile", pair, "--out", "d.jsonl", "--force"), ("--out d.jsonl",)),
        (("d.jsonl", "--profile", pair, "--out", "pair.json", "--force"), ("--out pair.json",)),
        (("d.jsonl", "--profile", pair, "--runs", "2"), ("--runs: 2 without --live",)),
    )
    for arguments, expected in cases:
        user_error(run("validate", *arguments), *expected)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_rows_of_another_run_are_all_forecast(run, pair: Path, tmp_path: Path) -> None:
    write_decode(tmp_path / "other.jsonl", prompts=6)
    done = run("validate", "other.jsonl", "--profile", pair)
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("made-target")]
    assert {r[4] for r in rows} == {"forecast"}
    assert "8 rows not fitted" in done.stdout
    assert "acceptance is the run's own: the errors are of costs alone" in done.stdout
