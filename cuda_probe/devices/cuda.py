"""A CUDA device through CuPy: kernels compiled at run time, events as the clock.

Every probe runs the kernels of kernels/probe.cu through `probe_kernels`; matrix products go through cuBLAS.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import cycle
from typing import Any

import cupy
import numpy as np

from cuda_probe.kernels import probe_kernels, reference
from cuda_probe.kernels.probe_kernels import Buffers, Geometry, Knobs, Steps, chain_start
from cuda_probe.probe.probes import Axes, AxisValue, DeviceFault, Job, Units, Unsupported, number, product_shape
from cuda_probe.probe.timing import Clock, Launch
from simulator.ground.artefacts import UserError
from simulator.ground.burn_units import BYTES_PER_WORKMEM, FLOP_PER_WORKFLOPS, FLOP_PER_WORKMEM

from . import products
from .gpu_state import open_state
from .step_check import wrong_steps

# cudaEventElapsedTime tells about half a microsecond.
EVENT_RESOLUTION_S = 0.5e-6
CACHES_A_BUFFER = 4
# What CUDA, NVRTC and cuBLAS raise; a library of theirs that is missing shows when it is first used.
DEVICE_ERRORS = (RuntimeError, cupy.cuda.compiler.CompileException, ImportError)
DTYPES = ("float32", "float16", "bfloat16")
LAYERS = ("4096x4096", "4096x11008", "8192x28672")
MAX_CHECKED_ITERATIONS = 64
CHECKED_FLOATS = 1 << 24
EMPTY_LAUNCHES = 100
MAX_GRAPHS = 256
# How long the device is kept busy while it is asked how it is.
BUSY_S, MAX_BUSY_LAUNCHES = 0.05, 5000


def open_device(index: int) -> "CudaDevice":
    """Open cuda:N; a UserError says that there is no driver, no GPU, not so many, or why it cannot be used."""
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UserError(f"no CUDA device can be used ({error})") from None
    if count == 0:
        raise UserError("there is no CUDA device, expected at least one")
    if index >= count:
        raise UserError(f"there are {count} CUDA devices, expected cuda:0 to cuda:{count - 1}")
    try:
        return CudaDevice(index)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UserError(f"cuda:{index} cannot be used ({error})") from None


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
        facts = cupy.cuda.runtime.getDeviceProperties(index)
        source = probe_kernels.SOURCE.read_text()
        self.module = cupy.RawModule(code=source, options=("--std=c++17",), backend="nvrtc")
        self.functions: dict[str, Any] = {}
        self.geometry = Geometry.filling(int(facts["multiProcessorCount"]))
        self.clock: Clock = EventClock(self.stream)
        self.cache_bytes = int(facts["l2CacheSize"])
        threads = self.geometry.threads
        self.mem_len = max(-(-CACHES_A_BUFFER * self.cache_bytes // 4 // threads), 1) * threads
        self.scrub = cupy.empty(max(2 * self.cache_bytes, 1), cupy.uint8)
        self.nvml = open_state(cupy.cuda.runtime.deviceGetPCIBusId(index))
        self.facts = self.about(facts)
        self.steps_checked: dict[int, str | None] = {}
        self.units = Units(
            workflops_flop=FLOP_PER_WORKFLOPS * threads,
            workmem_bytes=BYTES_PER_WORKMEM * threads,
            workmem_flop=FLOP_PER_WORKMEM * threads,
            workflops_means=f"three dependent multiply-adds in each of {threads} threads",
            workmem_means=f"each of {threads} threads reads and writes one float of {4 * self.mem_len / 2**20:.4g} MiB",
        )

    def about(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Say what the GPU and its software are; asked at once, as a GPU that is lost answers no more."""
        name, runtime = facts["name"], cupy.cuda.runtime
        return {
            "name": self.name,
            "model": name.decode() if isinstance(name, bytes) else str(name),
            "compute_capability": self.device.compute_capability,
            "multiprocessors": int(facts["multiProcessorCount"]),
            "memory_bytes": int(facts["totalGlobalMem"]),
            "last_level_cache_bytes": self.cache_bytes,
            "cuda_driver_version": runtime.driverGetVersion(),
            "cuda_runtime_version": runtime.runtimeGetVersion(),
            "cupy": cupy.__version__,
            "grid_blocks": self.geometry.blocks,
            "grid_threads": self.geometry.threads,
            "clock": "CUDA events",
            "clock_resolution_s": EVENT_RESOLUTION_S,
            "nvml": None if self.nvml is None else self.nvml.facts(),
        }

    def environment(self) -> dict[str, Any]:
        """Say what the GPU and its software are."""
        return self.facts

    def state(self, busy: Launch | None = None) -> dict[str, Any]:
        """Say what NVML tells of clocks, temperature, power and what slows the clocks; nothing without NVML."""
        if self.nvml is None:
            return {}
        if busy is not None:
            # An idle GPU lowers its clocks within milliseconds: it is asked while launches wait on the stream.
            took_s = self.clock.elapsed_s(busy, 1)
            for _ in range(min(MAX_BUSY_LAUNCHES, 1 + int(BUSY_S / max(took_s, 1e-6)))):
                busy()
        state = self.nvml.now()
        self.stream.synchronize()
        return state

    def flush(self) -> None:
        """Write twice the L2 cache, ordered before the next launch."""
        self.scrub.data.memset_async(0, self.scrub.nbytes, self.stream)

    def close(self) -> None:
        """Wait for the stream and give the memory back, as far as the device still answers."""
        with suppress(cupy.cuda.runtime.CUDARuntimeError):
            self.stream.synchronize()
            del self.scrub
            cupy.get_default_memory_pool().free_all_blocks()
        if self.nvml is not None:
            self.nvml.close()

    def launch(self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any]) -> None:
        """Put one launch on the stream."""
        function = self.functions.get(kernel) or self.module.get_function(kernel)
        self.functions[kernel] = function
        function(grid, block, tuple(args), stream=self.stream)

    def axis_values(self, probe: str, *, quick: bool) -> Mapping[str, Sequence[AxisValue]]:
        """Return what each axis of a probe takes where the user names no values."""
        in_rounds = probe not in ("burn_flops", "burn_memory")
        lap = self.mem_len // self.geometry.threads
        largest = 16 * 4 * self.mem_len
        smaller = [] if quick else [2**i for i in range(16, 40) if 2**i < largest]
        sizes = (1024, 2048, 4096, 8192)
        return {
            "draft_n": (1, 2, 4, 8) if quick else (*range(1, 9), 12, 16),
            # Shorter burns would end before the host has put the next one on the stream.
            "work_flops": (2_000,) if in_rounds else tuple(2**i for i in range(12, 17 if quick else 20)),
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
            cupy.get_default_memory_pool().free_all_blocks()  # what the last point held, now that nobody has it
            yield self.job(probe, axes, seed)
            self.stream.synchronize()
        except DEVICE_ERRORS as error:
            first = (str(error).strip() or type(error).__name__).partition("\n")[0]
            raise DeviceFault(first, lost=self.is_lost()) from error

    def is_lost(self) -> bool:
        """Say whether an error has ended all work on the device in this process."""
        try:
            self.stream.synchronize()
        except cupy.cuda.runtime.CUDARuntimeError:
            return True
        return False

    def job(self, probe: str, axes: Axes, seed: int) -> Job:
        """Return a point made ready."""
        if probe == "empty":
            return Job(launch=lambda: probe_kernels.empty(self, self.geometry), check=lambda: None)
        if probe == "empty_graph":
            return self.empty_graph()
        if probe in ("burn_flops", "burn_memory"):
            return self.burn(probe, axes)
        if probe in ("draft", "draft_graph", "verify", "baseline"):
            return self.step(probe, axes, seed)
        if probe in ("matmul", "skinny"):
            misses_bytes = CACHES_A_BUFFER * self.cache_bytes
            return products.product_job(str(axes["dtype"]), product_shape(axes), seed, misses_bytes)
        return self.stream_job(probe, number(axes, "buffer_bytes"), seed)

    def empty_graph(self) -> Job:
        """Return many empty launches as one graph."""

        def run() -> None:
            for _ in range(EMPTY_LAUNCHES):
                probe_kernels.empty(self, self.geometry)

        return Job(launch=self.captured(run), check=lambda: None, works=EMPTY_LAUNCHES)

    def burn(self, probe: str, axes: Axes) -> Job:
        """Return a burn of one kind; checked against the reference on no more iterations than its loop takes."""
        threads, geometry = self.geometry.threads, self.geometry
        sink = cupy.zeros(threads, cupy.float32)
        memory = cupy.zeros(self.mem_len if probe == "burn_memory" else 1, cupy.float32)
        work = number(axes, "work_flops" if probe == "burn_flops" else "work_mem")
        lap, at = self.mem_len // threads, 0

        def launch() -> None:
            nonlocal at
            if probe == "burn_flops":
                probe_kernels.burn_flops(self, geometry, work, sink)
            else:
                probe_kernels.burn_memory(self, geometry, work, memory, self.mem_len, at)
                at = (at + work) % lap

        def check() -> str | None:
            checked = min(work, MAX_CHECKED_ITERATIONS)
            if probe == "burn_flops":
                probe_kernels.burn_flops(self, geometry, checked, sink, probe_kernels.STORE_ALL)
                expected = reference.burn(reference.start_values(threads, 0), checked)
                return None if (sink.get() == expected).all() else "the burn is not where its iterations lead"
            memory.fill(0)
            probe_kernels.burn_memory(self, geometry, checked, memory, self.mem_len)
            expected = reference.memory_passes(np.zeros(self.mem_len, np.float32), threads, 0, checked)
            return None if (memory.get() == expected).all() else "the buffer is not what its passes leave"

        return Job(launch=launch, check=check)

    def step(self, probe: str, axes: Axes, seed: int) -> Job:
        """Return one step of decoding with the knobs' work."""
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

        lap, walked = self.mem_len // self.geometry.threads, knobs.draft_n * knobs.work_mem
        # A graph reads the same stretch of memory for ever: enough of them, one behind another, cover the buffer.
        graphs = min(MAX_GRAPHS, -(-lap // walked)) if walked else 1
        launch = self.captured(run, graphs) if probe == "draft_graph" else run

        def check() -> str | None:
            if seed not in self.steps_checked:
                self.steps_checked[seed] = wrong_steps(self, self.geometry, cupy.zeros, seed)
            return self.steps_checked[seed] or self.wrong_tokens(probe, launch, buffers, knobs)

        return Job(launch=launch, check=check)

    def wrong_tokens(self, probe: str, launch: Launch, buffers: Buffers, knobs: Knobs) -> str | None:
        """Say what is wrong with the tokens of the very launch that is timed; None if nothing."""
        drafted = np.arange(knobs.draft_n)
        expected = reference.proposed_tokens(knobs.seed, drafted, knobs.noise_ppm, knobs.vocab)
        if probe == "verify":
            buffers.chain[:] = cupy.asarray(reference.truth_states(np.arange(-1, knobs.draft_n)))
            buffers.proposed[:] = cupy.asarray(expected)
            launch()
            accepted = reference.accepted_prefix(expected, 0, knobs.vocab)
            right = int(buffers.result.get()[0]) == accepted
            buffers.chain[:1] = int(chain_start(0))
        elif probe == "baseline":
            launch()
            right = int(buffers.tokens.get()[1]) == int(reference.truth_tokens(0, knobs.vocab))
        else:
            buffers.proposed.fill(-1)
            launch()
            right = bool((buffers.proposed.get() == expected).all())
        return None if right else f"{probe} does not give the tokens that its generator says"

    def captured(self, run: Callable[[], None], count: int = 1) -> Launch:
        """Return a launch of the graphs that `run` makes, called so many times; each launch takes the next one."""
        run()  # loads the kernels, which a capture must not
        graphs = []
        for _ in range(count):
            self.stream.begin_capture()
            try:
                run()
            except BaseException:
                with suppress(cupy.cuda.runtime.CUDARuntimeError):  # the first error says more
                    self.stream.end_capture()
                raise
            graphs.append(self.stream.end_capture())
        following = cycle(graphs)
        return lambda: next(following).launch(self.stream)

    def stream_job(self, probe: str, size_bytes: int, seed: int) -> Job:
        """Return a stream over buffers; checked part by part."""
        count = size_bytes // 4
        if count < 1:
            raise Unsupported(f"{size_bytes} bytes hold no float")
        buffers = {"read": 1, "write": 1, "copy": 2, "triad": 3}[probe]
        x, y, z = (cupy.empty(count if i < buffers else 1, cupy.float32) for i in range(3))
        for i, buffer in enumerate((x, y, z)):
            tile(buffer, seed + i)
        sink = cupy.zeros(self.geometry.threads, cupy.float32)
        launches: dict[str, Launch] = {
            "read": lambda: probe_kernels.stream_read(self, self.geometry, x, count, sink),
            "write": lambda: probe_kernels.stream_write(self, self.geometry, x, count, 7.0),
            "copy": lambda: probe_kernels.stream_copy(self, self.geometry, x, y, count),
            "triad": lambda: probe_kernels.stream_triad(self, self.geometry, x, y, z, count, 3.0),
        }
        right: dict[str, Callable[[slice], Any]] = {
            "write": lambda part: x[part] == 7,
            "copy": lambda part: y[part] == x[part],
            "triad": lambda part: abs(z[part] - (x[part] + 3 * y[part])) <= 1e-6,
        }

        def check() -> str | None:
            if probe == "read":
                x.fill(1)
                probe_kernels.stream_read(self, self.geometry, x, count, sink, probe_kernels.STORE_ALL)
                total = float(sink.astype(cupy.float64).sum())
                tile(x, seed)
                return None if total == count else f"the sum of {count} ones is {total:g}"
            launches[probe]()
            parts = (slice(i, i + CHECKED_FLOATS) for i in range(0, count, CHECKED_FLOATS))
            held = all(bool(right[probe](part).all()) for part in parts)
            return None if held else "an element is not what the stream should leave"

        return Job(launch=launches[probe], check=check)


def tile(buffer: Any, seed: int) -> None:
    """Fill it with float32 between -1 and 1, which repeat: making them all would take several buffers more."""
    made = products.uniform((min(buffer.size, CHECKED_FLOATS),), seed)
    for i in range(0, buffer.size, made.size):
        part = buffer[i : i + made.size]
        part[...] = made[: part.size]
