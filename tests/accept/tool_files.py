"""What each tool that measures acceptance would write of some simulated rounds, by its own definitions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

K = 4
MAIN = 'engine="0",model_name="m"'


class Round(NamedTuple):
    """One verification round: drafted and accepted tokens."""

    drafted: int
    accepted: int


def simulate(rounds: int, seed: int = 0) -> list[Round]:
    """Draw rounds whose acceptance probability falls with the position."""
    heads = np.random.default_rng(seed).random((rounds, K)) < np.linspace(0.9, 0.4, K)
    return [Round(K, int(a)) for a in np.cumprod(heads, axis=-1).sum(axis=-1)]


def counts_of(rounds: list[Round], k: int = K) -> list[int]:
    return [sum(r.accepted == a for r in rounds) for a in range(k + 1)]


def totals_of(rounds: list[Round]) -> tuple[int, int, int]:
    """Return the rounds, and the tokens drafted and accepted in them."""
    return len(rounds), sum(r.drafted for r in rounds), sum(r.accepted for r in rounds)


def write(path: Path, *parts: Any) -> Path:
    """Write text as it is, and whatever else as a line of JSON each."""
    path.write_text("".join(part if isinstance(part, str) else json.dumps(part) + "\n" for part in parts))
    return path


def spec_bench_line(rounds: list[Round]) -> dict[str, Any]:
    lengths = [r.accepted + 1 for r in rounds]
    choice = {"index": 0, "turns": ["An answer."], "decoding_steps": [len(rounds)], "new_tokens": [sum(lengths)]}
    choice |= {"wall_time": [1.5], "accept_lengths": lengths}
    return {"question_id": 81, "category": "writing", "choices": [choice], "tstamp": 1.0}


def eagle_line(rounds: list[Round], turns: int = 2) -> dict[str, Any]:
    # EAGLE keeps the index of a turn's last step.
    parts = [rounds[turn::turns] for turn in range(turns)]
    tokens = [sum(r.accepted + 1 for r in part) for part in parts]
    choice = {"index": 0, "turns": ["An answer."] * turns, "idxs": [len(part) - 1 for part in parts]}
    return {"question_id": 81, "choices": [choice | {"new_tokens": tokens, "wall_time": [1.5] * turns}]}


def log_line(rounds: list[Round], k: int = K, words: str = "today") -> str:
    """Return the line of an interval, as vLLM words it: today, in 0.9 or in 0.8."""
    steps, drafted, accepted = totals_of(rounds)
    counts, rate = f"Accepted: {accepted} tokens, Drafted: {drafted} tokens", 100 * accepted / drafted
    rates = ", ".join(f"{sum(r.accepted > j for r in rounds) / steps:.3f}" for j in range(k))
    length, rates = f"Mean acceptance length: {1 + accepted / steps:.2f}", f"Per-position acceptance rate: {rates}"
    said = {
        "today": f"{length}, Accepted throughput: 3.90 tokens/s, Drafted throughput: 8.00 tokens/s, {counts}, {rates}, "
        f"Avg Draft acceptance rate: {rate:.1f}%",
        "0.9": f"Draft acceptance rate: {rate:.1f}%, {length}, {counts}, {rates}",
        "0.8": f"Draft acceptance rate: {rate:.1f}%, {counts}",
    }
    return f"(APIServer pid=7) INFO 10-21 10:10:10 [metrics.py:96] SpecDecoding metrics: {said[words]}\n"


def prometheus(rounds: list[Round], labels: str = MAIN, k: int = K, total: str = "_total", server: str = "vllm") -> str:
    name, braces = f"{server}:spec_decode_num_", f"{{{labels}}}" if labels else ""
    steps, drafted, accepted = map(float, totals_of(rounds))
    lines = [
        f"# HELP {name}drafts{total} Number of spec decoding drafts.",
        f"# TYPE {name}drafts{total} counter",
        f"{name}drafts{total}{braces} {steps}",
        f"{name}drafts_created{braces} 1.781341706e+09",
        f"{name}draft_tokens{total}{braces} {drafted}",
        f"{name}accepted_tokens{total}{braces} {accepted}",
        f"{server}:num_requests_running{braces} 3.0",
    ]
    for position in range(k):
        inner = ",".join(filter(None, (labels, f'position="{position}"')))
        lines.append(
            f"{name}accepted_tokens_per_pos{total}{{{inner}}} {float(sum(r.accepted > position for r in rounds))}"
        )
    return "\n".join(lines) + "\n"


def statistics(rounds: list[Round], k: int = K, level: str = "by_length") -> dict[str, Any]:
    steps, drafted, accepted = totals_of(rounds)
    found: dict[str, Any] = {
        "num_spec_steps": steps,
        "num_spec_tokens": k,
        "acceptance_histogram": counts_of(rounds, k),
    }
    found |= {"num_accepted_draft_tokens": accepted, "num_draft_tokens": drafted}
    found |= {"mean_acceptance_length": 1 + accepted / steps, "draft_acceptance_rate": accepted / drafted}
    if level == "by_length":
        lengths = sorted({r.drafted for r in rounds})
        found["acceptance_histogram_by_draft_length"] = {
            str(d): counts_of([r for r in rounds if r.drafted == d], d) for d in lengths
        }
    if level == "detailed":
        found["per_step_accepted"] = [r.accepted for r in rounds]
        found["per_step_drafted"] = [r.drafted for r in rounds]
    return found


def vllm_response(rounds: list[Round], k: int = K, level: str = "by_length") -> dict[str, Any]:
    return {"id": "cmpl-1", "choices": [], "metrics": {"speculative_decoding": statistics(rounds, k, level)}}


def bench_result(rounds: list[Round], k: int = K) -> dict[str, Any]:
    steps, drafted, accepted = totals_of(rounds)
    found: dict[str, Any] = {"num_drafts": steps, "draft_tokens": drafted, "accepted_tokens": accepted}
    found |= {"acceptance_rate": 100 * accepted / drafted, "acceptance_length": 1 + accepted / steps}
    found["per_position_acceptance_rates"] = [sum(r.accepted > j for r in rounds) / steps for j in range(k)]
    return {"backend": "vllm", "request_rate": "inf"} | {f"spec_decode_{name}": v for name, v in found.items()}


def sglang_response(rounds: list[Round]) -> dict[str, Any]:
    steps, drafted, accepted = totals_of(rounds)
    tokens = 1 + steps + accepted  # the prefill's token, the target's own of each round, the accepted
    meta = {"id": "a", "finish_reason": {"type": "length", "length": tokens}, "completion_tokens": tokens}
    meta |= {"spec_verify_ct": steps, "spec_accept_length": tokens / steps, "spec_accept_rate": accepted / drafted}
    meta |= {"spec_num_correct_drafts": accepted, "spec_num_proposed_drafts": drafted}
    # SGLang's list grows with what was accepted; it has no bucket above the largest.
    meta["spec_correct_drafts_histogram"] = counts_of(rounds, max(r.accepted for r in rounds))
    return {"text": "An answer.", "meta_info": meta}


def aiperf_histogram(rounds: list[Round]) -> dict[str, int]:
    return {str(a): n for a, n in enumerate(counts_of(rounds)) if n}


def aiperf_record(rounds: list[Round], phase: str = "profiling") -> dict[str, Any]:
    found = statistics(rounds, level="summary") | {"engine": "vllm", "acceptance_histogram": aiperf_histogram(rounds)}
    metadata = {"session_num": 0, "benchmark_phase": phase}
    return {"metadata": metadata, "metrics": {}, "spec_decode_acceptance": found}


def aiperf_totals(rounds: list[Round]) -> dict[str, Any]:
    steps, drafted, accepted = totals_of(rounds)
    totals = {"total_spec_decode_steps": steps, "total_accepted_draft_tokens": accepted, "total_draft_tokens": drafted}
    totals["spec_decode_token_weighted_acceptance_length"] = 1 + accepted / steps
    metrics = {name: {"unit": "count", "avg": float(value)} for name, value in totals.items()}
    return metrics | {"schema_version": "1.1", "pooled_spec_decode_acceptance_histogram": aiperf_histogram(rounds)}


def written(tool: str, requests: list[list[Round]]) -> list[Any]:
    """Return what this tool would leave behind after these rounds."""
    every = [r for request in requests for r in request]
    if tool == "guidellm":
        responses = [{"response_metrics": vllm_response(run)["metrics"]} for run in requests]
        return [{"metadata": {"guidellm_version": "0.8.1"}, "benchmarks": [{"requests": {"successful": responses}}]}]
    one: dict[str, Callable[[list[Round]], Any]] = {
        "vllm-metrics": prometheus,
        "llama-cpp": lambda rounds: prometheus(rounds, "", server="llamacpp"),
        "vllm-bench": bench_result,
    }
    if tool in one:
        return [one[tool](every)]
    one_each: dict[str, Callable[[list[Round]], Any]] = {
        "vllm-log": log_line,
        "trtllm": lambda rounds: {
            "choices": [{"speculative_decoding": statistics(rounds), "avg_decoded_tokens_per_iter": 2.5}]
        },
        "eagle": eagle_line,
        "spec-bench": spec_bench_line,
        "vllm-requests": vllm_response,
        "sglang": sglang_response,
        "aiperf": aiperf_record,
    }
    return list(map(one_each[tool], requests))


RUNS = [simulate(40, seed) for seed in range(5, 8)]
# 20 rounds of 3 tokens a round.
TWENTY = [Round(K, a) for a in [4] * 5 + [3] * 3 + [2] * 4 + [1] * 3 + [0] * 5]
SMALL = [Round(K, a) for a in (4, 0, 2, 1)]
# Other files that a tool leaves, by a name each.
OTHERS: dict[str, tuple[str, Any]] = {
    "detailed": ("vllm-requests", vllm_response(SMALL, level="detailed")),
    "choices": ("sglang", {"choices": [sglang_response(SMALL)]}),
    "totals": ("aiperf", aiperf_totals(SMALL)),
    "served": ("sglang", {"request_rate": float("inf"), "total_output_tokens": 3210, "accept_length": 3.21}),
    "states": ("sglang", {"internal_states": [{"avg_spec_accept_length": 2.5}]}),
    "timings": (
        "llama-cpp",
        {"timings": {"predicted_n": 9, "draft_rounds": 3, "draft_n": 9, "draft_n_accepted": 6}},
    ),
    "averaged": ("trtllm", {"choices": [{"avg_decoded_tokens_per_iter": 2.5}], "usage": {"completion_tokens": 500}}),
}
