"""Whisper: files of sound in, `generate`'s own text out, by plain decoding, by drafts and in traces; word errors."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("soundfile")
pytest.importorskip("soxr")
pytest.importorskip("jiwer")

from acceptance.bench.scores import normaliser, word_errors
from acceptance.decoders import baseline
from acceptance.decoders.decoder import run as decode
from acceptance.decoders.method import Models, Options
from acceptance.decoders.methods import METHODS
from acceptance.models import compat
from acceptance.models.laws import streams
from acceptance.models.load import load_pair
from acceptance.models.model import Pair
from acceptance.models.sound import hearing
from acceptance.models.source import Begun
from acceptance.results.journal import read_records
from acceptance.results.records import RECORD
from acceptance.results.report import cut_notes
from acceptance.results.summary import summarise
from acceptance.results.validate import problems
from acceptance.text.speech import load_speech
from acceptance.trace.trace import load_trace
from simulator.ground.artefacts import UserError
from tests.conftest import Run

from .oracles import FREE, GREEDY, check_loop_and_trace, task_of
from .speech_files import (
    EN,
    ENGLISH,
    NO_TIMES,
    SETTINGS,
    START,
    TRANSCRIBE,
    TRANSLATE,
    WORDS,
    save_hearing,
    save_librispeech,
    save_sound,
)

BUDGET = 10
# Of an English model whose words stand in another order.
MIRRORED = {"decoder_start_token_id": 19 - START, "eos_token_id": 17, "pad_token_id": 17, "is_multilingual": False}
MIRRORED |= {"forced_decoder_ids": [[1, 19 - NO_TIMES]], "no_timestamps_token_id": 19 - NO_TIMES}
SAID = ["w3 w1", "w5 W6, w7", "[noise]", "w8 w8 w1 w0"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("speech")
    made = {"target": save_hearing(root / "target", 3), "draft": save_hearing(root / "draft", 4)}
    return made | {"english": save_hearing(root / "english", 5, ENGLISH), "speech": save_librispeech(root / "s", SAID)}


@pytest.fixture(scope="module")
def pair(folders: dict[str, Path]) -> Pair:
    loaded = load_pair(str(folders["target"]), str(folders["draft"]), device="cpu", dtype="float32")
    return hearing(loaded, str(folders["target"]), "en", None)


@pytest.fixture(scope="module")
def prompts(folders: dict[str, Path], pair: Pair) -> list[Begun]:
    found = load_speech(folders["speech"]).rows
    return [Begun(pair.target.first, pair.ear.features(u.sound.samples(pair.ear.rate))) for u in found]


def pair_of(folders: dict[str, Path]) -> tuple[object, ...]:
    named = {"--target": folders["target"], "--draft": folders["draft"], "--prompts": folders["speech"]}
    return *(word for option in named.items() for word in option), "--device", "cpu"


def written(pair: Pair, prompt: Begun, **how: Any) -> list[int]:
    """What Whisper's own `generate` writes, which begins and bars tokens by its generation config; without the end."""
    return pair.target.module.generate(prompt.source[None], max_new_tokens=BUDGET, **how)[0].tolist()


def without_end(tokens: list[int]) -> list[int]:
    return tokens[:-1] if tokens[-1] == 2 else tokens


def test_all_that_writes_greedily_writes_what_generate_does(pair: Pair, prompts: list[Begun]) -> None:
    expected = [written(pair, p, language="en") for p in prompts]
    rngs = streams(0, range(len(prompts)))
    plain = baseline.decode(pair.target, prompts, rule=GREEDY, max_new_tokens=BUDGET, rngs=rngs)
    assert [without_end(tokens) for tokens in plain] == expected
    assert len({tuple(text) for text in expected}) > 2, "the sound changes the text"
    check_loop_and_trace(pair.target, pair.draft, prompts, plain)
    models, options = Models(target=pair.target, draft=pair.draft), Options(draft_rule=GREEDY)
    for name in ("speculative", "ngram", "specexec"):
        begin = METHODS[name].begin(models, options)
        batches = [prompts] if METHODS[name].batched else [[p] for p in prompts]
        decoded = [d.tokens for batch in batches for d in decode(begin(batch, task_of(range(len(batch)), BUDGET)))]
        assert decoded == plain, name
    # What is barred changes texts: without it they are others.
    free = baseline.decode(pair.target.unbarred, prompts, rule=GREEDY, max_new_tokens=BUDGET, rngs=rngs)
    assert free != plain


