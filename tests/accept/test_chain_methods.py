"""Chain methods as users name them: greedy output, laws by enumeration, rounds against policies on the trace."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

from acceptance.decoders import chain, lossy, methods
from acceptance.decoders.batch import Decoded, Task
from acceptance.decoders.chain import Chain, Exact, Proposal, Seen
from acceptance.decoders.decoder import Decoder, run
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

from .test_exactness import LEVEL, g_test, moved, plan_of, tally
from .tiny_models import (
    Floats,
    Say,
    Text,
    enumerate_texts,
    greedy_without_cache,
    law_of,
    logits_without_cache,
    random_model,
    related_model,
    trigram_pair,
)

GREEDY, FREE = SamplingRule(temperature=0.0), SamplingRule(temperature=1.0)
VOCABULARY = 11
# Methods that take any pair, and ragged batches.
CHAINS = [m for m in METHODS.values() if m.batched and set(m.needs) <= {"draft"}]
EXACT = [m.name for m in CHAINS if m.is_exact]
LOSSY = [m.name for m in CHAINS if not m.is_exact]
PROMPTS = [np.random.default_rng(n).integers(VOCABULARY, size=n).tolist() for n in (1, 12, 3, 7, 2, 9)]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def pair(request: pytest.FixtureRequest) -> tuple[Model, Model]:
    target = random_model(request.param, 21, VOCABULARY)
    return target, related_model(target, 22, 0.25)


def options(rule: SamplingRule = GREEDY, **changes: object) -> Options:
    return replace(Options(draft_rule=rule), **changes)  # type: ignore[arg-type]


def decode(
    name: str,
    pair: tuple[Model, Model],
    prompts: Sequence[Sequence[int]],
    told: Options,
    *,
    budget: int,
    rule: SamplingRule = GREEDY,
    indices: Sequence[int] | None = None,
) -> list[Decoded]:
    target, draft = pair
    rngs = laws.streams(6, range(len(prompts)) if indices is None else indices)
    begin = METHODS[name].begin(Models(target=target, draft=draft), told)
    return run(begin(prompts, Task(rule=rule, max_new_tokens=budget, rngs=rngs)))


# Names.


def test_every_method_stands_under_its_own_name() -> None:
    assert [m.name for m in METHODS.values()] == list(METHODS)
    assert {need for m in METHODS.values() for need in m.needs} <= set(methods.NEEDS)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("topk", {"rank": 0}, "--rank: 0 is not allowed"),
        ("typical", {"typical_p": 1.1}, "--typical-p: 1.1 is not allowed"),
        ("confidence", {"tau": float("nan")}, "--tau: nan is not allowed"),
        ("fuzzy", {"fuzziness": 0.9}, "--fuzziness: 0.9 is not allowed"),
        ("fuzzy", {"fuzziness": math.inf}, "--fuzziness: inf is not allowed"),
        ("ngram", {"ngram": 1}, "--ngram: 1 is not allowed"),
        ("prompt-lookup", {"ngram": 1}, "--ngram: 1 is not allowed"),
        ("ngram", {"filler_top_k": 0}, "--filler-top-k: 0 is not allowed"),
        ("adaptive", {"min_k": 9}, "--min-k: 9 is above --max-k, expected 1 to 8"),
        ("confidence-stop", {"least_confidence": -0.1}, "--least-confidence: -0.1 is not allowed"),
        ("autojudge", {"judge_threshold": 1.5}, "--judge-threshold: 1.5 is not allowed"),
        ("specexec", {"k": 0}, "--k: 0 is not allowed, expected a whole number from 1 to 1024"),
        ("specexec", {"tree_budget": 0}, "--tree-budget: 0 is not allowed"),
        ("specexec", {"parallel_branches": -3}, "--parallel-branches: -3 is not allowed"),
        ("specexec", {"branch_prune_threshold": math.nan}, "--branch-prune-threshold: nan is not allowed"),
    ],
)
def test_an_option_out_of_its_range_is_refused_before_anything_is_read(name: str, changes: dict, message: str) -> None:
    pair = trigram_pair(1)
    with pytest.raises(UserError, match=f"^{message}"):
        METHODS[name].begin(Models(target=pair[0], draft=pair[1]), options(**changes))


# Greedy output of exact methods.


def drafts(found: Sequence[Decoded]) -> Counter:
    return Counter(r.accepted for d in found for r in d.rounds)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("k", [1, 4])
def test_greedy_output_of_an_exact_method_is_the_targets_own(name: str, k: int, pair: tuple[Model, Model]) -> None:
    expected = [greedy_without_cache(pair[0], p, 24) for p in PROMPTS]
    ragged = decode(name, pair, PROMPTS, options(k=k), budget=24)
    assert [d.tokens for d in ragged] == expected
    assert ragged == [decode(name, pair, [p], options(k=k), budget=24)[0] for p in PROMPTS]  # the rounds as well
    assert len(drafts(ragged)) > 1 or name == "baseline", "accepts always or never, which proves little"


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_a_small_budget_is_kept(name: str, budget: int, pair: tuple[Model, Model]) -> None:
    found = decode(name, pair, PROMPTS, options(), budget=budget)
    assert [d.tokens for d in found] == [greedy_without_cache(pair[0], p, budget) for p in PROMPTS]
    assert all(r.start + r.drafted < budget for d in found for r in d.rounds)


@pytest.mark.parametrize("name", EXACT)
def test_an_output_stops_at_an_end_wherever_it_falls(name: str, pair: tuple[Model, Model]) -> None:
    target, draft = pair
    free = [greedy_without_cache(target, p, 18) for p in PROMPTS]
    for end in {free[1][0], free[2][3], free[3][8]}:
        found = decode(name, (replace(target, ends=(end,)), draft), PROMPTS, options(), budget=18)
        for output, endless in zip(found, free, strict=True):
            assert output.tokens == endless[: endless.index(end) + 1 if end in endless else None]
            assert sum(r.committed for r in output.rounds) == len(output.tokens)


@pytest.mark.parametrize("name", [m.name for m in CHAINS])
def test_a_row_does_not_feel_the_others(name: str, pair: tuple[Model, Model]) -> None:
    rule = SamplingRule(temperature=0.8, top_k=8, top_p=0.95)
    ending = replace(pair[0], ends=(4,)), pair[1]
    together = decode(name, ending, PROMPTS, options(rule), rule=rule, budget=14)
    assert len({len(d.tokens) for d in together}) > 1, "no row ended before the others"
    for order in ([0], [1], [5, 0, 2]):
        some = decode(name, ending, [PROMPTS[i] for i in order], options(rule), rule=rule, budget=14, indices=order)
        assert some == [together[i] for i in order]


def test_only_methods_with_a_draft_model_pass_through_it(pair: tuple[Model, Model]) -> None:
    for method in CHAINS:
        found = decode(method.name, pair, PROMPTS, options(), budget=12)
        assert any(r.draft_passes for d in found for r in d.rounds) == ("draft" in method.needs)
        assert any(r.overruled for d in found for r in d.rounds) <= (not method.is_exact)
        assert {(r.leaves, r.judged, r.pruned) for d in found for r in d.rounds} <= {(0, 0, 0), (1, 0, 0)}
        assert all(r.leaves == (r.drafted > 0) for d in found for r in d.rounds)


# Sampled output: laws by enumeration. A law at the distance APART is rejected ALMOST_ALWAYS.

APART, ALMOST_ALWAYS = 0.04, 0.999
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
    temperature: float = 1.0
    draft_temperature: float = 1.0
    told: dict[str, float] = field(default_factory=dict, hash=False)

    @property
    def rule(self) -> SamplingRule:
        return SamplingRule(temperature=self.temperature)

    @property
    def draft_rule(self) -> SamplingRule:
        return SamplingRule(temperature=self.draft_temperature)


SHORT = {"first": 5, "budget": 7}
THREE = {"vocabulary": 3, "first": 3, "budget": 5}
# The controller begins with drafts of 1 and moves after four rounds.
EAGER = {"k": 1, "max_k": 3, "target_acceptance": 0.6}
CASES = [
    Case(name="adaptive", method="adaptive", told=EAGER),
    Case(name="adaptive-greedy-draft", method="adaptive", draft_temperature=0.0, told=EAGER),
    Case(name="heuristic", method="heuristic"),
    Case(name="confidence-stop", method="confidence-stop", told={"k": 3, "least_confidence": 0.55}, **THREE),
    Case(name="ngram", method="ngram", told={"k": 3}, **SHORT),
    Case(name="ngram-3-letters", method="ngram", temperature=0.7, told={"k": 2, "filler_top_k": 2}, **THREE),
    Case(name="anpd", method="anpd", told={"k": 3, "ngram": 4}, **SHORT),
    Case(name="prompt-lookup", method="prompt-lookup", told={"k": 3}, **SHORT),
]
FAMILY = 20  # tests of this kind: the exact cases and the lossy ones
by_case = {case.name: case for case in CASES}
every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


@cache
def alphabet(vocabulary: int) -> tuple[Model, Model]:
    return trigram_pair(13, vocabulary=vocabulary, apart=1.2)


def begin(case: Case, prompts: Sequence[Text], task: Task) -> Decoder:
    target, draft = alphabet(case.vocabulary)
    return METHODS[case.method].begin(Models(target=target, draft=draft), options(case.draft_rule, **case.told))(
        prompts, task
    )


def sample(case: Case, outputs: int, seed: int, starts: Sequence[Text] = SAME_LAW) -> list[tuple[int, Decoded]]:
    prompts = [starts[i % len(starts)] for i in range(outputs)]
    rngs = [np.random.default_rng(seed)] * outputs
    decoded = run(begin(case, prompts, Task(rule=case.rule, max_new_tokens=case.budget, rngs=rngs)))
    return [(0, d) for d in decoded]


def target_law(case: Case, starts: Sequence[Text] = SAME_LAW) -> dict[int, dict[Text, float]]:
    return {0: enumerate_texts(Say(alphabet(case.vocabulary)[0], case.rule, starts[0]), (), case.first)}


def power(law: dict[int, dict[Text, float]], outputs: int) -> float:
    """The least probability to reject a law that lies APART away; see test_exactness."""
    made = plan_of(law, outputs)
    noncentrality = 4 * outputs * max(0.0, APART - made.pooled) ** 2
    return float(stats.ncx2.sf(stats.chi2.isf(LEVEL / FAMILY, made.freedom), made.freedom, noncentrality))


def enough(law: dict[int, dict[Text, float]]) -> int:
    return next(n for n in range(8_000, 80_000, 2_000) if power(law, n) >= ALMOST_ALWAYS)


@cache
def tallied(case: Case) -> dict[int, Counter]:
    outputs = sample(case, enough(target_law(case)), seed=CASES.index(case))
    accepted = drafts([d for _, d in outputs])
    assert len(accepted) > 1, "accepts always or never, which proves little"
    return tally(outputs, lambda d: tuple(d.tokens[: case.first]))


@pytest.mark.statistical
@every_case
def test_an_exact_method_follows_the_targets_law(case: Case) -> None:
    law = target_law(case)
    assert g_test(tallied(case), law) > LEVEL / FAMILY
    other = {0: moved(law[0], APART)}
    assert g_test(tallied(case), other) < LEVEL / FAMILY  # the negative control


# Mistakes of the field, put into the loop.

Mutate = Callable[[pytest.MonkeyPatch], None]


def fresh_draw_after_a_mismatch(patch: pytest.MonkeyPatch) -> None:
    """A rejected n-gram is replaced from p itself, so that it gets a second chance."""
    patch.setattr(Exact, "correction", lambda rule, target, draft: target)


def drops_what_it_drew(patch: pytest.MonkeyPatch) -> None:
    """The draft ends before a token that is improbable, not before a place where it is unsure."""
    right = ModelDraft.propose

    def propose(draft, batch, lengths, numbers):  # type: ignore[no-untyped-def]
        found = right(draft, batch, lengths, numbers)
        if found.laws is None:
            return found
        own = found.laws.gather(-1, found.tokens[..., None])[..., 0]
        sure = (own > 0.5).long().cumprod(1).sum(1).numpy()
        return replace(found, lengths=np.minimum(found.lengths, sure))

    patch.setattr(ModelDraft, "propose", propose)


def looks_ahead(patch: pytest.MonkeyPatch) -> None:
    """The controller's length is cut where the draft will be rejected: a rejection never gets its correction."""
    right = chain.verify

    def verify(seen, acceptance):  # type: ignore[no-untyped-def]
        found = right(seen, acceptance)
        return right(replace(seen, proposal=replace(seen.proposal, lengths=found.accepted)), acceptance)

    patch.setattr(chain, "verify", verify)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("name", "mutate"),
    [
        ("ngram", fresh_draw_after_a_mismatch),
        ("ngram-3-letters", fresh_draw_after_a_mismatch),
        ("prompt-lookup", fresh_draw_after_a_mismatch),
        ("confidence-stop", drops_what_it_drew),
        ("adaptive", looks_ahead),
        ("heuristic", looks_ahead),
    ],
)
def test_a_known_mistake_is_caught(name: str, mutate: Mutate, monkeypatch: pytest.MonkeyPatch) -> None:
    case = by_case[name]
    mutate(monkeypatch)
    outputs = sample(case, 10_000, seed=50)
    assert g_test(tally(outputs, lambda d: tuple(d.tokens[: case.first])), target_law(case)) < LEVEL / FAMILY


