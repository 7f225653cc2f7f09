"""NVRTC through ctypes, without a GPU: PTX, and each kernel's resources as read from the cubin's ELF sections."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import pickle
import struct
import tempfile
from collections.abc import Sequence
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
    """What one kernel takes of a multiprocessor; `stack_bytes` is local memory of a thread: spills and arrays."""

    registers: int
    stack_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Compiled:
    """A source compiled for one architecture."""

    ptx: str
    cubin: bytes
    log: str

    def resources(self) -> dict[str, Resources]:
        """The resources of every kernel, by its (mangled) name."""
        return _read_cubin(self.cubin)


@functools.cache
def compile_source(source: Path, architecture: int, options: tuple[str, ...] = ()) -> Compiled:
    """Compile a `.cu` file for `sm_<architecture>` as CuPy does, which adds -ftz=true; a warning is an error.

    What was compiled is kept between runs, by the source, the options and NVRTC's version.
    """
    library = _library()
    folders = tuple(f"-I{path}" for path in include_folders())
    flags = (f"--gpu-architecture=sm_{architecture}", "--std=c++17", "-ftz=true", *folders, *options)
    version = [ctypes.c_int(), ctypes.c_int()]
    _check(library, library.nvrtcVersion(*map(ctypes.byref, version)))
    inputs = repr((source.read_bytes(), flags, library._name, [number.value for number in version]))
    kept = KEPT / hashlib.sha256(inputs.encode()).hexdigest()
    if kept.exists():
        return Compiled(*pickle.loads(kept.read_bytes()))
    found = _compile(library, source, architecture, flags)
    KEPT.mkdir(parents=True, exist_ok=True)
    fresh = kept.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(pickle.dumps((found.ptx, found.cubin, found.log)))
    fresh.replace(kept)
    return found


def _compile(library: Any, source: Path, architecture: int, flags: Sequence[str]) -> Compiled:
    program, text, name = ctypes.c_void_p(), source.read_bytes(), source.name.encode()
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None))
    encoded = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
    try:
        status = library.nvrtcCompileProgram(program, len(flags), encoded)
        log = _take(library, program, "ProgramLog").rstrip(b"\0").decode()
        if status or "warning" in log:
            raise NvrtcError(f"{source.name} for sm_{architecture}: {log}")
        ptx = _take(library, program, "PTX").rstrip(b"\0").decode()
        return Compiled(ptx, _take(library, program, "CUBIN"), log)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def include_folders() -> list[Path]:
    """Where the CUDA headers of the wheels lie (cuda_fp16.h: nvidia-cuda-runtime)."""
    return [path for path in _wheel_folders("include") if (path / "cuda_fp16.h").exists()]


def _wheel_folders(kind: str) -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    return [folder for root in roots for folder in sorted(root.glob(f"*/{kind}"))]


@functools.cache
def _library() -> Any:
    found = [path for folder in _wheel_folders("lib") for path in sorted(folder.glob("libnvrtc.so.*"))]
    if not found:
        raise NvrtcError("NVRTC is missing: pip install nvidia-cuda-nvrtc-cu12")
    return ctypes.CDLL(str(found[-1]))


def _check(library: Any, status: int) -> None:
    if status:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise NvrtcError(library.nvrtcGetErrorString(status).decode())


def _take(library: Any, program: Any, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    content = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, content))
    return content.raw


# ---- cubin: a 64-bit ELF file; .nv.info lists (attribute, symbol, value) --------------------------------------------

_STACK_BYTES, _REGISTERS = 0x11, 0x2F  # EIATTR_FRAME_SIZE, EIATTR_REGCOUNT
_SYMBOL_VALUE = 0x04  # EIFMT_SVAL: a 16-bit length and that many bytes


def _read_cubin(cubin: bytes) -> dict[str, Resources]:
    sections = _sections(cubin)
    symbols = _symbols(cubin, sections)
    values: dict[tuple[int, str], int] = {}
    for attribute, content in _attributes(_content(cubin, sections[".nv.info"])):
        if attribute in (_STACK_BYTES, _REGISTERS):
            index, value = struct.unpack("<II", content)
            values[attribute, symbols[index]] = value
    kernels = [name.removeprefix(".text.") for name in sections if name.startswith(".text.")]
    return {
        name: Resources(
            registers=values[_REGISTERS, name],
            stack_bytes=values[_STACK_BYTES, name],
            shared_bytes=sections.get(f".nv.shared.{name}", (0,) * 10)[5],
        )
        for name in kernels
        if (_REGISTERS, name) in values
    }


def _sections(cubin: bytes) -> dict[str, tuple[int, ...]]:
    """Section headers (name, type, flags, address, offset, size, link, info, alignment, entry size) by name."""
    start = struct.unpack_from("<Q", cubin, 0x28)[0]
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", cubin, start + i * size) for i in range(count)]
    return {_string(cubin, headers[names][4] + header[0]): header for header in headers}


def _symbols(cubin: bytes, sections: dict[str, tuple[int, ...]]) -> list[str]:
    table, names = sections[".symtab"], sections[".strtab"]
    offsets = range(table[4], table[4] + table[5], table[9])
    return [_string(cubin, names[4] + struct.unpack_from("<I", cubin, offset)[0]) for offset in offsets]


def _attributes(content: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(content):
        form, attribute, length = struct.unpack_from("<BBH", content, at)
        at += 4
        if form == _SYMBOL_VALUE:
            found.append((attribute, content[at : at + length]))
            at += length
    return found


def _content(cubin: bytes, section: tuple[int, ...]) -> bytes:
    return cubin[section[4] : section[4] + section[5]]


def _string(cubin: bytes, at: int) -> str:
    return cubin[at : cubin.index(b"\0", at)].decode()
