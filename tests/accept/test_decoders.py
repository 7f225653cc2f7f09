"""Decoders, their context and their laws: against decoding without a cache, and against NumPy."""

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from acceptance.decoders import baseline, chain, speculative
from acceptance.decoders.batch import Decoded
from acceptance.models import context as context_module
from acceptance.models import laws
from acceptance.models.context import Context, padded
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule

from .tiny_models import greedy_without_cache, law_of, logits_without_cache, random_model, related_model, trigram_pair

GREEDY, FREE = SamplingRule(temperature=0.0), SamplingRule(temperature=1.0)
VOCABULARY = 11
KINDS = ("llama", "gpt2", "mistral")


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest) -> tuple[Model, Model]:
    """A target and a draft that agrees with it now and then."""
    target = random_model(request.param, 21, VOCABULARY)
    return target, related_model(target, 22, 0.25)


@pytest.fixture(scope="module")
def llamas() -> tuple[Model, Model]:
    target = random_model("llama", 31, VOCABULARY)
    return target, related_model(target, 32, 0.25)


def prompts_of(seed: int, lengths: Sequence[int], vocabulary: int = VOCABULARY) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(vocabulary, size=n).tolist() for n in lengths]


RAGGED = prompts_of(1, [1, 12, 3, 7, 2, 2, 9, 5])


def speculate(
    pair: tuple[Model, Model],
    prompts: Sequence[Sequence[int]],
    k: int,
    budget: int,
    rule: SamplingRule = GREEDY,
    draft_rule: SamplingRule | None = None,
    indices: Sequence[int] | None = None,
) -> list[Decoded]:
    return speculative.decode(
        *pair,
        prompts,
        k=k,
        rule=rule,
        draft_rule=draft_rule or rule,
        max_new_tokens=budget,
        rngs=laws.streams(5, indices if indices is not None else range(len(prompts))),
    )


def plain(model: Model, prompts: Sequence[Sequence[int]], budget: int, rule: SamplingRule = GREEDY) -> list[list[int]]:
    streams = laws.streams(5, range(len(prompts)))
    return baseline.decode(model, prompts, rule=rule, max_new_tokens=budget, rngs=streams)


# Greedy output.


def test_plain_greedy_is_what_the_model_says_without_a_cache(pair: tuple[Model, Model]) -> None:
    expected = [greedy_without_cache(pair[0], p, 16) for p in RAGGED]
    assert plain(pair[0], RAGGED, 16) == expected
    assert [plain(pair[0], [p], 16)[0] for p in RAGGED] == expected


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_speculative_greedy_is_plain_greedy_token_by_token(pair: tuple[Model, Model], k: int) -> None:
    expected = plain(pair[0], RAGGED, 20)
    ragged = speculate(pair, RAGGED, k, 20)
    assert [d.tokens for d in ragged] == expected
    alone = [speculate(pair, [p], k, 20)[0] for p in RAGGED]
    assert alone == ragged  # the rounds as well
    counts = Counter(r.accepted for d in ragged for r in d.rounds)
    assert len(counts) > 1, "the pair always agrees or never does, which proves little"


def test_a_sampled_draft_changes_nothing_of_greedy_output(pair: tuple[Model, Model]) -> None:
    found = speculate(pair, RAGGED, 4, 16, draft_rule=SamplingRule(temperature=2.0))
    assert [d.tokens for d in found] == plain(pair[0], RAGGED, 16)


def test_a_draft_that_is_the_target_is_always_accepted(llamas: tuple[Model, Model]) -> None:
    found = speculate((llamas[0], llamas[0]), RAGGED, 3, 16, rule=FREE)
    assert {(r.accepted, r.committed) for d in found for r in d.rounds} == {(3, 4)}


