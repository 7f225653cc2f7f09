"""`simulate` and `sweep` as a user meets them: good input and bad.

Long because it is both commands and what their answers owe a reader.
"""

import csv
import json
import os
import pty
import re
import subprocess
import sysconfig
from pathlib import Path

import pandas as pd
import pytest

from simulator.answers.basis import same_model
from simulator.costs.parameters import MODEL_NAMES, PARAMETERS

from .builders import result

ON_H100 = ("--hist", "h.json", "--profile", "h100-sxm", "--target-model", "llama-3.1-8b")
ON_H100 += ("--draft-model", "llama-3.2-1b")
GRID = ("--draftN", "1:4", "--alpha", "0.5:0.9:0.1", "--draft-cost", "0.05,0.1")
SCRIPTS = sysconfig.get_path("scripts")
KEYS = {
    *("baseline_ms_per_token", "speculative_ms_per_token", "speedup", "simulation_noise_ci95", "closed_form_speedup"),
    *("draft_ms_per_round", "verify_ms_per_round", "rounds", "drafted", "accepted", "tokens", "tokens_per_round"),
    *("alpha_iid", "parameters", "environment"),
}


def test_the_owners_command_prints_every_figure_and_a_verdict(output, hist_file: Path) -> None:
    said = output("simulate", "--draftN", 4, "--hist", hist_file)
    assert said.startswith("If a draft costs 0.1 of its target: 2.")
    for text in ("baseline", "speculative", "speedup", "simulation noise", "closed form", "draft", "verify", "K = 4"):
        assert text in said
    for text in ("ms/round", "ms/token", "rounds", "drafted", "accepted", "tokens per round", "Break-even"):
        assert text in said
    assert max(map(len, said.splitlines())) <= 100


@pytest.mark.parametrize(
    ("parameters", "options", "source", "start"),
    [
        (None, (), "default", "If alpha were 0.8, at draft cost 0.1: 2."),
        (None, ("--alpha", 0.9, "--draft-cost", 0.1), "stated", "If alpha is 0.9: "),
        # Costs that nobody stated are a condition too; one of them that is stated states no other.
        ({}, ("--hist", "h.json"), "measured", "If a draft costs 0.1 of its target: "),
        ({}, ("--hist", "h.json", "--workmem", 9), "measured", "If a draft costs 0.1 of its target: "),
        ({}, ("--hist", "h.json", "--draft-cost", 0.1), "measured", "It pays: "),
        ({"target": "org/Llama-3.1-8B-Instruct", "draft": "x/llama-3.2-1b"}, ON_H100, "measured", "It pays: "),
        ({"target": "bundled", "draft": "a-1b"}, ON_H100, "other pair", "If it accepts as bundled + a-1b: "),
        # A server names its target alone.
        ({"target": "x/Llama-3.1-8B-Instruct-quantized.w8a8"}, ON_H100, "measured", "It pays: "),
        ({"target": "x/Llama-3.3-70B", "draft": None}, ON_H100, "other pair", "If it accepts as Llama-3.3-70B: "),
    ],
)
def test_the_first_line_says_what_an_answer_is_conditional_on(
    run, tmp_path: Path, parameters: dict[str, str] | None, options: tuple[object, ...], source: str, start: str
) -> None:
    if parameters is not None:
        payload = {"k": 4, "hist": {"0": 200, "1": 100, "2": 100, "3": 100, "4": 500}, "parameters": parameters}
        (tmp_path / "h.json").write_text(json.dumps(payload))
    done = run("simulate", *options)
    assert done.stdout.startswith(start), done
    basis = result(run, *options)["basis"]
    assert basis["acceptance"] == source
    costs = "datasheet, uncalibrated" if ON_H100[-1] in options else "stated" if {*options} & {0.1, 9} else "default"
    assert basis["costs"] == costs
    assert ("default" in basis["costs_text"]) == (costs != "datasheet, uncalibrated")
    if "--draft-cost" not in options:
        same = start.split(":")[0].replace("It pays", "At")
        assert run("sweep", *options, "--replications", 0).stdout.startswith(same)
    assert bool(basis["condition"]) == (not start.startswith("It pays"))


