"""Launches kernels/sampling.cu: geometry, order of arguments, workspaces. Knows a device only by what `Device` says."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from simulator.artefacts import UserError

from . import torch_backend
from .dlpack import BFLOAT, FLOAT, View, view
from .results import Sampled, Verified

CHUNK = 2048  # tokens a warp reads at a time; kernels/sampling.cu has the same number
LOG2_E = 1.4426950408889634
SUFFIXES = {(FLOAT, 32): "f32", (FLOAT, 16): "f16", (BFLOAT, 16): "bf16"}


class Device(Protocol):
    """What runs kernels: CuPy's RawModule on a GPU, the shim on a CPU in the tests."""

    dlpack_type: int

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], shared_bytes: int = 0
    ) -> None:
        """Start a kernel; arguments are NumPy scalars of the kernel's own types, and `Pointer`s."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return an array of zeros on the device."""
        ...

    def stream(self, pointer: int | None) -> AbstractContextManager[Any]:
        """Return a context in which launches go to that stream; None is the device's own."""
        ...


class Workspace:
    """Arrays that calls of one shape use again: every launch leaves its counters at 0, nothing has to be cleared."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[Any, ...], Any] = {}

    def take(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """Return the array kept under `key`, made the first time."""
        if key not in self._arrays:
            self._arrays[key] = make()
        return self._arrays[key]


class CudaSampling:
    """The four operations on one device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.workspace = Workspace()

    def speculative_sample(
        self, target: Any, draft: Any, ids: Any, lengths: Any, temperature: float, seed: int, step: int
    ) -> Sampled:
        """Sample one round exactly; arguments as in `reference.sample`. Two launches."""
        call = SamplingCall(self, target, draft, ids, lengths, seed, step)
        rows, scale = max(2 * call.drafts, 1), np.float32(LOG2_E / temperature)
        partials = call.scratch("partials", (call.batch, rows, call.chunks, 2), "float32")
        laws = call.scratch("laws", (call.batch, rows, 4), "float32")
        counters = call.scratch("accept counters", (call.batch * (rows + 1),), "int32")
        call.launch("spec_accept", call.batch * rows * call.chunks, scale, (partials, laws, counters, call.accepted))
        return call.draw("spec_draw", scale, (laws,))

    def sigmoid_sample(
        self, target: Any, draft: Any, ids: Any, lengths: Any, temperature: float, scale: float, seed: int, step: int
    ) -> Sampled:
        """Sample one round by the sigmoid approximation; arguments as in `reference.sample`. Two launches."""
        call = SamplingCall(self, target, draft, ids, lengths, seed, step)
        gain = np.float32(1 / (2 * scale * temperature))
        call.launch("sigmoid_accept", call.batch, gain, (call.accepted,))
        return call.draw("sigmoid_draw", gain, ())

    def verify_prefix(self, logits: Any, ids: Any, lengths: Any) -> Verified:
        """Count the leading drafts that equal the argmax of their row; as `reference.verify_prefix`. One launch."""
        call = Call(self, logits)
        seen = logits_view("target_logits", logits)
        (batch, rows, vocabulary), drafts = seen.shape, ids.shape[1]
        chunks = chunks_of(vocabulary)
        partials = call.scratch("verify partials", (batch, rows, chunks), "int64")
        counters = call.scratch("verify counters", (batch * (rows + 1),), "int32")
        accepted, tokens = call.result((batch,)), call.result((batch, rows))
        sizes = [np.int32(n) for n in (batch, drafts, rows, vocabulary)]
        strides = [np.int64(n) for n in seen.strides[:2]]
        arrays = [call.pointer(a) for a in (call.integers(ids), call.integers(lengths))]
        results = [call.pointer(a) for a in (partials, counters, accepted, tokens)]
        call.start(
            f"verify_prefix_{suffix_of(seen)}",
            geometry(batch * rows * chunks),
            [seen.pointer, *strides, *arrays, *sizes, *results],
        )
        return Verified(accepted, tokens)

    def kv_append(self, cache: Any, fresh: Any, lengths: Any, accepted: Any) -> Any:
        """Write the accepted positions of each sequence behind its own length, in place. One launch."""
        call = Call(self, cache)
        to, source = view(cache), view(fresh)
        (batch, heads, capacity, width), positions = to.shape, source.shape[2]
        unit_bytes = widest_unit(to, source)
        units = width * to.itemsize_bytes // unit_bytes
        if heads * positions * units >= 2**31:
            raise UserError(f"fresh: {heads} x {positions} x {units} units a sequence, expected fewer than 2^31")
        grown = call.result((batch,))
        strides = [np.int64(n * to.itemsize_bytes // unit_bytes) for seen in (to, source) for n in seen.strides[:3]]
        sizes = [np.int32(n) for n in (batch, heads, positions, capacity, units)]
        arrays = [call.pointer(a) for a in (call.integers(lengths), call.integers(accepted), grown)]
        blocks = min(max(math.ceil(heads * positions * units / 256), 1), 65535)
        shape = ((blocks, min(batch, 65535)), (256,))
        call.start(f"kv_append_{unit_bytes}", shape, [to.pointer, source.pointer, *arrays, *sizes, *strides])
        return grown


class Call:
    """Arrays of one call, of the caller's own library, and its launches on the caller's stream."""

    def __init__(self, owner: CudaSampling, like: Any) -> None:
        self.owner = owner
        self.like = like
        self.is_torch = type(like).__module__.split(".")[0] == "torch"
        self.stream = torch_backend.stream_of(like) if self.is_torch else None

    def scratch(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        """Return an array for intermediate results, one for each stream, kept for the next call of this shape."""
        key = (name, shape, self.stream, getattr(self.like, "device", None), self.is_torch)
        return self.owner.workspace.take(key, lambda: self.make(shape, dtype))

    def make(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return zeros where the caller's arrays are."""
        if self.is_torch:
            return torch_backend.empty(self.like, shape, dtype)
        return self.owner.device.empty(shape, dtype)

    def result(self, shape: tuple[int, ...]) -> Any:
        """Return an array of 64-bit integers for the caller to keep."""
        return self.make(shape, "int64")

    def integers(self, array: Any) -> Any:
        """Return contiguous 64-bit integers, the array itself where it holds them; None stays None."""
        if array is None:
            return None
        return torch_backend.integers(array) if self.is_torch else array.astype("int64", order="C", copy=False)

    def pointer(self, array: Any) -> Any:
        """Return the address of an array; the null pointer for None."""
        return np.uint64(0) if array is None else view(array).pointer

    def start(self, kernel: str, shape: tuple[tuple[int, ...], tuple[int, ...]], args: Sequence[Any]) -> None:
        """Launch a kernel on the caller's stream; nothing is launched for an empty batch."""
        if min(shape[0]) == 0:
            return
        with self.owner.device.stream(self.stream):
            self.owner.device.launch(kernel, *shape, args)


class SamplingCall(Call):
    """What both ways of sampling have in common: the same logits, drafts and numbers, and the draw that ends them."""

    def __init__(
        self, owner: CudaSampling, target: Any, draft: Any, ids: Any, lengths: Any, seed: int, step: int
    ) -> None:
        super().__init__(owner, target)
        self.target, self.draft = logits_view("target_logits", target), logits_view("draft_logits", draft)
        self.suffix = suffix_of(self.target)
        if suffix_of(self.draft) != self.suffix:
            raise UserError(f"draft_logits: {suffix_of(self.draft)}, expected {self.suffix} as in target_logits")
        self.batch, self.drafts = ids.shape
        self.vocabulary = self.target.shape[2]
        self.chunks = chunks_of(self.vocabulary)
        self.ids, self.lengths = self.integers(ids), self.integers(lengths)
        self.numbers = [np.uint64(seed), np.uint32(step)]
        self.accepted = self.result((self.batch,))

    def launch(self, kernel: str, items: int, law: np.float32, rest: Sequence[Any]) -> None:
        """Launch one of the sampling kernels: its arguments begin alike."""
        logits = [self.target.pointer, self.draft.pointer]
        strides = [np.int64(n) for seen in (self.target, self.draft) for n in seen.strides[:2]]
        sequences = [self.pointer(self.ids), self.pointer(self.lengths)]
        sizes = [np.int32(n) for n in (self.batch, self.drafts, self.vocabulary)]
        pointers = [self.pointer(array) for array in rest]
        args = [*logits, *strides, *sequences, *sizes, law, *self.numbers, *pointers]
        self.start(f"{kernel}_{self.suffix}", geometry(items), args)

    def draw(self, kernel: str, law: np.float32, laws: Sequence[Any]) -> Sampled:
        """Draw the next tokens, all drafts being decided."""
        token, out_ids = self.result((self.batch,)), self.result((self.batch, self.drafts + 1))
        scores = self.scratch("scores", (self.batch, self.chunks), "float64")
        tokens = self.scratch("tokens", (self.batch, self.chunks), "int32")
        counters = self.scratch("draw counters", (self.batch,), "int32")
        self.launch(
            kernel, self.batch * self.chunks, law, (*laws, self.accepted, scores, tokens, counters, token, out_ids)
        )
        return Sampled(self.accepted, token, out_ids)


def chunks_of(vocabulary: int) -> int:
    """Return how many warps read a row."""
    return math.ceil(vocabulary / CHUNK)


def geometry(items: int) -> tuple[tuple[int], tuple[int]]:
    """Return grid and block for so many chunks: spread thin while the device is not full, four a warp once it is.

    Changes speed alone: no result depends on it.
    """
    warps = 4 if items >= 2048 else 1
    each = 4 if items >= 16384 else 1
    return (math.ceil(items / (warps * each)),), (32 * warps,)


def suffix_of(seen: View) -> str:
    """Return what the kernels for this type end in.

    Raises:
        UserError: There are none.
    """
    try:
        return SUFFIXES[seen.dtype_code, seen.dtype_bits]
    except KeyError:
        raise UserError(f"logits: {seen.dtype_bits} bits an element, expected float32, float16 or bfloat16") from None


def logits_view(name: str, logits: Any) -> View:
    """Describe logits, which lie one after another in a row; rows may lie anywhere.

    Raises:
        UserError: They do not.
    """
    seen = view(logits)
    if seen.strides[2] != 1 and seen.shape[2] > 1 and 0 not in seen.shape:
        raise UserError(f"{name}: stride {seen.strides[2]} within a row, expected 1 (rows may be strided)")
    return seen


def widest_unit(to: View, source: View) -> int:
    """Return the widest copy, in bytes, that addresses, strides and width of both allow.

    Raises:
        UserError: The elements of a position do not lie one after another.
    """
    for name, seen in (("cache", to), ("fresh", source)):
        if seen.strides[3] != 1 and seen.shape[3] > 1 and 0 not in seen.shape:
            raise UserError(f"{name}: stride {seen.strides[3]} within a position, expected 1")
    size = to.itemsize_bytes
    steps = [n * size for seen in (to, source) for n in (*seen.strides[:3], seen.shape[3])]
    return math.gcd(16, int(to.pointer), int(source.pointer), *steps)
