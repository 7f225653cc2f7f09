"""N-gram stores and prompt look-up: against counting anew, against transformers, and at work in the loop."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

from acceptance.decoders.batch import Batch, Floats, Ints
from acceptance.decoders.chain import Chain, FixedLength, Proposal, Verdict
from acceptance.decoders.decoder import run
from acceptance.decoders.method import Models, Options
from acceptance.decoders.ngram import METHODS, OF_STORES, Index, Memory, Store, Suffixes, TextDraft
from acceptance.measure.text_drafts import Output, memories, replay
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule

from .oracles import FREE, GREEDY, greedy_without_cache, instead_of, task_of
from .tiny_models import random_model

VOCABULARY = 7
# A text in the order it was learnt: each token, and what else the target considered for its place.
Learnt = Sequence[tuple[int, Sequence[int]]]

tokens = st.integers(0, 3)
learnt_texts = st.lists(st.tuples(tokens, st.lists(tokens, max_size=3)), min_size=1, max_size=25)


def learn(memory: Memory, learnt: Learnt) -> list[int]:
    text = [token for token, _ in learnt]
    for at, (_, considered) in enumerate(learnt):
        memory.learn(text, at, considered)
    return text


def follower(learnt: Learnt, context: Sequence[int]) -> int | None:
    """The most frequent follower of a context, the first to be that often; None if nothing followed it."""
    text = [token for token, _ in learnt]
    seen: list[int] = []
    for at, (token, considered) in enumerate(learnt):
        if at >= len(context) and text[at - len(context) : at] == list(context):
            seen += [token, *considered]
    if not seen:
        return None
    most = max(seen.count(token) for token in seen)
    return next(t for i, t in enumerate(seen) if seen[: i + 1].count(t) == most)


def draft_by_counting(learnt: Learnt, n: int, k: int) -> list[int]:
    text, drafted = [token for token, _ in learnt], list[int]()
    while len(drafted) < k:
        before = [*text, *drafted]
        widths = range(min(n - 1, len(before)), 0, -1)
        found = [token for w in widths if (token := follower(learnt, before[-w:])) is not None]
        if not found:
            break
        drafted.append(found[0])
    return drafted


@settings(deadline=None, max_examples=300)
@given(learnt_texts, st.integers(2, 5), st.integers(0, 6))
def test_a_store_drafts_what_counting_anew_says(learnt: Learnt, n: int, k: int) -> None:
    store = Store(n)
    assert store.draft(learn(store, learnt), k) == draft_by_counting(learnt, n, k)


@settings(deadline=None, max_examples=100)
@given(st.lists(learnt_texts, min_size=1, max_size=3), learnt_texts, learnt_texts, st.integers(2, 4))
def test_a_store_over_another_is_one_that_counted_both_and_leaves_it_as_it_was(
    texts: list[Learnt], learnt: Learnt, other: Learnt, n: int
) -> None:
    known, one = Store(n), Store(n)
    for text in texts:
        learn(known, text)
        learn(one, text)
    text = learn(one, learnt)
    expected = one.draft(text, 6)
    first, second = Store(n, known), Store(n, known)
    learn(second, other)
    assert first.draft(learn(first, learnt), 6) == expected
    assert Store(n, known).draft(text, 6) == known.draft(text, 6)


def suffix_draft_by_counting(text: list[int], k: int) -> list[int]:
    """Each end of the text that was there before, followed as far as it is long; the most tokens to be hoped for."""
    drafted, hoped = list[int](), 0.0
    for width in range(1, len(text) + 1):
        before, share, hope = text[-width:], 1.0, 0.0
        for _ in range(min(k, width)):
            followers = [text[at] for at in range(len(before), len(text)) if text[at - len(before) : at] == before]
            if not followers or len(before) > Suffixes.DEPTH:
                break
            token = follower([(t, ()) for t in text], before)
            share *= followers.count(token) / len(followers)
            if share < Suffixes.LEAST:
                break
            hope, before = hope + share, [*before, token]
        if hope >= hoped and before[width:]:
            drafted, hoped = before[width:], hope
    return drafted


@settings(deadline=None, max_examples=300)
@given(st.lists(tokens, min_size=1, max_size=30), st.integers(0, 6))
def test_suffix_decoding_follows_the_longest_ends_that_promise_most(text: list[int], k: int) -> None:
    store = Suffixes(Suffixes.DEPTH + 1)
    assert store.draft(learn(store, [(t, ()) for t in text]), k) == suffix_draft_by_counting(text, k)


@settings(deadline=None, max_examples=300)
@given(st.lists(tokens, min_size=1, max_size=30), st.integers(1, 4), st.integers(1, 6))
def test_prompt_lookup_is_that_of_transformers(text: list[int], most: int, k: int) -> None:
    theirs = PromptLookupCandidateGenerator(num_output_tokens=k, max_matching_ngram_size=most, max_length=1000)
    expected = theirs.get_candidates(torch.tensor([text]))[0][0, len(text) :].tolist()
    index = Index(most)
    assert index.draft(learn(index, [(t, ()) for t in text]), k) == expected


class Checked(TextDraft):
    """Compares every draft with what the prompt, the committed tokens and the target's choices say, row by row."""

    def __init__(self, n: int, fillers: int, k: int) -> None:
        super().__init__(lambda: Store(n), filler_top_k=fillers)
        self.n, self.k, self.drafts, self.learnt = n, k, 0, dict[int, list[tuple[int, Sequence[int]]]]()

    def start(self, batch: Batch, prompts: Sequence[Sequence[int]]) -> None:
        super().start(batch, prompts)
        self.learnt = {i: [(token, ()) for token in prompt] for i, prompt in enumerate(prompts)}

    def propose(self, batch: Batch, lengths: Ints, numbers: Floats) -> Proposal:
        proposal = super().propose(batch, lengths, numbers)
        for row, i in enumerate(batch.index.tolist()):
            found = proposal.tokens[row, : proposal.lengths[row]].tolist()
            assert found == draft_by_counting(self.learnt[i], self.n, int(lengths[row]))
            self.drafts += len(found)
        assert proposal.laws is None
        assert not proposal.passes.any()
        return proposal

    def learn(self, batch: Batch, verdict: Verdict, committed: Ints) -> None:
        super().learn(batch, verdict, committed)
        for row, i in enumerate(batch.index.tolist()):
            end = batch.lengths[row]
            for at in range(int(committed[row])):
                logits = verdict.seen.logits[row, at].tolist()
                choices = sorted(range(len(logits)), key=lambda t: -logits[t])[: self.fillers]
                self.learnt[i].append((int(batch.tokens[row, end - committed[row] + at]), choices))


