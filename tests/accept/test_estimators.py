"""The recursion from trace to histogram against enumeration and walking (test_exactness has the loop); intervals."""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acceptance.estimate.analysis import analyse
from acceptance.estimate.decode_walk import (
    AT_ONCE,
    MANY,
    count_rounds,
    one_after_another,
    part_by_part,
    side_by_side,
)
from acceptance.estimate.estimators import (
    MAX_UNITS,
    PERCENTILES,
    Estimate,
    alpha_by,
    alpha_by_rank,
    alpha_estimates,
    bins_of,
    bootstrap,
    category_metrics,
    excluded,
    expected_rounds,
    interval95,
    metrics,
    ratio,
    surprise_gap,
    tokens_per_round,
)
from acceptance.trace.trace import Trace
from simulator.ground.artefacts import UserError
from simulator.ground.histogram import AcceptanceHistogram, alpha_iid

from .traces import make_trace


def trace_of(*outputs: list[float], prompts: Sequence[int] = (), categories: str = "") -> Trace:
    """Return a trace of these acceptances; each output is a prompt's, or that of prompts[i] turn after turn."""
    accept = np.concatenate(outputs)
    overlaps = {"overlap": accept, "p_argmax_q": accept > 0.5, "max_q": np.ones(len(accept))}
    context = np.concatenate([np.arange(len(o)) + 7 for o in outputs])
    return make_trace(outputs, prompts=prompts, categories=categories, context_length=context, **overlaps)


def histogram(trace: Trace, k: int) -> AcceptanceHistogram:
    return expected_rounds(trace, k, "sampled").histogram


def alpha_of(trace: Trace) -> Estimate:
    return alpha_estimates(trace, np.random.default_rng(0))["sampled"]


def walk(accepted: list[bool], k: int, beyond: int = 0) -> np.ndarray:
    """Walk one output whose acceptances are known; count rounds whose k drafts all lie within it."""
    counts, start = np.zeros(k + 1), 0
    while start + k + beyond <= len(accepted):
        run = next((i for i in range(k) if not accepted[start + i]), k)
        counts[run] += 1
        start += run + 1
    return counts


probabilities = st.floats(0, 1, width=32)


@settings(max_examples=60)
@given(
    st.lists(st.lists(probabilities, min_size=1, max_size=8), min_size=1, max_size=3),
    st.integers(1, 5),
    st.integers(0, 1),
)
def test_expected_counts_are_the_mean_over_every_outcome(outputs: list[list[float]], k: int, beyond: int) -> None:
    if max(map(len, outputs)) < k:
        return
    found = expected_rounds(trace_of(*outputs), k, "sampled", beyond)
    for output, counts in zip(outputs, found.counts, strict=True):
        expected = np.zeros(k + 1)
        for outcome in product([True, False], repeat=len(output)):
            weight = np.prod([a if accepted else 1 - a for a, accepted in zip(output, outcome, strict=True)])
            expected += weight * walk(list(outcome), k, beyond)
        assert counts == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.lists(probabilities, min_size=9, max_size=60), min_size=1, max_size=5), st.integers(1, 8))
def test_counts_of_a_greedy_draft_are_whole_and_those_of_the_walk(outputs: list[list[float]], k: int) -> None:
    found = expected_rounds(trace_of(*outputs), k, "greedy").histogram.counts
    assert found == tuple(sum(walk([a > 0.5 for a in output], k) for output in outputs))