# Lossy rules: sampled, against the law that their definition gives. A draft is tried for each of the first K tokens,
# whatever was rejected, so each follows that law given those before it.

K, LETTERS = 2, 4
START: tuple[Text, ...] = ((1, 2), (0, 1, 2), (3, 3, 0, 1, 2))


@dataclass(frozen=True)
class Place:
    """What both models say of a place: p, q, the draft's softmax, and the logits that p comes from."""

    p: Floats
    q: Floats
    soft: Floats
    logits: Floats


# How likely each token is accepted with a setting, and the weights of what replaces it.
def by_rank(place: Place, rank: float) -> tuple[Floats, Floats]:
    return np.array([float((place.logits > own).sum() < rank) for own in place.logits]), place.p


def by_typicality(place: Place, epsilon: float) -> tuple[Floats, Floats]:
    entropy = -sum(x * math.log(x) for x in place.p)
    return (place.p > min(epsilon, math.sqrt(epsilon) * math.exp(-entropy))).astype(float), place.p


def by_confidence(place: Place, tau: float) -> tuple[Floats, Floats]:
    return (place.soft >= tau).astype(float), place.p


def by_fuzziness(place: Place, times: float) -> tuple[Floats, Floats]:
    return np.minimum(1, times * place.p / np.maximum(place.q, 1e-300)), np.maximum(0, place.p - place.q)


