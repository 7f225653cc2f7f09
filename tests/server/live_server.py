"""A real vLLM on loopback while a block runs, and what it counts of drafts, read without our readers."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from acceptance.models.bundled import TINY_PAIR

PORT, HEALTHY_S, LOG_EVERY_S = 8765, 420, 2
LOG = "server.log"
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
# The model runs in the engine's process, a step on a core.
SMALL = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "NUMBA_NUM_THREADS": "1"}
SMALL |= {"OMP_NUM_THREADS": "1", "VLLM_LOG_STATS_INTERVAL": str(LOG_EVERY_S)}
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
COUNTER = re.compile(r'^vllm:spec_decode_num_(\w+?)_total\{[^}]*?(?:position="(\d+)")?\} (\S+)$', re.MULTILINE)
LOGGED = re.compile(r"SpecDecoding metrics: .*?Accepted: (\d+) tokens, Drafted: (\d+) tokens")


class Row(NamedTuple):
    """A line of the report: what was looked at, what came out, and whether it is as it has to be (None: no matter)."""

    what: str
    found: str
    holds: bool | None = None


def same(what: str, found: object, expected: object) -> Row:
    """Return the row of what has to be equal."""
    return Row(what, f"{found}" if found == expected else f"{found}, expected {expected}", found == expected)


@contextmanager
def serving(
    vllm: Path, speculation: dict[str, Any] | None, folder: Path, model: str = "target", dtype: str = "bfloat16"
) -> Iterator[str]:
    """Yield the address of a server of one model of the bundled pair while it runs."""
    port = PORT + (model != "target")
    library = vllm.parents[1] / "lib/libiomp5.so"
    env = os.environ | QUIET | SMALL | ({"LD_PRELOAD": str(library)} if library.exists() else {})
    words = [str(vllm), "serve", str(TINY_PAIR / model), "--host", "127.0.0.1", "--port", str(port)]
    words += ["--dtype", dtype, "--max-model-len", "1024", "--max-num-seqs", "16", "--enforce-eager"]
    words += ["--distributed-executor-backend", "uni", "--disable-uvicorn-access-log"]
    words += [] if speculation is None else ["--speculative-config", json.dumps(speculation)]
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(words, env=env, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + HEALTHY_S
        while asked(f"{url}/health") is None:
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"no server:\n{(folder / LOG).read_text()[-2000:]}")
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


def asked(url: str) -> str | None:
    """Return what an address answers, by no proxy; None where it does not."""
    try:
        with OPENER.open(url, timeout=10) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return None


def scrape(url: str, path: Path) -> Counter[str]:
    """Keep a server's /metrics, and return what it counts of drafts: `drafts`, `accepted_tokens`, positions as `0`."""
    text = asked(f"{url}/metrics") or ""
    path.write_text(text)
    found = Counter[str]()
    for name, position, value in COUNTER.findall(text):
        found[position or name] += int(float(value))
    return found


def logged(log: Path, expected: tuple[int, int]) -> tuple[int, int]:
    """Return the accepted and drafted tokens of all lines of a log, once it has come to what is expected, or late."""
    until = time.monotonic() + 5 * LOG_EVERY_S
    while True:
        rows = LOGGED.findall(log.read_text())
        sums = sum(int(row[0]) for row in rows), sum(int(row[1]) for row in rows)
        if sums == expected or time.monotonic() > until:
            return sums
        time.sleep(0.2)
