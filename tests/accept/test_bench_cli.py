"""`bench-decode` as a user meets it: real subprocesses, killed and interrupted ones among them, and bad input."""

import json
import os
import re
import signal
import subprocess
import sysconfig
import time
from collections import Counter
from pathlib import Path

import pytest
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from acceptance.results.journal import read_records
from acceptance.results.records import latest
from acceptance.results.validate import problems
from tests.conftest import instead

from .conftest import WORDS, save_model

SCRIPTS = Path(sysconfig.get_path("scripts"))
METHODS = "speculative,ngram,specexec"


@pytest.fixture
def told(random_pair: tuple[Path, Path], tmp_path: Path) -> list[object]:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"w{i} w{i + 1} w{i % 7}"}) + "\n" for i in range(6)))
    target, draft = random_pair
    return ["--target", target, "--draft", draft, "--dataset", prompts, "--max-new-tokens", 12, "--device", "cpu"]


@pytest.fixture
def bench(run, told):
    def call(*arguments: object):
        return run("bench-decode", *instead(told, arguments))

    return call


@pytest.fixture
def measure(bench):
    """Return a function that runs the command, which must succeed."""

    def call(*arguments: object):
        done = bench(*arguments)
        assert done.returncode == 0, done.stderr
        return done

    return call


def files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - {"prompts.jsonl"}


def line_of(name: str, done) -> list[str]:
    """The words of the line of this method in the table that was printed."""
    return next(line.split() for line in done.stdout.splitlines() if line.startswith(f"{name} "))


def sound(folder: Path):
    """The latest records of the run in this folder, in whose file nothing may be wrong."""
    assert problems(folder / "decode.jsonl", strict=True) == []
    return latest(read_records(folder / "decode.jsonl")[0])


def tracks(trace: Path) -> set[str]:
    events = json.loads(trace.read_text())["traceEvents"]
    assert {e["name"] for e in events if e["ph"] == "X"} >= {"prefill", "verify", "sample", "other"}
    return {e["args"]["name"].split(",")[0] for e in events if e["name"] == "thread_name"}


def test_a_run_from_prompts_to_table_records_picture_and_profile(measure, run, tmp_path: Path) -> None:
    done = measure("--method", METHODS, "--plot", "a.svg", "--trace-out", "trace.json", "--runs", 2)
    assert done.stderr == ""
    assert files(tmp_path) == {"decode.jsonl", "a.svg", "trace.json"}
    names = {"baseline", *METHODS.split(",")}
    for name in names:
        line = line_of(name, done)
        assert line[1] == "exact"
        assert "12/12" in line
    records, torn = read_records(tmp_path / "decode.jsonl")
    assert (torn, len(records), len(sound(tmp_path))) == (0, 1 + 6 * 2 * 4 + 4, 6 * 2 * 4)
    header = records[0]
    assert header["parameters"]["methods"][0]["name"] == "baseline"
    assert {"git_sha", "hostname", "gpu_driver", "gpu_clocks_mhz"} <= header["environment"].keys()
    assert all(r["timestamp_utc"] >= header["created_utc"] for r in latest(records))
    assert header["parameters"]["models"]["target"]["sha256"] != header["parameters"]["models"]["draft"]["sha256"]
    assert tracks(tmp_path / "trace.json") == names
    assert {'"draft"', '"kv"'} <= set(re.findall(r'"\w+"', (tmp_path / "trace.json").read_text()))
    checked = run("bench-decode", "validate-results", "decode.jsonl", "--strict")
    assert (checked.returncode, checked.stdout) == (0, "decode.jsonl: all well\n")


