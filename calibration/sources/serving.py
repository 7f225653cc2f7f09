"""Rows of load tests: CSV of any tool's columns, or the JSON of benches of vLLM, SGLang, GuideLLM, AIPerf."""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from acceptance.importers.values import read_values
from simulator.costs.formats import FORMATS
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, text_of
from simulator.ground.names import number_format
from simulator.ground.records import BadRecord, Records, as_record, read_each

# What a row may say, by what tools call it; case and marks between the parts do not count.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "concurrency": ("max concurrency", "silicon concurrency", "clients", "users", "num clients", "streams"),
    # Of one group of devices, where attention has several.
    "batch_size": ("batch",),
    "isl": ("input len", "input length", "input tokens", "prompt len", "prompt tokens", "random input len"),
    "osl": ("output len", "output length", "output tokens", "random output len"),
    "tpot_ms": ("tpot", "mean tpot ms", "tpot mean ms", "silicon tpot ms", "avg tpot ms", "tpot avg"),
    "ttft_ms": ("ttft", "mean ttft ms", "ttft mean ms", "silicon ttft ms", "avg ttft ms", "ttft avg"),
    "output_tok_s": ("output throughput", "output tokens per s", "output token throughput", "output tps"),
    "tp": ("tp size", "tensor parallel", "tensor parallel size"),
    "ep": ("ep size", "moe ep size", "expert parallel size"),
    "dp": ("dp size", "attention dp size", "data parallel size"),
    "pp": ("pp size", "pipeline parallel size"),
    "dtype": ("precision", "quantization", "weight dtype", "gemm quant mode"),
    "kv_dtype": ("kv cache dtype", "kv quant mode"),
    "model": ("model path", "model id", "model name"),
    "engine": ("backend", "framework", "server"),
    "device": ("system", "gpu", "hardware", "gpu name"),
    "draft_length": ("num speculative tokens", "k"),
    "tokens_per_round": ("acceptance length", "accept length", "spec decode acceptance length", "al"),
    "method": ("speculative method",),
    "requests": ("num prompts", "num requests", "completed", "successful requests"),
    "input_total": ("total input tokens",),
    "output_total": ("total output tokens", "total generated tokens"),
}
CANONICAL = {other: name for name, others in COLUMNS.items() for other in (name.replace("_", " "), *others)}
ENGINES = {"tensorrtllm": "trtllm", "trtllm": "trtllm", "vllm": "vllm", "sglang": "sglang", "vllmchat": "vllm"}
ENGINES |= {"openai": "", "openaichat": "", "sglangoai": "sglang", "sglangnative": "sglang"}
EXPECTED = "columns concurrency, isl, osl, tpot_ms (or what vLLM, SGLang, GuideLLM or AIPerf write)"
MOST = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRow:
    """A load and what was measured of it; "" and None where the row does not say.

    concurrency: requests on the way, in all. isl, osl: tokens of a prompt and an answer. requests: in all.
    draft_length: 0 without speculation, at least 1 with it.
    """

    line: int
    concurrency: float
    isl: float
    osl: float
    tpot_s: float
    ttft_s: float | None = None
    tp: int | None = None
    dp: int = 1
    ep: int = 1
    pp: int = 1
    dtype: str = ""
    kv_dtype: str = ""
    model: str = ""
    engine: str = ""
    device: str = ""
    requests: float | None = None
    draft_length: int = 0


def read_serving(path: Path) -> Records[ServingRow]:
    """Read the rows of a file; those that cannot be read are counted and named.

    Raises:
        UserError: No row can be read.
    """
    if path.suffix.lower() in (".json", ".jsonl"):
        found = read_values(path, read_record, EXPECTED)
        rows = tuple(row for rows in found.rows for row in rows)
        return Records(path=path, rows=rows, skipped=found.skipped, place=found.place)
    return read_each(path, lines_of_table(path), lambda row, line: read_row(row, line), EXPECTED)


def lines_of_table(path: Path) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    """Yield the rows of a CSV file by their columns, with their lines."""
    table = csv.DictReader(StringIO(text_of(path).removeprefix("\ufeff")))
    try:
        for row in table:
            yield table.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}: line {table.line_num} is no CSV ({error}), expected {EXPECTED}") from None


def plain(name: str) -> str:
    """Return a column's name in small letters, with a space for what stands between its parts."""
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()


