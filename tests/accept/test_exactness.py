"""Exactness of the speculative loop: what it writes and in which rounds, against enumeration and against traces.

Models are so small that the law of every output can be written down. A G-test compares it with many outputs of the
loop. Nothing among the tests of a family is rejected by Holm's procedure iff the smallest p-value lies above
LEVEL / FAMILY, which is what each test asserts of its own. Each case draws as many outputs as make the test find any
law whose total variation distance from the target's is DISTANCE with a probability of at least POWER.

Long because the plan of samples, its power and its negative controls belong to one test statistic.
"""

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from acceptance.decoders import chain, speculative
from acceptance.decoders.batch import Decoded
from acceptance.decoders.model_draft import ModelDraft
from acceptance.decoders.samplers import load_sampler
from acceptance.estimate import estimators
from acceptance.measure import scoring
from acceptance.models import laws
from acceptance.models.context import Context, padded
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from acceptance.models.source import Begun
from acceptance.trace.trace import PromptInfo, join

from .oracles import Rounds, Say, Text, add_up, enumerate_rounds, enumerate_texts
from .tiny_models import SEQ2SEQ, Trigram, random_model, related_model, seq2seq_pair, source_of, trigram_pair

DISTANCE, POWER, LEVEL = 0.02, 0.95, 1e-3
FIRST = 3  # tokens whose joint law is tested
# Cells of a smaller expectation are tested together.
LEAST_EXPECTATION = 20.0
# Prompts of one law but of different lengths; and prompts of laws of their own.
SAME_LAW: tuple[Text, ...] = ((1, 2), (0, 1, 2), (3, 3, 0, 1, 2), (2, 0, 1, 1, 3, 0, 1, 2))
OWN_LAWS: tuple[Text, ...] = ((2,), (1, 0, 2, 1, 1))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A pair, how it decodes, and what it was asked for."""

    name: str
    pair: str = "trigram"
    k: int
    temperature: float = 1.0
    draft_temperature: float | None = None  # None: the target's
    top_k: int = 0
    top_p: float = 1.0
    draft_as_target: bool = True  # whether top-k and top-p cut the draft's law, too
    ends: tuple[int, ...] = ()
    budget: int = 5
    own_streams: bool = False  # whether each output has a random stream of its own, as the product gives it
    sampler: str = ""  # who decides on drafts; the loop if nobody is named

    @property
    def rule(self) -> SamplingRule:
        return SamplingRule(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

    @property
    def draft_rule(self) -> SamplingRule:
        temperature = self.temperature if self.draft_temperature is None else self.draft_temperature
        rule = SamplingRule(temperature=temperature)
        return replace(rule, top_k=self.top_k, top_p=self.top_p) if self.draft_as_target else rule

    @property
    def prompts(self) -> tuple[Text, ...]:
        return own_laws(self.pair) if self.pair in TRANSFORMERS else SAME_LAW

    def models(self) -> tuple[Model, Model]:
        return tuple(replace(model, ends=self.ends) for model in PAIRS[self.pair]())  # type: ignore[return-value]

    @property
    def strata(self) -> dict[int, Text]:
        """A prompt of each law: prompt i has that of i modulo their number."""
        return dict(enumerate(own_laws(self.pair) if self.pair in TRANSFORMERS else SAME_LAW[:1]))


@cache
def trigrams() -> tuple[Model, Model]:
    return trigram_pair(5, apart=1.7)


@cache
def llamas() -> tuple[Model, Model]:
    target = random_model("llama", 1, 3, initializer_range=0.4)
    return target, related_model(target, 3, 0.5)


@cache
def narrow() -> tuple[Model, Model]:
    """A draft that has no row for the target's last token."""
    target, draft = trigram_pair(5, apart=1.7)
    return target, Model(module=Trigram(draft.module.table[..., :3]), vocabulary=3)


@cache
def barred_whisper() -> tuple[Model, Model]:
    """A pair that hears: one token it never writes, and one not first."""
    target, draft = (replace(m, never=(3,), never_first=(1,)) for m in seq2seq_pair("whisper", 1, 4))
    return target, draft


