"""The formats that acceptance measured elsewhere is read from, by name, and what a file of each looks like."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from simulator.ground.artefacts import UserError
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.names import one_of
from simulator.ground.plain_text import read_text_bytes

from . import aiperf, guidellm, llama_cpp, sglang, spec_bench, vllm_bench, vllm_log, vllm_metrics, vllm_requests
from .imported import Imported


@dataclass(frozen=True, slots=True)
class Format:
    """How a format is read, and a pattern that its files alone hold: keys, counters or words of a log."""

    read: Callable[[Path, int | None], Imported]
    marks: re.Pattern[bytes]


def keys(*names: str) -> str:
    """Return a pattern of JSON keys; a quoted key within a text has a backslash before its second quote."""
    return rf'"(?:{"|".join(names)})"\s*:'


def marked(read: Callable[[Path, int | None], Imported], pattern: str) -> Format:
    """Return a format by its reader and the pattern of its marks."""
    return Format(read, re.compile(pattern.encode()))


# A line of a log as the server prints it, or as a container keeps it.
PLAIN, PACKED = r'[^{"\n]*', r'\{"(?:log|line|message|msg)":.*'
# A file may bear the marks of several: of those, the first is meant (reports hold what servers said of requests).
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "vllm-log": marked(vllm_log.read, rf"(?m)^(?:{PLAIN}|{PACKED})\b(?:SpecDecoding|Speculative) metrics: "),
        "vllm-metrics": marked(vllm_metrics.read, r"(?m)^(?:ray_)?vllm[:_]spec_decode_num_"),
        "guidellm": marked(guidellm.read, keys("guidellm_version", "response_metrics")),
        "aiperf": marked(
            aiperf.read, keys(aiperf.RECORD, aiperf.POOLED, aiperf.STEPS) + rf"|{keys(aiperf.MACRO)}\s*\{{"
        ),
        "vllm-bench": marked(
            vllm_bench.read, keys(r"spec_decode_(?:num_drafts|acceptance_length)") + f"|{vllm_bench.PRINTED}"
        ),
        "vllm-requests": marked(vllm_requests.read, keys("speculative_decoding")),
        "trtllm": marked(vllm_requests.read, keys(vllm_requests.AVERAGE)),
        "sglang": marked(sglang.read, keys(sglang.ROUNDS) + "|" + sglang.TOTALS),
        "llama-cpp": marked(
            llama_cpp.read, rf"{keys('draft_n')}|(?m:^llamacpp:spec_decode_num_)|draft acceptance(?: rate)? ="
        ),
        "spec-bench": marked(spec_bench.read, keys("accept_lengths")),
        "eagle": marked(spec_bench.read, keys("new_tokens")),
    }
)
# What tools call the target, as JSON; names have nothing that JSON escapes but slashes.
NAMED = re.compile(rb'"model(?:_id|_path|_name)?"\s*:\s*"([^"\\]+)"')
# Counters of a server's lifetime, of which an earlier file can be subtracted.
LIFETIME = MappingProxyType({"vllm-metrics": vllm_metrics.read, "llama-cpp": llama_cpp.read})


def recognised(path: Path) -> str | None:
    """Return the name of the format that a file looks like, None where it looks like none."""
    content = read_text_bytes(path)
    return next((name for name, format in FORMATS.items() if format.marks.search(content)), None)


def model_of(content: bytes) -> str:
    """Return the one model that a file of JSON names anywhere, "" where it names none or several."""
    named = {found.decode(errors="replace") for found in NAMED.findall(content)}
    return next(iter(named)) if len(named) == 1 else ""


def import_histogram(format: str | None, path: Path, *, k: int | None = None, before: Path | None = None) -> Imported:
    """Read what another tool says about acceptance.

    Args:
        format: A key of FORMATS; None: by what the file looks like.
        path: The tool's file.
        k: Draft length; needed where the file does not tell it.
        before: An earlier file of the same counters, which is subtracted; of a server's /metrics alone.

    Raises:
        UserError: The file cannot be read as this format, contradicts itself or `k`, or holds no rounds.
    """
    if format is not None and format not in FORMATS:
        raise UserError(f"--from: {format!r} is not known, expected {one_of(FORMATS, format)}")
    if k is not None and (isinstance(k, bool) or not 1 <= k <= MAX_DRAFT_LENGTH):
        raise UserError(f"--k: {k} is not allowed, expected a whole number from 1 to {MAX_DRAFT_LENGTH}")
    found = recognised(path)
    # What a vLLM server counts stands in its log as well.
    name = found if format is None or (format, found) == ("vllm-metrics", "vllm-log") else format
    if name is None and b'"hist"' in read_text_bytes(path):
        raise UserError(f"{path}: looks like a histogram already, which --hist of simulate and sweep takes as it is")
    if name is None:
        raise UserError(
            f"{path}: looks like none of the {len(FORMATS)} formats that --help lists, expected --from FORMAT"
        )
    if before is not None and name not in LIFETIME:
        counting = " or ".join(LIFETIME)
        raise UserError(f"--before {before}: {name} counts no server's lifetime, expected it with {counting} alone")
    try:
        read = FORMATS[name].read(path, k) if before is None else LIFETIME[name](path, k, before)
        return replace(read, format=name, model=read.model or model_of(read_text_bytes(path)))
    except UserError as error:
        if found in (None, name):
            raise
        raise UserError(f"{error}; it looks like {found}: --from {found}, or none") from None
