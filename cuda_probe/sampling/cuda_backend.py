"""Launches kernels/sampling.cu. What calls of one layout have in common is worked out once, in a plan.

Everything of a call goes to the stream that the caller's library works on: scratch is kept for each stream and used by
one call after another there.
"""

import math
from collections.abc import Callable, Hashable, Mapping
from threading import Lock
from typing import Any

import numpy as np

from cuda_probe.devices.arrays import KernelDevice, Place
from simulator.ground.artefacts import UserError

from .libraries import (
    DeviceLibrary,
    Library,
    TorchLibrary,
    bytes_of,
    dtype_name,
    family,
    parts,
    require_same_device,
    strides_of,
)
from .random import GROUP
from .reference import LOG2_E
from .results import Sampled, Verified

CHUNK = 2048  # tokens a warp reads at a time; kernels/sampling.cu has the same number
SPANS = (32 * GROUP, 16 * GROUP, 8 * GROUP, 4 * GROUP, 2 * GROUP)  # tokens of a warp that draws
SUFFIXES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
# Blocks of 128 threads that a multiprocessor holds at least: __launch_bounds__ of the kernels.
RESIDENT = {"accept": 6, "verify": 6, "draw": 4}
WARPS_A_BLOCK = 4
MOST_PLANS = 256
Sizes = list[tuple[tuple[int, ...], str]]


