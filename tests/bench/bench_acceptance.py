"""What one trace costs beside the decoding loop, how fast the estimators are, and the memory of a long measurement.

    python tests/bench/bench_acceptance.py [--prompts 48] [--skip-memory] [--smoke]

Times are of one run on this machine; ratios are between things measured in that run. Widths of intervals vary by more
than what is told apart here, so where outputs are drawn they are averages over seeds.
"""

import json
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from timing import options

import acceptance
from acceptance.decoders import speculative
from acceptance.decoders.batch import Decoded
from acceptance.estimate.estimators import Estimate, alpha_estimates, expected_rounds, metrics, tokens_per_round
from acceptance.measure.loop_check import loop_counts
from acceptance.measure.measure import measure_pair
from acceptance.measure.plan import Plan, Settings, plan
from acceptance.models.laws import streams
from acceptance.models.load import load_pair
from acceptance.models.model import Pair
from acceptance.models.rule import SamplingRule
from acceptance.text.prompts import load_prompts
from acceptance.trace.trace import PromptInfo, Trace

SEEDS = 8
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
            rngs=streams(1000 * settings.seed + k, range(first, first + len(prompts))),
        )
    counts = loop_counts(decoded, k)
    return tokens_per_round(counts, np.random.default_rng(0))


def trace_against_loop(prompts: int, *, smoke: bool) -> None:
    pair = load_pair(str(PAIR / "target"), str(PAIR / "draft"), device="cpu", dtype="float32")
    items = load_prompts(PAIR / "prompts.jsonl", limit=prompts).rows
    lengths = LENGTHS[:1] if smoke else LENGTHS
    for temperature in (1.0,) if smoke else (0.0, 1.0):
        rule = SamplingRule(temperature=temperature)
        plain = Settings(rule=rule, draft_rule=rule, max_new_tokens=8 if smoke else 128)
        planned = plan(pair, items, plain)

        def from_trace(settings: Settings, planned: Plan = planned) -> dict[int, list[float]]:
            trace = measure_pair(pair, planned, settings)
            rounds = {k: expected_rounds(trace, k, "sampled") for k in lengths}
            alpha = alpha_estimates(trace, np.random.default_rng(0))["sampled"]
            return {k: metrics(r, alpha)["ci95"]["tokens_per_round"] for k, r in rounds.items()}

        if not smoke:
            from_trace(plain)  # warm-up
        seeds, trace_s = SEEDS if temperature and not smoke else 1, 0.0
        took, squares = np.zeros(len(lengths)), np.zeros((2, len(lengths)))
        for seed in range(seeds):
            settings = replace(plain, seed=seed)
            seconds, intervals = timed(lambda s=settings: from_trace(s))
            trace_s += seconds / seeds
            for at, k in enumerate(lengths):
                seconds, estimate = timed(lambda k=k, s=settings, p=planned: loop(pair, p, s, k))
                took[at] += seconds / seeds
                squares[:, at] += [width(intervals[k]) ** 2 / seeds, width(estimate.ci95) ** 2 / seeds]
        told(
            temperature, f"{len(items)} prompts x {plain.max_new_tokens} tokens, {seeds} seeds", trace_s, took, squares
        )


def told(temperature: float, what: str, trace_s: float, took: np.ndarray, squares: np.ndarray) -> None:
    """Print what a trace and loop took for the intervals they gave; took: [K]; squares: of widths, [2, K]."""
    equal = took * squares[1] / squares[0]
    print(f"\ntemperature {temperature:g}, {what}")
    print(f"one trace, K = 1..{len(took)}: {trace_s:.2f} s")
    print(" K  loop s  interval, trace  interval, loop  loop s at equal width")
    for k, (seconds, (trace, looped), equal_s) in enumerate(zip(took, np.sqrt(squares).T, equal, strict=True), 1):
        print(f"{k:2}  {seconds:6.2f}  {trace:15.3f}  {looped:14.3f}  {equal_s:21.2f}")
    print(f"loop, K = 1..{len(took)}: {took.sum():.2f} s, {took.sum() / trace_s:.1f}x the trace; same prompts")
    print(f"at equal interval width: {equal.sum():.2f} s, {equal.sum() / trace_s:.1f}x the trace")


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


def estimators(*, smoke: bool) -> None:
    positions = 10_000 if smoke else 1_000_000
    print(f"\n{positions:,} positions, K = 8, bar: 50 M/s; reference: np.sort of as many floats")
    reference, _ = timed(lambda: np.sort(np.random.default_rng(0).random(positions)))
    expected_rounds(random_trace(2, 20), 8, "sampled")  # imports
    for outputs, length in ((positions // 10, 10), (positions // 250, 250), (10, positions // 10), (1, positions)):
        trace = random_trace(outputs, length)
        rounds = expected_rounds(trace, 8, "sampled")
        seconds = min(timed(lambda t=trace: expected_rounds(t, 8, "sampled"))[0] for _ in range(1 if smoke else 5))
        all_s, _ = timed(lambda t=trace, r=rounds: metrics(r, alpha_estimates(t, np.random.default_rng(0))["sampled"]))
        print(
            f"{outputs:7,} outputs x {length:9,}: histogram {positions / seconds / 1e6:3.0f} M/s "
            f"({seconds / reference:4.2f}x), "
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


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--skip-memory", action="store_true")
    given = parser.parse_args()
    estimators(smoke=given.smoke)
    trace_against_loop(5 if given.smoke else given.prompts, smoke=given.smoke)
    if not (given.skip_memory or given.smoke):
        memory()


if __name__ == "__main__":
    main()