DEFINED = {
    "topk": ("rank", by_rank),
    "typical": ("typical_p", by_typicality),
    "confidence": ("tau", by_confidence),
    "fuzzy": ("fuzziness", by_fuzziness),
}


def lossy_case(method: str, setting: float, **rules: float) -> Case:
    kind = "greedy-draft" if rules.get("draft_temperature") == 0 else "sampled"
    told = {"k": K, DEFINED[method][0]: setting}
    return Case(name=f"{method}-{kind}", method=method, vocabulary=LETTERS, first=K, budget=K + 2, told=told, **rules)


LOSSY_CASES = [
    lossy_case("topk", 2, temperature=0.8),
    lossy_case("topk", 1, draft_temperature=0.0),
    lossy_case("typical", 0.25, temperature=0.8),
    lossy_case("typical", 0.5, draft_temperature=0.0),
    lossy_case("confidence", 0.4, temperature=0.8),
    lossy_case("confidence", 0.55, draft_temperature=0.0),
    lossy_case("fuzzy", 1.7, temperature=0.8),
    lossy_case("fuzzy", 1.7, draft_temperature=0.0),
]


def lossy_law(case: Case) -> dict[int, dict[Text, float]]:
    """The law of the first tokens, each q a + (1 - sum q a) c: accepted, or else drawn from the rest."""
    option, accepts = DEFINED[case.method]

    def emitted(text: Text) -> Floats:
        target, draft = alphabet(LETTERS)
        place = Place(
            p=Say(target, case.rule, START[0])(text),
            q=Say(draft, case.draft_rule, START[0])(text),
            soft=Say(draft, FREE if case.draft_rule.is_greedy else case.draft_rule, START[0])(text),
            logits=logits_without_cache(target, START[0] + text).double().numpy(),
        )
        accept, rest = accepts(place, case.told[option])
        rejected = 1 - (place.q * accept).sum()
        return place.q * accept + (rejected * rest / rest.sum() if rejected > 1e-12 else 0)

    return {0: enumerate_texts(emitted, (), case.first)}


