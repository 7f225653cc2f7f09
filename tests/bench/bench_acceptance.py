"""What one trace costs beside the decoding loop, how fast the estimators are, and the memory of a long measurement.

    python tests/bench/bench_acceptance.py [--prompts 48] [--skip-memory]

Times are of one run on this machine; ratios are between things measured in that run.
"""

import argparse
import json
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import acceptance
from acceptance.decoders import speculative
from acceptance.decoders.batch import Decoded
from acceptance.estimate.estimators import Estimate, expected_rounds, metrics, ratio
from acceptance.measure.loop_check import loop_counts
from acceptance.measure.measure import measure_pair
from acceptance.measure.plan import Plan, Settings, plan
from acceptance.models.laws import streams
from acceptance.models.load import load_pair
from acceptance.models.model import Pair
from acceptance.models.rule import SamplingRule
from acceptance.text.prompts import load_prompts
from acceptance.trace.trace import PromptInfo, Trace

PAIR = Path(acceptance.__file__).parent / "tiny_pair"
LENGTHS = range(1, 9)
SCRIPTS = Path(sysconfig.get_path("scripts"))


def timed(work: Callable[[], object]) -> tuple[float, object]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def width(estimate: list[float]) -> float:
    return estimate[1] - estimate[0]


def loop(pair: Pair, planned: Plan, settings: Settings, k: int) -> Estimate:
    """Measure tokens per round by decoding, in the same batches as the trace."""
    decoded: list[Decoded] = []
    for first in range(0, len(planned.items), settings.batch_size):
        items = planned.items[first : first + settings.batch_size]
        prompts = [pair.tokenizer(item.turns[0]).input_ids for item in items]
        decoded += speculative.decode(
            pair.target,
            pair.draft,
            prompts,
            k=k,
            rule=settings.rule,
            draft_rule=settings.draft_rule,
            max_new_tokens=settings.max_new_tokens,
            rngs=streams(k, range(first, first + len(prompts))),
        )
    counts = loop_counts(decoded, k)
    return ratio(counts @ (1 + np.arange(k + 1)), counts.sum(1), np.random.default_rng(0))


def trace_against_loop(prompts: int) -> None:
    pair = load_pair(str(PAIR / "target"), str(PAIR / "draft"), device="cpu", dtype="float32")
    items = load_prompts(PAIR / "prompts.jsonl", limit=prompts).rows
    for temperature in (0.0, 1.0):
        rule = SamplingRule(temperature=temperature)
        settings = Settings(rule=rule, draft_rule=rule)
        planned = plan(pair, items, settings)

        def from_trace(settings: Settings = settings, planned: Plan = planned) -> dict[int, list[float]]:
            trace = measure_pair(pair, planned, settings, parts=None, progress=lambda _: None)
            rounds = {k: expected_rounds(trace, k, "sampled") for k in LENGTHS}
            return {k: metrics(trace, r, "sampled")["ci95"]["tokens_per_round"] for k, r in rounds.items()}

        from_trace()  # warm-up
        trace_s, intervals = timed(from_trace)
        loop_s = equal_s = 0.0
        print(f"\ntemperature {temperature:g}, {len(items)} prompts x {settings.max_new_tokens} tokens")
        print(f"one trace, K = 1..8: {trace_s:.2f} s")
        print(" K  loop s  interval, trace  interval, loop  loop s at equal width")
        for k in LENGTHS:
            seconds, estimate = timed(lambda k=k, s=settings, p=planned: loop(pair, p, s, k))
            times = (width(estimate.ci95) / width(intervals[k])) ** 2
            loop_s, equal_s = loop_s + seconds, equal_s + seconds * times
            print(
                f"{k:2}  {seconds:6.2f}  {width(intervals[k]):15.3f}  {width(estimate.ci95):14.3f}  "
                f"{seconds * times:21.2f}"
            )
        print(f"loop, K = 1..8: {loop_s:.2f} s, {loop_s / trace_s:.1f}x the trace; same prompts")
        print(f"at equal interval width: {equal_s:.2f} s, {equal_s / trace_s:.1f}x the trace")


def random_trace(outputs: int, length: int) -> Trace:
    rng = np.random.default_rng(0)
    size = outputs * length
    floats = {name: rng.random(size, np.float32) for name in ("accept_sampled", "max_q", "overlap", "p_argmax_q")}
    zeros = np.zeros(size, np.int32)
    position = np.tile(np.arange(length, dtype=np.int32), outputs)
    return Trace(
        **floats,
        token=zeros,
        accept_greedy=floats["accept_sampled"] > 0.3,
        log_p=-floats["max_q"],
        rank_p=zeros,
        rank_q=zeros,
        entropy_p=floats["max_q"],
        entropy_q=floats["max_q"],
        prompt=np.repeat(np.arange(outputs, dtype=np.int32), length),
        turn=zeros,
        position=position,
        context_length=position,
        prompts=tuple(PromptInfo(source=str(i)) for i in range(outputs)),
    )


def estimators() -> None:
    print("\n10^6 positions, K = 8; reference: np.sort of 10^6 floats")
    reference, _ = timed(lambda: np.sort(np.random.default_rng(0).random(1_000_000)))
    expected_rounds(random_trace(2, 20), 8, "sampled")  # imports
    for outputs, length in ((100_000, 10), (4_000, 250), (10, 100_000), (1, 1_000_000)):
        trace = random_trace(outputs, length)
        seconds, rounds = timed(lambda t=trace: expected_rounds(t, 8, "sampled"))
        all_s, _ = timed(lambda t=trace, r=rounds: metrics(t, r, "sampled"))
        print(
            f"{outputs:7,} outputs x {length:9,}: histogram {seconds:5.2f} s ({seconds / reference:4.1f}x), "
            f"metrics with intervals {all_s:6.2f} s"
        )


def memory() -> None:
    """Run the command on 64 and on 512 prompts of 256 tokens, and compare the peaks."""
    held = [json.loads(line)["prompt"] for line in (PAIR / "prompts.jsonl").read_text().splitlines()]
    print("\nmeasure-acceptance, temperature 1, 256 tokens a prompt, batches of 16: peak resident memory")
    with tempfile.TemporaryDirectory() as folder:
        for count in (64, 512):
            texts = [held[i % len(held)][: 200 + i // len(held)] for i in range(count)]
            path = Path(folder) / "prompts.jsonl"
            path.write_text("".join(json.dumps({"prompt": t}) + "\n" for t in texts))
            words = ["--prompts", path, "--max-new-tokens", 256, "--temperature", 1, "--k", "1:8", "--out-dir", folder]
            command = [str(SCRIPTS / "measure-acceptance"), *map(str, words), "--force"]
            seconds, done = timed(lambda c=command: subprocess.run(c, check=False, capture_output=True, text=True))
            if done.returncode:
                sys.exit(done.stderr)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            print(f"{count:4} prompts: {peak:6.0f} MiB, {seconds:5.0f} s; {done.stdout.splitlines()[0]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--skip-memory", action="store_true")
    told = parser.parse_args()
    estimators()
    trace_against_loop(told.prompts)
    if not told.skip_memory:
        memory()
