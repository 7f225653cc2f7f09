"""Every kernel once, small, against NumPy: a line each, exit code 1 if any is wrong. Needs no pytest and no click.

python tests/gpu/smoke.py cuda:0     on a GPU; bfloat16 where torch is installed
python tests/gpu/smoke.py cpu        the same through the emulated CuPy and the g++ shim of tests/probe
python tests/gpu/smoke.py sanitized  what runs under compute-sanitizer: memory ends where its arrays end
python tests/gpu/smoke.py broken     one kernel that writes past its array: the sanitizer must see it
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

PROBE_TESTS = Path(__file__).parents[1] / "probe"
# By their own names: another package of the machine may be called `tests`.
sys.path.insert(0, str(PROBE_TESTS))
from sampling_cases import Round, a_round  # noqa: E402

PLACES: dict[str, Any] = {
    "draft_n": 3,
    "work_flops": 2,
    "work_mem": 3,
    "buffer_bytes": 4 * 5003,
    "size": 32,
    "weight": "64x96",
    "tokens": 3,
}
DTYPES = ("float32", "float16", "bfloat16")
# batch, drafts, vocabulary: chunks and rows of odd length, nothing drafted, a batch of several warps
ROUNDS = ((1, 2, 4099), (3, 3, 33), (2, 0, 7), (5, 4, 2048))
BROKEN = 'extern "C" __global__ void beyond(float* x, int n) { x[n + threadIdx.x] = 1.0f; }'
Check = Callable[[], str | None]


def put(array: Any, library: str, dtype: str | None = None) -> Any:
    """Bring an array to the device, as a library's: cupy, torch, or host torch."""
    dtype = dtype or str(array.dtype)
    if "torch" in library:
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(getattr(torch, dtype))
        return tensor.cuda() if library == "torch" else tensor
    import cupy

    return cupy.asarray(array.astype(dtype))


def host(array: Any) -> Any:
    """Bring it back; bfloat16 as float32."""
    if hasattr(array, "get"):
        return array.get()
    return (array.float() if "bfloat16" in str(array.dtype) else array).cpu().numpy()


def rounded(case: Round, library: str, dtype: str) -> tuple[Round, list[Any]]:
    """Return a round whose logits have been rounded to a type, and its arrays on the device."""
    logits = [put(x, library, dtype) for x in (case.target, case.draft)]
    wide = [host(x).astype(np.float32) for x in logits]
    return Round(*wide, case.ids, case.lengths), [*logits, put(case.ids, library)]


def disagreeing(found: Any, wanted: Any) -> int:
    """Return in how many sequences two results differ."""
    pairs = [(host(getattr(found, n)), getattr(wanted, n)) for n in vars(wanted)]
    return int((~np.all([(a == b).reshape(len(b), -1).all(1) for a, b in pairs], 0)).sum())


def probe_checks(device: Any) -> Iterator[tuple[str, Check]]:
    """Yield the check of every probe; products in every type."""
    from cuda_probe.probe.probes import BY_NAME

    def check(name: str, axes: dict[str, Any]) -> str | None:
        with device.prepare(name, axes, seed=0) as job:
            wrong: str | None = job.check()
            job.launch()
        return wrong

    for name, probe in BY_NAME.items():
        for dtype in DTYPES if "dtype" in probe.axes else ("",):
            axes = {axis: dtype if axis == "dtype" else PLACES[axis] for axis in probe.axes}
            yield f"{name} {dtype}".strip(), lambda name=name, axes=axes: check(name, axes)


