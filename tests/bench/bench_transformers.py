"""The bundled pair at work beside transformers' own generation: measuring against writing, decoding against decoding.

    python tests/bench/bench_transformers.py [--smoke]

One thread; the processor's time of this process is taken, which a busy machine disturbs less, and the shortest of runs
in turn.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timing import options, show

import acceptance
from acceptance.decoders import speculative
from acceptance.estimate.analysis import analyse
from acceptance.measure.measure import measure_pair
from acceptance.measure.plan import Settings, plan
from acceptance.models.laws import streams
from acceptance.models.load import load_pair
from acceptance.models.model import Pair
from acceptance.models.rule import SamplingRule
from acceptance.text.prompts import load_prompts

PAIR = Path(acceptance.__file__).parent / "tiny_pair"
DTYPES = ("float32", "bfloat16")
LENGTHS = (1, 2, 4, 8, 16)
BATCH = 16


def in_turn(ours: Callable[[], int], theirs: Callable[[], int], repeats: int) -> tuple[float, float]:
    """Return the seconds a token of both, the shortest of runs in turn."""
    shortest = [float("inf")] * 2
    for _ in range(repeats):
        for at, work in enumerate((ours, theirs)):
            began = time.process_time()
            tokens = work()
            shortest[at] = min(shortest[at], (time.process_time() - began) / tokens)
    return shortest[0], shortest[1]


def sampled(temperature: float) -> dict[str, Any]:
    """Return what `generate` is told of a rule."""
    return {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}


def write(pair: Pair, prompts: list[list[int]], new_tokens: int, **more: Any) -> int:
    """Have transformers write; returns the tokens, fillers of ended rows among them."""
    longest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    is_there = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    told = {"max_new_tokens": new_tokens, "pad_token_id": 0, "do_sample": False} | more
    return pair.target.module.generate(tokens, attention_mask=is_there, **told)[:, longest:].numel()


def measuring(pair: Pair, dtype: str, temperature: float, *, smoke: bool) -> None:
    """Trace and intervals of K = 1..8, against writing the same number of tokens in the same batches.

    No output ends early, so that both write as many.
    """
    rule = SamplingRule(temperature=temperature)
    new_tokens = 8 if smoke else 96
    settings = Settings(rule=rule, draft_rule=rule, batch_size=BATCH, max_new_tokens=new_tokens)
    planned = plan(pair, load_prompts(PAIR / "prompts.jsonl", limit=4 if smoke else 32).rows, settings)
    prompts = [pair.tokenizer(item.turns[0]).input_ids for item in planned.items]

    def ours() -> int:
        trace = measure_pair(pair, planned, settings)
        analyse(trace, range(1, 9), temperature=temperature, with_policies=False)
        return trace.size

    def theirs() -> int:
        parts = [prompts[at : at + BATCH] for at in range(0, len(prompts), BATCH)]
        return sum(write(pair, rows, new_tokens, **sampled(temperature)) for rows in parts)

    own, other = in_turn(ours, theirs, 1 if smoke else 4)
    show(
        f"measuring, {dtype}, temperature {temperature:g}",
        f"{own / other:.2f}x",
        "generate, same batches, a token",
        "<= 1.1x",
    )


def decoding(pair: Pair, dtype: str, k: int, *, smoke: bool) -> None:
    """Greedy speculative decoding, one prompt at a time, against transformers' assisted generation."""
    rule, new_tokens = SamplingRule(temperature=0.0), 8 if smoke else 64
    items = load_prompts(PAIR / "prompts.jsonl", limit=1 if smoke else 6).rows
    prompts = [pair.tokenizer(item.turns[0]).input_ids for item in items]
    assistant = pair.draft.module
    assistant.generation_config.update(
        num_assistant_tokens=k, num_assistant_tokens_schedule="constant", assistant_confidence_threshold=0.0
    )
    told = {"k": k, "rule": rule, "draft_rule": rule, "max_new_tokens": new_tokens}

    def ours() -> int:
        return sum(
            len(speculative.decode(pair.target, pair.draft, [p], rngs=streams(0, range(1)), **told)[0].tokens)
            for p in prompts
        )

    def theirs() -> int:
        return sum(write(pair, [p], new_tokens, assistant_model=assistant) for p in prompts)

    own, other = in_turn(ours, theirs, 1 if smoke else 3)
    show(f"speculative, {dtype}, K = {k}, tokens/s", f"{other / own:.2f}x", "assisted generation", ">= 1.0x")


def main() -> None:
    smoke = options(__doc__).parse_args().smoke
    torch.set_num_threads(1)
    for dtype in DTYPES[:1] if smoke else DTYPES:
        pair = load_pair(str(PAIR / "target"), str(PAIR / "draft"), device="cpu", dtype=dtype)
        for model in (pair.target, pair.draft):
            model.module.generation_config.eos_token_id = None
        pair = replace(pair, target=replace(pair.target, ends=()), draft=replace(pair.draft, ends=()))
        for temperature in (1.0,) if smoke else (0.0, 1.0):
            measuring(pair, dtype, temperature, smoke=smoke)
        for k in LENGTHS[:1] if smoke else LENGTHS:
            decoding(pair, dtype, k, smoke=smoke)


if __name__ == "__main__":
    main()
