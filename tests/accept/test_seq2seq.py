"""Models of an encoder and a decoder: loop and trace against transformers' own `generate`, and what they cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from acceptance.decoders import baseline, speculative
from acceptance.decoders.decoder import run
from acceptance.decoders.method import Models, Options
from acceptance.decoders.methods import METHODS
from acceptance.models import check, compat
from acceptance.models.context import context_of
from acceptance.models.laws import streams
from acceptance.models.model import Model
from acceptance.models.source import Begun, encode, longer, share_encoder

from .oracles import FREE, GREEDY, check_loop_and_trace, greedy_without_cache, task_of
from .tiny_models import SEQ2SEQ, seq2seq_model, seq2seq_pair, source_of

VOCABULARY, BUDGET = 12, 8
# Besides the plainest: of lengths that change, and by text.
CHAINS = ("confidence-stop", "ngram", "prompt-lookup")
KINDS = pytest.mark.parametrize("kind", SEQ2SEQ)


def prompts_of(model: Model) -> list[Begun]:
    return [Begun(model.first, source_of(model, i, n)) for i, n in enumerate((3, 9, 4, 1))]


def generated(model: Model, prompt: Begun, budget: int = BUDGET) -> list[int]:
    """What transformers writes behind the decoder's first tokens, greedily."""
    of_sound = isinstance(prompt.source, torch.Tensor)
    source = prompt.source[None] if of_sound else torch.tensor([prompt.source])
    given = {"input_features" if of_sound else "inputs": source, "decoder_input_ids": torch.tensor([list(prompt)])}
    if not of_sound:  # left to itself, the oldest release takes tokens of the pad's id for padding
        given["attention_mask"] = torch.ones_like(source)
    # Whisper's own `generate` asks for a tokenizer's tables, and ends in this one.
    how = {"do_sample": False, "max_new_tokens": budget, "forced_bos_token_id": None}
    written = transformers.GenerationMixin.generate(model.module, **given, **how)[0].tolist()
    return written[len(prompt) :]


@KINDS
def test_loop_and_trace_in_a_ragged_batch_write_what_generate_does(kind: str) -> None:
    target, draft = seq2seq_pair(kind, 5, VOCABULARY)
    prompts = prompts_of(target)
    expected = [generated(target, p) for p in prompts]
    assert expected == [greedy_without_cache(target, p, BUDGET) for p in prompts]
    assert len({tuple(text) for text in expected}) > 2, "the source changes the text"
    check_loop_and_trace(target, draft, prompts, expected)


@KINDS
@pytest.mark.parametrize("rule", [GREEDY, FREE], ids=["greedy", "sampled"])
def test_every_exact_method_writes_what_the_target_does(kind: str, rule: Any) -> None:
    """Trees where a decoder's positions can be told it; those of T5 go by columns, which is refused."""
    target, draft = seq2seq_pair(kind, 5, VOCABULARY)
    models, options = Models(target=target, draft=draft), Options(draft_rule=rule)
    prompts = prompts_of(target)
    expected = [greedy_without_cache(target, p, BUDGET) for p in prompts]
    if rule.is_greedy:
        for name in CHAINS:
            decoded = run(METHODS[name].begin(models, options)(prompts, task_of(range(4), BUDGET)))
            assert [d.tokens for d in decoded] == expected, name
    if kind == "t5":
        with pytest.raises(Exception, match=r"--target: cannot read a tree in one pass .*positions go by columns"):
            METHODS["specexec"].begin(models, options)
        return
    begin = METHODS["specexec"].begin(models, options)
    for i, prompt in enumerate(prompts[:1]):
        told = task_of([i], BUDGET, rule)
        plain = baseline.decode(target, [prompt], rule=rule, max_new_tokens=BUDGET, rngs=streams(7, [i]))
        assert run(begin([prompt], told))[0].tokens == plain[0]


@KINDS
def test_a_model_is_read_with_padding_and_cache_and_behind_a_rollback_as_without(kind: str) -> None:
    model = seq2seq_model(kind, 5, VOCABULARY)
    check.check_cache("--target", "some/model", model.module)
    for rolling_back in (False, True):
        assert check.disagreement(model, rolling_back=rolling_back) < 1e-4