def test_what_a_name_says_of_tuning_and_storage_makes_no_other_model() -> None:
    same = [
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b"),
        ("Qwen2.5-7B-Instruct-AWQ", "qwen2.5-7b"),
        ("Llama-3.1-8B-Instruct-GGUF", "meta-llama/Llama-3.1-8B-Instruct"),
        ("mradermacher/Meta-Llama-3.1-8B-Instruct-i1-GGUF", "Llama-3.1-8B-Instruct-Q4_K_M.gguf"),
    ]
    other = [
        ("DeepSeek-V3", "DeepSeek-V3.2-Exp"),
        ("Qwen2.5-7B", "Qwen2.5-Coder-7B"),
        ("llama-3.1-8b", "llama-3.1-70b"),
        ("Llama-3.1-8B-Instruct-GGUF", "Llama-3.1-70B-Instruct-GGUF"),
    ]
    assert all(same_model(*pair) for pair in same)
    assert not any(same_model(*pair) for pair in other)


def test_no_interval_leaves_its_own_point_out_and_few_rounds_promise_nothing(output, run, tmp_path: Path) -> None:
    (tmp_path / "h.json").write_text('{"k": 4, "hist": {"4": 3}}')
    words = ("--hist", "h.json", "--draft-cost", "0.05")
    found = json.loads(output("sweep", *words, "--draftN", "1:4", "--json"))["answers"][0]
    assert found["speedup_ci95"][0] < 1 < found["speedup"] <= found["speedup_ci95"][1] * (1 + 1e-9)
    assert output("simulate", *words).startswith("Cannot tell: ")
    (tmp_path / "h.json").write_text('{"k": 4, "hist": {"0": 1}}')
    assert "No draft length is known to pay in long runs" in output("simulate", *words)
    # Rates of nobody knows how many rounds promise nothing either.
    (tmp_path / "h.json").write_text('{"k": 1, "hist": {"0": 0.88, "1": 0.12}}')
    assert output("simulate", *words, "--draftN", 1).startswith("If these rates hold: 1.")
    # Beyond what was measured an answer hangs on how it goes on.
    (tmp_path / "h.json").write_text('{"k": 4, "hist": {"0": 200, "1": 100, "4": 700}}')
    said = output("simulate", *words, "--no-measured", "--draftN", 9)
    assert said.startswith("If what was accepted to K = 4 goes on as one alpha: ")
    assert result(run, *words, "--no-measured", "--draftN", 9)["verdict"]["answer"] == "pays if"


def test_two_times_a_token_of_a_server_and_what_it_accepted_are_a_forecast(
    run, output, user_error, tmp_path: Path
) -> None:
    (tmp_path / "h3.json").write_text(json.dumps({"k": 3, "hist": {"0": 500, "1": 200, "2": 100, "3": 200}}))
    words = ("--hist", "h3.json", "--baseline-tpot", 9.0, "--speculative-tpot", 6.0)
    found = result(run, *words, "--total", 10**6)
    # Nobody said which K: the longest that was measured, at which the two times are their own answer.
    assert found["parameters"]["draftN"] == 3
    assert found["verdict"]["speedup"] == pytest.approx(1.5, rel=1e-4)
    assert found["parameters"]["speculative_tpot_ms"] == 6.0
    assert "costs: timed: 9 ms a token plain, a round of 12 ms at K = 3" in output("simulate", *words)
    # The time a token was measured at that K, whatever a round there accepts: nothing is open. At others the rest is.
    assert found["verdict"]["speedup_ci95"] is None
    assert result(run, *words, "--total", 9)["verdict"]["speedup"] == pytest.approx(1.5, rel=1e-12)
    assert "where a round goes, split as assumed" in output("simulate", *words)
    assert output("sweep", "--draftN", "1:3", *words).startswith("At most 1.50x as fast, at draftN 3.\n")
    one, two = (result(run, *words, "--draftN", k)["verdict"]["speedup_ci95"] for k in (1, 2))
    assert one[1] - one[0] > two[1] - two[0] > 0.05
    assert "--round-overhead" not in output("simulate", *words)
    for wrong, message in (
        (words[:4], "--baseline-tpot: 9 alone, expected --speculative-tpot beside it"),
        (words[2:], "--baseline-tpot: 9 without --hist"),
        ((*words, "--profile", "h100-sxm", *ON_H100[4:]), "--baseline-tpot: 9 beside --profile"),
        ((*words, "--workmem", 3), "--workmem: has no part in times a token of a server"),
        ((*words[:4], "--speculative-tpot", 2), "expected at least 4.05"),
    ):
        user_error(run("simulate", *wrong), message)


