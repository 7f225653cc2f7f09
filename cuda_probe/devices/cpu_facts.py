"""What the system tells of the processor: model, cores, caches, memory, load, and the threads of its BLAS."""

import ctypes
import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cuda_probe.probe.stats import knee

SYSTEM_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
PROCESS_MAPS = Path("/proc/self/maps")
PROCESSOR_TIMES = Path("/proc/stat")
# The system counts processor time in hundredths of a second; less than this tells too little.
LEAST_WATCHED_S = 0.1
ASSUMED_CACHE_BYTES = 32 << 20
SIZE = re.compile(r"(\d+)([KMG]?)")
SCALE = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
# OpenBLAS as built by distributions, by NumPy for its wheels, and with 64-bit indices.
BLAS_SYMBOLS = [f"{start}openblas_{{}}_num_threads{end}" for start in ("scipy_", "") for end in ("64_", "")]
BLAS_SYMBOLS += ["MKL_{}_Num_Threads"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blas:
    """The threads of a BLAS library that is loaded."""

    threads: Callable[[], int]
    set_threads: Callable[[int], object]


def read(path: Path) -> str:
    """Return a file of the system's, empty where it is not there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def cores() -> set[int]:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def busy_s() -> float | None:
    """Return the seconds that our cores have worked for anyone since the start; None where it is not told."""
    # user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user.
    lines = re.findall(r"^cpu(\d+) (.+)$", read(PROCESSOR_TIMES), re.MULTILINE)
    own = cores()
    ticks = [[int(t) for t in times.split()[:8]] for core, times in lines if int(core) in own]
    if not ticks:
        return None
    return sum(sum(row[:3]) + sum(row[5:]) for row in ticks) / os.sysconf("SC_CLK_TCK")


class Others:
    """Watches what other processes, and other machines on the same processor, take of our cores."""

    def __init__(self) -> None:
        self.last = time.perf_counter(), time.process_time(), busy_s()

    def cores_taken(self) -> float | None:
        """Return how many cores others kept busy since the last answer; None where that is too short or not told."""
        now = time.perf_counter(), time.process_time(), busy_s()
        if now[2] is None or self.last[2] is None or now[0] - self.last[0] < LEAST_WATCHED_S:
            return None
        taken = (now[2] - self.last[2] - (now[1] - self.last[1])) / (now[0] - self.last[0])
        self.last = now
        return max(taken, 0.0)


def model_name() -> str:
    """Return what the processor calls itself."""
    found = re.search(r"^model name\s*:\s*(.+)$", read(Path("/proc/cpuinfo")), re.MULTILINE)
    return found.group(1) if found else platform.processor() or platform.machine()


def cache_sizes(folder: Path = SYSTEM_CACHES) -> dict[int, int]:
    """Return the bytes of the data cache of each level, as Linux lists them."""
    sizes = {}
    for entry in sorted(folder.glob("index*")):
        size, level = SIZE.fullmatch(read(entry / "size")), read(entry / "level")
        if size and level.isdecimal() and read(entry / "type") in ("Data", "Unified"):
            sizes[int(level)] = int(size.group(1)) * SCALE[size.group(2)]
    return sizes


def last_level_cache(folder: Path = SYSTEM_CACHES) -> tuple[int, str]:
    """Return the last-level cache in bytes and how it is known: from the system, by its knee, or assumed."""
    sizes = cache_sizes(folder)
    if sizes:
        return sizes[max(sizes)], "/sys"
    found = measured_cache()
    return (ASSUMED_CACHE_BYTES, "assumed") if found is None else (found, "measured knee")


def measured_cache() -> int | None:
    """Return the size from which copying a buffer gets slow; None where no knee shows."""
    sizes = [1 << exponent for exponent in range(18, 29)]
    rates = []
    for size in sizes:
        source = np.zeros(size // 8, np.float32)
        target = np.ones_like(source)
        times = []
        for _ in range(7):
            began = time.perf_counter()
            np.copyto(target, source)
            times.append(time.perf_counter() - began)
        rates.append(size / min(times))
    found = knee(sizes, rates)
    return None if found is None else int(found)


def memory_figure(name: str) -> int | None:
    found = re.search(rf"^{name}:\s*(\d+) kB", read(Path("/proc/meminfo")), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def total_memory() -> int:
    """Return the bytes of memory of this machine, or of the container if that is less."""
    limit = read(Path("/sys/fs/cgroup/memory.max"))
    total = memory_figure("MemTotal") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(total, int(limit)) if limit.isdecimal() else total


def available_memory() -> int:
    """Return the bytes that can be taken without swapping, about."""
    free = memory_figure("MemAvailable") or total_memory() // 2
    limit, used = read(Path("/sys/fs/cgroup/memory.max")), read(Path("/sys/fs/cgroup/memory.current"))
    return min(free, int(limit) - int(used)) if limit.isdecimal() and used.isdecimal() else free


def load() -> dict[str, Any]:
    """Return the load of the last minute and the mean clock frequency, where the system tells them."""
    found: dict[str, Any] = {}
    if hasattr(os, "getloadavg"):
        found["load_1min"] = round(os.getloadavg()[0], 2)
    clocks = [float(c) for c in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", read(Path("/proc/cpuinfo")), re.MULTILINE)]
    if clocks:
        found["clock_hz"] = round(float(np.mean(clocks)) * 1e6)
    return found


def blas_name() -> str:
    """Return name and version of the BLAS that NumPy was built with."""
    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def find_blas() -> Blas | None:
    """Return the threads of the BLAS that NumPy has loaded; None where it cannot be told from here."""
    paths = {line.split()[-1] for line in read(PROCESS_MAPS).splitlines() if re.search(r"blas|mkl_rt", line)}
    for path in sorted(p for p in paths if p.startswith("/")):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for symbol in BLAS_SYMBOLS:
            get, put = (getattr(library, symbol.format(word), None) for word in words(symbol))
            if get is not None and put is not None:
                return Blas(threads=get, set_threads=put)
    return None


def words(symbol: str) -> tuple[str, str]:
    """Return how a library spells get and set."""
    return ("Get_Max", "Set") if symbol.startswith("MKL") else ("get", "set")
