"""`probe-gpu` as a user meets it: on the processor, what is missing, bad input; Ctrl-C in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuda_probe.devices import cpu_facts
from cuda_probe.probe import runner
from cuda_probe.probe.probes import PROBES
from cuda_probe.probe.report import load_probe
from tests.conftest import instead

SMALL = ("--device", "cpu", "--only", "burn_flops", "--workflops", "1,2,4")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def probe(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command on a processor whose cache is small, so that its buffers are."""
    monkeypatch.setattr(cpu_facts, "last_level_cache", lambda: (1 << 20, "given"))
    return partial(run, "probe-gpu")


@pytest.fixture
def without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy is absent, whether or not it is installed."""
    monkeypatch.setitem(sys.modules, "cupy", None)


def test_the_processor_is_measured_into_every_kind_of_file(probe, tmp_path: Path) -> None:
    names = ("empty", "burn_flops", "baseline", "draft_graph")
    only = [word for name in names for word in ("--only", name)]
    knobs = ("--draftN", "1:2", "--workflops", "1,2,4", "--workmem", "0")
    done = probe("--device", "cpu", *only, *knobs, "--csv", "p.csv", "--plot", "p.png", "--seed", 3)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = load_probe(tmp_path / "probe.json")
    assert [p.axes for p in found.of("burn_flops")] == [{"work_flops": n} for n in (1, 2, 4)]
    assert [p.axes for p in found.of("baseline")] == [{"work_flops": n, "work_mem": 0} for n in (1, 2, 4)]
    assert len(found.of("empty")) == 1
    assert {(left.probe, left.failed) for left in found.left_out} == {("draft_graph", False)}
    assert len(found.left_out) == 2 * 3
    for point in found.points:
        assert point.measurement.median_s > 0
    for file in ("probe.json", "probe.npz", "p.csv", "p.png"):
        assert (tmp_path / file).stat().st_size > 0
        assert f"wrote {file}" in done.stdout
    assert "skipped draft_graph (6 points): the processor has no graphs" in done.stdout
    told = json.loads((tmp_path / "probe.json").read_text())
    assert told["parameters"]["work_flops"] == [1, 2, 4]
    assert (told["parameters"]["device"], told["parameters"]["seed"]) == ("cpu", 3)
    device = told["environment"]["device"]
    assert device["model"]
    assert device["cores"] >= 1
    assert device["last_level_cache_bytes"] > 0
    assert {"blas", "blas_threads", "blas_threads_found", "memory_bytes"} <= set(device)


def test_every_probe_of_the_quick_list_runs_and_is_right(probe, tmp_path: Path) -> None:
    small = ("--only", "burn_memory", "--only", "verify", "--only", "copy", "--only", "triad", "--only", "read")
    done = probe("--device", "cpu", *small, "--only", "write", "--workmem", "1", "--workflops", "1", "--draftN", "2")
    assert done.returncode == 0, done.stderr
    found = load_probe(tmp_path / "probe.json")
    assert {p.probe for p in found.points} == {"burn_memory", "verify", "copy", "triad", "read", "write"}
    assert found.left_out == ()
    units = found.units
    (verify,) = found.of("verify")
    assert verify.flop == 3 * units.workflops_flop + units.workmem_flop
    assert verify.bytes == units.workmem_bytes


@pytest.mark.usefixtures("without_cupy")
def test_list_and_help_need_no_device_and_write_nothing(probe, user_error, tmp_path: Path) -> None:
    done, only = probe("--list"), probe("--list", "--only", "triad")
    assert done.returncode == 0, done.stderr
    for listed, names in ((done, [p.name for p in PROBES]), (only, ["triad"])):
        assert [line.split()[0] for line in listed.stdout.splitlines()[1:] if line[0] != " "] == names
    assert [p["name"] for p in json.loads(probe("--list", "--json").stdout)["probes"]] == [p.name for p in PROBES]
    pages = [probe(word) for word in ("--help", "--version")]
    assert [(page.returncode, page.stderr) for page in pages] == [(0, "")] * 2
    for option in ("--device", "--quick / --full", "--only", "--draftN", "--workflops", "--workmem", "--out", "--csv"):
        assert option in pages[0].stdout
    for device in ((), ("--device", "cuda:0"), ("--device", "cuda")):
        user_error(probe(*device), "cupy is not installed", 'pip install "specsim[gpu]"', "--device cpu")
    assert list(tmp_path.iterdir()) == []


MISTAKES = [
    ("--device tpu", "--device: 'tpu'", "auto, cpu or cuda:N"),
    ("--device cuda:x", "--device: 'cuda:x'"),
    ("--only gemm", "--only: 'gemm' is no probe, expected one of 14, nearest: "),
    ("--draftN 0", "--draftN: 0 is not allowed", "from 1 to 1024"),
    ("--draftN 1.5", "--draftN: 1.5 is not allowed"),
    ("--workflops many", "--workflops: 'many' is not a value"),
    ("--workmem -1", "--workmem: -1 is not allowed"),
    ("--workmem inf", "--workmem: inf is not allowed"),
    ("--only empty --draftN 2", "--draftN: not used by empty"),
    ("--only draft --workflops 1:10000", "draft: ", "at most 10000"),
    ("--out probe.txt", "--out probe.txt: suffix '.txt', expected .json"),
    ("--csv probe.json", "--csv probe.json: suffix '.json', expected .csv"),
    ("--plot p.pdf", "--plot p.pdf: suffix '.pdf'"),
    ("--seed -1", "--seed"),
]


def test_a_users_mistake_is_one_line(probe, user_error, tmp_path: Path) -> None:
    for arguments, *words in MISTAKES:
        user_error(probe(*instead(("--device", "cpu"), arguments.split())), *words)
        assert list(tmp_path.iterdir()) == [], arguments


def test_files_that_exist_are_kept_unless_forced(probe, user_error, tmp_path: Path) -> None:
    for taken in ("probe.json", "probe.npz"):
        (tmp_path / taken).write_text("precious")
        user_error(probe(*SMALL), taken, "--force")
        assert (tmp_path / taken).read_text() == "precious"
        done = probe(*SMALL, "--force", "--json")
        assert done.returncode == 0, done.stderr
        assert len(load_probe(tmp_path / "probe.json").points) == 3
        assert json.loads(done.stdout) == json.loads((tmp_path / "probe.json").read_text())
        assert [p["axes"]["work_flops"] for p in json.loads(done.stdout)["points"]] == [1, 2, 4]
        for file in tmp_path.iterdir():
            file.unlink()


def test_a_wrong_result_is_recorded_and_ends_with_code_1(
    probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = np.matmul

    def every_second_row_is_left(a, b, out):
        out[::2] = right(a, b)[::2]

    monkeypatch.setattr(np, "matmul", every_second_row_is_left)
    done = probe(*SMALL, "--only", "empty")
    assert done.returncode == 1
    assert done.stderr == "probe-gpu: points failed and were not timed, see FAILED above or in the file\n"
    assert "FAILED burn_flops (3 points): wrong result: part 0 of the burn" in done.stdout
    found = load_probe(tmp_path / "probe.json")
    assert [p.probe for p in found.points] == ["empty"]
    assert all(left.failed for left in found.left_out)


def test_ctrl_c_keeps_what_was_measured_and_ends_with_130(run_real: Run, tmp_path: Path) -> None:
    folder = tmp_path / "interrupting"
    folder.mkdir()
    # Ctrl-C while the third point is measured.
    (folder / "sitecustomize.py").write_text(
        "import os, signal\n"
        "from cuda_probe.probe import runner\n"
        "measure, calls = runner.run_point, []\n"
        "def run_point(*given):\n"
        "    calls.append(given)\n"
        "    if len(calls) == 3:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return measure(*given)\n"
        "runner.run_point = run_point\n"
    )
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    picture = ("--only", "empty", "--csv", "p.csv", "--plot", "p.svg")
    done = run_real("probe-gpu", *SMALL, *picture, PYTHONPATH=path)
    kept = "what was measured is kept in probe.json, with --force the same command begins anew"
    assert (done.returncode, done.stderr) == (130, f"probe-gpu: interrupted; {kept}\n")
    found = load_probe(tmp_path / "probe.json")
    assert [p.probe for p in found.points] == ["empty", "burn_flops"]
    assert [left.reason for left in found.left_out] == ["not run: interrupted"] * 2
    assert "skipped burn_flops (2 points): not run: interrupted" in done.stdout
    assert (tmp_path / "p.csv").read_text().count("\n") == 3
    assert (tmp_path / "p.svg").exists()


def test_what_dies_has_kept_what_was_measured(probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_point, points = runner.run_point, []

    def dies(*given: Any) -> Any:
        points.append(given)
        if len(points) == 3:
            raise RuntimeError("dead")
        return run_point(*given)

    monkeypatch.setattr("simulator.ground.partial.EVERY_S", 0.0)
    monkeypatch.setattr(runner, "run_point", dies)
    assert probe(*SMALL).returncode == 70
    assert [path.name for path in tmp_path.iterdir()] == ["probe.json"]
    kept = load_probe(tmp_path / "probe.json", raw=False)
    assert (len(kept.points), kept.interrupted) == (2, True)
    assert [left.reason for left in kept.left_out] == ["not run: interrupted"]
