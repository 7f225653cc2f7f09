"""A measurement from prompts or logged texts to a trace: batches, turns, ends, resuming, other tokenizers."""

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from acceptance.estimate.estimators import expected_rounds
from acceptance.measure import cross_tokenizer
from acceptance.measure import measure as measuring
from acceptance.measure.loop_check import Divergence, top_two
from acceptance.measure.loop_check import run as check_loop
from acceptance.measure.measure import measure_pair, turns_left_out
from acceptance.measure.plan import Plan, Settings, plan
from acceptance.models import context
from acceptance.models.load import load_pair
from acceptance.models.model import Pair
from acceptance.models.rule import SamplingRule
from acceptance.results.unfinished import Unfinished
from acceptance.text.conversation import Framing, answer_text, end_token, tokens_before
from acceptance.text.prompts import Prompt
from acceptance.text.texts import Text
from acceptance.trace.trace import ARRAYS, Trace
from simulator.ground.artefacts import UserError

from .traces import same_trace

GREEDY, SAMPLED = SamplingRule(temperature=0.0), SamplingRule(temperature=1.0)
TURNS = [("w1 w2 w3",), ("w9", "w10 w3"), ("w4 w4 w7 w8 w12 w30 w2",), ("w21 w22", "w1", "w2 w2"), ("w5",)]
PROMPTS = [Prompt(turns=t, source=f"p{i}", category="ab"[i % 2]) for i, t in enumerate(TURNS)]
TEMPLATE = (
    "{% for m in messages %}w0 {{ m['role'] if m['role'] == 'system' else '' }} {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}w39{% endif %}"
)


@pytest.fixture(scope="module")
def cross_pair(random_pair: tuple[Path, Path], other_vocabulary: Path) -> Pair:
    names = str(random_pair[0]), str(other_vocabulary)
    return load_pair(*names, device="cpu", dtype="float32", cross_tokenizer=True)


def settings(rule: SamplingRule = GREEDY, **changes: object) -> Settings:
    return Settings(**({"rule": rule, "draft_rule": rule, "max_new_tokens": 10, "batch_size": 2} | changes))


def measured(
    pair: Pair, rules: Settings, items: list = PROMPTS, unfinished: Unfinished | None = None
) -> tuple[Plan, Trace]:
    done: list[int] = []
    planned = plan(pair, items, rules)
    trace = measure_pair(pair, planned, rules, unfinished=unfinished, progress=done.append)
    assert sum(done) == len(items)
    return planned, trace


def run(*arguments: Any, **options: Any) -> Trace:
    return measured(*arguments, **options)[1]


def ending_with(pair: Pair, *target: int, draft: tuple[int, ...] = ()) -> Pair:
    """The pair, whose outputs end with these tokens."""
    models = (dataclasses.replace(pair.target, ends=target), dataclasses.replace(pair.draft, ends=draft))
    return dataclasses.replace(pair, target=models[0], draft=models[1])


def first_turns(trace: Trace, tokenizer: Any = None) -> list[Text]:
    """The first output of each prompt as it would be logged: in tokens, every other one as text with a tokenizer."""
    texts = []
    for i, p in enumerate(PROMPTS):
        tokens = tuple(trace.token[(trace.prompt == i) & (trace.turn == 0)].tolist())
        output = tokens if i % 2 or tokenizer is None else tokenizer.decode(tokens)
        texts.append(Text(prompt=p.turns[0], output=output, ended=False, source=p.source, category=p.category))
    return texts


@pytest.mark.parametrize("rule", [GREEDY, SAMPLED])
def test_what_a_prompt_gets_depends_on_no_other_prompt_and_no_batch(pair: Pair, rule: SamplingRule) -> None:
    together = run(pair, settings(rule, batch_size=5))
    apart = run(pair, settings(rule, batch_size=1))
    assert together.token.tolist() == apart.token.tolist()
    assert together.accept_sampled == pytest.approx(apart.accept_sampled, abs=1e-4)
    assert together.turn.tolist() == apart.turn.tolist()


def test_every_turn_is_answered_in_its_conversation(pair: Pair) -> None:
    trace = run(pair, settings())
    outputs = [(int(trace.prompt[s]), int(trace.turn[s])) for s in trace.starts[:-1]]
    assert outputs == [(i, t) for i, turns in enumerate(TURNS) for t in range(len(turns))]
    first, second = trace.select((trace.prompt == 1) & (trace.turn == 0)), trace.select(trace.turn == 1)
    answer = answer_text(pair.tokenizer, tokens_before(pair.tokenizer, Framing(), TURNS[1][:1], ()), first.token)
    before = tokens_before(pair.tokenizer, Framing(), TURNS[1], (answer,))
    spoken = [TURNS[1][0], *answer.split(), *TURNS[1][1].split()]
    assert pair.tokenizer.decode(before, skip_special_tokens=True).split() == [w for w in spoken if w != "<eos>"]
    assert second.context_length[0] == len(before)