def test_the_same_command_goes_on_a_different_one_is_refused_and_force_starts_anew(
    measure, bench, user_error, tmp_path: Path
) -> None:
    out, plot, profile = (tmp_path / name for name in ("decode.jsonl", "a.svg", "trace.json"))
    given = ("--method", "ngram", "--plot", "a.svg", "--trace-out", "trace.json")
    plot.write_text("mine")
    user_error(bench(*given), "--plot a.svg: exists already")
    assert plot.read_text() == "mine"
    plot.unlink()
    measure(*given)
    kept, picture, trace = (path.read_bytes() for path in (out, plot, profile))
    # Another configuration goes on with nothing: all three stay.
    expected = "decode.jsonl: methods[1].knobs.ngram is 4, but 3 there"
    user_error(bench(*given, "--ngram", 4), expected, "--force")
    assert (out.read_bytes(), plot.read_bytes(), profile.read_bytes()) == (kept, picture, trace)
    plot.write_text("old")
    assert "6 of 6 turns are done" in measure(*given).stderr
    assert plot.read_bytes().startswith(b"<?xml")
    # Nothing was measured, so that the profile of what was stays.
    assert (out.read_bytes(), profile.read_bytes()) == (kept, trace)
    profile.unlink()
    again = measure(*given)
    assert "trace.json: decoding 4 prompts again for the profile; records stay as they are" in again.stderr
    assert tracks(profile) == {"baseline", "ngram"}
    assert out.read_bytes() == kept
    # Killed within the seventh record of twelve.
    lines, trace = kept.splitlines(keepends=True), profile.read_bytes()
    out.write_bytes(b"".join(lines[:7]) + lines[7][:40])
    again = measure(*given, "--json")
    assert "cut off a record that was never whole (40 bytes)" in again.stderr
    assert "3 of 6 turns are done" in again.stderr
    assert {s["method"]: s["runs_ok"] for s in json.loads(again.stdout)["summaries"]} == {"baseline": 6, "ngram": 6}
    assert out.read_bytes().startswith(b"".join(lines[:7]))
    assert profile.read_bytes() != trace
    assert len(sound(tmp_path)) == 12
    # A header that was never whole is begun anew, and so is a forced one.
    out.write_bytes(kept[:200])
    for more in ((), ("--ngram", 4, "--force")):
        measure("--method", "ngram", *more)
        assert len(sound(tmp_path)) == 12


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


