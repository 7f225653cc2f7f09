"""Stands in for CuPy 14 where there is no GPU: what `cuda_probe.devices` use of it, on NumPy.

Names, signatures, constants and error classes are those of cupy-cuda13x 14.2; kernels are the real .cu files, built by
the g++ shim. Memory is the host's, time is counted and not measured (see `cuda.emulation`).

What it cannot prove: that NVRTC accepts the source with CuPy's options; that anything is ordered, as all is done at
once, in the order it is called; that a buffer is still alive when a real kernel reads it; how long anything takes;
that cuBLAS takes these types together; what a real driver still answers after a sticky error.
"""

import numpy as np
from numpy import float16, float32, float64, int32, int64, nan, rint, uint8, uint16, uint32, uint64

from . import cuda
from .cuda import emulation
from .cuda.compiler import RawModule

__version__ = "14.2.0"
get_default_memory_pool = cuda.memory.get_default_memory_pool


class ndarray(np.ndarray):
    """Of NumPy's behaviour, what CuPy's arrays share; scalars are arrays of no dimension, host arrays are foreign."""

    @property
    def data(self):
        return cuda.memory.MemoryPointer(self)

    def __dlpack_device__(self):
        return 2, cuda.runtime.getDevice()

    def get(self):
        emulation.synchronous("memcpyAsync")
        return np.array(self.view(np.ndarray))

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **more):
        emulation.alive()
        for value in inputs:
            if isinstance(value, np.ndarray) and not isinstance(value, ndarray):
                raise TypeError(f"Unsupported type {type(value)}")
        plain = [v.view(np.ndarray) if isinstance(v, ndarray) else v for v in inputs]
        if out is not None:
            more["out"] = tuple(v.view(np.ndarray) for v in out)
        with np.errstate(all="ignore"):
            result = getattr(ufunc, method)(*plain, **more)
        return out[0] if out is not None else np.asarray(result).view(ndarray)

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"numpy.{function.__name__} does not take arrays of a device here")

    def __getitem__(self, key):
        return np.asarray(super().__getitem__(key)).view(ndarray)

    def __setitem__(self, key, value):
        emulation.alive()
        if isinstance(value, np.ndarray) and not isinstance(value, ndarray) and value.ndim:
            raise TypeError(f"Unsupported type {type(value)}")
        self.view(np.ndarray)[key] = value.view(np.ndarray) if isinstance(value, ndarray) else value

    def all(self, axis=None):
        return np.asarray(self.view(np.ndarray).all(axis)).view(ndarray)

    def sum(self, axis=None, dtype=None):
        return np.asarray(self.view(np.ndarray).sum(axis, dtype)).view(ndarray)

    def __bool__(self):
        emulation.synchronous("memcpyAsync")
        return bool(self.view(np.ndarray))

    def __float__(self):
        emulation.synchronous("memcpyAsync")
        return float(self.view(np.ndarray))

    def __int__(self):
        emulation.synchronous("memcpyAsync")
        return int(self.view(np.ndarray))


def empty(shape, dtype=float, order="C"):
    """Return an array that holds anything: here what no test expects."""
    return cuda.memory.allocate(shape, dtype, 0xA5).view(ndarray)


def zeros(shape, dtype=float, order="C"):
    return cuda.memory.allocate(shape, dtype, 0).view(ndarray)


def full(shape, fill_value, dtype=None, order="C"):
    made = empty(shape, np.asarray(fill_value).dtype if dtype is None else dtype)
    made.fill(fill_value)
    return made


def asarray(a, dtype=None):
    emulation.synchronous("memcpyAsync")
    made = empty(np.shape(a), np.asarray(a).dtype if dtype is None else dtype)
    made.view(np.ndarray)[...] = a
    return made


def arange(start, stop=None, step=1, dtype=None):
    counted = np.arange(start, dtype=dtype) if stop is None else np.arange(start, stop, step, dtype=dtype)
    return asarray(counted)


def concatenate(tup, axis=0):
    if not all(isinstance(a, ndarray) for a in tup):
        raise TypeError("Only cupy arrays can be concatenated")
    return np.concatenate([a.view(np.ndarray) for a in tup], axis).view(ndarray)


__all__ = [
    "RawModule", "arange", "asarray", "concatenate", "cuda", "empty", "float16", "float32", "float64", "full",
    "get_default_memory_pool", "int32", "int64", "nan", "ndarray", "rint", "uint8", "uint16", "uint32", "uint64",
    "zeros",
]  # fmt: skip
