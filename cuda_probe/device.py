"""A CUDA device through CuPy, which only this module imports: kernels compiled at run time, events as the clock.

Every probe runs the kernels of kernels/probe.cu through `probe_kernels`; matrix products go through cuBLAS. Buffers are
checked with small whole numbers, whose products are exact, and timed on random ones: a GPU draws less power on numbers
with few bits set, and may clock higher.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import cupy
import numpy as np

from simulator.artefacts import UserError
from simulator.burn_units import BYTES_PER_WORKMEM, FLOP_PER_WORKFLOPS, FLOP_PER_WORKMEM

from . import probe_kernels, reference
from .cpu_device import is_product
from .probe_kernels import Buffers, Geometry, Knobs, Steps, chain_start
from .probes import Axes, AxisValue, Job, Units, Unsupported, number, weight_shape
from .sampling.dlpack import Pointer
from .timing import Clock, Launch

SAMPLING = Path(__file__).parent / "kernels" / "sampling.cu"
# cudaEventElapsedTime tells about half a microsecond.
EVENT_RESOLUTION_S = 0.5e-6
CACHES_A_BUFFER = 4
DTYPES = ("float32", "float16", "bfloat16")
LAYERS = ("4096x4096", "4096x11008", "8192x28672")
DEFAULT_CHECK_ITERATIONS = 64


def open_device(name: str) -> "CudaDevice":
    """Open cuda:N.

    Raises:
        UserError: There is no driver, no GPU, or not so many.
    """
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UserError(f"no CUDA device can be used ({error})") from None
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        raise UserError(f"there are {count} CUDA devices, expected cuda:0 to cuda:{count - 1}")
    return CudaDevice(index)


class EventClock:
    """Device time between two events around the launches; both are made once, before anything is timed."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.begin, self.end = stream, cupy.cuda.Event(), cupy.cuda.Event()

    @property
    def resolution_s(self) -> float:
        """Half a microsecond."""
        return EVENT_RESOLUTION_S

    def now_s(self) -> float:
        """The host's time, for limits."""
        return time.perf_counter()

    def elapsed_s(self, launch: Launch, count: int) -> float:
        """Seconds on the device of `count` launches back to back."""
        self.begin.record(self.stream)
        for _ in range(count):
            launch()
        self.end.record(self.stream)
        self.end.synchronize()
        return float(cupy.cuda.get_elapsed_time(self.begin, self.end)) / 1e3


