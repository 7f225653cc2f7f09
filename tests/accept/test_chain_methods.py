"""Chain methods as users name them: greedy output, laws by enumeration, rounds against policies on the trace.

Long because every method, exact or lossy, stands the same tests.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from scipy.special import softmax

from acceptance.decoders import chain, lossy, methods
from acceptance.decoders.batch import Decoded, Task
from acceptance.decoders.chain import Chain, Exact, Proposal, Seen
from acceptance.decoders.decoder import run
from acceptance.decoders.lengths import Controlled
from acceptance.decoders.method import Models, Options
from acceptance.decoders.methods import METHODS
from acceptance.decoders.model_draft import ModelDraft
from acceptance.estimate.play import Player, Policy, Rounds, Spent, walk
from acceptance.estimate.policies import Adaptive, ConfidenceStop, HuggingFaceHeuristic
from acceptance.measure import scoring
from acceptance.models import laws
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from acceptance.trace.trace import PromptInfo, Trace, join
from simulator.ground.artefacts import UserError

from .oracles import (
    FREE,
    GREEDY,
    Floats,
    Say,
    Text,
    enumerate_texts,
    greedy_without_cache,
    instead_of,
    logits_without_cache,
    task_of,
)
from .test_exactness import LEVEL, g_test, moved, plan_of, power_of, tally, without_garbage_collection
from .tiny_models import Pair, related_pair, trigram_pair

VOCABULARY = 11
# Methods that take any pair, and ragged batches.
CHAINS = [m for m in METHODS.values() if m.batched and set(m.needs) <= {"draft"}]
EXACT = [m.name for m in CHAINS if m.is_exact]
LOSSY = [m.name for m in CHAINS if not m.is_exact]
PROMPTS = [np.random.default_rng(n).integers(VOCABULARY, size=n).tolist() for n in (1, 12, 3, 7, 2, 9)]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return related_pair("llama", 21, VOCABULARY)


def of_kinds(names: Sequence[str]) -> list[tuple[str, str]]:
    """Every method on one kind of model; on absolute positions one with a draft model and one without."""
    return [(name, "llama") for name in names] + [(name, "gpt2") for name in ("adaptive", "ngram")]


options = partial(Options, draft_rule=GREEDY)


def decode(
    name: str, pair: Pair, prompts: Sequence, chosen: Options, *, budget: int, rule: SamplingRule = GREEDY, indices=None
) -> list[Decoded]:
    """Decode prompts of some indices; they are those of PROMPTS where nothing is said."""
    begin = METHODS[name].begin(Models(target=pair[0], draft=pair[1]), chosen)
    return run(begin(prompts, task_of(indices or range(len(prompts)), budget, rule, seed=6)))


def tokens_of(found: Sequence[Decoded]) -> list[list[int]]:
    return [d.tokens for d in found]


def greedy_texts(model: Model, budget: int) -> list[list[int]]:
    return [greedy_without_cache(model, p, budget) for p in PROMPTS]


def accepted_in(found: Sequence[Decoded]) -> set[int]:
    return {r.accepted for d in found for r in d.rounds}


def test_every_method_stands_under_its_own_name() -> None:
    assert [m.name for m in METHODS.values()] == list(METHODS)
    assert {need for m in METHODS.values() for need in m.needs} <= set(methods.NEEDS)


OUT_OF_RANGE = [("rank", 0), ("typical_p", 1.1), ("tau", math.nan), ("fuzziness", 0.9), ("fuzziness", math.inf)]
OUT_OF_RANGE += [("ngram", 1), ("filler_top_k", 0), ("least_confidence", -0.1), ("judge_threshold", 1.5), ("k", 0)]
OUT_OF_RANGE += [("tree_budget", 0), ("parallel_branches", -3), ("branch_prune_threshold", math.nan)]


def test_an_option_out_of_its_range_is_refused() -> None:
    for name, value in OUT_OF_RANGE:
        with pytest.raises(UserError, match=f"^--{name.replace('_', '-')}: {value} is not allowed, expected "):
            options(**{name: value})
    with pytest.raises(UserError, match=r"^--k: 0 is not allowed, expected a whole number from 1 to 1024"):
        options(k=0)
    with pytest.raises(UserError, match=r"^--min-k: 9 is above --max-k, expected 1 to 8"):
        options(min_k=9)


@pytest.mark.parametrize(("name", "kind"), of_kinds(EXACT))
def test_greedy_output_of_an_exact_method_is_the_targets_own(name: str, kind: str) -> None:
    """Alone and in company, where there is little room, and up to an end wherever it falls."""
    pair = related_pair(kind, 21, VOCABULARY)
    for k, budget in ((1, 24), (4, 24), (4, 1), (4, 2), (4, 3)):
        ragged = decode(name, pair, PROMPTS, options(k=k), budget=budget)
        assert tokens_of(ragged) == greedy_texts(pair[0], budget)
        assert all(r.start + r.drafted < budget for d in ragged for r in d.rounds)
        if budget == 24:
            assert len(accepted_in(ragged)) > 1 or name == "baseline", "accepts always or never, which proves little"
        if (k, budget) == (4, 24):
            alone = [decode(name, pair, [p], options(k=k), budget=budget)[0] for p in PROMPTS[:3]]
            assert ragged[:3] == alone  # the rounds as well
    free = greedy_texts(pair[0], 18)
    for end in {free[1][0], free[2][3], free[3][8]}:
        found = decode(name, (replace(pair[0], ends=(end,)), pair[1]), PROMPTS, options(), budget=18)
        assert tokens_of(found) == [text[: text.index(end) + 1 if end in text else None] for text in free]
        assert all(sum(r.committed for r in d.rounds) == len(d.tokens) for d in found)


@pytest.mark.parametrize(("name", "kind"), of_kinds([m.name for m in CHAINS]))
def test_a_row_does_not_feel_the_others(name: str, kind: str) -> None:
    pair = related_pair(kind, 21, VOCABULARY)
    rule = SamplingRule(temperature=0.8, top_k=8, top_p=0.95)
    ending = replace(pair[0], ends=(4,)), pair[1]
    together = decode(name, ending, PROMPTS, options(draft_rule=rule), rule=rule, budget=14)
    assert len({len(d.tokens) for d in together}) > 1, "no row ended before the others"
    for order in ([0], [1], [5, 0, 2]):
        some = decode(
            name, ending, [PROMPTS[i] for i in order], options(draft_rule=rule), rule=rule, budget=14, indices=order
        )
        assert some == [together[i] for i in order]


def test_only_methods_with_a_draft_model_pass_through_it(pair: Pair) -> None:
    for method in CHAINS:
        rounds = [r for d in decode(method.name, pair, PROMPTS, options(), budget=12) for r in d.rounds]
        assert any(r.draft_passes for r in rounds) == ("draft" in method.needs)
        assert any(r.overruled for r in rounds) <= (not method.is_exact)
        assert all((r.leaves, r.judged, r.pruned) == (r.drafted > 0, 0, 0) for r in rounds)


# Sampled output: laws by enumeration. A law at the distance APART is rejected ALMOST_ALWAYS.

APART, ALMOST_ALWAYS = 0.04, 0.999
COOL = SamplingRule(temperature=0.7)
# Prompts of one law, for they end alike; long enough for n-grams to occur twice.
SAME_LAW: tuple[Text, ...] = ((1, 0, 1, 0), (1, 1, 0, 0, 1, 0), (0, 1, 0), (1, 0, 0, 1, 0, 1, 1, 0, 1, 0))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A method on a pair of small vocabulary, and how many of its first tokens are tested jointly."""

    name: str
    method: str
    vocabulary: int = 2
    first: int = 7
    budget: int = 9
    rule: SamplingRule = FREE
    draft_rule: SamplingRule = FREE
    knobs: dict[str, float] = field(default_factory=dict, hash=False)


