"""What the system tells of the processor: cores, caches, memory, load, and the threads of its BLAS."""

import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from threadpoolctl import ThreadpoolController

from cuda_probe.probe.stats import knee

SYSTEM_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
# What one control group, a container for one, may take of the memory, and has taken.
MEMORY_LIMIT, MEMORY_TAKEN = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
# The system counts processor time in hundredths of a second; less than this tells too little.
LEAST_WATCHED_S = 0.1
BUSY = ("user", "nice", "system", "irq", "softirq", "steal")  # guest time is part of user
ASSUMED_CACHE_BYTES = 32 << 20
SIZE = re.compile(r"(\d+)([KMG]?)")
SCALE = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


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


def busy_s() -> float:
    """Return the seconds that our cores have worked for anyone since the start; of all, where one is switched off."""
    usable, times = cores(), psutil.cpu_times(percpu=True)
    if max(usable) < len(times):  # else the system's numbers are not those of this list
        times = [times[core] for core in sorted(usable)]
    return sum(getattr(spent, kind, 0.0) for spent in times for kind in BUSY)


class Others:
    """Watches what other processes, and other machines on the same processor, take of our cores."""

    def __init__(self) -> None:
        self.last = time.perf_counter(), time.process_time(), busy_s()

    def cores_taken(self) -> float | None:
        """Return how many cores others kept busy since the last answer; None where that is too short to tell."""
        now = time.perf_counter(), time.process_time(), busy_s()
        if now[0] - self.last[0] < LEAST_WATCHED_S:
            return None
        taken = (now[2] - self.last[2] - (now[1] - self.last[1])) / (now[0] - self.last[0])
        self.last = now
        return max(taken, 0.0)


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
    knee_bytes = measured_cache()
    return (ASSUMED_CACHE_BYTES, "assumed") if knee_bytes is None else (knee_bytes, "measured knee")


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
    fast = knee(sizes, rates)
    return None if fast is None else int(fast)


def total_memory() -> int:
    """Return the bytes of memory of this machine, or of the container if that is less."""
    total, limit = psutil.virtual_memory().total, read(MEMORY_LIMIT)
    return min(total, int(limit)) if limit.isdecimal() else total


def available_memory() -> int:
    """Return the bytes that can be taken without swapping, about."""
    free, limit, taken = psutil.virtual_memory().available, read(MEMORY_LIMIT), read(MEMORY_TAKEN)
    return min(free, int(limit) - int(taken)) if limit.isdecimal() and taken.isdecimal() else free


def load() -> dict[str, Any]:
    """Return the load of the last minute and the mean clock frequency, where the system tells them."""
    facts: dict[str, Any] = {"load_1min": round(psutil.getloadavg()[0], 2)}
    clock = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return facts if clock is None else facts | {"clock_hz": round(clock.current * 1e6)}


def blas_name() -> str:
    """Return name and version of the BLAS that NumPy was built with."""
    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def find_blas() -> ThreadpoolController:
    """Return what controls the threads of the BLAS libraries that are loaded; of none where there is none it knows."""
    return ThreadpoolController().select(user_api="blas")
