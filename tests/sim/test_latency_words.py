"""Times as people read them: every number has the unit that it is in."""

import math

from simulator.answers.latency import Limit, ms, time_beside, time_text
from simulator.answers.load_curve_report import limit_text

TIMES = {0.00123456: "1.23", 0.9996: "1,000", 1.5: "1,500", 9.99: "9,990", 10: "10s", 999.6: "1,000s", 30: "30s"}


def test_a_time_has_its_unit_once() -> None:
    for seconds, told in TIMES.items():
        assert ms(seconds) == told
        assert time_text(seconds) == (f"{told[:-1]} s" if told.endswith("s") else f"{told} ms")
    assert [form(math.nan) for form in (ms, time_text)] == ["-", "-"]
    assert (
        limit_text([Limit("ttft", 30.0), Limit("tpot", 0.05)])
        == "first token within 30 s and time a token within 50 ms"
    )


def test_a_time_beside_another_has_its_unit_where_that_differs() -> None:
    assert f"{time_beside(0.5, 2.0)} of {time_text(2.0)}" == "500 of 2,000 ms"
    assert f"{time_beside(0.5, 20.0)} of {time_text(20.0)}" == "500 ms of 20 s"
    assert f"{time_text(0.5)} for {time_beside(20.0, 0.5)}" == "500 ms for 20 s"
    assert f"{time_text(12.0)} for {time_beside(20.0, 12.0)}" == "12 s for 20 s"
