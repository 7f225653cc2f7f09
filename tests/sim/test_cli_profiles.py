"""`profiles` as a user meets it: real subprocesses, good input and bad."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from simulator.costs.profile import KERNELS_MEASURED, BurnUnits, Curve, Profile
from simulator.costs.profile_file import load_profile, presets, profile_json

from .builders import device, pass_cost, written


def measured(name: str = "one", error: float = 0.03, **cost: object) -> Profile:
    """A measured device: 100 TFLOP/s, known to `error`, 1000 GB/s and 5 us a launch, known to 10 %."""
    made = {"flop": 1e-14, "mem": 1e-12, "launch_s": 5e-6} | cost
    names = ("flop_scale[0]", "mem_scale[0]", "launch_s")
    made |= {"uncertain": names, "covariance": np.diag([error**2, 0.01, 0.01])}
    return device({"bfloat16": pass_cost(**made)}, name=name)


def row(text: str, start: str) -> list[str]:
    """The words of the only line that starts so."""
    (line,) = (line for line in text.splitlines() if line.strip().startswith(start))
    return line.strip().removeprefix(start).split()


def test_the_list_has_every_preset_with_its_rates(run) -> None:
    done = run("profiles", "list")
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head.split()[:2] == ["name", "memory"]
    assert [line.split()[0] for line in lines] == list(presets())
    assert [line.split()[0] for line in lines if "datasheet, uncalibrated" not in line] == ["epyc-2-core"]
    # 80 % of 4800 GB/s and 70 % of 989.5 TFLOP/s.
    assert row(done.stdout, "h200")[:9] == ["141", "GiB", "3840", "GB/s", "692.7", "TFLOP/s", "bfloat16", "700", "W"]
    assert row(done.stdout, "t4")[4:7] == ["45.5", "TFLOP/s", "float16"]
    assert row(done.stdout, "cpu-2-core")[6] == "float32"


def test_a_preset_is_shown_with_units_uncertainty_sources_and_notes(run) -> None:
    done = run("profiles", "show", "h100-sxm")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("h100-sxm: NVIDIA H100 SXM 80 GB\ndatasheet, uncalibrated\n")
    assert row(done.stdout, "link, one direction") == ["360", "GB/s", "+-", "30", "%"]
    assert row(done.stdout, "round overhead") == ["600", "us", "+-", "50", "%"]
    # The link of a mesh is that to one other device: 80 % of 64 GB/s.
    mesh = run("profiles", "show", "mi300x").stdout
    assert row(mesh, "link to each other device, one direction") == ["51.2", "GB/s", "+-", "30", "%"]
    bfloat16 = done.stdout.partition("\nbfloat16\n")[2].partition("\n\n")[0]
    assert row(bfloat16, "arithmetic") == ["692.7", "TFLOP/s", "1.444e-15", "s/FLOP", "+-", "15", "%"]
    assert row(bfloat16, "memory bandwidth") == ["2680", "GB/s", "3.731e-13", "s/B", "+-", "10", "%"]
    profile = load_profile("h100-sxm")
    for source in profile.sources:
        assert f"    {source.what}\n" in done.stdout
        assert f"  {source.url}\n" in done.stdout
    said = " ".join(done.stdout.split())
    for note in profile.notes:
        assert note in said


def test_curves_are_shown_by_their_knots_and_burn_units_and_correlations_by_name(run, tmp_path: Path) -> None:
    curve = Curve(np.array([1.0, 128.0]), np.array([5e-14, 2e-15]))
    names, covariance = ("flop_scale[0]", "mem_scale[1]"), np.array([[0.04, -0.0085], [-0.0085, 0.0025]])
    memory = Curve(np.array([2.0**20, 2.0**30]), np.array([2e-12, 5e-13]))
    cost = pass_cost(curve, memory, uncertain=names, covariance=covariance)
    units = BurnUnits(workflops_flop=600, workmem_bytes=800, cost=pass_cost(curve, 1e-9))
    profile = replace(measured(), passes={"bfloat16": cost}, units=units)
    done = run("profiles", "show", written(tmp_path / "p.json", profile))
    assert done.returncode == 0, done.stderr
    bfloat16, burn = done.stdout.partition("\nbfloat16\n")[2].split("\n\n")[:2]
    assert row(bfloat16, "arithmetic, 1 tokens") == ["20", "TFLOP/s", "5e-14", "s/FLOP", "+-", "20", "%"]
    assert row(bfloat16, "arithmetic, 128 tokens") == ["500", "TFLOP/s", "2e-15", "s/FLOP"]
    assert row(bfloat16, "memory bandwidth, 1 MiB") == ["500", "GB/s", "2e-12", "s/B"]
    assert row(bfloat16, "memory bandwidth, 1024 MiB") == ["2000", "GB/s", "5e-13", "s/B", "+-", "5", "%"]
    assert row(bfloat16, "overlap exponent") == ["inf"]
    assert "  correlation of flop_scale[0] and mem_scale[1]: -0.85" in bfloat16
    assert burn.startswith("burn units\n")
    assert row(done.stdout, "workflops") == ["600", "FLOP"]
    assert row(done.stdout, "workmem") == ["800", "B"]
    assert "no sources" in done.stdout


def test_json_is_the_profile_and_can_be_read_again(run, tmp_path: Path) -> None:
    done = run("profiles", "show", "mi300x", "--json")
    assert done.returncode == 0, done.stderr
    (tmp_path / "again.json").write_text(done.stdout)
    assert json.loads(done.stdout)["kind"] == "hardware_profile"
    assert profile_json(load_profile(tmp_path / "again.json")) == profile_json(load_profile("mi300x"))
    assert run("profiles", "diff", "mi300x", "again.json").stdout.endswith("\n\nsame\n")


def test_two_presets_are_compared_field_by_field(run) -> None:
    done = run("profiles", "diff", "h100-sxm", "h200")
    assert (done.returncode, done.stderr) == (0, "")
    assert row(done.stdout, "memory ") == ["80", "GiB", "141", "GiB", "1.762"]
    wide = row(done.stdout, "fp8: memory bandwidth")
    assert wide == ["2680", "GB/s", "+-", "10", "%", "3840", "GB/s", "+-", "10", "%", "1.433"]
    assert "arithmetic" not in done.stdout
    assert "power under load" not in done.stdout
    assert "device: not the same" in done.stdout
    for word in ("faster", "slower", "uncertainty"):
        assert word not in done.stdout
    # A number format of one alone.
    assert row(run("profiles", "diff", "t4", "l4").stdout, "bfloat16") == ["yes", "in", "B", "only"]
    assert row(run("profiles", "diff", "l4", "t4").stdout, "fp8") == ["yes", "in", "A", "only"]


def test_measured_profiles_differ_beyond_2_standard_errors_of_both(run, tmp_path: Path) -> None:
    a = written(tmp_path / "a.json", measured(error=0.03))
    # 3 % and 4 % are 5 % together; 2 of them are exp(0.1) = 1.105.
    within = "same within the uncertainty"
    for times, verdict in ((1.10, within), (1.11, "slower"), (1 / 1.10, within), (1 / 1.11, "faster")):
        kernels = replace(measured(error=0.04, flop=1e-14 * times), status=KERNELS_MEASURED)
        b = written(tmp_path / "b.json", kernels)
        words = row(run("profiles", "diff", a, b).stdout, "bfloat16: arithmetic")
        assert words[:5] == ["100", "TFLOP/s", "+-", "3", "%"]
        assert words[10:] == [f"{1 / times:.4g}", *verdict.split()]


def test_less_time_a_launch_is_faster_and_what_has_no_error_is_left_open(run, tmp_path: Path) -> None:
    a = written(tmp_path / "a.json", measured(fixed_s=1e-4))
    b = written(tmp_path / "b.json", measured(launch_s=2e-6, fixed_s=5e-5, mem=1.05e-12))
    text = run("profiles", "diff", a, b).stdout
    assert row(text, "bfloat16: launch")[-2:] == ["0.4", "faster"]
    assert row(text, "bfloat16: fixed, of a pass")[-4:] == ["0.5", "no", "uncertainty", "stated"]
    assert text.count("same within the uncertainty") == 1
    assert "arithmetic" not in text


def test_a_name_alone_is_no_difference(run, tmp_path: Path) -> None:
    a = written(tmp_path / "a.json", measured())
    b = written(tmp_path / "b.json", measured(name="other"))
    assert run("profiles", "diff", a, b).stdout.endswith("\n\nsame\n")
    c = written(tmp_path / "c.json", replace(measured(), notes=("A note.",)))
    assert run("profiles", "diff", a, c).stdout.endswith("every number is the same\n\nnotes: not the same\n")


def test_curves_are_compared_at_the_knots_of_both(run, tmp_path: Path) -> None:
    def curved(sizes: list[float], seconds: list[float], variances: list[float]) -> Profile:
        names = tuple(f"flop_scale[{i}]" for i in range(len(sizes)))
        curve = Curve(np.array(sizes), np.array(seconds))
        return device({"bfloat16": pass_cost(curve, 1e-12, uncertain=names, covariance=np.diag(variances))})

    a = written(tmp_path / "a.json", curved([1, 16], [1.6e-13, 1e-14], [0.0016, 0.0004]))
    b = written(tmp_path / "b.json", curved([1, 4, 16], [1.6e-13, 2e-14, 1e-14], [0.0016, 0.0009, 0.0004]))
    text = run("profiles", "diff", a, b).stdout
    # Half way: a takes 4e-14, known to half the root of 0.0016 + 0.0004, 2.24 %; b takes half of that.
    found = row(text, "bfloat16: arithmetic, 4 tokens")
    assert found == ["25", "TFLOP/s", "+-", "2.24", "%", "50", "TFLOP/s", "+-", "3", "%", "2", "faster"]
    assert "1 tokens" not in text
    assert "16 tokens" not in text
    level = written(tmp_path / "c.json", measured())
    text = run("profiles", "diff", level, a).stdout
    words = row(text, "bfloat16: arithmetic, 1 tokens")
    assert (words[:2], words[-1]) == (["100", "TFLOP/s"], "slower")
    assert row(text, "bfloat16: arithmetic, 16 tokens")[5:7] == ["100", "TFLOP/s"]


def test_mistakes_are_one_line_and_exit_code_2(run, user_error, tmp_path: Path) -> None:
    payload = json.loads(written(tmp_path / "bad.json", measured()).read_text())
    payload["passes"]["bfloat16"]["launch_s"] = -1
    (tmp_path / "bad.json").write_text(json.dumps(payload))
    where = "bad.json: passes.bfloat16.launch_s is -1, expected a number of at least 0"
    for words, *messages in (
        (("show", "h300"), "profiles: h300: no such file", "h100-sxm"),
        (("diff", "t4", "nothing.json"), "nothing.json: no such file"),
        (("show",), "Missing argument"),
        ((), "Missing command"),
        (("lst",), "No such command 'lst'"),
        (("show", "bad.json"), where),
        (("diff", "t4", "bad.json"), where),
    ):
        user_error(run("profiles", *words), *messages)


def test_help_and_version_answer_without_numpy(run_real) -> None:
    assert run_real("profiles", "--version").stdout.startswith("profiles, version ")
    for words in ((), ("list",), ("show",), ("diff",)):
        done = run_real("profiles", *words, "--help", PYTHONPROFILEIMPORTTIME="1")
        assert done.returncode == 0
        assert "Usage: profiles" in done.stdout
        assert "click" in done.stderr
        assert "numpy" not in done.stderr