def test_a_conversation_ends_where_the_next_turn_does_not_fit(pair: Pair) -> None:
    long = Prompt(turns=("w1", " ".join(["w2"] * 120)), source="long")
    planned, trace = measured(pair, settings(), [long, PROMPTS[0]])
    assert trace.turn.max() == 0
    assert turns_left_out(planned.items, trace).startswith("left out: 1 of 3 turns")
    all_fit, trace = measured(pair, settings())
    assert turns_left_out(all_fit.items, trace) == ""


def test_a_chat_template_frames_prompts_and_answers(random_pair: tuple[Path, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(random_pair[0])
    tokenizer.chat_template = TEMPLATE
    framing = Framing(chat_template=True, system_prompt="w7")
    text = tokenizer.decode(tokens_before(tokenizer, framing, ("w1", "w2"), ("w3 w4",)))
    assert [w for w in text.split() if w.startswith("w")] == [f"w{i}" for i in (0, 7, 0, 1, 0, 3, 4, 0, 2, 39)]
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(UserError, match="the template refuses these messages"):
        tokens_before(tokenizer, framing, ("w1",), ())
    with pytest.raises(UserError, match="--system-prompt"):
        Framing(system_prompt="Be brief.")


def test_an_answer_keeps_its_leading_space() -> None:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["?", "▁the", "▁cat", "▁sat"])}, unk_token="?"))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert fast.decode([3]) == "sat"
    assert answer_text(fast, [1, 2], [3, 3]) == " sat sat"


