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
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from acceptance.decoders import baseline, speculative
from acceptance.decoders.batch import Decoded
from acceptance.models import context as context_module
from acceptance.models import laws
from acceptance.models.context import Context, padded
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule

from .oracles import FREE, GREEDY, greedy_without_cache, law_of, logits_without_cache
from .tiny_models import Pair, prompts_of, related_pair

VOCABULARY = 11
KINDS = ("llama", "gpt2", "mistral")
RAGGED = prompts_of(1, [1, 12, 3, 7, 2, 2, 9, 5], VOCABULARY)


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Model:
    return related_pair(request.param, 21, VOCABULARY)[0]


@pytest.fixture
def llamas() -> Pair:
    return related_pair("llama", 31, VOCABULARY)


def speculate(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    k: int,
    budget: int,
    rule: SamplingRule = GREEDY,
    draft_rule: SamplingRule | None = None,
    indices: Sequence[int] | None = None,
) -> list[Decoded]:
    streams = laws.streams(5, range(len(prompts)) if indices is None else indices)
    rules = {"rule": rule, "draft_rule": draft_rule or rule}
    return speculative.decode(*pair, prompts, k=k, **rules, max_new_tokens=budget, rngs=streams)


def check_rounds(output: Decoded, endless: Decoded, k: int, budget: int, ends: Sequence[int]) -> None:
    """Each round begins where the one before it ended, and says why it could not commit all it might have; the same
    numbers without an end of sequence go on behind it.
    """
    assert len(endless.tokens) == budget
    first_end = next((t for t, token in enumerate(endless.tokens) if token in ends), budget)
    assert output.tokens == endless.tokens[: first_end + 1]
    # What a round drew of the target is counted, even where an end of sequence kept it out of the output.
    assert [r.accepted for r in output.rounds] == [r.accepted for r in endless.rounds][: len(output.rounds)]
    at = 0
    for done in output.rounds:
        assert done.start == at
        assert done.drafted == min(k, budget - at - 1)
        assert 0 <= done.accepted <= done.drafted
        assert 1 <= done.committed <= done.accepted + 1
        among_drafts = done.committed <= done.accepted
        assert not among_drafts or (done is output.rounds[-1] and output.tokens[-1] in ends)
        assert done.cut_by == ("eos" if among_drafts else "max" if done.drafted < k else "")
        at += done.committed
    assert at == len(output.tokens)


RULES = [GREEDY, FREE, SamplingRule(temperature=0.8, top_k=8, top_p=0.95)]


@settings(deadline=None, max_examples=20)
@given(
    kind=st.sampled_from(KINDS),
    k=st.integers(1, 8),
    budget=st.integers(1, 14),
    rule=st.sampled_from(RULES),
    draft_rule=st.sampled_from([*RULES, SamplingRule(temperature=2.0)]),
    ends=st.lists(st.integers(0, VOCABULARY - 1), max_size=2),
    order=st.lists(st.integers(0, len(RAGGED) - 1), min_size=1, max_size=4, unique=True),
)
def test_a_row_is_its_own_and_stops_at_its_end_or_budget(
    kind: str, k: int, budget: int, rule: SamplingRule, draft_rule: SamplingRule, ends: list[int], order: list[int]
) -> None:
    """In any company a row has the same rounds; an end cuts its text where it falls; greedy text is the target's."""
    target, draft = related_pair(kind, 21, VOCABULARY)
    endless = speculate((target, draft), RAGGED, k, budget, rule, draft_rule)
    if rule.is_greedy:
        assert [d.tokens for d in endless] == [greedy_without_cache(target, p, budget) for p in RAGGED]
    ending = replace(target, ends=tuple(ends)), draft
    together = speculate(ending, RAGGED, k, budget, rule, draft_rule)
    for output, free in zip(together, endless, strict=True):
        check_rounds(output, free, k, budget, ends)
    some = speculate(ending, [RAGGED[i] for i in order], k, budget, rule, draft_rule, indices=order)
    assert some == [together[i] for i in order]
    plain = decode_plainly(ending[0], range(len(RAGGED)), budget, rule)
    assert decode_plainly(ending[0], order, budget, rule) == [plain[i] for i in order]
    assert not rule.is_greedy or plain == [d.tokens for d in together]