def test_neither_model_gives_weight_to_what_is_barred(pair: Pair, prompts: list[Begun]) -> None:
    told = []
    for seed in range(9):
        rngs = streams(seed, range(len(prompts)))
        told += baseline.decode(pair.target, prompts, rule=FREE, max_new_tokens=BUDGET, rngs=rngs)
    barred, first = set(SETTINGS["suppress_tokens"]), set(SETTINGS["begin_suppress_tokens"])
    assert {t for text in told for t in text}.isdisjoint(barred)
    assert {text[0] for text in told}.isdisjoint(first)
    assert {t for text in told for t in text[1:]} > first, "later they may be written"
    begin = METHODS["speculative"].begin(Models(target=pair.target, draft=pair.draft), Options(draft_rule=FREE, k=4))
    proposed = [begin(prompts, task_of(range(len(prompts)), BUDGET, FREE, seed)).propose().tokens for seed in range(9)]
    drafted = torch.cat([torch.as_tensor(p) for p in proposed])
    assert set(drafted.flatten().tolist()).isdisjoint(barred)
    assert set(drafted[:, 0].tolist()).isdisjoint(first)


@pytest.mark.parametrize(
    ("settings", "told", "first"),
    [
        ({}, ("de", None), (START, EN + 1, TRANSCRIBE, NO_TIMES)),
        ({}, ("English", "translate"), (START, EN, TRANSLATE, NO_TIMES)),
        ({"language": "german", "task": "translate"}, (None, None), (START, EN + 1, TRANSLATE, NO_TIMES)),
        ({"forced_decoder_ids": [[1, EN], [2, TRANSCRIBE]]}, (None, None), (START, EN, TRANSCRIBE, NO_TIMES)),
    ],
)
def test_a_decoder_begins_as_generate_has_it_begin(
    settings: dict[str, Any], told: tuple[str | None, str | None], first: tuple[int, ...], folders: dict[str, Path]
) -> None:
    place = str(folders["target"])
    loaded = load_pair(place, place, device="cpu", dtype="float32")
    module, begun = loaded.target.module, []
    for name, value in settings.items():
        setattr(module.generation_config, name, value)
    target = replace(loaded.target, first=compat.first_tokens_of(module))
    found = hearing(replace(loaded, target=target), place, *told)
    assert found.target.first == first
    hook = module.get_decoder().register_forward_pre_hook(
        lambda _, args, given: begun.append(given["input_ids"][0].tolist()), with_kwargs=True
    )
    features = found.ear.features(np.zeros(4000, np.float32))
    module.generate(features[None], language=told[0], task=told[1], max_new_tokens=2)
    hook.remove()
    assert begun[0] == list(first)


def test_an_english_model_is_told_nothing(folders: dict[str, Path]) -> None:
    place = str(folders["english"])
    loaded = load_pair(place, place, device="cpu", dtype="float32")
    found = hearing(loaded, place, None, None)
    assert (found.target.first, found.ear.language) == ((START, NO_TIMES), "en")
    with pytest.raises(UserError, match=r"--language: --target .* knows one language and no other task, expected en$"):
        hearing(loaded, place, "de", None)
    assert hearing(loaded, place, "English", "transcribe").target == found.target


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ((None, None), "knows 2 and is not told which, expected en, de"),
        (("fr", None), "does not know 'fr', expected one of en, de"),
    ],
)
def test_a_model_of_several_languages_is_told_one(told: tuple[Any, Any], reason: str, folders: dict[str, Path]) -> None:
    place = str(folders["target"])
    with pytest.raises(UserError, match=f"--language: --target {place} {reason}"):
        hearing(load_pair(place, place, device="cpu", dtype="float32"), place, *told)


def test_word_errors_are_those_of_their_definition() -> None:
    references = ["the cat sat down", "Mr. Jones, it's", None, " . "]
    texts = ["a cat sat sat down", "mister jones it is", "any", "any"]
    score = word_errors(references, lambda prompt, _: texts[prompt], normaliser(None, "en")[1])
    assert score(0, [1]) == {"wer": {"sum": 2, "of": 4}}
    assert score(1, [1]) == {"wer": {"sum": 0, "of": 4}}
    assert score(2, [1]) == score(3, [1]) == {}
    assert normaliser(None, "ja")[1]("ab c") == "a b c"
    assert normaliser(None, "de")[1]("Grüß Gott!").strip() == "grüß gott"


