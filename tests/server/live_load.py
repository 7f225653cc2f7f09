"""The client of bench-server beside `vllm bench serve`, in turns on the same real servers, with the bundled pair.

    make test-server PYTHON=/its/bin/python

or `python -m tests.server.live_load --vllm /its/bin/vllm [--turns 3]`: serves the target plain, with the draft and with
n-grams on loopback, one after the other, about three minutes each. Requests, tokens and the engine's counts have to be
the same; latencies are printed beside what turns of one client differ by.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from acceptance.importers.formats import import_histogram
from acceptance.models.bundled import TINY_PAIR

PORT, PROMPTS, TOKENS, REQUESTS, CLIENTS = 8765, TINY_PAIR / "prompts.jsonl", 32, 48, 4
DRAFT = {"method": "draft_model", "model": str(TINY_PAIR / "draft"), "num_speculative_tokens": 3}
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4, "prompt_lookup_min": 2}
WAYS: dict[str, dict[str, Any] | None] = {"plain": None, "draft": DRAFT, "ngram": NGRAM}
HEALTHY_S, BENCH_S = 420, 400
OURS, THEIRS = "ours.json", "theirs.json"
# What both have to tell alike, and what time makes differ.
SAME = ("completed", "total_input_tokens", "total_output_tokens")
COUNTED = ("spec_decode_num_drafts", "spec_decode_draft_tokens", "spec_decode_accepted_tokens")
TIMED = ("mean_ttft_ms", "mean_tpot_ms", "mean_itl_ms", "mean_e2el_ms", "output_throughput")
# Rounds hang on who shares a batch, by few of hundreds.
CLOSE = 0.02


@contextmanager
def serving(vllm: Path, speculation: dict[str, Any] | None, folder: Path) -> Iterator[str]:
    """Yield the address of a server while it runs."""
    library = vllm.parents[1] / "lib/libiomp5.so"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    env |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    env |= {"LD_PRELOAD": str(library)} if library.exists() else {}
    words = [str(vllm), "serve", str(TINY_PAIR / "target"), "--host", "127.0.0.1", "--port", str(PORT)]
    words += ["--dtype", "bfloat16", "--max-model-len", "1024", "--max-num-seqs", "16", "--enforce-eager"]
    words += ["--distributed-executor-backend", "uni", "--disable-uvicorn-access-log"]
    words += [] if speculation is None else ["--speculative-config", json.dumps(speculation)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(words, env=env, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{PORT}"
    try:
        until = time.monotonic() + HEALTHY_S
        while not is_healthy(url):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"no server:\n{(folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.5)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


def is_healthy(url: str) -> bool:
    """Whether a server answers, by no proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return bool(opener.open(f"{url}/health", timeout=2).status == 200)
    except (urllib.error.URLError, OSError):
        return False


def by_ours(url: str, path: Path) -> dict[str, Any]:
    """Put the load on by our command."""
    words = [sys.executable, "-m", "calibration.cli.bench_server", url, "--concurrency", str(CLIENTS)]
    words += ["--prompts", str(PROMPTS), "--osl", str(TOKENS), "--ignore-eos", "--warmup", "0"]
    words += ["--requests", str(REQUESTS), "--export-vllm", str(path), "--force"]
    subprocess.run(words, capture_output=True, check=True, timeout=BENCH_S)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def by_theirs(vllm: Path, url: str, path: Path) -> dict[str, Any]:
    """Put the same load on by `vllm bench serve`."""
    words = [str(vllm), "bench", "serve", "--backend", "openai", "--base-url", url, "--endpoint", "/v1/completions"]
    words += ["--model", str(TINY_PAIR / "target"), "--dataset-name", "custom", "--dataset-path", str(PROMPTS)]
    words += ["--custom-output-len", str(TOKENS), "--skip-chat-template", "--disable-shuffle", "--ignore-eos"]
    words += ["--num-prompts", str(REQUESTS), "--max-concurrency", str(CLIENTS), "--temperature", "0"]
    words += [
        "--percentile-metrics",
        "ttft,tpot,itl,e2el",
        "--save-result",
        "--save-detailed",
        "--result-dir",
        str(path.parent),
        "--result-filename",
        path.name,
    ]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "no_proxy": "*"}
    subprocess.run(words, env=env, capture_output=True, check=True, timeout=BENCH_S)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def differing(way: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what is not as it has to be."""
    for name in SAME:
        values = {result[name] for result in (*ours, *theirs)}
        if len(values) > 1:
            yield f"{way}: {name} is {' and '.join(map(str, sorted(values)))}"
    for name in COUNTED if WAYS[way] else ():
        values = [float(result[name]) for result in (*ours, *theirs)]
        if max(values) > min(values) * (1 + CLOSE):
            yield f"{way}: {name} is from {min(values):g} to {max(values):g}"


def row(way: str, name: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """Return a line of a figure: its medians, their ratio, and what turns of one client differ by."""
    own, other = ([float(result[name]) for result in side] for side in (ours, theirs))
    middle = [statistics.median(side) for side in (own, other)]
    noise = max(max(side) / min(side) - 1 for side in (own, other))
    ratio = middle[0] / middle[1] - 1
    return f"{way:6} {name:18} ours {middle[0]:9.3f}  theirs {middle[1]:9.3f}  {ratio:+7.1%}, turns differ {noise:.1%}"


def in_turns(vllm: Path, url: str, folder: Path, turns: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return results of both clients, which take turns, the other way round every second time."""
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    by_ours(url, folder / "warm.json")
    for turn in range(turns):
        for side in (ours, theirs) if turn % 2 == 0 else (theirs, ours):
            side.append(by_ours(url, folder / OURS) if side is ours else by_theirs(vllm, url, folder / THEIRS))
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", type=Path, required=True, help="its command")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--ways", default=",".join(WAYS))
    given = parser.parse_args()
    wrong: list[str] = []
    for way in given.ways.split(","):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            with serving(given.vllm, WAYS[way], folder) as url:
                ours, theirs = in_turns(given.vllm, url, folder, given.turns)
            for name in TIMED:
                print(row(way, name, ours, theirs), flush=True)
            wrong += differing(way, ours, theirs)
            if WAYS[way]:
                own, other = (import_histogram("vllm-bench", folder / name).histogram for name in (OURS, THEIRS))
                told = f"ours {own.tokens_per_round:.3f}  theirs {other.tokens_per_round:.3f}"
                print(f"{way:6} tokens a round     {told}", flush=True)
    print("\n".join(wrong) or "requests, tokens and the engine's counts are the same")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
