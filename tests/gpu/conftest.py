"""The device of the suite: a suite that was asked for a GPU fails without one."""

from collections.abc import Iterator

import pytest

from simulator.artefacts import UserError


@pytest.fixture(scope="session")
def device() -> Iterator[object]:
    """The first CUDA device."""
    try:
        from cuda_probe.device import open_device

        opened = open_device("cuda:0")
    except (ImportError, UserError) as error:
        pytest.fail(f"no GPU for the GPU suite: {error}", pytrace=False)
    yield opened
    opened.close()
