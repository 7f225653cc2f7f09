"""Rows of the JSON that benches of servers write: vLLM's and SGLang's, GuideLLM, AIPerf; or of columns in JSON."""

from collections.abc import Iterator
from typing import Any

from simulator.ground.fields import Field
from simulator.ground.records import BadRecord, as_record

from .serving import ServingRow, read_row

# Of what SGLang says of its server.
SERVER: tuple[str, ...] = ("model_path", "ep_size", "pp_size", "dtype", "quantization", "kv_cache_dtype")
SERVER += ("speculative_algorithm", "mem_fraction_static")


def read_record(record: Field, line: int) -> tuple[ServingRow, ...]:
    """Read a JSON object: a result of a bench, a report of several, or a row by its columns' names."""
    if record["benchmarks"].is_given:
        return tuple(guidellm_rows(record, line))
    if isinstance(record["time_to_first_token"].value, dict):
        return (aiperf_row(record, line),)
    return (read_row(record.object() | server_of(record["server_info"]), line),)


def at(field: Field, *keys: str) -> Field:
    """Return what stands under keys, nothing where one of them is missing."""
    for key in keys:
        field = field[key] if isinstance(field.value, dict) else as_record(None)
    return field


def first(*fields: Field) -> Any:
    """Return the first value that is given."""
    return next((f.value for f in fields if f.is_given), None)


def server_of(info: Field) -> dict[str, Any]:
    """Return what SGLang says of its server, as columns; of one that decodes apart, of that."""
    decoding = at(info, "decode").value
    if isinstance(decoding, list) and decoding:
        info = as_record(decoding[0])
    if not isinstance(info.value, dict):
        return {}
    told = {key: info[key].value for key in SERVER if info[key].is_given}
    if info["speculative_eagle_topk"].value in (None, 1):  # of a chain; a tree has no draft length
        told["speculative_num_steps"] = info["speculative_num_steps"].value
    tp, dp = (info[key].whole(1, 1 << 20, default=1) for key in ("tp_size", "dp_size"))
    if dp > 1 and not info["enable_dp_attention"].flag(default=False):
        raise BadRecord(f"dp_size is {dp} of whole replicas, expected rows of one")
    return {"framework": "sglang", "tp_size": tp // dp or 1, "dp_size": dp} | told


def guidellm_rows(report: Field, line: int) -> Iterator[ServingRow]:
    """Yield the benchmarks of a report of GuideLLM."""
    for benchmark in report["benchmarks"].elements():
        metrics, strategies = benchmark["metrics"], [at(benchmark, key, "strategy") for key in ("config", "args")]
        alone = any(at(s, "type_").value == "synchronous" for s in strategies)
        streams = first(*(at(s, key) for s in strategies for key in ("streams", "max_concurrency")))
        values = {
            "concurrency": streams or (1 if alone else mean_of(metrics["request_concurrency"])),
            "isl": mean_of(metrics["prompt_token_count"]),
            "osl": mean_of(metrics["output_token_count"]),
            # Its time per output token counts the first token too; that between tokens does not.
            "tpot_ms": mean_of(metrics["inter_token_latency_ms"]),
            "ttft_ms": mean_of(metrics["time_to_first_token_ms"]),
            "requests": first(
                at(metrics, "request_totals", "successful"),
                at(benchmark, "scheduler_metrics", "requests_made", "successful"),
                at(benchmark, "run_stats", "requests_made", "successful"),
            ),
            "model": first(
                at(report, "args", "model"),
                at(benchmark, "config", "backend", "model"),
                at(benchmark, "worker", "backend_model"),
            ),
        }
        yield read_row(values, line)


def mean_of(metric: Field) -> float | None:
    """Return a mean over successful requests."""
    mean = at(metric, "successful", "mean") if at(metric, "successful").is_given else at(metric, "mean")
    return mean.number() if mean.is_given else None


def aiperf_row(export: Field, line: int) -> ServingRow:
    """Read the totals of a run of AIPerf; what it was asked for is said by its first or its second configuration."""
    config = export["input_config"]
    phases = at(config, "phases").value
    listed = phases if isinstance(phases, list) else []
    counted = [p for p in listed if isinstance(p, dict) and not p.get("exclude_from_results")]
    phase = as_record(counted[-1] if counted else None)
    named = first(at(config, "endpoint", "model_names"), at(config, "models", "items"), at(config, "models"))
    model = named[0] if isinstance(named, list) and named else None
    values = {
        "concurrency": first(at(config, "loadgen", "concurrency"), at(phase, "concurrency")),
        "isl": at(export, "input_sequence_length", "avg").value,
        "osl": at(export, "output_sequence_length", "avg").value,
        "requests": at(export, "request_count", "avg").value,
        "model": model.get("name") if isinstance(model, dict) else model,
    }
    for name, metric in (("tpot", "inter_token_latency"), ("ttft", "time_to_first_token")):
        values[f"{name} {at(export, metric, 'unit').value or 'ms'}"] = at(export, metric, "avg").value
    return read_row(values, line)
