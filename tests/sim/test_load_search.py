"""Which loads a server carries, and up to which of them speculation pays: no more than runs tell of."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from simulator.answers.load_curve import Point, Task, piled_up
from simulator.answers.load_curve_report import carried, pays_in_words
from simulator.answers.load_search import (
    CARRIED,
    EARLIER,
    EVERYWHERE,
    NOWHERE,
    SHORT,
    UNKNOWN,
    Turning,
    capacity,
    falls_behind,
    turning,
)
from simulator.answers.scene import CLIENTS, Scene, Traffic
from simulator.workloads.laws import parse_lengths

LAW = parse_lengths("--isl", "10", "prompt")
SCENE = Scene(traffic=Traffic(count=100, isl=LAW, osl=LAW, longest=100), arms=())
CLOSED = replace(SCENE, traffic=replace(SCENE.traffic, kind=CLIENTS))


def served(rate: float, capacity: float, count: int, seed: int, takes_s: float = 1.0) -> tuple[Any, Any]:
    """Requests of a Poisson process at servers side by side, of which all together serve so many a second."""
    rng = np.random.default_rng(seed)
    sent = np.cumsum(rng.exponential(1 / rate, count))
    free, end = np.zeros(max(round(capacity * takes_s), 1)), np.empty(count)
    for i, at in enumerate(sent):
        first = int(free.argmin())
        end[i] = free[first] = max(free[first], at) + rng.exponential(takes_s)
    return sent, end


@pytest.mark.parametrize("count", [300, 2000])
def test_what_piles_up_is_the_overload_and_nothing_below_it(count: int) -> None:
    light = [piled_up(*served(rate, 40.0, count, seed)) for rate in (4, 20, 30) for seed in range(20)]
    # Three standard deviations of independent requests: hardly a run of 60 is flagged where a server keeps up.
    assert sum(found > 0.02 for found in light) <= 1
    over = [piled_up(*served(80, 40.0, count, seed)) for seed in range(20)]
    assert min(over) > 0.02
    if count == 2000:
        # Half of what is sent piles up, but for what chance may add.
        assert np.mean(over) == pytest.approx(0.5 - 3 * np.sqrt(500 + 1000) / 1000, abs=0.06)


def test_a_run_that_is_no_longer_than_answers_tells_nothing() -> None:
    sent = np.linspace(0, 10, 200)
    assert np.isnan(piled_up(sent, sent + 3.0))
    assert piled_up(sent, sent + 2.0) == 0.0
    # What was refused is no request.
    assert piled_up(np.append(sent, 30.0), np.append(sent + 2.0, np.nan)) == 0.0


class Server:
    """Two ways of serving: gains by load, what each carries at most, and from which load on runs are too short."""

    def __init__(self, gain: Any, carries: tuple[float, float], short: float = np.inf) -> None:
        self.gain, self.carries, self.short, self.asked = gain, carries, short, set[float]()

    def __call__(self, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        for task in tasks:
            self.asked.add(task.load)
            piled = np.nan if task.load >= self.short * task.longer else 0.5 * (task.load > self.carries[task.arm])
            told = {
                "attained": 1.0 * (task.load <= self.carries[task.arm]),
                "piled_up": piled,
                "e2e_mean": self.gain(task.load) if task.arm == 0 else 1.0,
            }
            yield {name: np.array([value]) for name, value in told.items()}

    def ahead(self, _: Any) -> None:
        """Nothing is begun before it is asked for."""

    def turning(self, *loads: float, scene: Scene = SCENE) -> Turning:
        ways: Any = self
        points = [Point(load, tuple(next(iter(ways([Task(arm, load, 0)]))) for arm in (0, 1))) for load in loads]
        return turning(scene, points, 1, [0], ways, lambda point: point.gain("e2e_mean", 1))


def test_speculation_pays_up_to_what_a_server_carries_and_not_beyond() -> None:
    # Beyond 77 runs alone decide: there the gain falls below 1, at a load that hangs on their length.
    server = Server(lambda load: 2.0 if load < 140 else 0.9, (70.0, 77.0))
    found = server.turning(5.0)
    assert (found.pays, found.ends, found.low) == (EVERYWHERE, CARRIED, 5.0)
    assert found.high == pytest.approx(77.0, rel=0.02)
    assert pays_in_words(found, "requests/s").endswith("requests/s, all that a server carries")
    assert server.turning(5.0, 60.0, 400.0).high == pytest.approx(77.0, rel=0.02)
    assert server.turning(100.0, 120.0).pays == UNKNOWN
    assert "no server keeps up" in pays_in_words(server.turning(100.0, 120.0), "requests/s")


def test_where_it_stops_paying_before_that_is_found_as_ever() -> None:
    found = Server(lambda load: 2.0 if load < 33 else 0.9, (70.0, 60.0)).turning(5.0)
    assert found.low < 33 <= found.high < 1.03 * found.low
    assert Server(lambda load: 0.9, (70.0, 60.0)).turning(5.0).pays == NOWHERE


def test_short_runs_are_lengthened_and_say_so_where_that_is_not_enough() -> None:
    found = Server(lambda load: 2.0, (70.0, 77.0), short=25.0).turning(5.0)
    assert (found.pays, found.ends, found.high) == (EVERYWHERE, CARRIED, pytest.approx(77.0, rel=0.02))
    assert Server(lambda load: 2.0, (70.0, 77.0), short=25.0).turning(50.0, 60.0).pays == EVERYWHERE
    # In place of 80, four times as many requests tell of 320.
    found = Server(lambda load: 2.0, (1e9, 1e9), short=100.0).turning(5.0)
    assert (found.pays, found.high, found.ends) == (EVERYWHERE, 320.0, SHORT)
    assert pays_in_words(found, "requests/s").endswith(", as far as so few --requests tell")
    assert falls_behind({"piled_up": np.array([np.nan])}) is False


def test_of_more_clients_than_come_back_in_a_run_nothing_is_told() -> None:
    server, ways = Server(lambda load: 2.0, (np.inf, 40.0)), Server(lambda load: 2.0, (np.inf, 40.0))
    found = server.turning(3.0, scene=CLOSED)
    assert (found.pays, found.high, found.ends, max(server.asked)) == (EVERYWHERE, 48.0, SHORT, 48.0)
    assert server.turning(60.0, 70.0, scene=CLOSED).pays == UNKNOWN
    assert Server(lambda load: 2.0 if load < 9 else 0.9, (1.0, 1.0)).turning(3.0, scene=CLOSED).pays == EARLIER
    for start in (4.0, 50.0, 400.0):
        most = [capacity(CLOSED, arm, start, 0.9, [0], ways) for arm in (0, 1)]  # type: ignore[arg-type]
        assert most == [50.0, 40.0]
    assert max(ways.asked) == 50.0
    said = [carried(load, CLOSED.traffic) for load in most]
    assert said == ["up to 50 clients, as far as so few --requests tell", "up to 40 clients"]
    # Of sessions, whose turns follow from one another, fewer are begun.
    assert replace(CLOSED.traffic, turns=parse_lengths("--turns", "5", "turn")).most_told == 10.0
    assert SCENE.traffic.most_told == np.inf
