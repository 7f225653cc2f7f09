"""Our scheduler's plans are those of vLLM 0.32, step by step: recorded in plans.txt and plans.jsonl.xz, or asked anew.

Recorded by `scheduler_twin.py`. Where vLLM is installed, `make test-server PYTHON=/its/bin/python` asks it again.
"""

import json
import lzma
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from simulator.ground.compiled import PLAIN
from tests.server.plans import difference, digest, line, plans
from tests.server.scheduler_twin import MARKS, WHOLE
from tests.server.workloads import SETTINGS, draw

Record = dict[str, Any]
ROOT = Path(__file__).parents[2]
MARKED = MARKS.read_text().split()


def recorded() -> dict[int, list[Record]]:
    """Return vLLM's plans of some workloads, whole."""
    found = defaultdict[int, list[Record]](list)
    for text in lzma.decompress(WHOLE.read_bytes()).decode().splitlines():
        record = json.loads(text)
        found[record.pop("workload")].append(record)
    return found


def marks(seeds: range) -> list[str]:
    """Return the marks of our plans as plain Python has them."""
    code = f"from tests.server.plans import *; print(*(digest(plans(draw(seed))) for seed in {seeds!r}), sep='\\n')"
    env = os.environ | {PLAIN: "1"}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True
    ).stdout.split()


def test_plain_plans_are_vllms() -> None:
    seeds = range(0, len(MARKED), 16)
    assert marks(seeds) == [MARKED[seed] for seed in seeds]


@pytest.mark.whole
def test_compiled_plans_are_vllms_step_by_step() -> None:
    for seed, theirs in recorded().items():
        assert difference(plans(draw(seed)), theirs) is None, f"workload {seed}"
        assert digest(theirs) == MARKED[seed]
    assert [digest(plans(draw(seed))) for seed in range(len(MARKED))] == MARKED


def test_a_rule_that_differs_is_found() -> None:
    theirs = next(iter(recorded().values()))
    other = [record | {"next_k": record["next_k"] + (record["step"] > 2)} for record in theirs]
    k = theirs[3]["next_k"]
    assert difference(other, theirs) == f"step 3: next_k: ours {k + 1}, theirs {k}"
    assert difference(theirs, theirs[:-1]) == f"steps: ours {len(theirs)}, theirs {len(theirs) - 1}"
    assert digest(other) != digest(theirs)


def test_recorded_workloads_reach_what_they_are_for() -> None:
    drawn = [draw(seed)["settings"] for seed in range(len(MARKED))]
    for name in SETTINGS:
        fixed = {"step_us", "token_us", "max_model_len"}
        assert name in fixed or len({json.dumps(settings[name]) for settings in drawn}) > 1, name
    records = [record for theirs in recorded().values() for record in theirs]
    for name in ("new", "resumed", "preempted", "cached", "drafts", "finished", "waiting"):
        assert sum(bool(record[name]) for record in records) > 20, name
    assert line(records[0]).startswith('{"cached":')
