"""The device of the suite: a suite that was asked for a GPU fails without one."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulator.ground.artefacts import UserError

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
