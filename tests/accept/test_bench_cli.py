"""`bench-decode` as a user meets it: real subprocesses, killed and interrupted ones among them, and bad input."""

import json
import re
import signal
import subprocess
import sysconfig
import time
from collections import Counter
from pathlib import Path

import pytest

from acceptance.results.journal import read_records
from acceptance.results.records import latest
from acceptance.results.validate import problems

SCRIPTS = Path(sysconfig.get_path("scripts"))
METHODS = "speculative,ngram,specexec"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"w{i} w{i + 1} w{i % 7}"}) + "\n" for i in range(6)))
    return path


@pytest.fixture
def told(random_pair: tuple[Path, Path], prompts: Path) -> list[object]:
    target, draft = random_pair
    return ["--target", target, "--draft", draft, "--dataset", prompts, "--max-new-tokens", 12, "--device", "cpu"]


@pytest.fixture
def bench(run, told):
    def call(*arguments: object, **env: str):
        return run("bench-decode", *told, *arguments, **env)

    return call


def files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - {"prompts.jsonl"}


def test_a_run_from_prompts_to_table_records_picture_and_profile(bench, run, tmp_path: Path) -> None:
    done = bench("--method", METHODS, "--plot", "a.svg", "--profile", "trace.json", "--runs", 2)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert files(tmp_path) == {"decode.jsonl", "a.svg", "trace.json"}
    for name in ("baseline", *METHODS.split(",")):
        line = next(words.split() for words in done.stdout.splitlines() if words.startswith(f"{name} "))
        assert line[1] == "exact"
        assert "12/12" in line
    records, torn = read_records(tmp_path / "decode.jsonl")
    assert torn == 0
    assert len(latest(records)) == 6 * 2 * 4
    assert len(records) == 1 + 6 * 2 * 4 + 4
    assert problems(tmp_path / "decode.jsonl", strict=True) == []
    header = records[0]
    assert header["parameters"]["methods"][0]["name"] == "baseline"
    assert {"git_sha", "hostname", "gpu_driver", "gpu_clocks_mhz"} <= header["environment"].keys()
    assert all(r["timestamp_utc"] >= header["created_utc"] for r in latest(records))
    assert header["parameters"]["models"]["target"]["sha256"] != header["parameters"]["models"]["draft"]["sha256"]
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {e["name"] for e in events if e["ph"] == "X"} >= {"prefill", "draft", "verify", "sample", "kv", "other"}
    assert {e["args"]["name"].split(",")[0] for e in events if e["name"] == "thread_name"} == {
        "baseline",
        *METHODS.split(","),
    }
    checked = run("bench-decode", "validate-results", "decode.jsonl", "--strict")
    assert (checked.returncode, checked.stdout) == (0, "decode.jsonl: all well\n")


def test_the_same_command_goes_on_a_different_one_is_refused_and_force_starts_anew(
    bench, user_error, tmp_path: Path
) -> None:
    out = tmp_path / "decode.jsonl"
    assert bench("--method", "ngram").returncode == 0
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    # Killed within the seventh record of twelve.
    out.write_bytes(b"".join(lines[:7]) + lines[7][:40])
    again = bench("--method", "ngram", "--json")
    assert again.returncode == 0, again.stderr
    assert "cut off a record that was never whole (40 bytes)" in again.stderr
    assert "3 of 6 turns are done" in again.stderr
    assert out.read_bytes().startswith(b"".join(lines[:7]))
    assert problems(out, strict=True) == []
    payload = json.loads(again.stdout)
    assert {s["method"]: s["runs_ok"] for s in payload["summaries"]} == {"baseline": 6, "ngram": 6}
    kept = out.read_bytes()
    over = bench("--method", "ngram")
    assert "6 of 6 turns are done" in over.stderr
    assert out.read_bytes() == kept
    expected = "decode.jsonl: methods[1].knobs.ngram is 4, but 3 there"
    user_error(bench("--method", "ngram", "--ngram", 4), expected, "--force")
    assert out.read_bytes() == kept
    forced = bench("--method", "ngram", "--ngram", 4, "--force")
    assert forced.returncode == 0, forced.stderr
    assert len(latest(read_records(out)[0])) == 12


