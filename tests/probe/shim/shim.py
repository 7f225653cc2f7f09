"""Builds a CUDA source for the CPU with g++ and launches its kernels on NumPy arrays, with or without sanitizers.

A library built with sanitizers runs in a Python process of its own, under the sanitizer's runtime; `launch` takes care
of that. Not a simulator of a device: no caches, no timing, no memory model beyond what a race sanitizer sees.

Long because it is the whole of a launch: building, loading, passing arguments, threads and sanitizers.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import hashlib
import itertools
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

HEADER = Path(__file__).with_name("cuda_shim.h")
ADDRESS = ("address", "undefined")
THREAD = ("thread",)
SANITIZER_EXIT = 66
FLAGS = ("-std=c++20", "-g1", "-shared", "-fPIC", "-pthread", "-ffp-contract=off", "-fno-gnu-unique")
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-unused-parameter")


class LaunchError(RuntimeError):
    """A kernel did what CUDA forbids: a mask without its own lane, a collective that some never reach."""


class SanitizerError(RuntimeError):
    """A sanitizer's report."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Attributes:
        kernel: The kernel's name.
        grid: Blocks, one or two numbers.
        block: Threads of a block.
        args: NumPy arrays (pointers, updated in place; None is the null pointer), NumPy scalars of exactly the
            parameter's type, or Python integers for integers.
        concurrent_blocks: How many blocks run at the same time.
        seed: Run the blocks in a random order drawn from this seed; None runs them by number.
    """

    kernel: str
    grid: int | tuple[int, ...]
    block: int | tuple[int, ...]
    args: Sequence[Any]
    concurrent_blocks: int = 1
    seed: int | None = None


def build(source: Path, *, sanitizers: Sequence[str] = (), defines: Sequence[str] = ()) -> Path:
    """Compile a `.cu` file to a shared library and return its path; an unchanged source is compiled once.

    Args:
        source: The CUDA source.
        sanitizers: `ADDRESS`, `THREAD` or none.
        defines: Macros, `NAME` or `NAME=VALUE`.
    """
    suffix = "-".join(sanitizers) or "plain"
    folder = Path(tempfile.gettempdir()) / f"cuda-shim-{os.getuid()}"
    unit = _translation_unit(source)
    level = "-O0" if sanitizers else "-O1"  # what a sanitizer watches takes longer to optimise than to run
    watched = [f"-fsanitize={name}" for name in sanitizers]
    options = [*FLAGS, level, *WARNINGS, *watched, *(f"-D{name}" for name in defines)]
    if "undefined" in sanitizers:
        options.append("-fno-sanitize-recover=undefined")
    digest = _digest(unit, HEADER.read_text(), *options, _compiler_version())
    library = folder / f"{source.stem}-{digest}-{suffix}.so"
    if not library.exists():
        _compile(unit, source, options, library)
    return library


def launch(library: Path, *what: Any, **how: Any) -> None:
    """Run one kernel to its end: what `Launch` takes."""
    run(library, [Launch(*what, **how)])


def run(library: Path, launches: Sequence[Launch], *, patience_s: int = 60) -> None:
    """Run launches one after another, all in one process of its own where the library has sanitizers.

    Args:
        library: What `build` returned.
        launches: The launches; an array that occurs in several of them is one buffer.
        patience_s: How long a lane waits for others before the launch counts as hung.
    """
    runtime = _runtime_of(library)
    if runtime is None or runtime in os.environ.get("LD_PRELOAD", "").split():
        copies = _load(library, max((item.concurrent_blocks for item in launches), default=1))
        for copy in copies:
            copy.cuda_shim_patience(patience_s)
        for item in launches:
            _run_here(copies, item)
    else:
        _run_apart(library, launches, patience_s, runtime)


# ---- compiling ------------------------------------------------------------------------------------------------------


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _translation_unit(source: Path) -> str:
    """The source, and after it the table of its kernels."""
    text = source.read_text()
    bare = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.S)
    kernel = r"__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*|\w+\s+)*(\w+)\s*\("
    names = re.findall(rf'extern\s+"C"\s+{kernel}', bare)
    for content in re.findall(r'extern\s+"C"\s*\{(.*)\}', bare, flags=re.S):
        names += re.findall(kernel, content)
    table = [f'static cuda_shim::Registration cuda_shim_{name}("{name}", &{name});' for name in dict.fromkeys(names)]
    return "\n".join([f'#line 1 "{source}"', text, *table, ""])


def _compile(unit: str, source: Path, options: Sequence[str], library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    is_plain = options == [*FLAGS, "-O1", *WARNINGS]
    header = _precompiled(library.parent, options) if is_plain else HEADER
    with tempfile.TemporaryDirectory(dir=library.parent) as name:
        scratch = Path(name)
        (scratch / "unit.cpp").write_text(unit)
        paths = ["-I", str(scratch), "-I", str(source.parent), "-include", str(header)]
        _run_compiler([*options, *paths, str(scratch / "unit.cpp")], source, library)


def _precompiled(folder: Path, options: Sequence[str]) -> Path:
    """The shim's header, compiled ahead: most of what a kernel's compilation takes."""
    beside = folder / f"header-{_digest(HEADER.read_text(), *options, _compiler_version())}"
    if not (beside / f"{HEADER.name}.gch").exists():
        beside.mkdir(exist_ok=True)
        shutil.copy(HEADER, beside)
        own = [option for option in options if option != "-Werror"]  # it is no header of its own here
        _run_compiler([*own, "-x", "c++-header", str(HEADER)], HEADER, beside / f"{HEADER.name}.gch")
    return beside / HEADER.name


def _run_compiler(words: Sequence[str], source: Path, made: Path) -> None:
    """Run g++; what it makes is there whole or not at all."""
    with tempfile.TemporaryDirectory(dir=made.parent) as name:
        done = subprocess.run(["g++", *words, "-o", f"{name}/{made.name}"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"g++ rejects {source}:\n{done.stderr}")
        (Path(name) / made.name).replace(made)


@functools.cache
def _compiler_version() -> str:
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout


# ---- launching in this process --------------------------------------------------------------------------------------

_copies: dict[Path, list[ctypes.CDLL]] = {}


def _load(library: Path, count: int) -> list[ctypes.CDLL]:
    """`count` independent copies of the library: static shared memory is per copy."""
    loaded = _copies.setdefault(library, [])
    while len(loaded) < count:
        with tempfile.TemporaryDirectory(dir=library.parent) as name:
            copy = shutil.copy(library, Path(name) / library.name) if loaded else library
            loaded.append(_declare(ctypes.CDLL(str(copy))))
    return loaded[:count]


def _declare(handle: ctypes.CDLL) -> ctypes.CDLL:
    handle.cuda_shim_kernels.restype = ctypes.c_char_p
    handle.cuda_shim_allocate.restype = ctypes.c_void_p
    handle.cuda_shim_allocate.argtypes = [ctypes.c_size_t]
    handle.cuda_shim_release.argtypes = [ctypes.c_void_p]
    handle.cuda_shim_release.restype = None
    handle.cuda_shim_patience.argtypes = [ctypes.c_long]
    handle.cuda_shim_patience.restype = None
    pointer, number, size = ctypes.c_void_p, ctypes.c_uint, ctypes.c_size_t
    handle.cuda_shim_run.argtypes = [ctypes.c_int, pointer, number, pointer, pointer, size, pointer, pointer, size]
    return handle


def _signatures(handle: ctypes.CDLL) -> dict[str, list[str]]:
    text = handle.cuda_shim_kernels().decode()
    pairs = (entry.rsplit(":", 1) for entry in text.split(";") if entry)
    return {name: [code for code in codes.split(",") if code] for name, codes in pairs}


def _run_here(copies: Sequence[ctypes.CDLL], item: Launch) -> None:
    signatures = _signatures(copies[0])
    if item.kernel not in signatures:
        raise ValueError(f"no kernel {item.kernel!r}; there are {', '.join(signatures)}")
    codes = signatures[item.kernel]
    if len(codes) != len(item.args):
        raise TypeError(f"{item.kernel} takes {len(codes)} arguments, {len(item.args)} given")
    _refuse_overlaps(item.args)
    memory = _Memory(copies[0])
    try:
        values = [
            _value(memory, code, arg, f"{item.kernel}, argument {i}")
            for i, (code, arg) in enumerate(zip(codes, item.args, strict=True))
        ]
        _run_blocks(copies[: item.concurrent_blocks], list(signatures).index(item.kernel), item, values)
        memory.copy_back()
    finally:
        memory.release()


class _Memory:
    """Buffers of exactly the arrays' sizes, so that an address sanitizer sees the first byte beyond them."""

    def __init__(self, handle: ctypes.CDLL) -> None:
        self.handle = handle
        self.buffers: dict[int, tuple[int, Any]] = {}

    def address(self, array: Any) -> int:
        if id(array) not in self.buffers:
            address = self.handle.cuda_shim_allocate(array.nbytes)
            ctypes.memmove(address, array.ctypes.data, array.nbytes)
            self.buffers[id(array)] = (address, array)
        return self.buffers[id(array)][0]

    def copy_back(self) -> None:
        for address, array in self.buffers.values():
            if array.flags.writeable:
                ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def release(self) -> None:
        for address, _ in self.buffers.values():
            self.handle.cuda_shim_release(address)


