"""Results as others know them: the JSON of `vllm bench serve --save-result --save-detailed`, and rows of a table."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from acceptance.servers.answer import Answer
from simulator.answers.latency import Told
from simulator.ground.artefacts import finite_or_text, writing

from .engine import Counted
from .metrics import PERCENTILES, Part, seen_by
from .prompts import CHAT
from .results import Result

# What that command calls our measures.
NAMES = {"ttft": "ttft", "tpot": "tpot", "gap": "itl", "e2e": "e2el"}
BACKENDS = {CHAT: "openai-chat"}


def write_vllm(path: Path, results: Sequence[Result], created_utc: str) -> None:
    """Write results, one as a JSON object, of several one a line, as `--append-result` does."""
    with writing(path) as file:
        for result in results:
            json.dump(finite_or_text(of_vllm(result, created_utc)), file, allow_nan=False)
            file.write("\n")


def of_vllm(result: Result, created_utc: str) -> dict[str, Any]:
    """Return one arm at one load under that command's keys; its warm-up is none: all requests count, as there."""
    found = result.all_requests
    date = datetime.fromisoformat(created_utc).strftime("%Y%m%d-%H%M%S")
    load = result.load
    told: dict[str, Any] = {
        "date": date,
        "endpoint_type": BACKENDS.get(result.api, "openai"),
        "backend": BACKENDS.get(result.api, "openai"),
        "label": result.server.name,
        "model_id": result.model,
        "tokenizer_id": result.model,
        "num_prompts": sum(len(part.answers) for part in result.parts),
        "request_rate": "inf" if result.clients else load,
        "burstiness": result.burstiness,
        "max_concurrency": result.clients or None,
    }
    told |= totals(result.parts)
    for measure, name in NAMES.items():
        for which in ("mean", "p50", *(f"p{q}" for q in PERCENTILES)):
            key = "median" if which == "p50" else which
            told[f"{key}_{name}_ms"] = 1e3 * found[f"{measure}_{which}"].value
        told[f"std_{name}_ms"] = 1e3 * deviation(result.parts, measure)
    return told | of_speculation(result.counted)


def totals(parts: Sequence[Part]) -> dict[str, Any]:
    """Return sums, and lists of a value a request; of one that failed nothing, as that command has it."""
    answers, starts, before_s = list[Answer](), list[float](), 0.0
    for part in parts:
        answers += part.answers
        starts += [before_s + answer.sent_s for answer in part.answers]
        before_s += part.duration_s
    done = [answer for answer in answers if not answer.error]
    tokens, prompts = sum(a.tokens for a in done), sum(a.prompt_tokens or 0 for a in done)
    a_second = 1 / before_s if before_s else math.nan
    return {
        "duration": before_s,
        "completed": len(done),
        "failed": len(answers) - len(done),
        "total_input_tokens": prompts,
        "total_output_tokens": tokens,
        "request_throughput": len(done) * a_second,
        "output_throughput": tokens * a_second,
        "total_token_throughput": (tokens + prompts) * a_second,
        "input_lens": [a.prompt_tokens or 0 for a in answers],
        "output_lens": [0 if a.error else a.tokens for a in answers],
        "ttfts": [0.0 if a.first_s is None else a.first_s - a.sent_s for a in answers],
        "itls": [a.gaps_s for a in answers],
        "latencies": [0.0 if a.last_s is None else a.last_s - a.sent_s for a in answers],
        "start_times": starts,
        "errors": [f"{a.error}: {a.detail}" if a.error else "" for a in answers],
    }


def deviation(parts: Sequence[Part], measure: str) -> float:
    """Return the standard deviation of a measure over all answered requests."""
    done = [a for part in parts for a in part.answers if not a.error]
    if measure == "gap":
        values = np.array([gap for a in done for gap in a.gaps_s])
    else:
        values = getattr(seen_by(done), f"{measure}_s")
    values = values[~np.isnan(values)]
    return float(values.std()) if len(values) else math.nan


def of_speculation(counted: Counted) -> dict[str, Any]:
    """Return what the engine counted of drafts."""
    rounds, drafted, accepted = counted.drafts, counted.drafted, counted.accepted
    if not rounds or not drafted:
        return {}
    return {
        "spec_decode_acceptance_rate": 100 * accepted / drafted,
        "spec_decode_acceptance_length": 1 + accepted / rounds,
        "spec_decode_num_drafts": round(rounds),
        "spec_decode_draft_tokens": round(drafted),
        "spec_decode_accepted_tokens": round(accepted),
        "spec_decode_per_position_acceptance_rates": [count / rounds for count in counted.by_place],
    }


def columns_of(results: Sequence[Result]) -> dict[str, Any]:
    """Return columns of a table, a row for each arm at each load."""
    columns: dict[str, Any] = {
        "load": np.array([r.load for r in results]),
        "arm": np.array([r.server.name for r in results]),
        "requests": np.array([sum(len(p.answers) for p in r.parts) for r in results]),
        "failed": np.array([sum(r.failures.values()) for r in results]),
    }
    for name in results[0].figures:
        told: list[Told] = [r.figures[name] for r in results]
        columns[unit_of(name)] = np.array([t.value for t in told])
        if any(np.isfinite(t.low) for t in told):
            columns[f"{unit_of(name)}_low95"] = np.array([t.low for t in told])
            columns[f"{unit_of(name)}_high95"] = np.array([t.high for t in told])
    columns["tokens_per_round"] = np.array([np.nan if (a := accepted_by(r)) is None else a for r in results])
    return columns


def accepted_by(result: Result) -> float | None:
    """Return tokens a round as the engine counted them, None where it did not."""
    imported = result.counted.imported
    return result.counted.mean if imported is None else imported.histogram.tokens_per_round


def unit_of(name: str) -> str:
    """Return the name of a figure with its unit."""
    return f"{name}_s" if name.partition("_")[0] in NAMES else name


def described(result: Result) -> Mapping[str, Any]:
    """Return figures under plain keys."""
    found: dict[str, Any] = {}
    for name, told in result.figures.items():
        found[unit_of(name)] = told.value if np.isfinite(told.value) else None
        if np.isfinite(told.low):
            found[f"{unit_of(name)}_ci95"] = [told.low, told.high]
    return found