@pytest.fixture(scope="module")
def model() -> Model:
    return replace(random_model("llama", 61, VOCABULARY), ends=(3,))


PROMPTS = [np.random.default_rng(n).integers(VOCABULARY, size=n).tolist() for n in (1, 9, 4, 2, 14, 6)]


@pytest.mark.parametrize("fillers", [1, 2, 9])
@pytest.mark.parametrize("rule", [GREEDY, FREE], ids=["greedy", "sampled"])
def test_rows_of_a_ragged_batch_draft_from_their_own_text(
    model: Model, fillers: int, rule: SamplingRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter, learnt = Checked(3, fillers, 4), list[int]()

    @instead_of(monkeypatch, Store, "learn")
    def learn(right, store, text, at, considered):  # type: ignore[no-untyped-def]
        learnt.append(at)
        right(store, text, at, considered)

    assert drafter.fillers == (0 if fillers == 1 else fillers)
    task = task_of(range(len(PROMPTS)), 14, rule, seed=2)
    found = run(Chain(model, drafter, PROMPTS, task, lengths=FixedLength(4)))
    assert drafter.drafts > 0
    assert len(learnt) == sum(map(len, PROMPTS)) + sum(len(d.tokens) for d in found)  # every token once
    assert len({len(d.tokens) for d in found}) > 1, "no row ended before the others"
    if rule.is_greedy:
        assert [d.tokens for d in found] == [greedy_without_cache(model, p, 14) for p in PROMPTS]


def test_texts_known_before_are_drafted_and_the_output_stays(model: Model) -> None:
    """What the target has written to these prompts before is found again, batch after batch."""
    said = [greedy_without_cache(model, prompt, 14) for prompt in PROMPTS]
    texts = [[*prompt, *output] for prompt, output in zip(PROMPTS, said, strict=True)]
    accepted = {}
    anpd = next(method for method in METHODS if method.name == OF_STORES[1])
    for known in ((), texts):
        begin = anpd.begin(Models(target=model, texts=known), Options(draft_rule=GREEDY))
        found = run(begin(PROMPTS, task_of(range(len(PROMPTS)), 14, GREEDY, seed=2)))
        assert [d.tokens for d in found] == said
        accepted[len(known)] = sum(r.accepted for d in found for r in d.rounds)
    assert accepted[len(texts)] > accepted[0]


def test_a_text_that_repeats_itself_is_drafted(model: Model) -> None:
    """A random model's greedy text soon runs in a circle, and n-grams find out."""
    endless = replace(model, ends=())
    for memory in (lambda: Store(3), lambda: Index(2)):
        task = task_of(range(len(PROMPTS)), 60)
        found = run(Chain(endless, TextDraft(memory), PROMPTS, task, lengths=FixedLength(4)))
        assert sum(r.accepted for d in found for r in d.rounds) > 60 * len(PROMPTS) / 3


@pytest.mark.parametrize("rule", [GREEDY, FREE], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", ["anpd", "suffix", "prompt-lookup"])
def test_replaying_what_was_written_finds_the_rounds_that_wrote_it(model: Model, name: str, rule: SamplingRule) -> None:
    method = next(method for method in METHODS if method.name == name)
    begin = method.begin(Models(target=model), Options(draft_rule=GREEDY, k=4))
    found = run(begin(PROMPTS, task_of(range(len(PROMPTS)), 30, rule, seed=2)))
    for prompt, decoded in zip(PROMPTS, found, strict=True):
        replayed = replay(memories(3)[name](), Output(before=prompt, tokens=decoded.tokens), 4)
        drafted, accepted = zip(*((r.drafted, r.accepted) for r in decoded.rounds), strict=True)
        if len(decoded.tokens) == 30:
            assert (drafted, accepted) == (tuple(replayed.drafted), tuple(replayed.accepted))
        else:  # the loop did not know that the text would end
            assert accepted[:-1] == tuple(replayed.accepted)[:-1]
            assert all(all_of >= some for all_of, some in zip(drafted, replayed.drafted, strict=True))