def test_json_has_the_plain_keys_and_hangs_together(run, hist_file: Path) -> None:
    found = result(run, "--hist", hist_file, "--total", 1000)
    assert found.keys() >= KEYS
    assert found["tokens"] == found["parameters"]["total"] == 1000
    assert found["parameters"]["measured"] is True
    assert found["rounds"] + found["accepted"] - found["cut_tokens"] == pytest.approx(1000)
    assert found["speedup"] == pytest.approx(found["baseline_ms_per_token"] / found["speculative_ms_per_token"])
    assert found["drafted"] == pytest.approx(4 * found["rounds"])
    assert found["tokens_per_round"] == pytest.approx(1 + found["accepted"] / found["rounds"])
    phases_ms = found["draft_ms_per_token"] + found["verify_ms_per_token"]
    assert found["speculative_ms_per_token"] == pytest.approx(phases_ms)
    assert found["baseline_ms_per_token"] == 4
    assert found["draft_ms_per_round"] == pytest.approx(1.6)
    low, high = found["simulation_noise_ci95"]
    assert low <= found["closed_form_speedup"] <= high
    # A hundred million tokens take no walk over them.
    found = result(run, "--total", 10**8)
    assert found["tokens"] == 10**8
    assert found["speedup"] == pytest.approx(found["closed_form_speedup"], rel=1e-3)


def test_defaults_are_those_of_the_card_and_both_spellings_of_an_option_work(run) -> None:
    parameters = result(run)["parameters"]
    assert parameters["total"] == 512
    assert (parameters["draftN"], parameters["workflops"], parameters["workmem"]) == (4, 50000, 8)
    assert (parameters["alpha"], parameters["draft_cost"], parameters["hist"]) == (0.8, 0.1, None)
    owner = result(run, "--draftN", 3, "--flopScale", 1e-6, "--memScale", 0.25)
    kebab = result(run, "--draft-n", 3, "--flop-scale", 1e-6, "--mem-scale", 0.25)
    assert owner["speedup"] == kebab["speedup"]
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
    other = result(run, "--hist", hist_file, "--no-measured", "--alpha", 0.3)
    assert (other["parameters"]["alpha"], other["parameters"]["hist"]) == (0.3, None)


def test_the_histogram_is_cut_exactly_and_its_iid_equivalent_is_that_of_the_cut(run, hist_file: Path) -> None:
    found = result(run, "--hist", hist_file, "--draftN", 2)
    assert found["closed_form_tokens_per_round"] == pytest.approx(1 + 0.8 + 0.7)
    assert found["verdict"]["best_draft_length"] == 4
    hist_file.write_text('{"k": 4, "hist": {"0": 50, "4": 50}}')
    found = result(run, "--hist", hist_file, "--draftN", 2, "--no-measured")
    assert found["closed_form_tokens_per_round"] == pytest.approx(2)
    # A byte order mark is no error.
    hist_file.write_bytes(b"\xef\xbb\xbf" + hist_file.read_bytes())
    assert result(run, "--hist", hist_file)["parameters"]["draftN"] == 4


