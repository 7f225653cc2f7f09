"""`measure-acceptance` and `bench-decode` on folders of encoder-decoder models, and the pairs that they refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from acceptance.decoders import speculative
from acceptance.models.laws import streams
from acceptance.models.load import load_pair
from acceptance.models.source import Begun, begun
from acceptance.results.journal import read_records
from acceptance.results.records import latest
from acceptance.results.validate import problems
from acceptance.trace.trace import load_trace
from tests.conftest import Run

from .oracles import GREEDY, greedy_without_cache
from .test_seq2seq import generated
from .tiny_models import save_seq2seq

WORDS = [f"w{i}" for i in range(12)]
PROMPTS = ["w3 w1 w7", "w5", "w2 w2 w9 w10 w4"]
BUDGET = 6


def succeeded(done: CompletedProcess[str]) -> CompletedProcess[str]:
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("seq2seq")
    made = {name: save_seq2seq(root / name, name, 3, WORDS) for name in ("t5", "bart", "whisper")}
    made |= {f"{name} draft": save_seq2seq(root / f"{name} draft", name, 4, WORDS) for name in ("t5", "bart")}
    return made


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    return path


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_trace_holds_what_generate_writes_and_the_loop_agrees(
    kind: str, run: Run, folders: dict[str, Path], prompts: Path, tmp_path: Path
) -> None:
    pair = "--target", folders[kind], "--draft", folders[f"{kind} draft"], "--k", "1:3", "--device", "cpu"
    told = *pair, "--prompts", prompts, "--max-new-tokens", BUDGET
    done = json.loads(
        succeeded(run("measure-acceptance", *told, "--check-loop", len(PROMPTS), "--json", "--out-dir", "a")).stdout
    )
    assert done["loop_check"]["identical"] == len(PROMPTS)
    trace, _ = load_trace(tmp_path / "a" / "trace.json")
    target = load_pair(str(folders[kind]), str(folders[kind]), device="cpu", dtype="float32").target
    expected = [
        generated(target, Begun(target.first, tuple(WORDS.index(w) for w in text.split())), BUDGET) for text in PROMPTS
    ]
    assert [trace.token[trace.prompt == i].tolist() for i in range(len(PROMPTS))] == expected
    # The same text, as if it had been logged.
    lines = [
        json.dumps({"prompt": text, "output_token_ids": tokens}) for text, tokens in zip(PROMPTS, expected, strict=True)
    ]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    succeeded(run("measure-acceptance", *pair, "--texts", "texts.jsonl", "--out-dir", "b"))
    again, _ = load_trace(tmp_path / "b" / "trace.json")
    assert again.token.tolist() == trace.token.tolist()
    assert again.accept_greedy.tolist() == trace.accept_greedy.tolist()


@pytest.mark.parametrize(
    ("kind", "methods", "more"),
    [
        ("t5", "speculative,specexec,prompt-lookup", ()),
        pytest.param("bart", "specexec,topk", ("--time-parts",), marks=pytest.mark.whole),
    ],
)
def test_a_benchmark_decodes_by_every_method_that_such_a_model_has(
    kind: str, methods: str, more: tuple[str, ...], run: Run, folders: dict[str, Path], prompts: Path, tmp_path: Path
) -> None:
    told = "--target", folders[kind], "--draft", folders[f"{kind} draft"], "--prompts", prompts, "--device", "cpu"
    done = succeeded(run("bench-decode", *told, "--max-new-tokens", BUDGET, "--method", methods, *more))
    assert problems(tmp_path / "decode.jsonl", strict=True) == []
    records = latest(read_records(tmp_path / "decode.jsonl")[0])
    of_methods = {name: [r for r in records if r["method"] == name] for name in ("baseline", *methods.split(","))}
    for name, mine in of_methods.items():
        if (name, kind) == ("specexec", "t5"):
            assert {r["status"] for r in mine} == {"skipped"}
            assert "its positions go by columns" in mine[0]["error"]
            continue
        assert [r["status"] for r in mine] == ["ok"] * len(PROMPTS)
        assert name == "topk" or all(r["identical_to_baseline"] for r in mine)
        # Of the encoder and of the decoder's first tokens; their time is the prompt's.
        first = 1 if kind == "t5" else 2
        assert [r["prompt_tokens"] for r in mine] == [len(text.split()) + first for text in PROMPTS]
        assert all(r["prefill_ms"] > 0 for r in mine)
    assert "encoder and prompt ms" in done.stdout


def test_pairs_and_options_that_are_not_for_models_with_an_encoder_are_refused(
    run: Run,
    user_error: Callable[..., None],
    folders: dict[str, Path],
    random_pair: tuple[Path, Path],
    prompts: Path,
    tmp_path: Path,
) -> None:
    bench = "bench-decode", "--prompts", prompts, "--device", "cpu", "--max-new-tokens", 4
    t5, draft = ("--target", folders["t5"]), ("--draft", folders["t5 draft"])
    has = f"--target {folders['t5']} has an encoder, expected a decoder alone"
    for option, value in (("--eagle", folders["t5"]), ("--medusa", folders["t5"]), ("--inflate-target", 4)):
        user_error(run(*bench, *t5, *draft, option, value), f"{option}: {has}")
    sound = folders["whisper"]
    for command in ("bench-decode", "measure-acceptance"):
        told = command, "--prompts", prompts, "--device", "cpu", "--target", sound, "--draft", sound
        user_error(run(*told), f"--target {sound}: its encoder reads sound, expected --task asr beside it")
    told = "--prompts", prompts, "--device", "cpu", *t5, *draft, "--task", "asr"
    user_error(run("bench-decode", *told), f"{prompts}: holds nothing to read (line 1: no")
    lone = tmp_path / "lone"
    mixed = save_seq2seq(lone, "t5", 4, ["<eos>", *(f"w{i}" for i in range(40))])
    user_error(run(*bench, "--target", mixed, "--draft", random_pair[1]), "a decoder alone, but --target", "of text")
    user_error(run(*bench, "--target", random_pair[0], "--draft", mixed), "an encoder-decoder of text, but --target")
    user_error(run(*bench, *t5, "--draft", sound), "an encoder-decoder of sound, but --target", "two of a kind")
    for command in ("bench-decode", "measure-acceptance"):
        told = command, "--prompts", prompts, "--device", "cpu", *t5
        user_error(
            run(*told),
            f"--draft: none is given, and the bundled draft has another vocabulary than {' '.join(map(str, t5))} (",
        )
    other = save_seq2seq(tmp_path / "other", "t5", 4, WORDS[::-1])
    across = "measure-acceptance", "--prompts", prompts, "--cross-tokenizer", "text"
    user_error(
        run(*across, *t5, "--draft", other),
        f"--cross-tokenizer text: --target {folders['t5']} reads text with an encoder",
    )


def test_a_draft_of_the_targets_weights_shares_its_encoder(folders: dict[str, Path]) -> None:
    own = load_pair(str(folders["bart"]), str(folders["bart"]), device="cpu", dtype="float32")
    assert own.draft.module.get_encoder() is own.target.module.get_encoder()
    wide = load_pair(str(folders["t5"]), str(folders["t5 draft"]), device="cpu", dtype="float32")
    assert wide.draft.module.get_encoder() is not wide.target.module.get_encoder()
    assert (own.target.first, wide.target.first) == ((0, 2), (0,))


def test_a_draft_of_fewer_rows_reads_sources_of_tokens_that_it_lacks(folders: dict[str, Path], tmp_path: Path) -> None:
    narrow = save_seq2seq(tmp_path / "narrow", "bart", 4, WORDS[:9])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (narrow / name).write_bytes((folders["bart"] / name).read_bytes())
    pair = load_pair(str(folders["bart"]), str(narrow), device="cpu", dtype="float32")
    assert pair.draft.vocabulary == 9
    prompts = [begun(pair.target, (11, 10, 3)), begun(pair.target, (9,))]
    task = {"rule": GREEDY, "max_new_tokens": BUDGET, "rngs": streams(0, range(2))}
    decoded = speculative.decode(pair.target, pair.draft, prompts, k=2, draft_rule=GREEDY, **task)
    assert [d.tokens for d in decoded] == [greedy_without_cache(pair.target, p, BUDGET) for p in prompts]