PAIRS = {"trigram": trigrams, "llama": llamas, "narrow": narrow}
PAIRS |= {kind: partial(seq2seq_pair, kind, 1, 3) for kind in SEQ2SEQ} | {"whisper": barred_whisper}
TRANSFORMERS = ("llama", *SEQ2SEQ)


@cache
def own_laws(pair: str) -> tuple[Text, ...]:
    """Prompts of laws of their own; of a model with an encoder, sources of different lengths."""
    if pair == "llama":
        return OWN_LAWS
    target, _ = PAIRS[pair]()
    return tuple(Begun(target.first, source_of(target, seed, length)) for seed, length in ((1, 2), (2, 5)))


CASES = [
    Case(name="k1-budget-is-first", k=1, budget=3),
    Case(name="k3", k=3, own_streams=True),
    Case(name="k4-hot", k=4, temperature=2.0),
    Case(name="k3-greedy-draft", k=3, draft_temperature=0.0),
    Case(name="k2-warm-draft", k=2, temperature=0.7, draft_temperature=1.5),
    Case(name="k4-top-k-top-p", k=4, temperature=1.3, top_k=3, top_p=0.9),
    Case(name="k2-draft-beyond-top-k", k=2, top_k=2, draft_as_target=False),
    Case(name="k3-end", k=3, ends=(1,)),
    Case(name="k4-ends-greedy-draft", k=4, temperature=0.7, draft_temperature=0.0, ends=(0, 3)),
    Case(name="k2-greedy-target-sampled-draft", k=2, temperature=0.0, draft_temperature=1.0),
    Case(name="narrow-k3-end", pair="narrow", k=3, ends=(3,)),
    Case(name="narrow-k2-greedy-draft", pair="narrow", k=2, draft_temperature=0.0),
    Case(name="k2-exact-kernel-all", k=2, temperature=0.7, draft_temperature=1.5, top_k=3, ends=(1,), sampler="exact"),
    Case(name="narrow-k2-exact-kernel-greedy-draft", pair="narrow", k=2, draft_temperature=0.0, sampler="exact"),
    Case(name="llama-k3-greedy-draft", pair="llama", k=3, draft_temperature=0.0, budget=4),
    Case(name="llama-k4-all", pair="llama", k=4, temperature=1.5, top_p=0.9, ends=(2,), budget=5),
    Case(name="t5-k3-greedy-draft", pair="t5", k=3, draft_temperature=0.0, budget=4),
    Case(name="t5-k4-all", pair="t5", k=4, temperature=1.5, top_p=0.9, ends=(2,), budget=5),
    Case(name="bart-k3-end", pair="bart", k=3, ends=(1,), budget=4),
    Case(name="whisper-k2-warm-draft", pair="whisper", k=2, temperature=0.7, draft_temperature=1.5, budget=4),
]
# Two tests a case: of the text and of the rounds.
FAMILY = 2 * len(CASES)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Half of the time would go into looking for garbage among all the rounds, where there is none."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@without_garbage_collection()
def sample(case: Case, outputs: int, seed: int) -> list[tuple[int, Decoded]]:
    """Decode one ragged batch; return each output with the law it belongs to, as many of each."""
    which = np.arange(outputs) % len(case.prompts)
    rng = np.random.default_rng(seed)
    rngs = laws.streams(seed, range(outputs)) if case.own_streams else [rng] * outputs
    decoded = speculative.decode(
        *case.models(),
        [case.prompts[i] for i in which],
        k=case.k,
        rule=case.rule,
        draft_rule=case.draft_rule,
        max_new_tokens=case.budget,
        rngs=rngs,
        sampler=load_sampler(case.sampler) if case.sampler else None,
    )
    return [(int(i) % len(case.strata), d) for i, d in zip(which, decoded, strict=True)]


@dataclass(frozen=True)
class Plan:
    """How many outputs a G-test takes, its cells beyond those that totals fix, and the probability of pooled cells."""

    outputs: int
    freedom: int
    pooled: float

    @property
    def power(self) -> float:
        """The least probability to reject a law that lies DISTANCE away, at Holm's strictest level.

        2 N KL >= 4 N TV^2 (Pinsker), and N sum (p' - p)^2 / p >= 4 N TV^2 (Cauchy and Schwarz), so the noncentrality is
        at least 4 N TV^2; of TV the pooled cells can hide no more than their own probability.
        """
        return power_of(self, DISTANCE, LEVEL / FAMILY)