def test_runs_that_are_alike_by_chance_give_no_interval_and_the_answer_hangs_on_no_run(run) -> None:
    answers = [result(run, "--total", 5, "--replications", 2, "--seed", seed) for seed in range(9)]
    noise = [found["simulation_noise_ci95"] for found in answers]
    assert None in noise
    assert all(0 < low < high < 100 for low, high in filter(None, noise))
    assert len({json.dumps(found["verdict"]) for found in answers}) == 1


def test_overlap_is_faster_and_never_changes_what_is_accepted(run) -> None:
    plain, overlapped = (result(run, flag, "--draft-cost", 0.2) for flag in ("--no-overlap", "--overlap"))
    assert overlapped["speedup"] > plain["speedup"]
    assert overlapped["closed_form_speedup"] > plain["closed_form_speedup"]
    for key in ("rounds", "accepted", "cut_tokens", "tokens_per_round"):
        assert overlapped[key] == plain[key]


def test_csv_has_a_row_a_run_with_parameters_and_results(output, tmp_path: Path) -> None:
    output("simulate", "--csv", "runs.csv", "--replications", 5, "--total", 100)
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
    assert without | {"created_utc": logged["created_utc"]} == logged
    trace = json.loads((tmp_path / "events.json").read_text())
    spans = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    ends_us = {pid: max(e["ts"] + e["dur"] for e in spans if e["pid"] == pid) for pid in (1, 2)}
    assert ends_us[1] == pytest.approx(50 * logged["baseline_ms_per_token"] * 1e3)
    assert ends_us[2] == pytest.approx(50 * logged["speculative_ms_per_token"] * 1e3, abs=0.01)
    assert len([e for e in spans if e["name"] == "commit"]) == logged["rounds"]
    assert trace["otherData"]["parameters"]["total"] == 50


