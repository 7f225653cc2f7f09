"""What all tests share: running a command, in this process or as a real one, and histogram files to feed it."""

import gc
import json
import os
import signal
import subprocess
import sysconfig
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import replace
from functools import partial
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner

from simulator.ground.tested import TESTED, warn_untested

SCRIPTS = Path(sysconfig.get_path("scripts"))
Run = Callable[..., subprocess.CompletedProcess[str]]


def pytest_configure(config: pytest.Config) -> None:
    """Give properties 50 examples and no deadline (in CI the same ones each time), and have signals heard.

    No garbage is looked for while tests are collected. A background shell, or nohup, leaves signals ignored. Loops
    run as Python, but in what `make test-whole` runs: to compile them takes a minute.
    """
    gc.disable()
    if config.getoption("markexpr") != "whole":
        os.environ.setdefault("SPECSIM_PLAIN", "1")  # before the first import of what it is for
    if find_spec("hypothesis"):  # the GPU suite does without
        from hypothesis import settings

        settings.register_profile(
            "specsim", deadline=None, max_examples=int(os.environ.get("EXAMPLES", "50")), derandomize="CI" in os.environ
        )
        settings.load_profile("specsim")
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for name in TESTED:  # said here once, and then by no command that runs in this process
        warn_untested(name)


def pytest_collection_finish() -> None:
    """Have garbage not looked for among modules and tests, which stay: that took a sixth of the suite's time.

    Nor behind a benchmark, which freezes what is there while it measures and would let all of it go again.
    """
    gc.freeze()
    gc.unfreeze = lambda: None
    gc.set_threshold(20_000)
    gc.enable()


def run_here(folder: Path, command: str, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one of our commands in this process: what it prints and its exit code are those of a real one."""
    (script,) = distribution("specsim").entry_points.select(group="console_scripts", name=command)
    words = list(map(str, arguments))
    with chdir(folder), patch.dict(os.environ, {"COLUMNS": "100"} | env):
        done = CliRunner().invoke(script.load(), words, prog_name=command, catch_exceptions=False)
    return subprocess.CompletedProcess([command, *words], done.exit_code, done.stdout, done.stderr)


def instead(usual: Sequence[object], given: Sequence[object]) -> tuple[object, ...]:
    """Return usual options, each with a value, but for those that are given, and what is given behind them."""
    pairs = zip(usual[::2], usual[1::2], strict=True)
    return (*(word for pair in pairs if pair[0] not in given for word in pair), *given)


def run_really(folder: Path, command: str, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one of our commands as users do: the script that is installed, in a process of its own."""
    words = [str(SCRIPTS / command), *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "100"} | env
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs one of our commands in a fresh folder, in this process."""
    return partial(run_here, tmp_path)


@pytest.fixture
def output(run: Run) -> Callable[..., str]:
    """Return a function that runs a command which has to succeed without a word on stderr, and returns its stdout."""

    def stdout(*words: object, **env: str) -> str:
        done = run(*words, **env)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    return stdout


@pytest.fixture(scope="session")
def run_in() -> Run:
    """Return the function behind `run`, whose first argument is the folder: for runs that several tests look at."""
    return run_here


@pytest.fixture
def run_real(tmp_path: Path) -> Run:
    """The same in a process of its own: for the one test a command that has to be, and what changes a process."""
    return partial(run_really, tmp_path)


@pytest.fixture
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the processor a small cache, as probes' buffers are many times as large, and sample a point for 50 ms."""
    from cuda_probe.devices import cpu_facts
    from cuda_probe.probe import runner

    monkeypatch.setattr(cpu_facts, "last_level_cache", lambda: (1 << 20, "given"))
    monkeypatch.setattr(runner, "QUICK", replace(runner.QUICK, time_limit_s=0.05))


def assert_user_error(done: subprocess.CompletedProcess[str], *expected: str) -> None:
    """Check for exit code 2, nothing on stdout, and one line on stderr that holds each of the expected texts."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for text in expected:
        assert text in done.stderr, done.stderr


@pytest.fixture
def user_error() -> Callable[..., None]:
    return assert_user_error


@pytest.fixture
def hist_file(tmp_path: Path) -> Path:
    """A histogram of k = 4 in the format that other tools write: no keys but k, hist and samples."""
    path = tmp_path / "accept_hist_k4.json"
    path.write_text(json.dumps({"k": 4, "hist": {"0": 20, "1": 10, "2": 10, "3": 10, "4": 50}, "samples": 100}))
    return path
