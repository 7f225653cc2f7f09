"""The probe kernels on the CPU: a device that launches through the shim, at once or all together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cuda_probe.kernels.probe_kernels import SOURCE, STORE_ALL, Buffers, Geometry, Knobs, Steps, chain_start

from .shim.shim import Launch, build, run

SMALL = Geometry(blocks=3, threads_per_block=32)


class ProbeDevice:
    """Keeps launches until `run`, as a sanitizer's process starts slowly; blocks run in a random order."""

    def __init__(self, sanitizers: Sequence[str] = (), concurrent_blocks: int = 1) -> None:
        self.library = build(SOURCE, sanitizers=sanitizers)
        self.concurrent_blocks = concurrent_blocks
        self.launches: list[Launch] = []

    def launch(self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any]) -> None:
        seed = len(self.launches)
        self.launches.append(Launch(kernel, grid, block, args, self.concurrent_blocks, seed))

    def run(self) -> None:
        run(self.library, self.launches)
        self.launches.clear()


def steps_at(device: ProbeDevice, knobs: Knobs, position: int, geometry: Geometry = SMALL) -> Steps:
    """Steps whose chain begins at a position and whose burn results are all stored."""
    buffers = Buffers.allocate(np.zeros, geometry, knobs)
    buffers.chain[0] = chain_start(position)
    return Steps(device, geometry, buffers, knobs, STORE_ALL)