# What values of parameters are allowed is test_pricing's.
MISTAKES = {
    "simulate": [
        (("--draftN", 0), "--draftN: 0 is not allowed, expected a whole number from 1 to 1024"),
        (("--draftN", "four"), "--draftN: 'four' is not allowed, expected a whole number from 1 to 1024"),
        (("--workmem", 1e-300, "--workflops", 0), "are both 0"),
        (("--replications", 0), "--replications"),
        (("--seed", -1), "--seed"),
        (("--measured",), "expected --hist FILE"),
        (("--no-such-option",), "--no-such-option"),
        (("--csv", "runs.parquet"), "--csv runs.parquet: suffix '.parquet', expected .csv"),
        (("unexpected",), "unexpected"),
        (("--total", 1e12, "--events", "e.json"), "--events", "expected at most 50000000"),
        (("--draftN", 1, "--hist", "absent.json"), "simulate: --hist absent.json: no such file"),
        (("--hist", ""), "the name is empty, expected a file"),
        (("--as", "rates"), "--as: nothing to measure by, expected --hist FILE beside it"),
        (("--hist", "rates.json"), "--hist rates.json: hist looks like rates", '"as": "rates"', "--as of simulate"),
        (("--draftN", 1, "--hist", "odd.json"), "odd.json: hist.5 is not"),
        (("--draftN", 5, "--hist", "accept_hist_k4.json"), "--draftN: 5", "accept_hist_k4.json", "expected 1 to 4"),
        (("--alpha", 0.5, "--hist", "accept_hist_k4.json"), "--alpha", "--no-measured"),
        (("--hist", "accept_hist_k4.json", "--events", "accept_hist_k4.json", "--force"), "is the file of --hist too"),
        (("--csv", "kept.csv"), "--csv kept.csv: exists already (--force overwrites it)"),
        (("--events", "kept.csv"), "--events kept.csv: exists already (--force overwrites it)"),
        (("--csv", "kept.csv", "--force", "--hist", "absent.json"), "absent.json"),
        (("--csv", "good.csv", "--events", "kept.csv/e.json"), "--events kept.csv/e.json", "not a writable folder"),
        (("--events", "."), "is a folder, expected a file"),
        (("--csv", "a.csv", "--events", "./a.csv"), "--events a.csv: is the file of --csv too"),
        (("--csv", "a.csv", "--events", "link"), "is the file of --csv too"),
        (("--events", "/dev/null", "--force"), "is a device or pipe, expected a file"),
    ],
    "sweep": [
        (("--draftN", "0:4"), "--draftN: 0 is not allowed"),
        (("--draftN", "x"), "--draftN: 'x'"),
        (("--alpha", "0.5:0.9"), "--alpha: '0.5:0.9' needs a step"),
        (("--draftN", "1:4", "--overlap-exponent", "1,2,4,inf", "--plot", "p.png"), "overlap_exponent includes inf"),
        (("--out", "s.xlsx"), "--out s.xlsx: suffix '.xlsx', expected .csv or .parquet"),
        (("--plot", "p.pdf", "--draftN", "1:4"), "--plot p.pdf: suffix '.pdf', expected .png or .svg"),
        (("--plot", "p.png"), "--plot: the grid has one point"),
        (("--alpha", "0:1:0.0001", "--draft-cost", "0.0001:1:0.0001"), "points, at most"),
        (("--hist", "absent.json"), "sweep: --hist absent.json: no such file"),
        (("--hist", "rates.json", "--as", "probabilities"), "hist sums to 1.3, expected probabilities"),
        (("--workmem", "0,8", "--workflops", "0"), "are both 0"),
        (("--draftN", "1:5", "--hist", "accept_hist_k4.json"), "--draftN: 5", "expected 1 to 4"),
        ((*GRID, "--out", "kept.csv"), "exists already"),
        ((*GRID, "--plot", "kept.png"), "exists already"),
    ],
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line_and_touches_no_file(run, user_error, hist_file: Path, tmp_path: Path, command) -> None:
    (tmp_path / "odd.json").write_text('{"k": 2, "hist": {"5": 1}}')
    (tmp_path / "rates.json").write_text('{"k": 2, "hist": {"1": 0.8, "2": 0.5}}')
    (tmp_path / "link").symlink_to("a.csv")
    for name in ("kept.csv", "kept.png"):
        (tmp_path / name).write_text("precious")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.exists()}
    for arguments, *messages in MISTAKES[command]:
        user_error(run(command, *arguments), *messages)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.exists()} == before
    assert Path("/dev/null").is_char_device()


OUTPUTS = [
    ("simulate", "--csv", ".csv", b"total,"),
    ("simulate", "--events", ".json", b"{"),
    ("sweep", "--out", ".csv", b"total,"),
    ("sweep", "--plot", ".png", b"\x89PNG"),
]


@pytest.mark.parametrize(("command", "option", "suffix", "start"), OUTPUTS)
def test_an_existing_output_is_replaced_by_force_and_a_link_is_written_through(
    output, tmp_path: Path, command: str, option: str, suffix: str, start: bytes
) -> None:
    real, link = (tmp_path / f"{name}{suffix}" for name in ("real", "link"))
    real.write_text("precious")
    link.symlink_to(real)
    output(command, *(GRID if command == "sweep" else ()), option, link, "--force")
    assert link.is_symlink()
    assert real.read_bytes().startswith(start)


def test_a_full_disk_is_one_line() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{SCRIPTS}/simulate > /dev/full"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


HELD = ("--profile", "--target-model", "--draft-model", "--kv-dtype", "--tp", "--placement", "--batch")
HELP = {"simulate": (*HELD, *(flag for p in PARAMETERS for flag in p.flags)), "sweep": HELD, "profiles diff": ()}