def power_of(plan: Plan, distance: float, level: float) -> float:
    """As `Plan.power`, for another distance and level."""
    if plan.freedom == 0:  # one text alone is possible: any other is rejected
        return 1 - (1 - distance) ** plan.outputs
    noncentrality = 4 * plan.outputs * max(0.0, distance - plan.pooled) ** 2
    return float(stats.ncx2.sf(stats.chi2.isf(level, plan.freedom), plan.freedom, noncentrality))


def groups_of(expected: np.ndarray) -> np.ndarray:
    """Say which cells are tested together: those of the smallest expectations are one group, 0."""
    order = np.argsort(expected)
    small = int((expected < LEAST_EXPECTATION).sum())
    while 0 < small < len(expected) and expected[order[:small]].sum() < LEAST_EXPECTATION:
        small += 1
    groups = np.zeros(len(expected), int)
    groups[order[small:]] = np.arange(len(expected) - small) + (small > 0)
    return groups


def plan_of(law: Mapping[int, Mapping], outputs: int) -> Plan:
    freedom, pooled = 0, 0.0
    for cells in law.values():
        weights = np.array(list(cells.values()))
        groups = groups_of(weights * outputs / len(law))
        freedom += int(groups.max())
        in_group = np.bincount(groups)
        pooled += weights[in_group[groups] > 1].sum() / len(law)
    return Plan(outputs, freedom, float(pooled))


def g_test(observed: Mapping[int, Counter], law: Mapping[int, Mapping]) -> float:
    """Compare counts with laws, stratum by stratum: the p-value; 0 if something impossible was seen."""
    statistic, freedom = 0.0, 0
    for stratum, counts in observed.items():
        cells = list(law[stratum])
        if counts.keys() - law[stratum].keys():
            return 0.0
        expected = np.array([law[stratum][c] for c in cells]) * counts.total()
        groups = groups_of(expected)
        expected, seen = np.bincount(groups, expected), np.bincount(groups, [counts[c] for c in cells])
        there = seen > 0
        statistic += 2 * float((seen[there] * np.log(seen[there] / expected[there])).sum())
        freedom += len(expected) - 1
    return float(stats.chi2.sf(statistic, freedom)) if freedom else 1.0


def tally(outputs: Sequence[tuple[int, Decoded]], name: Callable[[Decoded], object]) -> dict[int, Counter]:
    """Count outputs by a name, for each law apart."""
    return {law: Counter(name(d) for at, d in outputs if at == law) for law in {at for at, _ in outputs}}


def beginning(output: Decoded) -> Text:
    return tuple(output.tokens[:FIRST])


@cache
def text_law(case: Case) -> dict[int, dict[Text, float]]:
    """The law of the first tokens that the target itself writes, by enumeration."""
    target, _ = case.models()
    return {
        stratum: enumerate_texts(Say(target, case.rule, prompt), case.ends, min(FIRST, case.budget))
        for stratum, prompt in case.strata.items()
    }


def first_and_rounds(output: Decoded) -> tuple[int, Rounds]:
    """The first token, and of each round what it committed and how many drafts are among that."""
    return output.tokens[0], tuple((r.committed, min(r.accepted, r.committed)) for r in output.rounds)


def rounds_law(case: Case) -> dict[int, dict[tuple[int, Rounds], float]]:
    """The law of the rounds by the trace theorem: the recursion on a[t] = min(1, q / p), summed over all texts."""
    target, draft = case.models()
    found = {}
    for stratum, prompt in case.strata.items():
        p, q = Say(target, case.rule, prompt), Say(draft, case.draft_rule, prompt)
        parts = []
        for text, probability in enumerate_texts(p, case.ends, case.budget).items():
            before = [(text[:t], token) for t, token in enumerate(text)]
            # What the draft has no row for is never proposed.
            has = [token < draft.vocabulary for token in text]
            accept = [min(1.0, q(s)[t] / p(s)[t]) if there else 0.0 for (s, t), there in zip(before, has, strict=True)]
            rounds = enumerate_rounds(accept, case.k, case.budget)
            parts += [((text[0], made), probability * chance) for made, chance in rounds.items() if chance > 0]
        found[stratum] = add_up(parts)
    return found


