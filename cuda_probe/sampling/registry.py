"""Which implementation runs an operation: the first by priority that suits the arrays, or the one asked for."""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from simulator.artefacts import UserError

from . import reference, torch_backend
from .cuda_backend import CudaSampling
from .dlpack import CPU, device_name, device_of
from .libraries import Device, family
from .random import WORD
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


def cuda_sampling() -> CudaSampling | str:
    """Return the CUDA backend, on the device that was given or else on CuPy's; why there is none."""
    if not _cuda:
        found = _cupy_device()
        if isinstance(found, str):
            return found
        use_device(found)
    return _cuda[0]


@functools.cache
def _cupy_device() -> Device | str:
    """Return what launches through CuPy, or why nothing does."""
    if importlib.util.find_spec("cupy") is None:
        return "it needs CuPy and a CUDA device"
    try:
        found: Device | str = importlib.import_module("cuda_probe.sampling_device").sampling_device()
    except ImportError as error:
        return f"CuPy cannot be imported ({error})"
    return found


def _cuda_refusal(array: Any) -> str | None:
    if not hasattr(array, "__dlpack_device__"):
        return f"{type(array).__name__} has no DLPack"
    device = device_of(array)
    if device[0] == CPU and not _cuda:
        return "the tensors are on the CPU, expected them on a CUDA device"
    found = cuda_sampling()
    if isinstance(found, str):
        return found
    if device[0] != found.device.dlpack_type:
        return f"the tensors are on {device_name(device)}, expected {device_name((found.device.dlpack_type, 0))}"
    return None


def _torch_refusal(array: Any) -> str | None:
    if not torch_backend.is_installed():
        return "torch is not installed (pip install specsim[measure])"
    return None if hasattr(array, "__dlpack__") else f"{type(array).__name__} has no DLPack"


def _numpy_refusal(array: Any) -> str | None:
    if not hasattr(array, "__dlpack_device__"):
        return f"{type(array).__name__} has no DLPack"
    if device_of(array)[0] != CPU:
        return "the tensors are not on the CPU"
    return "NumPy has no bfloat16" if "bfloat16" in str(array.dtype) else None


def _on_cuda(operation: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        found = cuda_sampling()
        if isinstance(found, str):
            raise UserError(f"backend: 'cuda' cannot run {operation}: {found}")
        return getattr(found, operation)(*arguments)

    return call


def _on_torch(operation: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        taken = [torch_backend.tensor(a) if hasattr(a, "__dlpack__") else a for a in _with_step(operation, arguments)]
        return _as_given(arguments[0], getattr(torch_backend, operation)(*taken))

    return call


def _on_numpy(operation: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        import numpy as np

        taken = [
            np.from_dlpack(_without_gradient(a)) if family(a) != NUMPY and hasattr(a, "__dlpack__") else a
            for a in _with_step(operation, arguments)
        ]
        return _as_given(arguments[0], getattr(reference, operation)(*taken))

    return call


def _with_step(operation: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Read the number of the round, the last argument of both ways of sampling, where an array holds it."""
    if "sample" not in operation or not hasattr(arguments[-1], "__dlpack__"):
        return arguments
    return *arguments[:-1], int(arguments[-1]) & WORD


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


def _is_of_a_gpu_library(array: Any) -> bool:
    return family(array) in (TORCH, "cupy")


def _is_numpy(array: Any) -> bool:
    return family(array) == NUMPY


for _name in OPERATIONS:
    register(Implementation(_name, CUDA, 100, _on_cuda(_name), _cuda_refusal, _is_of_a_gpu_library))
    register(Implementation(_name, TORCH, 50, _on_torch(_name), _torch_refusal, _is_of_a_gpu_library))
    register(Implementation(_name, NUMPY, 10, _on_numpy(_name), _numpy_refusal, _is_numpy))
