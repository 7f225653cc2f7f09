"""How fast the simulator is, as ratios to a named reference in the same process. Prints a table, asserts nothing.

The reference for rounds is the plain loop in NumPy: one uniform a round, cumulated until the budget is spent.
"""

import io
import time
from collections.abc import Callable

import numpy as np

from simulator.costs.parameters import MODEL_NAMES, PARAMETERS
from simulator.costs.step import Knobs
from simulator.ground.chrome_trace import ChromeTrace
from simulator.ground.ranges import parse_values
from simulator.rounds.acceptance_law import IidAcceptance
from simulator.rounds.arms import LANES
from simulator.rounds.engine import draw_counts
from simulator.rounds.experiment import Setting, play_events, replicate
from simulator.rounds.grid import Acceptance, Grid, Sweep
from simulator.rounds.sweeping import run_sweep

LAW = IidAcceptance(0.8).law(4)


def best_s(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the shortest of a few runs: the least disturbed one."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def reference_rounds(total: int) -> int:
    """Draw every round: inverse CDF on uniforms, in pieces of a million."""
    rng, cumulative, tokens, rounds = np.random.default_rng(0), np.cumsum(LAW), 0, 0
    while tokens < total:
        committed = np.cumsum(1 + np.searchsorted(cumulative, rng.random(min(total - tokens, 1_000_000))))
        used = int(np.searchsorted(committed, total - tokens)) + 1
        rounds += min(used, len(committed))
        tokens += int(committed[min(used, len(committed)) - 1])
    return rounds


def one_run(total: int) -> None:
    draw_counts(
        LAW[None], np.array([4]), np.array([total]), np.zeros(1), np.random.default_rng(0), np.random.default_rng(1)
    )


def setting(total: int) -> Setting:
    knobs = Knobs(work_flops=5e4, work_mem=8.0, flop_scale_s=4e-10, mem_scale_s=5e-4, draft_cost=0.1)
    return Setting(total=total, draft_length=4, costs=knobs, acceptance=IidAcceptance(0.8))


def log_events(total: int) -> None:
    trace = ChromeTrace(io.StringIO(), LANES)
    play_events(setting(total), 0, trace)
    trace.close()


def grid_sweep(replications: int, **values: str) -> Callable[[], object]:
    texts = {p.name: f"{p.default:g}" for p in PARAMETERS if p.name not in MODEL_NAMES} | values
    grid = Grid(values={name: parse_values(name, text) for name, text in texts.items()})
    sweep = Sweep(grid=grid, acceptance=Acceptance(), overlap=False, replications=replications, seed=0)
    return lambda: run_sweep(sweep)


def main() -> None:
    reference_s = best_s(lambda: reference_rounds(10**7)) / 1e7
    print(f"reference: NumPy loop over every round, {reference_s * 1e9:.1f} ns a token\n")
    print(f"{'what':44} {'seconds':>9} {'reference / ours':>18}")
    for total in (512, 10**5, 10**8):
        ours_s = best_s(lambda total=total: one_run(total))
        print(f"{f'one run, {total:,} tokens':44} {ours_s:>9.5f} {reference_s * total / ours_s:>17.1f}x")
    ours_s = best_s(lambda: replicate(setting(10**8), 32, 0))
    print(f"{'32 runs, 100,000,000 tokens each':44} {ours_s:>9.5f} {reference_s * 32e8 / ours_s:>17.1f}x")
    rounds = int(replicate(setting(336_000), 1, 0).rounds[0])
    ours_s = best_s(lambda: log_events(336_000))
    print(f"{f'event log, {rounds:,} rounds':44} {ours_s:>9.3f} {60 * rounds / ours_s / 1e6:>10.2f} M rounds/minute")
    million = {"draft_length": "1:10", "alpha": "0.01:1:0.01", "draft_cost": "0.001:1:0.001"}
    ours_s = best_s(grid_sweep(0, **million), 1)
    print(f"{'sweep, 1,000,000 points, closed form':44} {ours_s:>9.3f}")
    ours_s = best_s(grid_sweep(16, draft_length="1:10", alpha="0.0001:1:0.0001"), 1)
    print(f"{'sweep, 100,000 points x 16 runs, all drawn':44} {ours_s:>9.3f}")


if __name__ == "__main__":
    main()
