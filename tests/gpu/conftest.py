"""The device of the suite: a suite that was asked for a GPU fails without one."""

from collections.abc import Iterator
from typing import Any

import pytest

from simulator.ground.artefacts import UserError


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
