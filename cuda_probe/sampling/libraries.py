"""What launching on arrays takes of the library they are of: layouts, fresh arrays, the stream it works on."""

from collections.abc import Hashable
from math import prod
from typing import Any

import numpy as np

from cuda_probe.devices.arrays import KernelDevice, Place, device_name, device_of
from simulator.ground.artefacts import UserError

from . import torch_backend

ALIGNMENT_BYTES = 256


class TorchLibrary:
    """Tensors; launches go to the stream torch works on. Methods are those of `DeviceLibrary`."""

    name = "torch"

    def __init__(self, device: KernelDevice) -> None:
        self.device = device
        self.empty, self.zeros = torch_backend.empty, torch_backend.zeros
        self.view, self.integers, self.typed = torch_backend.tensor, torch_backend.integers, torch_backend.typed

    def place(self, like: Any) -> Place:
        return Place(like.get_device(), torch_backend.stream_of(like))

    def layout(self, array: Any) -> Hashable:
        return array.dtype, array.shape, array.stride(), array.get_device()


class DeviceLibrary:
    """The device's own arrays: CuPy's, or NumPy's in the tests."""

    def __init__(self, device: KernelDevice, name: str) -> None:
        self.device, self.name = device, name
        self.empty, self.zeros = device.empty, device.zeros

    def view(self, array: Any) -> Any:
        """View an array of whatever library as one of this library's."""
        return array if family(array) == self.name else self.device.from_dlpack(array)

    def place(self, like: Any) -> Place:
        """Return where launches on this array go."""
        device_id = device_of(like)[1]
        return Place(device_id, self.device.current_stream(device_id))

    def layout(self, array: Any) -> Hashable:
        """Return everything about an array but its address."""
        return array.dtype, array.shape, array.strides, device_of(array)

    def integers(self, array: Any) -> Any:
        """Return contiguous 64-bit integers, the array itself where it holds them."""
        return array.astype("int64", order="C", copy=False)

    def typed(self, array: Any, dtype: str) -> Any:
        """View the bytes of an array as another type."""
        return array.view(dtype)


# One library's arrays on one device's kernels.
Library = TorchLibrary | DeviceLibrary


def family(array: Any) -> str:
    """Return the library an array is of: numpy, torch, cupy, or another's name."""
    return type(array).__module__.partition(".")[0]


def require_same_device(arrays: dict[str, Any]) -> None:
    """Refuse arrays that do not lie where the first of them lies, naming both places; None lies anywhere."""
    (first, like), *others = arrays.items()
    wanted = device_of(like)
    for name, array in others:
        if array is not None and device_of(array) != wanted:
            raise UserError(
                f"{name}: on {device_name(device_of(array))}, expected {device_name(wanted)} as for {first}"
            )


def dtype_name(array: Any) -> str:
    """Return the name that NumPy, torch and CuPy share for a type."""
    name = getattr(array.dtype, "name", None)  # whatever the order of its bytes
    return name if isinstance(name, str) else str(array.dtype).rpartition(".")[2]


def strides_of(array: Any) -> tuple[int, ...]:
    """Return the steps from one index to the next, in elements."""
    if family(array) == "torch":
        return tuple(array.stride())
    return tuple(step // array.itemsize for step in array.strides)


def parts(library: Library, memory: Any, sizes: list[tuple[tuple[int, ...], str]]) -> list[Any]:
    """Divide memory of a library, at least `bytes_of` bytes, into arrays of these shapes and types."""
    arrays, begin = [], 0
    for shape, dtype in sizes:
        size_bytes = prod(shape) * np.dtype(dtype).itemsize
        arrays.append(library.typed(memory[begin : begin + size_bytes], dtype).reshape(shape))
        begin += padded(size_bytes)
    return arrays


def bytes_of(sizes: list[tuple[tuple[int, ...], str]]) -> int:
    """Return how many bytes `parts` needs."""
    return sum(padded(prod(shape) * np.dtype(dtype).itemsize) for shape, dtype in sizes)


def padded(size_bytes: int) -> int:
    """Round up to what the next part may begin at."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