class CudaDevice:
    """One GPU; see `probes.Device`."""

    def __init__(self, index: int) -> None:
        self.index, self.name = index, f"cuda:{index}"
        self.device = cupy.cuda.Device(index)
        self.device.use()
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.stream.use()
        self.facts = cupy.cuda.runtime.getDeviceProperties(index)
        source = probe_kernels.SOURCE.read_text()
        self.module = cupy.RawModule(code=source, options=("--std=c++17",), backend="nvrtc")
        self.functions: dict[str, Any] = {}
        self.geometry = Geometry.filling(int(self.facts["multiProcessorCount"]))
        self.clock: Clock = EventClock(self.stream)
        self.cache_bytes = int(self.facts["l2CacheSize"])
        threads = self.geometry.threads
        self.mem_len = -(-CACHES_A_BUFFER * self.cache_bytes // 4 // threads) * threads
        self.scrub = cupy.empty(max(2 * self.cache_bytes, 1), cupy.uint8)
        self.reader = open_nvml()
        self.units = Units(
            workflops_flop=FLOP_PER_WORKFLOPS * threads,
            workmem_bytes=BYTES_PER_WORKMEM * threads,
            workmem_flop=FLOP_PER_WORKMEM * threads,
            workflops_means=f"three dependent multiply-adds in each of {threads} threads",
            workmem_means=f"each of {threads} threads reads and writes one float of {4 * self.mem_len / 2**20:.4g} MiB",
        )

    def environment(self) -> dict[str, Any]:
        """Say what the GPU and its software are."""
        name = self.facts["name"]
        runtime = cupy.cuda.runtime
        return {
            "name": self.name,
            "model": name.decode() if isinstance(name, bytes) else str(name),
            "compute_capability": self.device.compute_capability,
            "multiprocessors": int(self.facts["multiProcessorCount"]),
            "memory_bytes": int(self.facts["totalGlobalMem"]),
            "last_level_cache_bytes": self.cache_bytes,
            "driver_version": runtime.driverGetVersion(),
            "runtime_version": runtime.runtimeGetVersion(),
            "cupy": cupy.__version__,
            "grid_blocks": self.geometry.blocks,
            "grid_threads": self.geometry.threads,
            "clock": "CUDA events",
            "clock_resolution_s": EVENT_RESOLUTION_S,
        }

    def state(self) -> dict[str, Any]:
        """Say what NVML tells of clocks, temperature, power and what slows the clocks; nothing without NVML."""
        return {} if self.reader is None else self.reader()

    def flush(self) -> None:
        """Write twice the L2 cache, ordered before the next launch."""
        self.scrub.data.memset_async(0, self.scrub.nbytes, self.stream)

    def close(self) -> None:
        """Wait for the stream and give the memory back."""
        self.stream.synchronize()
        del self.scrub
        cupy.get_default_memory_pool().free_all_blocks()

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], shared_bytes: int = 0
    ) -> None:
        """Put one launch on the stream."""
        function = self.functions.get(kernel) or self.module.get_function(kernel)
        self.functions[kernel] = function
        function(grid, block, tuple(args), shared_mem=shared_bytes, stream=self.stream)

    def axis_values(self, probe: str, *, quick: bool) -> Mapping[str, Sequence[AxisValue]]:
        """Return what each axis of a probe takes where the user names no values."""
        in_rounds = probe not in ("burn_flops", "burn_memory")
        lap = self.mem_len // self.geometry.threads
        largest = 16 * 4 * self.mem_len
        smaller = [] if quick else [2**i for i in range(16, 40) if 2**i < largest]
        sizes = (1024, 2048, 4096, 8192)
        return {
            "draft_n": (1, 2, 4, 8) if quick else (*range(1, 9), 12, 16),
            "work_flops": (2_000,) if in_rounds else tuple(2**i for i in range(8, 16 if quick else 18)),
            "work_mem": (lap,) if in_rounds else tuple(lap * i for i in ((1, 2, 4, 8) if quick else range(1, 17))),
            "buffer_bytes": (*smaller, largest),
            "size": sizes if quick else (256, 512, *sizes, 16384),
            "dtype": DTYPES,
            "weight": LAYERS[:2] if quick else LAYERS,
            "tokens": tuple(2**i for i in range(9)) if quick else (*range(1, 9), 12, 16, 24, 32, 48, 64, 96, 128, 256),
        }

    @contextmanager
    def prepare(self, probe: str, axes: Axes, *, seed: int) -> Iterator[Job]:
        """Allocate and fill what a point needs."""
        try:
            yield self.job(probe, axes, seed)
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise MemoryError(str(error)) from None
        finally:
            self.stream.synchronize()
            cupy.get_default_memory_pool().free_all_blocks()

    def job(self, probe: str, axes: Axes, seed: int) -> Job:
        """Return a point made ready."""
        if probe == "empty":
            return Job(launch=lambda: probe_kernels.empty(self, self.geometry), check=lambda: None)
        if probe in ("burn_flops", "burn_memory"):
            return self.burn(probe, axes)
        if probe in ("draft", "draft_graph", "verify", "baseline"):
            return self.step(probe, axes, seed)
        if probe in ("matmul", "skinny"):
            size = number(axes, "size") if probe == "matmul" else 0
            shape = (size, size, size) if probe == "matmul" else (number(axes, "tokens"), *weight_shape(axes))
            return self.product(str(axes["dtype"]), shape, seed)
        return self.stream_job(probe, number(axes, "buffer_bytes"), seed)

    def burn(self, probe: str, axes: Axes) -> Job:
        """Return a burn of one kind; checked against the reference on fewer iterations than are timed."""
        threads, geometry = self.geometry.threads, self.geometry
        sink = cupy.zeros(threads, cupy.float32)
        memory = cupy.zeros(self.mem_len if probe == "burn_memory" else 1, cupy.float32)
        lap, at = self.mem_len // threads, 0

        def launch() -> None:
            nonlocal at
            if probe == "burn_flops":
                probe_kernels.burn_flops(self, geometry, number(axes, "work_flops"), sink)
            else:
                probe_kernels.burn_memory(self, geometry, number(axes, "work_mem"), memory, self.mem_len, at)
                at = (at + number(axes, "work_mem")) % lap

        def check() -> str | None:
            if probe == "burn_flops":
                units = min(number(axes, "work_flops"), DEFAULT_CHECK_ITERATIONS)
                probe_kernels.burn_flops(self, geometry, units, sink, probe_kernels.STORE_ALL)
                expected = reference.burn(reference.start_values(threads, 0), units)
                return None if (sink.get() == expected).all() else "the burn is not where its iterations lead"
            passes = min(number(axes, "work_mem"), DEFAULT_CHECK_ITERATIONS)
            memory.fill(0)
            probe_kernels.burn_memory(self, geometry, passes, memory, self.mem_len)
            expected = reference.memory_passes(np.zeros(self.mem_len, np.float32), threads, 0, passes)
            return None if (memory.get() == expected).all() else "the buffer is not what its passes leave"

        return Job(launch=launch, check=check)

    def step(self, probe: str, axes: Axes, seed: int) -> Job:
        """Return one step of decoding with the knobs' work; checked against the reference's accepted prefix."""
        knobs = Knobs(
            draft_n=number(axes, "draft_n") if "draft_n" in axes else 1,
            work_flops=number(axes, "work_flops"),
            work_mem=number(axes, "work_mem"),
            mem_len=self.mem_len,
            seed=seed,
        )
        buffers = Buffers.allocate(cupy.zeros, self.geometry, knobs)
        steps = Steps(self, self.geometry, buffers, knobs)
        position, at = 0, 0
        buffers.chain[:1] = int(chain_start(position))

        def run() -> None:
            nonlocal at
            if probe in ("draft", "draft_graph"):
                at = steps.draft(position, at)
            else:
                at = steps.verify(position, at) if probe == "verify" else steps.baseline(0, at)

        def check() -> str | None:
            steps.draft(position)
            steps.verify(position)
            proposed = buffers.proposed.get()
            drafted = position + np.arange(knobs.draft_n)
            expected = reference.proposed_tokens(seed, drafted, knobs.noise_ppm, knobs.vocab)
            if not (proposed == expected).all():
                return "the draft does not propose what its generator says"
            accepted = reference.accepted_prefix(proposed, position, knobs.vocab)
            return None if int(buffers.result.get()[0]) == accepted else "verification found another prefix"

        return Job(launch=self.captured(run) if probe == "draft_graph" else run, check=check)

    def captured(self, run: Callable[[], None]) -> Launch:
        """Return a launch of the graph that `run` makes."""
        run()  # loads the kernels, which a capture must not
        self.stream.begin_capture()
        run()
        graph = self.stream.end_capture()
        return lambda: graph.launch(self.stream)

    def stream_job(self, probe: str, size_bytes: int, seed: int) -> Job:
        """Return a stream over buffers; checked on whole numbers."""
        count = size_bytes // 4
        if count < 1:
            raise Unsupported(f"{size_bytes} bytes hold no float")
        rng = cupy.random.RandomState(seed)
        buffers = {"read": 1, "write": 1, "copy": 2, "triad": 3}[probe]
        x, y, z = (rng.uniform(-1, 1, count if i < buffers else 1, dtype=cupy.float32) for i in range(3))
        sink = cupy.zeros(self.geometry.threads, cupy.float32)
        launches: dict[str, Launch] = {
            "read": lambda: probe_kernels.stream_read(self, self.geometry, x, count, sink),
            "write": lambda: probe_kernels.stream_write(self, self.geometry, x, count, 7.0),
            "copy": lambda: probe_kernels.stream_copy(self, self.geometry, x, y, count),
            "triad": lambda: probe_kernels.stream_triad(self, self.geometry, x, y, z, count, 3.0),
        }

        def check() -> str | None:
            if probe == "read":
                kept = x.copy()
                x.fill(1)
                probe_kernels.stream_read(self, self.geometry, x, count, sink, probe_kernels.STORE_ALL)
                total = float(sink.astype(cupy.float64).sum())
                x[...] = kept
                return None if total == count else f"the sum of {count} ones is {total:g}"
            launches[probe]()
            right = {"write": lambda: x == 7, "copy": lambda: y == x, "triad": lambda: abs(z - (x + 3 * y)) <= 1e-6}
            return None if bool(right[probe]().all()) else "an element is not what the stream should leave"

        return Job(launch=launches[probe], check=check)

    def product(self, dtype: str, shape: tuple[int, int, int], seed: int) -> Job:
        """Return activations [rows, inputs] by weights [inputs, outputs] through cuBLAS, accumulated in float32."""
        rows, inputs, outputs = shape
        rng = np.random.default_rng([seed, *shape])
        x, weights = (typed(np.float32(rng.standard_normal(s)), dtype) for s in ((rows, inputs), (inputs, outputs)))
        out = cupy.zeros((rows, outputs), cupy.float32)

        def launch() -> None:
            multiply(x, weights, out, dtype, self.stream)

        def check() -> str | None:
            small = [rng.integers(-1, 2, s).astype(np.float32) for s in ((rows, inputs), (inputs, outputs))]
            own = cupy.full_like(out, cupy.nan)
            multiply(typed(small[0], dtype), typed(small[1], dtype), own, dtype, self.stream)
            right = is_product(small[0], small[1], own.get(), seed)
            return None if right else "not the product of activations and weights"

        return Job(launch=launch, check=check)


