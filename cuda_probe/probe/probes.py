"""What is measured: the registry of probes, their axes, FLOP and bytes, and what a device must offer to run them.

One list for every device. A probe's FLOP and bytes follow from its axes and the device's burn units (model §7);
how the work is done, and how its result is checked, is the device's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Protocol

from simulator.ground.artefacts import UserError
from simulator.ground.names import one_of

from .timing import Clock, Launch

AxisValue = int | str
Axes = Mapping[str, AxisValue]

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# What an axis counts; the order is that of tables.
AXIS_UNITS = {
    "draft_n": "drafted tokens",
    "work_flops": "workflops units a token",
    "work_mem": "workmem units a pass",
    "buffer_bytes": "bytes of each buffer",
    "size": "rows and columns of square matrices",
    "weight": "rows x columns of the weight matrix",
    "dtype": "element type",
    "tokens": "rows of the activation",
}
MAX_POINTS = 10_000


class Unsupported(Exception):
    """A device cannot run a point; the message says why and is recorded."""


class DeviceFault(Exception):
    """A point failed on the device; the message says how and is recorded. `lost`: nothing else will run either."""

    def __init__(self, message: str, *, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """What one burn unit is on a device, exactly (model §7): FLOP and bytes, read and written, and in words."""

    workflops_flop: int
    workmem_bytes: int
    workmem_flop: int
    workflops_means: str
    workmem_means: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A point made ready: everything is allocated and filled.

    launch: does the work; may return before it is done if the device's clock waits for it. check: does the work and
    returns what is wrong with its result, or None. works: how many times a launch does the work. misses_cache: whether
    launches find nothing of each other in the cache, so that it need not be flushed.
    """

    launch: Launch
    check: Callable[[], str | None]
    works: int = 1
    misses_cache: bool = False


class Device(Protocol):
    """What runs probes; `devices` holds the two there are."""

    @property
    def name(self) -> str:
        """As the user names it: cpu, cuda:0."""

    @property
    def clock(self) -> Clock:
        """What all probes of this device are timed by."""

    @property
    def units(self) -> Units:
        """The burn units of this device."""

    def environment(self) -> dict[str, Any]:
        """Say what the device is: model, memory, cache, drivers, libraries, clocks and power limits; JSON values."""

    def state(self, busy: Launch | None = None) -> dict[str, Any]:
        """Say what may disturb a measurement now: clocks, temperature, throttle reasons, load; JSON values.

        Where something does, the key `disturbed` says what, in a few constant words. busy: what the device is to do
        meanwhile, where it clocks down as soon as it has nothing to do.
        """

    def flush(self) -> None:
        """Empty the last-level cache; done, or ordered before the next launch, when it returns."""

    def axis_values(self, probe: str, *, quick: bool) -> Mapping[str, Sequence[AxisValue]]:
        """Return the values that each axis of a probe takes where the user names none."""

    def prepare(self, probe: str, axes: Axes, *, seed: int) -> AbstractContextManager[Job]:
        """Allocate and fill what a point needs; leaving the context frees it.

        Raises Unsupported, MemoryError where it does not fit, and DeviceFault, within the context as well.
        """

    def close(self) -> None:
        """Give back whatever the device holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One kind of work.

    axes: in the order of the table. flop, bytes: of one launch, caches aside. flushes: whether the cache is emptied
    before every sample. linear_in: the axis in which time is a straight line, if any.
    """

    name: str
    summary: str
    axes: tuple[str, ...] = ()
    flop: Callable[[Axes, Units], int] = lambda axes, units: 0
    bytes: Callable[[Axes, Units], int] = lambda axes, units: 0
    flushes: bool = False
    linear_in: str | None = None


def number(axes: Axes, name: str) -> int:
    """Return a numeric axis; a TypeError says that it is no whole number."""
    value = axes[name]
    if not isinstance(value, int):
        raise TypeError(f"{name}: {value!r} is not a whole number")
    return value


def pass_flop(axes: Axes, units: Units, tokens: int = 1) -> int:
    """One pass over some tokens: compute grows with them, memory work (the weights) does not (model §2)."""
    return number(axes, "work_flops") * tokens * units.workflops_flop + number(axes, "work_mem") * units.workmem_flop


def pass_bytes(axes: Axes, units: Units) -> int:
    return number(axes, "work_mem") * units.workmem_bytes


