"""The client of bench-server beside `vllm bench serve`, in turns on the same real server.

Requests, tokens and the engine's counts have to be the same; of latencies is told what turns of one client differ by.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from acceptance.models.bundled import TINY_PAIR

from .live_server import QUIET, Row

PROMPTS, TOKENS, REQUESTS, CLIENTS, BENCH_S = TINY_PAIR / "prompts.jsonl", 32, 48, 4, 400
OURS, THEIRS = "ours.json", "theirs.json"
# What both have to tell alike, and what time makes differ.
SAME = ("completed", "total_input_tokens", "total_output_tokens")
COUNTED = ("spec_decode_num_drafts", "spec_decode_draft_tokens", "spec_decode_accepted_tokens")
TIMED = ("mean_ttft_ms", "mean_tpot_ms", "mean_itl_ms", "mean_e2el_ms", "output_throughput")
# Rounds hang on who shares a batch, by few of hundreds.
CLOSE = 0.02


def by_ours(url: str, path: Path) -> dict[str, Any]:
    """Put the load on by our command."""
    words = [sys.executable, "-m", "calibration.cli.bench_server", url, "--concurrency", str(CLIENTS)]
    words += ["--prompts", str(PROMPTS), "--osl", str(TOKENS), "--ignore-eos", "--warmup", "0"]
    words += ["--requests", str(REQUESTS), "--export-vllm", str(path), "--force"]
    return ran(words, path)


def by_theirs(vllm: Path, url: str, path: Path) -> dict[str, Any]:
    """Put the same load on by `vllm bench serve`."""
    words = [str(vllm), "bench", "serve", "--backend", "openai", "--base-url", url, "--endpoint", "/v1/completions"]
    words += ["--model", str(TINY_PAIR / "target"), "--dataset-name", "custom", "--dataset-path", str(PROMPTS)]
    words += ["--custom-output-len", str(TOKENS), "--skip-chat-template", "--disable-shuffle", "--ignore-eos"]
    words += ["--num-prompts", str(REQUESTS), "--max-concurrency", str(CLIENTS), "--temperature", "0"]
    words += [
        "--ready-check-timeout-sec",
        "0",
        "--percentile-metrics",
        "ttft,tpot,itl,e2el",
        "--save-result",
        "--save-detailed",
    ]
    words += ["--result-dir", str(path.parent), "--result-filename", path.name]
    return ran(words, path)


def ran(words: list[str], path: Path) -> dict[str, Any]:
    """Run a client, and return the result that it leaves."""
    env = os.environ | QUIET | {"no_proxy": "*"}
    subprocess.run(words, env=env, capture_output=True, text=True, check=True, timeout=BENCH_S)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def in_turns(vllm: Path, url: str, folder: Path, turns: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return results of both clients, which take turns, the other way round every second time."""
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    by_ours(url, folder / "warm.json")
    for turn in range(turns):
        for side in (ours, theirs) if turn % 2 == 0 else (theirs, ours):
            side.append(by_ours(url, folder / OURS) if side is ours else by_theirs(vllm, url, folder / THEIRS))
    return ours, theirs


def compared(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> Iterator[Row]:
    """Yield rows of what both clients tell: what has to be the same, and times, which need not."""
    for name in SAME:
        values = sorted({result[name] for result in (*ours, *theirs)})
        yield Row(name, " and ".join(map(str, values)), len(values) == 1)
    for name in COUNTED if COUNTED[0] in theirs[0] else ():
        values = [float(result[name]) for result in (*ours, *theirs)]
        yield Row(name, f"{min(values):g} to {max(values):g}", max(values) <= min(values) * (1 + CLOSE))
    for name in TIMED:
        own, other = ([float(result[name]) for result in side] for side in (ours, theirs))
        middle = [statistics.median(side) for side in (own, other)]
        noise = max(max(side) / min(side) - 1 for side in (own, other))
        ratio = middle[0] / middle[1] - 1
        told = f"ours {middle[0]:.3f}, theirs {middle[1]:.3f}: {ratio:+.1%}; turns of one differ by {noise:.1%}"
        yield Row(name, told)
