"""The event loop: one total order, a clock that is set first, and the same answer as the count of rounds."""

import io
import itertools
import json
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.costs.step import Knobs
from simulator.ground.chrome_trace import ChromeTrace
from simulator.rounds.acceptance_law import IidAcceptance
from simulator.rounds.arms import LANES, Played
from simulator.rounds.engine import elapsed_s
from simulator.rounds.event_queue import EventQueue, Priority
from simulator.rounds.experiment import Setting, play_events, replicate


def test_events_of_one_instant_run_by_priority_then_in_the_order_scheduled() -> None:
    queue, seen = EventQueue(), []
    for name in ("late", "begin 1", "begin 2", "end 1", "end 2"):
        priority = Priority.BEGIN if "begin" in name else Priority.END
        queue.at(2.0 if name == "late" else 1.0, priority, lambda name=name: seen.append((name, queue.now_s)))
    queue.run()
    assert seen == [("end 1", 1.0), ("end 2", 1.0), ("begin 1", 1.0), ("begin 2", 1.0), ("late", 2.0)]
    # One in the past is refused.
    queue = EventQueue()
    queue.at(1.0, Priority.END, lambda: queue.at(0.5, Priority.END, lambda: None))
    with pytest.raises(ValueError, match=r"event at 0.5 s, but the clock is at 1.0 s"):
        queue.run()


def setting(alpha: float, k: int, total: int, draft_cost: float, overlap: bool) -> Setting:
    knobs = Knobs(work_flops=0.05, work_mem=1.0, flop_scale_s=0.004, mem_scale_s=0.004, draft_cost=draft_cost)
    knobs = replace(knobs, round_overhead_s=0.0003)
    return Setting(total=total, draft_length=k, costs=knobs, acceptance=IidAcceptance(alpha), overlap=overlap)


def play(point: Setting, seed: int) -> tuple[Played, list[dict]]:
    file = io.StringIO()
    trace = ChromeTrace(file, LANES, {"note": "test"})
    played = play_events(point, seed, trace)
    trace.close()
    return played, json.loads(file.getvalue())["traceEvents"]


lengths, totals = st.integers(1, 9), st.integers(1, 200)
points = st.builds(setting, st.floats(0, 1), lengths, totals, st.floats(0.01, 1.5), st.booleans())


@settings(max_examples=150)
@given(points, st.integers(0, 1000))
def test_events_and_counts_agree_for_the_same_seed(point: Setting, seed: int) -> None:
    played, _ = play(point, seed)
    counts = replicate(point, 1, seed)
    assert (played.tokens, played.rounds, played.accepted) == (point.total, counts.rounds[0], counts.accepted[0])
    assert played.speculative_s == pytest.approx(float(elapsed_s(point.cost, counts)[0]), rel=1e-9)
    assert played.baseline_s == pytest.approx(point.total * float(point.cost.baseline_s), rel=1e-9)


@settings(max_examples=60)
@given(points, st.integers(0, 1000))
def test_the_timeline_is_whole_and_no_lane_does_two_things_at_once(point: Setting, seed: int) -> None:
    played, events = play(point, seed)
    lanes = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            lanes[event["pid"], event["tid"]].append(event)
    assert len(lanes[1, 1]) == point.total
    assert len(lanes[2, 2]) == len(lanes[2, 3]) == played.rounds
    used = [e for e in lanes[2, 1] if e["name"] != "draft ahead, discarded"]
    assert len(used) == played.rounds
    assert sum(e["args"]["committed"] for e in lanes[2, 3]) == point.total
    for spans in lanes.values():
        spans.sort(key=lambda e: e["ts"])
        for before, after in itertools.pairwise(spans):
            # A float's last digit, not a nanosecond.
            assert before["ts"] + before["dur"] <= after["ts"] + 1e-6
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    assert names == {(1, 1): "decode", (2, 1): "draft", (2, 2): "verify", (2, 3): "commit"}
    # A round drafts, then verifies, then commits.
    by_round = defaultdict(dict)
    for event in (*used, *lanes[2, 2], *lanes[2, 3]):
        by_round[event["args"]["round"]][event["name"].split()[0]] = event
    for phases in by_round.values():
        draft, verify, commit = phases["draft"], phases["verify"], phases["commit"]
        assert draft["ts"] + draft["dur"] <= verify["ts"] + 1e-6
        assert commit["ts"] == pytest.approx(verify["ts"] + verify["dur"], abs=0.002)