class SamplingDevice:
    """What the CUDA backend of `sampling` launches on: the kernels of kernels/sampling.cu on the present GPU."""

    dlpack_type = 2  # kDLCUDA

    def __init__(self) -> None:
        self.module = cupy.RawModule(code=SAMPLING.read_text(), options=("--std=c++17",), backend="nvrtc")
        self.functions: dict[str, Any] = {}

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], shared_bytes: int = 0
    ) -> None:
        """Put one launch on the present stream; pointers are plain addresses there."""
        function = self.functions.get(kernel) or self.module.get_function(kernel)
        self.functions[kernel] = function
        values = tuple(np.uint64(int(a)) if isinstance(a, Pointer) else a for a in args)
        function(grid, block, values, shared_mem=shared_bytes)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return zeros: the kernels count on their counters being 0 at first."""
        return cupy.zeros(shape, dtype)

    def stream(self, pointer: int | None) -> AbstractContextManager[Any]:
        """Return a context in which launches go to that stream; None is the present one."""
        return contextlib.nullcontext() if pointer is None else cupy.cuda.ExternalStream(pointer)


def sampling_device() -> SamplingDevice | None:
    """Return the device of the sampling kernels; None without a GPU."""
    try:
        there = cupy.cuda.runtime.getDeviceCount() > 0
    except cupy.cuda.runtime.CUDARuntimeError:
        return None
    return SamplingDevice() if there else None


def typed(values: Any, dtype: str) -> Any:
    """Put float32 numbers on the device in another type; bfloat16 as its 16 bits, cut off."""
    if dtype == "bfloat16":
        return cupy.asarray((np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16))
    return cupy.asarray(values.astype(dtype))


def multiply(x: Any, weights: Any, out: Any, dtype: str, stream: Any) -> None:
    """out = x @ weights; cuBLAS counts by columns, so it is told out' = weights' @ x'."""
    from cupy.cuda import cublas, runtime

    kinds = {"float32": runtime.CUDA_R_32F, "float16": runtime.CUDA_R_16F, "bfloat16": runtime.CUDA_R_16BF}
    kind, (rows, inputs), outputs = kinds[dtype], x.shape, weights.shape[1]
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    handle = cupy.cuda.device.get_cublas_handle()
    cublas.setStream(handle, stream.ptr)
    cublas.gemmEx(
        handle,
        *(cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_N, outputs, rows, inputs, one.ctypes.data),
        *(weights.data.ptr, kind, outputs, x.data.ptr, kind, inputs, zero.ctypes.data),
        *(out.data.ptr, runtime.CUDA_R_32F, outputs, cublas.CUBLAS_COMPUTE_32F, cublas.CUBLAS_GEMM_DEFAULT),
    )


def open_nvml() -> Callable[[], dict[str, Any]] | None:
    """Return what reads the state of the first GPU that NVML lists; None where NVML cannot be had."""
    from datetime import datetime

    from .monitor import Nvml
    from .reading import reason_names

    with contextlib.suppress(UserError):
        nvml = Nvml()
        (gpu, *_) = nvml.gpus()

        def state() -> dict[str, Any]:
            found = nvml.read(gpu, time.monotonic(), datetime.now())
            reasons = reason_names(found.clock_event_reasons or 0)
            told = {
                "sm_clock_mhz": found.sm_clock_mhz,
                "memory_clock_mhz": found.memory_clock_mhz,
                "temperature_c": found.temperature_c,
                "power_w": found.power_w,
                "power_limit_w": found.power_limit_w,
                "clock_event_reasons": list(reasons),
            }
            slowed = [r for r in reasons if r.endswith(("slowdown", "power_cap"))]
            return told | ({"disturbed": "the GPU slowed its clocks: " + ", ".join(slowed)} if slowed else {})

        return state
    return None