def test_columns_that_packing_forgot_to_move_change_greedy_output(
    llamas: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: this mistake is one that the ragged batch can show."""
    packed = []

    def pack(context: Context, width: int) -> None:
        packed.append(width)
        context.live = np.sort(context.live, axis=1)[:, -width:]
        for layer in context.cache.layers:
            layer.keys, layer.values = layer.keys[:, :, -width:], layer.values[:, :, -width:]

    expected = plain(llamas[0], RAGGED, 30)
    assert [d.tokens for d in speculate(llamas, RAGGED, 5, 30)] == expected
    monkeypatch.setattr(Context, "pack", pack)
    assert [d.tokens for d in speculate(llamas, RAGGED, 5, 30)] != expected
    assert packed


# Sampled output.


@pytest.mark.parametrize("draft_rule", [FREE, GREEDY], ids=["sampled", "greedy"])
def test_a_row_does_not_feel_the_others(pair: tuple[Model, Model], draft_rule: SamplingRule) -> None:
    rule = SamplingRule(temperature=0.8, top_k=8, top_p=0.95)
    together = speculate(pair, RAGGED, 3, 14, rule, draft_rule)
    alone = [speculate(pair, [p], 3, 14, rule, draft_rule, indices=[i])[0] for i, p in enumerate(RAGGED)]
    assert together == alone
    order = [5, 0, 7, 2]
    assert speculate(pair, [RAGGED[i] for i in order], 3, 14, rule, draft_rule, indices=order) == [
        together[i] for i in order
    ]


def test_a_plain_row_does_not_feel_the_others(pair: tuple[Model, Model]) -> None:
    together = plain(replace(pair[0], ends=(4,)), RAGGED, 14, FREE)
    for i, prompt in enumerate(RAGGED):
        alone = baseline.decode(
            replace(pair[0], ends=(4,)), [prompt], rule=FREE, max_new_tokens=14, rngs=laws.streams(5, [i])
        )
        assert alone == [together[i]]


# Where an output ends.


def check_rounds(output: Decoded, k: int, budget: int, ends: Sequence[int]) -> None:
    """Each round begins where the one before it ended, and says why it could not commit all it might have."""
    at = 0
    ended = output.tokens[-1] in ends
    assert not set(output.tokens[:-1]) & set(ends)
    assert 1 <= len(output.tokens) <= budget
    assert ended or len(output.tokens) == budget
    for done in output.rounds:
        last = done is output.rounds[-1]
        assert done.start == at
        assert done.drafted == min(k, budget - at - 1)
        assert 0 <= done.accepted <= done.drafted
        assert 1 <= done.committed <= done.accepted + 1
        among_drafts = done.committed <= done.accepted
        assert not among_drafts or (last and ended)
        assert done.cut_by == ("eos" if among_drafts else "max" if done.drafted < k else "")
        at += done.committed
    assert at == len(output.tokens)


@pytest.mark.parametrize("budget", range(1, 7))
@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("rule", [GREEDY, FREE], ids=["greedy", "sampled"])
def test_no_output_exceeds_its_budget(llamas: tuple[Model, Model], budget: int, k: int, rule: SamplingRule) -> None:
    found = speculate(llamas, RAGGED, k, budget, rule)
    for output in found:
        check_rounds(output, k, budget, ())
    if rule.is_greedy:
        assert [d.tokens for d in found] == plain(llamas[0], RAGGED, budget)


@pytest.mark.parametrize("k", [1, 4])
def test_greedy_output_stops_at_every_possible_end(pair: tuple[Model, Model], k: int) -> None:
    target, draft = pair
    free = plain(target, RAGGED, 18)
    for end in range(VOCABULARY):
        for output, endless in zip(speculate((replace(target, ends=(end,)), draft), RAGGED, k, 18), free, strict=True):
            assert output.tokens == endless[: endless.index(end) + 1 if end in endless else None]
            check_rounds(output, k, 18, (end,))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_an_output_stops_at_an_end_of_sequence_wherever_it_falls(llamas: tuple[Model, Model], k: int) -> None:
    """The same numbers without an end of sequence go on behind it; the end is met in every place there is."""
    (target, draft), ends, prompts = llamas, (2, 7), prompts_of(6, [1, 2, 3, 4, 5, 6] * 40)
    met: Counter[str] = Counter()
    endless = speculate((target, draft), prompts, k, 9, FREE)
    for output, free in zip(speculate((replace(target, ends=ends), draft), prompts, k, 9, FREE), endless, strict=True):
        at = next((t for t, token in enumerate(free.tokens) if token in ends), len(free.tokens))
        assert output.tokens == free.tokens[: at + 1]
        check_rounds(output, k, 9, ends)
        last = output.rounds[-1]
        if output.tokens[-1] in ends:
            met["draft" if last.committed <= last.accepted else "bonus" if last.accepted == k else "correction"] += 1
            met["at once"] += len(output.tokens) == 1
            met["before an accepted draft"] += last.committed < last.accepted
    places = {"draft", "bonus", "correction", "at once"} | ({"before an accepted draft"} if k > 1 else set())
    assert {place for place in places if met[place]} == places, met


def test_accepted_counts_what_verification_accepted(
    llamas: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a round drew of the target is counted, even where an end of sequence kept it out of the output."""
    verified: list[np.ndarray] = []
    right = chain.verify

    def verify(*arguments):  # type: ignore[no-untyped-def]
        found = right(*arguments)
        verified.append(found.accepted)
        return found

    monkeypatch.setattr(chain, "verify", verify)
    output = speculate((replace(llamas[0], ends=(2, 7)), llamas[1]), [RAGGED[1]], 4, 30, FREE)[0]
    assert [r.accepted for r in output.rounds] == [int(a[0]) for a in verified]


# Context.


def fresh(model: Model, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    return torch.stack([logits_without_cache(model, row) for row in rows])


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def read_all(model: Model, rows: list[list[int]], keep: int = 1) -> tuple[Context, torch.Tensor]:
    context = Context(model, len(rows))
    return context, context.read(*padded(rows, "cpu"), keep)


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_reading_in_chunks_is_reading_at_once(
    pair: tuple[Model, Model], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pair[0]
    _, whole = read_all(model, RAGGED, 9)
    widths = []
    hook = model.module.register_forward_hook(lambda m, i, o: widths.append(o.logits.shape[1]))
    monkeypatch.setattr(context_module, "LOGITS_BYTES", 4 * len(RAGGED) * VOCABULARY * columns)
    monkeypatch.setattr(context_module, "MAX_COLUMNS", 2)
    _, parts = read_all(model, RAGGED, 9)
    hook.remove()
    valid = padded([p[-9:] for p in RAGGED], "cpu")[1]
    close(parts[valid], whole[valid])
    assert max(widths) <= columns
    assert len(widths) > 1


def test_logits_never_take_more_than_their_share(llamas: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = speculate(llamas, RAGGED, 6, 12)
    bound = 4 * len(RAGGED) * VOCABULARY * 3
    monkeypatch.setattr(context_module, "LOGITS_BYTES", bound)
    sizes = []
    hooks = [
        m.module.register_forward_hook(lambda m, i, o: sizes.append(o.logits.numel() * o.logits.element_size()))
        for m in llamas
    ]
    assert speculate(llamas, RAGGED, 6, 12) == expected
    for hook in hooks:
        hook.remove()
    assert bound / 2 < max(sizes) <= bound


def test_kept_logits_are_those_of_each_column(pair: tuple[Model, Model]) -> None:
    _, found = read_all(pair[0], RAGGED, 3)
    for row, prompt in zip(found, RAGGED, strict=True):
        for back in range(min(3, len(prompt))):
            close(row[-1 - back], logits_without_cache(pair[0], prompt[: len(prompt) - back]))


def test_after_a_rollback_reading_goes_on_as_if_nothing_had_been(pair: tuple[Model, Model]) -> None:
    """Rows forget different numbers of tokens, again and again, and read others in their place."""
    model, rng = pair[0], np.random.default_rng(9)
    rows = [list(p) for p in RAGGED]
    context, _ = read_all(model, rows)
    for _ in range(12):
        rows = [row[: max(1, len(row) - int(n))] for row, n in zip(rows, rng.integers(0, 4, len(rows)), strict=True)]
        context.roll_back(np.array([len(row) for row in rows]))
        assert context.lengths.tolist() == [len(row) for row in rows]
        assert context.cache.get_seq_length() == context.live.shape[1]
        new = rng.integers(VOCABULARY, size=(len(rows), 2))
        rows = [[*row, *more] for row, more in zip(rows, new.tolist(), strict=True)]
        found = context.read(torch.from_numpy(new), np.ones(new.shape, bool), 1)[:, 0]
        close(found, fresh(model, rows))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_read_unequal_numbers_of_tokens_see_only_their_own(kind: str) -> None:
    """A block padded on the left, behind columns that are there already, as after rounds of unequal luck."""
    model, rng = random_model(kind, 41, VOCABULARY), np.random.default_rng(10)
    rows = [list(p) for p in RAGGED]
    context, _ = read_all(model, rows)
    for _ in range(4):
        new = prompts_of(int(rng.integers(1000)), rng.integers(1, 4, len(rows)).tolist())
        rows = [[*row, *more] for row, more in zip(rows, new, strict=True)]
        close(context.read(*padded(new, "cpu"), 1)[:, 0], fresh(model, rows))
        context.roll_back(context.lengths)


def test_packing_changes_nothing_that_a_row_sees(pair: tuple[Model, Model]) -> None:
    model = pair[0]
    context, _ = read_all(model, RAGGED)
    kept = [p[: max(1, len(p) // 2)] for p in RAGGED]
    context.roll_back(np.array([len(p) for p in kept]))
    context.pack(max(map(len, kept)))
    assert context.live.shape[1] == max(map(len, kept)) == context.cache.get_seq_length()
    assert context.live[:, -1].all()
    found = context.read(torch.full((len(kept), 1), 3), np.ones((len(kept), 1), bool), 1)[:, 0]
    close(found, fresh(model, [[*p, 3] for p in kept]))


def test_selected_rows_go_on_in_their_order(pair: tuple[Model, Model]) -> None:
    model, order = pair[0], [6, 1, 2]
    context, _ = read_all(model, RAGGED)
    context.select(np.array(order))
    found = context.read(torch.full((3, 1), 5), np.ones((3, 1), bool), 1)[:, 0]
    close(found, fresh(model, [[*RAGGED[i], 5] for i in order]))


def test_logits_beyond_the_vocabulary_do_not_count(llamas: tuple[Model, Model]) -> None:
    """Models pad their output; what the padding says is never chosen."""
    narrow = tuple(replace(m, vocabulary=4) for m in llamas)
    prompts = prompts_of(3, [1, 4, 2], 4)
    found = speculate(narrow, prompts, 3, 10, FREE)  # type: ignore[arg-type]
    assert max(max(d.tokens) for d in found) < 4


# Laws.

finite = st.integers(-3000, 3000).map(lambda n: n / 100)  # equal, or far enough apart for fp32 to see it
coarse = st.integers(-3, 3).map(float)  # ties
extreme = st.sampled_from([-1e4, -60.0, 0.0, 60.0, 1e4, float("-inf")])
vectors = st.one_of(*(st.lists(e, min_size=2, max_size=12) for e in (finite, coarse, extreme))).filter(
    lambda v: max(v) > float("-inf")
)
temperatures = st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0, 1.7, 20.0])


@settings(deadline=None, max_examples=300)
@given(vectors, temperatures, st.integers(0, 13), st.floats(0.02, 1.0))
@example([0.0, 0.0, 0.0, 0.0], 1.0, 2, 1.0)
@example([0.0, 0.0, 0.0, 0.0], 1.0, 0, 0.5)
def test_laws_are_those_of_numpy(logits: list[float], temperature: float, top_k: int, top_p: float) -> None:
    rule = SamplingRule(temperature=temperature, top_k=top_k, top_p=top_p)
    found = laws.probabilities(torch.tensor([logits, logits]), rule)
    assert (found[0] == found[1]).all()
    assert found.dtype == torch.float32
    assert float(found[0].sum()) == pytest.approx(1, abs=1e-5)
    # What lies at the edge of the nucleus is decided by rounding: either answer is right there.
    edges = [law_of(logits, replace(rule, top_p=min(1.0, max(1e-6, top_p + e)))) for e in (-1e-5, 0, 1e-5)]
    assert any(np.allclose(found[0].numpy(), edge, atol=1e-5) for edge in edges), (found[0], edges)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(finite, min_size=3, max_size=12, unique=True),
    temperatures.filter(bool),
    st.integers(1, 12),
    st.floats(0.05, 0.99),
)
def test_laws_are_those_of_transformers(logits: list[float], temperature: float, top_k: int, top_p: float) -> None:
    scores = torch.tensor([logits])
    warped = TemperatureLogitsWarper(temperature)(None, scores)
    after_k = TopKLogitsWarper(top_k)(None, warped)
    near = [TopPLogitsWarper(p)(None, after_k).softmax(-1) for p in (top_p - 1e-5, top_p, top_p + 1e-5)]
    found = laws.probabilities(scores, SamplingRule(temperature=temperature, top_k=top_k, top_p=top_p))
    assert any(torch.allclose(found, law, atol=1e-5) for law in near)
    without_p = laws.probabilities(scores, SamplingRule(temperature=temperature, top_k=top_k))
    torch.testing.assert_close(without_p, after_k.softmax(-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_laws_are_in_full_precision_whatever_the_logits_are(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0]], dtype=dtype)
    found = laws.probabilities(logits, SamplingRule(temperature=0.7))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found[0].numpy(), law_of([1.0, 2.0, -1.0], SamplingRule(temperature=0.7)), rtol=1e-5)


weights = st.lists(st.sampled_from([0.0, 1e-30, 1e-7, 0.25, 1.0, 3.0]), min_size=1, max_size=8).filter(any)
edges = st.one_of(st.sampled_from([0.0, 1 - 2**-53, 5e-324, 0.5]), st.floats(0, 1, exclude_max=True))


@settings(deadline=None, max_examples=300)
@given(weights, edges)
def test_a_token_of_weight_zero_is_never_drawn(law: list[float], uniform: float) -> None:
    drawn = int(laws.draw(torch.tensor([law]), torch.tensor([uniform], dtype=torch.float64))[0])
    assert law[drawn] > 0


@pytest.mark.statistical
def test_draws_follow_the_law() -> None:
    weights, draws = torch.tensor([0.5, 0.0, 2.0, 0.1, 1.4]), 100_000
    numbers = torch.from_numpy(np.random.default_rng(2).random(draws))
    counts = np.bincount(laws.draw(weights.expand(draws, -1), numbers).numpy(), minlength=5)
    there = weights.numpy() > 0
    expected = draws * weights.numpy()[there] / weights.numpy().sum()
    assert stats.chisquare(counts[there], expected, sum_check=False).pvalue > 1e-3
    assert stats.chisquare(counts[there], np.full(4, draws / 4)).pvalue < 1e-3  # the negative control


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=2, max_size=8))
def test_acceptance_and_residual_put_the_targets_law_together(pairs: list[tuple[float, float]]) -> None:
    """min(p, q) and the residual add up to p: what one round emits at its first place."""
    p, q = np.array(pairs).T
    if p.sum() < 1e-3 or q.sum() < 1e-3:
        return
    p, q = p / p.sum(), q / q.sum()
    target, draft = torch.from_numpy(p), torch.from_numpy(q)
    token = torch.arange(len(p))
    rows = len(p), len(p)
    accept = torch.nan_to_num(laws.acceptance(target.expand(rows), draft.expand(rows), token))
    left = laws.residual(target, draft)
    rejected = float((draft * (1 - accept)).sum())
    emitted = draft * accept + rejected * left / left.sum()
    np.testing.assert_allclose(emitted.numpy(), p, atol=1e-9)


def test_streams_belong_to_prompts_not_to_batches() -> None:
    first, again = laws.streams(3, [0, 1, 2]), laws.streams(3, [2])
    assert first[2].random() == again[0].random()
    assert len({rng.random() for rng in laws.streams(3, range(50))}) == 50
    assert laws.streams(3, [0])[0].random() != laws.streams(4, [0])[0].random()


def test_the_trigram_reads_its_cache() -> None:
    """The tests' own model: with a cache, in any batch, it says what it says without."""
    target, _ = trigram_pair(1)
    rows = prompts_of(2, [1, 2, 5, 3], 4)
    close(read_all(target, rows)[1][:, 0], fresh(target, rows))


# Laws on a device that does not repeat its sums.


class OnCuda(torch.Tensor):
    """Stands in for a CUDA tensor, which in torch's deterministic mode refuses to be summed up."""

    is_cuda = True

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.Tensor.cpu:
            return args[0].as_subclass(torch.Tensor)
        if func is torch.Tensor.cumsum and torch.are_deterministic_algorithms_enabled():
            raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation")
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("repeats", [False, True])
def test_what_has_to_repeat_is_drawn_without_sums_on_the_gpu(repeats: bool) -> None:
    """The same tokens either way; and what is refused there is refused here."""
    logits = torch.randn((300, 11), generator=torch.Generator().manual_seed(0))
    numbers = torch.from_numpy(np.random.default_rng(0).random(300))
    rule = SamplingRule(temperature=0.8, top_k=9, top_p=0.9)
    law = laws.probabilities(logits, rule)
    expected = laws.draw(law, numbers)
    torch.use_deterministic_algorithms(repeats)
    try:
        found = laws.probabilities(logits.as_subclass(OnCuda), rule)
        assert torch.equal(found.as_subclass(torch.Tensor), law)
        assert torch.equal(laws.draw(found, numbers).as_subclass(torch.Tensor), expected)
        with pytest.raises(RuntimeError, match="deterministic") if repeats else nullcontext():
            found.cumsum(-1)
    finally:
        torch.use_deterministic_algorithms(False)
