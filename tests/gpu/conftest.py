"""The device of the suite, and commands from the checkout: a suite that was asked for a GPU fails without one."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simulator.ground.artefacts import UserError

ROOT = Path(__file__).parents[2]
# smoke.py and what it takes of tests/probe, by their own names: a machine may have a package that is called `tests`.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "probe")]


@pytest.fixture(scope="session")
def device() -> Iterator[Any]:
    """The first CUDA device."""
    opened, why = None, ""
    try:
        from cuda_probe.devices.opening import open_device

        opened = open_device("cuda:0")
    except (ImportError, UserError) as error:
        why = str(error)
    if opened is None:
        pytest.fail(f"no GPU for the GPU suite: {why}", pytrace=False)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def torch(device: Any) -> Any:
    """The library, where it sees the GPU and transformers is there too."""
    found = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    if not found.cuda.is_available():
        pytest.skip("torch sees no GPU")
    return found


@pytest.fixture
def run_module(tmp_path: Path) -> Callable[..., None]:
    """Return what runs a command by its module, in a fresh folder; it has to succeed."""

    def call(module: str, *words: str) -> None:
        line, environment = [sys.executable, "-m", module, *words], os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return call
