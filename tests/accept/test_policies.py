"""Policies on a trace: against a walk written out token by token, enumeration of all coins, and each other."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acceptance.estimate.play import Played, Player, Policy, play
from acceptance.estimate.policies import Adaptive, ConfidenceStop, Fixed, HuggingFaceHeuristic, Oracle
from acceptance.trace.trace import Trace
from simulator.ground.artefacts import UserError

from .traces import make_trace

# One output: the prompt's index, a[t] of each token, the draft's confidence at each.
Output = tuple[int, Sequence[float], Sequence[float]]
FIELDS = tuple(f.name for f in dataclasses.fields(Played))


def trace_of(outputs: Sequence[Output]) -> Trace:
    """A trace of some outputs, in order of their prompts; both kinds of draft accept alike where a[t] is 0 or 1."""
    confidence = [q for *_, confidence in outputs for q in confidence]
    return make_trace([accept for _, accept, _ in outputs], prompts=[p for p, *_ in outputs], max_q=confidence)


def one_output(accept: Sequence[float], confidence: Sequence[float] = ()) -> Trace:
    return trace_of([(0, accept, confidence or [1.0] * len(accept))])


# --- The policies a second time, in plain Python: from the rounds so far, (drafted, accepted) each, to a draft length.
History = list[tuple[int, int]]


def heuristic_length(initial: int, history: History) -> int:
    k = initial
    for drafted, accepted in history:
        k = k + 2 if accepted == drafted else max(1, k - 1)
    return k


def adaptive_length(policy: Adaptive, history: History) -> int:
    k = policy.initial
    target = Fraction(str(policy.target))
    for n in range(4, len(history) + 1):
        recent = history[max(0, n - policy.window) : n]
        drafted = sum(d for d, _ in recent)
        rate = Fraction(sum(a for _, a in recent), drafted) if drafted else target
        if rate > target + Fraction(1, 10):
            k = min(k + policy.step, policy.max)
        elif rate < target - Fraction(1, 10):
            k = max(k - policy.step, policy.min)
    return k


def length(policy: Policy, history: History, ahead: Sequence[bool]) -> int:
    match policy:
        case Fixed():
            return policy.k
        case HuggingFaceHeuristic():
            return heuristic_length(policy.initial, history)
        case Adaptive():
            return adaptive_length(policy, history)
        case ConfidenceStop():
            return policy.max_k
        case Oracle():
            return len(list(itertools.takewhile(bool, ahead[: policy.max_k])))
    raise NotImplementedError


def draft(coins: Sequence[bool], sure: Callable[[int, bool], bool], at: int, most: int) -> tuple[int, int, int]:
    """Draft token by token; returns passes, tokens sent, tokens accepted."""
    passes = sent = accepted = 0
    on_text = True
    while sent < most:
        passes += 1
        if not sure(at + sent, on_text):
            break
        on_text = on_text and coins[at + sent]
        accepted += on_text
        sent += 1
    return passes, sent, accepted


def by_hand(policy: Policy, coins: Sequence[bool], confidence: Sequence[float]) -> dict[str, int]:
    """Walk one output; off the text the draft is once sure of nothing and once of everything."""
    threshold = policy.threshold if isinstance(policy, ConfidenceStop) else 0
    totals = dict.fromkeys(FIELDS, 0) | {"tokens": len(coins)}
    at, history = 0, History()
    while at < len(coins):
        most = min(length(policy, history, coins[at:]), len(coins) - at - 1)

        def sure(t: int, on_text: bool, off_text: float) -> bool:
            return (confidence[t] if on_text else off_text) >= threshold

        low = draft(coins, lambda t, on: sure(t, on, 0.0), at, most)
        high = draft(coins, lambda t, on: sure(t, on, 1.0), at, most)
        assert low[2] == high[2]
        for name, (passes, sent, _) in (("low", low), ("high", high)):
            totals[f"drafted_{name}"] += sent
            totals[f"draft_passes_{name}"] += passes
        _, sent, accepted = low
        history.append((sent, accepted))
        totals["rounds"] += 1
        totals["rounds_without_draft"] += sent == 0
        totals["accepted"] += accepted
        at += accepted + 1
    return totals


def summed_by_hand(policy: Policy, outputs: Sequence[Output]) -> dict[str, list[int]]:
    prompts = sorted({p for p, *_ in outputs})
    walks = [(p, by_hand(policy, [a == 1 for a in accept], confidence)) for p, accept, confidence in outputs]
    return {name: [sum(totals[name] for p, totals in walks if p == prompt) for prompt in prompts] for name in FIELDS}


def as_lists(played: Played) -> dict[str, list[float]]:
    return {name: getattr(played, name).tolist() for name in FIELDS}


def played_once(trace: Trace, policy: Policy, seed: int = 0, replications: int = 1) -> Played:
    return play(trace, policy, q_kind="sampled", rng=np.random.default_rng(seed), replications=replications)


# --- Samples to play with.
LENGTHS = st.integers(1, 9)
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


@st.composite
def adaptives(draw: st.DrawFn) -> Adaptive:
    low, initial, high = sorted(draw(st.tuples(LENGTHS, LENGTHS, LENGTHS)))
    window, step = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    target = draw(st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
    return Adaptive(initial=initial, min=low, max=high, step=step, window=window, target=target)


POLICIES = st.one_of(
    st.builds(Fixed, LENGTHS),
    st.builds(HuggingFaceHeuristic, LENGTHS),
    adaptives(),
    st.builds(ConfidenceStop, threshold=st.sampled_from([*LEVELS, 0.1, 0.7]), max_k=LENGTHS),
    st.builds(Oracle, LENGTHS),
)


def outputs_of(accept: st.SearchStrategy[float]) -> st.SearchStrategy[list[Output]]:
    positions = st.lists(st.tuples(accept, st.sampled_from(LEVELS)), min_size=1, max_size=60)
    output = st.tuples(st.integers(0, 4), positions)
    return st.lists(output, min_size=1, max_size=6).map(
        lambda drawn: sorted(((p, [a for a, _ in ts], [q for _, q in ts]) for p, ts in drawn), key=lambda o: o[0])
    )


GREEDY = st.sampled_from([1.0, 1.0, 0.0])
FRACTIONAL = st.sampled_from([0.0, 0.3, 0.6, 0.8, 0.95, 1.0])
EACH = [Fixed(3), HuggingFaceHeuristic(2), Adaptive(initial=2, max=4, window=4)]
EACH += [ConfidenceStop(threshold=0.5, max_k=4), Oracle(4)]


@given(POLICIES, outputs_of(GREEDY))
def test_on_certain_coins_every_policy_walks_as_by_hand(policy: Policy, outputs: list[Output]) -> None:
    expected = summed_by_hand(policy, outputs)
    for q_kind in ("sampled", "greedy"):
        rng = np.random.default_rng(0)
        assert as_lists(play(trace_of(outputs), policy, q_kind=q_kind, rng=rng, replications=3)) == expected


@pytest.mark.parametrize("policy", [*EACH, Adaptive(window=12)])
def test_long_outputs_and_outputs_of_every_length_are_walked_as_by_hand(policy: Policy) -> None:
    # Easy and hard stretches of many rounds each, so that controllers reach both of their limits.
    rng = np.random.default_rng(5)
    accept = (rng.random(800) < np.repeat([0.98, 0.2, 0.85, 0.7], 200)).astype(float)
    outputs = [(0, accept.tolist(), rng.choice(LEVELS, 800).tolist())]
    assert as_lists(played_once(trace_of(outputs), policy)) == summed_by_hand(policy, outputs)
    # Some never accept, so that their rounds are as many as their tokens, beside some that always do.
    rng = np.random.default_rng(6)
    sizes, rates = rng.integers(1, 40, 300), rng.choice([0.0, 0.5, 0.8, 1.0], 300)
    outputs = [
        (i // 3, (rng.random(n) < a).astype(float).tolist(), rng.choice(LEVELS, n).tolist())
        for i, (n, a) in enumerate(zip(sizes, rates, strict=True))
    ]
    assert as_lists(played_once(trace_of(outputs), policy)) == summed_by_hand(policy, outputs)


def test_the_controller_stays_for_three_rounds_and_on_its_limits() -> None:
    for policy, accept, drafted in (
        # Drafts 2 in four rounds, then 3, 4, 5, 5; 33 tokens are these eight rounds and one token.
        (Adaptive(initial=2, max=5, window=4), [1] * 33, 4 * 2 + 3 + 4 + 5 + 5),
        # Exactly 0.8 is not above 0.7 + 0.1, whatever binary fractions make of the sum: 4 of 5, four times over.
        (Adaptive(initial=5, max=8, window=4), [1, 1, 1, 1, 0] * 12, 11 * 5 + 4),
        # Nor is exactly 0.3 below 0.4 - 0.1: 1 and 2 of 5 in turn.
        (Adaptive(initial=5, max=8, window=4, target=0.4), [1, 0, 1, 1, 0] * 8, 14 * 5 + 4 + 2),
    ):
        assert played_once(one_output(accept), policy).drafted_low.tolist() == [drafted]


def exact_law(policy: Policy, accept: Sequence[float], confidence: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of every count, by all outcomes of the coins."""
    first, second = np.zeros(len(FIELDS)), np.zeros(len(FIELDS))
    for coins in itertools.product([True, False], repeat=len(accept)):
        weight = math.prod(a if c else 1 - a for a, c in zip(accept, coins, strict=True))
        counts = np.array(list(by_hand(policy, coins, confidence).values()), np.float64)
        first += weight * counts
        second += weight * counts**2
    return first, second - first**2