def moved(law: Mapping, distance: float) -> dict:
    """Return a law at this total variation distance, as hard to tell from the given one as any at that distance.

    About half of the probability grows and half shrinks, each cell in proportion to itself.
    """
    grows, total = [], 0.0
    for cell in sorted(law, key=lambda c: -law[c]):
        if total + law[cell] <= 0.5:
            grows.append(cell)
            total += law[cell]
    factor = {True: 1 + distance / total, False: 1 - distance / (1 - total)}
    return {cell: weight * factor[cell in grows] for cell, weight in law.items()}


@cache
def plan(case: Case) -> Plan:
    """The smallest sample of the stated power, in thousands."""
    law = text_law(case)
    return next(p for n in range(4_000, 160_000, 1_000) if (p := plan_of(law, n)).power >= POWER)


@cache
def thorough_tallies(case: Case) -> tuple[dict[int, Counter], dict[int, Counter]]:
    """One sample of a case: its counts by first tokens, and by first token and rounds."""
    outputs = sample(case, plan(case).outputs, seed=CASES.index(case))
    return tally(outputs, beginning), tally(outputs, first_and_rounds)


@pytest.mark.statistical
@pytest.mark.parametrize(
    "case",
    # Transformers take ten times as long as tables; their rows and their greedy outputs stand the tests of the methods.
    # Samplers' rounds stand those of `test_samplers`.
    [pytest.param(c, id=c.name, marks=pytest.mark.whole if c.pair in TRANSFORMERS or c.sampler else ()) for c in CASES],
)
def test_first_tokens_follow_the_targets_law_jointly_and_rounds_the_recursion_on_the_trace(case: Case) -> None:
    texts, rounds = thorough_tallies(case)
    assert g_test(texts, text_law(case)) > LEVEL / FAMILY
    law = rounds_law(case)
    assert [sum(cells.values()) for cells in law.values()] == pytest.approx([1] * len(law))
    assert g_test(rounds, law) > LEVEL / FAMILY


