"""Replications, their interval and verdict; the event loop, which gives the same answer as the count of rounds."""

import io
import itertools
import json
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import stdtr

from simulator.answers.basis import Basis
from simulator.answers.forecast import forecast
from simulator.answers.verdict import answer, best_in_words, headline, need_in_words
from simulator.costs.step import Knobs
from simulator.ground.chrome_trace import ChromeTrace
from simulator.ground.histogram import AcceptanceHistogram
from simulator.ground.statistics import student95
from simulator.rounds.acceptance_law import HistogramAcceptance, IidAcceptance
from simulator.rounds.arms import LANES, Played
from simulator.rounds.engine import elapsed_s
from simulator.rounds.event_queue import EventQueue, Priority
from simulator.rounds.experiment import Setting, interval95, play_events, replicate


def setting(alpha=0.8, draft_cost=0.1, k=4, total=512, overlap=False, histogram=None, **costs: float) -> Setting:
    values = {"work_flops": 0.0, "work_mem": 1.0, "flop_scale_s": 1.0, "mem_scale_s": 1e-3} | costs
    acceptance = IidAcceptance(alpha) if histogram is None else HistogramAcceptance((histogram,))
    knobs = Knobs(draft_cost=draft_cost, **values)
    return Setting(total=total, draft_length=k, costs=knobs, acceptance=acceptance, overlap=overlap)


def test_more_replications_leave_the_first_ones_as_they_were() -> None:
    many = replicate(setting(), 200, seed=5)
    for few in (1, 3, 32, 33, 150):
        assert (many.rounds[:few] == replicate(setting(), few, seed=5).rounds).all()
    assert len(set(many.rounds)) > 1
    runs = [replicate(setting(), 8, seed).rounds.tolist() for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_student_s_t_is_that_of_scipy() -> None:
    freedoms = [*range(1, 60), *range(60, 1100, 97), 999, 1000, 10**6]
    assert stdtr(freedoms, [student95(n) for n in freedoms]) == pytest.approx(0.975, abs=1e-13)


@pytest.mark.statistical
def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, trials = np.random.default_rng(9), 4000
    times_s = rng.normal(2.0, 0.1, (trials, 8))
    low, high = interval95(times_s, np.full(trials, 4.0))
    covered = ((low <= 2.0) & (high >= 2.0)).mean()
    assert abs(covered - 0.95) <= 4 * np.sqrt(0.95 * 0.05 / trials)
    # Negative control: a speedup of 2.05 is covered clearly less often.
    assert ((low <= 2.05) & (high >= 2.05)).mean() < 0.9
    # One without spread is a point.
    assert interval95(np.full(4, 2.0), np.array(4.0)) == (2.0, 2.0)


def verdict_of(point: Setting):
    verdict = forecast(point, replications=2).verdict
    basis = Basis(acceptance="measured", condition="", acceptance_text="", costs_text="")
    k = point.draft_length
    return verdict, " ".join([headline(verdict, basis, k), best_in_words(verdict, k), need_in_words(verdict, k)])


def test_the_verdict_says_whether_it_pays_with_the_best_k_of_the_histogram() -> None:
    verdict, words = verdict_of(setting(histogram=AcceptanceHistogram((10, 10, 10, 10, 60))))
    assert verdict.answer == "pays"
    assert (verdict.best_draft_length, verdict.searched_to) == (4, 4)
    assert verdict.best_speedup == pytest.approx((1 + 0.9 + 0.8 + 0.7 + 0.6) / 1.4)
    low, high = verdict.speedup_ci95
    assert low < verdict.speedup < high
    assert f"It pays: {verdict.speedup:.2f}x as fast ({low:.2f}x to {high:.2f}x) at K = 4" in words
    assert "the longest this histogram tells of" in words
    verdict, words = verdict_of(setting(0.1, draft_cost=0.5))
    assert verdict.answer == "does not pay"
    assert verdict.speedup_ci95 is None
    assert "It does not pay" in words
    assert "No draft length pays in long runs" in words
    assert verdict.break_even_alpha > 0.1
    # A few rounds leave it open.
    verdict, words = verdict_of(setting(draft_cost=0.2, histogram=AcceptanceHistogram((1, 0, 0, 0, 1))))
    assert verdict.speedup > 1
    assert verdict.answer == "cannot tell"
    assert "Cannot tell" in words


def test_a_draft_as_costly_as_the_target_never_breaks_even() -> None:
    verdict, words = verdict_of(setting(draft_cost=1.5))
    assert verdict.break_even_alpha is None
    assert "not even if every draft were accepted" in words
    # The search reaches at least the K that was asked for.
    verdict, _ = verdict_of(setting(0.99, draft_cost=0.01, k=30))
    assert verdict.searched_to == 30


def test_both_ends_of_the_interval_have_to_lie_on_one_side_of_1() -> None:
    intervals = [((1.05, 1.3), "pays"), ((0.9, 1.4), "cannot tell"), ((0.7, 0.95), "does not pay")]
    assert [answer(1.1, interval) for interval, _ in intervals] == [word for _, word in intervals]
    # Where nothing says how uncertain it is, the speedup alone says.
    assert [answer(gain, None) for gain in (1.01, 1.0, 0.99)] == ["pays", "cannot tell", "does not pay"]


@pytest.mark.statistical
@pytest.mark.parametrize("total", [1, 3, 5, 40])
@pytest.mark.parametrize("overlap", [False, True])
def test_the_speedup_of_the_verdict_is_that_of_many_runs_to_their_last_token(total: int, overlap: bool) -> None:
    point = setting(draft_cost=0.3, total=total, overlap=overlap)
    times_s = elapsed_s(point.cost, replicate(point, 3000, seed=3))
    mean_s, error_s = times_s.mean(), times_s.std() / np.sqrt(len(times_s))
    expected_s = total * point.cost.baseline_s / forecast(point, replications=1).verdict.speedup
    assert abs(mean_s - expected_s) <= 4 * error_s + 1e-12
    # Negative control: the closed form of long runs is another number.
    assert abs(mean_s - total * point.cost.baseline_s / point.closed_form.speedup) > 8 * error_s


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


def play(point: Setting, seed: int) -> tuple[Played, list[dict]]:
    file = io.StringIO()
    trace = ChromeTrace(file, LANES, {"note": "test"})
    played = play_events(point, seed, trace)
    trace.close()
    return played, json.loads(file.getvalue())["traceEvents"]


costs = {"work_flops": st.just(0.05), "flop_scale_s": st.just(1e-3), "round_overhead_s": st.just(7.5e-5)}
sizes = {"k": st.integers(1, 9), "total": st.integers(1, 200), "draft_cost": st.floats(0.01, 1.5)}
points = st.builds(setting, alpha=st.floats(0, 1), overlap=st.booleans(), **sizes, **costs)


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
