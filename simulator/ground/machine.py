"""What the system tells of the machine, the same for every package that records where it measured."""

import os
import platform
from contextlib import suppress
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


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
