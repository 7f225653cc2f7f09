"""What the CUDA backend of `sampling` launches on: kernels/sampling.cu on any GPU that CuPy sees."""

import contextlib
import functools
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import cupy

from .arrays import CUDA, Place

SOURCE = Path(__file__).parents[1] / "kernels" / "sampling.cu"


class SamplingDevice:
    """All GPUs; kernels are loaded on each when they are first launched there. See `KernelDevice`."""

    dlpack_type = CUDA

    def __init__(self) -> None:
        self.module = cupy.RawModule(code=SOURCE.read_text(), options=("--std=c++17",), backend="nvrtc")
        self.functions: dict[tuple[int, str], Any] = {}

    def launch(
        self, place: Place, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]
    ) -> None:
        with on_device(place.device_id):
            function = self.functions.get((place.device_id, kernel))
            if function is None:
                function = self.functions[place.device_id, kernel] = self.module.get_function(kernel).kernel
            function(grid, block, args, stream=place)

    def address(self, array: Any) -> int:
        if array is None:
            return 0
        return int(array.data.ptr) if isinstance(array, cupy.ndarray) else int(array.data_ptr())

    @functools.cache  # noqa: B019 - one device for the life of the process
    def multiprocessors(self, device_id: int) -> int:
        return int(cupy.cuda.runtime.getDeviceProperties(device_id)["multiProcessorCount"])

    def current_stream(self, device_id: int) -> int:
        return int(cupy.cuda.get_current_stream(device_id).ptr)

    def is_capturing(self, place: Place) -> bool:
        # The default stream cannot be captured, and cannot be asked either while another one is.
        return place.ptr not in DEFAULT_STREAMS and bool(cupy.cuda.runtime.streamIsCapturing(place.ptr))

    def empty(self, shape: tuple[int, ...], dtype: str, device_id: int) -> Any:
        with on_device(device_id):
            return cupy.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: str, device_id: int) -> Any:
        with on_device(device_id):
            return cupy.zeros(shape, dtype)

    def from_dlpack(self, array: Any) -> Any:
        return cupy.from_dlpack(array.detach() if hasattr(array, "detach") else array)


DEFAULT_STREAMS = (0, cupy.cuda.runtime.streamLegacy)


def on_device(device_id: int) -> AbstractContextManager[Any]:
    """Return a context in which a device is the present one."""
    is_present = cupy.cuda.runtime.getDevice() == device_id
    return contextlib.nullcontext() if is_present else cupy.cuda.Device(device_id)


def sampling_device() -> SamplingDevice | str:
    """Return the device of the sampling kernels, or why there is none."""
    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            return "CuPy finds no CUDA device"
        device = SamplingDevice()
        device.module.compile()
    except (RuntimeError, OSError, cupy.cuda.compiler.CompileException) as error:
        return f"CuPy cannot run kernels here ({' '.join(str(error).split())[:200]})"
    return device
