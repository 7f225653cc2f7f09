"""From timed passes to a profile to forecasts: costs that are known come back, and what was not seen is forecast."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from acceptance.bench.passes import DRAFT, TARGET, Grid, Point
from calibration.fit.diagnostics import CheckedFit
from calibration.fit.fit import Form, fit
from calibration.fit.from_passes import fit_passes, is_seen, pass_observations, pass_profile, unseen_setting
from calibration.sources.passes import PassTimes, load_passes
from calibration.sources.timed import Timed
from calibration.validate.passes import Fitted, measured_round, pass_rows
from calibration.validate.rows import Row, judge
from simulator.costs.profile import Curve, Profile
from simulator.costs.profile_file import load_profile
from simulator.ground.artefacts import UserError
from simulator.ground.histogram import AcceptanceHistogram
from simulator.rounds.acceptance_law import HistogramAcceptance

from .made_passes import TRUTH, pass_s, write_passes

HIST = AcceptanceHistogram((20.0, 15.0, 12.0, 10.0, 8.0, 7.0, 6.0, 5.0, 17.0))
TAU_2 = 1 + (15 + 2 * 65) / 100
LENGTHS = (1, 4, 8)


class Known(NamedTuple):
    """A file of passes without noise, what was fitted to it, and the rows that this forecasts."""

    times: PassTimes
    found: CheckedFit
    profile: Profile
    rows: list[Row]


def forecast(times: PassTimes, profile: Profile) -> list[Row]:
    unseen = Fitted(passes_sha256=None, lengths=None)
    return pass_rows(times, profile, HistogramAcceptance((HIST,)), unseen, np.random.default_rng(0))


@pytest.fixture(scope="module")
def known(exact: Path) -> Known:
    times = load_passes(exact)
    found = fit_passes(times, LENGTHS)
    profile = pass_profile("made", times, found, LENGTHS)
    return Known(times, found, profile, forecast(times, profile))


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_passes(tmp_path_factory.mktemp("passes") / "p.json")


def test_what_is_held_out_is_other_k_and_one_setting_in_the_middle(exact: Path, tmp_path: Path) -> None:
    times = load_passes(exact)
    # 512, 4096 (1 x 4096), 4096 (8 x 512), 16384 (32 x 512), 32768, 131072 tokens held.
    assert unseen_setting(times) == (32, 512)
    assert is_seen(times, Point(TARGET, 8, 512, 5), LENGTHS)
    assert not is_seen(times, Point(TARGET, 8, 512, 4), LENGTHS)
    assert is_seen(times, Point(TARGET, 8, 512, 4), None)
    assert is_seen(times, Point(DRAFT, 8, 512, 1), LENGTHS)
    assert not is_seen(times, Point(DRAFT, 32, 512, 1), LENGTHS)
    assert not is_seen(times, Point(TARGET, 32, 512, 5), LENGTHS)
    seen = pass_observations(times, LENGTHS)
    assert len(seen) == 6 * 10
    assert len(seen.fitted) == 5 * 5
    # Three settings are all fitted.
    grid = Grid(batches=(1, 8, 32), contexts=(512,), draft_lengths=(1, 2))
    few = load_passes(write_passes(tmp_path / "p.json", grid=grid))
    assert unseen_setting(few) is None
    assert not pass_observations(few, None).held_out.any()


def test_a_known_cost_is_found_and_forecasts_exactly(known: Known) -> None:
    found = known.found
    assert found.passed, found.reasons
    assert found.fit is not None
    assert np.abs(found.fit.residuals).max() < 2e-3
    assert (known.profile.device, known.profile.memory_bytes) == ("Made GPU", 80 * 10**9)
    assert known.profile.launches_per_layer == 1
    assert "K 1, 4, 8;" in known.profile.notes[0]
    assert "35 passes held out" in known.profile.notes[1]
    assert len(known.rows) == 6 * 8
    assert max(abs(r.error) for r in known.rows) < 2e-3
    assert judge(known.rows).best_k_loss == 0
    own = fit(pass_observations(known.times, LENGTHS), Form()).cost.parameters()
    for name, value in TRUTH.parameters().items():
        assert own[name] == pytest.approx(value, rel=0.02), name


def test_a_curve_of_memory_is_found_where_there_is_one(tmp_path: Path) -> None:
    curve = Curve(np.array([2.5e9, 40e9]), np.array([3e-13, 6e-13]))
    times = load_passes(write_passes(tmp_path / "p.json", cost=replace(TRUTH, mem_scale=curve)))
    found = fit_passes(times, LENGTHS)
    assert found.passed, found.reasons
    assert found.fit is not None
    assert len(found.fit.form.mem_knots) == 2
    assert np.median(np.abs(found.fit.residuals)) < 0.01


def test_a_measured_row_and_its_interval_by_hand(known: Known) -> None:
    row = next(r for r in known.rows if r.target == "llama-3.1-8b, batch 8, context 4096" and r.draft_length == 2)
    target, draft = known.times.shapes[TARGET], known.times.shapes[DRAFT]
    round_s = 2 * pass_s(draft, (8, 1, 4096)) + pass_s(target, (8, 3, 4096))
    assert row.tokens_per_round == row.measured_tokens_per_round == pytest.approx(TAU_2)
    assert row.measured == pytest.approx(TAU_2 * pass_s(target, (8, 1, 4096)) / round_s)
    # Round: 2 x 1 s +- 2 x 0.1, and 8 s +- 0.5; plain step: 5 s +- 0.1.
    found = measured_round(2, Timed(5.0, 0.1), Timed(1.0, 0.1), Timed(8.0, 0.5))
    assert found.speedup == 0.5
    relative = np.sqrt(0.02**2 + (0.2**2 + 0.5**2) / 10**2)
    assert found.ends == pytest.approx((0.5 * (1 - 1.96 * relative), 0.5 * (1 + 1.96 * relative)), rel=1e-5)


def test_odd_files_and_points_are_refused(exact: Path, tmp_path: Path) -> None:
    content, odd = json.loads(exact.read_text()), tmp_path / "odd.json"
    cases = [
        (content | {"kind": "probe"}, "kind is 'probe', expected 'pass_times'"),
        (content | {"schema_version": 9}, "schema_version is 9, supported: 1"),
        (content | {"points": []}, "points is empty"),
        (content | {"models": {}}, "models.target is missing, expected an object"),
        (content | {"dtype": 3}, "dtype is 3, expected text"),
    ]
    for name, value, words in (
        ("role", "judge", "role is 'judge', expected 'target' or 'draft'"),
        ("median_s", 0, "median_s is 0, expected a number above 0"),
        ("samples_s", [1.0, 2.0, 9.0], "median_s is "),
        ("batch", None, "batch is None, expected a whole number"),
    ):
        points = [point | {name: value} if i == 3 else point for i, point in enumerate(content["points"])]
        cases.append((content | {"points": points}, f"points[3].{words}"))
    for changed, words in cases:
        odd.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=re.escape(words)):
            load_passes(odd)


@pytest.mark.statistical
def test_the_commands_calibrate_and_forecast(run, output, tmp_path: Path) -> None:
    times = load_passes(write_passes(tmp_path / "p.json", noise=0.02))
    hist = {str(a): n for a, n in enumerate(HIST.counts)}
    (tmp_path / "h.json").write_text(json.dumps({"k": 8, "hist": hist, "samples": 100}))
    output("calibrate", "--from-passes", "p.json", "--fit-k", "1,4,8", "-o", "profile.json")
    profile = tmp_path / "profile.json"
    # A median of 15 is off by 1.25 x 2 % / sqrt(15) = 0.65 %; a row has three of them.
    assert np.median([abs(r.error) for r in forecast(times, load_profile(profile))]) < 0.0065 * 2
    told = ("validate", "--passes", "p.json", "--hist", "h.json", "--profile")
    said = output(*told, "profile.json", "--out", "v.json", "--plot", "v.png")
    assert "33 rows not fitted: median error 0." in said
    assert "(bound 8%)" in said
    assert said.endswith("wrote v.json\nwrote v.png\n")
    found = json.loads((tmp_path / "v.json").read_text())
    assert (found["kind"], found["bounds"]) == ("pass_validation", {"median": 0.08})
    # Three K of five settings were fitted.
    assert sum(r["fitted"] for r in found["rows"]) == 3 * 5
    assert not any(r["fitted"] for r in found["rows"] if "batch 32, context 512" in r["target"])
    # Passes of another file are all forecast, and a bound of nearly nothing is broken.
    write_passes(tmp_path / "other.json", noise=0.02, seed=1)
    other = output("validate", "--passes", "other.json", "--hist", "h.json", "--profile", "profile.json")
    assert "48 rows not fitted" in other
    assert run(*told, "profile.json", "--max-error", "1e-6").returncode == 1
    # Where every row was fitted nothing is forecast, and no bound holds.
    few = Grid(batches=(1, 8), contexts=(128,), draft_lengths=(1, 2, 4, 7))
    write_passes(tmp_path / "few.json", noise=0.02, grid=few)
    output("calibrate", "--from-passes", "few.json", "-o", "all.json")
    seen = run("validate", "--passes", "few.json", "--hist", "h.json", "--profile", "all.json", "--max-error", "0")
    assert (seen.returncode, seen.stderr) == (1, "")
    assert seen.stdout.startswith("Nothing holds: every row was fitted, nothing was forecast (calibrate --fit-k")
    # What was timed is in the profile, and a forecast beyond it says so.
    pair = ("--profile", "profile.json", "--target-model", "llama-3.1-8b", "--draft-model", "llama-3.2-1b")
    said = output("simulate", "--hist", "h.json", *pair, "--batch", 256, "--context", 16)
    assert "256 sequences: profile was timed at 1 to 32; each doubling beyond adds 4%" in said
    # The negative control: a device whose passes take time before they begin.
    content = json.loads(profile.read_text())
    cost = content["passes"]["bfloat16"]
    cost["launch_s"] = cost["fixed_s"] = 5e-3
    (tmp_path / "wrong.json").write_text(json.dumps(content))
    wrong = run(*told, "wrong.json")
    assert wrong.returncode == 1, wrong.stdout


def test_real_passes_go_through_the_whole_chain(run, tmp_path: Path) -> None:
    sizes = {"vocab_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
    for name, hidden, layers in (("target", 64, 3), ("draft", 32, 2)):
        (tmp_path / name).mkdir()
        own = {"hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": layers}
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "llama"} | sizes | own))
    told = ("--target-model", "target", "--draft-model", "draft", "--batch", "1,2", "--context", "8,32", "--k", "1:3")
    assert run("bench-decode", "time-passes", *told, "--repeats", 3, "--out", "p.json").returncode == 0
    # Whether so small models can be told from launches is open; what the fit sees is not.
    done = run("calibrate", "--from-passes", "p.json", "--fit-k", "1,3", "-o", "own.json", "--report", "r.json")
    assert done.returncode in (0, 3), done.stderr
    points = json.loads((tmp_path / "r.json").read_text())["fits"]["bfloat16"]["points"]
    assert len(points) == 20
    held_out = {p["label"] for p in points if p["held_out"]}
    others = {f"target, batch {b}, context {s}, new 3" for b in (1, 2) for s in (8, 32)}
    setting = {f"target, batch 1, context 32, new {n}" for n in (1, 2, 3, 4)} | {"draft, batch 1, context 32, new 1"}
    assert held_out == others | setting
    (tmp_path / "h.json").write_text(json.dumps({"k": 3, "hist": {"1": 10, "3": 30}, "samples": 40}))
    done = run("validate", "--passes", "p.json", "--profile", "h200", "--hist", "h.json", "--json")
    assert done.returncode in (0, 1), done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [(r["draft_length"], r["fitted"]) for r in rows] == [(k, False) for k in (1, 2, 3)] * 4
    points = json.loads((tmp_path / "p.json").read_text())["points"]
    times = {(p["role"], p["batch"], p["context"], p["new_tokens"]): p["median_s"] for p in points}
    round_s = 3 * times["draft", 2, 32, 1] + times["target", 2, 32, 4]
    assert rows[-1]["measured"] == pytest.approx(3.5 * times["target", 2, 32, 1] / round_s)
