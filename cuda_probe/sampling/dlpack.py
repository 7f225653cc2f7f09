"""Where an array lies, through DLPack: address, device, type and strides; no library imported, nothing copied."""

import ctypes
from dataclasses import dataclass
from typing import Any

CPU, CUDA = 1, 2
FLOAT, BFLOAT = 2, 4


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32))


class _DType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    # The head of a DLManagedTensor is its DLTensor.
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Pointer(int):
    """An address on a device, and the array that keeps it alive."""

    owner: Any

    def __new__(cls, address: int, owner: Any) -> "Pointer":
        """Make a pointer into `owner`."""
        made = super().__new__(cls, address)
        made.owner = owner
        return made


@dataclass(frozen=True)
class View:
    """What DLPack says of an array; strides in elements."""

    pointer: Pointer
    device_type: int
    dtype_code: int
    dtype_bits: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def itemsize_bytes(self) -> int:
        """Bytes of an element."""
        return self.dtype_bits // 8


def view(array: Any) -> View:
    """Describe an array without copying it; the array must outlive the use of the pointer.

    Args:
        array: Anything with `__dlpack__`: NumPy, torch, CuPy.
    """
    on_cpu = array.__dlpack_device__()[0] == CPU
    # -1: no synchronisation; launches go to the stream the array's library works on.
    capsule = array.__dlpack__() if on_cpu else array.__dlpack__(stream=-1)
    address_of = ctypes.pythonapi.PyCapsule_GetPointer
    address_of.restype, address_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = _Tensor.from_address(address_of(capsule, b"dltensor"))
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    return View(
        pointer=Pointer((tensor.data or 0) + tensor.byte_offset, array),
        device_type=tensor.device.type,
        dtype_code=tensor.dtype.code,
        dtype_bits=tensor.dtype.bits,
        shape=shape,
        strides=tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else _packed(shape),
    )


def _packed(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))
