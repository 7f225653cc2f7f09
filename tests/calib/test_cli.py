"""`calibrate` and `validate` as a user meets them: from probes and runs to profiles that `simulate` takes, and back."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from PIL import Image

from calibration.fit.calibrate import calibrate_decode, calibrate_probe
from calibration.fit.plots import fit_figure
from calibration.published.cases import collect_cases
from simulator.costs.profile_file import load_profile, save_profile
from simulator.ground.pictures import FAILED, OFF_HATCH

from .made_decode import Truth, write_decode
from .made_passes import write_passes
from .made_probe import BURN_COST, BURNS, PRODUCT_COST, UNITS, made_points, made_results, results, write_probe
from .published_files import made_case, write

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "validation.md").read_text()
LEVIATHAN = ROOT / "calibration" / "published" / "tables" / "leviathan.json"
TRUTH = Truth()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, run_in) -> Path:
    """A probe and what `calibrate` makes of it, then.json; a run and the pair of it, fitted to three of its lengths."""
    folder = tmp_path_factory.mktemp("made")
    write_probe(folder / "probe.json", made_results(noise=0.003))
    words = ("probe.json", "-o", "then.json", "--name", "same", "--report", "thenr.json", "--plot", "then.svg")
    done = run_in(folder, "calibrate", *words, SOURCE_DATE_EPOCH="0")
    assert (done.returncode, done.stderr) == (0, "")
    (folder / "said.txt").write_text(done.stdout)
    found = calibrate_decode(write_decode(folder / "d.jsonl", prompts=40), "pair", (1, 4, 8))
    save_profile(folder / "pair.json", found.profile, {})
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """The same in a folder of one test, where commands run."""
    return copytree(made, tmp_path, dirs_exist_ok=True)


def picture_width(path: Path) -> int:
    with Image.open(path) as picture:
        return picture.size[0]


def change(path: Path, to: Path, edit: Callable[[dict], None]) -> None:
    """Write a JSON file with one change."""
    content = json.loads(path.read_text())
    edit(content)
    to.write_text(json.dumps(content))


def test_a_profile_holds_the_truth_and_simulate_takes_it(output, folder: Path) -> None:
    said = (folder / "said.txt").read_text()
    for words in ("burn units: passes", "bfloat16: passes", "std. error", "held out: median"):
        assert words in said
    assert said.endswith("wrote then.json\nwrote thenr.json\nwrote then.svg\n")
    cost = load_profile(folder / "then.json").passes["bfloat16"]
    assert cost.uncertain[:2] == ("flop_scale[0]", "mem_scale[0]")
    for name in ("flop_scale[0]", "mem_scale[0]", "launch_s"):
        assert cost.parameters()[name] == pytest.approx(PRODUCT_COST.parameters()[name], rel=0.02)
    told = json.loads(output("simulate", "--profile", "then.json", "--workflops", 2000, "--workmem", 16, "--json"))
    assert told["parameters"]["flopScale"] == pytest.approx(2.5e-14 * UNITS.workflops_flop * 1e3, rel=0.01)
    assert told["parameters"]["memScale"] == pytest.approx(4e-13 * UNITS.workmem_bytes * 1e3, rel=0.01)
    (timed,) = made_results(noise=0.0).of("baseline")
    assert told["baseline_ms_per_token"] == pytest.approx(1e3 * timed.measurement.median_s, rel=0.01)
    models = ("--target-model", "llama-3.1-8b", "--draft-model", "llama-3.2-1b")
    told = json.loads(output("simulate", "--profile", "then.json", *models, "--json"))
    # 8 billion weights of 2 bytes at 4e-13 s a byte are 6.4 ms, and launches come on top.
    assert 6 < told["baseline_ms_per_token"] < 10


def test_a_real_probe_of_this_machine_is_taken(run, quick_probe, tmp_path: Path) -> None:
    names = ("empty", "burn_flops", "burn_memory", "verify")
    told = [word for name in names for word in ("--only", name)]
    values = ("--draftN", "1,2", "--workflops", "8,32", "--workmem", 1)
    assert run("probe-gpu", "--device", "cpu", "--quick", *told, *values).returncode == 0
    done = run("calibrate", "probe.json", "--report", "report.json")
    # A busy machine may fail the checks; then there is no profile.
    assert done.returncode in (0, 3), done.stderr
    assert (tmp_path / "profile.json").exists() == (done.returncode == 0)
    (found,) = json.loads((tmp_path / "report.json").read_text())["fits"].values()
    assert found["passed"] == (done.returncode == 0)
    assert 1e-14 < found["parameters"]["flop_scale[0]"]["value"] < 1e-9
    assert len(found["points"]) == 1 + 2 + 1 + 4


def test_a_fit_that_fails_is_no_profile_and_says_why(run, user_error, tmp_path: Path) -> None:
    # Nothing that memory limits; an older profile is kept.
    points = made_points({"empty": {}, "burn_flops": BURNS["burn_flops"]}, BURN_COST, 0.003, np.random.default_rng(0))
    write_probe(tmp_path / "blind.json", results(points))
    (tmp_path / "mine.json").write_text("precious")
    words = ("-o", "mine.json", "--force", "--report", "report.json", "--plot", "fit.svg")
    done = run("calibrate", "blind.json", *words)
    assert done.returncode == 3
    assert (tmp_path / "mine.json").read_text() == "precious"
    reason, last = done.stderr.splitlines()
    assert reason.startswith("calibrate: burn units: left out, no point depends on mem_scale[0]")
    assert last == "calibrate: no fit passes its checks, mine.json is not written"
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["kind"], report["passed"]) == ("calibration_report", False)
    assert report["fits"]["burn units"]["parameters"]["flop_scale[0]"]["value"] == pytest.approx(2.5e-14, rel=0.01)
    assert done.stdout.startswith("Failed: no fit passes its checks, there is no profile.\n")
    figure = fit_figure(calibrate_probe(tmp_path / "blind.json", "blind").fits, "blind.json")
    above = figure.axes[0]
    assert figure.get_suptitle().startswith("Failed: no fit passes its checks")
    assert "burn units FAILS\nno point depends on mem_scale[0]" in above.get_title()
    assert (above.title.get_color(), above.patch.get_hatch()) == (FAILED, OFF_HATCH)
    assert "#c00000" in (tmp_path / "fit.svg").read_text()
    failed = "report.json: is the report of a fit that failed its checks"
    user_error(run("simulate", "--profile", "report.json"), failed)


def test_the_same_probe_gives_the_same_bytes_and_json_is_the_report(output, folder: Path) -> None:
    told = ("-o", "again.json", "--name", "same", "--report", "againr.json", "--plot", "fit.png", "--json")
    said = output("calibrate", "probe.json", *told, SOURCE_DATE_EPOCH="0")
    for suffix in (".json", "r.json"):
        assert (folder / f"again{suffix}").read_bytes() == (folder / f"then{suffix}").read_bytes()
    assert said == (folder / "againr.json").read_text()
    assert set(json.loads(said)["fits"]) == {"burn units", "bfloat16"}
    found = json.loads((folder / "again.json").read_text())
    assert (found["kind"], found["name"]) == ("hardware_profile", "same")
    assert found["created_utc"] == "1970-01-01T00:00:00+00:00"
    assert found["parameters"] == {"probe": "probe.json", "from_decode": None, "fit_k": None}
    assert picture_width(folder / "fit.png") > 800
    assert "<svg" in (folder / "then.svg").read_text()


def test_compare_says_what_changed_and_cannot_tell_what_was_known_badly(output, folder: Path) -> None:
    told = ("-o", "now.json", "--force", "--compare", "then.json")
    slower = dict.fromkeys(("flop_scale", "mem_scale", "launch_s"), 1.3)
    now = made_results(BURN_COST.scaled(slower), PRODUCT_COST.scaled(slower), noise=0.003, seed=1)
    write_probe(folder / "now_probe.json", now)
    said = output("calibrate", "now_probe.json", *told)
    assert "overall: slower\n" in said
    assert "bfloat16 mem_scale[0]" in said

    def know_badly(profile: dict) -> None:
        for cost in (profile["passes"]["bfloat16"], profile["units"]["cost"]):
            uncertainty = cost["uncertainty"]
            uncertainty["covariance"] = (0.09 * np.eye(len(uncertainty["parameters"]))).tolist()

    change(folder / "then.json", folder / "then.json", know_badly)
    comparison = json.loads(output("calibrate", "probe.json", *told, "--json"))["comparison"]
    assert (comparison["against"], comparison["overall"]) == ("same", "cannot tell")
    assert {c["verdict"] for c in comparison["changes"]} == {"cannot tell"}


@pytest.mark.whole  # serves loads request by request, for a minute unless loops are compiled
def test_the_published_results_hold_and_every_row_is_listed_and_drawn(output, tmp_path: Path) -> None:
    said = output("validate", "--published", "--plot", "v.png")
    for words in ("2211.17192", "CNN/DM T=1, T5-small", "fitted for GSM8K: baseline_ms 34.13", "leviathan-overhead"):
        assert words in said
    count = len(collect_cases((), published=True))
    assert said.count("holds") == count
    assert "BROKEN" not in said
    assert len(said.partition("\n\n")[2].partition("\n\n")[0].splitlines()) == 1 + count
    assert all(len(line) <= 100 for line in said.splitlines())
    assert picture_width(tmp_path / "v.png") > 1000
    # A summary is what it begins with.
    whole, summary = (output("validate", "--published-file", LEVIATHAN, *more) for more in ((), ("--summary",)))
    assert whole.startswith(summary.rstrip())
    assert len(summary.splitlines()) == 3 + 1 + 1 + 3


def test_the_example_of_the_readme_runs_and_holds(output, tmp_path: Path) -> None:
    (example,) = re.findall(r"<<'EOF'\n(\{\n  \"cases\".*?)EOF", PAGE, re.DOTALL)
    (tmp_path / "mine.json").write_text(example)
    said = output("validate", "--published-file", "mine.json")
    assert "my-server: 8B <- 1B; one L4" in said
    assert re.match(r"Median error \S+%, 90 % within \S+%, the largest \S+%, of 2 rows that", said)
    assert "every case within its bounds." in said.replace("\n  ", " ")
    assert next(line for line in said.splitlines() if line.startswith("my-server ")).endswith("holds")


def test_a_row_beyond_its_bound_or_max_error_is_named_and_the_exit_code_is_1(run, output, tmp_path: Path) -> None:
    found = made_case()
    output("validate", "--published-file", write(tmp_path / "good.json", found))
    found["rows"][3]["measured"]["ms_per_token"] *= 1.01
    file = write(tmp_path / "bad.json", found)
    done = run("validate", "--published-file", file)
    assert (done.returncode, done.stderr) == (1, "")
    assert "BROKEN by K = 4 (-0.99%)" in done.stdout
    output("validate", "--published-file", file, "--max-error", 0.02)
    assert run("validate", "--published-file", file, "--max-error", 0.009).returncode == 1
    done = run("validate", "--published-file", LEVIATHAN, "--summary", "--max-error", 0.01)
    assert done.returncode == 1
    assert "BROKEN by En-De T=0, T5-large (+46.89%)" in done.stdout
    del found["max_error"]
    said = output("validate", "--published-file", write(tmp_path / "free.json", found))
    assert " no bound\n" in said


def test_json_of_cases_is_what_is_written_and_carries_its_provenance(output, tmp_path: Path) -> None:
    file = write(tmp_path / "cases.json", made_case())
    said = output("validate", "--published-file", file, "--json", "--out", "v.json", SOURCE_DATE_EPOCH="0")
    assert (tmp_path / "v.json").read_text() == said
    payload = json.loads(said)
    assert (payload["kind"], payload["schema_version"]) == ("published_validation", 1)
    assert payload["parameters"] == {"published": False, "published_files": [str(file)], "max_error": None}
    (case,) = payload["cases"]
    assert case["fitted"][""] == pytest.approx({"draft_ms": 2.5, "verify_ms": 18.0})
    assert (case["holds"], case["max_error"]) == (True, 0.001)
    assert [made["use"] for made in case["rows"]] == ["fit"] * 3 + ["forecast"] * 2


def test_the_picture_of_cases_is_drawn_in_both_formats(output, tmp_path: Path) -> None:
    file = write(tmp_path / "cases.json", made_case())
    odd = write(tmp_path / "odd.json", made_case(name="a$b^{$"))  # no formula
    for name, *more in (("v.png", "--published-file", odd), ("v.svg",)):
        words = ("--published-file", file, *more, "--summary", "--plot", name)
        assert output("validate", *words).endswith(f"wrote {name}\n")
    assert picture_width(tmp_path / "v.png") > 400
    assert "<svg" in (tmp_path / "v.svg").read_text()


PAIR = ("validate", "d.jsonl", "--profile", "pair.json")


def test_rows_of_a_run_are_forecast_and_the_bounds_hold(run, output, folder: Path) -> None:
    said = output(*PAIR, "--out", "v.json", "--plot", "v.png")
    lines = said.splitlines()
    rows = [line.split() for line in lines if line.startswith("made-target") and "x  [" in line]
    assert lines[0].startswith("The forecasts hold: median error 0.")
    assert [(r[3], r[4]) for r in rows] == [(f"{k}", "fit" if k in (1, 4, 8) else "forecast") for k in range(1, 9)]
    assert "5 rows not fitted: median error 0." in said
    assert lines[-2:] == ["wrote v.json", "wrote v.png"]
    found = json.loads((folder / "v.json").read_text())
    assert (found["kind"], found["schema_version"]) == ("decode_validation", 1)
    assert found["verdict"]["rows"] == 5
    assert found["bounds"] == {"median": 0.05, "p90": 0.1, "best_k_loss": 0.02}
    assert found["parameters"]["profile"] == "pair.json"
    for r in found["rows"]:
        assert r["error"] == pytest.approx(r["forecast"] / r["measured"] - 1)
        assert abs(r["error"]) < 0.03
    assert picture_width(folder / "v.png") > 400
    # Rows of another run are all forecast.
    write_decode(folder / "other.jsonl", prompts=6)
    said = run("validate", "other.jsonl", "--profile", "pair.json").stdout
    assert {line.split()[4] for line in said.splitlines() if line.startswith("made-target") and "x  [" in line} == {
        "forecast"
    }
    assert "8 rows not fitted" in said
    assert "acceptance is the run's own: the errors are of costs alone" in said


def test_json_of_a_run_is_what_is_written_and_costs_of_a_slower_machine_break_the_bound(
    run, output, folder: Path
) -> None:
    good = output(*PAIR, "--json", "--out", "v.json", SOURCE_DATE_EPOCH="0")
    assert good == (folder / "v.json").read_text()
    assert output(*PAIR, "--json", "--out", "v.json", "--force", SOURCE_DATE_EPOCH="0") == good
    output(*PAIR, "--max-error", 0.05)
    assert run(*PAIR, "--max-error", 0.0001).returncode == 1
    slower = json.loads((folder / "pair.json").read_text())["decoding"]
    slower["baseline_s"] *= 1.2
    change(folder / "pair.json", folder / "slower.json", lambda profile: profile.update(decoding=slower))
    done = run(*PAIR[:-1], "slower.json", "--json")
    assert done.returncode == 1
    for before, after in zip(json.loads(good)["rows"], json.loads(done.stdout)["rows"], strict=True):
        assert after["forecast"] == pytest.approx(1.2 * before["forecast"])
        assert after["error"] == pytest.approx(0.2, abs=0.04)
    output(*PAIR[:-1], "slower.json", "--max-error", 0.3)


def test_a_histogram_stands_in_for_what_the_run_accepted(run, folder: Path) -> None:
    (folder / "accept_hist_k8.json").write_text('{"k": 8, "hist": {"0": 10}, "samples": 10}')
    done = run(*PAIR, "--hist", "accept_hist_k8.json", "--json")
    assert done.returncode == 1
    for r in json.loads(done.stdout)["rows"]:
        assert r["tokens_per_round"] == 1
        # A token a round costs more than a plain step.
        assert r["forecast"] < TRUTH.target_s(1) / (TRUTH.target_s(2) + TRUTH.draft_step_s) * 1.02


def test_costs_of_another_pair_are_refused(run, user_error, folder: Path) -> None:
    for changes, words in (
        ({"inflate_target": 8.0}, "target is made-target x 4, but made-target x 8"),
        ({"dtype": "float32"}, "dtype is bfloat16, but float32"),
        ({"batch": 2}, "batch is 1, but 2"),
        ({"models": {"target": {"name": "made-target"}, "draft": {"name": "made-other"}}}, "draft is made-draft"),
    ):
        write_decode(folder / "other.jsonl", prompts=2, **changes)
        done = run("validate", "other.jsonl", "--profile", "pair.json")
        user_error(done, "--profile", words, "other.jsonl", "same pair")


MISTAKES = (
    ("calibrate", "expected either PROBE", "--from-decode FILE"),
    ("calibrate probe.json --from-decode decode.jsonl", "expected either PROBE"),
    ("calibrate --from-passes p.json --from-decode d.jsonl", "expected either PROBE"),
    ("calibrate probe.json --fit-k 1,4", "--fit-k: 1,4 without --from-decode"),
    ("calibrate missing.json", "missing.json: no such file"),
    ("calibrate broken.json", "broken.json: not JSON"),
    ("calibrate other.json", "other.json: kind is 'simulation', expected 'probe'"),
    ("calibrate nothing.json", "nothing.json: timed neither burn kernels nor products"),
    ("calibrate probe.json -o profile.txt", "--out profile.txt", ".json"),
    ("calibrate probe.json --report report.csv", "--report report.csv", ".json"),
    ("calibrate probe.json --plot fit.pdf", "--plot fit.pdf", ".png or .svg"),
    ("calibrate probe.json -o other.json", "--out other.json: exists already"),
    ("calibrate probe.json -o probe.json --force", "--out probe.json", "is the file of PROBE too"),
    ("calibrate probe.json --report other.json --compare other.json --force", "--report other.json"),
    ("calibrate probe.json -o x.json --report x.json", "x.json"),
    ("calibrate probe.json --compare missing.json", "missing.json: no such file"),
    ("calibrate probe.json --compare other.json", "other.json: kind is 'simulation'"),
    ("calibrate --from-decode missing.jsonl", "missing.jsonl: no such file"),
    ("calibrate --from-decode probe.json", "probe.json"),
    ("calibrate --from-decode d.jsonl --fit-k 1,9", "--fit-k: 9 is not in d.jsonl, expected some of 1, 2"),
    ("calibrate --from-decode d.jsonl --fit-k 4", "1 draft length to fit, expected at least 2"),
    ("calibrate --from-decode d.jsonl --fit-k few", "--fit-k"),
    ("calibrate --from-decode d.jsonl --fit-k 1.5,4", "--fit-k: 1.5"),
    ("calibrate --from-passes p.json --fit-k 9", "--fit-k: 9 is not in p.json, expected some of 1, 2"),
    ("calibrate --from-passes p.json -o p.json --force", "is the file of --from-passes too"),
    ("calibrate --from-passes absent.json", "absent.json: no such file"),
    ("validate", "nothing to check", "--published-file"),
    ("validate --published-file missing.json", "missing.json: no such file"),
    ("validate --published --max-error -1", "--max-error: -1", "0 to 10"),
    ("validate --published --max-error nan", "--max-error: nan"),
    ("validate --published --max-error much", "--max-error"),
    ("validate --published --out v.txt", "--out v.txt", ".json"),
    ("validate --published --plot v.pdf", "--plot v.pdf", ".png or .svg"),
    ("validate --published --out cases.json", "--out cases.json: exists already"),
    ("validate --published-file cases.json --out cases.json --force", "is the file of --published-file cases.json too"),
    ("validate --published-file cases.json --published-file cases.json", "two cases are named 'made'"),
    ("validate --published-file wrong.json", "wrong.json", "alpha is 7", "0 to 1"),
    ("validate --published-file open.json --out v.json", "'made'", "verify_ms and overhead_ms apart"),
    ("validate d.jsonl", "no profile to forecast it with", "--profile FILE"),
    ("validate --published --profile pair.json", "--profile", "without DECODE"),
    ("validate d.jsonl --published", "several to check"),
    ("validate d.jsonl --live", "several to check"),
    ("validate d.jsonl --profile h100-sxm", "h100-sxm", "no decoding pair", "calibrate --from-decode"),
    ("validate d.jsonl --profile missing.json", "missing.json: no such file"),
    ("validate missing.jsonl --profile pair.json", "missing.jsonl: no such file"),
    ("validate broken.json --profile pair.json", "broken.json"),
    ("validate d.jsonl --profile pair.json --hist accept_hist_k2.json", "--hist", "k = 2 at most", "drafts 8"),
    ("validate tiny.jsonl --profile pair.json", "tiny.jsonl: k4 has no whole round of 4 drafts", "--hist"),
    ("validate d.jsonl --profile pair.json --out d.jsonl --force", "--out d.jsonl"),
    ("validate d.jsonl --profile pair.json --out pair.json --force", "--out pair.json"),
    ("validate d.jsonl --profile pair.json --runs 2", "--runs: 2 without --live"),
    ("validate --passes p.json", "--passes p.json: no --profile"),
    ("validate --passes absent.json", "--passes absent.json: no such file"),
    ("validate --passes p.json --profile h200", "--passes p.json: no --hist"),
    (
        "validate --passes p.json --profile cpu-2-core --hist accept_hist_k2.json",
        "k = 2 at most, but p.json verifies 8",
    ),
    (
        "validate --passes p.json --profile cpu-2-core --hist accept_hist_k8.json",
        "int4, int8, expected bfloat16 as in p.json",
    ),
    ("validate --passes p.json --live", "several to check"),
    ("validate --hist h.json --live", "without DECODE or --passes"),
    ("validate --live --k 1:3 --fit-k 1,4", "--fit-k: 4 is not among the draft lengths of --k"),
    ("validate --live --k 1:3 --fit-k 1,2,3", "--fit-k: 3 of 3 draft lengths", "one left to forecast"),
    ("validate --live --k 1:3 --fit-k 2", "--fit-k: 1 of 3 draft lengths", "two at least"),
    ("validate --live --k 0:3", "--k: 0 is not allowed", "1 to 64"),
    ("validate --live --max-new-tokens 4", "--k: 8 is above --max-new-tokens, expected 1 to 4"),
    ("validate --live --inflate 1.5", "--inflate: 1.5 is not allowed"),
    ("validate --live --max-prompts 0", "--max-prompts"),
    ("validate --live --dtype int8", "--dtype"),
    ("validate --live --profile x.json", "--profile x.json: without DECODE"),
)


def test_a_users_mistake_is_one_line_and_loses_nothing(run, user_error, folder: Path) -> None:
    (folder / "broken.json").write_text("{")
    (folder / "other.json").write_text('{"kind": "simulation", "schema_version": 1}')
    points = made_points({"empty": {}}, BURN_COST, 0.003, np.random.default_rng(0))
    write_probe(folder / "nothing.json", results(points))
    for k in (2, 8):
        (folder / f"accept_hist_k{k}.json").write_text(f'{{"k": {k}, "hist": {{"0": 1, "2": 9}}, "samples": 10}}')
    write_decode(folder / "tiny.jsonl", prompts=1, tokens=4)
    write_passes(folder / "p.json")
    found = made_case()
    write(folder / "cases.json", found)
    write(folder / "open.json", found | {"fitted": ["verify_ms", "overhead_ms"], "fixed": {"draft_ms": 1}})
    found["rows"][0]["alpha"] = 7
    write(folder / "wrong.json", found)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    for words, *expected in MISTAKES:
        user_error(run(*words.split()), *expected)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