def _refuse_overlaps(args: Sequence[Any]) -> None:
    arrays = list({id(arg): arg for arg in args if isinstance(arg, np.ndarray)}.values())
    for one, other in itertools.combinations(arrays, 2):
        if np.may_share_memory(one, other):
            raise ValueError("two different arrays over the same memory: pass one and the same array twice")


def _value(memory: _Memory, code: str, arg: Any, place: str) -> Any:
    """The argument as bytes of the kernel's type."""
    if code.startswith("p"):
        return _pointer(memory, code[1:], arg, place)
    dtype = np.dtype(code)
    if isinstance(arg, int) and not isinstance(arg, bool) and code[0] in "iu":
        return np.array(arg, dtype=dtype)  # an overflow raises
    if isinstance(arg, np.generic) and arg.dtype == dtype:
        return np.array(arg)
    raise TypeError(f"{place}: {dtype} wanted, {type(arg).__name__} {arg!r} given")


def _pointer(memory: _Memory, code: str, arg: Any, place: str) -> Any:
    if arg is None:
        return np.array(0, dtype=np.uintp)
    if not isinstance(arg, np.ndarray) or not arg.flags.c_contiguous:
        raise TypeError(f"{place}: a contiguous NumPy array wanted, {type(arg).__name__} given")
    if code[0] in "iuf" and (arg.dtype.itemsize != int(code[1:]) or (arg.dtype.kind == "f") != (code[0] == "f")):
        raise TypeError(f"{place}: the kernel reads {np.dtype(code)}, the array holds {arg.dtype}")
    return np.array(memory.address(arg), dtype=np.uintp)


