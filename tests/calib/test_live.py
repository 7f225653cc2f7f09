"""`validate --live` at its smallest: the whole chain, what it leaves behind, and a stage in a process of its own."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acceptance.results.journal import to_line
from calibration.cli.live_options import plan_of
from calibration.validate import live
from calibration.validate.live import FEW_TOKENS, Plan, call, keep_plan
from simulator.ground.artefacts import UserError

from .made_decode import with_known_times

TINY = ("--inflate", "1,2", "--k", "1:3", "--fit-k", "1,3", "--max-prompts", "2", "--max-new-tokens", "12")
QUICK = ("--quick", "--draftN", 2, "--workflops", 8, "--workmem", 1, "--only", "empty", "--only", "burn_flops")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def calls(run: Run, quick_probe: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every stage in this process and the probe a quick one; the names of those that ran.

    Decoding is real, and so are its rounds, but its times are made: those of a few tokens are noise on a busy machine.
    """
    names: list[str] = []

    def call_here(name: str, *words: str, allowed: tuple[int, ...] = (0,)) -> int:
        names.append(name)
        is_new = not Path(words[-1]).exists()
        done = run(name, *words, *(QUICK if name == "probe-gpu" else ()))
        assert done.returncode in allowed, done.stderr
        if name == "bench-decode" and is_new:
            rng = np.random.default_rng(0)
            rewrite(Path(words[-1]), lambda record: with_known_times(record, rng))
        return done.returncode

    monkeypatch.setattr(live, "call", call_here)
    return names


def test_interrupted_it_says_where_it_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(live, "call", stop)
    done = run("validate", "--live", *TINY)
    said = "validate: interrupted; what is done is kept in live, the same command goes on"
    assert (done.returncode, done.stdout, done.stderr.splitlines()[-1]) == (130, "", said)


@pytest.mark.whole
def test_the_whole_chain_runs_and_goes_on_from_what_is_there(run: Run, calls: list[str], tmp_path: Path) -> None:
    done = run("validate", "--live", *TINY, "--json")
    folder = tmp_path / "live"
    assert done.returncode in (0, 1), done.stderr
    assert calls == ["probe-gpu", "calibrate", "measure-acceptance", "bench-decode", "bench-decode"]
    names = {"plan.json", "probe.json", "trace.json", "decode_x1.jsonl", "decode_x2.jsonl"}
    names |= {f"accept_hist_k{k}.json" for k in (1, 2, 3)} | {"pair_x1.json", "pair_x2.json"}
    assert names <= {p.name for p in folder.iterdir()}
    few = "validate: 24 tokens a draft length (2 prompts x 12 tokens x 1 runs): with fewer than 256 fits seldom pass"
    assert done.stderr.startswith(few)
    for words in ("probing the device", "measuring acceptance", "target inflated 1 times", "target inflated 2 times"):
        assert f"validate: {words}" in done.stderr or f"validate: decoding, {words}" in done.stderr
    measured = {n: (folder / n).read_bytes() for n in ("probe.json", "trace.json")}
    records = records_of(folder / "decode_x2.jsonl")
    again = run("validate", "--live", *TINY)
    assert again.returncode == done.returncode, again.stderr
    assert "probing" not in again.stderr
    assert "measuring acceptance" not in again.stderr
    assert {n: (folder / n).read_bytes() for n in measured} == measured
    assert records_of(folder / "decode_x2.jsonl") == records
    check_result(json.loads(done.stdout), again.stdout)
    # What was probed until someone ended it is probed again.
    probed = json.loads(measured["probe.json"])
    (folder / "probe.json").write_text(json.dumps(probed | {"interrupted": True}))
    live.probe(plan(folder), print)
    assert json.loads((folder / "probe.json").read_text())["interrupted"] is False
    # Drafts that take no longer the more they draft are noise: that is said, and no profile is made of it.
    (folder / "pair_x2.json").unlink()

    def moved(record: dict[str, Any]) -> dict[str, Any]:
        saved = record["draft_ms"] * (0.99 if record["method"] == "k3" else 0)
        return record | {"draft_ms": record["draft_ms"] - saved, "verify_ms": record["verify_ms"] + saved}

    rewrite(folder / "decode_x2.jsonl", moved)
    noisy = run("validate", "--live", *TINY)
    assert noisy.returncode == 3
    assert noisy.stdout.startswith("Nothing is forecast: ")
    assert noisy.stdout.splitlines()[2].split() == ["target", "K", "tokens/round", "measured", "95", "%", "interval"]
    assert re.findall(r"^bundled(?: x 2)? +(\d) ", noisy.stdout, re.MULTILINE) == ["1", "2", "3"] * 2
    told = run("validate", "--live", *TINY, "--json", "--out", "measured.json")
    assert told.returncode == 3
    found, rows = json.loads(told.stdout), json.loads(done.stdout)["rows"]
    assert json.loads((tmp_path / "measured.json").read_text())["rows"] == found["rows"]
    assert [r["measured"] for r in found["rows"]][:3] == [r["measured"] for r in rows][:3]
    assert "takes no longer" in found["reasons"][0]
    assert "decode_x2.jsonl: the fit does not pass its checks: a draft of more tokens takes no longer" in noisy.stderr
    assert not (folder / "pair_x2.json").exists()


