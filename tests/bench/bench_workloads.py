"""How fast requests are drawn and recorded ones are read, as ratios to NumPy's own draws and to Python's csv alone.

python tests/bench/bench_workloads.py [--smoke]
"""

import csv
import tempfile
from pathlib import Path

import numpy as np
from timing import Work, in_turn, options, show

from simulator.ground.streams import stream
from simulator.workloads.arrivals import arrival_times
from simulator.workloads.laws import drawn_lengths, parse_lengths
from simulator.workloads.reading import read_workload
from simulator.workloads.requests import requests_of, validated
from simulator.workloads.statistics import statistics_of

ISL, OSL = parse_lengths("--isl", "lognormal:1090:0.9"), parse_lengths("--osl", "lognormal:200:0.8")
HEADER = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def drawn(count: int) -> object:
    """Draw a workload."""
    prompt, output = drawn_lengths(stream(1, 0, "lengths"), count, ISL, OSL)
    return validated(requests_of(prompt, output, arrival_s=arrival_times(stream(1, 0, "arrivals"), count, 5.0)))


def by_numpy(count: int) -> object:
    """Draw its numbers alone."""
    rng = np.random.default_rng(1)
    return rng.lognormal(7, 0.9, count), rng.lognormal(5, 0.8, count), rng.exponential(0.2, count)


def by_csv(path: Path) -> int:
    """Cut a table into cells."""
    with path.open(newline="") as file:
        return sum(1 for _ in csv.reader(file))


def compared(what: str, count: int, ours: Work, reference: Work, name: str, repeats: int) -> None:
    """Print how many requests a second there are, and how much longer that takes than the reference."""
    own_s, other_s = in_turn(ours, reference, repeats)
    show(what, f"{count / own_s:,.0f} requests/s", f"{own_s / other_s:.1f} x the time of {name}")


def main() -> None:
    smoke = options(__doc__).parse_args().smoke
    count, repeats = (1000, 1) if smoke else (1_000_000, 3)
    compared("a workload drawn", count, lambda: drawn(count), lambda: by_numpy(count), "three draws by NumPy", repeats)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "burst.csv"
        row = "s1,43,GPT-4,906,446,1352,Conversation log\n"
        path.write_text(HEADER + "".join(f"{i / 8},{row}" for i in range(count)))
        compared("BurstGPT read", count, lambda: read_workload(path), lambda: by_csv(path), "csv alone", repeats)
        found = read_workload(path)
        compared("it described", count, lambda: statistics_of(found), lambda: by_csv(path), "csv alone", repeats)


if __name__ == "__main__":
    main()