def sampling_checks(library: str, dtype: str) -> Iterator[tuple[str, Check]]:
    """Yield the check of every sampling kernel for logits of a type."""
    from cuda_probe.sampling import sigmoid_sample, speculative_sample, verify_prefix

    def sampled(sample: Any) -> str | None:
        for batch, drafts, vocabulary in ROUNDS:
            case, arrays = rounded(a_round(vocabulary, batch, drafts, vocabulary, ragged=True), library, dtype)
            found = sample(*arrays, lengths=put(case.lengths, library), seed=1, backend="cuda")
            wanted = sample(case.target, case.draft, case.ids, lengths=case.lengths, seed=1, backend="numpy")
            if disagreeing(found, wanted):
                return f"batch {batch}, {drafts} drafts of {vocabulary} tokens: other tokens than NumPy"
        return None

    def verified() -> str | None:
        for batch, drafts, vocabulary in ROUNDS:
            case, arrays = rounded(a_round(vocabulary, batch, drafts, vocabulary), library, dtype)
            found = verify_prefix(arrays[0], arrays[2], backend="cuda")
            if disagreeing(found, verify_prefix(case.target, case.ids, backend="numpy")):
                return f"batch {batch}, {drafts} drafts of {vocabulary} tokens: another prefix than NumPy"
        return None

    for sample in (speculative_sample, sigmoid_sample):
        yield f"{sample.__name__} {dtype}", lambda sample=sample: sampled(sample)
    yield f"verify_prefix {dtype}", verified
    yield f"kv_append {dtype}", lambda: wrong_append(library, dtype)


def wrong_append(library: str, dtype: str) -> str | None:
    """Say what is wrong with the append to a cache whose positions are 16 bytes, and to one whose are not."""
    from cuda_probe.sampling import kv_append

    rng = np.random.default_rng(0)
    for width in (8, 7):
        cache, fresh = (put(rng.standard_normal((4, 2, n, width)), library, dtype) for n in (20, 4))
        wanted, own = host(cache).copy(), host(fresh)
        lengths, accepted = np.array([5, 0, 18, 7]), np.array([0, 4, 3, 2])
        kept = kv_append(cache, fresh, put(lengths, library), put(accepted, library), backend="cuda")
        expected = kv_append(wanted, own, lengths, accepted, backend="numpy")
        if host(kept).tolist() != expected.tolist() or not (host(cache) == wanted).all():
            return f"width {width}: another cache than NumPy"
    return None


def said(name: str, check: Check) -> bool:
    """Run a check and print its line; whether it was right."""
    try:
        wrong = check()
    except Exception as error:  # whatever a device says: the other kernels are still tried
        wrong = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    say(f"{name:32} {'ok' if wrong is None else 'WRONG: ' + wrong}")
    return wrong is None


def say(line: str) -> None:
    """Print a line now: what comes next may end the process."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def smoke(name: str) -> bool:
    """Check all kernels on a device; whether all were right."""
    on_cpu, right = name == "cpu", True
    with ExitStack() as stack:
        if on_cpu:
            sys.path[:0] = [str(PROBE_TESTS / "fake_cupy"), str(PROBE_TESTS / "fake_nvml")]
            os.environ.setdefault("FAKE_NVML", '{"fails": {"nvmlInit": 9}}')
        from cuda_probe.devices.opening import open_device

        device = open_device(name if name.startswith("cuda") else "cuda:0")
        stack.callback(device.close)
        for check in probe_checks(device):
            right &= said(*check)
        for dtype in ("float32", "float16"):
            for check in sampling_checks("cupy", dtype):
                right &= said(*check)
        if name == "sanitized" or find_spec("torch") is None:
            say("sampling in bfloat16: not tried, CuPy has no such type, and torch is not to be had")
            return right
        if on_cpu:
            sys.path.insert(0, str(PROBE_TESTS.parents[1]))
            from tests.probe.sampling_device import kernels_on_cpu

            stack.enter_context(kernels_on_cpu())
        for check in sampling_checks("host torch" if on_cpu else "torch", "bfloat16"):
            right &= said(*check)
    return right


def main(name: str) -> int:
    """Return the exit code."""
    if name in ("sanitized", "broken"):
        import cupy

        cupy.cuda.set_allocator(None)  # a pool's blocks are longer than the arrays in them
    if name == "broken":
        cupy.RawKernel(BROKEN, "beyond")((1,), (32,), (cupy.zeros(128, cupy.float32), np.int32(128)))
        cupy.cuda.Device().synchronize()
    elif not smoke(name):
        return 1
    say("done")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
