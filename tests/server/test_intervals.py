"""Intervals of a served load: so many of them hold what many runs come to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from simulator.answers.latency import BATCHES
from simulator.answers.load_curve import Point, Task, joined, play_one
from simulator.answers.scene import Arm, Scene, Traffic
from simulator.ground import compiled
from simulator.serving.pass_tables import linear_costs
from simulator.serving.policy_tables import fixed
from simulator.serving.settings import settings_of
from simulator.workloads.laws import parse_lengths
from tests.server.test_conservation import law

MOST = 8192


def way(k: int) -> Arm:
    settings = settings_of(num_blocks=27_000, max_model_len=MOST, k=k, lookahead=k)
    costs = linear_costs(8e-3, 5e-6, tokens=MOST)
    return Arm(name=f"K={k}", settings=settings, acceptance=law(3, 0.7), costs=costs, policy=fixed(k or -1))


def scene(count: int) -> Scene:
    laws = (
        parse_lengths("--isl", "lognormal:1000:0.9", "prompt"),
        parse_lengths("--osl", "lognormal:200:0.8", "output"),
    )
    traffic = Traffic(count=count, isl=laws[0], osl=laws[1], longest=MOST)
    return Scene(traffic=traffic, arms=(way(0), way(3)))


def points(count: int, load: float, sets: int, runs: int = 1, ways: Sequence[int] = (0, 1)) -> list[Point]:
    """Return what some sets of runs come to, each of seeds of its own."""
    of = scene(count)
    seeds = np.arange(sets * runs).reshape(sets, runs).tolist()
    return [Point(load, tuple(joined([play_one(of, Task(w, load, s)) for s in each]) for w in ways)) for each in seeds]


def covered(tolds: Sequence[Any]) -> float:
    """Return the share of intervals that hold the mean of all."""
    true = np.mean([told.value for told in tolds])
    return float(np.mean([told.low <= true <= told.high for told in tolds]))


def test_of_many_runs_each_is_a_batch_of_its_own() -> None:
    runs = [{"e2e_mean": np.array([value, *np.full(BATCHES, 7.0)])} for value in range(BATCHES)]
    assert joined(runs)["e2e_mean"].tolist() == [4.5, *range(BATCHES)]
    assert joined(runs[:2])["e2e_mean"].tolist() == [0.5, *[7.0] * (2 * BATCHES)]


@pytest.mark.whole
@pytest.mark.statistical
@pytest.mark.skipif(not compiled.IS_COMPILED, reason="needs numba")
def test_intervals_hold_what_many_runs_come_to() -> None:
    """At a fifth of what the server takes, batches of one run: of 120 intervals at 95 % at least 86 %."""
    found = points(1000, 20.0, 120)
    for name in ("ttft_mean", "tpot_mean", "e2e_mean", "e2e_p50", "e2e_p90", "ttft_p90"):
        assert covered([point.told(0, name) for point in found]) > 0.86, name
    assert covered([point.gain("e2e_mean", 1) for point in found]) > 0.86


@pytest.mark.whole
@pytest.mark.statistical
@pytest.mark.skipif(not compiled.IS_COMPILED, reason="needs numba")
def test_near_a_full_server_ten_runs_tell_what_batches_of_one_do_not() -> None:
    names = ("tpot_mean", "e2e_mean", "e2e_p50", "e2e_p90", "ttft_p90", "output_tokens_per_s")
    many, one = points(500, 80.0, 40, 10, (0,)), points(2000, 80.0, 60, 1, (0,))
    for name in names:
        assert covered([point.told(0, name) for point in many]) > 0.8, name
    assert covered([point.told(0, "ttft_p90") for point in one]) < 0.6
