"""When a load is sent, on a clock of its own that leaps from event to event."""

import asyncio

import numpy as np
import pytest

from acceptance.servers.answer import Answer
from calibration.servers import load
from calibration.servers.load import put
from calibration.servers.plan import parts_of, sessions_of, size_of
from simulator.workloads.requests import Requests, requests_of


class Leaps(asyncio.SelectorEventLoop):
    """Waits for nothing: its time is that of the next event."""

    now_s = 0.0

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.now_s = max(self.now_s, self._scheduled[0]._when)
        super()._run_once()


def sent(
    monkeypatch: pytest.MonkeyPatch, requests: Requests, answer_s: float, most_s: float = float("inf"), *, clients: int
) -> tuple[dict[int, float], float]:
    """Return when each request was sent, and when all had come to an end."""
    found: dict[int, float] = {}

    async def ask(row: int, due_s: float | None) -> Answer:
        begun_s = found[row] = loop.time()
        await asyncio.sleep(answer_s)
        return Answer(begun_s, 0.0, begun_s, loop.time(), [], 1, 1)

    with asyncio.Runner(loop_factory=Leaps) as runner:
        loop = runner.get_loop()
        monkeypatch.setattr(load, "clock", loop.time)
        monkeypatch.setattr(load, "LEAD_S", 0.0)
        runner.run(put(ask, lambda row, answer: None, sessions_of(requests), clients=clients, most_s=most_s))
        return found, loop.time()


def test_who_thinks_beyond_the_time_is_not_waited_for(monkeypatch) -> None:
    requests = requests_of([5] * 3, [1] * 3, after=[-1, 0, 1], think_s=[0, 0.05, 3])
    for clients in (0, 1):
        times, end_s = sent(monkeypatch, requests, 0.1, 0.3, clients=clients)
        assert times == pytest.approx({0: 0.0, 1: 0.15})
        assert end_s == pytest.approx(0.3)
        times, end_s = sent(monkeypatch, requests, 0.1, clients=clients)
        assert (times[2], end_s) == pytest.approx((3.25, 3.35))


def test_turns_that_wait_for_one_answer_are_sent_together_and_a_client_goes_on_behind_the_first(monkeypatch) -> None:
    requests = requests_of([5] * 5, [1] * 5, after=[-1, 0, 0, 0, -1], think_s=[0, 1, 1, 2, 0])
    times, _ = sent(monkeypatch, requests, 0.5, clients=1)
    assert times == pytest.approx({0: 0.0, 1: 1.5, 2: 1.5, 3: 2.5, 4: 2.0})
    times, _ = sent(monkeypatch, requests, 0.5, clients=0)
    assert times == pytest.approx({0: 0.0, 1: 1.5, 2: 1.5, 3: 2.5, 4: 0.0})


def test_a_part_with_a_slow_stretch_sends_all_of_its_own(monkeypatch) -> None:
    """Ten requests in five seconds, nine of them in the last: each of two parts has half of them and half the time."""
    due_s = np.array([0.5, *np.linspace(4, 4.9, 9)])
    requests = requests_of([5] * 10, [1] * 10, arrival_s=due_s)
    for part in parts_of(requests, 2):
        rows = [session.turn.row for session in part]
        own = requests_of([5] * len(rows), [1] * len(rows), arrival_s=[session.due_s for session in part])
        times, end_s = sent(monkeypatch, own, 0.1, 2.5, clients=0)
        assert len(times) == len(rows)
        assert end_s == pytest.approx(part[-1].due_s + 0.1)


def test_a_session_of_thousands_of_turns_is_one(monkeypatch) -> None:
    count = 3000
    requests = requests_of([5] * count, [1] * count, after=range(-1, count - 1), think_s=[0.0] * count)
    (session,) = sessions_of(requests)
    assert size_of(session.turn) == count
    assert len(sent(monkeypatch, requests, 0.0, clients=1)[0]) == count