def test_the_end_of_an_answer_is_the_templates_own(random_pair: tuple[Path, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(random_pair[0])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} w7 {% endfor %}"
    w7 = tokenizer("w7").input_ids[0]
    assert end_token(tokenizer, Framing(chat_template=True), (0, w7)) == w7
    assert end_token(tokenizer, Framing(), (w7, 0)) == 0
    assert end_token(tokenizer, Framing(), (5, 6)) == 5


def test_outputs_end_with_their_end_token(pair: Pair) -> None:
    plain = run(pair, settings(max_new_tokens=20))
    end = int(plain.token[4])
    trace = run(ending_with(pair, end), settings(max_new_tokens=20), [PROMPTS[0]])
    output = plain.token[plain.prompt == 0].tolist()
    assert trace.token.tolist() == output[: output.index(end) + 1]


def test_text_logged_before_measures_as_when_it_was_written(pair: Pair) -> None:
    single = [dataclasses.replace(p, turns=p.turns[:1]) for p in PROMPTS]
    written = run(pair, settings(SAMPLED), single)
    read = run(pair, settings(SAMPLED), first_turns(written, pair.tokenizer))
    assert read.prompts == written.prompts
    for name in ARRAYS:
        assert getattr(read, name) == pytest.approx(getattr(written, name), abs=1e-4), name


def test_text_that_ended_gets_its_end_token(pair: Pair) -> None:
    text = Text(prompt="w1", output="w2 w3", ended=True, source="t")
    tokens = run(ending_with(pair, 0), settings(), [text]).token.tolist()
    assert tokens == [*pair.tokenizer("w2 w3").input_ids, 0]


def test_what_does_not_fit_is_left_out_and_named(pair: Pair) -> None:
    for item, reason in (
        (Prompt(turns=(" ".join(["w1"] * 119),), source="s"), "129 tokens with its output"),
        (Prompt(turns=(" ",), source="s"), "no token in the prompt"),
        (Text(prompt=" ", output="w1", ended=False, source="s"), "no token before the output"),
        (Text(prompt="w1", output=" ", ended=False, source="s"), "no token in the output"),
        (Text(prompt="w1", output=(41,), ended=False, source="s"), "a token id above the model's 40"),
        (Text(prompt="w1", output=(1,) * 128, ended=False, source="s"), "129 tokens with its output"),
    ):
        planned = plan(pair, [item, PROMPTS[0]], settings())
        assert [i.source for i in planned.infos] == ["p0"]
        assert reason in planned.left_out[0].reason
        with pytest.raises(UserError, match="none of 1 prompts can be measured"):
            plan(pair, [item], settings())


def test_an_interrupted_measurement_goes_on_without_losing_or_repeating(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = settings(SAMPLED)
    whole = run(pair, rules)
    kept = Unfinished(tmp_path / "out")
    assert kept.open({"seed": 0}) == 0
    done: list[int] = []
    batch = measuring.measure_batch

    def count(pair: Pair, planned: Plan, indices: range, rules: Settings) -> Trace:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.extend(indices)
        return batch(pair, planned, indices, rules)

    monkeypatch.setattr(measuring, "measure_batch", count)
    with pytest.raises(KeyboardInterrupt):
        run(pair, rules, unfinished=kept)
    assert done == [0, 1, 2, 3]
    kept.close()
    # What matches is kept by force too.
    done.clear()
    again = Unfinished(tmp_path / "out")
    assert again.open({"seed": 0}, force=True) == 2
    assert same_trace(run(pair, rules, unfinished=again), whole)
    assert done == [4]
    # A damaged batch is measured again, as is one that was kept since.
    for damaged in ("AAAA", "no base64!", None, 7):
        done.clear()
        again.batches[1] = damaged
        assert same_trace(run(pair, rules, unfinished=again), whole)
        assert done == [2, 3, 4]
    again.remove()
    assert list((tmp_path / "out").iterdir()) == []


def test_an_output_that_ends_early_scores_in_its_own_row(pair: Pair) -> None:
    """Rows leave the batch one by one while the draft reads along in chunks."""
    plain = run(pair, settings(max_new_tokens=20, batch_size=5))
    ending = ending_with(pair, int(plain.token[4]))
    rules = settings(SAMPLED, max_new_tokens=20, batch_size=5)
    trace = run(ending, rules)
    assert len(set(np.diff(trace.starts).tolist())) > 1
    first, again = trace.select(trace.turn == 0), run(ending, rules, first_turns(trace))
    for name in ("accept_sampled", "overlap", "log_p", "entropy_q", "max_q"):
        assert getattr(first, name) == pytest.approx(getattr(again, name), abs=1e-4), name


def test_what_is_kept_of_the_logits_is_bounded_while_writing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(pair, settings(SAMPLED, max_new_tokens=30))
    monkeypatch.setattr(context, "LOGITS_BYTES", 2 * 41 * 4 * 3)
    read: list[int] = []
    hook = pair.draft.module.register_forward_hook(lambda _, __, found: read.append(4 * found.logits.numel()))
    found = run(pair, settings(SAMPLED, max_new_tokens=30))
    hook.remove()
    assert max(read) <= context.LOGITS_BYTES
    assert found.token.tolist() == expected.token.tolist()
    assert found.overlap == pytest.approx(expected.overlap, abs=1e-4)


def test_a_draft_of_the_same_words_in_another_order_matches_by_strings(cross_pair: Pair, pair: Pair) -> None:
    """Its tokens cover the target's one to one, so the approximation is exact here."""
    assert not cross_pair.same_vocabulary
    trace = run(cross_pair, settings(SAMPLED))
    assert np.isnan(trace.overlap).all()
    assert (trace.rank_q == -1).all()
    ours, theirs = pair.tokenizer.get_vocab(), cross_pair.draft_tokenizer.get_vocab()
    reordered = torch.tensor([theirs[word] for word, _ in sorted(ours.items(), key=lambda item: item[1])])
    before = tokens_before(cross_pair.draft_tokenizer, Framing(), TURNS[0], ())
    output = trace.select(trace.prompt == 0)
    spoken = [int(reordered[token]) for token in output.token]
    for t, token in enumerate(spoken):
        with torch.inference_mode():
            logits = cross_pair.draft.module(torch.tensor([before + spoken[:t]])).logits[0, -1].double()
        log_q = float(logits.log_softmax(0)[token])
        expected = min(1.0, np.exp(log_q - float(output.log_p[t])))
        assert output.accept_sampled[t] == pytest.approx(expected, abs=1e-4)
        assert output.accept_greedy[t] == (logits.argmax() == token)


def test_tokens_share_the_draft_by_the_characters_they_cover() -> None:
    target, draft = np.array([[0, 2], [2, 6], [6, 6], [6, 7]]), np.array([[0, 4], [4, 6]])
    assert cross_tokenizer.shares(target, draft).tolist() == [[0.5, 0], [0.5, 1], [0, 0], [0, 0]]
    said = {"log_q": torch.tensor([-2.0, -np.inf]), "is_first": torch.tensor([True, False])}
    found = cross_tokenizer.acceptances(target, draft, said, torch.zeros(4), GREEDY)
    # The third goes on with a character that was proposed; the last is an end that the draft does not have.
    assert found["accept_sampled"].tolist() == pytest.approx([np.exp(-1), 0, 1, 0])
    assert found["accept_greedy"].tolist() == [True, False, True, False]


@pytest.mark.parametrize("ends", [(), (0,)])
def test_an_end_is_proposed_only_by_a_draft_that_has_one(cross_pair: Pair, ends: tuple[int, ...]) -> None:
    pair = ending_with(cross_pair, 0, draft=ends)
    for output, ended in (("w2 w3", True), ((0,), False)):
        text = Text(prompt="w1", output=output, ended=ended, source="t")
        assert (run(pair, settings(SAMPLED), [text]).accept_sampled[-1] > 0) == bool(ends)


def test_a_draft_whose_own_tokens_do_not_fit_says_so(cross_pair: Pair) -> None:
    config = copy.copy(cross_pair.draft.module.config)
    config.max_position_embeddings = 12
    short = dataclasses.replace(cross_pair.draft, module=SimpleNamespace(config=config))
    with pytest.raises(UserError, match="a text of 13 tokens of the draft is above its context of 12"):
        run(dataclasses.replace(cross_pair, draft=short), settings(), [PROMPTS[0]])


def test_spans_cover_the_text_also_where_a_token_is_half_a_character(tiny_tokenizer: AutoTokenizer) -> None:
    text = "naïve 世界 🐍 x"
    tokens = tiny_tokenizer(text).input_ids
    spans = cross_tokenizer.target_spans(tiny_tokenizer, (), tokens)
    assert spans[0, 0] == 0
    assert spans[-1, 1] == len(text)
    assert (spans[1:, 0] == spans[:-1, 1]).all()
    assert len(tokens) > len(text)


@pytest.mark.parametrize("rule", [GREEDY, SAMPLED])
def test_the_loop_agrees_with_the_trace(pair: Pair, rule: SamplingRule) -> None:
    rules = settings(rule, max_new_tokens=30)
    planned, trace = measured(pair, rules, [Prompt(turns=(f"w{i} w{i + 1}",), source=f"p{i}") for i in range(12)])
    check = check_loop(pair, planned, trace, rules, 3, 8)
    assert check.prompts == 8
    if rule.is_greedy:
        assert check.identical == 8
        assert check.loop_tokens_per_round.value == pytest.approx(check.trace_tokens_per_round.value)
    else:
        assert check.identical is None
        low, high = check.trace_tokens_per_round.ci95
        assert abs(check.loop_tokens_per_round.value - check.trace_tokens_per_round.value) < 2 * (high - low)


def test_a_difference_is_reported_with_its_margin(pair: Pair) -> None:
    planned, trace = measured(pair, settings(), PROMPTS[:1])
    wrong = dataclasses.replace(trace, token=np.where(trace.position == 6, trace.token + 1, trace.token))
    (divergence,) = check_loop(pair, planned, wrong, settings(), 2, 1).divergences
    assert (divergence.source, divergence.position) == ("p0", 6)
    output = [*tokens_before(pair.tokenizer, Framing(), TURNS[0], ()), *trace.token[:6].tolist()]
    with torch.inference_mode():
        best = pair.target.module(torch.tensor([output])).logits[0, -1].topk(2).values
    assert divergence.margin == pytest.approx(float(best[0] - best[1]), abs=1e-4)
    assert not divergence.is_tie
    at = {"source": "p", "position": 3, "rounding": 0.4}
    assert Divergence(margin=0.3, **at).is_tie
    assert not Divergence(margin=0.5, **at).is_tie


@pytest.mark.parametrize(("dtype", "largest"), [("float32", 1e-4), ("bfloat16", 1.0)])
def test_rounding_is_that_of_the_type(pair: Pair, dtype: str, largest: float) -> None:
    _, rounding = top_two(pair.target, [1, 2, 3], dtype)
    assert 0 < rounding < largest


def test_the_loop_is_compared_on_first_turns_alone_and_with_coins_of_its_own(pair: Pair) -> None:
    rules = settings(SAMPLED, max_new_tokens=20)
    planned, trace = measured(pair, rules)
    check = check_loop(pair, planned, trace, rules, 2, 5)
    first = expected_rounds(trace.select(trace.turn == 0), 2, "sampled", beyond=1).histogram
    assert check.trace_tokens_per_round.value == pytest.approx(first.tokens_per_round)
    same_draft = dataclasses.replace(pair, draft=pair.target)
    assert check_loop(same_draft, planned, trace, rules, 2, 5).loop_tokens_per_round.value == pytest.approx(3)


def test_turns_are_parted_by_a_line_end_and_templates_add_nothing(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokens_before(tiny_tokenizer, Framing(), ("a", "b"), (" c",))
    assert tiny_tokenizer.decode(tokens) == "a c\nb"
    framed = copy.copy(tiny_tokenizer)
    framed.chat_template = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"
    tokens = tokens_before(framed, Framing(chat_template=True), ("a",), ())
    assert tokens == tiny_tokenizer("<a>", add_special_tokens=False).input_ids