def _run_blocks(copies: Sequence[ctypes.CDLL], kernel: int, item: Launch, values: Sequence[Any]) -> None:
    grid = np.array((*((item.grid,) if isinstance(item.grid, int) else item.grid), 1)[:2], np.uint32)
    (block,) = (item.block,) if isinstance(item.block, int) else item.block
    if not 0 < block <= 1024:
        raise ValueError(f"a block has 1 to 1024 threads, not {block}")
    order = np.arange(grid.prod(), dtype=np.uint64)
    if item.seed is not None:
        np.random.default_rng(item.seed).shuffle(order)
    arguments = (ctypes.c_void_p * max(1, len(values)))(*(value.ctypes.data for value in values))
    following = np.zeros(1, dtype=np.uint64)
    failures: list[str] = []

    def work(handle: ctypes.CDLL) -> None:
        message = ctypes.create_string_buffer(400)
        failed = handle.cuda_shim_run(
            kernel, grid.ctypes.data, block, arguments, order.ctypes.data, order.size, following.ctypes.data,
            message, len(message),
        )  # fmt: skip
        if failed:
            failures.append(message.value.decode())

    threads = [threading.Thread(target=work, args=(handle,)) for handle in copies[1:]]
    for thread in threads:
        thread.start()
    work(copies[0])
    for thread in threads:
        thread.join()
    if failures:
        raise LaunchError(f"{item.kernel}: {failures[0]}")


# ---- launching under a sanitizer ------------------------------------------------------------------------------------


def _runtime_of(library: Path) -> str | None:
    """The sanitizer runtime that has to be in the process before anything else."""
    for sanitizer, name in (("address", "libasan.so"), ("thread", "libtsan.so"), ("undefined", "libubsan.so")):
        if sanitizer in library.stem.split("-"):
            found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
            return str(Path(found.stdout.strip()).resolve())
    return None


def _run_apart(library: Path, launches: Sequence[Launch], patience_s: int, runtime: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        job = Path(name) / "job.pickle"
        job.write_bytes(pickle.dumps((str(library), [_fields(item) for item in launches], patience_s)))
        common = f"exitcode={SANITIZER_EXIT}:halt_on_error=1"
        environment = os.environ | {
            "LD_PRELOAD": runtime,
            "ASAN_OPTIONS": f"{common}:detect_leaks=0:detect_odr_violation=0:detect_stack_use_after_return=0",
            "UBSAN_OPTIONS": f"{common}:print_stacktrace=1",
            "TSAN_OPTIONS": f"{common}:report_signal_unsafe=0:history_size=4",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONHASHSEED": "0",
        }
        done = subprocess.run([sys.executable, __file__, str(job)], capture_output=True, text=True, env=environment)
        if done.returncode == SANITIZER_EXIT or "Sanitizer" in done.stderr or "runtime error:" in done.stderr:
            raise SanitizerError(done.stderr)
        if done.returncode:
            raise RuntimeError(f"the process under the sanitizer failed ({done.returncode}):\n{done.stderr}")
        failure, changed = pickle.loads(job.read_bytes())
    if failure is not None:
        kind, text = failure
        known = {"LaunchError": LaunchError, "ValueError": ValueError, "TypeError": TypeError}
        raise known.get(kind, RuntimeError)(text)
    for item, args in zip(launches, changed, strict=True):
        _take_over(item.args, args)


def _fields(item: Launch) -> dict[str, Any]:
    """A launch in built-in types: the other process knows this module by another name."""
    return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}


def _take_over(arrays: Sequence[Any], changed: Sequence[Any]) -> None:
    for array, result in zip(arrays, changed, strict=True):
        if isinstance(array, np.ndarray) and array.flags.writeable:
            array[...] = result


def _serve(job: Path) -> None:
    library, fields, patience_s = pickle.loads(job.read_bytes())
    launches = [Launch(**values) for values in fields]
    failure: tuple[str, str] | None = None
    try:
        run(Path(library), launches, patience_s=patience_s)
    except (LaunchError, ValueError, TypeError, OverflowError) as error:
        failure = (type(error).__name__, str(error))
    job.write_bytes(pickle.dumps((failure, [item.args for item in launches])))


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