def test_a_run_tells_word_errors_beside_speed(run: Run, folders: dict[str, Path], tmp_path: Path) -> None:
    words = pair_of(folders)
    words += "--max-new-tokens", BUDGET, "--task", "asr"
    done = run(
        "bench-decode",
        *words,
        "--language",
        "en",
        "--method",
        "speculative,topk",
        "--batch-size",
        2,
        "--answers",
        "said",
    )
    assert done.returncode == 0, done.stderr
    lines = [(tmp_path / "said" / name).read_text().splitlines() for name in
             ("model_answer/target-baseline.jsonl", "reference_answer/target-reference.jsonl")]  # fmt: skip
    told = [{line["question_id"]: line["choices"][0]["turns"][0] for line in map(json.loads, each)} for each in lines]
    assert list(told[1].values()) == SAID
    assert told[0].keys() == told[1].keys()
    shown = done.stdout.partition("beside references")[2].partition("\n\n")[0]
    rows = {line.split()[0]: line for line in shown.splitlines()[1:]}
    assert rows["speculative"].endswith("no difference")
    assert re.search(r"[+-]\d+\.\d", rows["topk"].partition("%")[2])
    assert "real time" in done.stdout
    assert "word error rate: without 1 of 4, 84-121123-0002 among them: " in done.stdout
    before = done.stdout.partition("medians before the rounds")[2].partition("\n\n")[0].splitlines()[1:]
    for line in before:
        prompt_ms, first_ms = map(float, line.split()[1:3])
        assert prompt_ms <= first_ms
    assert problems(tmp_path / "decode.jsonl", strict=True) == []
    assert run("report", "decode.jsonl", "--out", "page.html").returncode == 0
    page = (tmp_path / "page.html").read_text()
    assert "word error rate less plain decoding" in page
    assert "real time" in page
    records = [r for r in read_records(tmp_path / "decode.jsonl")[0] if r["kind"] == RECORD]
    assert all(r["identical_to_baseline"] for r in records if r["method"] == "speculative")
    plain = [r for r in records if r["method"] == "baseline"]
    assert ["text_scores" in r for r in plain] == [True, True, False, True], "nobody speaks in the third"
    parts = [r["text_scores"]["wer"] for r in plain if "text_scores" in r]
    again = word_errors(SAID, lambda prompt, _: list(told[0].values())[prompt], normaliser(None, "en")[1])
    assert [p["sum"] for p in parts] == [again(i, [1])["wer"]["sum"] for i in (0, 1, 3)]
    assert sum(p["of"] for p in parts) == 2 * (2 + 3 + 4), "to the normaliser w3 is two words"
    longest = max(r["generated_tokens"] for r in plain if "text_scores" in r)
    assert f" of 3 texts are as long as --max-new-tokens {longest} lets them" in cut_notes(records, longest)[0]
    assert cut_notes(records, longest + 1) == []
    summary = next(s for s in summarise(records, 0) if s["method"] == "baseline")
    assert summary["text_scores"]["wer"]["value"] == pytest.approx(sum(p["sum"] for p in parts) / 18)
    assert [round(r["sound_s"], 2) for r in plain] == [0.3, 0.45, 0.6, 0.75]


def test_a_run_does_not_go_on_with_other_sound(run: Run, folders: dict[str, Path], tmp_path: Path) -> None:
    words = *pair_of(folders | {"speech": tmp_path / "s"}), "--task", "asr", "--language", "en", "--max-new-tokens", 2
    for pitch in (440, 700):
        save_sound(tmp_path / "s" / "a.wav", pitch=pitch)
        done = run("bench-decode", *words, "--method", "baseline")
        assert pitch == 700 or "1 prompt, 1 run" in done.stdout
    assert "prompts changed, or the sound or transcripts that they stand for (items_sha256 is" in done.stderr


def test_samplers_decide_on_what_is_heard_too(run: Run, folders: dict[str, Path], tmp_path: Path) -> None:
    heard = pair_of(folders)
    words = *heard, "--max-new-tokens", BUDGET, "--task", "asr", "--language", "en", "--max-prompts", 1
    told = "--method", "speculative", "--sampler", "exact,transformers", "--temperature", 1
    done = run("bench-decode", *words, *told, "--trace-out", "trace.json")
    assert done.returncode == 0, done.stderr
    assert problems(tmp_path / "decode.jsonl", strict=True) == []
    records = [r for r in read_records(tmp_path / "decode.jsonl")[0] if r["kind"] == RECORD]
    assert {r["sampler"]["name"] for r in records if "sampler" in r} == {"exact", "transformers"}
    assert all("text_scores" in r for r in records)
    assert '"sample exact"' in (tmp_path / "trace.json").read_text()
    assert run("report", "decode.jsonl", "--out", "page.html").returncode == 0