@pytest.mark.statistical
@pytest.mark.parametrize("case", [c for c in CASES if c.temperature], ids=lambda c: c.name)
def test_a_law_at_the_stated_distance_is_rejected_as_often_as_stated(case: Case) -> None:
    """The negative control: samples of a law moved by DISTANCE, tested against the law itself."""
    law, rng, rejected, tries = text_law(case), np.random.default_rng(1), 0, 100
    other = {stratum: moved(cells, DISTANCE) for stratum, cells in law.items()}
    for stratum, cells in law.items():
        assert sum(abs(other[stratum][c] - cells[c]) for c in cells) / 2 == pytest.approx(DISTANCE)
    for _ in range(tries):
        counts = {}
        for stratum, cells in other.items():
            drawn = rng.multinomial(plan(case).outputs // len(law), list(cells.values()))
            counts[stratum] = Counter(dict(zip(cells, drawn.tolist(), strict=True)))
        rejected += g_test(counts, law) < LEVEL / FAMILY
    assert rejected / tries > POWER - 3 * np.sqrt(POWER * (1 - POWER) / tries)


@pytest.mark.statistical
def test_a_law_at_the_stated_distance_and_rounds_of_another_draft_do_not_fit_the_loops_own_outputs() -> None:
    """The negative controls: of the text, and of the rounds the recursion of a draft at another temperature."""
    case = CASES[1]
    texts, rounds = thorough_tallies(case)
    law = {stratum: moved(cells, DISTANCE) for stratum, cells in text_law(case).items()}
    assert g_test(texts, law) < LEVEL / FAMILY
    assert g_test(rounds, rounds_law(replace(case, draft_temperature=1.2))) < LEVEL / FAMILY


# The bugs. Each puts one of the field's mistakes into the loop.

Mutate = Callable[[pytest.MonkeyPatch], None]


def in_laws(name: str, wrong: Callable[..., torch.Tensor]) -> Mutate:
    return lambda patch: patch.setattr(laws, name, wrong)


def verifying(wrong: Callable[[Any], Any]) -> Mutate:
    """Verification sees what this makes of what it should see."""
    right = chain.verify
    return lambda patch: patch.setattr(chain, "verify", lambda seen, acceptance: right(wrong(seen), acceptance))


def wrong_q(patch: pytest.MonkeyPatch) -> None:
    """q as of temperature 1, though the draft sampled at another."""
    right = ModelDraft.propose

    def propose(draft, *arguments):  # type: ignore[no-untyped-def]
        proposal = right(draft, *arguments)
        assert draft.rule.temperature != 1
        if proposal.laws is None:
            return proposal
        softmax = proposal.laws**draft.rule.temperature
        return replace(proposal, laws=softmax / softmax.sum(-1, keepdim=True))

    patch.setattr(ModelDraft, "propose", propose)


def forced_greedy(patch: pytest.MonkeyPatch) -> None:
    """The draft proposes its first choice but says that it sampled."""
    right = ModelDraft.propose

    def propose(*arguments):  # type: ignore[no-untyped-def]
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(laws, "draw", lambda law, uniforms: law.argmax(-1))
            return right(*arguments)

    patch.setattr(ModelDraft, "propose", propose)


def bonus_from_q(patch: pytest.MonkeyPatch) -> None:
    """After full acceptance the next token comes from the draft's law at that place."""
    right = ModelDraft.propose
    after_all: list[torch.Tensor] = []

    def propose(draft, batch, lengths, numbers):  # type: ignore[no-untyped-def]
        proposal = right(draft, batch, lengths, numbers)
        drafted = proposal.tokens.tolist()
        rows = zip(batch.tokens, batch.lengths, drafted, lengths, strict=True)
        texts = [[*row[:n].tolist(), *new[:count]] for row, n, new, count in rows]
        context = Context(draft.model, len(texts))
        after_all[:] = [context.read(*padded(texts, "cpu"), 1)[:, 0]]
        return proposal

    def verify(seen):  # type: ignore[no-untyped-def]
        logits = seen.logits.clone()
        logits[torch.arange(len(logits)), torch.from_numpy(seen.proposal.lengths)] = after_all[0]
        return replace(seen, logits=logits)

    patch.setattr(ModelDraft, "propose", propose)
    verifying(verify)(patch)


def rejected_stay_in_the_cache(patch: pytest.MonkeyPatch) -> None:
    """Rolling back forgets a row's oldest tokens instead of its newest."""
    right = Context.roll_back

    def roll_back(context, lengths):  # type: ignore[no-untyped-def]
        newest_first = np.flip(context.live, 1)
        context.live = np.flip(newest_first & (newest_first.cumsum(1) <= lengths[:, None]), 1)
        right(context, lengths)

    patch.setattr(Context, "roll_back", roll_back)


MUTATIONS: dict[str, Mutate | None] = {
    "none": None,
    "q of another temperature": wrong_q,
    "forced greedy": forced_greedy,
    "correction from p": in_laws("residual", lambda target, draft: target),
    "correction from q": in_laws("residual", lambda target, draft: (draft - target).clamp(min=0) + 1e-9),
    "all accepted": in_laws("acceptance", lambda target, draft, drafted: torch.ones(drafted.shape)),
    "bonus from q": bonus_from_q,
    # Every draft but the first is judged by the logits that belong to the one before it.
    "one position late": verifying(
        lambda seen: replace(seen, logits=torch.cat((seen.logits[:, :1], seen.logits[:, :-1]), dim=1))
    ),
    # The number that decided on the first draft draws the correction or bonus as well.
    "one number for two decisions": verifying(
        lambda seen: replace(seen, numbers=np.concatenate((seen.numbers[:, :-1], seen.numbers[:, :1]), axis=1))
    ),
    "the rejected stay in the cache": rejected_stay_in_the_cache,
}
MUTATED = next(c for c in CASES if c.name == "k2-warm-draft")
QUICK = 16_000


@pytest.mark.statistical
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_known_bug_in_the_loop_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control, without any, passes with the same numbers."""
    if mutate := MUTATIONS[name]:
        mutate(monkeypatch)
    p_value = g_test(tally(sample(MUTATED, QUICK, seed=77), beginning), text_law(MUTATED))
    assert (p_value < LEVEL / FAMILY) == (name != "none")


@pytest.mark.parametrize(("tolerated", "counts", "law"), [(True, (3, 7), (0.3, 0.7)), (False, (9, 1), (0.9, 0.1, 0.0))])
def test_the_g_test_knows_the_impossible(tolerated: bool, counts: tuple, law: tuple) -> None:
    seen = {0: Counter({i: 1000 * n for i, n in enumerate(counts)} | ({} if tolerated else {7: 1}))}
    assert (g_test(seen, {0: dict(enumerate(law))}) == 0) != tolerated


# What the product itself makes of a trace, against what its loop did.

OUTPUTS, LONG, TOLERANCE = 1500, 14, 4.5


def long_run(kind: str, k: int, rule: SamplingRule, draft_rule: SamplingRule) -> tuple:
    """Outputs of one pair that end on their own or at the budget."""
    target = random_model("llama", 8, 8)
    pair = (target, related_model(target, 9, 0.4)) if kind == "llama" else seq2seq_pair(kind, 8, 8)
    pair = tuple(replace(m, ends=(5,)) for m in pair)
    rng = np.random.default_rng(3)
    prompts = [rng.integers(8, size=n).tolist() for n in rng.integers(1, 8, size=OUTPUTS)]
    if kind != "llama":
        prompts = [Begun(pair[0].first, tuple(text)) for text in prompts]
    decoded = speculative.decode(
        *pair, prompts, k=k, rule=rule, draft_rule=draft_rule, max_new_tokens=LONG, rngs=laws.streams(4, range(OUTPUTS))
    )
    return pair, prompts, decoded, k, rule


def standard_errors(run: tuple, draft_rule: SamplingRule) -> np.ndarray:
    """How far the loop's histogram lies from the trace's, bucket by bucket, in standard errors over prompts.

    Both count the rounds that had room for all k drafts and the token after them. The last token of each output is
    left out of its trace, so that a round whose drafts alone fit is none of those that the trace counts.
    """
    pair, prompts, decoded, k, rule = run
    there = [i for i, d in enumerate(decoded) if len(d.tokens) > k]
    outputs = [
        scoring.Output(prompt=n, turn=0, before=prompts[i], tokens=decoded[i].tokens[:-1]) for n, i in enumerate(there)
    ]
    infos = tuple(PromptInfo(source=str(i)) for i in there)
    trace = join(scoring.score(*pair, outputs, infos, rule, draft_rule))
    kind = "greedy" if draft_rule.is_greedy else "sampled"
    expected = estimators.expected_rounds(trace, k, kind).counts
    seen = np.zeros_like(expected)
    for row, i in zip(seen, there, strict=True):
        for done in decoded[i].rounds:
            if done.start + k + 1 <= len(decoded[i].tokens):
                row[done.accepted] += 1
    off = seen - expected
    assert seen.sum() > OUTPUTS / 2
    spread = np.sqrt((off**2).sum(0))
    return off.sum(0) / np.where(spread > 0, spread, 1)  # a greedy draft's rounds are certain, given the text


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("kind", "k", "temperature", "draft_temperature"),
    [
        *(("llama", 2, 1.0, 1.0), ("llama", 4, 1.0, 0.0), ("llama", 3, 0.6, 1.0)),
        pytest.param("t5", 3, 1.0, 1.0, marks=pytest.mark.whole),
    ],
)
def test_estimates_from_traces_meet_the_loops_own_histogram_and_those_of_another_draft_do_not(
    kind: str, k: int, temperature: float, draft_temperature: float
) -> None:
    rule, draft_rule, other = (
        SamplingRule(temperature=t) for t in (temperature, draft_temperature, 0.0 if draft_temperature else 1.6)
    )
    run = long_run(kind, k, rule, draft_rule)
    assert (np.abs(standard_errors(run, draft_rule)) < TOLERANCE).all()
    assert np.abs(standard_errors(run, other)).max() > 2 * TOLERANCE
