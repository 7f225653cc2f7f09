"""On a real GPU: one clock encloses the work of every library, and the benchmark's numbers are possible ones."""

import time
from typing import Any

import pytest

from cuda_probe.probe.timing import StopRule
from cuda_probe.sampling_bench.places import place_of
from cuda_probe.sampling_bench.runner import run_bench
from cuda_probe.sampling_bench.shapes import BACKENDS, OURS, Shape

RULE = StopRule(max_noise=0.02, max_samples=50, time_limit_s=1.0)


def test_events_enclose_what_torch_does(device: Any) -> None:
    place = place_of(device)
    if place.torch_refusal is not None:
        pytest.skip(place.torch_refusal)
    import torch

    with place.working():
        assert torch.cuda.current_stream().cuda_stream == device.stream.ptr
        x = place.tensor(torch.rand(4096, 4096).numpy(), "float32")

        def launch() -> None:
            for _ in range(20):
                torch.mm(x, x)

        device.clock.elapsed_s(launch, 1)
        began = time.perf_counter()
        on_events_s = device.clock.elapsed_s(launch, 1)
        on_host_s = time.perf_counter() - began
    assert 0.8 * on_host_s < on_events_s <= 1.05 * on_host_s


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_kernels_agree_and_stay_under_the_bandwidth_of_a_copy(device: Any, dtype: str) -> None:
    place = place_of(device)
    shapes = [Shape(batch=b, draft_length=4, vocabulary=151_936, dtype=dtype) for b in (1, 16)]
    results = run_bench(place, shapes, BACKENDS, RULE, temperature=1.0, seed=0)
    assert not any(left.failed for left in results.left_out)
    if dtype != "bfloat16" or place.torch_refusal is None:
        assert sum(found.point.probe == "cuda" for found in results.points) == 2
    for found in results.points:
        share = results.share(found)
        assert share is not None
        # A copy writes as much as it reads, so that a pass that only reads may be somewhat faster.
        assert 0 < share < 1.3
        assert found.agrees is (True if found.point.probe in OURS else None)
        # A call on an idle device waits for the host as well.
        assert found.call_s is not None