def records_of(path: Path) -> list[dict]:
    return [r for r in map(json.loads, path.read_text().splitlines()) if r["kind"] == "decode_record"]


def rewrite(path: Path, change: Callable[[dict], dict]) -> None:
    """Change the records of a run, all of which took some time."""
    records = records_of(path)
    assert all(r["verify_ms"] > 0 and (r["draft_ms"] > 0 or r["method"] == "baseline") for r in records)
    header = path.read_bytes().splitlines(keepends=True)[0]
    path.write_bytes(header + b"".join(to_line(change(record)) for record in records))


def check_result(found: dict, text: str) -> None:
    """Check the shape of a result: two targets, three draft lengths, of which the middle one was not fitted."""
    assert [r["draft_length"] for r in found["rows"]] == [1, 2, 3] * 2
    assert [r["fitted"] for r in found["rows"]] == [True, False, True] * 2
    assert [r["target"] for r in found["rows"][::3]] == ["bundled", "bundled x 2"]
    assert found["verdict"]["rows"] == 2
    assert [sorted(own) for own in found["ablation"]] == [["histogram", "one alpha", "per position", "trace"]] * 2
    for r in found["rows"]:
        assert 0.1 < r["forecast"] < 4
        assert r["forecast_ci95"][0] < r["forecast"] < r["forecast_ci95"][1]
    assert text.count("forecast  ") >= 2
    assert "2 rows not fitted: median error" in text
    assert "the same costs, acceptance as" in text


def plan(folder: Path, **changes) -> Plan:
    given = {"times": (1, 2), "draft_lengths": (1, 2, 3), "fitted": (1, 3), "prompts": 2, "tokens": 12, "runs": 1}
    return Plan(folder=folder, **given | {"dtype": "bfloat16", "device": "cpu", "seed": 0} | changes)


def test_a_folder_goes_on_with_its_own_plan_alone(tmp_path: Path) -> None:
    for _ in range(2):
        keep_plan(plan(tmp_path))
    # More targets, and other lengths to fit, need nothing measured anew.
    keep_plan(plan(tmp_path, times=(1, 2, 4), fitted=(1, 2)))
    for changes, words in (
        ({"tokens": 64}, "--max-new-tokens: 64, but .*plan.json was begun with 12"),
        ({"draft_lengths": (1, 2, 3, 4)}, "--k: "),
        ({"dtype": "float32"}, "--dtype: float32, but .* begun with bfloat16"),
        ({"seed": 1}, "--seed: 1"),
        ({"prompts_file": "p.csv"}, "--prompts: .*p.csv.* begun with None"),
    ):
        with pytest.raises(UserError, match=words):
            keep_plan(plan(tmp_path, **changes))
    path = tmp_path / "plan.json"
    document = json.loads(path.read_text())
    for parameters in (5, "abc", ["ab"], None):
        path.write_text(json.dumps(document | {"parameters": parameters}))
        with pytest.raises(UserError, match=r"plan.json: parameters is .*, expected an object"):
            keep_plan(plan(tmp_path))


def test_prompts_of_ones_own_go_to_every_stage_that_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    (tmp_path / "p.csv").write_text("task\nimport os\nimport sys\n")
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(live, "call", lambda *words: calls.append(words))
    monkeypatch.setattr(live, "load_decode", lambda path: path)
    own = plan(tmp_path / "live", prompts_file="p.csv", prompts_format="csv", column="task")
    live.measure(own, print)
    live.decode(own, tmp_path, 1, print)
    for words in calls:
        given = dict(pairwise(words))
        assert (given["--prompts"], given["--format"], given["--column"]) == ("p.csv", "csv", "task")
    assert plan(tmp_path).prompt_words == []
    # A file that cannot be read is refused before anything is timed.
    done = run("validate", "--live", *TINY, "--prompts", "p.csv", "--column", "prompt")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--column 'prompt' is no column of this CSV, expected task" in done.stderr
    assert len(calls) == 2
    assert not (tmp_path / "live").exists()


def test_the_defaults_are_not_few() -> None:
    assert plan_of({}).tokens_each == 768
    assert plan_of({"max-prompts": 4}).tokens_each == FEW_TOKENS


def test_a_stage_that_fails_says_which_and_why_and_runs_nothing_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("numpy", "click", "calibration"):
        (tmp_path / f"{name}.py").write_text(f"open('{name} ran', 'w')")
    with pytest.raises(UserError, match=r"calibrate ended with exit code 2: .*missing\.json: no such file"):
        call("calibrate", "missing.json")
    assert call("calibrate", "missing.json", allowed=(0, 2)) == 2
    assert list(tmp_path.glob("* ran")) == []


def test_a_stage_ends_with_us_however_we_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ours = os.fork()
    if ours == 0:
        call("validate", "--live", "--max-prompts", "100")
        os._exit(0)
    children, deadline = Path(f"/proc/{ours}/task/{ours}/children"), time.monotonic() + 60
    while not (child := children.read_text().strip()) or b"-P" not in Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline
    os.kill(ours, signal.SIGKILL)
    os.waitpid(ours, 0)
    while Path(f"/proc/{child}").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, f"{child} goes on without us"
        time.sleep(0.02)
