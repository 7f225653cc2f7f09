"""Where a benchmark runs: arrays of each library on the device, one stream and one clock for all of them."""

import math
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np

from cuda_probe.devices import cpu_facts
from cuda_probe.probe.probes import Device, Unsupported
from cuda_probe.probe.timing import Launch
from simulator.ground.artefacts import UserError
from simulator.ground.dependency import Dependency, require

TORCH = Dependency(import_name="torch", purpose="tensors", extra="measure")
# How long a CUDA device is kept busy ahead of a sample, so that it does not wait for the host to put the work on the
# queue: the events then time the device and not the interpreter.
LEAD_S = 1e-3


def torch_here() -> tuple[ModuleType | None, str | None]:
    """Return torch, or why it cannot be had."""
    try:
        return require(TORCH), None
    except UserError as error:
        return None, str(error)


class Place:
    """A device and the libraries that have arrays on it; this one the processor, for NumPy arrays and torch tensors."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.torch, self.torch_refusal = torch_here()

    def lead(self) -> Launch:
        """Return what comes before each sample: the cache flushed, and a queue that is not empty."""
        flush: Launch = self.device.flush
        return flush

    def working(self) -> AbstractContextManager[Any]:
        """Return a context in which every library puts its work on the stream that the clock's events are in."""
        return nullcontext()

    def tensor(self, values: Any, dtype: str) -> Any:
        """Put an array on the device as a torch tensor."""
        if self.torch is None:
            raise Unsupported(str(self.torch_refusal))
        return self.torch.from_numpy(values).to(getattr(self.torch, dtype)).to(self.device.name)

    def array(self, values: Any, dtype: str) -> Any:
        """Put an array on the device as NumPy's or CuPy's own; Unsupported where that has no such type."""
        if dtype == "bfloat16":
            raise Unsupported("NumPy has no bfloat16")
        return values.astype(dtype, copy=False)

    def free_bytes(self) -> int:
        """Return the memory that can be taken."""
        return cpu_facts.available_memory()

    def release(self) -> None:
        """Give memory back that no array holds any more."""

    def call_s(self, launch: Launch) -> float | None:
        """Return the seconds of one call on an idle device, the host's part included; None where that is the sample."""
        return None


class CudaPlace(Place):
    """A CUDA device: torch tensors where torch knows the device, else CuPy arrays."""

    def __init__(self, device: Any) -> None:
        super().__init__(device)
        if self.torch is not None and not self.torch.cuda.is_available():
            self.torch, self.torch_refusal = None, "torch is installed without CUDA"

    def lead(self) -> Launch:
        flush, clock = self.device.flush, self.device.clock
        once_s = float(np.median([clock.elapsed_s(flush, 1) for _ in range(5)][1:]))
        times = max(math.ceil(LEAD_S / once_s), 1) if once_s > 0 else 1

        def lead() -> None:
            for _ in range(times):
                flush()

        return lead

    def working(self) -> AbstractContextManager[Any]:
        # CuPy works on this stream since the device was opened; torch is told to.
        if self.torch is None:
            return nullcontext()
        stream = self.torch.cuda.ExternalStream(self.device.stream.ptr, device=self.device.name)
        context: AbstractContextManager[Any] = self.torch.cuda.stream(stream)
        return context

    def array(self, values: Any, dtype: str) -> Any:
        if dtype == "bfloat16":
            raise Unsupported(f"CuPy has no bfloat16, and {self.torch_refusal}")
        return require(Dependency(import_name="cupy", purpose="arrays", extra="gpu")).asarray(values.astype(dtype))

    def free_bytes(self) -> int:
        return int(self.device.device.mem_info[0])

    def release(self) -> None:
        if self.torch is not None:
            self.torch.cuda.empty_cache()

    def call_s(self, launch: Launch) -> float | None:
        self.device.stream.synchronize()
        return float(self.device.clock.elapsed_s(launch, 1))


def place_of(device: Device) -> Place:
    """Return the place that a device is."""
    return Place(device) if device.name == "cpu" else CudaPlace(device)


def environment(place: Place) -> dict[str, Any]:
    """Say which libraries took part; imports none that did not."""
    import sys

    versions = {
        name: getattr(sys.modules.get(name), "__version__", None) for name in ("torch", "transformers", "triton")
    }
    torch = sys.modules.get("torch")
    threads = None if torch is None else torch.get_num_threads()
    return {**versions, "torch_threads": threads, "torch_refusal": place.torch_refusal}