SHORT = {"first": 5, "budget": 7}
THREE = {"vocabulary": 3, "first": 3, "budget": 5}
# The controller begins with drafts of 1 and moves after four rounds.
EAGER = {"k": 1, "max_k": 3, "target_acceptance": 0.6}
CASES = [
    Case(name="adaptive", method="adaptive", knobs=EAGER),
    Case(name="adaptive-greedy-draft", method="adaptive", draft_rule=GREEDY, knobs=EAGER),
    Case(name="heuristic", method="heuristic"),
    Case(name="confidence-stop", method="confidence-stop", knobs={"k": 3, "least_confidence": 0.55}, **THREE),
    Case(name="ngram", method="ngram", knobs={"k": 3}, **SHORT),
    Case(name="ngram-3-letters", method="ngram", rule=COOL, knobs={"k": 2, "filler_top_k": 2}, **THREE),
    Case(name="anpd", method="anpd", knobs={"k": 3, "ngram": 4}, **SHORT),
    Case(name="suffix", method="suffix", knobs={"k": 3}, **SHORT),
    Case(name="prompt-lookup", method="prompt-lookup", knobs={"k": 3}, **SHORT),
]
FAMILY = 21  # tests of this kind: the exact cases and the lossy ones


@cache
def alphabet(vocabulary: int) -> Pair:
    return trigram_pair(13, vocabulary=vocabulary, apart=1.2)