def read_row(values: Mapping[Any, Any], line: int) -> ServingRow:
    """Read a row by the names of its columns; of several that mean the same, the first that has a value."""
    named: dict[str, Any] = {}
    for key, value in values.items():
        name = CANONICAL.get(plain(str(key)))
        if name and value not in (None, "") and not isinstance(value, list | dict):
            named.setdefault(name, value)
    done = number(named, "requests")
    for total, each in (("input_total", "isl"), ("output_total", "osl")):
        if total in named and done:
            named[each] = (number(named, total) or 0.0) / done
    dp, batch = int(number(named, "dp") or 1), number(named, "batch_size")
    clients = number(named, "concurrency") or (batch * dp if batch else None)
    for name, found in (("concurrency", clients), *((n, number(named, n)) for n in ("isl", "osl", "tpot_ms"))):
        if not found:
            raise BadRecord(f"no {name}")
    tp, ttft_ms = number(named, "tp"), number(named, "ttft_ms")
    return ServingRow(
        line=line,
        concurrency=clients or 0.0,
        isl=number(named, "isl") or 0.0,
        osl=number(named, "osl") or 0.0,
        tpot_s=(number(named, "tpot_ms") or 0.0) / 1e3,
        ttft_s=ttft_ms / 1e3 if ttft_ms else None,
        tp=int(tp) if tp else None,
        dp=dp,
        ep=int(number(named, "ep") or 1),
        pp=int(number(named, "pp") or 1),
        dtype=dtype_of(named.get("dtype")),
        kv_dtype=dtype_of(named.get("kv_dtype")),
        model=str(named.get("model", "")),
        engine=engine_of(str(named.get("engine", ""))),
        device=str(named.get("device", "")),
        requests=done,
        draft_length=int(number(named, "draft_length") or is_drafted(named)),
    )


def is_drafted(named: Mapping[str, Any]) -> bool:
    """Return whether a row names a method of speculation, or says what its rounds made."""
    method = plain(str(named.get("method", "")))
    return method not in ("", "none", "off", "no", "baseline", "plain") or (number(named, "tokens_per_round") or 0) > 1


def number(named: Mapping[str, Any], name: str) -> float | None:
    """Return a number of a row, None where it has none; 0 stands for none too."""
    value = named.get(name)
    if value is None:
        return None
    try:
        found = float(value)
    except ValueError:
        raise BadRecord(f"{name} is {str(value)[:40]!r}, expected a number") from None
    if not 0 <= found <= MOST:
        raise BadRecord(f"{name} is {found:g}, expected a number from 0 to {MOST:g}")
    return found


def dtype_of(text: Any) -> str:
    """Return a number format as we call it, "" for none or one that the engine chooses."""
    stated = re.sub(
        r"[-_](block|wo|static|dynamic|per[-_]?tensor|per[-_]?channel)$", "", str(text or "").strip().lower()
    )
    if stated in ("", "auto", "none"):
        return ""
    name = number_format(stated)
    if name not in FORMATS:
        raise BadRecord(f"dtype is {str(text)[:40]!r}, expected a number format such as bf16, fp8, nvfp4")
    return name


def engine_of(text: str) -> str:
    """Return an engine as we call it; a name that we do not know in small letters."""
    return ENGINES.get(re.sub(r"[^a-z]", "", text.lower()), text.lower())


def read_record(record: Field, line: int) -> tuple[ServingRow, ...]:
    """Read a JSON object: a result of a bench, a report of several, or a row by its columns' names."""
    if record["benchmarks"].is_given:
        return tuple(guidellm_rows(record, line))
    if isinstance(record["time_to_first_token"].value, dict):
        return (aiperf_row(record, line),)
    return (read_row(record.object(), line),)


def guidellm_rows(report: Field, line: int) -> Iterator[ServingRow]:
    """Yield the benchmarks of a report of GuideLLM that held a number of requests on the way."""
    for benchmark in report["benchmarks"].elements():
        metrics = benchmark["metrics"]
        strategies = [benchmark[key]["strategy"] for key in ("config", "args") if benchmark[key].is_given]
        values = {
            "concurrency": next(
                (
                    s[k].value
                    for s in strategies
                    for k in ("streams", "max_concurrency")
                    if s.is_given and s[k].is_given
                ),
                None,
            ),
            "isl": mean_of(metrics["prompt_token_count"]),
            "osl": mean_of(metrics["output_token_count"]),
            # Its time per output token counts the first token too; that between tokens does not.
            "tpot_ms": mean_of(metrics["inter_token_latency_ms"]),
            "ttft_ms": mean_of(metrics["time_to_first_token_ms"]),
        }
        yield read_row(values, line)


def mean_of(metric: Field) -> float | None:
    """Return a mean over successful requests."""
    if not metric.is_given:
        return None
    inner = metric["successful"] if metric["successful"].is_given else metric
    return inner["mean"].number() if inner["mean"].is_given else None


def aiperf_row(export: Field, line: int) -> ServingRow:
    """Read the totals of a run of AIPerf."""

    def average(name: str) -> float | None:
        return export[name]["avg"].number() if export[name].is_given else None

    config = export["input_config"] if export["input_config"].is_given else as_record({})
    loadgen, endpoint = (config[key] if config[key].is_given else as_record({}) for key in ("loadgen", "endpoint"))
    models = endpoint["model_names"].value
    values = {
        "concurrency": loadgen["concurrency"].value,
        "isl": average("input_sequence_length"),
        "osl": average("output_sequence_length"),
        "tpot_ms": average("inter_token_latency"),
        "ttft_ms": average("time_to_first_token"),
        "requests": average("request_count"),
        "model": models[0] if isinstance(models, list) and models else None,
    }
    return read_row(values, line)
