"""How fast the simulator is, beside references that do the same in the same run. Prints a table, asserts nothing.

Rounds: Python loops with a uniform for each token, of NumPy's generator and of `random`, and a NumPy loop that draws
all rounds of a run at once and cumulates them; each over runs of the same length. Tables: pandas with the same rows.
Wide laws, cores: our own other end.
"""

import io
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from timing import best_s, in_turn, options, seconds, show

from simulator.answers.uncertainty import uncertainty
from simulator.costs.drafters.methods import methods
from simulator.costs.drafters.plan import Tree
from simulator.costs.kinds import is_models
from simulator.costs.parameters import MODEL_NAMES, PARAMETERS, DeviceOptions, Point
from simulator.costs.priced import load_pricing
from simulator.costs.step import Knobs
from simulator.ground import helpers
from simulator.ground.chrome_trace import ChromeTrace
from simulator.ground.histogram import AcceptanceHistogram
from simulator.ground.machine import keep_freed
from simulator.ground.ranges import parse_values
from simulator.ground.tables import CsvTable, ParquetTable, writing_table
from simulator.rounds import sweeping
from simulator.rounds.acceptance_law import HistogramAcceptance, IidAcceptance
from simulator.rounds.arms import LANES
from simulator.rounds.experiment import Setting, play_events, replicate
from simulator.rounds.grid import Acceptance, Grid, Sweep
from simulator.rounds.sweeping import overview, run_sweep
from simulator.serving.steady import steady

ALPHA, K = 0.8, 4
KNOBS = Knobs(work_flops=5e4, work_mem=8.0, flop_scale_s=4e-10, mem_scale_s=5e-4, draft_cost=0.1)

# VmHWM counts from where the program begins, unlike what a parent is told.
TELLS_MEMORY = """
import sys
from pathlib import Path
from simulator.cli.sweep import sweep
try:
    sweep()
finally:
    status = Path("/proc/self/status").read_text().splitlines()
    print(next(line for line in status if line.startswith("VmHWM")), file=sys.stderr)
"""


def setting(total: int) -> Setting:
    return Setting(total=total, draft_length=K, costs=KNOBS, acceptance=IidAcceptance(ALPHA))


def python_loop(total: int, runs: int, uniform: Callable[[], float]) -> None:
    for _ in range(runs):
        tokens = 0
        while tokens < total:
            accepted = 0
            while accepted < K and uniform() < ALPHA:
                accepted += 1
            tokens += accepted + 1


def numpy_loop(total: int, runs: int) -> None:
    """Draw every round of a run at once: inverse CDF on uniforms, in pieces of a million."""
    rng, cumulative = np.random.default_rng(0), np.cumsum(IidAcceptance(ALPHA).law(K))
    for _ in range(runs):
        tokens = 0
        while tokens < total:
            committed = np.cumsum(1 + np.searchsorted(cumulative, rng.random(min(total - tokens, 1_000_000))))
            used = int(np.searchsorted(committed, total - tokens)) + 1
            tokens += int(committed[min(used, len(committed)) - 1])


LOOPS: dict[str, Callable[[int, int], None]] = {
    "Python loop, NumPy's generator for each token": lambda t, n: python_loop(t, n, np.random.default_rng(0).random),
    "Python loop, random.random for each token": lambda t, n: python_loop(t, n, random.Random(0).random),
    "NumPy loop, each run at once": numpy_loop,
}


def rounds(smoke: bool) -> None:
    for total, runs, looped in ((512, 32, 32), (512, 1000, 50 if smoke else 500), (100_000, 32, 4), (10**7, 32, 1)):
        if smoke and total > 1000:
            continue
        for name, loop in LOOPS.items():
            if total * looped > 10**6 and loop is not numpy_loop:
                continue
            ours, other = in_turn(
                lambda total=total, runs=runs: replicate(setting(total), runs, 0),
                lambda total=total, loop=loop, looped=looped: loop(total, looped),
                1 if smoke else 5,
            )
            bar = "bar: 15x" if total == 512 and name.startswith("Python loop, NumPy") else ""
            show(f"{runs:,} runs of {total:,} tokens", f"{other / looped / (ours / runs):,.1f}x", name, bar)
    runs = 10**4 if smoke else 10**6
    taken = seconds(lambda: replicate(setting(512), runs, 0))
    show(f"{runs:,} runs of 512 tokens", f"{taken:.2f} s", "", "bar: 5 s")
    total = 1_000 if smoke else 336_000
    count, taken = int(replicate(setting(total), 1, 0).rounds[0]), best_s(lambda: log_events(total), 1)
    show(f"event log, {count:,} rounds", f"{60 * count / taken / 1e6:.2f} M a minute")


