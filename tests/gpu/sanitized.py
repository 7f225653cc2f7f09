"""What runs under compute-sanitizer: every kernel once, small, on memory that ends where its arrays end.

With the argument `broken`, one kernel that writes past its array: the sanitizer must see it.
"""

import sys
from typing import Any

import cupy
import numpy as np

from cuda_probe.devices.opening import open_device
from cuda_probe.probe.probes import BY_NAME
from cuda_probe.sampling import kv_append, sigmoid_sample, speculative_sample, verify_prefix

PLACES: dict[str, Any] = {
    "draft_n": 3,
    "work_flops": 2,
    "work_mem": 3,
    "buffer_bytes": 4 * 5003,
    "size": 32,
    "weight": "64x96",
    "dtype": "float16",
    "tokens": 3,
}
BROKEN = 'extern "C" __global__ void beyond(float* x, int n) { x[n + threadIdx.x] = 1.0f; }'


def probes() -> None:
    """Run every probe's check and one launch."""
    device = open_device("cuda:0")
    for name, probe in BY_NAME.items():
        with device.prepare(name, {axis: PLACES[axis] for axis in probe.axes}, seed=0) as job:
            assert job.check() is None, name
            job.launch()
    device.close()


def sampling() -> None:
    """Run every sampling kernel for arrays of CuPy, with rows of odd length."""
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float16):
        for batch, drafts, vocabulary in ((1, 2, 4099), (3, 3, 33), (2, 0, 7)):
            shapes = (batch, drafts + 1, vocabulary), (batch, drafts, vocabulary)
            target, draft = (cupy.asarray(rng.standard_normal(shape).astype(dtype)) for shape in shapes)
            ids = cupy.asarray(rng.integers(0, vocabulary, (batch, drafts)))
            lengths = cupy.asarray(rng.integers(0, drafts + 1, batch))
            for sample in (speculative_sample, sigmoid_sample):
                sample(target, draft, ids, lengths=lengths, seed=1, backend="cuda")
            verify_prefix(target, ids, backend="cuda")
        for width in (8, 7):
            cache, fresh = (cupy.asarray(rng.standard_normal((2, 2, n, width)).astype(dtype)) for n in (9, 3))
            counts = cupy.asarray(np.array([1, 8])), cupy.asarray(np.array([3, 2]))
            kv_append(cache, fresh, *counts, backend="cuda")
    cupy.cuda.Device().synchronize()


if __name__ == "__main__":
    cupy.cuda.set_allocator(None)  # a pool's blocks are longer than the arrays in them
    if sys.argv[1:] == ["broken"]:
        cupy.RawKernel(BROKEN, "beyond")((1,), (32,), (cupy.zeros(128, cupy.float32), np.int32(128)))
        cupy.cuda.Device().synchronize()
    else:
        probes()
        sampling()
    sys.stdout.write("done\n")