class Workspace:
    """Scratch of one stream, and the plans that hold addresses in it.

    One call after another uses it: the stream keeps them in order. It grows, and then all plans are made anew. Every
    launch leaves its counters at 0, so nothing has to be cleared.
    """

    def __init__(self, device: KernelDevice, library: Library, place: Place) -> None:
        self.device, self.library, self.place = device, library, place
        self.plans: dict[Hashable, Any] = {}
        self.memory = library.empty((0,), "uint8", place.device_id)
        self.counters = library.zeros((0,), "int32", place.device_id)
        self.lock = Lock()  # a call's launches share scratch: no other thread's come between them

    def reserve(self, sizes: Sizes, counters: int) -> list[Any]:
        """Return scratch of these shapes and types, and then so many counters."""
        size_bytes, device_id = bytes_of(sizes), self.place.device_id
        if size_bytes > len(self.memory):
            self.plans.clear()
            self.memory = self.library.empty((size_bytes,), "uint8", device_id)
        if counters > len(self.counters):
            self.plans.clear()
            self.counters = self.library.zeros((counters,), "int32", device_id)
        return [*parts(self.library, self.memory, sizes), self.counters[:counters]]

    def plan(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the plan kept under `key`, made the first time."""
        if key not in self.plans:
            if len(self.plans) >= MOST_PLANS:
                self.plans.clear()
            self.plans[key] = make()
        return self.plans[key]


class CudaSampling:
    """The four operations on the devices of one kind."""

    def __init__(self, device: KernelDevice) -> None:
        self.device = device
        self.libraries: dict[str, Library] = {}
        self.workspaces: dict[Hashable, Workspace] = {}
        self.captured: list[Workspace] = []

    def speculative_sample(
        self, target: Any, draft: Any, ids: Any, lengths: Any, temperature: float, seed: int, step: Any
    ) -> Sampled:
        """Sample one round exactly; arguments as in `reference.sample`. Two launches."""
        return self.sample("spec", np.float32(LOG2_E / temperature), target, draft, ids, lengths, seed, step)

    def sigmoid_sample(
        self, target: Any, draft: Any, ids: Any, lengths: Any, temperature: float, scale: float, seed: int, step: Any
    ) -> Sampled:
        """Sample one round by the sigmoid approximation; arguments as in `reference.sample`. Two launches."""
        gain = np.float32(1 / (2 * scale * temperature))
        return self.sample("sigmoid", gain, target, draft, ids, lengths, seed, step)

    def sample(
        self, way: str, law: np.float32, target: Any, draft: Any, ids: Any, lengths: Any, seed: int, step: Any
    ) -> Sampled:
        """Sample one round, whatever the kernels' way of turning logits into weights."""
        step_at = None if isinstance(step, int | np.integer) else step
        given = {"target_logits": target, "draft_logits": draft, "draft_ids": ids, "lengths": lengths, "step": step_at}
        workspace, key, arrays = self.begin(given)
        with workspace.lock:
            plan = workspace.plan((way, key), lambda: SamplingPlan(workspace, way, given, arrays))
            result: Sampled = plan.run(arrays, law, seed, 0 if step_at is not None else step)
        return result

    def verify_prefix(self, logits: Any, ids: Any, lengths: Any) -> Verified:
        """Count the leading drafts that equal the argmax of their row; as `reference.verify_prefix`. One launch."""
        given = {"target_logits": logits, "draft_ids": ids, "lengths": lengths}
        workspace, key, arrays = self.begin(given)
        with workspace.lock:
            plan = workspace.plan(("verify", key), lambda: VerifyPlan(workspace, given, arrays))
            result: Verified = plan.run(arrays)
        return result

    def kv_append(self, cache: Any, fresh: Any, lengths: Any, accepted: Any) -> Any:
        """Write the accepted positions of each sequence behind its own length, in place. One launch."""
        given = {"cache": cache, "fresh": fresh, "lengths": lengths, "accepted": accepted}
        workspace, key, arrays = self.begin(given)
        with workspace.lock:
            # Addresses decide how wide the copies are.
            bases = tuple(int(self.device.address(array)) % 16 for array in arrays[:2])
            plan = workspace.plan(("append", key, bases), lambda: AppendPlan(workspace, given, arrays, bases))
            return plan.run(arrays)

    def begin(self, given: dict[str, Any]) -> tuple[Workspace, Hashable, list[Any]]:
        """Return the workspace of a call, what its plan is kept under, and its arrays in the library of the first."""
        like = next(iter(given.values()))
        name = family(like)
        if name not in self.libraries:
            self.libraries[name] = TorchLibrary(self.device) if name == "torch" else DeviceLibrary(self.device, name)
        library = self.libraries[name]
        kind = type(like)
        if any(array is not None and type(array) is not kind for array in given.values()):
            require_same_device(given)
        arrays = [array if array is None or type(array) is kind else library.view(array) for array in given.values()]
        place = library.place(like)
        key = tuple([None if array is None else library.layout(array) for array in arrays])
        if self.device.is_capturing(place):
            # A graph uses its scratch whenever it is replayed, and its memory may be its own: nobody else's then.
            workspace = Workspace(self.device, library, place)
            self.captured.append(workspace)
            return workspace, key, arrays
        if (name, place) not in self.workspaces:
            self.workspaces[name, place] = Workspace(self.device, library, place)
        return self.workspaces[name, place], key, arrays


class Plan:
    """What calls of one layout have in common: all arguments but addresses and numbers, geometry, scratch."""

    def __init__(self, workspace: Workspace, given: dict[str, Any]) -> None:
        require_same_device(given)
        self.device, self.library, self.place = workspace.device, workspace.library, workspace.place
        self.multiprocessors = self.device.multiprocessors(self.place.device_id)

    def addresses(self, arrays: list[Any]) -> list[Any]:
        """Return the addresses of arrays; null pointers for None."""
        return [self.device.address(array) for array in arrays]

    def results(self, *shapes: tuple[int, ...]) -> list[Any]:
        """Return arrays of 64-bit integers for the caller to keep, in one allocation."""
        sizes = [math.prod(shape) for shape in shapes]
        whole = self.library.empty((sum(sizes),), "int64", self.place.device_id)
        arrays, begin = [], 0
        for shape, size in zip(shapes, sizes, strict=True):
            part = whole[begin : begin + size]
            arrays.append(part if len(shape) == 1 else part.reshape(shape))
            begin += size
        return arrays

    def launch(self, kernel: str, shape: tuple[tuple[int, ...], tuple[int, ...]], *args: Any) -> None:
        """Start a kernel on the caller's stream."""
        self.device.launch(self.place, kernel, *shape, args)


class SamplingPlan(Plan):
    """Both ways of sampling: acceptance, then the draw of the next token."""

    def __init__(self, workspace: Workspace, way: str, given: dict[str, Any], arrays: list[Any]) -> None:
        super().__init__(workspace, given)
        target, draft, ids, *_ = arrays
        self.suffix = suffix_of({"target_logits": target, "draft_logits": draft})
        (self.batch, self.drafts), vocabulary = ids.shape, target.shape[2]
        steps = [*row_strides("target_logits", target), *row_strides("draft_logits", draft)]
        self.strides = [np.int64(n) for n in steps]
        self.sizes = [np.int32(n) for n in (self.batch, self.drafts, vocabulary)]
        self.way, is_exact = way, way == "spec"
        rows, chunks = max(2 * self.drafts, 1), math.ceil(vocabulary / CHUNK)
        span = span_of(self.batch, vocabulary, self.multiprocessors)
        spans = math.ceil(vocabulary / span)
        self.span = np.int32(span)
        sizes: Sizes = [((self.batch, spans), "float64"), ((self.batch, spans), "int32")]
        if is_exact:
            sizes += [((self.batch, rows, 4), "float32"), ((self.batch, rows, chunks, 2), "float32")]
        self.scratch = workspace.reserve(sizes, self.batch * (rows + 1) if is_exact else self.batch)
        scores, groups, *laws_and_partials, counters = self.addresses(self.scratch)
        self.laws, partials = laws_and_partials[:1], laws_and_partials[1:]
        self.accept_scratch = [*partials, *self.laws, counters] if is_exact else []
        self.draw_scratch = [scores, groups, counters]
        items = self.batch * (rows * chunks if is_exact else 1)
        self.accept_shape = geometry(items, self.multiprocessors, RESIDENT["accept"])
        self.draw_shape = geometry(self.batch * spans, self.multiprocessors, RESIDENT["draw"])

    def run(self, arrays: list[Any], law: np.float32, seed: int, step: int) -> Sampled:
        """Sample one round; `step` is 0 where an array holds it."""
        target, draft, ids, lengths, step_at = arrays
        accepted, token, out_ids = self.results((self.batch,), (self.batch,), (self.batch, self.drafts + 1))
        if self.batch == 0:
            return Sampled(accepted, token, out_ids)
        ids, lengths, step_at = (None if a is None else self.library.integers(a) for a in (ids, lengths, step_at))
        address = self.device.address
        at_accepted = address(accepted)
        common = [
            *(address(target), address(draft), *self.strides, address(ids), address(lengths), *self.sizes),
            *(law, np.uint64(seed), np.uint32(step), address(step_at)),
        ]
        self.launch(f"{self.way}_accept_{self.suffix}", self.accept_shape, *common, *self.accept_scratch, at_accepted)
        self.launch(
            f"{self.way}_draw_{self.suffix}",
            self.draw_shape,
            *(*common, *self.laws, at_accepted, self.span, *self.draw_scratch, address(token), address(out_ids)),
        )
        return Sampled(accepted, token, out_ids)


class VerifyPlan(Plan):
    """Greedy verification."""

    def __init__(self, workspace: Workspace, given: dict[str, Any], arrays: list[Any]) -> None:
        super().__init__(workspace, given)
        logits, ids, _ = arrays
        self.kernel = f"verify_prefix_{suffix_of({'target_logits': logits})}"
        (self.batch, self.rows, vocabulary), drafts = logits.shape, ids.shape[1]
        chunks = math.ceil(vocabulary / CHUNK)
        self.strides = [np.int64(n) for n in row_strides("target_logits", logits)]
        self.sizes = [np.int32(n) for n in (self.batch, drafts, self.rows, vocabulary)]
        shape = (self.batch, self.rows, chunks)
        self.scratch = workspace.reserve([(shape, "int64")], self.batch * (self.rows + 1))
        self.at_scratch = self.addresses(self.scratch)
        self.shape = geometry(math.prod(shape), self.multiprocessors, RESIDENT["verify"])

    def run(self, arrays: list[Any]) -> Verified:
        """Verify one round."""
        logits, ids, lengths = arrays
        if self.batch * self.rows == 0:  # no row, no launch: nothing drafted, nothing accepted
            zeros = self.library.zeros
            return Verified(
                *(zeros(s, "int64", self.place.device_id) for s in ((self.batch,), (self.batch, self.rows)))
            )
        accepted, tokens = self.results((self.batch,), (self.batch, self.rows))
        ids, lengths = (None if a is None else self.library.integers(a) for a in (ids, lengths))
        at_logits, at_ids, at_lengths, *results = self.addresses([logits, ids, lengths, accepted, tokens])
        inputs = [at_logits, *self.strides, at_ids, at_lengths, *self.sizes]
        self.launch(self.kernel, self.shape, *inputs, *self.at_scratch, *results)
        return Verified(accepted, tokens)


class AppendPlan(Plan):
    """The append to a KV cache."""

    def __init__(self, workspace: Workspace, given: dict[str, Any], arrays: list[Any], bases: tuple[int, ...]) -> None:
        super().__init__(workspace, given)
        cache, fresh, *_ = arrays
        (self.batch, heads, capacity, _), positions = cache.shape, fresh.shape[2]
        unit_bytes, units, steps_bytes = copy_units(cache, fresh, math.gcd(16, *bases))
        self.kernel = f"kv_append_{unit_bytes}"
        self.sizes = [np.int32(n) for n in (self.batch, heads, positions, capacity, units)]
        self.strides = [np.int64(n // unit_bytes) for n in steps_bytes]
        blocks = min(max(math.ceil(heads * positions * units / 256), 1), 65535)
        self.shape = ((blocks, min(self.batch, 65535)), (256,))

    def run(self, arrays: list[Any]) -> Any:
        """Append; return the new lengths."""
        (grown,) = self.results((self.batch,))
        if self.batch:
            cache, fresh, lengths, accepted = arrays
            lengths, accepted = self.library.integers(lengths), self.library.integers(accepted)
            addresses = self.addresses([cache, fresh, lengths, accepted, grown])
            self.launch(self.kernel, self.shape, *addresses, *self.sizes, *self.strides)
        return grown


def geometry(items: int, multiprocessors: int, resident: int) -> tuple[tuple[int], tuple[int]]:
    """Return grid and block for so many chunks: a warp each while they fill the device, then as many as it holds.

    Changes speed alone: no result depends on it. resident: blocks that a multiprocessor holds.
    """
    warps = min(max(math.ceil(items / multiprocessors), 1), WARPS_A_BLOCK)
    return (min(math.ceil(items / warps), multiprocessors * resident),), (32 * warps,)


def span_of(batch: int, vocabulary: int, multiprocessors: int) -> int:
    """Return how many tokens a warp that draws reads: the more, the fewer scores to compare; the fewer, the more warps.

    Changes speed alone: groups race, whoever reads them.
    """
    enough = multiprocessors * RESIDENT["draw"] * WARPS_A_BLOCK
    return next((span for span in SPANS if batch * math.ceil(vocabulary / span) >= enough), SPANS[-1])


def refusal(given: Mapping[str, Any]) -> str | None:
    """Say why the kernels cannot take these arrays, types and strides as they are; None where they can."""
    try:
        if "cache" in given:
            copy_units(given["cache"], given["fresh"], 16)
        else:
            suffix_of(given)
            for name in given.keys() & {"target_logits", "draft_logits"}:
                row_strides(name, given[name])
    except UserError as error:
        return str(error)
    return None


def suffix_of(given: Mapping[str, Any]) -> str:
    """Return what the kernels for the type of these logits end in; refuses a type that has none, or two types."""
    name = dtype_name(given["target_logits"])
    if name not in SUFFIXES:
        raise UserError(f"target_logits: {name}, expected {', '.join(SUFFIXES)}")
    if "draft_logits" in given and dtype_name(given["draft_logits"]) != name:
        raise UserError(f"draft_logits: {dtype_name(given['draft_logits'])}, expected {name} as in target_logits")
    return SUFFIXES[name]


def row_strides(name: str, logits: Any) -> tuple[int, ...]:
    """Return the strides of sequences and of rows of logits; refuses rows whose logits do not lie side by side."""
    *steps, within = strides_of(logits)
    if within != 1 and logits.shape[2] > 1 and 0 not in logits.shape:
        raise UserError(f"{name}: stride {within} within a row, expected 1 (rows may be strided)")
    return tuple(steps)


def copy_units(cache: Any, fresh: Any, alignment_bytes: int) -> tuple[int, int, list[int]]:
    """Return bytes of the widest unit that can be copied, units of a position, and strides of both in bytes.

    Refuses elements of a position that do not lie one after another, or too many for 32 bits. alignment_bytes: of both
    addresses.
    """
    steps_bytes = []
    for name, array in (("cache", cache), ("fresh", fresh)):
        *steps, within = strides_of(array)
        if within != 1 and array.shape[3] > 1 and 0 not in array.shape:
            raise UserError(f"{name}: stride {within} within a position, expected 1")
        steps_bytes += [n * cache.itemsize for n in steps]
    size_bytes = cache.shape[3] * cache.itemsize
    unit_bytes = math.gcd(16, alignment_bytes, *steps_bytes, size_bytes)
    (_, heads, positions, _), units = fresh.shape, size_bytes // unit_bytes
    if heads * positions * units >= 2**31:
        raise UserError(f"fresh: {heads} x {positions} x {units} units a sequence, expected fewer than 2^31")
    return unit_bytes, units, steps_bytes