def log_events(total: int) -> None:
    trace = ChromeTrace(io.StringIO(), LANES)
    play_events(setting(total), 0, trace)
    trace.close()


def grid_sweep(replications: int = 0, **values: str) -> Sweep:
    texts = {p.name: f"{p.default:g}" for p in PARAMETERS if p.name not in MODEL_NAMES} | values
    grid = Grid(values={name: parse_values(name, text) for name, text in texts.items()})
    return Sweep(grid=grid, acceptance=Acceptance(), replications=replications)


def million(smoke: bool, times: int = 1) -> Sweep:
    step = "0.01" if smoke else f"{0.001 / times:g}"
    return grid_sweep(draft_length="1:10", alpha="0.01:1:0.01", draft_cost=f"{step}:1:{step}")


def write(sweep: Sweep, path: Path) -> None:
    with writing_table(path, rows=sweep.grid.points) as table:
        overview(sweep, lambda units: None, table, {"seed": 0, "overlap": False}, keep=False)


def of_cores(count: int, work: Callable[[], object]) -> Callable[[], None]:
    def on_these() -> None:
        known = sweeping.cores
        sweeping.cores = helpers.cores = lambda: count
        try:
            work()
        finally:
            sweeping.cores = helpers.cores = known

    return on_these


def sweeps(smoke: bool, folder: Path) -> None:
    repeats, sweep = 1 if smoke else 3, million(smoke)
    points, every = sweep.grid.points, sweeping.cores()
    taken = best_s(lambda: run_sweep(sweep), repeats)
    show(f"sweep, {points:,} points in memory", f"{points / taken / 1e6:.1f} M/s", "", "bar: 10 M/s")
    frame = pd.DataFrame(run_sweep(sweep) | {"seed": 0, "overlap": False})
    for suffix, theirs, bar in (
        (".csv", lambda: frame.to_csv(folder / "theirs.csv", index=False), "bar: 0.4 M/s"),
        (".parquet", lambda: frame.to_parquet(folder / "theirs.parquet", index=False), "bar: 1 M/s"),
    ):
        path = folder / f"ours{suffix}"
        ours, other = in_turn(lambda path=path: write(sweep, path), theirs, repeats)
        said = f"{points / ours / 1e6:.2f} M/s, {other / ours:.1f}x"
        show(f"sweep to {suffix}", said, "pandas writing the same rows, evaluated before", bar)
        for large in (sweep, million(smoke, 4)):
            cores_against_one(large, path, every, repeats)
    drawn = grid_sweep(16, draft_length="1:10", alpha="0.01:1:0.01" if smoke else "0.001:1:0.001")
    many, one = in_turn(of_cores(every, lambda: run_sweep(drawn)), of_cores(1, lambda: run_sweep(drawn)), repeats)
    show(
        f"sweep, {drawn.grid.points:,} points x 16 runs, {every} cores",
        f"{one / many:.2f}x",
        "one core",
        "bar: 1.8x on two",
    )
    alphas = "0.001:1:0.001" if smoke else "0.00001:1:0.00001"
    wide, narrow = grid_sweep(draft_length="1024", alpha=alphas), grid_sweep(draft_length="16", alpha=alphas)
    ours, other = in_turn(lambda: run_sweep(wide), lambda: run_sweep(narrow), repeats + 2)
    show("closed form at K = 1024", f"{ours / other:.2f}x the time", "K = 16", "bar: 1.5x")


def cores_against_one(sweep: Sweep, path: Path, every: int, repeats: int) -> None:
    """Say besides what one core spends in the file's own order, which bounds any number of them."""
    ordered_s, known = list[float](), (CsvTable.write, ParquetTable.write)

    def timed(write_next: Callable[..., None]) -> Callable[..., None]:
        def write_it(table: object, encoded: object) -> None:
            ordered_s.append(seconds(lambda: write_next(table, encoded)))

        return write_it

    many, one = in_turn(of_cores(every, lambda: write(sweep, path)), of_cores(1, lambda: write(sweep, path)), repeats)
    CsvTable.write, ParquetTable.write = map(timed, known)
    try:
        whole = seconds(of_cores(1, lambda: write(sweep, path)))
    finally:
        CsvTable.write, ParquetTable.write = known
    said = f"one core; part by part in the file {sum(ordered_s) / whole:.0%} of that"
    name = f"sweep, {sweep.grid.points:,} points to {path.suffix}, {every} cores"
    show(name, f"{one / many:.2f}x", said, "bar: 1.8x on two")