@without_garbage_collection()
def sample(case: Case, outputs: int, seed: int, starts: Sequence[Text] = SAME_LAW) -> dict[int, Counter]:
    """Count first tokens of outputs."""
    target, draft = alphabet(case.vocabulary)
    begin = METHODS[case.method].begin(
        Models(target=target, draft=draft), options(draft_rule=case.draft_rule, **case.knobs)
    )
    prompts = [starts[i % len(starts)] for i in range(outputs)]
    rngs = [np.random.default_rng(seed)] * outputs
    decoded = run(begin(prompts, Task(rule=case.rule, max_new_tokens=case.budget, rngs=rngs)))
    assert len(accepted_in(decoded)) > 1, "accepts always or never, which proves little"
    return tally([(0, d) for d in decoded], lambda d: tuple(d.tokens[: case.first]))


def target_law(case: Case, starts: Sequence[Text] = SAME_LAW) -> dict[int, dict[Text, float]]:
    return {0: enumerate_texts(Say(alphabet(case.vocabulary)[0], case.rule, starts[0]), (), case.first)}


def enough(law: dict[int, dict[Text, float]]) -> int:
    """Outputs that find a law at the distance APART almost always."""
    plans = (plan_of(law, n) for n in range(8_000, 80_000, 2_000))
    return next(p.outputs for p in plans if power_of(p, APART, LEVEL / FAMILY) >= ALMOST_ALWAYS)


@pytest.mark.statistical
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_an_exact_method_follows_the_targets_law(case: Case) -> None:
    law = target_law(case)
    counts = sample(case, enough(law), seed=CASES.index(case))
    assert g_test(counts, law) > LEVEL / FAMILY
    assert g_test(counts, {0: moved(law[0], APART)}) < LEVEL / FAMILY  # the negative control


# Mistakes of the field, put into the loop.


def fresh_draw_after_a_mismatch(patch: pytest.MonkeyPatch) -> None:
    """A rejected n-gram is replaced from p itself, so that it gets a second chance."""
    patch.setattr(Exact, "correction", lambda rule, target, draft: target)


def drops_what_it_drew(patch: pytest.MonkeyPatch) -> None:
    """The draft ends before a token that is improbable, not before a place where it is unsure."""

    @instead_of(patch, ModelDraft, "propose")
    def propose(right, draft, batch, lengths, numbers):  # type: ignore[no-untyped-def]
        found = right(draft, batch, lengths, numbers)
        if found.laws is None:
            return found
        own = found.laws.gather(-1, found.tokens[..., None])[..., 0]
        sure = (own > 0.5).long().cumprod(1).sum(1).numpy()
        return replace(found, lengths=np.minimum(found.lengths, sure))


def looks_ahead(patch: pytest.MonkeyPatch) -> None:
    """The controller's length is cut where the draft will be rejected: a rejection never gets its correction."""

    @instead_of(patch, chain, "verify")
    def verify(right, seen, acceptance):  # type: ignore[no-untyped-def]
        found = right(seen, acceptance)
        return right(replace(seen, proposal=replace(seen.proposal, lengths=found.accepted)), acceptance)


MISTAKES = {
    "ngram": fresh_draw_after_a_mismatch,
    "ngram-3-letters": fresh_draw_after_a_mismatch,
    "prompt-lookup": fresh_draw_after_a_mismatch,
    "confidence-stop": drops_what_it_drew,
    "adaptive": looks_ahead,
    "heuristic": looks_ahead,
}


