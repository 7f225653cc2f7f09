"""`simulate` as a user meets it: real subprocesses, good input and bad."""

import csv
import json
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from simulator.costs.parameters import MODEL_NAMES, PARAMETERS

SCRIPTS = sysconfig.get_path("scripts")
KEYS = {
    "baseline_ms_per_token",
    "speculative_ms_per_token",
    "speedup",
    "simulation_noise_ci95",
    "closed_form_speedup",
    "draft_ms_per_round",
    "verify_ms_per_round",
    "rounds",
    "drafted",
    "accepted",
    "tokens",
    "tokens_per_round",
    "alpha_iid",
    "parameters",
    "environment",
}


def result(run, *arguments: object) -> dict:
    done = run("simulate", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_the_owners_command_prints_every_figure_and_a_verdict(run, hist_file: Path) -> None:
    done = run("simulate", "--draftN", 4, "--hist", hist_file)
    assert done.returncode == 0, done.stderr
    for text in ("baseline", "speculative", "speedup", "95 % interval", "closed form", "draft", "verify", "ms/round"):
        assert text in done.stdout
    for text in ("ms/token", "rounds", "drafted", "accepted", "tokens per round", "It pays", "K = 4", "Break-even"):
        assert text in done.stdout


def test_json_has_the_plain_keys_and_hangs_together(run, hist_file: Path) -> None:
    found = result(run, "--hist", hist_file, "--total", 1000)
    assert found.keys() >= KEYS
    assert found["tokens"] == found["parameters"]["total"] == 1000
    assert found["parameters"]["measured"] is True
    assert found["rounds"] + found["accepted"] - found["cut_tokens"] == pytest.approx(1000)
    assert found["speedup"] == pytest.approx(found["baseline_ms_per_token"] / found["speculative_ms_per_token"])
    assert found["baseline_ms_per_token"] == 4
    assert found["draft_ms_per_round"] == pytest.approx(1.6)
    low, high = found["simulation_noise_ci95"]
    assert low <= found["closed_form_speedup"] <= high


def test_defaults_are_those_of_the_card(run) -> None:
    parameters = result(run)["parameters"]
    assert parameters["total"] == 512
    assert (parameters["draftN"], parameters["workflops"], parameters["workmem"]) == (4, 50000, 8)
    assert (parameters["alpha"], parameters["draft_cost"], parameters["hist"]) == (0.8, 0.1, None)


def test_both_spellings_of_an_option_work(run) -> None:
    owner = result(run, "--draftN", 3, "--flopScale", 1e-6, "--memScale", 0.25)
    kebab = result(run, "--draft-n", 3, "--flop-scale", 1e-6, "--mem-scale", 0.25)
    assert owner["speedup"] == kebab["speedup"]


def test_flop_bound_verification_grows_with_k(run) -> None:
    short, long = (result(run, "--draftN", k, "--flopScale", 1e-3, "--memScale", 0) for k in (1, 7))
    assert long["verify_ms_per_round"] == pytest.approx(4 * short["verify_ms_per_round"])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    outputs = [run("simulate", "--seed", seed, "--json").stdout for seed in (7, 7, 8)]
    assert outputs[0] == outputs[1] != outputs[2]


def test_not_measured_takes_the_iid_equivalent_of_the_histogram_or_the_alpha_given(run, hist_file: Path) -> None:
    measured = result(run, "--hist", hist_file)
    equivalent = result(run, "--hist", hist_file, "--no-measured")
    assert equivalent["parameters"]["alpha"] == pytest.approx(measured["alpha_iid"])
    assert equivalent["closed_form_speedup"] == pytest.approx(measured["closed_form_speedup"])
    assert equivalent["accepted"] != measured["accepted"]
    told = result(run, "--hist", hist_file, "--no-measured", "--alpha", 0.3)
    assert (told["parameters"]["alpha"], told["parameters"]["hist"]) == (0.3, None)


def test_the_iid_equivalent_is_that_of_the_draft_length_that_is_used(run, tmp_path: Path) -> None:
    (tmp_path / "h.json").write_text('{"k": 4, "hist": {"0": 50, "4": 50}}')
    found = result(run, "--hist", "h.json", "--draftN", 2, "--no-measured")
    assert found["closed_form_tokens_per_round"] == pytest.approx(2)


@pytest.mark.parametrize("seed", range(9))
def test_runs_that_are_alike_by_chance_give_no_interval_and_no_verdict(run, seed: int) -> None:
    found = result(run, "--total", 5, "--replications", 2, "--seed", seed)
    interval = found["simulation_noise_ci95"]
    assert found["verdict"]["answer"] == "cannot tell" if interval is None else 0 < interval[0] < interval[1] < 100


def test_a_shorter_draft_cuts_the_histogram_exactly(run, hist_file: Path) -> None:
    found = result(run, "--hist", hist_file, "--draftN", 2)
    assert found["closed_form_tokens_per_round"] == pytest.approx(1 + 0.8 + 0.7)
    assert found["verdict"]["best_draft_length"] == 4


def test_overlap_is_faster_and_never_changes_what_is_accepted(run) -> None:
    plain, overlapped = (result(run, flag, "--draft-cost", 0.2) for flag in ("--no-overlap", "--overlap"))
    assert overlapped["speedup"] > plain["speedup"]
    assert overlapped["closed_form_speedup"] > plain["closed_form_speedup"]
    for key in ("rounds", "accepted", "cut_tokens", "tokens_per_round"):
        assert overlapped[key] == plain[key]


def test_csv_has_a_row_a_run_with_parameters_and_results(run, tmp_path: Path) -> None:
    assert run("simulate", "--csv", "runs.csv", "--replications", 5, "--total", 100).returncode == 0
    rows = list(csv.DictReader((tmp_path / "runs.csv").read_text().splitlines()))
    assert [row["replication"] for row in rows] == list("01234")
    assert {p.key for p in PARAMETERS if p.name not in MODEL_NAMES} <= rows[0].keys()
    for row in rows:
        assert int(row["rounds"]) + int(row["accepted"]) - int(row["cut_tokens"]) == 100
        ratio = float(row["baseline_ms_per_token"]) / float(row["speculative_ms_per_token"])
        assert float(row["speedup"]) == pytest.approx(ratio)


def test_events_are_a_trace_with_both_arms_and_change_no_figure(run, tmp_path: Path) -> None:
    without = result(run, "--total", 50, "--replications", 1)
    logged = result(run, "--total", 50, "--replications", 1, "--events", "events.json")
    assert {k: v for k, v in without.items() if k != "created_utc"} == {
        k: v for k, v in logged.items() if k != "created_utc"
    }
    trace = json.loads((tmp_path / "events.json").read_text())
    spans = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    ends_us = {pid: max(e["ts"] + e["dur"] for e in spans if e["pid"] == pid) for pid in (1, 2)}
    assert ends_us[1] == pytest.approx(50 * logged["baseline_ms_per_token"] * 1e3)
    assert ends_us[2] == pytest.approx(50 * logged["speculative_ms_per_token"] * 1e3, abs=0.01)
    assert len([e for e in spans if e["name"] == "commit"]) == logged["rounds"]
    assert trace["otherData"]["parameters"]["total"] == 50


def test_a_hundred_million_tokens_take_no_walk_over_them(run) -> None:
    found = result(run, "--total", 10**8)
    assert found["tokens"] == 10**8
    assert found["speedup"] == pytest.approx(found["closed_form_speedup"], rel=1e-3)


@pytest.mark.parametrize(("text", "message"), [(None, "no such file"), ('{"k": 2, "hist": {"5": 1}}', "hist.5 is not")])
def test_a_bad_histogram_is_one_line(run, user_error, tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "h.json").write_text(text)
    user_error(run("simulate", "--draftN", 1, "--hist", "h.json"), f"h.json: {message}")


# What values of parameters are allowed is test_parameters'.
BAD_OPTIONS = [
    (("--draftN", 0), "--draftN: 0 is not allowed, expected a whole number from 1 to 1024"),
    (("--draftN", "four"), "--draftN: 'four' is not a whole number from 1 to 1024"),
    (("--workmem", 1e-300, "--workflops", 0), "are both 0"),
    (("--replications", 0), "--replications"),
    (("--seed", -1), "--seed"),
    (("--measured",), "expected --hist FILE"),
    (("--no-such-option",), "--no-such-option"),
    (("--csv", "runs.parquet"), "--csv runs.parquet: suffix '.parquet', expected .csv"),
    (("unexpected",), "unexpected"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_OPTIONS)
def test_a_bad_option_is_one_line(run, user_error, arguments: tuple, message: str) -> None:
    user_error(run("simulate", *arguments), message)


def test_a_draft_length_above_the_files_k_is_refused(run, user_error, hist_file: Path) -> None:
    user_error(run("simulate", "--draftN", 5, "--hist", hist_file), "--draftN: 5", str(hist_file), "expected 1 to 4")


def test_alpha_beside_a_sampled_histogram_is_refused(run, user_error, hist_file: Path) -> None:
    user_error(run("simulate", "--alpha", 0.5, "--hist", hist_file), "--alpha", "--no-measured")


@pytest.mark.parametrize("option", ["--csv", "--events"])
def test_an_existing_output_is_kept_unless_forced(run, user_error, tmp_path: Path, option: str) -> None:
    path = tmp_path / "kept.csv"
    path.write_text("precious")
    user_error(run("simulate", option, path), f"{option} {path}: exists already (--force overwrites it)")
    assert path.read_text() == "precious"
    assert run("simulate", option, path, "--force").returncode == 0
    assert path.read_text() != "precious"


def test_an_unwritable_output_is_refused_and_nothing_else_is_written(run, user_error, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("simulate", "--csv", "good.csv", "--events", "file/events.json")
    user_error(done, "--events file/events.json", "not a writable folder")
    user_error(run("simulate", "--events", tmp_path), "is a folder, expected a file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_two_outputs_may_not_be_one_file_nor_a_device(run, user_error, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("a.csv")
    user_error(run("simulate", "--csv", "a.csv", "--events", "./a.csv"), "--events a.csv: is the file of --csv too")
    user_error(run("simulate", "--csv", "a.csv", "--events", "link"), "is the file of --csv too")
    user_error(run("simulate", "--events", "/dev/null", "--force"), "is a device or pipe, expected a file")
    assert Path("/dev/null").is_char_device()


def test_an_output_may_not_replace_the_histogram_even_when_forced(run, user_error, hist_file: Path) -> None:
    before = hist_file.read_text()
    user_error(run("simulate", "--hist", hist_file, "--events", hist_file, "--force"), "is the file of --hist too")
    assert hist_file.read_text() == before


def test_a_log_that_would_fill_the_disk_is_refused(run, user_error) -> None:
    user_error(run("simulate", "--total", 1e12, "--events", "e.json"), "--events", "expected at most 50000000")


def test_a_full_disk_is_one_line() -> None:
    command = f"{shutil.which('simulate', path=SCRIPTS)} > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_byte_order_mark_is_no_error(run, hist_file: Path) -> None:
    hist_file.write_bytes(b"\xef\xbb\xbf" + hist_file.read_bytes())
    assert run("simulate", "--hist", hist_file).returncode == 0


def test_a_link_is_written_through(run, tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    assert run("simulate", "--csv", "link.csv", "--force").returncode == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text().startswith("total,")


def test_bad_input_never_destroys_an_existing_output(run, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("precious")
    assert run("simulate", "--csv", path, "--force", "--hist", "absent.json").returncode == 2
    assert path.read_text() == "precious"


def test_version_and_help_answer(run) -> None:
    assert run("simulate", "--version").stdout.startswith("simulate, version ")
    done = run("simulate", "--help")
    for parameter in PARAMETERS:
        for flag in parameter.flags:
            assert flag in done.stdout
