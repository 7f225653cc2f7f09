"""Requests: their rules, their order, and parts put together."""

import numpy as np
import pytest

from simulator.ground.artefacts import UserError
from simulator.workloads.requests import TYPES, concatenated, first, requests_of, unit_counts, validated

SESSION = requests_of(
    [5, 600, 7], [1, 2, 3], arrival_s=[0, 9, 2], after=[-1, 0, -1], stream=[0, 0, 1], think_s=[0, 1.5, 0]
)
SHARED = requests_of(
    [513, 1024], [1, 1], arrival_s=[1, 3], unit_tokens=512, units=[4, 5, 4, 6], units_start=[0, 2], shared=[513, 1024]
)


def test_columns_have_their_types_and_what_is_left_out_says_nothing() -> None:
    requests = validated(requests_of([5, 6], [1, 2]))
    assert {name: getattr(requests, name).dtype for name in TYPES} == {n: np.dtype(t) for n, t in TYPES.items()}
    assert all(getattr(requests, name).flags.writeable for name in TYPES)
    assert (requests.arrival_s.tolist(), requests.after.tolist(), requests.stream.tolist()) == (
        [0, 0],
        [-1, -1],
        [0, 1],
    )
    assert unit_counts(SHARED).tolist() == [2, 2]


def test_parts_together_keep_their_order_their_sessions_and_their_own_texts() -> None:
    both = validated(concatenated([SESSION, SHARED, SESSION]))
    assert both.prompt.tolist() == [5, 600, 5, 600, 513, 7, 7, 1024]
    assert both.after.tolist() == [-1, 0, -1, 2, -1, -1, -1, -1]
    assert both.stream[0] == both.stream[1] != both.stream[2] == both.stream[3]
    assert len(set(both.stream.tolist())) == 6
    start, counts = both.units_start, unit_counts(both)
    texts = [both.units[s : s + c].tolist() for s, c in zip(start, counts, strict=True) if c]
    assert texts == [[4, 5], [4, 6]]
    assert concatenated([SHARED, SHARED]).units.tolist() == [4, 5, 4, 6, 11, 12, 11, 13]
    assert validated(first(both, 5)).prompt.tolist() == [5, 600, 5, 600, 513]


def test_parts_with_units_of_two_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="units of 16 and 512 tokens, expected one size"):
        concatenated([SHARED, SHARED._replace(unit_tokens=16)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": [5, 0, 7]}, "request 2: prompt is 0, expected 1 to "),
        ({"output": [1, 2, -3]}, "request 3: output is -3, expected"),
        ({"arrival_s": [3.0, 0.0, 2.0]}, "request 3: arrival_s is 2, expected no less than the one before"),
        ({"arrival_s": [0.0, 0.0, np.nan]}, "request 3: arrival_s is nan, expected seconds"),
        ({"after": [-1, 1, -1]}, "request 2: after is 1, expected a request before it"),
        ({"think_s": [0.0, -1.0, 0.0]}, "request 2: think_s is -1"),
        ({"shared": [6, 0, 0]}, "request 1: shared is 6, expected at most its prompt"),
        ({"shared": [0, 9, 0]}, "request 2: units_start is 0, expected its units among the 0"),
    ],
)
def test_the_first_that_breaks_a_rule_is_named(change: dict, message: str) -> None:
    columns = {name: np.array(values, TYPES[name]) for name, values in change.items()}
    with pytest.raises(UserError, match=f"^here: {message}"):
        validated(SESSION._replace(**columns), "here")
