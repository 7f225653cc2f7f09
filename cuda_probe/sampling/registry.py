"""Which implementation runs an operation: the first by priority that suits the arrays, or the one asked for."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from simulator.artefacts import UserError

from . import reference, torch_backend
from .cuda_backend import CudaSampling, Device
from .dlpack import CPU
from .results import Sampled, Verified

CUDA, TORCH, NUMPY = "cuda", "torch", "numpy"
OPERATIONS = ("speculative_sample", "sigmoid_sample", "verify_prefix", "kv_append")


@dataclass(frozen=True)
class Implementation:
    """One way to run one operation.

    Attributes:
        operation: One of `OPERATIONS`, or a caller's own.
        backend: The name it is asked for by.
        priority: Higher is tried first.
        function: Takes what the operation takes.
        refusal: Why it cannot take arrays like this one, or None.
        suits: Whether it may be picked for arrays like this one unasked.
    """

    operation: str
    backend: str
    priority: int
    function: Callable[..., Any]
    refusal: Callable[[Any], str | None]
    suits: Callable[[Any], bool]


_implementations: list[Implementation] = []
_cuda: list[CudaSampling] = []


def register(implementation: Implementation) -> None:
    """Add an implementation; one of the same operation and backend is replaced."""
    same = (implementation.operation, implementation.backend)
    _implementations[:] = [i for i in _implementations if (i.operation, i.backend) != same]
    _implementations.append(implementation)
    _implementations.sort(key=lambda i: -i.priority)


def pick(operation: str, like: Any, backend: str | None = None) -> Implementation:
    """Return the implementation for arrays like `like`.

    Args:
        operation: One of `OPERATIONS`.
        like: An array of the caller's.
        backend: The one to use whatever the priorities say.

    Raises:
        UserError: The one asked for is unknown or cannot run here, or none suits.
    """
    known = [i for i in _implementations if i.operation == operation]
    if backend is None:
        for candidate in known:
            if candidate.suits(like) and candidate.refusal(like) is None:
                return candidate
        raise UserError(f"{operation}: nothing runs on {type(like).__name__}, expected a NumPy, torch or CuPy array")
    for candidate in known:
        if candidate.backend == backend:
            reason = candidate.refusal(like)
            if reason is not None:
                raise UserError(f"backend: {backend!r} cannot run {operation}: {reason}")
            return candidate
    names = ", ".join(i.backend for i in known)
    raise UserError(f"backend: {backend!r} is not one for {operation}, expected {names}")


def use_device(device: Device | None) -> None:
    """Give the CUDA backend the device it launches on; None takes it away."""
    _cuda[:] = [] if device is None else [CudaSampling(device)]


def family(array: Any) -> str:
    """Return the library an array is of: numpy, torch, cupy, or another's name."""
    return type(array).__module__.split(".")[0]


def cuda_sampling() -> CudaSampling | None:
    """Return the CUDA backend: on the device that was given, else on the CuPy device where there is one."""
    if not _cuda and importlib.util.find_spec("cupy") is not None:
        device = importlib.import_module("cuda_probe.device").sampling_device()
        if device is not None:
            use_device(device)
    return _cuda[0] if _cuda else None


def _cuda_refusal(array: Any) -> str | None:
    if not hasattr(array, "__dlpack_device__"):
        return f"{type(array).__name__} has no DLPack"
    where = int(array.__dlpack_device__()[0])
    if where == CPU and not _cuda:
        return "the tensors are on the CPU, expected them on a CUDA device"
    found = cuda_sampling()
    if found is None:
        return "it needs CuPy and a CUDA device"
    if where != found.device.dlpack_type:
        return f"the tensors are on DLPack device {where}, expected {found.device.dlpack_type}"
    return None


def _torch_refusal(array: Any) -> str | None:
    if not torch_backend.is_installed():
        return "torch is not installed (pip install specsim[measure])"
    return None if hasattr(array, "__dlpack__") else f"{type(array).__name__} has no DLPack"


def _numpy_refusal(array: Any) -> str | None:
    if not hasattr(array, "__dlpack_device__"):
        return f"{type(array).__name__} has no DLPack"
    if int(array.__dlpack_device__()[0]) != CPU:
        return "the tensors are not on the CPU"
    return "NumPy has no bfloat16" if "bfloat16" in str(array.dtype) else None


def _on_cuda(operation: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        found = cuda_sampling()
        if found is None:
            raise UserError(f"backend: 'cuda' cannot run {operation}: it needs CuPy and a CUDA device")
        return getattr(found, operation)(*(_without_gradient(a) for a in arguments))

    return call


def _on_torch(operation: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        taken = [torch_backend.tensor(a) if hasattr(a, "__dlpack__") else a for a in arguments]
        return _as_given(arguments[0], getattr(torch_backend, operation)(*taken))

    return call


def _on_numpy(operation: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        import numpy as np

        taken = [np.from_dlpack(_without_gradient(a)) if family(a) != NUMPY and hasattr(a, "__dlpack__") else a
                 for a in arguments]  # fmt: skip
        if operation in OPERATIONS[:3]:
            # Only the reference wants lengths for every sequence.
            at = 2 if operation == "verify_prefix" else 3
            ids = taken[at - 1] = np.asarray(taken[at - 1], np.int64)
            taken[at] = np.full(len(ids), ids.shape[1]) if taken[at] is None else np.asarray(taken[at], np.int64)
        return _as_given(arguments[0], getattr(reference, operation)(*taken))

    return call


def _without_gradient(array: Any) -> Any:
    return array.detach() if family(array) == TORCH else array


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
    library = importlib.import_module(family(like))
    return library.from_dlpack(result)


for _operation in OPERATIONS:
    register(
        Implementation(
            _operation, CUDA, 100, _on_cuda(_operation), _cuda_refusal, lambda a: family(a) in (TORCH, "cupy")
        )
    )
    register(
        Implementation(
            _operation, TORCH, 50, _on_torch(_operation), _torch_refusal, lambda a: family(a) in (TORCH, "cupy")
        )
    )
    register(Implementation(_operation, NUMPY, 10, _on_numpy(_operation), _numpy_refusal, lambda a: family(a) == NUMPY))