@pytest.mark.statistical
@pytest.mark.parametrize("policy", EACH)
def test_fractional_acceptance_has_the_exact_expectations(policy: Policy) -> None:
    accept = [0.75, 0.5, 0.875, 0.5, 0.25, 0.625, 0.75, 0.5, 0.875]
    confidence = [0.9, 0.6, 0.9, 0.4, 0.7, 0.3, 0.9, 0.8, 0.9]
    copies, replications = 500, 40
    trace = trace_of([(i, accept, confidence) for i in range(copies)])
    played = played_once(trace, policy, seed=7, replications=replications)
    measured = np.array([getattr(played, name).mean() for name in FIELDS])
    mean, variance = exact_law(policy, accept, confidence)
    error = np.sqrt(np.maximum(variance, 0) / (copies * replications))
    assert (abs(measured - mean) <= 4.5 * error + 1e-9).all()
    # Negative control: acceptances that are 5 % too low give other rounds.
    wrong, _ = exact_law(policy, [0.95 * a for a in accept], confidence)
    rounds = FIELDS.index("rounds")
    assert abs(measured - wrong)[rounds] > 6 * error[rounds]


@given(outputs_of(FRACTIONAL), LENGTHS, st.integers(0, 99))
def test_policies_on_the_same_coins(outputs: list[Output], k: int, seed: int) -> None:
    """Holds coin by coin and not in the mean alone: a policy that drew from the generator itself would break it."""
    trace = trace_of(outputs)
    oracle, fixed, stop, longer, *shorter = (
        played_once(trace, policy, seed, replications=3)
        for policy in (
            *(Oracle(k), Fixed(k), ConfidenceStop(threshold=0, max_k=k), Fixed(k + 1)),
            *(Adaptive(initial=1, max=k + 1), ConfidenceStop(threshold=0.6, max_k=k + 1)),
        )
    )
    # An oracle takes the rounds of its longest draft and drafts nothing in vain.
    assert oracle.rounds.tolist() == fixed.rounds.tolist()
    assert oracle.accepted.tolist() == fixed.accepted.tolist() == oracle.drafted_low.tolist()
    assert oracle.drafted_high.tolist() == oracle.draft_passes_low.tolist() == oracle.draft_passes_high.tolist()
    assert oracle.draft_passes_high.tolist() == oracle.drafted_low.tolist()
    # A threshold of zero is the fixed draft; no policy of shorter drafts takes fewer rounds than a longer one.
    assert as_lists(stop) == as_lists(fixed)
    assert all((played.rounds >= longer.rounds).all() for played in (fixed, *shorter))


