"""A device whose times follow a law, for tests of what stands on devices: half a nanosecond a FLOP, one a byte."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cuda_probe.probe.probes import BY_NAME, Axes, Job, Units, Unsupported

FLOP_S, BYTE_S, LAUNCH_S = 0.5e-9, 1e-9, 10e-6
DEFAULTS = {
    "draft_n": (1, 2, 4),
    "work_flops": (2, 4, 8),
    "work_mem": (1, 2, 3),
    "buffer_bytes": (4000, 8000),
    "size": (16, 32),
    "weight": ("30x50",),
    "dtype": ("float32", "bfloat16"),
    "tokens": (1, 2, 8),
}


class FakeDevice:
    """Runs everything but graphs and bfloat16; `wrong` names probes whose result is wrong."""

    name = "fake"
    resolution_s = 1e-9
    units = Units(
        workflops_flop=600, workmem_bytes=8000, workmem_flop=1000, workflops_means="600 FLOP", workmem_means="8000 B"
    )

    def __init__(self, wrong: tuple[str, ...] = (), too_large: tuple[str, ...] = ()) -> None:
        self.wrong, self.too_large = wrong, too_large
        self.time_s, self.running_s = 0.0, 0.0
        self.prepared: list[tuple[str, dict[str, Any], int]] = []
        self.log: list[str] = []
        self.open_jobs, self.closed = 0, False

    @property
    def clock(self) -> "FakeDevice":
        return self

    def now_s(self) -> float:
        return self.time_s

    def elapsed_s(self, launch: Callable[[], object], count: int) -> float:
        began = self.time_s
        launch()
        self.time_s += (count - 1) * self.running_s
        return self.time_s - began

    def environment(self) -> dict[str, Any]:
        return {"name": self.name, "model": "Costs $1 a law"}

    def state(self, busy: Callable[[], object] | None = None) -> dict[str, Any]:
        return {"clock_hz": 10}

    def flush(self) -> None:
        self.log.append("flush")

    def axis_values(self, probe: str, *, quick: bool) -> dict[str, tuple[Any, ...]]:
        return DEFAULTS if quick else DEFAULTS | {"work_mem": (1, 2, 3, 4)}

    @contextmanager
    def prepare(self, probe: str, axes: Axes, *, seed: int) -> Iterator[Job]:
        self.prepared.append((probe, dict(axes), seed))
        if probe == "draft_graph":
            raise Unsupported("no graphs here")
        if axes.get("dtype") == "bfloat16":
            raise Unsupported("no bfloat16")
        if probe in self.too_large:
            raise MemoryError
        found = BY_NAME[probe]
        duration = LAUNCH_S + FLOP_S * found.flop(axes, self.units) + BYTE_S * found.bytes(axes, self.units)

        def launch() -> None:
            assert self.open_jobs == 1
            self.log.append(probe)
            self.running_s = duration
            self.time_s += duration

        def check() -> str | None:
            self.log.append(f"check {probe}")
            return "off by one" if probe in self.wrong else None

        self.open_jobs += 1
        try:
            yield Job(launch=launch, check=check)
        finally:
            self.open_jobs -= 1

    def close(self) -> None:
        self.closed = True
