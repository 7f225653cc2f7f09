"""The machine that decodes: what it is, how much memory and energy a stretch of work takes, and how to repeat it."""

import importlib
import importlib.util
import os
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from simulator.artefacts import UserError

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
CPU_INFO = Path("/proc/cpuinfo")
RESET_PEAK = "5"  # proc(5): sets the resident set's high water mark to its present size
MILLIJOULES = 1e-3
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


def cuda_indices(devices: Sequence[str]) -> list[int]:
    """Return which CUDA devices are among these torch devices."""
    import torch

    found = {torch.device(d) for d in devices}
    return sorted({d.index or 0 for d in found if d.type == "cuda"})


def system_metadata(devices: Sequence[str]) -> dict[str, Any]:
    """Say what decodes: libraries, processor, threads, and each GPU with its memory and capability."""
    import torch
    import transformers

    gpus = []
    for index in cuda_indices(devices):
        properties = torch.cuda.get_device_properties(index)
        gpus.append(
            {
                "device": f"cuda:{index}",
                "name": properties.name,
                "memory_bytes": properties.total_memory,
                "capability": f"{properties.major}.{properties.minor}",
                "multiprocessors": properties.multi_processor_count,
            }
        )
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
        "scikit_learn_installed": importlib.util.find_spec("sklearn") is not None,
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "gpus": gpus,
    }


def cpu_name() -> str:
    """Return the processor's name as the system tells it."""
    with suppress(OSError):
        for line in CPU_INFO.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class MemoryPeak:
    """The most memory held at any moment within a block.

    bytes: of GPUs, what torch had allocated on all of them; of a CPU, resident memory of this process, models and all.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self.indices = cuda_indices(devices)
        self.bytes = 0

    def __enter__(self) -> Self:
        if self.indices:
            import torch

            for index in self.indices:
                torch.cuda.reset_peak_memory_stats(index)
        else:
            with suppress(OSError):  # without it the peak is that since the process began
                CLEAR_REFS.write_text(RESET_PEAK)
        return self

    def __exit__(self, *_: object) -> None:
        if self.indices:
            import torch

            self.bytes = sum(torch.cuda.max_memory_allocated(index) for index in self.indices)
        else:
            self.bytes = resident_peak_bytes()


def resident_peak_bytes() -> int:
    """Return the high water mark of this process's resident memory."""
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Energy:
    """The energy of some GPUs within a block, idle power included, as the driver counts it every 20 to 100 ms.

    joules: of all GPUs together; None where nothing is counted. Enter it as often as wanted.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self.joules: float | None = None
        self.before: float | None = None
        self.handles: list[Any] = []
        self.nvml: Any = None
        indices = cuda_indices(devices)
        if not indices or importlib.util.find_spec("pynvml") is None:
            return
        import torch

        pynvml = importlib.import_module("pynvml")
        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            self.nvml = pynvml
            # NVML does not follow CUDA_VISIBLE_DEVICES: a GPU is found by its name for life.
            names = [f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in indices]
            self.handles = [pynvml.nvmlDeviceGetHandleByUUID(name) for name in names]

    def __enter__(self) -> Self:
        self.before = self.counted()
        return self

    def __exit__(self, *_: object) -> None:
        after = self.counted()
        self.joules = None if after is None or self.before is None else after - self.before

    def counted(self) -> float | None:
        """Return the energy since the driver was loaded."""
        if not self.handles:
            return None
        try:
            counted = sum(self.nvml.nvmlDeviceGetTotalEnergyConsumption(h) for h in self.handles)
        except self.nvml.NVMLError:
            return None
        return float(counted * MILLIJOULES)


def make_deterministic(seed: int) -> None:
    """Have torch refuse whatever would not repeat, bit for bit, on the same machine.

    Raises:
        UserError: CUDA is at work already, and its workspace setting comes too late.
    """
    import torch

    wanted = ":4096:8"
    if os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", wanted) not in (wanted, ":16:8"):
        found = os.environ["CUBLAS_WORKSPACE_CONFIG"]
        raise UserError(f"CUBLAS_WORKSPACE_CONFIG: {found!r} does not repeat, expected {wanted} or :16:8")
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def graphical_session(environment: Mapping[str, str]) -> str:
    """Return the variable that tells of a desktop, whose drawing would share the GPU; empty where there is none."""
    return next((name for name in DISPLAYS if environment.get(name)), "")
