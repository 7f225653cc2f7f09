"""What the system tells of the machine, the same for every package that records where it measured."""

import os
import platform
from contextlib import suppress
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
# Of glibc's malloc.h; and how much is kept at most, free, at the end of a heap.
TRIM_THRESHOLD, MMAP_THRESHOLD, KEPT_BYTES = -1, -3, 1 << 25


def cpu_name() -> str:
    """Return the processor's name as the system tells it."""
    with suppress(OSError):
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed() -> None:
    """Let this process keep memory that it frees, where its C library can: arrays that come and go are then reused.

    Otherwise glibc hands what is free above 128 KiB back to the system, and asks for it anew: as long as reckoning.
    """
    import ctypes

    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option in (TRIM_THRESHOLD, MMAP_THRESHOLD):
            mallopt(option, KEPT_BYTES)
