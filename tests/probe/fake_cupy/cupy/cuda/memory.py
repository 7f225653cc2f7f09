"""Device memory: the host's, counted, and given back when its last array goes."""

import math
import weakref

import numpy as np

from .emulation import alive, machine, run

ALIGNMENT = 512


class OutOfMemoryError(MemoryError):
    def __init__(self, size, total, limit=0):
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


class MemoryPointer:
    """Where an array begins."""

    def __init__(self, array):
        self.array, self.ptr = array, array.ctypes.data

    def memset_async(self, value, size, stream=None):
        from .stream import get_current_stream

        raw = self.array.view(np.ndarray).reshape(-1).view(np.uint8)
        run("memset", lambda: raw[:size].fill(value), stream or get_current_stream())


class Pool:
    def free_all_blocks(self, stream=None):
        alive()  # it may call cudaFree

    def used_bytes(self):
        return machine.used_bytes


POOL = Pool()


def get_default_memory_pool():
    return POOL


def give_back(size):
    machine.used_bytes -= size


def allocate(shape, dtype, byte):
    """Return an array over memory that holds this byte everywhere."""
    alive()
    size = math.prod(shape if isinstance(shape, tuple) else (shape,)) * np.dtype(dtype).itemsize
    if machine.used_bytes + size > machine.memory_bytes:
        raise OutOfMemoryError(size, machine.used_bytes)
    block = np.full(size + ALIGNMENT, byte, np.uint8)
    machine.used_bytes += size
    weakref.finalize(block, give_back, size)
    begin = -block.ctypes.data % ALIGNMENT
    return block[begin : begin + size].view(dtype).reshape(shape)
