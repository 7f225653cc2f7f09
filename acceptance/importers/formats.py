"""The formats that acceptance measured elsewhere is read from, by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from simulator.ground.artefacts import UserError
from simulator.ground.limits import MAX_DRAFT_LENGTH

from . import aiperf, sglang, spec_bench, vllm_bench, vllm_metrics, vllm_requests
from .imported import Imported

FORMATS: Mapping[str, Callable[[Path, int | None], Imported]] = MappingProxyType(
    {
        "spec-bench": spec_bench.read,
        "vllm-metrics": vllm_metrics.read,
        "vllm-requests": vllm_requests.read,
        "vllm-bench": vllm_bench.read,
        "sglang": sglang.read,
        "aiperf": aiperf.read,
    }
)


def import_histogram(format: str, path: Path, *, k: int | None = None, before: Path | None = None) -> Imported:
    """Read what another tool says about acceptance.

    Args:
        format: A key of FORMATS.
        path: The tool's file.
        k: Draft length; needed where the file does not tell it.
        before: An earlier file of the same counters, which is subtracted; of vllm-metrics alone.

    Raises:
        UserError: The file cannot be read as this format, contradicts itself or `k`, or holds no rounds.
    """
    if format not in FORMATS:
        raise UserError(f"--from: {format!r} is not known, expected one of {', '.join(FORMATS)}")
    if k is not None and (isinstance(k, bool) or not 1 <= k <= MAX_DRAFT_LENGTH):
        raise UserError(f"--k: {k} is not allowed, expected a whole number from 1 to {MAX_DRAFT_LENGTH}")
    if before is None:
        return FORMATS[format](path, k)
    if format != "vllm-metrics":
        raise UserError(f"--before {before}: {format} counts no server's lifetime, expected it with vllm-metrics alone")
    return vllm_metrics.read(path, k, before)
