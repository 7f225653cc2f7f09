"""The sampling kernels on the CPU: a device for the CUDA backend that launches through the shim."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cuda_probe.sampling
from cuda_probe.sampling import registry
from cuda_probe.sampling.dlpack import CPU, Pointer

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
        self.kept: list[Launch] = []
        self.names: list[str] = []
        self._arrays: dict[int, tuple[Any, Any]] = {}

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], shared_bytes: int = 0
    ) -> None:
        values = tuple(self._array(kernel, a) if isinstance(a, Pointer) else None if is_null(a, i) else a
                       for i, a in enumerate(args))  # fmt: skip
        self.names.append(kernel)
        blocks = grid if self.grid is None or kernel.startswith("kv_append") else (self.grid,)
        self.kept.append(Launch(kernel, blocks, block, values, shared_bytes, **self.how))
        if not self.keep:
            self.run_kept()

    def run_kept(self) -> None:
        run(self.library, self.kept)
        self.kept.clear()

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return np.zeros(shape, dtype)

    def stream(self, pointer: int | None) -> AbstractContextManager[Any]:
        return nullcontext()

    def _array(self, kernel: str, pointer: Pointer) -> Any:
        """The array a pointer came from, as the bits the kernel reads; one object for one array."""
        owner = pointer.owner
        if id(owner) not in self._arrays:
            raw = owner
            if isinstance(owner, torch.Tensor):
                raw = (owner.view(torch.int16) if owner.dtype == torch.bfloat16 else owner).numpy()
            if kernel.startswith("kv_append") and raw.dtype != np.int64:
                unit = int(kernel.rsplit("_")[-1])
                raw = raw.view(f"u{min(unit, raw.dtype.itemsize)}") if unit <= 4 else raw
                raw = raw.reshape(-1).view(f"u{unit}") if unit <= 4 else raw
            elif raw.dtype == np.float16:
                raw = raw.view(np.uint16)
            self._arrays[id(owner)] = (owner, raw)
        return self._arrays[id(owner)][1]


def is_null(value: Any, place: int) -> bool:
    """Whether an argument is the null pointer the CUDA backend passes for lengths that are not given."""
    return place in (4, 7) and isinstance(value, np.uint64) and value == 0


@contextmanager
def kernels_on_cpu(**how: Any) -> Iterator[ShimDevice]:
    """Within it the CUDA backend runs, on the CPU."""
    device = ShimDevice(**how)
    registry.use_device(device)
    try:
        yield device
    finally:
        registry.use_device(None)