@pytest.mark.parametrize("command", HELP)
def test_version_and_help_answer_without_numpy(output, run_real, command: str) -> None:
    name, *words = command.split()
    assert output(name, "--version").startswith(f"{name}, version ")
    done = run_real(name, *words, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    assert f"Usage: {command}" in done.stdout
    for option in HELP[command]:
        assert option in done.stdout
    assert "click" in done.stderr
    assert not {"numpy", "rich"} & set(re.findall(r"[a-z_]+", done.stderr))


def test_a_sweep_writes_one_tidy_row_a_point(output, tmp_path: Path) -> None:
    said = output("sweep", *GRID, "--out", "s.csv")
    frame = pd.read_csv(tmp_path / "s.csv")
    assert len(frame) == 4 * 5 * 2
    assert {p.key for p in PARAMETERS if p.name not in MODEL_NAMES} <= set(frame.columns)
    assert frame.columns[frame.isna().any()].tolist() == ["hist"]
    assert (frame.overlap.unique().tolist(), frame.seed.unique().tolist()) == ([False], [0])
    assert len(frame.drop_duplicates(["draftN", "alpha", "draft_cost"])) == len(frame)
    assert ((frame.simulation_noise_low95 <= frame.speedup) & (frame.speedup <= frame.simulation_noise_high95)).all()
    assert frame.drafted.tolist() == pytest.approx((frame.rounds * frame.draftN).tolist())
    assert (frame.rounds + frame.accepted - frame.cut_tokens).tolist() == pytest.approx(frame.total.tolist())
    best = frame.loc[frame.closed_form_speedup.idxmax()]
    assert said.startswith(f"If alpha is as stated: at most {best.closed_form_speedup:.2f}x as fast, at draftN 4")
    assert f"above 1x at {(frame.closed_form_speedup > 1).sum()} of them" in said
    # Parquet holds the same; without replications there is the closed form alone.
    output("sweep", *GRID, "--out", "s.parquet")
    parquet = pd.read_parquet(tmp_path / "s.parquet")
    pd.testing.assert_frame_equal(frame.drop(columns="hist"), parquet.drop(columns="hist"))
    output("sweep", *GRID, "--replications", 0, "--out", "s.csv", "--force")
    columns = pd.read_csv(tmp_path / "s.csv").columns
    assert "closed_form_speedup" in columns
    assert "speedup" not in columns


def test_a_histogram_is_swept_over_its_draft_lengths(output, hist_file: Path, tmp_path: Path) -> None:
    output("sweep", "--hist", hist_file, "--draftN", "1:4", "--out", "s.csv")
    frame = pd.read_csv(tmp_path / "s.csv")
    assert frame.closed_form_tokens_per_round.tolist() == pytest.approx([1.8, 2.5, 3.1, 3.6])
    assert "alpha" not in frame
    # So is its iid equivalent, which is another one for each of them; in a folder each length has its own file.
    words = ("sweep", "--draftN", "1:4", "--out", "s.csv", "--force", "--hist")
    output(*words, hist_file, "--no-measured")
    frame = pd.read_csv(tmp_path / "s.csv")
    assert frame.closed_form_tokens_per_round.tolist() == pytest.approx([1.8, 2.5, 3.1, 3.6])
    assert not frame.measured.any()
    (tmp_path / "accept_hist_k1.json").write_text('{"k": 1, "hist": {"0": 1, "1": 9}}')
    output(*words, ".")
    frame = pd.read_csv(tmp_path / "s.csv")
    assert frame.closed_form_tokens_per_round.tolist() == pytest.approx([1.9, 2.5, 3.1, 3.6])
    # A dollar in a name is no formula of the plot's title.
    hist_file.rename(tmp_path / "a$b^{$.json")
    output(*words, "a$b^{$.json", "--plot", "p.png")


def test_the_best_k_of_every_row_is_printed_off_among_the_answers(run, hist_file: Path) -> None:
    words = ("sweep", "--draftN", "1:8", "--alpha", "0.1,0.9", "--draft-cost", "0.3", "--json")
    found = json.loads(run(*words).stdout)
    for answer in found["answers"]:
        alpha = answer["values"]["alpha"]
        gains = {k: (1 - alpha ** (k + 1)) / (1 - alpha) / (1 + 0.3 * k) for k in range(1, 9)}
        best = max(gains, key=gains.__getitem__)
        assert answer["draft_length"] == (best if gains[best] > 1 else 0)
        assert answer["speedup"] == pytest.approx(gains[best])
        ties = [k for k, gain in {0: 1.0, **gains}.items() if gain * 1.02 > max(1, gains[best])]
        assert answer["as_good"] == [k for k in ties if k != answer["draft_length"]]
        assert answer["speedup_ci95"] is None
    said = run(*words[:-1]).stdout
    assert [line.split()[1] for line in said.splitlines()[-2:]] == ["off", str(found["answers"][1]["draft_length"])]
    # A best K at the edge of what was looked at is flagged; what is measured has an interval.
    said = run("sweep", "--draftN", "1:4", "--hist", hist_file, "--draft-cost", "0.01,0.02").stdout
    assert said.count("(the longest looked at)") == 2
    assert all("x to " in line for line in said.splitlines()[-2:])
    # Many rows are thinned out, and said to be.
    said = run("sweep", "--draftN", "1:2", "--alpha", "0.01:0.99:0.01").stdout
    assert said.splitlines()[-1] == "24 of 99 combinations are shown; --out FILE has all"
    # Values of many options stand in one column, folded.
    many = ("--workmem", "1e9,2e14", "--workflops", "1e9,2e14", "--draft-cost", "0.123456789,0.2", "--total", "9,1e9")
    wide = run("sweep", "--draftN", "1:64", *many, "--pass-overhead", "1e-9,12345.6789", "--replications", 0).stdout
    assert max(map(len, (said + wide).splitlines())) <= 100
    assert "total 9, workflops 1,000,000,000, workmem" in wide


def test_the_best_k_of_a_sweep_hangs_on_no_simulation(output) -> None:
    words = ("sweep", "--draftN", "1:8", "--total", 8, "--alpha", "0.3,0.7", "--draft-cost", "0.05,0.3", "--json")
    runs = [("--replications", 0), *(("--replications", 3, "--seed", seed) for seed in (0, 1))]
    one, *others = (json.loads(output(*words, *of_run))["answers"] for of_run in runs)
    assert all(other == one for other in others)


def test_any_number_of_replications_works(output) -> None:
    output("sweep", "--draftN", "1:2", "--total", 8, "--replications", 70_000)


@pytest.mark.parametrize(("kind", "suffix", "start"), [("auto", "png", b"\x89PNG"), ("curves", "svg", b"<?xml")])
def test_a_plot_is_written_beside_the_table(output, tmp_path: Path, kind: str, suffix: str, start: bytes) -> None:
    said = output("sweep", "--draftN", "1:6", "--alpha", "0.5:0.9:0.1", "--plot", f"p.{suffix}", "--plot-kind", kind)
    assert (tmp_path / f"p.{suffix}").read_bytes().startswith(start)
    assert f"wrote p.{suffix}" in said


def test_parquet_without_its_library_says_how_to_get_it(run_real, user_error, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked" / "pyarrow"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'pyarrow'\", name='pyarrow')")
    done = run_real("sweep", *GRID, "--out", "s.parquet", PYTHONPATH=str(blocked.parent))
    user_error(done, "--out s.parquet: pyarrow is not installed", 'pip install "specsim[parquet]"')


def test_a_terminal_sees_a_progress_bar(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen([f"{SCRIPTS}/sweep", *GRID], cwd=tmp_path, stdout=subprocess.PIPE, stderr=follower)
    os.close(follower)
    process.communicate(timeout=60)
    shown = os.read(leader, 65536).decode()
    os.close(leader)
    assert process.returncode == 0
    assert "sweep" in shown
    assert "60/60" in shown