def test_what_is_drawn_from_records_is_drawn_again_when_they_go_on(bench, user_error, tmp_path: Path) -> None:
    out, plot, profile = (tmp_path / name for name in ("decode.jsonl", "a.svg", "trace.json"))
    told = ("--method", "ngram", "--plot", "a.svg", "--profile", "trace.json")
    plot.write_text("mine")
    user_error(bench(*told), "--plot a.svg: exists already")
    assert plot.read_text() == "mine"
    plot.unlink()
    assert bench(*told).returncode == 0
    kept, picture, trace = out.read_bytes(), plot.read_bytes(), profile.read_bytes()
    # Another configuration goes on with nothing: all three stay.
    user_error(bench(*told, "--ngram", 4), "decode.jsonl: methods")
    assert (out.read_bytes(), plot.read_bytes(), profile.read_bytes()) == (kept, picture, trace)
    plot.write_text("old")
    again = bench(*told)
    assert again.returncode == 0, again.stderr
    assert plot.read_bytes().startswith(b"<?xml")
    # Nothing was measured, so that the profile of what was stays.
    assert (out.read_bytes(), profile.read_bytes()) == (kept, trace)
    profile.unlink()
    again = bench(*told)
    assert again.returncode == 0, again.stderr
    assert "trace.json: decoding 4 prompts again for the profile; records stay as they are" in again.stderr
    events = json.loads(profile.read_text())["traceEvents"]
    assert {e["args"]["name"].split(",")[0] for e in events if e["name"] == "thread_name"} == {"baseline", "ngram"}
    assert out.read_bytes() == kept
    lines = kept.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:7]))
    assert bench(*told).returncode == 0
    assert profile.read_bytes() != trace
    assert problems(out, strict=True) == []


def test_a_header_that_was_never_whole_is_begun_anew(bench, tmp_path: Path) -> None:
    out = tmp_path / "decode.jsonl"
    assert bench("--method", "ngram").returncode == 0
    out.write_bytes(out.read_bytes()[:200])
    done = bench("--method", "ngram")
    assert done.returncode == 0, done.stderr
    assert problems(out, strict=True) == []


def wait_for_records(process: subprocess.Popen[str], out: Path, count: int) -> None:
    for _ in range(2400):
        if out.exists() and out.read_bytes().count(b"\n") > count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("no records within two minutes")


def start(told: list[object], tmp_path: Path, *more: object) -> subprocess.Popen[str]:
    words = [str(SCRIPTS / "bench-decode"), *map(str, told), *map(str, more)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True)


# So many repeats that no machine gets through them before it is stopped.
MANY = ("--method", "ngram", "--runs", 2000)


def test_it_survives_kill_9_and_goes_on_until_a_signal_has_it_print_what_is_there(bench, told, tmp_path: Path) -> None:
    out = tmp_path / "decode.jsonl"
    for wanted, number, code in (
        (3, signal.SIGKILL, -signal.SIGKILL),
        (9, signal.SIGKILL, -signal.SIGKILL),
        (15, signal.SIGTERM, 143),
        (20, signal.SIGINT, 130),
    ):
        process = start(told, tmp_path, *MANY)
        wait_for_records(process, out, wanted)
        if number == signal.SIGINT:
            second = bench(*MANY)
            assert (second.returncode, "another benchmark is at work" in second.stderr) == (2, True)
        seen = out.read_bytes()
        process.send_signal(number)
        stdout, stderr = process.communicate()
        assert process.returncode == code, stderr
        assert "Traceback" not in stderr
        if number != signal.SIGKILL:
            assert "ngram" in stdout
            assert stderr.endswith("interrupted; the same command goes on with decode.jsonl\n")
        assert out.read_bytes().startswith(seen)
        assert problems(out, strict=True) == []
    # A turn that was cut short is measured again as a whole, none but those: one each time it went on.
    seen_turns = Counter((r["run"], r["prompt_index"], r["method"]) for r in read_records(out)[0][1:])
    assert len({key[:2] for key, times in seen_turns.items() if times > 1}) <= 3
    # Nothing was lost: the turns follow one another without a gap.
    turns = [(r["run"], r["prompt_index"]) for r in latest(read_records(out)[0])]
    assert turns == sorted(turns)
    assert len(set(turns)) == (turns[-1][0] * 6 + turns[-1][1]) + 1


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(bench, tmp_path: Path) -> None:
    done = bench("--method", METHODS, "--runs", 3, "--dry-run", "--plot", "a.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 prompts in 6 batches x 3 runs x 4 methods = 72 decodings")
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"estimate: .+, of them .+ (s|min) to load and .+ (s|min) to warm up", last)
    assert "at most" not in done.stdout
    assert files(tmp_path) == set()