@settings(max_examples=30)
@given(st.lists(probabilities, min_size=12, max_size=40), st.integers(1, 6))
def test_the_turns_of_a_prompt_add_up(output: list[float], k: int) -> None:
    shorter, other = output[: len(output) // 2 + 6], [1 - a for a in output]
    alone = [histogram(trace_of(o), k).counts for o in (output, shorter, other)]
    turns = expected_rounds(trace_of(output, shorter, other, prompts=[0, 0, 1]), k, "sampled").counts
    assert turns == pytest.approx(np.array([np.add(alone[0], alone[1]), alone[2]]), abs=1e-8)


def test_outputs_counted_block_by_block_are_those_counted_alone() -> None:
    rng, k = np.random.default_rng(3), 6
    outputs = [rng.random(int(n)) ** 0.2 for n in rng.integers(1, AT_ONCE // 3, 24)]
    together, alone = expected_rounds(trace_of(*outputs), k, "sampled"), [trace_of(o) for o in outputs]
    for row, trace in enumerate(alone):
        expected = expected_rounds(trace, k, "sampled") if trace.size >= k else None
        assert together.counts[row] == pytest.approx(expected.counts[0] if expected else np.zeros(k + 1), rel=1e-10)


@pytest.mark.parametrize(("k", "beyond"), [(1, 0), (8, 1), (20, 0)])
@pytest.mark.parametrize("certain", [0.0, 0.6, 0.99])
def test_how_outputs_are_laid_out_changes_no_bit_of_what_is_counted(k: int, beyond: int, certain: float) -> None:
    """Short ones side by side, long ones part by part, and both among others."""
    rng = np.random.default_rng(k)

    def drawn(length: int) -> np.ndarray:
        return np.where(rng.random(length) < certain, 1.0, rng.random(length))

    for length in (1, 2, 8, 9, 10, 17, 25, 66, 128):
        outputs = drawn(7 * length).reshape(7, length)
        flat = one_after_another(outputs.ravel(), np.arange(0, 8 * length, length), k, beyond)
        columns = side_by_side(np.ascontiguousarray(outputs.T), k, beyond)
        assert all(np.array_equal(a, b) for a, b in zip(flat, columns, strict=True)), length
    for length in (AT_ONCE + 1, 2 * AT_ONCE + 18):
        output = drawn(length)
        flat = one_after_another(output, np.array([0, length]), k, beyond)
        parts = part_by_part(output, k, beyond)
        assert all(np.array_equal(a, b) for a, b in zip(flat, parts, strict=True)), length
    lengths = rng.permutation([10] * (MANY // 10 + 1) + [25, 300, 8, 11, AT_ONCE + 9])
    starts, output = np.append(0, lengths.cumsum()), drawn(int(lengths.sum()))
    all_rounds, at_least = one_after_another(output, starts, k, beyond)
    expected = at_least - np.append(at_least[1:], np.zeros((1, len(lengths))), axis=0)
    counts, cut = count_rounds(output, starts, k, beyond)
    assert np.array_equal(cut, all_rounds - at_least[0])
    assert np.array_equal(counts.T, expected)
    # Negative control: the last digits of what is counted do show in it.
    assert not np.array_equal(count_rounds(output * (1 - 1e-15), starts, k, beyond)[0].T, expected)


def test_long_outputs_that_are_almost_always_accepted_are_counted_to_their_end() -> None:
    # Where nothing is rejected rounds follow each other at k + 1 tokens for ever: no start is ever forgotten.
    found = expected_rounds(trace_of([1.0] * 100_000), 3, "sampled")
    assert found.histogram.counts == (0, 0, 0, 25_000)


def test_an_output_shorter_than_k_counts_nothing_and_alone_is_refused() -> None:
    assert histogram(trace_of([1.0] * 3, [1.0] * 8), 4).samples == 1
    with pytest.raises(UserError, match="--k: 4 is above the longest output, 3 tokens"):
        histogram(trace_of([1.0] * 3), 4)


def test_metrics_are_named_and_computed_by_their_definitions() -> None:
    trace = trace_of([1, 1, 0, 1, 1, 1, 0, 0, 1, 1], [1, 1, 1, 0])
    rounds = expected_rounds(trace, 2, "sampled")
    # Rounds start at 0 (accepts 2), 3 (2), 6 (0), 7 (0), 8 (2); of the second output at 0 (2) and at 3, which is cut.
    assert rounds.histogram.counts == (2, 0, 4)
    found = metrics(rounds, alpha_of(trace))
    expected = {"rounds_cut": 1, "alpha": 10 / 14, "tokens_per_round": 1 + 8 / 6, "mean_accepted": 8 / 6}
    expected |= {"tokens_per_round_macro": ((1 + 6 / 5) + 3) / 2, "draft_acceptance_rate": 8 / 12}
    expected |= {"target_calls_per_token": 6 / 14, "draft_calls_per_token": 12 / 14}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["survival"] == pytest.approx([4 / 6, 4 / 6])
    assert found["conditional"] == pytest.approx([4 / 6, 1])


def population(rng: np.random.Generator, prompts: int) -> Trace:
    """Prompts that differ much more from each other than their rounds do."""
    return trace_of(*(rng.random((prompts, 30)) < rng.beta(2, 2, (prompts, 1))))


@pytest.mark.statistical
def test_intervals_by_prompts_cover_the_truth_and_those_by_rounds_do_not() -> None:
    rng, k = np.random.default_rng(5), 3
    truth = expected_rounds(population(rng, 20_000), k, "sampled").histogram.tokens_per_round
    covered = by_rounds = 0
    trials = 400
    for _ in range(trials):
        trace = population(rng, 20)
        rounds = expected_rounds(trace, k, "sampled")
        low, high = metrics(rounds, Estimate(value=0.5, ci95=None))["ci95"]["tokens_per_round"]
        covered += low <= truth <= high
        counts = rounds.counts.sum(0).astype(int)
        accepted = np.repeat(np.arange(k + 1), counts)
        error = accepted.std(ddof=1) / np.sqrt(len(accepted))
        by_rounds += abs(1 + accepted.mean() - truth) <= 1.96 * error
    # 95 % within 4 standard errors of the trials; a 90 % interval would not be.
    assert abs(covered / trials - 0.95) <= 4 * np.sqrt(0.95 * 0.05 / trials)
    # Negative control: rounds are not the independent unit.
    assert by_rounds / trials < 0.8


@pytest.mark.parametrize("accepted", [1.0, 0.0])
def test_a_few_rounds_that_are_all_alike_are_no_certainty(accepted: float) -> None:
    k, prompts = 4, 5
    trace = trace_of(*([[accepted] * k] * prompts))
    found = metrics(expected_rounds(trace, k, "sampled"), alpha_of(trace))
    value = 1 + accepted * k
    assert found["tokens_per_round"] == value
    for name in ("tokens_per_round", "tokens_per_round_macro"):
        low, high = found["ci95"][name]
        assert (high if accepted else low) == value
        # Jeffreys' interval of 5 of 5 is 0.62 to 1: already the first position leaves that open.
        assert low < value - 0.38 if accepted else high > value + 0.38, name
    low, high = found["ci95"]["alpha"]
    assert 0 < (high if accepted == 0 else 1 - low) == pytest.approx(1 - 0.025 ** (1 / (prompts * k)), rel=0.35)


@given(st.lists(st.lists(probabilities, min_size=4, max_size=9), min_size=4, max_size=6), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_intervals_lie_within_what_can_be_and_hold_the_value(outputs: list[list[float]], k: int) -> None:
    trace = trace_of(*outputs)
    found = metrics(expected_rounds(trace, k, "sampled"), alpha_of(trace))
    ranges = {"tokens_per_round": (1, k + 1), "tokens_per_round_macro": (1, k + 1), "mean_accepted": (0, k)}
    ranges |= {"alpha": (0, 1), "alpha_iid": (0, 1), "target_calls_per_token": (1 / (k + 1), 1)}
    for name, (least, most) in ranges.items():
        low, high = found["ci95"][name]
        assert least - 1e-9 <= low <= found[name] + 1e-9, name
        assert found[name] - 1e-9 <= high <= most + 1e-9, name


def test_percentiles_of_alpha_are_those_of_all_samples() -> None:
    tau = 1 + 3 * np.random.default_rng(0).beta(9, 4, 2000)
    few, every = np.quantile(alpha_by_rank(tau, 4), PERCENTILES), np.quantile(alpha_iid(tau, 4), PERCENTILES)
    assert few.tolist() == every.tolist()


def test_a_single_prompt_has_no_interval() -> None:
    trace = trace_of([0.5] * 20)
    rounds = expected_rounds(trace, 2, "sampled")
    found = metrics(rounds, alpha_of(trace))
    assert found["ci95"]["tokens_per_round"] is None
    assert found["ci95"]["survival"] == [None, None]
    assert tokens_per_round(rounds.counts, np.random.default_rng(0), macro=True).ci95 is None
    assert interval95(np.array([1.0, np.nan]), 9) is None
    assert interval95(np.arange(9.0), 3) is None


def test_an_interval_of_skewed_samples_reaches_to_their_percentiles() -> None:
    samples, prompts = np.random.default_rng(6).exponential(size=4000), 50
    low, high = interval95(samples, prompts)
    # The t interval ends at 1 + 2.03 x 1; of an exponential law 2.5 % lie above 3.69.
    assert high >= np.quantile(samples, 0.975) > 3.4
    assert low == 0


def test_the_bootstrap_draws_whole_prompts() -> None:
    sums = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    drawn = bootstrap(sums, np.random.default_rng(0), 500)
    assert drawn.shape == (500, 2)
    assert (drawn[:, 1] == 10 * drawn[:, 0]).all()
    assert drawn[:, 0].min() >= 3
    assert drawn[:, 0].max() <= 9
    assert len(np.unique(drawn[:, 0])) == 7


@pytest.mark.statistical
def test_the_bootstrap_of_many_prompts_spreads_as_that_of_each() -> None:
    rng, prompts = np.random.default_rng(2), 6 * MAX_UNITS + 17
    # Sorted: groups of neighbours would be alike, and spread more.
    rates = np.sort(rng.beta(0.5, 0.5, prompts))
    drawn = bootstrap(np.stack((rates, np.ones(prompts)), axis=1), rng)
    spread = (drawn[:, 0] / drawn[:, 1]).std()
    # 1 / sqrt(2 n) of each: 2.2 % of the groups, 1.6 % of the resamples; within 4 of both.
    assert spread == pytest.approx(rates.std() / np.sqrt(prompts), rel=0.11)


@pytest.mark.statistical
@pytest.mark.parametrize("prompts", [4, 8, 30])
def test_intervals_from_few_prompts_are_widened(prompts: int) -> None:
    rng, trials = np.random.default_rng(8), 400
    covered = plain = 0
    for _ in range(trials):
        rates = rng.beta(2, 2, prompts)
        estimate = ratio(rates, np.ones(prompts), rng)
        covered += estimate.ci95[0] <= 0.5 <= estimate.ci95[1]
        low, high = np.quantile(bootstrap(rates[:, None], rng)[:, 0] / prompts, (0.025, 0.975))
        plain += low <= 0.5 <= high
    assert covered / trials >= 0.95 - 4 * np.sqrt(0.95 * 0.05 / trials)
    # Negative control: plain percentiles cover less than they claim, of few prompts much less.
    assert plain < covered - (0.05 * trials if prompts == 4 else 0)


def test_alpha_of_both_kinds_of_draft_from_one_trace() -> None:
    trace = trace_of([0.9, 0.2, 0.6], [0.4, 0.4])
    first = np.linspace(0.1, 0.5, 5, dtype=np.float32)
    known = dataclasses.replace(trace, overlap=np.full(5, 0.3, np.float32), p_argmax_q=first)
    # Where the draft's law is unknown, the acceptances of the text's own tokens stand in.
    unknown = dataclasses.replace(trace, overlap=np.full(5, np.nan, np.float32))
    for of, alphas in ((trace, (0.5, 2 / 5)), (known, (0.3, 0.3)), (unknown, (0.5, 2 / 5))):
        found = alpha_estimates(of, np.random.default_rng(0))
        assert (found["sampled"].value, found["greedy"].value) == pytest.approx(alphas)
    groups = alpha_by(known.position, known, "greedy", np.random.default_rng(0))
    assert groups[0][0].value == pytest.approx(0.25)


def test_tokens_that_the_rule_excludes_do_not_spoil_the_check_of_the_text() -> None:
    trace = trace_of([0.9] * 100)
    log_p = np.where(np.arange(100) == 7, -np.inf, -1.0).astype(np.float32)
    trace = dataclasses.replace(trace, log_p=log_p, entropy_p=np.ones(100, np.float32))
    assert excluded(trace).sum() == 1
    assert surprise_gap(trace, np.random.default_rng(0)).value == pytest.approx(0)
    found = analyse(trace, [2], temperature=1.0)
    assert found.foreign == pytest.approx(0.01)


def test_alpha_by_group_and_category() -> None:
    trace = trace_of([1, 0, 1, 1], [0, 0], [1, 1], categories="xyx")
    groups = alpha_by(trace.position, trace, "sampled", np.random.default_rng(0))
    values = {edge: (e.value, n) for edge, (e, n) in groups.items()}
    assert values == {0: (2 / 3, 3), 1: (1 / 3, 3), 2: (1, 1), 3: (1, 1)}
    found = category_metrics(trace, expected_rounds(trace, 1, "sampled"), "sampled")
    assert {name: c["prompts"] for name, c in found.items()} == {"x": 2, "y": 1}
    assert found["x"]["alpha"].value == pytest.approx(5 / 6)
    assert found["y"]["tokens_per_round"].value == pytest.approx(1)
    alone = trace_of([1.0, 0.0])
    assert category_metrics(alone, expected_rounds(alone, 1, "sampled"), "sampled") == {}


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=50), st.integers(1, 9))
def test_bins_hold_every_value_and_their_edges_rise(values: list[int], bins: int) -> None:
    edges = bins_of(np.array(values, np.int32), bins)
    assert (edges <= values).all()
    assert len(np.unique(edges)) <= bins
    by_value = dict(sorted(zip(values, edges.tolist(), strict=True)))
    assert all(a <= b for a, b in pairwise(by_value.values()))


@pytest.mark.statistical
@pytest.mark.parametrize(("written_at", "sign"), [(1.0, 0), (1.5, 1), (0.7, -1)])
def test_text_of_another_temperature_is_noticed(written_at: float, sign: int) -> None:
    rng = np.random.default_rng(7)
    logits = rng.normal(size=(30, 200, 50)) * 2
    law = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    written = np.exp(logits / written_at)
    cumulative = (written / written.sum(-1, keepdims=True)).cumsum(-1)
    token = (rng.random((30, 200, 1)) > cumulative).sum(-1).clip(max=49)
    trace = dataclasses.replace(
        trace_of(*([0.5] * 200 for _ in range(30))),
        log_p=np.log(np.take_along_axis(law, token[..., None], -1)).ravel().astype(np.float32),
        entropy_p=(-(law * np.log(law)).sum(-1)).ravel().astype(np.float32),
    )
    gap = surprise_gap(trace, rng)
    low, high = gap.ci95
    assert (low <= 0 <= high) if sign == 0 else (np.sign(gap.value) == sign and not low <= 0 <= high)


def test_synthetic_settings_are_those_of_the_histogram() -> None:
    trace = trace_of([1, 1, 0, 1, 1, 1, 0, 0, 1, 1])
    found = analyse(trace, [2], temperature=1.0).synthetic[2]
    assert found["per_position_rates"] == pytest.approx([3 / 5, 3 / 5])
    assert found["mean_length"] == pytest.approx(1 + 6 / 5)
    # vLLM's rates are unconditional: one plus their sum is the mean length.
    assert 1 + sum(found["vllm"]["synthetic_acceptance_rates"]) == pytest.approx(found["mean_length"])
    # TensorRT-LLM counts accepted drafts, whole ones, without the bonus; 0 would force nothing.
    assert found["tensorrt_llm"]["TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS"] == 1
    hard = trace_of([1, 0, 0, 0, 0, 0, 0])
    found = analyse(hard, [2], temperature=1.0).synthetic[2]
    assert found["tensorrt_llm"]["TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS"] is None


def test_an_analysis_holds_every_draft_length_and_policy() -> None:
    rng = np.random.default_rng(11)
    trace = trace_of(*((rng.random(60) < 0.7).tolist() for _ in range(8)), categories="aabbaabb")
    found = analyse(trace, [2, 4], temperature=0, q_kind="greedy")
    for k in (2, 4):
        fixed = found.policies[f"fixed {k}"]
        # Policies play to the end of the output, histograms leave the cut rounds out.
        assert fixed.tokens_per_round == pytest.approx(found.metrics[k]["tokens_per_round"], rel=0.05)
        low, high = fixed.speedup
        assert low == high == pytest.approx(1 / (fixed.target_calls_per_token + 0.1 * fixed.draft_calls_per_token[0]))
    oracle = found.policies["oracle"]
    assert oracle.target_calls_per_token < min(p.target_calls_per_token for p in found.policies.values() if p != oracle)
    assert oracle.speedup[0] == max(p.speedup[1] for p in found.policies.values())
    assert found.foreign == 0
    assert found.text_gap is None
    as_json = found.as_json()
    assert as_json["metrics"].keys() == {"2", "4"}
    assert as_json["along_output"][0]["positions"] == 8
