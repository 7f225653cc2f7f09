"""What these scripts share: ours and a reference timed in turn in one run, and `--smoke`: sizes to see that it runs."""

import argparse
import time
from collections.abc import Callable

Work = Callable[[], object]


def options(doc: str) -> argparse.ArgumentParser:
    """Return the parser of a script, from its docstring."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small sizes, once each: only to see that it runs")
    return parser


def seconds(work: Work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def best_s(work: Work, repeats: int = 3) -> float:
    """Return the shortest of a few runs: the least disturbed one."""
    return min(seconds(work) for _ in range(repeats))


def in_turn(ours: Work, reference: Work, repeats: int = 3) -> tuple[float, float]:
    """Return the shortest of a few runs of each, in turn, so that a drift of the machine meets both alike."""
    pairs = [(seconds(ours), seconds(reference)) for _ in range(repeats)]
    return min(own for own, _ in pairs), min(other for _, other in pairs)


def show(what: str, value: str, reference: str = "", bar: str = "") -> None:
    """Print a row: what was timed, what came out, beside which reference, and what is aimed at."""
    print(f"{what:50} {value:>18}   {reference:52} {bar}", flush=True)