def test_equal_generators_give_all_policies_equal_coins_and_others_do_not() -> None:
    trace = one_output([0.5] * 300)
    oracle, fixed, other = (
        played_once(trace, policy, seed).rounds.item()
        for policy, seed in ((Oracle(9), 3), (Fixed(9), 3), (Oracle(9), 4))
    )
    assert oracle == fixed != other


class Watched:
    """A fixed draft that counts how often it was begun; anything with `begin` is a policy."""

    def __init__(self) -> None:
        self.begun = 0

    def begin(self, trace: Trace) -> Player:
        self.begun += 1
        return Fixed(2).begin(trace)


def test_certain_coins_are_played_once_and_leave_the_generator_alone() -> None:
    rng, watched = np.random.default_rng(0), Watched()
    many = play(one_output([1, 0, 1, 1]), watched, q_kind="sampled", rng=rng, replications=1000)
    assert (many.rounds.tolist(), watched.begun) == ([2], 1)
    played_once(one_output([1, 0.5, 1, 1]), watched, replications=5)
    assert watched.begun == 1 + 5
    assert rng.random() == np.random.default_rng(0).random()


def test_the_kind_of_draft_decides_which_acceptances_are_played() -> None:
    trace = dataclasses.replace(one_output([0.0] * 6), accept_greedy=np.ones(6, np.bool_))
    for kind, rounds in (("sampled", 6), ("greedy", 1)):
        played = play(trace, Fixed(5), q_kind=kind, rng=np.random.default_rng(0), replications=1)
        assert played.rounds.tolist() == [rounds]


