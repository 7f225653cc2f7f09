"""What all tests share: running a command as a real subprocess, and histogram files to feed it."""

import json
import os
import signal
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(sysconfig.get_path("scripts"))
Run = Callable[..., subprocess.CompletedProcess[str]]


def pytest_configure() -> None:
    """Undo what nohup or a background shell left: commands under test would ignore the signals that tests send."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs one of our commands in a fresh folder and captures what it prints."""

    def call(command: str, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
        words = [str(SCRIPTS / command), *map(str, arguments)]
        environment = os.environ | {"COLUMNS": "100"} | env
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return call


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
