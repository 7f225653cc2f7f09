"""cuBLAS on the host: one function, by columns as cuBLAS counts, on addresses and data types as numbers."""

import ctypes

import numpy as np

from .emulation import machine, run
from .runtime import CUDA_R_16BF, CUDA_R_16F, CUDA_R_32F
from .stream import get_current_stream

HANDLE = 0xB1A5
CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT = 0, 1, 68, -1
STORED = {CUDA_R_32F: np.float32, CUDA_R_16F: np.float16, CUDA_R_16BF: np.uint16}


class CUBLASError(RuntimeError):
    def __init__(self, status):
        self.status = status
        super().__init__({7: "CUBLAS_STATUS_INVALID_VALUE", 13: "CUBLAS_STATUS_EXECUTION_FAILED"}[status])


def columns(address, kind, rows, count, leading):
    """Return memory as a matrix by columns, [rows, count]; its bits, where it is bfloat16."""
    size = leading * count * np.dtype(STORED[kind]).itemsize
    flat = np.frombuffer((ctypes.c_char * size).from_address(address), STORED[kind])
    return flat.reshape(count, leading).T[:rows]


def numbers(matrix, kind):
    return (matrix.astype(np.uint32) << 16).view(np.float32) if kind == CUDA_R_16BF else matrix.astype(np.float32)


def gemmEx(
    handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc, computeType, algo
):
    """C = alpha op(A) op(B) + beta C, with A of m rows, B of n columns, accumulated in float32."""
    if get_current_stream().captured is not None:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    if "gemm" in machine.fails:
        raise CUBLASError(machine.fails["gemm"])
    shapes = (k, m) if transa else (m, k), (n, k) if transb else (k, n)
    if lda < shapes[0][0] or ldb < shapes[1][0] or ldc < m or handle != HANDLE + machine.current_device:
        raise CUBLASError(7)
    if computeType != CUBLAS_COMPUTE_32F or Atype != Btype or Ctype != CUDA_R_32F:
        raise CUBLASError(7)  # of what cuBLAS allows, the combinations that are used
    one, other = (ctypes.c_float.from_address(p).value for p in (alpha, beta))

    def work():
        a, b = columns(A, Atype, *shapes[0], lda), columns(B, Btype, *shapes[1], ldb)
        a, b = (numbers(x, kind) for x, kind in ((a, Atype), (b, Btype)))
        c = columns(C, Ctype, m, n, ldc)
        result = np.float32(one) * ((a.T if transa else a) @ (b.T if transb else b))
        c[...] = result if other == 0 else result + np.float32(other) * c
        if "wrong gemm" in machine.fails:
            c[-1, -1] += 1

    run("product", work, get_current_stream())
