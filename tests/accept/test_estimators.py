"""The recursion from trace to histogram against enumeration, walking, and a real accept/resample loop."""

import dataclasses
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from acceptance.estimators import acceptance_histogram, expected_counts, metrics
from acceptance.trace import Trace
from simulator.artefacts import UserError
from simulator.histogram import AcceptanceHistogram, tokens_per_round_iid


def trace_of(*outputs: list[float]) -> Trace:
    lengths = [len(o) for o in outputs]
    positions = np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)
    return Trace(
        token=np.zeros(sum(lengths), np.int32),
        accept=np.concatenate([np.asarray(o, float) for o in outputs]),
        prompt=np.repeat(np.arange(len(outputs)), lengths).astype(np.int32),
        position=positions,
        context_length=positions,
    )


def walk(accepted: list[bool], k: int) -> np.ndarray:
    """Walk one output whose acceptances are known; count rounds whose k drafts all lie within it."""
    counts, start = np.zeros(k + 1), 0
    while start + k <= len(accepted):
        run = next((i for i in range(k) if not accepted[start + i]), k)
        counts[run] += 1
        start += run + 1
    return counts


@settings(max_examples=60)
@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=8), min_size=1, max_size=3), st.integers(1, 5))
def test_expected_counts_are_the_mean_over_every_outcome(outputs: list[list[float]], k: int) -> None:
    expected = np.zeros(k + 1)
    for output in outputs:
        for outcome in product([True, False], repeat=len(output)):
            weight = np.prod([a if accepted else 1 - a for a, accepted in zip(output, outcome, strict=True)])
            expected += weight * walk(list(outcome), k)
    accept, lengths = trace_of(*outputs).by_prompt()
    counts, _ = expected_counts(accept, lengths, k)
    assert counts == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.lists(st.booleans(), min_size=9, max_size=60), min_size=1, max_size=5), st.integers(1, 8))
