"""Where an array lies, in the numbers of DLPack, which NumPy, torch and CuPy share, and what launches kernels there."""

from typing import Any, NamedTuple, Protocol

CPU, CUDA = 1, 2
NAMES = {CPU: "the CPU", CUDA: "CUDA device {}"}


def device_of(array: Any) -> tuple[int, int]:
    """Return the kind of device and its number."""
    kind, number = array.__dlpack_device__()
    return int(kind), int(number)


def device_name(device: tuple[int, int]) -> str:
    """Return what to call a device."""
    kind, number = device
    return NAMES.get(kind, f"DLPack device {kind}:{{}}").format(number)


class Place(NamedTuple):
    """A device and the address of one of its streams; what CuPy takes for a stream has its address as `ptr`."""

    device_id: int
    ptr: int


class KernelDevice(Protocol):
    """What runs kernels: CuPy on a GPU, the shim on a CPU in the tests. Its own arrays are CuPy's or NumPy's."""

    dlpack_type: int

    def launch(
        self, place: Place, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]
    ) -> None:
        """Start a kernel; arguments are NumPy scalars of the kernel's own types, and addresses."""

    def address(self, array: Any) -> Any:
        """Return the address of an array as `launch` takes it; the null pointer for None."""

    def multiprocessors(self, device_id: int) -> int:
        """Return how many multiprocessors a device has."""

    def current_stream(self, device_id: int) -> int:
        """Return the address of the stream that the device's own arrays are worked on at present."""

    def is_capturing(self, place: Place) -> bool:
        """Say whether launches on a stream become part of a graph at present."""

    def empty(self, shape: tuple[int, ...], dtype: str, device_id: int) -> Any:
        """Return an array of the device's own, whatever it holds."""

    def zeros(self, shape: tuple[int, ...], dtype: str, device_id: int) -> Any:
        """Return an array of zeros of the device's own."""

    def from_dlpack(self, array: Any) -> Any:
        """View an array of another library as one of the device's own."""