def test_every_lossy_method_has_its_case() -> None:
    assert set(DEFINED) == {m.name for m in lossy.METHODS} == {c.method for c in LOSSY_CASES}


@pytest.mark.statistical
@pytest.mark.parametrize("case", LOSSY_CASES, ids=lambda c: c.name)
def test_a_lossy_method_follows_the_law_of_its_definition(case: Case) -> None:
    law, own = lossy_law(case), target_law(case, START)
    assert len(law[0]) >= LETTERS, "next to nothing is left to chance"
    counts = tally(sample(case, enough(law), LOSSY_CASES.index(case), START), lambda d: tuple(d.tokens[:K]))
    assert g_test(counts, law) > LEVEL / FAMILY
    # The negative controls: a law next to it, and the target's own.
    assert g_test(counts, {0: moved(law[0], APART)}) < LEVEL / FAMILY
    assert g_test(counts, own) < LEVEL / FAMILY


# Lossy rules: greedy, against a walk without a cache.


def lossy_by_hand(pair: tuple[Model, Model], prompt: Sequence[int], budget: int, keeps: Callable) -> list[int]:
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


def probability(logits: Floats) -> Floats:
    return law_of(logits, FREE)


@pytest.mark.parametrize(
    ("name", "told", "keeps"),
    [
        ("topk", {"rank": 3}, lambda p, q, x: (p > p[x]).sum() < 3),
        ("typical", {}, lambda p, q, x: p.argmax() == x),
        ("confidence", {"tau": 0.45}, lambda p, q, x: probability(q)[x] >= 0.45),
        ("fuzzy", {"fuzziness": 4.0}, lambda p, q, x: probability(p)[x] > probability(p).max() / 4),
    ],
)
def test_greedy_output_of_a_lossy_method_is_that_of_its_definition(
    name: str, told: dict, keeps: Callable, pair: tuple[Model, Model]
) -> None:
    found = decode(name, pair, PROMPTS, options(k=4, **told), budget=20)
    assert [d.tokens for d in found] == [lossy_by_hand(pair, p, 20, keeps) for p in PROMPTS]
    own = [greedy_without_cache(pair[0], p, 20) for p in PROMPTS]
    overruled = sum(r.overruled for d in found for r in d.rounds)
    assert ([d.tokens for d in found] == own) == (overruled == 0) == (name == "typical")


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