@pytest.mark.whole  # test_bench_journal.py cuts the file at any byte, test_bench_runner.py interrupts any turn
def test_it_survives_kill_9_and_goes_on_until_a_signal_has_it_print_what_is_there(bench, told, tmp_path: Path) -> None:
    out = tmp_path / "decode.jsonl"
    for wanted, number, code in (
        (3, signal.SIGKILL, -signal.SIGKILL),
        (9, signal.SIGINT, 130),
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
            assert "turns are kept, the same command goes on with decode.jsonl" in stderr.splitlines()[-1]
        assert out.read_bytes().startswith(seen)
        assert problems(out, strict=True) == []
    # A turn that was cut short is measured again as a whole, and no other.
    seen_turns = Counter((r["run"], r["prompt_index"], r["method"]) for r in read_records(out)[0][1:])
    assert len({key[:2] for key, times in seen_turns.items() if times > 1}) <= 1
    # Nothing was lost: the turns follow one another without a gap.
    turns = [(r["run"], r["prompt_index"]) for r in latest(read_records(out)[0])]
    assert turns == sorted(turns)
    assert len(set(turns)) == (turns[-1][0] * 6 + turns[-1][1]) + 1


def test_interrupted_before_anything_is_measured_it_says_so_in_one_line_and_draws_nothing(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acceptance.cli.bench_decode.measure_all", lambda *_: 130)
    done = bench("--method", "ngram", "--plot", "a.png")
    said = "bench-decode: interrupted; nothing was measured yet, the same command begins anew\n"
    assert (done.returncode, done.stdout, done.stderr) == (130, "", said)
    assert files(tmp_path) == {"decode.jsonl"}


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(measure, tmp_path: Path) -> None:
    done = measure("--method", METHODS, "--runs", 3, "--dry-run", "--plot", "a.png")
    assert done.stdout.startswith("6 prompts in 6 batches x 3 runs x 4 methods = 72 decodings")
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"estimate: .+, of them .+ (s|min) to load and .+ (s|min) to warm up", last)
    assert "at most" not in done.stdout
    assert files(tmp_path) == set()


def test_prompts_from_a_named_pipe_are_read_once(measure, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    data = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    held = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # what is written stays, and nobody writes more
    try:
        path.write_bytes(data)
        assert measure("--method", "ngram", "--dry-run").stdout.startswith("6 prompts in 6 batches")
    finally:
        os.close(held)


def test_batches_skip_trees_with_the_reason_and_sampling_runs(measure, bench, tmp_path: Path) -> None:
    given = ("--method", METHODS, "--batch-size", 4, "--temperature", 0.8)
    assert bench(*given, "--use-chat-template").returncode == 2  # the tokenizer has no template
    done = measure(*given)
    assert "specexec: skipped (takes one sequence at a time, --batch-size is 4)" in done.stdout
    assert "too few prompts for intervals" in done.stdout  # two batches
    sound(tmp_path)


def test_a_trained_judge_and_trees_tell_what_they_did(run, tmp_path: Path) -> None:
    """On the bundled pair, whose judge is trained."""
    given = ("--method", "autojudge,specexec", "--max-prompts", 2, "--max-new-tokens", 24, "--device", "cpu")
    done = run("bench-decode", *given)
    assert done.returncode == 0, done.stderr
    for r in sound(tmp_path):
        assert (r["judge"] is not None) == (r["method"] == "autojudge")
        assert (r["tree"] is not None) == (r["method"] == "specexec")
    summaries = [r for r in read_records(tmp_path / "decode.jsonl")[0] if r["kind"] == "decode_summary"]
    judge = next(s["judge"] for s in summaries if s["method"] == "autojudge")
    assert judge["judged"] > 0
    assert 0 <= judge["judge_accept_rate"]["value"] < 1
    assert 0 < judge["target_fallback_rate"]["value"] < 1


def test_what_all_leaves_out_is_in_the_file_once_and_in_the_table(measure, tmp_path: Path) -> None:
    given = ("--method", "all", "--max-prompts", 2, "--max-new-tokens", 4)
    done = measure(*given)
    heads = {"medusa": "Medusa heads", "medusa-tree": "Medusa heads", "eagle": "an EAGLE head"}
    heads |= {"eagle-tree": "an EAGLE head", "autojudge": "a trained judge"}
    skipped = [r for r in sound(tmp_path) if r["status"] == "skipped"]
    assert sorted((r["method"], r["error"]) for r in skipped) == sorted(
        (n, f"needs {what}") for n, what in heads.items()
    )
    for r in skipped:
        assert f"{r['method']}: skipped ({r['error']})" in done.stdout
        assert line_of(r["method"], done)[1] == "skipped"
    kept = (tmp_path / "decode.jsonl").read_bytes()
    assert "2 of 2 turns are done" in measure(*given).stderr
    assert (tmp_path / "decode.jsonl").read_bytes() == kept


def test_what_a_list_names_and_cannot_run_has_a_record_that_says_why(run, told, measure, user_error, tmp_path) -> None:
    """Medusa has no heads here, positions that go by columns have no trees; the others run."""
    local = [save_local(tmp_path / name) for name in ("target", "draft")]
    given = ["--target", local[0], "--draft", local[1], *told[4:]]
    done = run("bench-decode", *given, "--max-prompts", 1, "--method", "speculative,specexec,medusa,ngram")
    assert done.returncode == 0, done.stderr
    records = {r["method"]: (r["status"], r["error"]) for r in sound(tmp_path)}
    assert records.pop("medusa") == ("skipped", "needs Medusa heads")
    assert records.pop("specexec")[1] == "--target: cannot read a tree in one pass (its positions go by columns)"
    assert records == dict.fromkeys(("baseline", "speculative", "ngram"), ("ok", None))
    # Where nothing that was asked for can run there is nothing to say but why.
    user_error(
        run("bench-decode", *given, "--out", "none", "--method", "specexec,medusa"), "--target: cannot read a tree"
    )
    user_error(run("bench-decode", *given, "--out", "none", "--method", "medusa,specexec"), "expected --medusa FOLDER")


def save_local(folder: Path) -> Path:
    """A random model whose positions go by columns."""
    save_model(folder, 1, WORDS)
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 8}
    kinds = [[["global", "local"], 1]]
    GPTNeoForCausalLM(GPTNeoConfig(vocab_size=41, attention_types=kinds, **shape, **ends)).save_pretrained(folder)
    return folder


EXPERIMENT = """
[models.mine]
target = "{}"
draft = "{}"
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


def test_an_experiment_of_a_file_and_the_command_line_above_it(run, told, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(EXPERIMENT.format(told[1], told[3]))
    checked = run("bench-decode", "validate-config", "p.toml")
    assert checked.stdout == "p.toml: all well, 1 models, 2 methods, 1 experiments\n", checked.stderr
    shown = run("bench-decode", "list-presets", "--config", "p.toml").stdout
    assert "method long: method=speculative  k=6" in shown
    done = run("bench-decode", "--config", "p.toml", "--experiment", "lengths", "--max-new-tokens", 8)
    assert done.returncode == 0, done.stderr
    records = sound(tmp_path)
    longest = {r["method"]: 0 for r in records}
    for r in records:
        assert r["algorithm"] == ("baseline" if r["method"] == "baseline" else "speculative")
        assert (r["generated_tokens"], r["run"] in (0, 1)) == (8, True)
        longest[r["method"]] = max(longest[r["method"]], *r["rounds"]["drafted"])
    assert longest == {"baseline": 0, "short": 1, "long": 6}
    assert {r["run"] for r in records} == {0, 1}


def test_a_lossy_method_and_a_task_show_what_speed_costs(measure, told, tmp_path: Path) -> None:
    task = [{"prompt": f"w{i} w3", "reference": "w1 w2 w3"} for i in range(5)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(item) + "\n" for item in task))
    told[4:6] = ["--task", tmp_path / "task.jsonl"]
    done = measure("--method", "topk", "--rank", 30)
    assert "next token, points" in done.stdout
    assert "lossy" in line_of("topk", done)
    for r in sound(tmp_path):
        assert 1 <= r["exact_match"]["trials"] <= 3
        assert r["quality"]


def test_bad_input_is_one_line_before_anything_is_loaded(run, user_error, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "header.jsonl").write_text('{"kind": "decode_run", "schema_version": 2}\n{"kind": "mine"}\n')
    (tmp_path / "damaged.jsonl").write_text('{"kind": "decode_run", "schema_version": 2}\n{"kind": "dec\n{}\n')
    for arguments, expected in (
        (("--temperature", "nan"), "--temperature"),
        (("--k", 0), "--k"),
        (("--inflate-target", 0.5), "--inflate-target: 0.5"),
        (("--plot", "a.pdf"), "--plot"),
        (("--trace-out", "mine.txt"), "--trace-out mine.txt: exists already"),
        (("--trace-out", "decode.jsonl"), "is the file of --out too"),
        (("--out", "."), "--out .: is a folder"),
        (("--out", "mine.txt"), "mine.txt: begins with no record of kind 'decode_run'"),
        (("--out", "header.jsonl"), 'header.jsonl: line 2: kind is "mine"'),
        (("--out", "damaged.jsonl"), "damaged.jsonl: line 2 is no JSON object, expected a record: cut the line out"),
        (("--task", "bundled", "--dataset", "x"), "--task"),
        (("--target", "bundled@abc"), "--target: 'bundled@abc' is not allowed, bundled has no revisions"),
        (("--draft", "bundled@abc"), "--draft: 'bundled@abc' is not allowed, bundled has no revisions"),
        (("--experiment", "draft-lengths", "--k", 6), "--k: not used with speculative-k2, speculative-k8, which set"),
        (("--experiment", "none"), "--experiment: 'none' is not in"),
        (("--config", "none.toml"), "none.toml: no such file"),
        (("--seed", 1, "list-presets"), "--seed: not used with list-presets"),
        (("validate-results", "none"), "none: no such file"),
        (("validate-config", "mine.txt"), "mine.txt: not TOML"),
    ):
        user_error(run("bench-decode", *arguments), expected)
    # A desktop is refused where none may be.
    user_error(run("bench-decode", "--require-headless", DISPLAY=":0"), "--require-headless: DISPLAY is ':0'")
    user_error(run("bench-decode", "--require-headless", WAYLAND_DISPLAY="wayland-0"), "WAYLAND_DISPLAY")
    user_error(run("bench-decode", SOURCE_DATE_EPOCH="abc"), "bench-decode: SOURCE_DATE_EPOCH: 'abc' is not a time")
    assert files(tmp_path) == {"mine.txt", "header.jsonl", "damaged.jsonl"}


WITH_MODELS = [
    (("--method", "guess"), "--method: 'guess' is not allowed"),
    (("--cuda-graphs",), "--cuda-graphs: the target is on cpu, expected one CUDA device"),
    (("--draft-stream",), "--draft-stream: the draft is on cpu, expected a CUDA device"),
    (("--method", "medusa"), "'medusa' is not allowed without Medusa heads, expected --medusa FOLDER"),
    (("--method", "eagle"), "'eagle' is not allowed without an EAGLE head, expected --eagle FOLDER"),
]


def test_bad_input_that_takes_models_to_see(bench, user_error, other_vocabulary: Path, tmp_path: Path) -> None:
    for arguments, expected in WITH_MODELS:
        user_error(bench(*arguments), expected)
    other = bench("--draft", other_vocabulary)
    user_error(other, f"--draft {other_vocabulary}: vocabulary differs from", "expected the same tokenizer\n")
    assert files(tmp_path) == set()
