"""The kill matrix in short; `make torture` is the whole of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from .kills import ROOT, Scenario, points


def careless() -> None:
    """Write a result in two steps that belong together."""
    Path("a.txt").write_text("a")
    Path("b.txt").write_text("b")


def test_a_command_that_loses_its_work_is_found(tmp_path: Path) -> None:
    def gives_up() -> int:
        return careless() or 0 if not list(Path().iterdir()) else 2

    ways = {"careful": careless, "careless": lambda: None, "refuses": gives_up}
    scenario = Scenario(name="careless", work=careless, ways=ways, may_refuse=("refuses",))
    found = {(p.event, p.way): bool(p.wrong) for p in points(scenario, tmp_path, None) if p.way != "itself"}
    assert {event for event, _ in found} == {"0 open a.txt", "1 open b.txt"}
    assert [found[event, "careful"] for event in ("0 open a.txt", "1 open b.txt")] == [False, False]
    assert [found[event, "careless"] for event in ("0 open a.txt", "1 open b.txt")] == [True, True]
    assert [found[event, "refuses"] for event in ("0 open a.txt", "1 open b.txt")] == [False, True]


@pytest.mark.whole
def test_a_measurement_killed_at_its_beginning_amid_and_at_its_end_goes_on_to_the_same_bytes() -> None:
    words = [sys.executable, "-m", "tests.torture.kills", "--points", "3", "measured"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == "measured: itself 3, rerun 3, --resume 3, --force 3, validate --live 3 points"
