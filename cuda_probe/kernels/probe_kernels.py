"""The probe kernels as Python sees them: launch geometry and argument order. FLOP and bytes are stated in `probes`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .reference import PPM, truth_states

SOURCE = Path(__file__).parent / "probe.cu"
THREADS_PER_BLOCK = 256
BLOCKS_PER_MULTIPROCESSOR = 4
STORE_NOTHING = np.finfo(np.float32).max
STORE_ALL = np.finfo(np.float32).min

Array = Any
"""A buffer of the device, which this module only passes on."""


class Device(Protocol):
    """What runs a kernel: arrays of its own and NumPy scalars, whose types are those of the kernel's parameters."""

    def launch(self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any]) -> None:
        """Put one launch on the device's stream."""


@dataclass(frozen=True)
class Geometry:
    """A one-dimensional grid."""

    blocks: int
    threads_per_block: int = THREADS_PER_BLOCK

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ValueError(f"a grid has at least one block, not {self.blocks}")
        if self.threads_per_block % 32 or not 32 <= self.threads_per_block <= THREADS_PER_BLOCK:
            allowed = f"a multiple of 32 threads up to {THREADS_PER_BLOCK}"
            raise ValueError(f"a block has {allowed}, not {self.threads_per_block}")

    @classmethod
    def filling(cls, multiprocessors: int) -> Geometry:
        """The largest grid that is resident as a whole on every architecture: four blocks a multiprocessor."""
        return cls(BLOCKS_PER_MULTIPROCESSOR * multiprocessors)

    @property
    def threads(self) -> int:
        """Threads of the grid, T in the kernels' formulas."""
        return self.blocks * self.threads_per_block