def peak(smoke: bool, folder: Path) -> None:
    """Run the command on a grid in a process of its own, which tells its memory as it ends."""
    many = "0.01" if smoke else "0.001"
    values = ("--draftN", "1:10", "--alpha", f"{many}:1:{many}", "--draft-cost", f"{many}:1:{many}")
    for suffix in (".parquet", ".csv")[: 1 if smoke else 2]:
        command = [sys.executable, "-c", TELLS_MEMORY, *values, "--out", str(folder / f"large{suffix}"), "--json"]
        began = time.perf_counter()
        done = subprocess.run([*command, "--replications", "0"], check=True, capture_output=True, text=True)
        taken, points = time.perf_counter() - began, 10 * round(1 / float(many)) ** 2
        held = int(done.stderr.split()[-2]) / 1024
        show(f"sweep of {points:,} points to {suffix}", f"{held:.0f} MiB at most", f"{taken:.1f} s", "bar: 300 MiB")


def histogram(smoke: bool) -> None:
    def draw(length: int) -> None:
        counts = tuple(1e6 * p for p in IidAcceptance(0.999).law(length))
        acceptance = HistogramAcceptance((AcceptanceHistogram(counts),))
        uncertainty(KNOBS, acceptance, length, length, np.random.default_rng(0), overlap=False)

    length = 16 if smoke else 1024
    show(f"uncertainty of a histogram of K = {length}", f"{seconds(lambda: draw(length)):.2f} s", "", "bar: 10 s")


def methods_priced(smoke: bool) -> None:
    """Price each method at many batch sizes, contexts and draft lengths, beside a draft model in turn."""
    points, rng = 1000 if smoke else 100_000, np.random.default_rng(0)
    draws = {"batch": rng.integers(1, 256, points), "context": rng.integers(1, 8000, points)}
    lengths = rng.integers(1, 5, points)

    def work(target: str, method: str, **more: Any) -> Callable[[], object]:
        models = load_pricing(DeviceOptions(profile="h200", target_model=target, method=method))
        pair = models.costs(Point(**draws, draft_length=lengths))
        assert is_models(pair)
        pair = replace(pair, **more)
        return lambda: pair.round_cost(lengths)

    kinds: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in methods()}
    kinds["eagle3, trees"] = "eagle3", {"tree": Tree(4, 16)}
    kinds["ngram, of every drafted length"] = "ngram", {"drafted": (0.6, 0.0, 0.2, 0.1, 0.1)}
    kinds["draft_model, ahead for 4 outcomes"] = "draft_model", {"guesses": 4}
    for name, (method, more) in kinds.items():
        target = "qwen3-next-80b-a3b" if name == "mtp" else "qwen3-8b"
        ours_s, reference_s = in_turn(work(target, method, **more), work(target, "draft_model"))
        show(
            f"{name} on {target}", f"{points / ours_s / 1e6:.2f} M points/s", f"{ours_s / reference_s:.2f} of a draft's"
        )


def loads(smoke: bool) -> None:
    """Serve loads in closed form, beside batches that decode: a pass with a prompt and one's own come on top."""
    points, rng = 1000 if smoke else 100_000, np.random.default_rng(0)
    clients, isl, osl, lengths = (
        rng.integers(low, high, points) for low, high in ((1, 256), (1, 8000), (2, 2000), (1, 5))
    )
    models = load_pricing(DeviceOptions(profile="h200", target_model="qwen3-8b", method="eagle3"))
    pair = models.costs(Point(batch=clients, context=isl, draft_length=lengths))
    assert is_models(pair)
    drafted = {"draft_length": lengths, "tokens_per_round": 2.0}
    for name, more in (("plain", {}), ("eagle3", drafted)):
        ours_s, reference_s = in_turn(
            lambda more=more: steady(pair, clients, isl, osl, **more), lambda: pair.round_cost(lengths)
        )
        figures = f"{points / ours_s / 1e6:.2f} M points/s", f"{ours_s / reference_s:.2f} of a round of eagle3"
        show(f"served loads, {name}", *figures)


def main() -> None:
    smoke = options(__doc__).parse_args().smoke
    # As a sweep does.
    keep_freed()
    show("what", "ours", "reference, in the same run", "")
    rounds(smoke)
    histogram(smoke)
    methods_priced(smoke)
    loads(smoke)
    with tempfile.TemporaryDirectory() as name:
        sweeps(smoke, Path(name))
        peak(smoke, Path(name))
    print(f"load: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
