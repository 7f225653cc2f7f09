"""Where an array lies, in the numbers of DLPack, which NumPy, torch and CuPy share."""

from typing import Any

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
