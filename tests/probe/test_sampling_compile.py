"""The sampling kernels compile for every architecture, nothing spilled, registers for loads in flight."""

import pytest

from .nvrtc import ARCHITECTURES, compile_source
from .sampling_device import SOURCE

TYPES = ("f32", "f16", "bf16")
WANTED = {
    *(
        f"{kernel}_{t}"
        for kernel in ("spec_accept", "spec_draw", "sigmoid_accept", "sigmoid_draw", "verify_prefix")
        for t in TYPES
    ),
    *(f"kv_append_{n}" for n in (1, 2, 4, 8, 16)),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_spills(architecture: int) -> None:
    found = compile_source(SOURCE, architecture).resources()
    assert set(found) == WANTED
    assert {name: r.stack_bytes for name, r in found.items() if r.stack_bytes} == {}
    assert max(r.registers for name, r in found.items() if "accept" in name or "verify" in name) <= 80
    assert max(r.registers for r in found.values()) <= 128


def test_logits_are_loaded_16_bytes_at_a_time() -> None:
    ptx = compile_source(SOURCE, 90).ptx
    for kernel in ("spec_accept_bf16", "spec_draw_bf16", "verify_prefix_bf16"):
        body = ptx.split(f".entry {kernel}(")[1].split(".entry ")[0]
        assert body.count("ld.global.nc.v4.u32") >= 4
