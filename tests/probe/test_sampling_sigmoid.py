"""The sigmoid approximation: what it computes, and how far that is from the law it stands for."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from cuda_probe.sampling import reference, sigmoid_sample
from cuda_probe.sampling.sigmoid_distance import output_law, sigmoid_distance, total_variation
from simulator.ground.artefacts import UserError

from .sampling_cases import draw_ids


def two_models(seed: int = 0, vocabulary: int = 500) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(scale=4, size=vocabulary), rng.normal(scale=4, size=vocabulary)


def test_weights_are_the_sigmoid_of_the_scaled_logit_and_clip_outside() -> None:
    logits = np.array([-np.inf, -10.5, -10.0, 0.0, 10.0, 10.5])
    found = reference.sigmoid_weights(logits, 1.0, 10.0)
    np.testing.assert_allclose(found, [0, 0, 0.5, 1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(-1)), 1], rtol=1e-15)


def test_the_scale_in_use_keeps_the_drafts_law_and_no_scale_brings_these_models_near_the_exact_one() -> None:
    target, draft = two_models()
    distances = [sigmoid_distance(target, draft, scale=s) for s in (1.0, 10.0, 100.0, 1e3, 1e4)]
    assert min(d.output_distance for d in distances) > 0.3
    assert min(d.bonus_distance for d in distances) > 0.3
    in_use = distances[-1]
    assert in_use.exact_acceptance < 0.1  # the models have little in common ...
    assert in_use.sigmoid_acceptance > 0.999  # ... and nearly every draft passes
    assert in_use.output_distance > 0.99 * in_use.draft_distance > 0.85
    assert in_use.bonus_distance > 0.7  # nearly uniform


def test_the_measure_is_zero_for_the_exact_rule() -> None:
    target, draft = two_models()
    p, q = (reference.softmax(x, 1.0) for x in (target, draft))
    law, accepted = output_law(q, p, q)
    assert total_variation(law, p) < 1e-12
    assert accepted == pytest.approx(np.minimum(p, q).sum())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": 0}, "temperature: 0, expected 1e-06 to"),
        ({"temperature": float("nan")}, "temperature: nan, expected"),
        ({"scale": 0}, "scale: 0, expected 0.001 to"),
        ({"scale": float("nan")}, "scale: nan, expected"),
        ({"scale": "1"}, "scale: '1', expected"),
        ({"scale": 1.0, "target_logits": [-5.0, -6.0]}, "scale: 1 gives no token of target_logits any weight"),
        ({"target_logits": [0.0, float("nan")]}, "target_logits: nan among the logits, expected finite ones or -inf"),
        ({"draft_logits": [0.0, float("inf")]}, "draft_logits: inf among the logits"),
        ({"draft_logits": [-np.inf, -np.inf]}, "draft_logits: -inf throughout"),
        ({"draft_logits": [0.0]}, r"draft_logits: shape \(1,\), expected \(2,\) as in target_logits"),
        ({"target_logits": [[0.0, 1.0]]}, r"target_logits: shape \(1, 2\), expected \(vocabulary,\)"),
        ({"target_logits": []}, r"target_logits: shape \(0,\), expected"),
        ({"target_logits": ["a", "b"]}, "target_logits: list, expected an array of real numbers"),
        ({"target_logits": None}, "target_logits: "),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], words: str) -> None:
    right: dict[str, Any] = {"target_logits": [0.0, 1.0], "draft_logits": [1.0, 0.0]}
    with pytest.raises(UserError, match=words):
        sigmoid_distance(**(right | change))


def test_lists_and_integers_are_logits_too() -> None:
    assert sigmoid_distance([0, 1], [1, 0]) == sigmoid_distance(np.array([0.0, 1.0]), np.array([1.0, 0.0]))


@pytest.mark.statistical
def test_enumeration_foretells_what_sampling_does() -> None:
    sequences, scale = 6000, 3.0
    target, draft = two_models(seed=1, vocabulary=8)
    rows = np.broadcast_to(target, (sequences, 2, 8)).astype(np.float32)
    drafts = np.broadcast_to(draft, (sequences, 1, 8)).astype(np.float32)
    found = sigmoid_sample(rows, drafts, draw_ids(np.random.default_rng(3), drafts), seed=3, scale=scale)
    q = reference.softmax(draft, 1.0)
    law, accepted = output_law(q, *(reference.sigmoid_weights(x, 1.0, scale) for x in (target, draft)))
    counts = np.bincount(found.out_ids[:, 0], minlength=8)
    possible = law > 0
    assert counts[~possible].sum() == 0
    assert stats.chisquare(counts[possible], law[possible] * sequences).pvalue > 1e-6
    exact = reference.softmax(target, 1.0)[possible]
    assert stats.chisquare(counts[possible], exact / exact.sum() * sequences).pvalue < 1e-6
    assert abs(found.accepted.mean() - accepted) < 5 * np.sqrt(accepted * (1 - accepted) / sequences)


@pytest.mark.statistical
def test_the_bonus_is_drawn_from_sigmoids_not_from_raw_logits() -> None:
    sequences, scale = 6000, 5.0
    target, _ = two_models(vocabulary=8)
    rows = np.broadcast_to(target, (sequences, 1, 8)).astype(np.float32)
    found = sigmoid_sample(rows, rows[:, :0], np.zeros((sequences, 0), np.int64), seed=4, scale=scale)
    counts = np.bincount(found.token, minlength=8)
    weights = reference.sigmoid_weights(target, 1.0, scale)
    raw = np.maximum(target, 1e-5)
    possible = weights > 0
    assert stats.chisquare(counts[possible], weights[possible] / weights.sum() * sequences).pvalue > 1e-6
    assert stats.chisquare(counts, raw / raw.sum() * sequences).pvalue < 1e-6
