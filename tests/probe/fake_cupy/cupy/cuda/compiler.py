"""Sources compiled when a kernel is first called, by g++ through the shim; kernels read the arrays where they lie."""

import hashlib
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from .emulation import alive, machine, run
from .stream import get_current_stream

sys.path.insert(0, str(Path(__file__).parents[3] / "shim"))
import shim

sys.path.pop(0)


class CompileException(Exception):
    def __init__(self, msg, source, name, options, backend="nvrtc"):
        self._msg, self.source, self.name, self.options = msg, source, name, options
        super().__init__()

    def __str__(self):
        return self._msg


class RawModule:
    def __init__(self, *, code=None, path=None, options=(), backend="nvrtc", **others):
        if (code is None) == (path is None):
            raise TypeError("Exactly one of `code` and `path` keyword arguments must be given.")
        if not isinstance(options, tuple) or backend not in ("nvrtc", "nvcc"):
            raise TypeError("Argument 'options' has incorrect type")
        self.code, self.options, self.library = code, options, None

    def get_function(self, name):
        return RawKernel(self, name)

    def compile(self, log_stream=None):
        self.built()

    def built(self):
        if self.library is None:
            alive()
            if "compile" in machine.fails:
                raise CompileException(f"{machine.fails['compile']}\n1 error detected", self.code, "x.cu", self.options)
            name = hashlib.sha256(self.code.encode()).hexdigest()[:16]
            folder = (
                Path(tempfile.gettempdir()) / f"fake-cupy-{os.getuid()}" / name
            )  # the shim builds a path's text once
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "module.cu").write_text(self.code)
            self.library = shim.build(folder / "module.cu")
        return self.library


class RawKernel:
    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self, grid, block, args, *, stream=None):
        if not isinstance(grid, tuple) or not isinstance(block, tuple):
            raise TypeError("Argument 'grid' has incorrect type (expected tuple)")
        copies = shim._load(self.module.built(), 1)
        signatures = shim._signatures(copies[0])
        codes = signatures[self.name]  # a real module would say: named symbol not found
        if len(codes) != len(args):
            raise TypeError(f"{self.name} takes {len(codes)} arguments, {len(args)} given: a device reads beyond them")
        values = [
            value_of(code, a, f"{self.name}, argument {i}") for i, (code, a) in enumerate(zip(codes, args, strict=True))
        ]
        item = shim.Launch(self.name, grid, block, args, seed=1)
        number = list(signatures).index(self.name)
        run(self.name, lambda: shim._run_blocks(copies, number, item, values), known(stream))

    @property
    def kernel(self):
        """The function of the present device, which takes for a stream whatever has its address as `ptr`."""
        return self


def known(stream):
    """Return the stream of an address; the present one where none is given."""
    present = get_current_stream()
    return present if stream is None or stream.ptr == present.ptr else stream


def value_of(code, value, place):
    """Return an argument as bytes; CuPy passes what it is given on, so a wrong type is a wrong value there."""
    import cupy

    if code.startswith("p"):
        if isinstance(value, cupy.ndarray):
            if code[1] in "iuf" and (
                value.dtype.itemsize != int(code[2:]) or (value.dtype.kind == "f") != (code[1] == "f")
            ):
                raise TypeError(f"{place}: the kernel reads {code[1:]}, the array holds {value.dtype}")
            return np.array(value.ctypes.data, np.uintp)
        if type(value) in (np.uint64, int):  # CuPy takes whole numbers of Python for int64
            return np.array(value, np.uintp)
        raise TypeError(f"Unsupported type {type(value)}")
    dtype = np.dtype(code)
    if isinstance(value, np.generic) and value.dtype == dtype:
        return np.array(value)
    raise TypeError(f"{place}: {dtype} wanted, {type(value).__name__} given")


__all__ = ["CompileException", "RawModule"]
