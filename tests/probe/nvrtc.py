"""NVRTC through ctypes, without a GPU: PTX, and each kernel's resources as ptxas reports them."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The oldest that CUDA 12 and 13 share, the newest, and the one that most servers have.
ARCHITECTURES = (75, 90, 120)
KEPT = Path(tempfile.gettempdir()) / f"nvrtc-{os.getuid()}"


class NvrtcError(RuntimeError):
    """NVRTC's log of a compilation that failed."""


@dataclass(frozen=True)
class Resources:
    """What a thread of one kernel takes; `stack_bytes` is local memory: spills and arrays."""

    registers: int
    stack_bytes: int


@dataclass(frozen=True)
class Compiled:
    """A source compiled for one architecture."""

    ptx: str
    log: str

    def resources(self) -> dict[str, Resources]:
        """The resources of every kernel, by its (mangled) name."""
        entry = r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame.*?Used (\d+) registers"
        told = re.findall(entry, self.log, re.DOTALL)
        return {name: Resources(int(registers), int(stack)) for name, stack, registers in told}


@functools.cache
def compile_source(source: Path, architecture: int) -> Compiled:
    """Compile a `.cu` file for `sm_<architecture>` as CuPy does, which adds -ftz=true; a warning is an error.

    What was compiled is kept between runs, by the source, the flags and NVRTC's version.
    """
    library = _library()
    flags = (f"--gpu-architecture=sm_{architecture}", "--std=c++17", "-ftz=true", "--ptxas-options=-v")
    version = [ctypes.c_int(), ctypes.c_int()]
    _check(library, library.nvrtcVersion(*map(ctypes.byref, version)))
    inputs = repr((source.read_bytes(), flags, library._name, [number.value for number in version]))
    kept = KEPT / f"{hashlib.sha256(inputs.encode()).hexdigest()}.json"
    if kept.exists():
        return Compiled(*json.loads(kept.read_text()))
    found = _compile(library, source, architecture, flags)
    KEPT.mkdir(parents=True, exist_ok=True)
    fresh = kept.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps([found.ptx, found.log]))
    fresh.replace(kept)
    return found


def _compile(library: Any, source: Path, architecture: int, flags: tuple[str, ...]) -> Compiled:
    program, text, name = ctypes.c_void_p(), source.read_bytes(), source.name.encode()
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None))
    encoded = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
    try:
        status = library.nvrtcCompileProgram(program, len(flags), encoded)
        log = _take(library, program, "ProgramLog")
        if status or "warning" in log:
            raise NvrtcError(f"{source.name} for sm_{architecture}: {log}")
        return Compiled(_take(library, program, "PTX"), log)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


@functools.cache
def _library() -> Any:
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    found = [path for root in roots for path in sorted(root.glob("*/lib/libnvrtc.so.*"))]
    if not found:
        raise NvrtcError("NVRTC is missing: pip install nvidia-cuda-nvrtc-cu12")
    return ctypes.CDLL(str(found[-1]))


def _check(library: Any, status: int) -> None:
    if status:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise NvrtcError(library.nvrtcGetErrorString(status).decode())


def _take(library: Any, program: Any, what: str) -> str:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    content = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, content))
    return content.value.decode()