@KINDS
def test_what_is_kept_of_the_source_is_made_once_and_is_never_rolled_back(kind: str) -> None:
    model = seq2seq_model(kind, 5, VOCABULARY)
    runs: list[int] = []
    model.module.get_encoder().register_forward_hook(lambda *_: runs.append(1))
    prompts = prompts_of(model)[:2]
    context = context_of(model, prompts)
    assert len(runs) == 1
    tokens, all_valid = torch.tensor([[0, 3, 1], [0, 2, 2]]), np.ones((2, 3), bool)
    context.read(tokens, all_valid, 1)
    before = [layer.keys.clone() for layer in context.of_source.layers]
    context.roll_back(np.array([1, 2]))
    context.read(tokens[:, :1], all_valid[:, :1], 1)
    context.roll_back(np.array([0, 0]))
    assert [len(layer.keys) for layer in context.of_source.layers] == [2, 2]
    assert all(torch.equal(a, layer.keys) for a, layer in zip(before, context.of_source.layers, strict=True))
    assert context.cache.get_seq_length() == 0
    context.select(np.array([1]))
    assert all(torch.equal(a[1:], layer.keys) for a, layer in zip(before, context.of_source.layers, strict=True))
    assert len(runs) == 1


@KINDS
def test_a_draft_of_the_same_encoder_takes_what_the_targets_has_made(kind: str) -> None:
    """As distil-whisper does; a draft whose encoder differs in one weight has its own."""
    target, other = seq2seq_pair(kind, 5, VOCABULARY)
    draft = seq2seq_model(kind, 8, VOCABULARY)
    draft.module.get_encoder().load_state_dict(target.module.get_encoder().state_dict())
    share_encoder(target.module, draft.module)
    share_encoder(target.module, other.module)
    assert draft.module.get_encoder() is target.module.get_encoder()
    assert other.module.get_encoder() is not target.module.get_encoder()
    runs: list[int] = []
    hook = target.module.get_encoder().register_forward_hook(lambda *_: runs.append(1))
    prompts = prompts_of(target)
    decoded = speculative.decode(
        target, draft, prompts, k=2, rule=GREEDY, draft_rule=GREEDY, max_new_tokens=BUDGET, rngs=streams(0, range(4))
    )
    hook.remove()
    assert len(runs) == 1
    assert [d.tokens for d in decoded] == [greedy_without_cache(target, p, BUDGET) for p in prompts]


def test_text_drafts_copy_from_what_the_encoder_reads() -> None:
    target, _ = seq2seq_pair("t5", 5, VOCABULARY)
    prompt = Begun((0,), (4, 7, 5, 0, 9, 8, 3))
    begin = METHODS["prompt-lookup"].begin(Models(target=target), Options(draft_rule=GREEDY, k=3))
    decoder = begin([prompt], task_of([0], 8))
    assert decoder.propose().tokens.tolist() == [[9, 8, 3]]


def test_a_prompt_keeps_its_source_and_is_told_from_one_of_another() -> None:
    one, other = Begun((0,), (4, 5)), Begun((0,), (4, 6))
    assert longer(one, [3, 2]) == Begun((0, 3, 2), (4, 5))
    assert longer((0,), [3, 2]) == [0, 3, 2]
    assert one != other
    assert one != (0,)
    assert len({one, other, Begun((0,), (4, 5))}) == 2


def test_a_prompt_without_a_source_is_not_read() -> None:
    with pytest.raises(TypeError, match="has no source"):
        encode(seq2seq_model("t5", 5, VOCABULARY), [(0, 1)])


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({"decoder_start_token_id": 7}, (7,)),
        ({"decoder_start_token_id": 7, "forced_bos_token_id": 2}, (7, 2)),
        ({"decoder_start_token_id": 7, "forced_decoder_ids": [[1, 4], [2, 9]]}, (7, 4, 9)),
        ({"decoder_start_token_id": 7, "forced_decoder_ids": [[1, None], [2, 9]]}, (7,)),
        ({"decoder_start_token_id": None, "bos_token_id": 3}, (3,)),
    ],
)
def test_a_decoder_begins_as_its_generation_config_says(settings: dict[str, Any], first: Sequence[int]) -> None:
    module = seq2seq_model("bart", 5, VOCABULARY, decoder_start_token_id=None).module
    for name, value in settings.items():
        setattr(module.generation_config, name, value)
    assert compat.first_tokens_of(module) == first
