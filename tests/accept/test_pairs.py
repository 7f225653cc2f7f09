"""Pairs that do not fit to the row: fewer rows than tokens, contexts of any name, settings that a server takes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaForCausalLM, MptConfig, MptForCausalLM

from acceptance.measure.loop_check import run as check_loop
from acceptance.measure.measure import measure_pair
from acceptance.measure.plan import Settings, plan
from acceptance.models.caveats import caveats, settings_left_aside
from acceptance.models.load import load_pair
from acceptance.models.model import CONTEXT_NAMES, Model, Pair
from acceptance.models.rule import SamplingRule
from acceptance.text.prompts import Prompt
from acceptance.text.texts import Text
from acceptance.trace.trace import Trace

from .conftest import WORDS, save_model

GREEDY, SAMPLED = SamplingRule(temperature=0.0), SamplingRule(temperature=1.0)
# The tokenizer has 41 tokens, the target as many rows, the draft so many; this token ends the target's answers.
ROWS, END = 30, 40
PROMPTS = [Prompt(turns=(f"w{i} w{i + 3}",), source=f"p{i}") for i in range(6)]


def resized(folder: Path, to: Path, rows: int) -> Path:
    shutil.copytree(folder, to)
    model = LlamaForCausalLM.from_pretrained(to)
    model.resize_token_embeddings(rows)
    model.save_pretrained(to)
    return to


def edited(folder: Path, to: Path, name: str, **changes: Any) -> Path:
    shutil.copytree(folder, to)
    before = json.loads((to / name).read_text()) if (to / name).exists() else {}
    (to / name).write_text(json.dumps(before | changes))
    return to


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, random_pair: tuple[Path, Path]) -> tuple[Path, Path]:
    """A target that ends with a token the draft has no row for, and the draft."""
    root = tmp_path_factory.mktemp("rows")
    target = edited(random_pair[0], root / "target", "generation_config.json", eos_token_id=END)
    return target, resized(random_pair[1], root / "draft", ROWS)


@pytest.fixture(scope="module")
def narrow(folders: tuple[Path, Path]) -> Pair:
    return load_pair(*map(str, folders), device="cpu", dtype="float32")


def measured(pair: Pair, rule: SamplingRule, items: list[Any]) -> tuple[Settings, Any, Trace]:
    settings = Settings(rule=rule, draft_rule=rule, max_new_tokens=16, batch_size=3)
    planned = plan(pair, items, settings)
    return settings, planned, measure_pair(pair, planned, settings)


def generated(folder: Path, pair: Pair, prompt: Prompt) -> list[int]:
    """What transformers' own greedy loop writes."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = pair.tokenizer(prompt.turns[0], return_tensors="pt").input_ids
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=16, pad_token_id=0)
    return out[0, ids.shape[1] :].tolist()


def test_a_draft_of_fewer_rows_bounds_what_it_proposes_and_not_what_the_target_says(
    narrow: Pair, folders: tuple[Path, Path]
) -> None:
    assert (narrow.target.vocabulary, narrow.draft.vocabulary) == (41, ROWS)
    settings, planned, trace = measured(narrow, GREEDY, PROMPTS)
    texts = [trace.token[trace.prompt == i].tolist() for i in range(len(PROMPTS))]
    assert texts == [generated(folders[0], narrow, p) for p in PROMPTS]
    beyond = trace.token >= ROWS
    assert beyond.any()
    # Some end the answer, and the draft reads on behind others.
    assert any(text[-1] == END for text in texts)
    assert (trace.token[beyond] != END).any()
    assert not trace.accept_greedy[beyond].any()
    assert not trace.accept_sampled[beyond].any()
    loop = check_loop(narrow, planned, trace, settings, k=3, count=len(PROMPTS))
    assert loop.identical == len(PROMPTS)
    assert loop.loop_tokens_per_round.value == loop.trace_tokens_per_round.value