def test_batches_skip_trees_with_the_reason_and_sampling_runs(bench, tmp_path: Path) -> None:
    done = bench("--method", METHODS, "--batch-size", 4, "--temperature", 0.8, "--use-chat-template")
    assert done.returncode == 2  # the tokenizer has no template
    done = bench("--method", METHODS, "--batch-size", 4, "--temperature", 0.8)
    assert done.returncode == 0, done.stderr
    assert "specexec: skipped (takes one sequence at a time, --batch-size is 4)" in done.stdout
    assert "too few prompts for intervals" in done.stdout  # two batches
    assert problems(tmp_path / "decode.jsonl", strict=True) == []


def test_a_trained_judge_and_trees_tell_what_they_did(run, tmp_path: Path) -> None:
    """On the bundled pair, whose judge is trained."""
    told = ("--method", "autojudge,specexec", "--max-prompts", 2, "--max-new-tokens", 24, "--device", "cpu")
    done = run("bench-decode", *told)
    assert done.returncode == 0, done.stderr
    assert problems(tmp_path / "decode.jsonl", strict=True) == []
    records = read_records(tmp_path / "decode.jsonl")[0]
    for r in latest(records):
        assert (r["judge"] is not None) == (r["method"] == "autojudge")
        assert (r["tree"] is not None) == (r["method"] == "specexec")
    judge = next(r["judge"] for r in records if r["kind"] == "decode_summary" and r["method"] == "autojudge")
    assert judge["judged"] > 0
    assert 0 <= judge["judge_accept_rate"]["value"] < 1
    assert 0 < judge["target_fallback_rate"]["value"] < 1


def test_what_all_leaves_out_is_in_the_file_once_and_in_the_table(bench, tmp_path: Path) -> None:
    done = bench("--method", "all", "--max-prompts", 2, "--max-new-tokens", 4)
    assert done.returncode == 0, done.stderr
    records = latest(read_records(tmp_path / "decode.jsonl")[0])
    left_out = {r["method"]: r for r in records if r["status"] == "skipped"}
    assert {name: r["error"] for name, r in left_out.items()} == {
        "medusa": "needs Medusa heads",
        "medusa-tree": "needs Medusa heads",
        "eagle": "needs an EAGLE head",
        "eagle-tree": "needs an EAGLE head",
        "autojudge": "needs a trained judge",
    }
    assert sum(r["status"] == "skipped" for r in records) == 5
    for name, r in left_out.items():
        assert f"{name}: skipped ({r['error']})" in done.stdout
        assert next(line for line in done.stdout.splitlines() if line.startswith(f"{name} ")).split()[1] == "skipped"
    assert problems(tmp_path / "decode.jsonl", strict=True) == []
    kept = (tmp_path / "decode.jsonl").read_bytes()
    again = bench("--method", "all", "--max-prompts", 2, "--max-new-tokens", 4)
    assert "2 of 2 turns are done" in again.stderr
    assert (tmp_path / "decode.jsonl").read_bytes() == kept