@pytest.mark.parametrize(
    ("acceptance", "rule", "sampled"),
    [
        (lossy.FuzzyTemperature(1.0), FREE, True),
        (lossy.FuzzyTemperature(1.0), SamplingRule(temperature=0.7, top_k=3), True),
        (lossy.FuzzyTemperature(1.0), FREE, False),
        (lossy.FuzzyTemperature(1.0), GREEDY, True),
        (lossy.TopKAgreement(1), GREEDY, True),
        (lossy.Typical(0.3), GREEDY, True),
    ],
)
def test_a_lossy_rule_at_its_neutral_setting_is_the_exact_rule(
    acceptance: chain.Acceptance, rule: SamplingRule, sampled: bool
) -> None:
    seen = some_seen(rule, sampled=sampled)
    exact, found = chain.verify(seen, Exact()), chain.verify(seen, acceptance)
    assert len(set(exact.accepted)) > 2
    np.testing.assert_array_equal(found.accepted, exact.accepted)
    np.testing.assert_array_equal(found.following, exact.following)
    assert not found.overruled.any() or not rule.is_greedy


@pytest.mark.parametrize(
    ("acceptance", "rule"),
    [(lossy.FuzzyTemperature(1.2), FREE), (lossy.FuzzyTemperature(1.2), GREEDY), (lossy.TopKAgreement(2), GREEDY)],
)
def test_and_next_to_it_is_not(acceptance: chain.Acceptance, rule: SamplingRule) -> None:
    seen = some_seen(rule, sampled=True)
    assert (chain.verify(seen, Exact()).accepted < chain.verify(seen, acceptance).accepted).any()


def test_a_rule_that_accepts_nothing_leaves_the_targets_own_text(pair: tuple[Model, Model]) -> None:
    """The draft is nowhere certain, so with tau 1 every token is the target's."""
    found = decode("confidence", pair, PROMPTS, options(tau=1.0), budget=12)
    assert [d.tokens for d in found] == [greedy_without_cache(pair[0], p, 12) for p in PROMPTS]
    assert set(drafts(found)) == {0}


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


def greedy_trace(pair: tuple[Model, Model], found: Sequence[Decoded]) -> Trace:
    infos = tuple(PromptInfo(source=str(i), category="") for i in range(len(PROMPTS)))
    written = zip(PROMPTS, found, strict=True)
    outputs = [scoring.Output(prompt=i, turn=0, before=p, tokens=d.tokens) for i, (p, d) in enumerate(written)]
    return join(scoring.score(*pair, outputs, infos, GREEDY, GREEDY))


def played(policy: Policy, trace: Trace) -> Watched:
    watched = Watched(policy.begin(trace), trace.starts)
    walk(trace.starts, trace.accept("greedy") == 1, watched)
    return watched


def controlled(pair: tuple[Model, Model], policy: Adaptive | HuggingFaceHeuristic, cap: int) -> list[Decoded]:
    control = Controlled(policy, prompts=len(PROMPTS), budget=LONG, cap=cap)
    task = Task(rule=GREEDY, max_new_tokens=LONG, rngs=laws.streams(6, range(len(PROMPTS))))
    return run(Chain(pair[0], ModelDraft(pair[1], GREEDY), PROMPTS, task, lengths=control))