def test_rates_are_of_all_prompts_together() -> None:
    # Prompt 0: drafts 2, accepts 2. Prompt 1: drafts 2 and 1, accepts none, and one token without a draft.
    played = played_once(trace_of([(0, [1, 1, 0], [1] * 3), (1, [0, 0, 0], [1] * 3)]), Fixed(2))
    assert (played.tokens_per_round, played.target_calls_per_token) == (6 / 4, 4 / 6)
    assert played.draft_calls_per_token == (5 / 6, 5 / 6)
    assert played.draft_acceptance_rate == (2 / 5, 2 / 5)
    bounded = played_once(one_output([0, 1, 1, 1]), ConfidenceStop(threshold=0.5, max_k=3))
    assert bounded.draft_acceptance_rate == (2 / 5, 2 / 3)
    assert bounded.draft_calls_per_token == (4 / 4, 5 / 4)


def test_nothing_drafted_and_nothing_written_have_no_rates() -> None:
    silent = played_once(one_output([1.0, 1.0], [0.0, 0.0]), ConfidenceStop(threshold=0.5, max_k=3))
    assert silent.rounds_without_draft.tolist() == silent.rounds.tolist() == [2]
    assert silent.draft_passes_low.tolist() == [1]
    assert all(math.isnan(rate) for rate in silent.draft_acceptance_rate)
    for policy in EACH:
        empty = played_once(trace_of([]), policy)
        assert empty.tokens.shape == (0,)
        assert math.isnan(empty.tokens_per_round)


def test_confidences_are_compared_as_stored_and_have_to_be_there() -> None:
    # 0.7 in single precision is a little less than in double.
    played = played_once(one_output([1, 1, 1, 1], [0.7] * 4), ConfidenceStop(threshold=0.7, max_k=3))
    assert played.drafted_low.tolist() == [3]
    trace = one_output([1, 1], [0.5, math.nan])
    with pytest.raises(UserError, match="another tokenizer"):
        played_once(trace, ConfidenceStop(threshold=0.5, max_k=3))
    assert played_once(trace, Fixed(1)).rounds.tolist() == [1]


def test_what_makes_no_sense_is_refused_by_name() -> None:
    once = one_output([1.0])
    for make, message in (
        (lambda: Fixed(0), "k: 0"),
        (lambda: Fixed(2.0), "k: 2.0"),
        (lambda: Fixed(True), "k: True"),
        (lambda: Fixed(10**9), "k: 1000000000"),
        (lambda: HuggingFaceHeuristic(0), "initial: 0"),
        (lambda: Adaptive(window=0), "window: 0"),
        (lambda: Adaptive(step=-1), "step: -1"),
        (lambda: Adaptive(target=1.5), "target: 1.5"),
        (lambda: Adaptive(initial=9), "initial: 9"),
        (lambda: Adaptive(min=5), "initial: 4"),
        (lambda: ConfidenceStop(threshold=math.nan, max_k=3), "threshold: nan"),
        (lambda: ConfidenceStop(threshold=0.5, max_k=0), "max_k: 0"),
        (lambda: Oracle(0), "max_k: 0"),
        (lambda: played_once(once, Fixed(1), replications=0), "replications: 0"),
        (lambda: play(once, Fixed(1), q_kind="x", rng=np.random.default_rng(0), replications=1), "q_kind"),
    ):
        with pytest.raises(UserError, match=message):
            make()