def test_sampled_acceptance_of_a_draft_of_fewer_rows_follows_from_the_logits(narrow: Pair) -> None:
    """By hand: q is 0 where the draft has no row, a = min(1, q / p), overlap = sum min(p, q)."""
    _, _, trace = measured(narrow, SAMPLED, PROMPTS[:2])
    before = narrow.tokenizer(PROMPTS[0].turns[0]).input_ids
    tokens = trace.token[trace.prompt == 0].tolist()
    for t, token in enumerate(tokens):
        text = [*before, *tokens[:t]]
        with torch.inference_mode():
            p = narrow.target.module(torch.tensor([text])).logits[0, -1].softmax(-1).numpy()
            shown = [n if n < ROWS else 0 for n in text]
            q = narrow.draft.module(torch.tensor([shown])).logits[0, -1].softmax(-1).numpy()
        q = np.concatenate((q, np.zeros(41 - ROWS)))
        here = (trace.prompt == 0) & (trace.position == t)
        assert trace.accept_sampled[here] == pytest.approx(min(1, q[token] / p[token]), abs=1e-4)
        assert trace.overlap[here] == pytest.approx(np.minimum(p, q).sum(), abs=1e-4)


def test_a_draft_of_more_rows_proposes_what_its_target_has(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    wide = load_pair(str(folders[1]), str(folders[0]), device="cpu", dtype="float32")
    assert (wide.target.vocabulary, wide.draft.vocabulary) == (ROWS, ROWS)
    few = [Prompt(turns=("w1 w2",), source="few"), Prompt(turns=("w1 w35",), source="beyond")]
    _, planned, trace = measured(wide, GREEDY, few)
    assert trace.token.max() < ROWS
    (left_out,) = planned.left_out
    assert (
        left_out.reason == f"beyond: holds token 36 (w35), but the target has {ROWS} rows for a tokenizer of 41 tokens"
    )


def test_what_a_model_has_no_row_for_is_left_out_by_name(narrow: Pair) -> None:
    beyond = "holds token 36 (w35), but the draft has 30 rows for a tokenizer of 41 tokens"
    items = [PROMPTS[0], Prompt(turns=("w1 w35",), source="p")]
    assert [
        s.reason for s in plan(narrow, items, Settings(rule=GREEDY, draft_rule=GREEDY, max_new_tokens=9)).left_out
    ] == [f"p: {beyond}"]
    # Of texts that were written, the target's own may hold such tokens: none of them is proposed.
    written = {"output": (1, 36, 2), "ended": False, "source": "t"}
    _, _, trace = measured(narrow, GREEDY, [Text(prompt=(3, 4), **written), Text(prompt=(3, 36), **written)])
    assert (trace.token.tolist(), trace.accept_sampled[1]) == ([1, 36, 2], 0)


def test_a_prompt_beyond_the_draft_is_one_line_in_every_command(run, user_error, folders: tuple[Path, Path]) -> None:
    target, draft = folders
    given = ("--target", target, "--draft", draft, "--prompts", "p.txt", "--max-new-tokens", 8, "--k", 2)
    run_in = Path(run.args[0])
    (run_in / "p.txt").write_text("w1 w35\n")
    for command in ("measure-acceptance", "bench-decode"):
        user_error(run(command, *given), "token 36 (w35), but the draft has 30 rows for a tokenizer of 41 tokens")
    (run_in / "p.txt").write_text("w1 w2\nw3\n")
    for command, more in (("measure-acceptance", ()), ("bench-decode", ("--method", "speculative,specexec,ngram"))):
        said = " ".join(run(command, *given, *more).stdout.split())
        assert "the draft has 30 rows for a tokenizer of 41 tokens: it proposes none of the others" in said
        assert "p.txt: read as text, a prompt a line" in said
    assert said.count(" 2/2") == 4


def test_rows_that_are_padding_alone_need_no_word(tmp_path: Path, random_pair: tuple[Path, Path]) -> None:
    for rows in (48, 64):
        target = resized(random_pair[0], tmp_path / str(rows), rows)
        pair = load_pair(str(target), str(random_pair[1]), device="cpu", dtype="float32")
        assert (pair.target.vocabulary, pair.draft.vocabulary) == (rows, 41)
        assert caveats(pair, GREEDY) == []


@pytest.mark.parametrize("name", CONTEXT_NAMES)
def test_a_context_is_known_under_any_name(name: str) -> None:
    class Config:
        def get_text_config(self) -> "Config":
            return self

    class Module:
        config = Config()

    model = Model(module=Module(), vocabulary=1)
    assert model.context_length == 2**31
    for stated, expected in ((-1, 2**31), (None, 2**31), ("64", 2**31), (64, 64)):
        setattr(Module.config, name, stated)
        assert model.context_length == expected


def test_mpt_states_its_context_as_max_seq_len(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "mpt", 1, WORDS)
    model = MptForCausalLM(MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=41, max_seq_len=24))
    model.save_pretrained(folder)
    pair = load_pair(str(folder), str(folder), device="cpu", dtype="float32")
    assert pair.context_lengths == (24, 24)
    long = Prompt(turns=(" ".join(WORDS[:10]),), source="long")
    _, planned, trace = measured(pair, GREEDY, [PROMPTS[0], long])
    assert [s.reason for s in planned.left_out] == ["long: 26 tokens with its output, but the models' context is 24"]
    assert len(trace.token) == 16


