"""What requests of a simulation accept: the mean of whatever tells it, as far apart as they were measured."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta

from acceptance.trace.trace import save_trace
from simulator.costs.drafters.plan import Tree
from simulator.costs.step import Floats
from simulator.ground.artefacts import UserError, read_bytes
from simulator.ground.fields import Field
from simulator.ground.histogram import AcceptanceHistogram, variance
from simulator.rounds.acceptance_law import HistogramAcceptance, IidAcceptance
from simulator.rounds.length_law import length_acceptance
from simulator.rounds.pairs import published
from simulator.rounds.request_laws import (
    QUALITIES,
    concentration_of,
    constant_laws,
    even_laws,
    found_laws,
    laws_of,
    recorded_texts,
    tree_laws,
)
from simulator.rounds.tree_law import tree_acceptance
from simulator.serving.draw_tables import Category, Texts, Walks, acceptance_of, mean_accepted, mean_offered
from simulator.serving.draws import Acceptance, accepted, offered
from tests.accept.traces import make_trace

from .test_draws import SEED, taken
from .test_step_costs import pair_of

HISTOGRAM = HistogramAcceptance((AcceptanceHistogram((30.0, 20.0, 15.0, 35.0)),))
LENGTHS = {"0": [30], "1": [4, 6], "2": [2, 3, 5], "4": [9, 1, 2, 8, 30]}


def close(found: Floats, told: float) -> bool:
    """Whether a mean of rounds, [rounds, requests], is a number within four standard errors; requests are alone."""
    error = found.mean(0).std(ddof=1) / np.sqrt(found.shape[1])
    return bool(abs(found.mean() - told) < 4 * error + 1e-12)


@pytest.mark.parametrize("concentration", [np.inf, 3.0])
def test_published_curves_and_histograms_keep_their_tokens(concentration: float) -> None:
    models = (published("llama-3.1-8b-eagle3:mt-bench", "--acceptance").acceptance, HISTOGRAM, IidAcceptance(0.7))
    for model in models:
        laws = laws_of(model, 3, concentration=concentration)
        acceptance = acceptance_of([laws])
        for k in (1, 3):
            told = float(model.tokens_per_round(np.asarray(k))) - 1
            assert mean_accepted(laws, 3)[k] == pytest.approx(told, rel=1e-9)
            assert close(taken(acceptance, 0, k, requests=1500, rounds=30), told)


def test_a_beta_law_across_requests_keeps_the_mean_and_sets_the_spread() -> None:
    one, laws = laws_of(HISTOGRAM, 3), laws_of(HISTOGRAM, 3, concentration=4.0)
    rows = laws.survival
    assert rows.shape == (QUALITIES, 4, 3)
    assert rows.mean(0) == pytest.approx(one.survival[0], abs=1e-9)
    assert (np.diff(rows, axis=2) <= 0).all()
    assert (np.diff(rows, axis=0) >= 0).all()
    # The mean of each part of the beta law, by its distribution; of its variance the parts keep nearly all.
    mean = one.survival[0, 3, 1]
    exact = beta(4 * mean, 4 * (1 - mean))
    low, high = exact.ppf(10 / QUALITIES), exact.ppf(11 / QUALITIES)
    assert rows[10, 3, 1] == pytest.approx(QUALITIES * exact.expect(lambda x: x, lb=low, ub=high), rel=1e-4)
    assert rows[:, 3, 1].var() == pytest.approx(mean * (1 - mean) / 5, rel=0.01)
    # The negative control: alike requests differ by chance alone.
    means = {
        c: taken(acceptance_of([laws_of(HISTOGRAM, 3, concentration=c)]), 0, 3).mean(0).std() for c in (np.inf, 4.0)
    }
    assert means[4.0] > 4 * means[np.inf]


def test_requests_are_as_far_apart_as_the_design_effect_tells() -> None:
    measured = replace(HISTOGRAM.histograms[0], prompts=5, design_effect=6.7)
    concentration = concentration_of(measured)
    acceptance = acceptance_of([laws_of(HISTOGRAM, 3, concentration=concentration)])
    found = taken(acceptance, 0, 3, requests=3000, rounds=20)
    # Prompts of twenty rounds: the variance of a mean is so many times that of rounds that are alike.
    effect = found.mean(0).var(ddof=1) / (variance(measured.law) / 20)
    assert effect == pytest.approx(6.7, rel=0.1)
    assert concentration_of(replace(measured, design_effect=1.0)) == np.inf
    assert concentration_of(replace(measured, prompts=None)) == np.inf


def test_drafts_of_what_was_found_are_of_its_lengths() -> None:
    source = HistogramAcceptance((AcceptanceHistogram((9, 1), by_length=Field(LENGTHS, "file")),))
    by_length, laws = length_acceptance(source), found_laws(source, 4)
    acceptance = acceptance_of([laws])
    for k in (1, 3, 4):
        told = float(by_length.tokens_per_round(np.asarray(k))) - 1
        if k == 4:
            assert mean_accepted(laws, 4)[k] == pytest.approx(told, rel=1e-9)
        drafted = by_length.nearest(k).drafted
        assert drafted is not None
        assert mean_offered(laws, 4)[k] == pytest.approx(float(np.arange(k + 1) @ drafted), rel=1e-9)
    rows = [played(acceptance, r, i, 4) for r in range(100) for i in range(100)]
    drafts, takes = np.array(rows).T
    assert (takes <= drafts).all()
    assert drafts.mean() == pytest.approx(mean_offered(laws, 4)[4], abs=4 * drafts.std() / 100)
    assert takes.mean() == pytest.approx(mean_accepted(laws, 4)[4], abs=4 * takes.std() / 100)
    assert takes[drafts == 2].mean() == pytest.approx(1.3, abs=0.15)


def played(acceptance: Acceptance, request: int, round_: int, k: int) -> tuple[int, int]:
    drafts = offered(acceptance, SEED, request, 0, round_, k)
    return drafts, accepted(acceptance, SEED, request, 0, round_, 0, drafts)


def test_trees_accept_along_a_path_of_their_nodes() -> None:
    pair, tree = pair_of("tree"), Tree(topk=3, nodes=12)
    model = tree_acceptance(HISTOGRAM, tree, 3)
    laws = tree_laws(model, pair.plan(np.arange(4)).width)
    found = taken(acceptance_of([laws]), 0, int(pair.plan(3).width) - 1)
    assert found.max() == 3
    assert close(found, float(model.tokens_per_round(np.asarray(3))) - 1)


def test_the_least_variance_has_the_mean_and_the_same_tokens_or_one_more() -> None:
    laws = even_laws(HISTOGRAM, 3)
    told = float(HISTOGRAM.tokens_per_round(np.asarray(3))) - 1
    found = taken(acceptance_of([laws]), 0, 3)
    assert close(found, told)
    assert {*np.unique(found).tolist()} == {1, 2}
    assert mean_accepted(laws, 3)[3] == pytest.approx(told)
    usual = taken(acceptance_of([laws_of(HISTOGRAM, 3)]), 0, 3)
    assert found.var() < 0.3 * usual.var()


def test_constants_of_a_request_stay_its_own() -> None:
    laws = constant_laws([0.0, 1.0, 0.5], 3, drawn=False)
    found = taken(acceptance_of([laws]), 0, 3, requests=3)
    assert found[:, :2].mean(0).tolist() == [0, 3]
    assert found[:, 2].mean() == pytest.approx(0.875, abs=0.3)
    assert mean_accepted(laws, 3)[3] == pytest.approx((0 + 3 + 0.875) / 3)


def test_means_of_walks_and_texts_are_those_of_their_rounds() -> None:
    kinds: list[Category] = [Walks([[0, 2, 4], [1]], [[3], [5, 0]]), Texts([[0.9, 0.2, 0.7, 0.8]])]
    assert mean_accepted(kinds[0], 3) == pytest.approx([0, (2 / 3 + 1) / 2, (4 / 3 + 1) / 2, (5 / 3 + 1) / 2])
    assert mean_offered(kinds[0], 3) == pytest.approx([0, 0.75, 1.5, 2.25])
    acceptance = acceptance_of(kinds)
    runs = np.array([[accepted(acceptance, SEED, r, 1, 0, at, 3) for at in range(4)] for r in range(2000)])
    assert runs.mean() == pytest.approx(mean_accepted(kinds[1], 3)[3], abs=4 * runs.mean(1).std() / np.sqrt(2000))


def test_a_traces_texts_come_by_category(tmp_path: Path) -> None:
    trace = make_trace([[0.25, 1.0], [0.5], [0.75, 0.0, 1.0]], categories=["code", "chat", "code"])
    for temperature, first in ((1.0, [0.25, 1.0]), (0, [0.0, 1.0])):
        _, sidecar = save_trace(tmp_path, trace, {"temperature": 1.0, "draft_temperature": temperature})
        texts = recorded_texts(sidecar)
        assert {name: len(of.likely) for name, of in texts.items()} == {"code": 2, "chat": 1}
        assert np.asarray(texts["code"].likely[0]).tolist() == first
    (tmp_path / "trace.npz").write_bytes(read_bytes(tmp_path / "trace.npz") + b" ")
    with pytest.raises(UserError, match=r"trace.npz: is not what trace.json was written with"):
        recorded_texts(sidecar)
    sidecar.write_text('{"kind": "acceptance_trace", "arrays": 3}')
    with pytest.raises(UserError, match=r"trace.json: arrays"):
        recorded_texts(sidecar)