def product_shape(axes: Axes) -> tuple[int, int, int]:
    """Return rows, inputs and outputs of a matrix product: a square one, or tokens by a weight such as 4096x11008."""
    if "size" in axes:
        return (number(axes, "size"),) * 3
    inputs, _, outputs = str(axes["weight"]).partition("x")
    return number(axes, "tokens"), int(inputs), int(outputs)


def product_flop(axes: Axes, units: Units) -> int:
    rows, inputs, outputs = product_shape(axes)
    return 2 * rows * inputs * outputs


def product_bytes(axes: Axes, units: Units) -> int:
    """Bytes read and written: activation and weights of their type, the result in float32."""
    rows, inputs, outputs = product_shape(axes)
    item = ITEM_BYTES[str(axes["dtype"])]
    return (rows * inputs + inputs * outputs) * item + rows * outputs * ITEM_BYTES["float32"]


def streams(name: str, summary: str, buffers: int, flop_per_element: int = 0) -> Probe:
    """Return a stream over `buffers` buffers of float32."""
    return Probe(
        name=name,
        summary=summary,
        axes=("buffer_bytes",),
        flop=lambda axes, units: flop_per_element * (number(axes, "buffer_bytes") // 4),
        bytes=lambda axes, units: buffers * number(axes, "buffer_bytes"),
    )


KNOBS = ("work_flops", "work_mem")
DRAFT = Probe(
    name="draft",
    summary="K tokens one after another, each a pass of the knobs' work.",
    axes=("draft_n", *KNOBS),
    flop=lambda axes, units: number(axes, "draft_n") * pass_flop(axes, units),
    bytes=lambda axes, units: number(axes, "draft_n") * pass_bytes(axes, units),
    linear_in="draft_n",
)
PROBES = (
    Probe(name="empty", summary="A launch that does nothing: what calling the device costs."),
    Probe(name="empty_graph", summary="The same as one of many launches in a graph: what the device itself needs."),
    Probe(
        name="burn_flops",
        summary="Arithmetic alone, in workflops units.",
        axes=("work_flops",),
        flop=lambda axes, units: number(axes, "work_flops") * units.workflops_flop,
        linear_in="work_flops",
    ),
    Probe(
        name="burn_memory",
        summary="Memory traffic past the last-level cache, in workmem units.",
        axes=("work_mem",),
        flop=lambda axes, units: number(axes, "work_mem") * units.workmem_flop,
        bytes=pass_bytes,
        linear_in="work_mem",
    ),
    DRAFT,
    replace(DRAFT, name="draft_graph", summary="The same as draft, its launches captured as one graph."),
    Probe(
        name="verify",
        summary="One pass over K + 1 tokens: K + 1 times the arithmetic, the memory work once.",
        axes=("draft_n", *KNOBS),
        flop=lambda axes, units: pass_flop(axes, units, number(axes, "draft_n") + 1),
        bytes=pass_bytes,
        linear_in="draft_n",
    ),
    Probe(
        name="baseline",
        summary="One pass over one token: plain decoding.",
        axes=KNOBS,
        flop=pass_flop,
        bytes=pass_bytes,
    ),
    streams("read", "Read a buffer (the sum that keeps the reads alive is not counted).", 1),
    streams("write", "Write a buffer.", 1),
    streams("copy", "Copy a buffer into another.", 2),
    streams("triad", "a = b + s * c over three buffers.", 3, flop_per_element=2),
    Probe(
        name="matmul",
        summary="Square matrix products: the arithmetic that a library reaches.",
        axes=("size", "dtype"),
        flop=product_flop,
        bytes=product_bytes,
    ),
    Probe(
        name="skinny",
        summary="A few tokens by a weight matrix, weights not in cache: decoding and verification.",
        axes=("weight", "dtype", "tokens"),
        flop=product_flop,
        bytes=product_bytes,
        flushes=True,
    ),
)
BY_NAME = {probe.name: probe for probe in PROBES}


def select_probes(names: Iterable[str]) -> tuple[Probe, ...]:
    """Return the probes of these names in the registry's order, all where none is named; refuses other names."""
    wanted = tuple(name.strip() for text in names for name in text.split(","))
    for name in wanted:
        if name not in BY_NAME:
            raise UserError(f"--only: {name!r} is no probe, expected {one_of(BY_NAME, name)}")
    return tuple(probe for probe in PROBES if not wanted or probe.name in wanted)


def points(probe: Probe, values: Mapping[str, Sequence[AxisValue]]) -> list[dict[str, AxisValue]]:
    """Return every combination of the values of a probe's axes, the last axis running fastest."""
    return [dict(zip(probe.axes, row, strict=True)) for row in product(*(values[axis] for axis in probe.axes))]