def decode_plainly(model: Model, order: Sequence[int], budget: int, rule: SamplingRule) -> list[list[int]]:
    streams = laws.streams(5, order)
    return baseline.decode(model, [RAGGED[i] for i in order], rule=rule, max_new_tokens=budget, rngs=streams)


def test_columns_that_packing_forgot_to_move_change_greedy_output(
    llamas: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: this mistake is one that the ragged batch can show."""
    packed = []

    def pack(context: Context, width: int) -> None:
        packed.append(width)
        context.live = np.sort(context.live, axis=1)[:, -width:]
        for layer in context.cache.layers:
            layer.keys, layer.values = layer.keys[:, :, -width:], layer.values[:, :, -width:]

    expected = [greedy_without_cache(llamas[0], p, 30) for p in RAGGED]
    assert [d.tokens for d in speculate(llamas, RAGGED, 5, 30)] == expected
    monkeypatch.setattr(Context, "pack", pack)
    assert [d.tokens for d in speculate(llamas, RAGGED, 5, 30)] != expected
    assert packed


@pytest.mark.parametrize("k", [1, 2, 4])
def test_an_output_stops_at_an_end_of_sequence_wherever_it_falls(llamas: Pair, k: int) -> None:
    """The end is met in every place there is."""
    (target, draft), ends, prompts = llamas, (2, 7), prompts_of(6, [1, 2, 3, 4, 5, 6] * 40, VOCABULARY)
    met: Counter[str] = Counter()
    endless = speculate((target, draft), prompts, k, 9, FREE)
    for output, free in zip(speculate((replace(target, ends=ends), draft), prompts, k, 9, FREE), endless, strict=True):
        check_rounds(output, free, k, 9, ends)
        last = output.rounds[-1]
        if output.tokens[-1] in ends:
            met["draft" if last.committed <= last.accepted else "bonus" if last.accepted == k else "correction"] += 1
            met["at once"] += len(output.tokens) == 1
            met["before an accepted draft"] += last.committed < last.accepted
    places = {"draft", "bonus", "correction", "at once"} | ({"before an accepted draft"} if k > 1 else set())
    assert {place for place in places if met[place]} == places, met


def close(found: torch.Tensor, model: Model, rows: Sequence[Sequence[int]]) -> None:
    """Check for the logits after each row, read anew."""
    expected = torch.stack([logits_without_cache(model, row) for row in rows])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def read_all(model: Model, rows: list[list[int]], keep: int = 1) -> tuple[Context, torch.Tensor]:
    context = Context(model, len(rows))
    return context, context.read(*padded(rows, "cpu"), keep)


def check_next(context: Context, rows: Sequence[Sequence[int]], new: list[list[int]]) -> list[list[int]]:
    """Read new tokens behind what the context holds of rows; return the longer rows."""
    longer = [[*row, *more] for row, more in zip(rows, new, strict=True)]
    close(context.read(*padded(new, "cpu"), 1)[:, 0], context.model, longer)
    return longer


@pytest.mark.parametrize("columns", [1, 2, 5, None])
def test_logits_are_those_of_each_column_at_once_or_in_chunks(
    model: Model, columns: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = []
    hook = model.module.register_forward_hook(lambda m, i, o: widths.append(o.logits.shape[1]))
    if columns:
        monkeypatch.setattr(context_module, "LOGITS_BYTES", 4 * len(RAGGED) * VOCABULARY * columns)
        monkeypatch.setattr(context_module, "MAX_COLUMNS", 2)
    _, found = read_all(model, RAGGED, 9)
    hook.remove()
    for row, prompt in zip(found, RAGGED, strict=True):
        backs = range(min(9, len(prompt)))
        close(row[[-1 - back for back in backs]], model, [prompt[: len(prompt) - back] for back in backs])
    assert columns is None or (max(widths) <= columns and len(widths) > 1)


def test_a_row_sees_its_own_tokens_alone_whatever_happened_before(model: Model) -> None:
    """Rows forget and read unequal numbers of tokens, are packed, leave and change places, again and again."""
    rng, rows = np.random.default_rng(9), RAGGED
    context, _ = read_all(model, rows)
    for step in range(12):
        rows = [row[: max(1, len(row) - int(n))] for row, n in zip(rows, rng.integers(0, 6, len(rows)), strict=True)]
        context.roll_back(np.array([len(row) for row in rows]))
        assert context.lengths.tolist() == [len(row) for row in rows]
        if step % 3 == 1:
            context.pack(max(map(len, rows)))
            assert context.live.shape[1] == max(map(len, rows))
            assert context.live[:, -1].all()
        if step % 5 == 3:
            order = rng.permutation(len(rows))[:-2]
            context.select(order)
            rows = [rows[i] for i in order]
        assert context.cache.get_seq_length() == context.live.shape[1]
        rows = check_next(
            context, rows, [rng.integers(VOCABULARY, size=n).tolist() for n in rng.integers(1, 4, len(rows))]
        )


def test_logits_beyond_the_vocabulary_do_not_count(llamas: Pair) -> None:
    """Models pad their output; what the padding says is never chosen."""
    narrow = tuple(replace(m, vocabulary=4) for m in llamas)
    found = speculate(narrow, prompts_of(3, [1, 4, 2], 4), 3, 10, FREE)  # type: ignore[arg-type]
    assert max(max(d.tokens) for d in found) < 4


finite = st.integers(-3000, 3000).map(lambda n: n / 100)  # equal, or far enough apart for fp32 to see it
coarse = st.integers(-3, 3).map(float)  # ties
extreme = st.sampled_from([-1e4, -60.0, 0.0, 60.0, 1e4, float("-inf")])
vectors = st.one_of(*(st.lists(e, min_size=2, max_size=12) for e in (finite, coarse, extreme))).filter(
    lambda v: max(v) > float("-inf")
)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
temperatures = st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0, 1.7, 20.0])


@settings(deadline=None, max_examples=300)
@given(vectors, temperatures, st.integers(0, 13), st.floats(0.02, 1.0), dtypes)
@example([0.0, 0.0, 0.0, 0.0], 1.0, 2, 1.0, torch.float32)
@example([0.0, 0.0, 0.0, 0.0], 1.0, 0, 0.5, torch.float32)
def test_laws_are_those_of_numpy_in_full_precision_whatever_the_logits_are(
    logits: list[float], temperature: float, top_k: int, top_p: float, dtype: torch.dtype
) -> None:
    rule = SamplingRule(temperature=temperature, top_k=top_k, top_p=top_p)
    rounded = torch.tensor([logits, logits], dtype=dtype)
    found, logits = laws.probabilities(rounded, rule), rounded[0].tolist()
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


weights = st.lists(st.sampled_from([0.0, 1e-30, 1e-7, 0.25, 1.0, 3.0]), min_size=1, max_size=8).filter(any)
edges = st.one_of(st.sampled_from([0.0, 1 - 2**-53, 5e-324, 0.5]), st.floats(0, 1, exclude_max=True))


@settings(deadline=None, max_examples=300)
@given(weights, edges)
def test_a_token_of_weight_zero_is_never_drawn(law: list[float], uniform: float) -> None:
    drawn = int(laws.draw(torch.tensor([law]), torch.tensor([uniform], dtype=torch.float64))[0])
    assert law[drawn] > 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=2, max_size=8))
def test_acceptance_and_residual_put_the_targets_law_together(pairs: list[tuple[float, float]]) -> None:
    """min(p, q) and the residual add up to p: what one round emits at its first place."""
    p, q = np.array(pairs).T
    if p.sum() < 1e-3 or q.sum() < 1e-3:
        return
    p, q = p / p.sum(), q / q.sum()
    target, draft, rows = torch.from_numpy(p), torch.from_numpy(q), (len(p), len(p))
    accept = torch.nan_to_num(laws.acceptance(target.expand(rows), draft.expand(rows), torch.arange(len(p))))
    left = laws.residual(target, draft)
    rejected = float((draft * (1 - accept)).sum())
    emitted = draft * accept + rejected * left / left.sum()
    np.testing.assert_allclose(emitted.numpy(), p, atol=1e-9)


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
