"""What requests saw, by formula and by hand; intervals that cover; plans whose arms take turns."""

import math

import numpy as np
import pytest

from acceptance.servers.answer import Answer
from calibration.servers.metrics import Part, described, figures, gains, groups_of, warm_of
from calibration.servers.plan import blocks_of, parts_of, sessions_of, size_of, within
from simulator.answers.latency import Limit
from simulator.workloads.requests import requests_of


def answer(sent: float, first: float, gaps: list[float], tokens: int | None = None, error: str = "") -> Answer:
    return Answer(sent, 0.0, sent + first, sent + first + sum(gaps), gaps, 10, tokens, error=error)


def part(answers: list[Answer], *, warm: int = 0, number: int = 0, arm: str = "a") -> Part:
    end = max(a.last_s for a in answers)
    return Part(1.0, arm, number, tuple(range(len(answers))), tuple(answers), end, warm)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_figures_are_those_of_the_formulas() -> None:
    """Three answers: 4 tokens in 4 chunks, 9 in 3 (a round of 3 each), 1 token; and one that failed."""
    rows = [
        answer(0.0, 0.5, [0.1, 0.2, 0.3], 4),
        answer(1.0, 0.3, [0.4, 0.4], 9),
        answer(2.0, 0.2, [], 1),
        answer(2.5, 0.1, [9.0], 2, error="cut"),
    ]
    failed_last = part(rows)._replace(duration_s=2.5)
    found = figures([failed_last], (Limit("ttft", 0.4), Limit("tpot", 0.15)), rng())
    value = {name: told.value for name, told in found.items()}
    assert value["ttft_mean"] == pytest.approx((0.5 + 0.3 + 0.2) / 3)
    assert value["ttft_p50"] == pytest.approx(0.3)
    assert value["tpot_mean"] == pytest.approx((0.6 / 3 + 0.8 / 8) / 2)
    assert value["gap_mean"] == pytest.approx((0.1 + 0.2 + 0.3 + 0.4 + 0.4) / 5)
    assert value["e2e_p50"] == pytest.approx(1.1)
    assert value["tokens_per_chunk"] == pytest.approx(14 / 8)
    assert value["output_tokens_per_s"] == pytest.approx(14 / 2.5)
    assert value["requests_per_s"] == pytest.approx(3 / 2.5)
    assert value["all_tokens_per_s"] == pytest.approx((14 + 30) / 2.5)
    # Within both limits are the second and the third, of four that were sent.
    assert (value["goodput"], value["within"]) == (pytest.approx(2 / 2.5), 0.5)
    assert math.isnan(found["ttft_p99"].low)


def test_warm_up_counts_in_no_latency_and_in_rates() -> None:
    slow, fast = answer(0.0, 9.0, [1.0], 2), answer(1.0, 0.5, [1.0], 2)
    found = figures([part([slow, fast], warm=1)], (), rng())
    assert found["ttft_mean"].value == 0.5
    assert found["output_tokens_per_s"].value == pytest.approx(4 / 10)
    assert [warm_of(100, 0, 0.1), warm_of(100, 16, 0.1), warm_of(10, 16, 0.1), warm_of(100, 16, 0.0)] == [10, 16, 5, 0]


def test_nothing_that_was_answered_makes_figures_that_are_not_known() -> None:
    found = figures([part([answer(0.0, 0.1, [0.2], error="cut")])._replace(duration_s=0.0)], (Limit("ttft", 1),), rng())
    assert math.isnan(found["ttft_mean"].value)
    assert math.isnan(found["output_tokens_per_s"].value)
    assert found["within"].value == 0


@pytest.mark.statistical
def test_intervals_cover_the_truth_where_neighbours_are_alike() -> None:
    """Latencies that drift from batch to batch: intervals by groups cover, those by requests do not."""
    draws, truth, by_groups, by_requests = np.random.default_rng(5), 1.0, 0, 0
    runs, size, batch = 120, 200, 10
    for _ in range(runs):
        level = np.repeat(draws.normal(0, 0.2, size // batch), batch)
        seen = truth + level + draws.normal(0, 0.05, size)
        told = described(seen, groups_of(size), draws, size)["mean"]
        by_groups += told.low <= truth <= told.high
        half = 1.96 * seen.std() / size**0.5
        by_requests += abs(seen.mean() - truth) <= half
    # 95 % less what twenty groups cost, with three standard errors of 120 runs (2 % each).
    assert by_groups / runs > 0.86
    assert by_requests / runs < 0.65


@pytest.mark.statistical
def test_gains_of_the_same_requests_know_more_than_those_of_any() -> None:
    draws = np.random.default_rng(3)
    lengths = draws.integers(5, 400, 100)
    sides = [[answer(0.0, 0.1, [0.01 * scale] * int(n), int(n) + 1) for n in lengths] for scale in (1.0, 0.5)]
    ends = [a.last_s + float(draws.normal(0, 0.01)) for a in sides[1]]
    noisy = [Answer(0.0, 0.0, a.first_s, end, a.gaps_s, 1, a.tokens) for a, end in zip(sides[1], ends, strict=True)]
    found = gains([part(sides[0])], [part(noisy, arm="b")], draws)
    plain, fast = (0.1 * 100 + scale * lengths.sum() for scale in (0.01, 0.005))
    assert found["e2e"].value == pytest.approx(plain / fast, rel=0.005)
    # Lengths differ by a factor of eighty, which pairs leave out.
    assert found["e2e"].low > 1.85
    assert found["e2e"].high < 2.05
    assert found["tpot"].value == pytest.approx(2, rel=0.02)


def test_groups_are_of_neighbours_and_none_where_there_are_few() -> None:
    assert groups_of(9).max() == 0
    assert np.bincount(groups_of(1000)).tolist() == [50] * 20
    assert np.bincount(groups_of(11)).tolist() == [3, 2, 2, 2, 2]


def test_arms_take_turns_the_other_way_round_in_every_second_block() -> None:
    requests = requests_of([5] * 6, [1] * 6, arrival_s=np.arange(1, 7) / 2)
    parts = parts_of(requests, 3)
    blocks = blocks_of([2.0, 4.0], ["a", "b"], [parts, parts])
    assert [(b.part, b.arm) for b in blocks[:6]] == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]
    assert [b.load for b in blocks] == [2] * 6 + [4] * 6
    # Every arm has every request once, and each block a clock of its own.
    rows = [s.turn.row for b in blocks[:6] if b.arm == "a" for s in b.sessions]
    assert rows == list(range(6))
    assert {tuple(s.due_s for s in b.sessions) for b in blocks} == {(0.5, 1.0)}
    assert len(parts_of(requests, 99)) == 6
    assert len(within(requests, 1.6).prompt) == 3


def test_turns_of_a_session_wait_for_one_another() -> None:
    requests = requests_of([5] * 5, [1] * 5, after=[-1, 0, -1, 1, 2], think_s=[0, 1, 0, 2, 3])
    first, second = sessions_of(requests)
    assert (first.turn.row, [t.row for t in first.turn.further], size_of(first.turn)) == (0, [1], 3)
    assert first.turn.further[0].further[0].think_s == 2
    assert [t.row for t in second.turn.further] == [4]
