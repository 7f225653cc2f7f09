"""Rounds that draft no more than they find: what they accept and cost, against the same rounds one by one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.answers.model_report import host_text
from simulator.costs.drafters.methods import methods
from simulator.costs.drafters.plan import Method
from simulator.costs.model_costs import ModelPair
from simulator.costs.profile_file import load_profile
from simulator.costs.shapes import read_shape
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field
from simulator.ground.histogram import AcceptanceHistogram
from simulator.rounds.acceptance_law import HistogramAcceptance
from simulator.rounds.length_law import length_acceptance, rounds_by_length

from .builders import result

MODELS = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--replications", 2)


def source(table: dict[str, Any]) -> HistogramAcceptance:
    return HistogramAcceptance((AcceptanceHistogram((1.0, 1.0), by_length=Field(table, "x", "by_draft_length")),))


@given(st.lists(st.integers(0, 5).flatmap(lambda d: st.tuples(st.just(d), st.integers(0, d))), min_size=1, max_size=40))
def test_every_round_counts_at_every_draft_length_as_far_as_that_goes(rounds: list[tuple[int, int]]) -> None:
    rounds = [*rounds, (5, 2)]
    table = {str(d): [sum((d, a) == r for r in rounds) for a in range(d + 1)] for d in range(6)}
    found = length_acceptance(source(table))
    assert found.longest == 5
    for k in range(1, 6):
        cut = [(min(d, k), min(a, k)) for d, a in rounds]
        assert found.law(k) == pytest.approx([np.mean([a == n for _, a in cut]) for n in range(k + 1)])
        drafted = found.nearest(k).drafted
        assert drafted == pytest.approx([np.mean([d == n for d, _ in cut]) for n in range(k + 1)])
    undrafted = sum(d == 0 for d, _ in rounds) / len(rounds)
    assert found.caveat == f"rounds of every drafted length, {undrafted:.0%} without a draft"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"1": [1, 1], "two": [1]}, "x: by_draft_length.two is not a key, expected '0' to '"),
        ({"2": [1, 1]}, "x: by_draft_length.2 is [1, 1], expected 3 numbers of rounds, accepting 0 to 2"),
        ({"1": [1, -1]}, "x: by_draft_length.1[1] is -1, expected a number from 0"),
        ({"0": [9]}, "x: by_draft_length is {'0': [9]}, expected rounds that drafted a token"),
    ],
)
def test_a_wrong_table_is_one_line(table: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        rounds_by_length(Field(table, "x", "by_draft_length"))
    assert str(error.value).startswith(message)


def pair_of(method: str, **more: Any) -> ModelPair:
    found: Method = methods()[method]
    target = read_shape("llama-3.1-8b")
    shapes: dict[str, Any] = {"target": target, "draft": found.usual(target), "method": found}
    return ModelPair(profile=load_profile("h100-sxm"), dtype="bfloat16", draft_dtype="bfloat16", **shapes, **more)


@pytest.mark.parametrize("method", ["ngram", "suffix"])
def test_a_round_costs_the_mean_of_its_rounds(method: str) -> None:
    shares, batch = (0.5, 0.2, 0.0, 0.1, 0.2), np.array([1, 64, 512])
    pair, plain = (pair_of(method, batch=batch, drafted=drafted) for drafted in (shares, None))
    for k in range(1, 5):
        cost, each = pair.round_cost(k), [plain.round_cost(min(d, k)) for d in range(5)]
        for name in ("verify_s", "draft_s"):
            expected = sum(share * getattr(one, name) for share, one in zip(shares, each, strict=True))
            assert getattr(cost, name) == pytest.approx(expected, rel=1e-12)
        assert cost.tokens_drafted == pytest.approx(sum(s * min(d, k) for d, s in enumerate(shares)))
        assert cost.baseline_s == pytest.approx(each[0].baseline_s)
    # All at once, along an axis of their own.
    together = replace(pair, batch=batch[:, None]).round_cost(np.arange(1, 5))
    assert together.verify_s[:, 3] == pytest.approx(pair.round_cost(4).verify_s)
    # Negative control: where many tokens are verified, always K + 1 of them take longer.
    assert (plain.round_cost(4).verify_s[2] > 1.2 * pair.round_cost(4).verify_s[2]).all()
    drawn = pair.sample(np.random.default_rng(0), 7)
    assert replace(drawn, batch=8).round_cost(np.arange(1, 5)).verify_s.shape == (7, 4)


def test_what_the_host_takes_is_told_as_the_mean_over_what_is_found() -> None:
    pair = pair_of("suffix", batch=1000, drafted=(0.5, 0.0, 0.0, 0.0, 0.5))
    # 6 us of each sequence, and 4 us of each of two tokens that it proposes on average.
    (said,) = host_text(pair, 4, plain_ms=28.0, round_ms=56.0)
    assert said == "Drafts (suffix trees): 14.000 ms of the host, 0.500 steps; it is 25% of a round."


def test_what_is_as_wide_whatever_it_finds_costs_the_same() -> None:
    wide = [
        pair_of("ngram_gpu", drafted=drafted).round_cost(4).verify_s for drafted in ((0.9, 0.0, 0.0, 0.0, 0.1), None)
    ]
    assert wide[0] == wide[1]


RESPONSE = {
    "metrics": {
        "speculative_decoding": {
            "num_spec_tokens": 3,
            "acceptance_histogram": [70, 10, 10, 10],
            "acceptance_histogram_by_draft_length": {"0": [60], "2": [10, 4, 6], "3": [0, 6, 4, 10]},
        }
    }
}


def test_from_a_servers_responses_to_a_forecast_of_n_grams(run, tmp_path: Path) -> None:
    """Rounds without a draft are in it: 1.6 tokens a round, where those that drafted three have 3.2."""
    (tmp_path / "answers.json").write_text(json.dumps(RESPONSE))
    imported = run("measure-acceptance", "import", tmp_path / "answers.json", "--k", 3, "--out-dir", tmp_path)
    assert imported.returncode == 0, imported.stderr
    hist = ("--hist", tmp_path / "accept_hist_k3.json")
    answer = result(run, *MODELS, "--method", "ngram", *hist)
    assert answer["parameters"]["draftN"] == 3
    assert answer["closed_form_tokens_per_round"] == pytest.approx(1.6)
    assert answer["drafted"] == pytest.approx(1.0 * answer["rounds"])
    assert "60% without a draft" in answer["parameters"]["acceptance_caveat"]
    assert answer["verdict"]["condition"] == "" or answer["verdict"]["condition"] is None
    why = run("simulate", *MODELS, "--method", "ngram", *hist, "--why").stdout
    assert "Rounds verify 2.00 tokens on average, no more than was found: 60% of them drafted none" in why
    # On the device as many rounds find nothing, and verify K + 1 tokens nevertheless.
    on_device = result(run, *MODELS, "--method", "ngram_gpu", *hist, "--batch", 256)
    assert on_device["closed_form_tokens_per_round"] == pytest.approx(1.6)
    assert on_device["drafted"] == pytest.approx(3 * on_device["rounds"])
    # A method whose every round drafts K takes the rounds that did.
    of_heads = result(run, *MODELS, "--method", "eagle3", *hist)
    assert of_heads["closed_form_tokens_per_round"] == pytest.approx(1 + 44 / 20)
    swept = run("sweep", *MODELS[:4], "--method", "ngram", *hist, "--draftN", "1:3", "--replications", 2, "--json")
    assert swept.returncode == 0, swept.stderr
    longer = run("simulate", *MODELS, "--method", "ngram", *hist, "--draftN", 4)
    assert (longer.returncode, longer.stderr.count("\n")) == (2, 1)
    assert "expected 1 to 3" in longer.stderr
