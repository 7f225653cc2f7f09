"""A release that no test has seen is named once; the table of those that were seen is what the project declares."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator.ground import dependency, tested

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _as_new() -> Iterator[None]:
    tested.warn_untested.cache_clear()
    yield
    tested.warn_untested.cache_clear()
    for name in tested.TESTED:  # as the session began
        tested.warn_untested(name)


@pytest.mark.parametrize(
    ("release", "said"),
    [
        ("5.0.0", ""),
        ("5.9.3+cpu", ""),
        ("5.10", ""),
        ("5.30.0", "torch 5.30.0 is newer than 5.24.0, the newest that specsim was tested with"),
        ("5.24.1.dev0", "torch 5.24.1.dev0 is newer than 5.24.0, the newest that specsim was tested with"),
        ("4.57.6", "torch 4.57.6 is older than 5.0.0, the oldest that specsim was tested with"),
    ],
)
def test_only_what_lies_outside_is_named(monkeypatch: pytest.MonkeyPatch, release: str, said: str) -> None:
    monkeypatch.setitem(tested.TESTED, "torch", ("5.0.0", "5.24.0"))
    assert tested.untested("torch", release) == said


def test_it_is_said_once_where_the_library_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(tested.TESTED, "click", ("1.0.0", "1.0.1"))
    for _ in range(2):
        dependency.require(dependency.Dependency(import_name="click", purpose="tests", extra="dev"))
    said = capsys.readouterr()
    assert re.fullmatch(r"warning: click \S+ is newer than 1.0.1, the newest that specsim was tested with\n", said.err)
    assert said.out == ""
    tested.warn_untested("numpy")  # not in the table
    monkeypatch.setitem(tested.TESTED, "not-installed", ("1.0.0", "1.0.1"))
    tested.warn_untested("not-installed")
    assert capsys.readouterr().err == ""


def test_the_table_lies_within_pyproject_and_holds_what_make_installs() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    bounds = dict(wanted.split(">=") for wanted in extras["measure"])
    assert bounds.keys() == tested.TESTED.keys()
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for name, (oldest, newest) in tested.TESTED.items():
        assert tested.numbers(bounds[name]) == tested.numbers(oldest) <= tested.numbers(newest)
        assert not tested.untested(name, pins[name])
    assert tested.numbers(pins["torch"]) == tested.numbers(tested.TESTED["torch"][1])  # held by tests/oldest.py


def test_the_oldest_releases_are_what_pyproject_states() -> None:
    script = [sys.executable, ROOT / "tests" / "oldest.py", "test"]
    oldest = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {"click==8.2", "transformers==5", "scikit-learn==1.4", "pytest==8"} <= set(oldest)
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert {pin for pin in pins if pin.startswith("torch==")} <= set(oldest)
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", line) for line in oldest)
