"""Plan random workloads with our scheduler and with vLLM's, step by step; print the first differences.

    python -m tests.server.scheduler_twin [--count 1000] [--seed 0] [--record 400 --whole 20]

--record writes marks of the plans of the first so many workloads, and the first so many whole, for `test_scheduler.py`.
Needs a Python with vLLM 0.32.
"""

import argparse
import logging
import lzma
import os
import sys
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}

from tests.server.plans import difference, digest, line, plans
from tests.server.workloads import draw

FOLDER = Path(__file__).parent
MARKS, WHOLE = FOLDER / "plans.txt", FOLDER / "plans.jsonl.xz"


def compare(first: int, count: int, marks: list[str] | None = None, whole: list[str] | None = None) -> int:
    """Return how many workloads are planned in two ways; append marks, and lines, of theirs where they are wanted."""
    from tests.server import oracle

    unequal = steps = preempted = 0
    start = time.perf_counter()
    for seed in range(first, first + count):
        theirs = list(oracle.plans(draw(seed)))
        steps += len(theirs)
        preempted += sum(len(record["preempted"]) for record in theirs)
        if marks is not None:
            marks.append(digest(theirs))
        if whole is not None:
            whole += [line({"workload": seed} | record) for record in theirs]
        if said := difference(plans(draw(seed)), theirs):
            unequal += 1
            print(f"workload {seed}: {said}")
    taken = time.perf_counter() - start
    print(f"{count} workloads, {steps} steps, {preempted} preemptions, {unequal} planned in two ways, {taken:.0f} s")
    return unequal


def main() -> int:
    """Compare, or record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=int, default=0)
    parser.add_argument("--whole", type=int, default=20)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if not args.record:
        return int(compare(args.seed, args.count) > 0)
    marks, whole = list[str](), list[str]()
    unequal = compare(0, args.whole, marks, whole) + compare(args.whole, args.record - args.whole, marks)
    MARKS.write_text("\n".join(marks) + "\n")
    WHOLE.write_bytes(lzma.compress("\n".join(whole).encode(), preset=9))
    return int(unequal > 0)


if __name__ == "__main__":
    sys.exit(main())
