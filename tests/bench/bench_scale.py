"""A thousand configurations of `simulate-serving` on one core and on two: how many times as fast, what is not shared.

    python tests/bench/bench_scale.py

Each is a command of its own, from start to answer, in turn; the least time of each counts. What two cores leave of one
is taken apart as Amdahl has it: seconds that are shared, and seconds that are not (start of commands and helpers,
answers, tables), of which sixteen cores are forecast.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import options, show

BIN = Path(sys.executable).parent
DEVICE = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--method", "eagle3")
LENGTHS = ("--alpha", "0.7", "--isl", "lognormal:1000:0.9", "--osl", "lognormal:200:0.8")
LENGTH_OF = tuple(word for k in range(1, 5) for word in ("--policy", f"static:k={k}"))
FEW, MANY = 2, 16


def timed(workers: int, loads: int, requests: int) -> tuple[float, bytes]:
    """Return seconds of a sweep over loads and four draft lengths, and the table that it writes."""
    with tempfile.TemporaryDirectory() as folder:
        words = (*DEVICE, *LENGTHS, *LENGTH_OF, "--rate", f"{50 / loads:g}:50:{50 / loads:g}", "--requests", requests)
        command = [str(BIN / "simulate-serving"), *map(str, words), "--workers", str(workers), "--out", "a.csv"]
        began = time.perf_counter()
        subprocess.run(command, cwd=folder, env=os.environ, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began, (Path(folder) / "a.csv").read_bytes()


def main() -> None:
    """Print a table."""
    args = options(__doc__).parse_args()
    loads, requests, repeats = (2, 40, 1) if args.smoke else (250, 4000, 3)
    timed(1, 1, 10)  # compiles, where nothing is kept
    least, tables = {1: float("inf"), FEW: float("inf")}, set()
    for _ in range(repeats):
        for workers in least:
            seconds, table = timed(workers, loads, requests)
            least[workers] = min(least[workers], seconds)
            tables.add(table)
    assert len(tables) == 1, "the number of workers changes what is found"
    one, two = least[1], least[FEW]
    shared = (one - two) * FEW / (FEW - 1)
    alone = one - shared
    show(f"{loads * 4:,} configurations, one core", f"{one:.1f} s", f"{requests:,} requests each")
    show(f"  {FEW} cores", f"{two:.1f} s", f"{one / two:.2f} times as fast", "bar: 1.8")
    show("  not shared", f"{alone:.1f} s", f"{alone / one:.1%} of the time on one core")
    show(f"  {MANY} cores, forecast", f"{alone + shared / MANY:.1f} s", f"{one / (alone + shared / MANY):.1f} times")


if __name__ == "__main__":
    main()
