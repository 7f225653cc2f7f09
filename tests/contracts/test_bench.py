"""Every script of tests/bench runs: briefly here, with sizes that measure nothing."""

import runpy
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"
SCRIPTS = {path.name: ["--smoke"] for path in sorted(BENCH.glob("bench_*.py"))} | {
    "mutants.py": ["--only", "step", "--list"]
}


def test_every_script_is_either_run_or_shared() -> None:
    assert {path.name for path in BENCH.glob("*.py")} == {*SCRIPTS, "timing.py"}
    made = (BENCH.parents[1] / "Makefile").read_text()
    assert [name for name in SCRIPTS if f"tests/bench/{name}" not in made] == []


@pytest.mark.whole
@pytest.mark.parametrize("script", SCRIPTS)
def test_it_runs_to_its_end(script: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.setattr(sys, "argv", [script, *SCRIPTS[script]])
    end = None
    try:
        runpy.run_path(str(BENCH / script), run_name="__main__")
    except SystemExit as left:
        end = left.code
    assert not end
    assert capfd.readouterr().out