def check_against_trace(pair: tuple[Model, Model], found: Sequence[Decoded], policy: Policy) -> None:
    """The same rounds: where they begin, what they draft, what is accepted, what passes they take."""
    watched = played(policy, greedy_trace(pair, found))
    for i, output in enumerate(found):
        assert [(r.start, r.drafted, r.accepted) for r in output.rounds] == watched.rounds[i]
        assert [r.draft_passes for r in output.rounds] == [passes for _, _, passes, _ in watched.spent_on[i]]


@pytest.mark.parametrize(
    ("name", "told", "policy"),
    [
        ("adaptive", {}, Adaptive()),
        ("adaptive", {"k": 1, "max_k": 6, "target_acceptance": 0.2}, Adaptive(initial=1, max=6, target=0.2)),
        ("adaptive", {"k": 9, "min_k": 2}, Adaptive(initial=8, min=2)),
        ("heuristic", {}, HuggingFaceHeuristic()),
    ],
)
def test_a_methods_rounds_are_those_of_its_policy_on_the_trace(
    name: str, told: dict, policy: Policy, pair: tuple[Model, Model]
) -> None:
    found = decode(name, pair, PROMPTS, options(**told), budget=LONG)
    check_against_trace(pair, found, policy)
    assert len({r.drafted for d in found for r in d.rounds if not r.cut_by}) > 2, "the length hardly moves"


@pytest.mark.parametrize("policy", [HuggingFaceHeuristic(3), Adaptive(initial=3, max=5, step=2, window=4, target=0.5)])
def test_rounds_with_other_settings_are_those_of_the_policy(
    policy: Adaptive | HuggingFaceHeuristic, pair: tuple[Model, Model]
) -> None:
    check_against_trace(pair, controlled(pair, policy, cap=LONG - 1), policy)


def test_the_heuristic_has_no_limit_but_the_budget(pair: tuple[Model, Model]) -> None:
    """It wants 20 tokens and more from the first round on, and gets all there is room for."""
    for budget in (2, 9, 20, 24):
        found = decode("heuristic", pair, PROMPTS, options(), budget=budget)
        check_against_trace(pair, found, HuggingFaceHeuristic())
        assert all(d.rounds[0].drafted == min(20, budget - 1) for d in found)


def test_another_policys_rounds_are_not(pair: tuple[Model, Model]) -> None:
    """The negative control."""
    found = controlled(pair, HuggingFaceHeuristic(3), cap=LONG - 1)
    with pytest.raises(AssertionError):
        check_against_trace(pair, found, HuggingFaceHeuristic(4))


@pytest.mark.parametrize("cap", [1, 5])
def test_a_cap_bounds_the_heuristic_and_what_it_remembers(cap: int, pair: tuple[Model, Model]) -> None:
    found = controlled(pair, HuggingFaceHeuristic(), cap=cap)
    assert max(r.drafted for d in found for r in d.rounds) == cap
    assert [d.tokens for d in found] == [greedy_without_cache(pair[0], p, LONG) for p in PROMPTS]
    for output in found:
        k = cap
        for done in output.rounds:
            assert done.drafted == min(k, LONG - done.start - 1)
            k = min(k + 2, cap) if done.accepted == done.drafted else max(1, k - 1)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, 1.0])
def test_rounds_of_the_confidence_stop_are_those_of_the_policy(threshold: float, pair: tuple[Model, Model]) -> None:
    """Where a draft was rejected a trace knows bounds alone of how much was drafted."""
    found = decode("confidence-stop", pair, PROMPTS, options(k=5, least_confidence=threshold), budget=LONG)
    watched = played(ConfidenceStop(threshold=threshold, max_k=5), greedy_trace(pair, found))
    for i, output in enumerate(found):
        assert [(r.start, r.accepted) for r in output.rounds] == [(at, n) for at, _, n in watched.rounds[i]]
        for done, (_, lengths, accepted), spent in zip(
            output.rounds, watched.rounds[i], watched.spent_on[i], strict=True
        ):
            low, high, passes_low, passes_high = spent
            assert low <= done.drafted <= high
            assert passes_low <= done.draft_passes <= passes_high
            assert done.drafted == lengths or accepted < lengths
    stopped = {r.drafted for d in found for r in d.rounds if not r.cut_by}
    assert len(stopped) > 2 or threshold in (0.0, 1.0)
