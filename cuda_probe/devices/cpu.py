"""The processor as a device: the probes through NumPy and its BLAS, so that all of this runs on any machine.

Threads, one a core, do every job in equal parts; BLAS runs one thread inside each. BLAS libraries that
wait by spinning are many times slower as soon as a core is busy with something else, and would be measured so.
Operands are small whole numbers, so that every result is exact and can be compared bit by bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

from cuda_probe.probe.probes import Axes, AxisValue, Job, Units, Unsupported, number, product_shape
from cuda_probe.probe.timing import HostClock, Launch
from simulator.ground.machine import cpu_name

from . import cpu_facts
from .cpu_products import BURN_SIZE, Burn, Matrix, is_product, small_numbers
from .workers import Part, Workers

SLICE_BYTES = 1 << 24
# Elements a read or a triad handles at a time: the sums stay exact, the triad's second step finds them in cache.
BLOCK = 1 << 15
# A check does no more than this: it is not to take longer than the measurement.
CHECKED_STEPS, CHECKED_PRODUCTS = 16, 64
# What other processes may take of a core before it is worth a word.
DISTURBING_CORES = 0.1
LAYER = "4096x11008"
LAYERS = ("4096x4096", LAYER, "11008x4096")
NO_BLAS = {
    "float16": "NumPy multiplies float16 without BLAS; it would measure conversions",
    "bfloat16": "NumPy has no bfloat16",
}


class CpuDevice:
    """The processor behind the protocol of `probes.Device`."""

    name = "cpu"

    def __init__(
        self, *, threads: int | None = None, cache_bytes: int | None = None, slice_bytes: int = SLICE_BYTES
    ) -> None:
        """Take the processor: its cores and the cache that the system tells of, or that is measured, if None.

        slice_bytes: of the ring that one workmem unit passes over.
        """
        self.clock = HostClock()
        self.threads = threads or len(cpu_facts.cores())
        self.workers = Workers(self.threads)
        self.cache_bytes, self.cache_source = (cache_bytes, "given") if cache_bytes else cpu_facts.last_level_cache()
        self.others = cpu_facts.Others()
        blas = cpu_facts.find_blas()
        self.blas_threads_before = max((library["num_threads"] for library in blas.info()), default=None)
        self.blas_limit = blas.limit(limits=1)
        # A BLAS that cannot be told to run one thread is left to its own threads.
        self.matmul_parts = 1 if self.blas_threads_before is None else self.threads
        self.slice_elements = slice_bytes // 4 // self.threads * self.threads
        # A ring of four caches, or of a quarter of the free memory if that is less.
        ring_slice_bytes = 4 * self.slice_elements
        wanted = -(-4 * self.cache_bytes // ring_slice_bytes) + 1
        self.ring_slices = max(min(wanted, cpu_facts.available_memory() // 4 // ring_slice_bytes), 2)
        self._ring: Matrix | None = None
        self.weights: dict[tuple[Any, ...], Matrix] = {}
        self.weights_of = ""
        flop, slice_mib = self.matmul_parts * 2 * BURN_SIZE**3, 4 * self.slice_elements / 2**20
        self.units = Units(
            workflops_flop=flop,
            workmem_bytes=2 * 4 * self.slice_elements,
            workmem_flop=self.slice_elements,
            workflops_means=f"a float32 product of {BURN_SIZE} x {BURN_SIZE} in each of {self.matmul_parts} threads",
            workmem_means=f"1 is added to every float of the next {slice_mib:.4g} MiB of a ring "
            f"of {self.ring_slices * slice_mib:.4g} MiB",
        )

    def environment(self) -> dict[str, Any]:
        """Say what the processor is, and how its BLAS and its caches are used."""
        return {
            "name": self.name,
            "model": cpu_name(),
            "cores": self.threads,
            "memory_bytes": cpu_facts.total_memory(),
            "last_level_cache_bytes": self.cache_bytes,
            "last_level_cache_source": self.cache_source,
            "ring_bytes": 4 * self.slice_elements * self.ring_slices,
            "blas": cpu_facts.blas_name(),
            "blas_threads_found": self.blas_threads_before,
            "blas_threads": None if self.blas_threads_before is None else 1,
            "parallel_products": self.matmul_parts,
            "clock": "time.perf_counter",
            "clock_resolution_s": self.clock.resolution_s,
        }

    def state(self, busy: Launch | None = None) -> dict[str, Any]:
        """Return load, clock frequency and what other processes took since the last call, as far as is told."""
        facts = cpu_facts.load()
        taken = self.others.cores_taken()
        if taken is not None:
            facts["cores_taken_by_others"] = round(taken, 3)
            if taken > DISTURBING_CORES:
                facts["disturbed"] = "other processes took processor time"
        return facts

    def close(self) -> None:
        """End the threads, give back the memory, and leave BLAS as it was found."""
        self.workers.close()
        self._ring = None
        self.weights.clear()
        self.blas_limit.restore_original_limits()

    def axis_values(self, probe: str, *, quick: bool) -> Mapping[str, Sequence[AxisValue]]:
        """Return what each axis of a probe takes where the user names no values."""
        in_rounds = probe not in ("burn_flops", "burn_memory")
        work_flops = [32] if in_rounds else [2**i for i in range(3, 8 if quick else 11)]
        work_mem = [4] if in_rounds else [2**i for i in range(5 if quick else 7)]
        largest = 4 * self.slice_elements * self.ring_slices
        grain = 4 * self.threads
        smaller = [] if quick else [2**i // grain * grain for i in range(18, 40) if 2**i < largest]
        sizes = (512, 1024, 2048)
        return {
            "draft_n": (1, 2, 4, 8) if quick else (*range(1, 9), 12, 16),
            "work_flops": work_flops,
            "work_mem": work_mem,
            "buffer_bytes": (*smaller, largest),
            "size": sizes if quick else (128, 256, *sizes, 4096),
            "dtype": tuple(("float32", *NO_BLAS)),
            "weight": (LAYER,) if quick else LAYERS,
            "tokens": tuple(2**i for i in range(9)) if quick else (*range(1, 9), 12, 16, 24, 32, 48, 64, 96, 128, 256),
        }

    def flush(self) -> None:
        """Stream through a ring of four caches, in every thread."""
        ring = self.ring().reshape(self.threads, -1)
        self.together(lambda part: np.add(ring[part], 1, out=ring[part]))

    def together(self, work: Part, parts: int | None = None) -> None:
        """Run a part in each thread and wait for all."""
        self.workers.run(work, parts)

    def ring(self) -> Matrix:
        """Return the buffer that is too large for the cache, allocated at the first use."""
        if self._ring is None:
            self._ring = np.zeros(self.ring_slices * self.slice_elements, np.float32)
            self._ring.fill(0)  # zeros alone would not be backed by memory yet
        return self._ring

    @contextmanager
    def prepare(self, probe: str, axes: Axes, *, seed: int) -> Iterator[Job]:
        """Allocate and fill what a point needs."""
        builders: dict[str, Callable[[], Job]] = {
            "empty": self.empty,
            "burn_flops": lambda: self.steps(1, number(axes, "work_flops"), 0, seed),
            "burn_memory": lambda: self.steps(1, 0, number(axes, "work_mem"), seed),
            "draft": lambda: self.passes(axes, seed, steps=number(axes, "draft_n")),
            "verify": lambda: self.passes(axes, seed, tokens=number(axes, "draft_n") + 1),
            "baseline": lambda: self.passes(axes, seed),
            "matmul": lambda: self.product(probe, axes, seed),
            "skinny": lambda: self.product(probe, axes, seed),
        }
        streams = {"read": self.read, "write": self.write, "copy": self.copy, "triad": self.triad}
        if probe in streams:
            yield streams[probe](number(axes, "buffer_bytes"), seed)
        elif probe in builders:
            yield builders[probe]()
        else:
            raise Unsupported("the processor has no graphs to capture launches in")

    def empty(self) -> Job:
        """Wake every thread for nothing, and count that they came."""
        came = np.zeros(self.threads, np.int64)

        def part(index: int) -> None:
            came[index] += 1

        def check() -> str | None:
            before = came.copy()
            self.together(part)
            return None if (came == before + 1).all() else "not every thread ran"

        return Job(launch=lambda: self.together(part), check=check)

    def passes(self, axes: Axes, seed: int, steps: int = 1, tokens: int = 1) -> Job:
        """Return passes of the knobs' work one after another: compute times tokens, memory once a pass (model §2)."""
        return self.steps(steps, number(axes, "work_flops") * tokens, number(axes, "work_mem"), seed)

    def steps(self, steps: int, products: int, slices: int, seed: int) -> Job:
        """Return a job of `steps` steps, each begun when the one before is done in every thread."""
        burn = Burn(self.matmul_parts, seed)
        part_length = self.slice_elements // self.threads if slices else 1
        ring = (self.ring() if slices else np.zeros(self.threads, np.float32)).reshape(-1, self.threads, part_length)
        ring.fill(0)
        at = 0

        def run(steps: int, products: int, slices: int) -> None:
            nonlocal at

            def part(index: int) -> None:
                if index < burn.parts:
                    burn.run(index, products)
                for offset in range(slices):
                    part_of_ring = ring[(at + offset) % len(ring), index]
                    np.add(part_of_ring, 1, out=part_of_ring)

            for _ in range(steps):
                self.together(part)
                at = (at + slices) % len(ring)

        def check() -> str | None:
            burn.restart()
            ring.fill(0)
            first = at
            some = min(steps, CHECKED_STEPS), min(products, CHECKED_PRODUCTS), min(slices, len(ring) + 1)
            run(*some)
            passed, wrong = some[0] * some[2], burn.wrong(some[0] * some[1])
            for offset in range(len(ring)):
                expected = passed // len(ring) + (offset < passed % len(ring))
                if not (ring[(first + offset) % len(ring)] == expected).all():
                    wrong = wrong or f"slice {offset} of the ring was not passed {expected} times"
            return wrong

        return Job(launch=lambda: run(steps, products, slices), check=check)

    def buffers(self, size_bytes: int, count: int) -> list[Matrix]:
        """Return buffers of which every thread owns an equal part, backed by memory."""
        elements = size_bytes // 4
        if elements % self.threads or size_bytes % 4 or elements == 0:
            raise Unsupported(f"{size_bytes} bytes are not {self.threads} equal parts of floats")
        if count * size_bytes > cpu_facts.available_memory() * 3 // 4:
            raise MemoryError
        made = [np.empty((self.threads, elements // self.threads), np.float32) for _ in range(count)]
        for buffer in made:
            buffer.fill(0)
        return made

    def read(self, size_bytes: int, seed: int) -> Job:
        """Sum the squares of a buffer of zeros and ones, block by block: exact in float32."""
        (source,) = self.buffers(size_bytes, 1)
        source[...] = np.random.default_rng(seed).integers(0, 2, source.shape, np.int8)
        starts = range(0, source.shape[1], BLOCK)
        sums = np.zeros((self.threads, len(starts)), np.float64)

        def part(index: int) -> None:
            row, out = source[index], sums[index]
            for i, start in enumerate(starts):
                block = row[start : start + BLOCK]
                out[i] = np.dot(block, block)

        def check() -> str | None:
            sums.fill(-1)
            self.together(part)
            expected = np.add.reduceat(source, starts, axis=1, dtype=np.float64)
            return None if (sums == expected).all() else "a block's sum is not its number of ones"

        return Job(launch=lambda: self.together(part), check=check)

    def write(self, size_bytes: int, seed: int) -> Job:
        """Fill a buffer, with another value in every launch."""
        (target,) = self.buffers(size_bytes, 1)
        value = float(seed % 100)

        def launch() -> None:
            nonlocal value
            value = (value + 1) % 1000
            self.together(lambda index: target[index].fill(value))

        def wrong() -> str | None:
            return None if (target == value).all() else f"not every element became {value:g}"

        return stream_job(target, launch, wrong)

    def copy(self, size_bytes: int, seed: int) -> Job:
        """Copy a buffer into another."""
        source, target = self.buffers(size_bytes, 2)
        source[...] = np.random.default_rng(seed).integers(1, 100, source.shape, np.int8)

        def launch() -> None:
            self.together(lambda index: np.copyto(target[index], source[index]))

        wrong = "the copy differs from its source"
        return stream_job(target, launch, lambda: None if (target == source).all() else wrong)

    def triad(self, size_bytes: int, seed: int) -> Job:
        """a = b + 3 c, in blocks whose intermediate result stays in cache."""
        a, b, c = self.buffers(size_bytes, 3)
        rng = np.random.default_rng(seed)
        for buffer in (b, c):
            buffer[...] = rng.integers(1, 100, buffer.shape, np.int8)
        starts = range(0, a.shape[1], BLOCK)
        scale = np.float32(3)

        def part(index: int) -> None:
            for start in starts:
                block = np.s_[index, start : start + BLOCK]
                np.multiply(c[block], scale, out=a[block])
                np.add(a[block], b[block], out=a[block])

        wrong = "an element is not b + 3 c"
        return stream_job(a, lambda: self.together(part), lambda: None if (a - b == 3 * c).all() else wrong)

    def product(self, probe: str, axes: Axes, seed: int) -> Job:
        """Return activations [rows, inputs] by weights [inputs, outputs], each thread some columns of the result."""
        if axes["dtype"] in NO_BLAS:
            raise Unsupported(NO_BLAS[str(axes["dtype"])])
        rows, inputs, outputs = product_shape(axes)
        elements = rows * inputs + inputs * outputs + rows * outputs
        if 4 * elements > cpu_facts.available_memory() * 3 // 4:
            raise MemoryError
        weights = self.weight(probe, inputs, outputs, seed)
        x = small_numbers((rows, inputs), [seed, rows, inputs])
        out = np.zeros((rows, outputs), np.float32)
        edges = np.linspace(0, outputs, self.matmul_parts + 1).astype(int)
        columns = [np.s_[:, low:high] for low, high in pairwise(edges)]

        def launch() -> None:
            self.together(lambda i: np.matmul(x, weights[columns[i]], out=out[columns[i]]), self.matmul_parts)

        def check() -> str | None:
            out.fill(np.nan)
            launch()
            return None if is_product(x, weights, out, seed) else "not the product of activations and weights"

        return Job(launch=launch, check=check)

    def weight(self, probe: str, inputs: int, outputs: int, seed: int) -> Matrix:
        """Return a weight matrix, kept while points of the same probe follow."""
        if self.weights_of != probe:
            self.weights.clear()
            self.weights_of = probe
        key = (inputs, outputs, seed)
        if key not in self.weights:
            self.weights[key] = small_numbers((inputs, outputs), [seed, inputs, outputs, 1])
        return self.weights[key]


def stream_job(target: Matrix, launch: Launch, wrong: Callable[[], str | None]) -> Job:
    """Return a stream into a buffer, checked on one that holds nothing of it before."""

    def check() -> str | None:
        target.fill(-1)
        launch()
        return wrong()

    return Job(launch=launch, check=check)
