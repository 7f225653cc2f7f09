"""Matrix products of a GPU through cuBLAS, on numbers that the GPU makes itself, checked by exact arithmetic.

Made on the host, the numbers of one large weight matrix would take longer than all of its measurements.
"""

from collections.abc import Callable
from itertools import cycle
from typing import Any

import cupy
import numpy as np

from cuda_probe.probe.probes import Job
from cuda_probe.probe.timing import Launch

# Elements of a matrix that are turned into float64 at a time.
CHECKED_ELEMENTS = 1 << 24


def hashed(shape: tuple[int, ...], seed: int) -> Any:
    """Return pseudo-random uint32 of this shape, the same for a seed for ever (the finaliser of MurmurHash3)."""
    z = cupy.arange(int(np.prod(shape)), dtype=cupy.uint32)
    z += cupy.uint32(seed * 0x9E3779B9 % 2**32)
    z ^= z >> 16
    z *= cupy.uint32(0x85EBCA6B)
    z ^= z >> 13
    z *= cupy.uint32(0xC2B2AE35)
    z ^= z >> 16
    return z.reshape(shape)


def uniform(shape: tuple[int, ...], seed: int) -> Any:
    """Return float32 between -1 and 1."""
    return (hashed(shape, seed) >> 8).astype(cupy.float32) * cupy.float32(2.0**-23) - cupy.float32(1)


def small_numbers(shape: tuple[int, ...], seed: int) -> Any:
    """Return float32 that are -1, 0 or 1: their products are exact in every type."""
    return (hashed(shape, seed) % 3).astype(cupy.float32) - cupy.float32(1)


def typed(values: Any, dtype: str) -> Any:
    """Return float32 numbers in another type; bfloat16 as its 16 bits, cut off."""
    if dtype == "bfloat16":
        return (values.view(cupy.uint32) >> 16).astype(cupy.uint16)
    return values.astype(dtype, copy=False)


def untyped(values: Any, dtype: str) -> Any:
    """Return numbers of a type as float64."""
    if dtype == "bfloat16":
        values = (values.astype(cupy.uint32) << 16).view(cupy.float32)
    return values.astype(cupy.float64)


def product(x: Any, weights: Any, out: Any, dtype: str) -> Launch:
    """Return what computes out = x @ weights, accumulated in float32.

    cuBLAS counts by columns, so it is told out' = weights' @ x'. All arguments are made here: what is launched is one
    call, so that the host keeps up with short products.
    """
    from cupy.cuda import cublas, runtime

    kinds = {"float32": runtime.CUDA_R_32F, "float16": runtime.CUDA_R_16F, "bfloat16": runtime.CUDA_R_16BF}
    kind, (rows, inputs), outputs = kinds[dtype], x.shape, weights.shape[1]
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    arguments = (
        *(cupy.cuda.device.get_cublas_handle(), cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_N, outputs, rows, inputs),
        *(one.ctypes.data, weights.data.ptr, kind, outputs, x.data.ptr, kind, inputs, zero.ctypes.data),
        *(out.data.ptr, runtime.CUDA_R_32F, outputs, cublas.CUBLAS_COMPUTE_32F, cublas.CUBLAS_GEMM_DEFAULT),
    )
    gemm: Callable[..., object] = cublas.gemmEx  # launches on CuPy's present stream
    kept = (x, weights, out, one, zero)

    def launch() -> None:
        assert kept
        gemm(*arguments)

    return launch


def is_product(x: Any, weights: Any, out: Any, dtype: str, seed: int) -> bool:
    """Say whether out = x @ weights, by Freivalds' test in exact arithmetic, on the device.

    Both sides are multiplied by random whole numbers from 1 to 2^20; all sums stay below 2^53.
    """
    if not bool((out == cupy.rint(out)).all()):  # NaN is not itself
        return False
    vector = (hashed((weights.shape[1],), seed) >> 12).astype(cupy.float64) + 1  # no 0, which would hide a column
    left = folded(x, folded(weights, vector, dtype), dtype)
    return bool((left == folded(out, vector, "float32")).all())


def folded(matrix: Any, vector: Any, dtype: str) -> Any:
    """Return matrix @ vector in float64, some rows at a time."""
    rows = max(CHECKED_ELEMENTS // matrix.shape[1], 1)
    parts = (untyped(matrix[i : i + rows], dtype) * vector for i in range(0, matrix.shape[0], rows))
    return cupy.concatenate([part.sum(axis=1) for part in parts])


def product_job(dtype: str, shape: tuple[int, int, int], seed: int, misses_bytes: int) -> Job:
    """Return activations [rows, inputs] by weights [inputs, outputs], accumulated in float32.

    Weights of a layer go round among copies, `misses_bytes` together, that no cache holds: a flush would leave its own
    lines to be written back within the time of the product. Three of a size need not miss the cache.
    """
    rows, inputs, outputs = shape
    out = cupy.full((rows, outputs), cupy.nan, cupy.float32)
    x, weights = (typed(small_numbers(s, seed + i), dtype) for i, s in enumerate(((rows, inputs), (inputs, outputs))))
    copies = 1 if rows == inputs == outputs else -(-misses_bytes // weights.nbytes)
    product(x, weights, out, dtype)()
    right = is_product(x, weights, out, dtype, seed + 2)
    # A GPU draws less power on numbers with few bits set, and may clock higher: it is timed on random ones.
    x = typed(uniform(x.shape, seed + 2), dtype)
    held = [typed(uniform(weights.shape, seed + 3 + i), dtype) for i in range(copies)]
    following = cycle([product(x, w, out, dtype) for w in held])
    return Job(
        launch=lambda: next(following)(),
        check=lambda: None if right else "not the product of activations and weights",
        misses_cache=True,
    )