def test_greedy_counts_are_whole_and_those_of_the_walk(outputs: list[list[bool]], k: int) -> None:
    histogram = acceptance_histogram(trace_of(*outputs), k)
    assert histogram.counts == tuple(sum(walk(o, k) for o in outputs))


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=12, max_size=40), st.integers(1, 6))
def test_prompts_add_up_whatever_their_order(output: list[float], k: int) -> None:
    shorter, other = output[: len(output) // 2 + 6], [1 - a for a in output]
    alone = [acceptance_histogram(trace_of(o), k).counts for o in (output, shorter, other)]
    together = acceptance_histogram(trace_of(other, output, shorter), k).counts
    assert together == pytest.approx(tuple(np.sum(alone, axis=0)))


def test_an_output_shorter_than_k_counts_nothing_and_alone_is_refused() -> None:
    assert acceptance_histogram(trace_of([1.0] * 3, [1.0] * 8), 4).samples == 1
    with pytest.raises(UserError, match="--k: 4 is above the longest output, 3 tokens"):
        acceptance_histogram(trace_of([1.0] * 3), 4)


def bigrams(rng: np.random.Generator, vocabulary: int, sharpness: float) -> np.ndarray:
    return rng.dirichlet(np.full(vocabulary, sharpness), vocabulary)


def speculative_loop(p: np.ndarray, q: np.ndarray, k: int, total: int, rng: np.random.Generator) -> np.ndarray:
    """Leviathan et al. 2023, alg. 1, on bigram models: counts of accepted drafts until `total` tokens."""
    counts, last, tokens, size = np.zeros(k + 1), 0, 0, len(p)
    while tokens < total:
        accepted, context = 0, last
        while accepted < k:
            draft = rng.choice(size, p=q[context])
            if rng.random() >= min(1, p[context, draft] / q[context, draft]):
                residual = np.maximum(p[context] - q[context], 0)
                last = rng.choice(size, p=residual / residual.sum())
                break
            accepted, context = accepted + 1, draft
        else:
            last = rng.choice(size, p=p[context])
        counts[accepted] += 1
        tokens += accepted + 1
    return counts


def sampled_trace(p: np.ndarray, q: np.ndarray, total: int, rng: np.random.Generator) -> Trace:
    """Text of the target alone, with a[t] = min(1, q / p) of each of its tokens."""
    accept, last = [], 0
    for _ in range(total):
        token = rng.choice(len(p), p=p[last])
        accept.append(min(1.0, q[last, token] / p[last, token]))
        last = token
    return trace_of(accept)


@pytest.mark.statistical
@pytest.mark.parametrize("k", [1, 3, 6])
def test_one_trace_gives_the_law_of_the_real_loop(k: int) -> None:
    rng = np.random.default_rng(k)
    p, q = bigrams(rng, 5, 0.5), bigrams(rng, 5, 2.0)
    looped = speculative_loop(p, q, k, 30_000, rng)
    trace = sampled_trace(p, q, 300_000, rng)
    law = acceptance_histogram(trace, k).law
    # Rounds of a loop are not independent, and the trace is a sample too: widen the variance by 1.5 for both.
    statistic = stats.chisquare(looped, law * looped.sum()).statistic / 1.5
    assert stats.chi2.sf(statistic, k) > 1e-4
    # Negative control: acceptances that are 5 % too low give another law.
    wrong = acceptance_histogram(dataclasses.replace(trace, accept=0.95 * trace.accept), k).law
    assert stats.chi2.sf(stats.chisquare(looped, wrong * looped.sum()).statistic / 1.5, k) < 1e-4


def easy_and_hard(rng: np.random.Generator) -> Trace:
    """Stretches of 40 positions, in turn easy (0.98 accepted) and hard (0.3)."""
    levels = np.tile(np.repeat([0.98, 0.3], 40), 50)
    return trace_of((rng.random(len(levels)) < levels).tolist())


def test_counting_at_every_position_overstates_tokens_per_round() -> None:
    trace, k = easy_and_hard(np.random.default_rng(0)), 8
    runs = np.zeros(k + 1)
    for start in range(len(trace.accept) - k):
        window = trace.accept[start : start + k]
        runs[int(np.cumprod(window).sum())] += 1
    per_position = AcceptanceHistogram(tuple(runs)).tokens_per_round
    assert per_position > 1.09 * acceptance_histogram(trace, k).tokens_per_round


def test_one_scalar_alpha_is_wrong_for_long_drafts_in_either_direction() -> None:
    """Long stretches make it too low; runs that seldom last make it too high, as on public curves."""
    alternating = trace_of([t % 4 != 3 for t in range(4000)])
    for trace, sign in ((easy_and_hard(np.random.default_rng(1)), -1), (alternating, 1)):
        at_one = acceptance_histogram(trace, 1).alpha_iid
        exact = acceptance_histogram(trace, 8).tokens_per_round
        assert sign * (float(tokens_per_round_iid(at_one, 8)) / exact - 1) > 0.04


def test_rounds_cut_by_the_end_are_counted_apart() -> None:
    # K = 2: rounds start at 0 (accepts 2), 3 (2) and 6; the last has one position left.
    trace = trace_of([1, 1, 0, 1, 1, 1, 0])
    histogram = acceptance_histogram(trace, 2)
    assert histogram.counts == (0, 0, 2)
    assert metrics(trace, histogram)["rounds_cut"] == 1


def test_metrics_are_named_and_computed_by_their_definitions() -> None:
    trace = trace_of([1, 1, 0, 1, 1, 1, 0, 0, 1, 1])
    found = metrics(trace, acceptance_histogram(trace, 2))
    # Rounds start at 0 (accepts 2), 3 (2), 6 (0), 7 (0), 8 (2).
    assert found["alpha"] == pytest.approx(0.7)
    assert found["tokens_per_round"] == pytest.approx(1 + 6 / 5)
    assert found["draft_acceptance_rate"] == pytest.approx(6 / 10)
    assert found["survival"] == pytest.approx([3 / 5, 3 / 5])
    assert found["conditional"] == pytest.approx([3 / 5, 1])
