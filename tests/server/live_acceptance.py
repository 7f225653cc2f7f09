"""Acceptance by two real servers, and by the same models here: their traces, array by array."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from acceptance.models.bundled import TINY_PAIR
from acceptance.trace.trace import Trace, load_trace

from .live_server import Row, same, serving

ACCEPTANCE, DTYPE = "acceptance", "float32"
WORDS = ("--max-prompts", "16", "--max-new-tokens", "48", "--k", "1:4")
# Of float32, in which both compute, but not in one order.
NEAR = {"accept_sampled": 1e-3, "log_p": 1e-3, "log_q": 1e-3, "max_q": 1e-3, "margin_q": 1e-3}
EXACT = ("accept_greedy", "rank_p", "rank_q")


def measured(folder: Path, name: str, *words: str) -> Trace:
    """Return the trace that our command measures."""
    command = [sys.executable, "-m", "acceptance.cli.measure_acceptance", *words, "--out-dir", name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}: {done.stderr}")
    return load_trace(folder / name / "trace.json")[0]


def texts_of(trace: Trace, path: Path) -> None:
    """Write what a server wrote, in tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY_PAIR / "target")
    lines = (TINY_PAIR / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = []
    for prompt in np.unique(trace.prompt):
        before = tokenizer(json.loads(lines[prompt])["prompt"]).input_ids
        rows.append({"prompt_token_ids": before, "output_token_ids": trace.token[trace.prompt == prompt].tolist()})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def scored(vllm: Path, folder: Path) -> Iterator[Row]:
    """Yield rows of greedy text, and of text at temperature 1, that a server wrote and both scored."""
    for name in ("target", "draft"):
        (folder / name).mkdir()
    with (
        serving(vllm, None, folder / "target", "target", DTYPE) as target,
        serving(vllm, None, folder / "draft", "draft", DTYPE) as draft,
    ):
        for temperature in ("0", "1"):
            words = (*WORDS, "--temperature", temperature)
            asks = ("--target-server", target, "--draft-server", draft)
            there = measured(folder, f"there{temperature}", *asks, *words)
            texts_of(there, folder / "texts.jsonl")
            own = ("--texts", "texts.jsonl", "--dtype", DTYPE, "--temperature", temperature, "--k", "1:4")
            here = measured(folder, f"here{temperature}", *own)
            yield from differences(f"temperature {temperature}: ", there, here)
            if temperature == "0":
                again = measured(folder, "again", *words, "--dtype", DTYPE)
                yield same("temperature 0: text", again.token.tolist() == there.token.tolist(), True)


def differences(what: str, there: Trace, here: Trace) -> Iterator[Row]:
    """Yield rows of two traces of one text."""
    for name, most in NEAR.items():
        off = float(np.abs(getattr(there, name).astype(np.float64) - getattr(here, name)).max())
        yield Row(f"{what}{name}", f"off by {off:.1e} at most", off < most)
    for name in EXACT:
        off = int((getattr(there, name) != getattr(here, name)).sum())
        yield Row(f"{what}{name}", f"{off} of {there.size} differ", off <= there.size // 200)