@pytest.mark.statistical
@pytest.mark.parametrize("case", [c for c in CASES if c.name in MISTAKES], ids=lambda c: c.name)
def test_a_known_mistake_is_caught(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    MISTAKES[case.name](monkeypatch)
    assert g_test(sample(case, 10_000, seed=50), target_law(case)) < LEVEL / FAMILY


# Lossy rules: sampled, against the law that their definition gives. A draft is tried for each of the first K tokens,
# whatever was rejected, so each follows that law given those before it.

K, LETTERS = 2, 4
START: tuple[Text, ...] = ((1, 2), (0, 1, 2), (3, 3, 0, 1, 2))


# Of each method the option, and how likely each token is accepted with a setting of it: from p, q, the draft's softmax,
# and the logits that p comes from.
DEFINED: dict[str, tuple[str, Callable[..., Floats]]] = {
    "topk": ("rank", lambda p, q, soft, logits, rank: (logits > logits[:, None]).sum(-1) < rank),
    "typical": (
        "typical_p",
        lambda p, q, soft, logits, epsilon: p > min(epsilon, math.sqrt(epsilon) * math.exp((p * np.log(p)).sum())),
    ),
    "confidence": ("tau", lambda p, q, soft, logits, tau: soft >= tau),
    "fuzzy": ("fuzziness", lambda p, q, soft, logits, times: np.minimum(1, times * p / np.maximum(q, 1e-300))),
}


def lossy_case(method: str, setting: float, **rules: SamplingRule) -> Case:
    kind = "greedy-draft" if "draft_rule" in rules else "sampled"
    knobs = {"k": K, DEFINED[method][0]: setting}
    return Case(name=f"{method}-{kind}", method=method, vocabulary=LETTERS, first=K, budget=K + 2, knobs=knobs, **rules)


SETTINGS = [("topk", 2, 1), ("typical", 0.25, 0.5), ("confidence", 0.4, 0.55), ("fuzzy", 1.7, 1.7)]
LOSSY_CASES = [
    lossy_case(method, setting, **rules)
    for method, sampled, greedy in SETTINGS
    for setting, rules in ((sampled, {"rule": SamplingRule(temperature=0.8)}), (greedy, {"draft_rule": GREEDY}))
]


def lossy_law(case: Case) -> dict[int, dict[Text, float]]:
    """The law of the first tokens, each q a + (1 - sum q a) c: accepted, or else drawn from the rest."""
    option, accepts = DEFINED[case.method]

    def emitted(text: Text) -> Floats:
        target, draft = alphabet(LETTERS)
        p = Say(target, case.rule, START[0])(text)
        q = Say(draft, case.draft_rule, START[0])(text)
        soft = Say(draft, FREE if case.draft_rule.is_greedy else case.draft_rule, START[0])(text)
        logits = logits_without_cache(target, START[0] + text).double().numpy()
        accepted = q * accepts(p, q, soft, logits, case.knobs[option])
        rest, rejected = np.maximum(0, p - q) if case.method == "fuzzy" else p, 1 - accepted.sum()
        return accepted + (rejected * rest / rest.sum() if rejected > 1e-12 else 0)

    return {0: enumerate_texts(emitted, (), case.first)}


def test_every_lossy_method_has_its_case() -> None:
    assert set(DEFINED) == {m.name for m in lossy.METHODS} == {c.method for c in LOSSY_CASES}


@pytest.mark.statistical
@pytest.mark.parametrize("case", LOSSY_CASES, ids=lambda c: c.name)
def test_a_lossy_method_follows_the_law_of_its_definition(case: Case) -> None:
    law, own = lossy_law(case), target_law(case, START)
    assert len(law[0]) >= LETTERS, "next to nothing is left to chance"
    counts = sample(case, enough(law), LOSSY_CASES.index(case), START)
    assert g_test(counts, law) > LEVEL / FAMILY
    # The negative controls: a law next to it, and the target's own.
    assert g_test(counts, {0: moved(law[0], APART)}) < LEVEL / FAMILY
    assert g_test(counts, own) < LEVEL / FAMILY


# Lossy rules: greedy, against a walk without a cache.


def lossy_by_hand(pair: Pair, prompt: Sequence[int], budget: int, keeps: Callable) -> list[int]:
    """Decode round by round; `keeps` takes the target's and the draft's logits and the draft's first choice."""
    output: list[int] = []
    while len(output) < budget:
        for _ in range(min(4, budget - len(output) - 1)):
            p, q = (logits_without_cache(m, [*prompt, *output]).double().numpy() for m in pair)
            if not keeps(p, q, int(q.argmax())):
                break
            output.append(int(q.argmax()))
        output.append(int(logits_without_cache(pair[0], [*prompt, *output]).argmax()))
    return output


@pytest.mark.parametrize(
    ("name", "knobs", "keeps"),
    [
        ("topk", {"rank": 3}, lambda p, q, x: (p > p[x]).sum() < 3),
        ("typical", {}, lambda p, q, x: p.argmax() == x),
        ("confidence", {"tau": 0.45}, lambda p, q, x: softmax(q)[x] >= 0.45),
        ("confidence", {"tau": 1.0}, lambda p, q, x: False),  # the draft is nowhere certain
        ("fuzzy", {"fuzziness": 4.0}, lambda p, q, x: softmax(p)[x] > softmax(p).max() / 4),
    ],
)
def test_greedy_output_of_a_lossy_method_is_that_of_its_definition(
    name: str, knobs: dict, keeps: Callable, pair: Pair
) -> None:
    found = decode(name, pair, PROMPTS, options(k=4, **knobs), budget=20)
    assert tokens_of(found) == [lossy_by_hand(pair, p, 20, keeps) for p in PROMPTS]
    overruled = any(r.overruled for d in found for r in d.rounds)
    is_exact = name == "typical" or knobs.get("tau") == 1
    assert (tokens_of(found) == greedy_texts(pair[0], 20)) == (not overruled) == is_exact


# Where a lossy rule is the exact one.


def some_seen(rule: SamplingRule, *, sampled: bool) -> Seen:
    rng = torch.Generator().manual_seed(3)
    rows, longest, vocabulary = 400, 3, 6
    logits = torch.randn((rows, longest + 1, vocabulary), generator=rng).round(decimals=1)  # ties
    law = torch.randn((rows, longest, vocabulary), generator=rng).softmax(-1)
    numbers = np.random.default_rng(3).random((rows, longest + 1))
    drawn = laws.draw(law, torch.from_numpy(np.random.default_rng(4).random((rows, longest))))
    proposal = Proposal(
        tokens=drawn,
        lengths=np.random.default_rng(5).integers(0, longest + 1, rows),
        passes=np.zeros(rows, np.int64),
        laws=law if sampled else None,
    )
    return Seen(logits=logits, proposal=proposal, rule=rule, numbers=numbers)


def test_a_lossy_rule_at_its_neutral_setting_is_the_exact_rule_and_next_to_it_is_not() -> None:
    for acceptance, rule, sampled in (
        (lossy.FuzzyTemperature(1.0), FREE, True),
        (lossy.FuzzyTemperature(1.0), SamplingRule(temperature=0.7, top_k=3), True),
        (lossy.FuzzyTemperature(1.0), FREE, False),
        (lossy.FuzzyTemperature(1.0), GREEDY, True),
        (lossy.TopKAgreement(1), GREEDY, True),
        (lossy.Typical(0.3), GREEDY, True),
    ):
        seen = some_seen(rule, sampled=sampled)
        exact, found = chain.verify(seen, Exact()), chain.verify(seen, acceptance)
        assert len(set(exact.accepted)) > 2
        np.testing.assert_array_equal(found.accepted, exact.accepted)
        np.testing.assert_array_equal(found.following, exact.following)
        assert not found.overruled.any() or not rule.is_greedy
    fuzzier, looser = lossy.FuzzyTemperature(1.2), lossy.TopKAgreement(2)
    for acceptance, rule in ((fuzzier, FREE), (fuzzier, GREEDY), (looser, GREEDY)):
        seen = some_seen(rule, sampled=True)
        assert (chain.verify(seen, Exact()).accepted < chain.verify(seen, acceptance).accepted).any()


# Draft lengths: the rounds of the loop are those that the policy makes of the trace of the same text.

LONG = 50


@dataclass
class Watched(Player):
    """Notes the rounds that a policy plays on a trace."""

    player: Player
    starts: np.ndarray
    rounds: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    spent_on: dict[int, list[tuple[int, int, int, int]]] = field(default_factory=dict)

    def lengths(self, rounds: Rounds) -> np.ndarray:
        self.at = rounds.at - self.starts[rounds.output]
        return self.player.lengths(rounds)

    def spent(self, rounds: Rounds, lengths: np.ndarray, accepted: np.ndarray) -> Spent:
        spent = self.player.spent(rounds, lengths, accepted)
        for i, *row in zip(rounds.output.tolist(), *(column.tolist() for column in spent), strict=True):
            self.spent_on.setdefault(i, []).append(tuple(row))
        return spent

    def learn(self, output: np.ndarray, lengths: np.ndarray, accepted: np.ndarray) -> None:
        for i, *row in zip(output.tolist(), self.at.tolist(), lengths.tolist(), accepted.tolist(), strict=True):
            self.rounds.setdefault(i, []).append(tuple(row))
        self.player.learn(output, lengths, accepted)


def greedy_trace(pair: Pair, found: Sequence[Decoded]) -> Trace:
    infos = tuple(PromptInfo(source=str(i), category="") for i in range(len(PROMPTS)))
    written = zip(PROMPTS, found, strict=True)
    outputs = [scoring.Output(prompt=i, turn=0, before=p, tokens=d.tokens) for i, (p, d) in enumerate(written)]
    return join(scoring.score(*pair, outputs, infos, GREEDY, GREEDY))


def played(policy: Policy, pair: Pair, found: Sequence[Decoded]) -> Watched:
    """Play a policy on the trace of a text."""
    trace = greedy_trace(pair, found)
    watched = Watched(policy.begin(trace), trace.starts)
    walk(trace.starts, trace.accept("greedy") == 1, watched)
    return watched


def controlled(pair: Pair, policy: Adaptive | HuggingFaceHeuristic, cap: int) -> list[Decoded]:
    control = Controlled(policy, prompts=len(PROMPTS), budget=LONG, cap=cap)
    task = task_of(range(len(PROMPTS)), LONG)
    return run(Chain(pair[0], ModelDraft(pair[1], GREEDY), PROMPTS, task, lengths=control))


def is_played(pair: Pair, found: Sequence[Decoded], policy: Policy) -> bool:
    """Whether the rounds are the same: where they begin, what they draft and accept, what passes they take."""
    watched = played(policy, pair, found)
    return all(
        [(r.start, r.drafted, r.accepted) for r in output.rounds] == watched.rounds[i]
        and [r.draft_passes for r in output.rounds] == [made for _, _, made, _ in watched.spent_on[i]]
        for i, output in enumerate(found)
    )


def test_a_methods_rounds_are_those_of_its_policy_on_the_trace(pair: Pair) -> None:
    for name, knobs, policy in (
        ("adaptive", {}, Adaptive()),
        ("adaptive", {"k": 1, "max_k": 6, "target_acceptance": 0.2}, Adaptive(initial=1, max=6, target=0.2)),
        ("adaptive", {"k": 9, "min_k": 2}, Adaptive(initial=8, min=2)),
        ("heuristic", {}, HuggingFaceHeuristic()),
    ):
        found = decode(name, pair, PROMPTS, options(**knobs), budget=LONG)
        assert is_played(pair, found, policy), policy
        assert len({r.drafted for d in found for r in d.rounds if not r.cut_by}) > 2, "the length hardly moves"
    for policy in (HuggingFaceHeuristic(3), Adaptive(initial=3, max=5, step=2, window=4, target=0.5)):
        found = controlled(pair, policy, cap=LONG - 1)
        assert is_played(pair, found, policy), policy
        assert not is_played(pair, found, HuggingFaceHeuristic(4)), policy  # the negative control


def test_the_heuristic_has_no_limit_but_the_budget_and_a_cap(pair: Pair) -> None:
    """It wants 20 tokens and more from the first round on, and gets all there is room for; it remembers the cap."""
    for budget in (2, 9, 20, 24):
        found = decode("heuristic", pair, PROMPTS, options(), budget=budget)
        assert is_played(pair, found, HuggingFaceHeuristic())
        assert all(d.rounds[0].drafted == min(20, budget - 1) for d in found)
    for cap in (1, 5):
        found = controlled(pair, HuggingFaceHeuristic(), cap=cap)
        assert max(r.drafted for d in found for r in d.rounds) == cap
        assert tokens_of(found) == greedy_texts(pair[0], LONG)
        for output in found:
            k = cap
            for done in output.rounds:
                assert done.drafted == min(k, LONG - done.start - 1)
                k = min(k + 2, cap) if done.accepted == done.drafted else max(1, k - 1)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, 1.0])
def test_rounds_of_the_confidence_stop_are_those_of_the_policy(threshold: float, pair: Pair) -> None:
    """Where a draft was rejected a trace knows bounds alone of how much was drafted."""
    found = decode("confidence-stop", pair, PROMPTS, options(k=5, least_confidence=threshold), budget=LONG)
    watched = played(ConfidenceStop(threshold=threshold, max_k=5), pair, found)
    for i, output in enumerate(found):
        assert [(r.start, r.accepted) for r in output.rounds] == [(at, n) for at, _, n in watched.rounds[i]]
        rows = zip(output.rounds, watched.rounds[i], watched.spent_on[i], strict=True)
        for done, (_, lengths, accepted), (low, high, passes_low, passes_high) in rows:
            assert low <= done.drafted <= high
            assert passes_low <= done.draft_passes <= passes_high
            assert done.drafted == lengths or accepted < lengths
    stopped = {r.drafted for d in found for r in d.rounds if not r.cut_by}
    assert len(stopped) > 2 or threshold in (0.0, 1.0)
