"""The numeric parameters: what each allows, in its own words, and which combinations cost nothing."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.parameters import BY_NAME, PARAMETERS, Parameter, Point
from simulator.ground.artefacts import UserError

parameters = st.sampled_from(PARAMETERS)


def allowed(p: Parameter, value: float) -> bool:
    """The bounds, said once more."""
    inside = (p.least < value if p.above else p.least <= value) and value <= p.most
    return inside and (not p.whole or value == int(value))


@given(parameters, st.floats() | st.integers(-(10**16), 10**16) | st.sampled_from([0, 1, 1024, 1025, 1000.5]))
def test_a_value_is_taken_or_refused_by_option_value_and_what_is_allowed(p: Parameter, value: float) -> None:
    if allowed(p, value):
        p.check(value)
        p.check([p.default, value])
    else:
        message = f"{p.flags[0]}: {float(value)!r}".removesuffix(".0") + f" is not allowed, expected {p.allowed}"
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            p.check([p.default, value])


def test_bounds_and_nan_are_where_the_words_say() -> None:
    for p in PARAMETERS:
        above = math.nextafter(p.most, math.inf) if p.most < math.inf else -1
        for value in (math.nan, -math.inf, p.least - 0.5, above):
            with pytest.raises(UserError):
                p.check(value)
        for value in (p.default, p.most, p.least + (1e-9 if p.above else 0)):
            p.check(value)
    assert BY_NAME["draft_length"].allowed == "a whole number from 1 to 1024"
    assert BY_NAME["draft_cost"].allowed == "a number above 0 to 1000"
    assert BY_NAME["alpha"].allowed == "a number from 0 to 1"
    assert BY_NAME["mem_scale_ms"].allowed == "a number from 0 to 1e+15"


def test_a_pass_that_takes_no_time_is_refused_at_any_of_the_points() -> None:
    for point in ({"workflops": 0, "workmem": 0}, {"workflops": 0, "workmem": [8, 1e-300]}):
        with pytest.raises(UserError, match="are both 0, expected one of them to be at least 1e-30 ms"):
            Point(**point)
    Point(workflops=0)
