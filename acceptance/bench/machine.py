"""The machine that decodes: what it is, how much memory and energy a stretch of work takes, and how to repeat it."""

import ctypes
import importlib.util
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, Self

from simulator.ground.artefacts import UserError
from simulator.ground.machine import cpu_name
from simulator.ground.nvml import Gpu, Nvml

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
RESET_PEAK = "5"  # proc(5): sets the resident set's high water mark to its present size
# The system counts pages a processor at a time: both sizes may be off by some.
RESET_SLACK = 16 * 2**20
MILLIJOULES = 1e-3
# NVML refreshes its counter every 20 to 100 ms: of shorter windows that is more than a few percent.
LEAST_WINDOW_S = 2.0
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


def cuda_indices(devices: Sequence[str]) -> list[int]:
    """Return which CUDA devices are among these torch devices."""
    import torch

    cuda = {torch.device(d) for d in devices}
    return sorted({d.index or 0 for d in cuda if d.type == "cuda"})


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


class MemoryPeak:
    """The most memory held at any moment within a block.

    bytes: of GPUs, what torch had allocated on all of them; of Apple's, what it had taken from the system, and keeps
    within a block; of a CPU, resident memory of this process, models and all. None where the system
    does not tell the peak of a block from that of the process; then `reason` says why.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self.indices = cuda_indices(devices)
        self.is_mps = any(d.startswith("mps") for d in devices)
        self.bytes: int | None = None
        self.reason = ""

    def __enter__(self) -> Self:
        if self.indices:
            import torch

            for index in self.indices:
                torch.cuda.reset_peak_memory_stats(index)
        elif self.is_mps:
            import torch

            torch.mps.empty_cache()
        else:
            self.reason = reset_resident_peak()
        return self

    def __exit__(self, *_: object) -> None:
        if self.indices:
            import torch

            self.bytes = sum(torch.cuda.max_memory_allocated(index) for index in self.indices)
        elif self.is_mps:
            import torch

            self.bytes = int(torch.mps.driver_allocated_memory())
        else:
            self.bytes = None if self.reason else status_bytes("VmHWM")


def reset_resident_peak() -> str:
    """Set the high water mark of resident memory to what is in use now; return why that is not possible, if it is not.

    What was freed goes back to the system first: else the peak of one block would hold what an earlier one left behind.
    """
    with suppress(OSError, AttributeError):  # of glibc alone
        ctypes.CDLL(None).malloc_trim(0)
    try:
        CLEAR_REFS.write_text(RESET_PEAK)
    except OSError as error:
        return f"{CLEAR_REFS} cannot be written ({error.strerror})"
    peak, now = status_bytes("VmHWM"), status_bytes("VmRSS")
    if peak is None or now is None or peak > now + RESET_SLACK:
        return f"{CLEAR_REFS} does not reset the peak"
    return ""


def status_bytes(name: str) -> int | None:
    """Return a size that the system tells of this process; None where it tells none."""
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyUsed:
    """What some GPUs took in all within a window, idle power included, and what they take in all when idle."""

    joules: float
    window_s: float
    idle_w: float | None

    @property
    def net_joules(self) -> float | None:
        """Energy beyond what idling would have taken; None where that was not measured."""
        return None if self.idle_w is None else self.joules - self.idle_w * self.window_s

    @property
    def is_reliable(self) -> bool:
        """Whether the window is long enough for a counter that is refreshed every 20 to 100 ms."""
        return self.window_s >= LEAST_WINDOW_S


class Energy:
    """The energy of some GPUs within a block, as the driver counts it.

    used: of all GPUs together; None where nothing is counted. idle_w: their power at rest, once it was measured. Enter
    it as often as wanted.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self.nvml, self.gpus = open_nvml(devices)
        self.used: EnergyUsed | None = None
        self.idle_w: float | None = None
        self.before: tuple[float | None, float] = None, 0.0

    def __enter__(self) -> Self:
        self.before = self.counted(), perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        (before, began_s), after = self.before, self.counted()
        window_s = perf_counter() - began_s
        self.used = None
        if after is not None and before is not None:
            self.used = EnergyUsed(joules=after - before, window_s=window_s, idle_w=self.idle_w)

    def measure_idle(self, window_s: float = LEAST_WINDOW_S) -> None:
        """Note the power while nothing runs, over this long; takes no time where nothing is counted."""
        if self.counted() is None:
            return
        with self:
            sleep(window_s)
        self.idle_w = None if self.used is None else self.used.joules / self.used.window_s

    def counted(self) -> float | None:
        """Return the energy since the driver was loaded, in joules."""
        counted = [self.nvml.total_energy_mj(gpu) for gpu in self.gpus] if self.nvml else []
        known_mj = [energy_mj for energy_mj in counted if energy_mj is not None]
        return sum(known_mj) * MILLIJOULES if known_mj and len(known_mj) == len(counted) else None


def open_nvml(devices: Sequence[str]) -> tuple[Nvml | None, list[Gpu]]:
    """Return NVML and what it calls the CUDA devices among these torch devices; none where it is not here."""
    indices = cuda_indices(devices)
    if not indices:
        return None, []
    import torch

    try:
        nvml = Nvml()
        # NVML does not follow CUDA_VISIBLE_DEVICES: a GPU is found by its name for life.
        names = [f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in indices]
        return nvml, [nvml.gpu_named(name) for name in names]
    except UserError:
        return None, []


def surroundings(devices: Sequence[str], *, record_host: bool = False) -> dict[str, Any]:
    """Say where and by what code a run was begun; nothing of it has to be the same for the run to go on.

    record_host: the machine's name too, which says whose it is.
    """
    nvml, gpus = open_nvml(devices)
    return {
        "git_sha": git_sha(Path(__file__).parents[2]),
        "hostname": platform.node() if record_host else None,
        "gpu_driver": nvml and nvml.driver_version(),
        "gpu_clocks_mhz": [clocks_mhz(nvml, gpu) for gpu in gpus if nvml],
    }


def clocks_mhz(nvml: Nvml, gpu: Gpu) -> dict[str, int | None]:
    """Return the clocks of a GPU as they are, and the fastest it has."""
    kinds = {"sm": "SM", "memory": "memory"}
    clocks = {name: nvml.clock_mhz(gpu, kind) for name, kind in kinds.items()}
    return clocks | {f"{name}_max": nvml.clock_mhz(gpu, kind, largest=True) for name, kind in kinds.items()}


def git_sha(root: Path) -> str | None:
    """Return the commit of a checkout, with `-dirty` where its files differ from it; None where there is none.

    The checkout has to begin at `root`: the package may be installed within someone else's.
    """
    if not (root / ".git").exists():
        return None
    command = ["git", "--no-optional-locks", "-C", str(root), "describe"]
    command += ["--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return None


def make_deterministic(seed: int) -> None:
    """Have torch refuse whatever would not repeat, bit for bit, on the same machine."""
    import torch

    wanted = ":4096:8"
    if os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", wanted) not in (wanted, ":16:8"):
        workspace = os.environ["CUBLAS_WORKSPACE_CONFIG"]
        raise UserError(f"CUBLAS_WORKSPACE_CONFIG: {workspace!r} does not repeat, expected {wanted} or :16:8")
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def graphical_session(environment: Mapping[str, str]) -> str:
    """Return the variable that tells of a desktop, whose drawing would share the GPU; empty where there is none."""
    return next((name for name in DISPLAYS if environment.get(name)), "")
