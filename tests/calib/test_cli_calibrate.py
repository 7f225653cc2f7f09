"""`calibrate` as a user meets it: from probes to profiles that `simulate` takes."""

import json
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from calibration.cli.calibrate import calibrate
from simulator.costs.profile_file import load_profile

from .made_probe import BURN_COST, BURNS, PRODUCT_COST, UNITS, made_points, made_results, results, write_probe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe, and what `calibrate` makes of it: then.json, thenr.json, then.svg."""
    folder = tmp_path_factory.mktemp("probe")
    write_probe(folder / "probe.json", made_results(noise=0.003))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SOURCE_DATE_EPOCH", "0")
        words = ["probe.json", "-o", "then.json", "--name", "same", "--report", "thenr.json", "--plot", "then.svg"]
        done = CliRunner().invoke(calibrate, words)
    assert done.exit_code == 0, done.output
    (folder / "said.txt").write_text(done.output)
    return folder


@pytest.fixture
def probe(made: Path, tmp_path: Path) -> Path:
    """The same in a folder of one test."""
    copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "probe.json"


def test_a_profile_holds_the_truth_and_simulate_takes_it(run, probe: Path) -> None:
    said = probe.with_name("said.txt").read_text()
    for words in ("burn units: passes", "bfloat16: passes", "std. error", "held out: median"):
        assert words in said
    assert said.endswith("wrote then.json\nwrote thenr.json\nwrote then.svg\n")
    cost = load_profile(probe.with_name("then.json")).passes["bfloat16"]
    assert cost.uncertain[:2] == ("flop_scale[0]", "mem_scale[0]")
    for name in ("flop_scale[0]", "mem_scale[0]", "launch_s"):
        assert cost.parameters()[name] == pytest.approx(PRODUCT_COST.parameters()[name], rel=0.02)
    done = run("simulate", "--profile", "then.json", "--workflops", 2000, "--workmem", 16, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["parameters"]["flopScale"] == pytest.approx(2.5e-14 * UNITS.workflops_flop * 1e3, rel=0.01)
    assert told["parameters"]["memScale"] == pytest.approx(4e-13 * UNITS.workmem_bytes * 1e3, rel=0.01)
    (timed,) = made_results(noise=0.0).of("baseline")
    assert told["baseline_ms_per_token"] == pytest.approx(1e3 * timed.measurement.median_s, rel=0.01)
    models = ("--target-model", "llama-3.1-8b", "--draft-model", "llama-3.2-1b")
    done = run("simulate", "--profile", "then.json", *models, "--json")
    assert done.returncode == 0, done.stderr
    # 8 billion weights of 2 bytes at 4e-13 s a byte are 6.4 ms, and launches come on top.
    assert 6 < json.loads(done.stdout)["baseline_ms_per_token"] < 10


def test_a_real_probe_of_this_machine_is_taken(run, tmp_path: Path) -> None:
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


def test_a_fit_that_fails_is_no_profile_and_says_why(run, tmp_path: Path) -> None:
    # Nothing that memory limits.
    points = made_points({"empty": {}, "burn_flops": BURNS["burn_flops"]}, BURN_COST, 0.003, np.random.default_rng(0))
    write_probe(tmp_path / "blind.json", results(points))
    done = run("calibrate", "blind.json", "-o", "mine.json", "--report", "report.json", "--plot", "fit.svg")
    assert done.returncode == 3
    assert not (tmp_path / "mine.json").exists()
    reason, last = done.stderr.splitlines()
    assert reason.startswith("calibrate: burn units: left out, no point depends on mem_scale[0]")
    assert last == "calibrate: no fit passes its checks, mine.json is not written"
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["kind"], report["passed"]) == ("calibration_report", False)
    assert report["fits"]["burn units"]["parameters"]["flop_scale[0]"]["value"] == pytest.approx(2.5e-14, rel=0.01)
    assert "<svg" in (tmp_path / "fit.svg").read_text()
    done = run("simulate", "--profile", "report.json")
    assert done.returncode == 2
    assert "report.json: is the report of a fit that failed its checks" in done.stderr
    # An older profile is kept.
    (tmp_path / "mine.json").write_text("precious")
    assert run("calibrate", "blind.json", "-o", "mine.json", "--force").returncode == 3
    assert (tmp_path / "mine.json").read_text() == "precious"


def test_the_same_input_gives_the_same_bytes_and_json_is_the_report(run, probe: Path, tmp_path: Path) -> None:
    told = ("-o", "again.json", "--name", "same", "--report", "againr.json", "--plot", "fit.png", "--json")
    done = run("calibrate", "probe.json", *told, SOURCE_DATE_EPOCH="0")
    assert (done.returncode, done.stderr) == (0, "")
    for suffix in (".json", "r.json"):
        assert (tmp_path / f"again{suffix}").read_bytes() == (tmp_path / f"then{suffix}").read_bytes()
    assert done.stdout == (tmp_path / "againr.json").read_text()
    assert set(json.loads(done.stdout)["fits"]) == {"burn units", "bfloat16"}
    found = json.loads((tmp_path / "again.json").read_text())
    assert (found["kind"], found["name"]) == ("hardware_profile", "same")
    assert found["created_utc"] == "1970-01-01T00:00:00+00:00"
    assert found["parameters"] == {"probe": "probe.json", "from_decode": None, "fit_k": None}
    with Image.open(tmp_path / "fit.png") as picture:
        assert picture.size[0] > 800
    assert "<svg" in (tmp_path / "then.svg").read_text()


def test_compare_says_what_changed_and_cannot_tell_what_was_known_badly(run, probe: Path, tmp_path: Path) -> None:
    for factor, verdict in ((1.0, "same"), (1.3, "slower"), (0.7, "faster")):
        slower = {name: factor for name in ("flop_scale", "mem_scale", "launch_s")}
        now = made_results(BURN_COST.scaled(slower), PRODUCT_COST.scaled(slower), noise=0.003, seed=1)
        write_probe(tmp_path / "now_probe.json", now)
        done = run("calibrate", "now_probe.json", "-o", "now.json", "--compare", "then.json", "--force")
        assert done.returncode == 0, done.stderr
        assert f"overall: {verdict}\n" in done.stdout
        assert "bfloat16 mem_scale[0]" in done.stdout
    found = json.loads((tmp_path / "then.json").read_text())
    for cost in (found["passes"]["bfloat16"], found["units"]["cost"]):
        uncertainty = cost["uncertainty"]
        uncertainty["covariance"] = (0.09 * np.eye(len(uncertainty["parameters"]))).tolist()
    (tmp_path / "then.json").write_text(json.dumps(found))
    done = run("calibrate", probe, "-o", "now.json", "--compare", "then.json", "--json", "--force")
    assert done.returncode == 0, done.stderr
    comparison = json.loads(done.stdout)["comparison"]
    assert (comparison["against"], comparison["overall"]) == ("same", "cannot tell")
    assert {c["verdict"] for c in comparison["changes"]} == {"cannot tell"}


MISTAKES = (
    ("", "expected either PROBE", "--from-decode FILE"),
    ("probe.json --from-decode decode.jsonl", "expected either PROBE"),
    ("probe.json --fit-k 1,4", "--fit-k: 1,4 without --from-decode"),
    ("missing.json", "missing.json: no such file"),
    ("broken.json", "broken.json: not JSON"),
    ("other.json", "other.json: kind is 'simulation', expected 'probe'"),
    ("nothing.json", "nothing.json: timed neither burn kernels nor products"),
    ("probe.json -o profile.txt", "--out profile.txt", ".json"),
    ("probe.json --report report.csv", "--report report.csv", ".json"),
    ("probe.json --plot fit.pdf", "--plot fit.pdf", ".png or .svg"),
    ("probe.json -o other.json", "--out other.json: exists already"),
    ("probe.json -o probe.json --force", "--out probe.json", "is the file of PROBE too"),
    ("probe.json --report other.json --compare other.json --force", "--report other.json"),
    ("probe.json -o x.json --report x.json", "x.json"),
    ("probe.json --compare missing.json", "missing.json: no such file"),
    ("probe.json --compare other.json", "other.json: kind is 'simulation'"),
    ("--from-decode missing.jsonl", "missing.jsonl: no such file"),
    ("--from-decode probe.json", "probe.json"),
)


def test_a_users_mistake_is_one_line_and_loses_nothing(run, user_error, probe: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"kind": "simulation", "schema_version": 1}')
    points = made_points({"empty": {}}, BURN_COST, 0.003, np.random.default_rng(0))
    write_probe(tmp_path / "nothing.json", results(points))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for words, *expected in MISTAKES:
        user_error(run("calibrate", *words.split()), *expected)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
