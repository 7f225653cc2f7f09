"""The sampling kernels on the CPU: a device for the CUDA backend that launches through the shim."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cuda_probe.sampling
from cuda_probe.devices.arrays import CPU, Place
from cuda_probe.sampling import registry

from .shim.shim import Launch, build, run

SOURCE = Path(cuda_probe.sampling.__file__).parents[1] / "kernels" / "sampling.cu"


class ShimDevice:
    """Runs launches at once, or keeps them to be run together (`run_kept`), as a sanitizer's process starts slowly."""

    dlpack_type = CPU

    def __init__(self, sanitizers: Sequence[str] = (), *, keep: bool = False, grid: int | None = None, **how: Any):
        self.library = build(SOURCE, sanitizers=sanitizers)
        self.keep = keep
        self.grid = grid
        self.how = how
        self.stream = 0
        self.capturing = False
        self.kept: list[Launch] = []
        self.names: list[str] = []
        self.places: list[Place] = []
        self._arrays: dict[int, tuple[Any, Any]] = {}

    def launch(
        self, place: Place, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]
    ) -> None:
        values = tuple(self._array(kernel, a.owner) if isinstance(a, Address) else a for a in args)
        self.names.append(kernel)
        self.places.append(place)
        blocks = grid if self.grid is None or kernel.startswith("kv_append") else (self.grid,)
        self.kept.append(Launch(kernel, blocks, block, values, **self.how))
        if not self.keep:
            self.run_kept()

    def run_kept(self) -> None:
        run(self.library, self.kept)
        self.kept.clear()

    def address(self, array: Any) -> Any:
        return None if array is None else Address(array)

    def multiprocessors(self, device_id: int) -> int:
        return 16

    def current_stream(self, device_id: int) -> int:
        return self.stream

    def is_capturing(self, place: Place) -> bool:
        return self.capturing

    def empty(self, shape: tuple[int, ...], dtype: str, device_id: int) -> Any:
        return np.frombuffer(bytearray(GARBAGE * (math.prod(shape) * np.dtype(dtype).itemsize)), dtype).reshape(shape)

    def zeros(self, shape: tuple[int, ...], dtype: str, device_id: int) -> Any:
        return np.zeros(shape, dtype)

    def from_dlpack(self, array: Any) -> Any:
        return np.from_dlpack(array)

    def _array(self, kernel: str, owner: Any) -> Any:
        """The array at an address, as the bits the kernel reads; one object for one array."""
        if id(owner) not in self._arrays:
            raw = owner
            if isinstance(owner, torch.Tensor):
                plain = owner.detach()
                raw = (plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain).numpy()
            if kernel.startswith("kv_append") and raw.dtype != np.int64:
                unit = int(kernel.rsplit("_")[-1])
                raw = raw.view(f"u{min(unit, raw.dtype.itemsize)}") if unit <= 4 else raw
                raw = raw.reshape(-1).view(f"u{unit}") if unit <= 4 else raw
            elif raw.dtype == np.float16:
                raw = raw.view(np.uint16)
            self._arrays[id(owner)] = (owner, raw)
        return self._arrays[id(owner)][1]


GARBAGE = b"\xa5"


class Address(int):
    """Where an array lies, and the array."""

    owner: Any

    def __new__(cls, array: Any) -> "Address":
        made = super().__new__(cls, array.data_ptr() if isinstance(array, torch.Tensor) else array.ctypes.data)
        made.owner = array
        return made


@contextmanager
def kernels_on_cpu(**how: Any) -> Iterator[ShimDevice]:
    """Within it the CUDA backend runs, on the CPU."""
    device = ShimDevice(**how)
    registry.use_device(device)
    try:
        yield device
    finally:
        registry.use_device(None)