INSTRUCT = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.05}
ASIDE = [
    (INSTRUCT, GREEDY, {n: v for n, v in INSTRUCT.items() if n != "do_sample"}),
    (INSTRUCT, SamplingRule(temperature=0.6, top_k=20, top_p=0.95), {"repetition_penalty": 1.05}),
    (INSTRUCT, SamplingRule(temperature=0.6), {"top_p": 0.95, "top_k": 20, "repetition_penalty": 1.05}),
    ({"do_sample": True}, GREEDY, {"temperature": 1.0}),
    ({"do_sample": True}, SAMPLED, {}),
    ({}, GREEDY, {}),
    ({}, SAMPLED, {}),
    ({"eos_token_id": 1, "max_length": 99, "repetition_penalty": 1.0, "top_p": 1.0}, GREEDY, {}),
    ({"min_p": 0.05, "no_repeat_ngram_size": 3}, GREEDY, {"min_p": 0.05, "no_repeat_ngram_size": 3}),
    ({"suppress_tokens": [7, 8]}, GREEDY, {"suppress_tokens": [7, 8]}),
]


@pytest.mark.parametrize(("config", "rule", "expected"), ASIDE)
def test_settings_that_a_server_takes_and_a_measurement_does_not(config: Any, rule: Any, expected: Any) -> None:
    class Module:
        generation_config = GenerationConfig(**config)

    assert settings_left_aside(Module, rule) == expected


def test_generation_settings_left_aside_are_said_in_text_and_json(run, tmp_path: Path, random_pair: Any) -> None:
    target = edited(random_pair[0], tmp_path / "instruct", "generation_config.json", **INSTRUCT)
    (tmp_path / "p.txt").write_text("w1 w2\n")
    given = ("--target", target, "--draft", random_pair[1], "--prompts", "p.txt", "--max-new-tokens", 4)
    note = (
        "the target's generation_config asks for temperature 0.6, top_p 0.95, top_k 20, repetition_penalty 1.05, as "
        "servers take it by default: measured is greedy text without that; --temperature, --top-p, --top-k can be set"
    )
    assert note in " ".join(run("measure-acceptance", *given, "--k", 2).stdout.split())
    for command, more in (("measure-acceptance", ("--k", 2, "--force")), ("bench-decode", ("--method", "ngram"))):
        document = json.loads(run(command, *given, *more, "--json").stdout)
        assert note in document["notes"]
        assert document["parameters"]["generation_config_left_aside"]["repetition_penalty"] == 1.05
        assert "p.txt: read as text, a prompt a line" in document["notes"]
