"""Which implementation runs an operation: the first by priority that suits the arrays, or the one asked for."""

import functools
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cuda_probe.devices.arrays import CPU, KernelDevice, device_name, device_of
from simulator.ground.artefacts import UserError

from . import cuda_backend, reference, torch_backend
from .cuda_backend import CudaSampling
from .libraries import dtype_name, family, require_same_device
from .random import WORD
from .results import Sampled, Verified

CUDA, TORCH, NUMPY = "cuda", "torch", "numpy"
OF_A_ROUND = ("target_logits", "draft_logits", "draft_ids", "lengths")
# The arrays that each operation takes first, in this order.
ARRAYS = {
    "speculative_sample": OF_A_ROUND,
    "sigmoid_sample": OF_A_ROUND,
    "verify_prefix": ("target_logits", "draft_ids", "lengths"),
    "kv_append": ("cache", "fresh", "lengths", "accepted"),
}
OPERATIONS = tuple(ARRAYS)
Given = Mapping[str, Any]


@dataclass(frozen=True)
class Implementation:
    """One way to run one operation.

    operation: one of `OPERATIONS`, or a caller's own. backend: the name it is asked for by. priority: higher is tried
    first. function: takes what the operation takes. refusal: why it cannot take these arrays (by name, the first one
    says where they lie), or None. suits: whether it may be picked for these arrays unasked.
    """

    operation: str
    backend: str
    priority: int
    function: Callable[..., Any]
    refusal: Callable[[Given], str | None]
    suits: Callable[[Given], bool]


_implementations: list[Implementation] = []
_cuda: list[CudaSampling] = []


def register(implementation: Implementation) -> None:
    """Add an implementation; one of the same operation and backend is replaced."""
    same = (implementation.operation, implementation.backend)
    _implementations[:] = [i for i in _implementations if (i.operation, i.backend) != same]
    _implementations.append(implementation)
    _implementations.sort(key=lambda i: -i.priority)


def pick(operation: str, given: Given, backend: str | None = None) -> Implementation:
    """Return the implementation for these arrays, by the names of `ARRAYS`; of one backend whatever the priorities say.

    A UserError says that the backend is unknown or cannot run here, or that none takes these arrays.
    """
    known = [i for i in _implementations if i.operation == operation]
    if backend is None:
        reasons = []
        for candidate in known:
            if candidate.suits(given):
                reason = candidate.refusal(given)
                if reason is None:
                    return candidate
                reasons.append(f"{candidate.backend}: {reason}")
        kind = type(next(iter(given.values()))).__name__
        why = "; ".join(reasons) or "expected a NumPy, torch or CuPy array"
        raise UserError(f"{operation}: nothing runs on {kind}, {why}")
    for candidate in known:
        if candidate.backend == backend:
            reason = candidate.refusal(given)
            if reason is not None:
                raise UserError(f"backend: {backend!r} cannot run {operation}: {reason}")
            return candidate
    names = ", ".join(i.backend for i in known)
    raise UserError(f"backend: {backend!r} is not one for {operation}, expected {names}")


def use_device(device: KernelDevice | None) -> None:
    """Give the CUDA backend the device it launches on; None takes it away."""
    _cuda[:] = [] if device is None else [CudaSampling(device)]


def cuda_sampling() -> CudaSampling | str:
    """Return the CUDA backend, on the device that was given or else on CuPy's; why there is none."""
    if not _cuda:
        device = _cupy_device()
        if isinstance(device, str):
            return device
        use_device(device)
    return _cuda[0]


@functools.cache
def _cupy_device() -> KernelDevice | str:
    """Return what launches through CuPy, or why nothing does."""
    if importlib.util.find_spec("cupy") is None:
        return "it needs CuPy and a CUDA device"
    try:
        from cuda_probe.devices.sampling import sampling_device
    except ImportError as error:
        return f"CuPy cannot be imported ({error})"
    return sampling_device()


def _cuda_refusal(given: Given) -> str | None:
    device = device_of(next(iter(given.values())))
    if device[0] == CPU and not _cuda:
        return "the tensors are on the CPU, expected them on a CUDA device"
    backend = cuda_sampling()
    if isinstance(backend, str):
        return backend
    if device[0] != backend.device.dlpack_type:
        return f"the tensors are on {device_name(device)}, expected {device_name((backend.device.dlpack_type, 0))}"
    return cuda_backend.refusal(given)


def _torch_refusal(_: Given) -> str | None:
    return None if torch_backend.is_installed() else "torch is not installed (pip install specsim[measure])"


def _numpy_refusal(given: Given) -> str | None:
    for name, array in given.items():
        if array is not None and device_of(array)[0] != CPU:
            return f"{name}: on {device_name(device_of(array))}, expected the CPU"
        if array is not None and dtype_name(array).startswith(("bfloat", "float8")):
            return f"NumPy has no {dtype_name(array)}"
    return None


def _on_cuda(operation: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        backend = cuda_sampling()
        if isinstance(backend, str):
            raise UserError(f"backend: 'cuda' cannot run {operation}: {backend}")
        return getattr(backend, operation)(*arguments)

    return call


def _on_torch(operation: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        given = dict(zip(ARRAYS[operation], arguments, strict=False))
        require_same_device(given)
        tensors = [None if a is None else torch_backend.tensor(a, name) for name, a in given.items()]
        numbers = _with_step(operation, arguments)[len(given) :]
        return _as_given(arguments[0], getattr(torch_backend, operation)(*tensors, *numbers))

    return call


def _on_numpy(operation: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        import numpy as np

        taken = [
            np.from_dlpack(a.detach() if family(a) == TORCH else a)
            if family(a) != NUMPY and hasattr(a, "__dlpack__")
            else a
            for a in _with_step(operation, arguments)
        ]
        return _as_given(arguments[0], getattr(reference, operation)(*taken))

    return call


def _with_step(operation: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Read the number of the round, the last argument of both ways of sampling, where an array holds it."""
    if "sample" not in operation or not hasattr(arguments[-1], "__dlpack__"):
        return arguments
    return *arguments[:-1], int(arguments[-1]) & WORD


def _as_given(like: Any, result: Any) -> Any:
    """Turn results into arrays of the library that the arguments are of."""
    if isinstance(result, Sampled):
        return Sampled(*(_as_given(like, part) for part in (result.accepted, result.token, result.out_ids)))
    if isinstance(result, Verified):
        return Verified(_as_given(like, result.accepted), _as_given(like, result.ids))
    if family(like) == family(result):
        return result
    if family(like) == TORCH:
        return torch_backend.tensor(result)
    return sys.modules[family(like)].from_dlpack(result)


def _is_of(*libraries: str) -> Callable[[Given], bool]:
    return lambda given: family(next(iter(given.values()))) in libraries


for _name in OPERATIONS:
    register(Implementation(_name, CUDA, 100, _on_cuda(_name), _cuda_refusal, _is_of(TORCH, "cupy")))
    register(Implementation(_name, TORCH, 50, _on_torch(_name), _torch_refusal, _is_of(TORCH, "cupy")))
    register(Implementation(_name, NUMPY, 10, _on_numpy(_name), _numpy_refusal, _is_of(NUMPY)))