def test_an_experiment_of_a_file_and_the_command_line_above_it(run, told, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(
        f"""
        [models.mine]
        target = "{told[1]}"
        draft = "{told[3]}"
        [methods.long]
        method = "speculative"
        k = 6
        [methods.short]
        method = "speculative"
        k = 1
        [experiments.lengths]
        models = "mine"
        dataset = "prompts.jsonl"
        methods = ["short", "long"]
        max_new_tokens = 20
        runs = 2
        """
    )
    checked = run("bench-decode", "validate-config", "p.toml")
    assert checked.stdout == "p.toml: 1 models, 2 methods, 1 experiments, all well\n", checked.stderr
    shown = run("bench-decode", "list-presets", "--config", "p.toml").stdout
    assert "method long: method=speculative  k=6" in shown
    done = run("bench-decode", "--config", "p.toml", "--experiment", "lengths", "--max-new-tokens", 8)
    assert done.returncode == 0, done.stderr
    records = latest(read_records(tmp_path / "decode.jsonl")[0])
    assert {r["method"] for r in records} == {"baseline", "short", "long"}
    assert {r["algorithm"] for r in records if r["method"] != "baseline"} == {"speculative"}
    assert {r["run"] for r in records} == {0, 1}
    assert {r["generated_tokens"] for r in records} == {8}
    most = {
        name: max(max(r["rounds"]["drafted"]) for r in records if r["method"] == name) for name in ("short", "long")
    }
    assert most == {"short": 1, "long": 6}


def test_a_lossy_method_and_a_task_show_what_speed_costs(bench, told, tmp_path: Path) -> None:
    (tmp_path / "task.jsonl").write_text(
        "".join(json.dumps({"prompt": f"w{i} w3", "reference": "w1 w2 w3"}) + "\n" for i in range(5))
    )
    told[4:6] = ["--task", tmp_path / "task.jsonl"]
    done = bench("--method", "topk", "--rank", 30)
    assert done.returncode == 0, done.stderr
    assert "next token, points" in done.stdout
    line = next(words for words in done.stdout.splitlines() if words.startswith("topk "))
    assert "lossy" in line
    records = latest(read_records(tmp_path / "decode.jsonl")[0])
    assert all(1 <= r["exact_match"]["trials"] <= 3 for r in records)
    assert all(r["quality"] for r in records)
    assert problems(tmp_path / "decode.jsonl", strict=True) == []


def test_bad_input_is_one_line_before_anything_is_loaded(run, user_error, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "header.jsonl").write_text('{"kind": "decode_run", "schema_version": 2}\n{"kind": "mine"}\n')
    (tmp_path / "damaged.jsonl").write_text('{"kind": "decode_run", "schema_version": 2}\n{"kind": "dec\n{}\n')
    for arguments, expected in (
        (("--temperature", "nan"), "--temperature"),
        (("--k", 0), "--k"),
        (("--inflate-target", 0.5), "--inflate-target: 0.5"),
        (("--plot", "a.pdf"), "--plot"),
        (("--profile", "mine.txt"), "--profile mine.txt: exists already"),
        (("--profile", "decode.jsonl"), "is the file of --out too"),
        (("--out", "."), "--out .: is a folder"),
        (("--out", "mine.txt"), "mine.txt: begins with no record of kind 'decode_run'"),
        (("--out", "header.jsonl"), 'header.jsonl: line 2: kind is "mine"'),
        (("--out", "damaged.jsonl"), "damaged.jsonl: line 2 is no JSON object, expected a record: cut the line out"),
        (("--task", "bundled", "--dataset", "x"), "--task"),
        (("--target", "bundled@abc"), "--target: 'bundled@abc' is not allowed, bundled has no revisions"),
        (("--draft", "bundled@abc"), "--draft: 'bundled@abc' is not allowed, bundled has no revisions"),
        (
            ("--experiment", "draft-lengths", "--k", 6),
            "--k: not used with speculative-k2, speculative-k8, which set it",
        ),
        (("--experiment", "none"), "--experiment: 'none' is not in"),
        (("--config", "none.toml"), "none.toml: no such file"),
        (("--seed", 1, "list-presets"), "--seed: not used with list-presets"),
        (("validate-results", "none"), "none: no such file"),
        (("validate-config", "mine.txt"), "mine.txt: not TOML"),
    ):
        done = run("bench-decode", *arguments)
        user_error(done, expected)
    user_error(run("bench-decode", SOURCE_DATE_EPOCH="abc"), "bench-decode: SOURCE_DATE_EPOCH: 'abc' is not a time")
    assert files(tmp_path) == {"mine.txt", "header.jsonl", "damaged.jsonl"}


def test_a_desktop_is_refused_where_none_may_be(run, user_error) -> None:
    user_error(run("bench-decode", "--require-headless", DISPLAY=":0"), "--require-headless: DISPLAY is ':0'")
    user_error(run("bench-decode", "--require-headless", WAYLAND_DISPLAY="wayland-0"), "WAYLAND_DISPLAY")


def test_bad_input_that_takes_models_to_see(bench, user_error, other_vocabulary: Path, tmp_path: Path) -> None:
    user_error(bench("--method", "guess"), "--method: 'guess' is not allowed")
    user_error(bench("--cuda-graphs"), "--cuda-graphs: the target is on cpu, expected one CUDA device")
    user_error(bench("--draft-stream"), "--draft-stream: the draft is on cpu, expected a CUDA device")
    user_error(bench("--method", "medusa"), "'medusa' is not allowed without Medusa heads, expected --medusa FOLDER")
    user_error(bench("--method", "eagle"), "'eagle' is not allowed without an EAGLE head, expected --eagle FOLDER")
    other = bench("--draft", other_vocabulary)
    user_error(other, f"--draft {other_vocabulary}: vocabulary differs from", "expected the same tokenizer\n")
    assert files(tmp_path) == set()