def test_what_does_not_go_with_speech_is_refused_in_a_line(
    run: Run, user_error: Callable[..., None], folders: dict[str, Path], tmp_path: Path
) -> None:
    pair = "--target", folders["target"], "--draft", folders["draft"], "--device", "cpu", "--language", "en"
    heard = *pair, "--task", "asr", "--prompts", folders["speech"]
    for command in ("bench-decode", "measure-acceptance"):
        told = "--task asr: --prompts is not given, expected a folder or manifest of sound"
        user_error(run(command, *pair, "--task", "asr"), told)
        user_error(run(command, "--language", "en"), "--language: is read by --task asr alone")
        user_error(run(command, *heard, "--use-chat-template"), "--use-chat-template: is for prompts of text")
        spoken = "--task", "asr", "--prompts", folders["speech"], "--device", "cpu"
        user_error(
            run(command, *spoken), "--task asr: --target bundled is a decoder alone, expected a model that hears"
        )
    mistyped = ["asrr" if word == "asr" else word for word in heard]
    user_error(run("bench-decode", *mistyped), "--task asrr: no such task, nearest: asr")
    user_error(run("bench-decode", *heard, "--template", "{text}"), "--template: is read by --task summarize alone")
    # A path that two options share is of the one that names more of it.
    target, sound = folders["target"], next(folders["speech"].rglob("*.flac"))
    user_error(run("bench-decode", *heard[:-1], target / "config.json"), f"--prompts {target}/config.json: holds")
    user_error(run("bench-decode", *heard, "--out", sound), f"--out {sound}: line 1 is no JSON object")
    user_error(run("bench-decode", *heard, "--reference-column", "text"), "--reference-column text: ")
    texts = "--texts", folders["speech"] / "t.jsonl"
    user_error(run("measure-acceptance", *heard, *texts), "--texts")
    deaf = save_hearing(tmp_path / "deaf", 3)
    (deaf / "preprocessor_config.json").unlink()
    user_error(run("bench-decode", "--target", deaf, *heard[2:]), f"--target {deaf}: cannot be loaded (")
    for name, seconds in (("long", 1.4), ("short", 0.5)):
        save_sound(tmp_path / "s" / f"{name}.wav", seconds)
    done = run("bench-decode", *heard[:-1], "s", "--method", "baseline", "--max-new-tokens", 3)
    assert "left out: long: 1.4 s of sound, but the models hear 1 s" in done.stdout
    assert "word error rate: 2 of 2 utterances come without what is said" in done.stdout
    assert "beside references" not in done.stdout


def test_a_trace_holds_what_generate_writes_and_the_loop_agrees(
    run: Run,
    user_error: Callable[..., None],
    folders: dict[str, Path],
    pair: Pair,
    prompts: list[Begun],
    tmp_path: Path,
) -> None:
    words = pair_of(folders)
    words += "--max-new-tokens", BUDGET, "--task", "asr", "--language", "en", "--check-loop", 4, "--json"
    done = run("measure-acceptance", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["loop_check"]["identical"] == 4
    trace, parameters = load_trace(tmp_path / "trace.json")
    texts = [without_end(trace.token[trace.prompt == i].tolist()) for i in range(4)]
    assert texts == [written(pair, p, language="en") for p in prompts]
    assert (parameters["task"], parameters["encoder"]["decoder_begins_with"]) == ("asr", list(pair.target.first))
    # A draft of another vocabulary reads the text in its own tokens, behind the same sound.
    other = save_hearing(tmp_path / "other", 7, MIRRORED, WORDS[::-1])
    words = *words[:2], "--draft", other, *words[4:-3], "--cross-tokenizer", "text", "--out-dir", "across"
    done = run("measure-acceptance", *words)
    assert done.returncode == 0, done.stderr
    again, parameters = load_trace(tmp_path / "across" / "trace.json")
    assert again.token.tolist() == trace.token.tolist()
    assert again.accept_greedy.tolist() != trace.accept_greedy.tolist()
    assert parameters["approximation"]
    user_error(run("bench-decode", *words[:-6], "--language", "en"), f"--draft {other}: vocabulary differs")
    assert [p.source for p in trace.prompts] == [f"84-121123-000{i}" for i in range(4)]