@dataclass(frozen=True)
class Knobs:
    """One synthetic pair of models. Work is that of ONE pass over ONE token of either, in burn units.

    draft_n: K. work_flops: of each token of a pass. work_mem: of a pass, however many its tokens. mem_len: floats of
    the buffer that the passes walk through. seed, noise_ppm: of the draft's errors, per million positions.
    """

    draft_n: int = 4
    work_flops: int = 50_000
    work_mem: int = 8
    mem_len: int = 1 << 20
    seed: int = 12345
    noise_ppm: int = 3000
    vocab: int = 32_000

    def __post_init__(self) -> None:
        limits = {
            "draft_n": (1, 2**20),
            "work_flops": (0, 2**40),
            "work_mem": (0, 2**40),
            "mem_len": (1, 2**40),
            "seed": (-(2**63), 2**63 - 1),
            "noise_ppm": (0, PPM),
            "vocab": (2, 2**31 - 1),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is between {low} and {high}, not {getattr(self, name)}")


# ---- launches -------------------------------------------------------------------------------------------------------


def empty(device: Device, geometry: Geometry) -> None:
    """A launch that does nothing."""
    _start(device, geometry, "empty", ())


def burn_flops(
    device: Device, geometry: Geometry, work_flops: int, sink: Array, threshold: np.float32 = STORE_NOTHING
) -> None:
    """`work_flops` units in every thread; `sink` has a float for each."""
    args = (np.int64(work_flops), sink, threshold)
    _start(device, geometry, "burn_flops", args)


def burn_memory(
    device: Device, geometry: Geometry, work_mem: int, memory: Array, mem_len: int, first_pass: int = 0
) -> None:
    """`work_mem` passes, beginning with pass `first_pass`: walk on with what the last launch ended at."""
    _check_memory(geometry, mem_len, work_mem)
    args = (memory, np.int64(mem_len), np.int64(first_pass), np.int64(work_mem))
    _start(device, geometry, "burn_memory", args)


def stream_read(
    device: Device, geometry: Geometry, x: Array, count: int, sink: Array, threshold: np.float32 = STORE_NOTHING
) -> None:
    """Sum `count` floats, each thread its share."""
    args = (x, np.int64(count), sink, threshold)
    _start(device, geometry, "stream_read", args)


def stream_write(device: Device, geometry: Geometry, y: Array, count: int, value: float) -> None:
    """Write `value` to `count` floats."""
    args = (y, np.int64(count), np.float32(value))
    _start(device, geometry, "stream_write", args)


def stream_copy(device: Device, geometry: Geometry, x: Array, y: Array, count: int) -> None:
    """Copy `count` floats from `x` to `y`."""
    _start(device, geometry, "stream_copy", (x, y, np.int64(count)))


def stream_triad(device: Device, geometry: Geometry, x: Array, y: Array, z: Array, count: int, scale: float) -> None:
    """`z = x + scale * y` over `count` floats."""
    args = (x, y, z, np.int64(count), np.float32(scale))
    _start(device, geometry, "stream_triad", args)


@dataclass(frozen=True)
class Buffers:
    """What the steps of speculative decoding read and write, on the device.

    Attributes:
        chain: uint32[draft_n + 1]: states of the positions being drafted; chain[0] is where a round begins.
        proposed: int32[draft_n].
        result: int32[2]: accepted tokens, and the target's token after them.
        tokens: int32[draft_n + 1]: what `baseline` emits, by the slot of `chain` it writes.
        memory: float32[mem_len], finite values in [-1.5, 1.5]; zeros will do.
        sink: float32, one for each thread of the grid.
    """

    chain: Array
    proposed: Array
    result: Array
    tokens: Array
    memory: Array
    sink: Array

    @classmethod
    def allocate(cls, zeros: Callable[[int, type[Any]], Array], geometry: Geometry, knobs: Knobs) -> Buffers:
        """Buffers from a device's `zeros(count, dtype)`."""
        return cls(
            chain=zeros(knobs.draft_n + 1, np.uint32),
            proposed=zeros(knobs.draft_n, np.int32),
            result=zeros(2, np.int32),
            tokens=zeros(knobs.draft_n + 1, np.int32),
            memory=zeros(knobs.mem_len, np.float32),
            sink=zeros(geometry.threads, np.float32),
        )


def chain_start(position: int) -> np.uint32:
    """What chain[0] holds before position `position` is drafted: the state of the position before it."""
    return np.uint32(truth_states(position - 1))


@dataclass(frozen=True)
class Steps:
    """The three steps of decoding as launches on one device, for a clock to time or a graph to capture.

    `first_pass` is where a step's walk through the memory begins; every step says how far it gets, so that
    consecutive steps read what no cache still holds. Before the first step, chain[0] is `chain_start(position)`.
    """

    device: Device
    geometry: Geometry
    buffers: Buffers
    knobs: Knobs
    threshold: np.float32 = STORE_NOTHING

    def __post_init__(self) -> None:
        _check_memory(self.geometry, self.knobs.mem_len, self.knobs.work_mem)

    def draft(self, position: int, first_pass: int = 0) -> int:
        """Draft positions `position`..`position + draft_n - 1`, a launch each; returns the next `first_pass`."""
        for step in range(self.knobs.draft_n):
            first_pass = self.draft_token(step, position, first_pass)
        return first_pass

    def draft_token(self, step: int, position: int, first_pass: int = 0) -> int:
        """Launch number `step` of a round that begins at `position`; returns the next `first_pass`."""
        knobs, buffers = self.knobs, self.buffers
        args = (
            *(buffers.chain, np.int32(step), buffers.proposed, np.int64(position + step), np.int32(knobs.vocab)),
            *(np.int64(knobs.seed), np.int32(knobs.noise_ppm)),
        )
        return self._launch("draft", args, first_pass, knobs.work_flops, knobs.work_mem)

    def verify(self, position: int, first_pass: int = 0) -> int:
        """Verify the proposal made from `position` on; returns the next `first_pass`."""
        knobs, buffers = self.knobs, self.buffers
        args = (
            *(buffers.chain, np.int32(knobs.draft_n), buffers.proposed, np.int64(position), np.int32(knobs.vocab)),
            buffers.result,
        )
        return self._launch("verify", args, first_pass, knobs.work_flops, knobs.work_mem)

    def baseline(self, step: int, first_pass: int = 0) -> int:
        """Emit one token of the target: step 0 follows chain[0], step 1 follows step 0, and so on."""
        slots = self.knobs.draft_n + 1
        args = (
            *(self.buffers.chain, np.int32(step % slots), np.int32((step + 1) % slots)),
            *(self.buffers.tokens, np.int32(self.knobs.vocab)),
        )
        return self._launch("baseline", args, first_pass, self.knobs.work_flops, self.knobs.work_mem)

    def _launch(self, kernel: str, args: tuple[Any, ...], first_pass: int, work_flops: int, work_mem: int) -> int:
        geometry, buffers, lap = self.geometry, self.buffers, self.knobs.mem_len // self.geometry.threads
        work = (
            *(buffers.memory, np.int64(self.knobs.mem_len), np.int64(first_pass), np.int64(work_flops)),
            *(np.int64(work_mem), buffers.sink, self.threshold),
        )
        _start(self.device, geometry, kernel, (*args, *work))
        return (first_pass + work_mem) % lap if lap else 0


def _start(device: Device, geometry: Geometry, kernel: str, args: Sequence[Any]) -> None:
    device.launch(kernel, (geometry.blocks,), (geometry.threads_per_block,), args)


def _check_memory(geometry: Geometry, mem_len: int, work_mem: int) -> None:
    if work_mem and mem_len < geometry.threads:
        raise ValueError(f"mem_len {mem_len} leaves threads without a float: the grid has {geometry.threads}")
