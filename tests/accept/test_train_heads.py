"""The scripts that train heads: on texts of any kind or on a target's own answers, interrupted or not."""

import importlib
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from acceptance.decoders import heads
from acceptance.decoders.method import Models
from acceptance.models import load as models
from acceptance.text.texts import load_texts

from .oracles import plain
from .test_heads import METHODS, RAGGED, decode, feature_from_scratch, hidden_of, random_heads
from .tiny_models import random_model

SMALL = ("--steps", "4", "--batch-size", "2", "--seq-len", "24", "--medusa-heads", "3")
EAGLE = ("--kind", "eagle", *SMALL, "--draft-vocabulary", "20")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Return what imports a script, or what helps them."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    return importlib.import_module


@pytest.fixture
def train(random_pair: tuple[Path, Path], tmp_path: Path, script: Callable[[str], ModuleType]) -> Callable[..., Result]:
    """Return a function that trains heads of a random target on some text."""
    command = ["--target", str(random_pair[0]), "--out", str(tmp_path / "heads"), "--text"]
    return lambda text, *more: CliRunner().invoke(script("train_heads").main, [*command, str(text), *more])


@pytest.fixture
def answer(
    random_pair: tuple[Path, Path], tmp_path: Path, script: Callable[[str], ModuleType]
) -> Callable[..., Result]:
    """Return a function that has a random target answer prompts, into answers.jsonl."""
    prompts = tmp_path / "prompts.jsonl"
    texts = [" ".join(f"w{n}" for n in range(i, i + 2 + i % 5)) for i in range(40)]
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    command = ["--target", str(random_pair[0]), "--prompts", str(prompts), "--out", str(tmp_path / "answers.jsonl")]
    command += ["--max-new-tokens", "10", "--batch-size", "20", "--dtype", "float32"]
    return lambda *more: CliRunner().invoke(script("own_answers").main, [*command, *more])


def write_texts(folder: Path, files: int, words: int) -> Path:
    rng = np.random.default_rng(1)
    folder.mkdir(exist_ok=True)
    for i in range(files):
        (folder / f"{i}.txt").write_text(" ".join(f"w{n}" for n in rng.integers(40, size=words)))
    return folder


def loaded(random_pair: tuple[Path, Path], out: Path) -> Models:
    target = models.load_pair(*map(str, random_pair), device="cpu", dtype="float32").target
    return Models(target=target, medusa=out / "medusa", eagle=out / "eagle")


def test_the_script_trains_heads_of_any_target(
    random_pair: tuple[Path, Path], tmp_path: Path, train: Callable[..., Result]
) -> None:
    text, out = write_texts(tmp_path / "text", 60, 80), tmp_path / "heads"
    found = train(text, *SMALL)
    assert found.exit_code == 0, found.stderr
    assert re.search(r"medusa .* held-out accuracy by depth  1: 0\.\d+  2: 0\.\d+  3: 0\.\d+\n", found.stdout)
    assert re.search(r"eagle .* held-out accuracy by depth  1: 0\.\d+ ", found.stdout)
    parts = loaded(random_pair, out)
    for name in METHODS:
        assert [d.tokens for d in decode(name, parts, RAGGED, 8)] == plain(parts.target, RAGGED, 8)
    # What is there stays: a second run trains nothing and says the same.
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.rglob("*.*")}
    again = train(text, *SMALL)
    assert (again.exit_code, again.stdout) == (0, found.stdout)
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.rglob("*.*")}


def test_what_was_trained_otherwise_is_no_answer(
    tmp_path: Path, train: Callable[..., Result], script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script("training"), "CHECKPOINT_S", 0.0)
    text, medusa = write_texts(tmp_path / "text", 60, 40), ("--kind", "medusa", *SMALL)
    assert train(text, *medusa).exit_code == 0, "a checkpoint of Medusa's is written too"
    for words, reason in (
        ((text, *medusa, "--steps", "5"), "its head was trained with steps 4, expected that or another folder"),
        ((text, *medusa, "--medusa-blocks", "3"), "its head was trained with shape {'blocks': 2, 'heads': 3}"),
        ((write_texts(tmp_path / "other", 50, 50), *medusa), "its head was trained with text another"),
    ):
        found = train(*words)
        assert (found.exit_code, found.stdout) == (2, "")
        assert f"--out {tmp_path / 'heads/medusa'}: {reason}" in found.stderr
    with monkeypatch.context() as patch:
        patch.setattr(script("train_heads"), "measure", lambda *_: 1 / 0)
        assert train(text, *medusa, "--out", str(tmp_path / "half")).exit_code == 1
    found = train(text, *medusa, "--out", str(tmp_path / "half"), "--medusa-blocks", "3")
    assert found.exit_code == 2
    assert f"{tmp_path / 'half/medusa/checkpoint.pt'}: cannot be gone on with (" in found.stderr.splitlines()[-1]


def test_the_script_names_a_text_that_is_too_short(tmp_path: Path, train: Callable[..., Result]) -> None:
    for files, words in ((1, "1 files are too few"), (30, "tokens are too few, expected more than --seq-len 512")):
        text = write_texts(tmp_path / str(files), files, 3)
        found = train(text)
        assert found.exit_code == 2
        assert f"--text {text}: " in found.stderr
        assert words in found.stderr
        assert not (tmp_path / "heads").exists()
    lines = tmp_path / "answers.jsonl"
    lines.write_text('{"prompt_token_ids": [1, 2], "output_token_ids": [3, 4, 5]}\n')
    assert f"--text {lines}: 1 texts are too few, some have to be held out" in train(lines).stderr
    lines.write_bytes(b"GGUF")
    wrong = {
        f"--text {lines}: holds nothing to read": (lines,),
        "'--draft-vocabulary': 0 is not in": (lines, *EAGLE[:-1], "0"),
    }
    wrong["--target"] = lines, "--target", str(tmp_path / "40")
    (tmp_path / "40").mkdir()
    for reason, words in wrong.items():
        found = train(*words)
        assert (found.exit_code, found.stderr.count("Error: ")) == (2, 1)
        assert reason in found.stderr.splitlines()[-1]


def test_a_target_answers_as_it_does_anywhere_and_goes_on_where_it_stopped(
    random_pair: tuple[Path, Path], tmp_path: Path, answer: Callable[..., Result]
) -> None:
    """Greedy and sampled; what was cut in the middle of a line is written anew."""
    path = tmp_path / "answers.jsonl"
    assert answer("--minutes", "0").exit_code == 0
    whole = path.read_text().splitlines() if path.exists() else []
    assert len(whole) <= 20
    path.write_text("\n".join([*whole[:2], '{"prompt_token_ids": [3, 4']))
    done = answer()
    assert done.exit_code == 0, done.output
    assert re.search(r"answers  \d+ tokens +[\d,]+ tokens/s +\d+ s left", done.stderr)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["source"] for row in rows}) == len(rows) == 80
    target = loaded(random_pair, tmp_path).target
    greedy = [row for row in rows if row["temperature"] == 0]
    assert [r["output_token_ids"] for r in greedy] == plain(target, [r["prompt_token_ids"] for r in greedy], 10)
    first = {row["source"]: row["output_token_ids"] for row in rows}
    path.unlink()
    assert answer("--batch-size", "30").exit_code == 0
    assert {t.source: list(t.output) for t in load_texts(path).rows} == first


def test_heads_learn_from_answers_and_draft_from_their_commonest_tokens(
    random_pair: tuple[Path, Path], tmp_path: Path, answer: Callable[..., Result], train: Callable[..., Result]
) -> None:
    assert answer().exit_code == 0
    found = train(tmp_path / "answers.jsonl", *SMALL, "--draft-vocabulary", "20")
    assert found.exit_code == 0, found.output
    out, rows = tmp_path / "heads", load_texts(tmp_path / "answers.jsonl").rows
    record = json.loads((out / "eagle/training.json").read_text())
    assert record["data"]["texts_train"] + record["data"]["texts_held_out"] == 80
    parts = loaded(random_pair, out)
    module, _ = heads.load("eagle", out / "eagle", parts.target)
    said = set(module.tokens.tolist())
    assert len(said) == 20
    share = np.mean([token in said for row in rows for token in row.output])
    assert share > 0.5
    for name in ("medusa", "eagle-tree"):
        assert [d.tokens for d in decode(name, parts, RAGGED, 8)] == plain(parts.target, RAGGED, 8)


class Interrupted(Exception):
    """Stands for a machine that stops."""


def test_an_interrupted_training_ends_as_if_it_had_not_been(
    tmp_path: Path,
    answer: Callable[..., Result],
    train: Callable[..., Result],
    script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    random_pair: tuple[Path, Path],
) -> None:
    assert answer().exit_code == 0
    text, weights = tmp_path / "answers.jsonl", tmp_path / "heads/eagle/model.safetensors"
    monkeypatch.setattr(script("training"), "CHECKPOINT_S", 0.0)
    assert train(text, *EAGLE).exit_code == 0
    expected, once = load_file(weights), weights.with_name("training.json").read_text()
    assert not weights.with_name("checkpoint.pt").exists()
    for path in weights.parent.iterdir():
        path.unlink()
    calls = itertools.count()
    right = script("train_heads").LOSSES["eagle"]

    def stops(*parts: object) -> Callable[..., torch.Tensor]:
        loss = right(*parts)

        def of(*words: object) -> torch.Tensor:
            if next(calls) == 2:
                raise Interrupted
            return loss(*words)

        return of

    with monkeypatch.context() as patch:
        patch.setitem(script("train_heads").LOSSES, "eagle", stops)
        assert isinstance(train(text, *EAGLE).exception, Interrupted)
    # What there is can be tried already.
    parts = loaded(random_pair, tmp_path / "heads")
    assert [d.tokens for d in decode("eagle", parts, RAGGED, 8)] == plain(parts.target, RAGGED, 8)
    assert train(text, *EAGLE).exit_code == 0
    found = load_file(weights)
    for name, values in expected.items():
        # What is kept of texts is rounded, and by which batch they were read first.
        torch.testing.assert_close(found[name], values, atol=4e-3, rtol=4e-3)
    steps = [json.loads(t)["steps"] for t in (once, weights.with_name("training.json").read_text())]
    assert steps == [4, 4]
    assert not weights.with_name("checkpoint.pt").exists()


def test_training_by_the_clock_ends_with_it_and_its_rate_falls_to_nothing(
    script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = script("training")
    clock = itertools.count(step=0.6)
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    recipe = training.Recipe(
        steps=3, batch_size=1, seq_len=4, learning_rate=1e-3, device="cpu", seed=1, compile=False, minutes=5.0
    )
    rates, rate_at = [], training.rate_at
    monkeypatch.setattr(training, "rate_at", lambda *given: rates.append(rate_at(*given)) or rates[-1])
    model = torch.nn.Linear(4, 4)
    windows = itertools.repeat(torch.ones(1, 5))
    record = training.train(model, lambda run, window: run(window[:, :4]).square().sum(), windows, recipe)
    assert 60 * 4.9 < record["training_s"] <= 60 * 5.1
    assert 2 * record["steps"] == len(rates) > 200  # of two optimisers
    assert max(rates) == 1
    assert rates[-1] < 0.05


def test_what_counts_is_what_the_target_wrote(script: Callable[[str], ModuleType]) -> None:
    """And what a target read of a text is kept, as it is read with others beside it."""
    text, recipe = script("heads_text"), script("training").Recipe
    small = recipe(steps=1, batch_size=2, seq_len=7, learning_rate=1e-3, device="cpu", seed=1, compile=False)
    texts = [text.Written([1, 2, 3, 4, 5], 2), text.Written([6, 7, 8, 9, 1, 2, 3, 4, 5], 3), text.Written([5, 6], 1)]
    window = text.window_of(texts, [0, 1], small)
    assert window.tokens.tolist() == [[1, 2, 3, 4, 5, 0, 0], [6, 7, 8, 9, 1, 2, 3]]
    assert window.counts.int().tolist() == [[0, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 0]]
    target = random_model("llama", 59, 11)
    for room in (0, 1 << 20):
        reading = text.Reading(target, room)
        first = reading(window)
        again = reading(text.window_of(texts, [1], small))
        torch.testing.assert_close(again, first[1:], atol=0.02, rtol=0.02)
        assert set(reading.kept) == ({0, 1} if room else set())
    seen = [set(w.texts) for w in itertools.islice(text.batches_of_texts(texts, small), 4)]
    assert [set.union(*seen[i : i + 2]) for i in (0, 2)] == [{0, 1, 2}] * 2


@pytest.mark.parametrize("kind", ["medusa", "eagle"])
def test_texts_of_a_few_tokens_teach_what_they_can_and_spoil_nothing(
    kind: str, script: Callable[[str], ModuleType]
) -> None:
    """Of four tokens nothing is left behind the third: the mean of no loss is no number."""
    text, target = script("heads_text"), random_model("llama", 59, 11)
    small = script("training").Recipe(
        steps=1, batch_size=2, seq_len=7, learning_rate=1e-3, device="cpu", seed=1, compile=False
    )
    window = text.window_of([text.Written([1, 2, 3, 4], 2), text.Written([5, 6, 7, 2], 2)], [0, 1], small)
    module = random_heads(kind, target, 3).requires_grad_(True)
    loss = script("train_heads").LOSSES[kind](text.Reading(target, 0), heads.Voice(target, module))(module, window)
    assert loss > 0
    loss.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in module.parameters())


def test_an_eagle_head_begins_as_the_best_linear_map(
    script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of embedding and feature to the next feature, each of its values by its own size; least squares by numpy."""
    text, heads_script = script("heads_text"), script("train_heads")
    monkeypatch.setattr(heads_script, "LINEAR_TOKENS", 400)
    target = random_model("llama", 62, 11)
    module = heads.Eagle(hidden_size=16, heads=2, kv_heads=1, mlp_size=24, rope_theta=10_000.0)
    windows = [text.of_stream(torch.randint(0, 11, (4, 60))) for _ in range(2)]
    heads_script.begin_linear(module, text.Reading(target, 0), iter(windows))
    read, said = [], []
    for window in windows:
        for tokens in window.tokens.tolist():
            hidden = hidden_of(target, tokens)
            embedded = target.module.get_input_embeddings()(torch.tensor(tokens[1:])).detach()
            parts = (part / (part.square().mean(-1, keepdim=True) + 1e-6).sqrt() for part in (embedded, hidden[:-1]))
            read.append(torch.cat(tuple(parts), dim=-1))
            said.append(hidden[1:])
    x, y = torch.cat(read).double().numpy(), torch.cat(said).double().numpy()
    size = np.sqrt((y**2).mean(0))
    padded = np.concatenate((x, np.sqrt(heads_script.RIDGE * len(x)) * np.eye(32)))
    best = np.linalg.lstsq(padded, np.concatenate((y / size, np.zeros((32, 16)))), rcond=None)[0]
    np.testing.assert_allclose(module.join.weight.detach().numpy(), best.T, atol=1e-3)
    # Nothing is added to it, and it is scaled to the features' size.
    tokens = windows[0].tokens[:1]
    with torch.inference_mode():
        (features,) = heads_script.unroll(module, target, tokens, hidden_of(target, tokens[0].tolist())[None], 1)
    found = x[:59] @ best
    expected = found / np.sqrt((found**2).mean(-1, keepdims=True) + 1e-6) * size
    np.testing.assert_allclose(features[0].numpy(), expected, atol=1e-3)


def test_training_unrolls_as_drafting_does(script: Callable[[str], ModuleType]) -> None:
    """After j steps of its own, what stands at t is what a chain begun at t - j says."""
    target, text, steps = random_model("llama", 58, 11), [3, 1, 4, 1, 5, 9, 2, 6], 3
    module = random_heads("eagle", target, 8)
    hidden = hidden_of(target, text)[None]
    with torch.inference_mode():
        unrolled = list(script("train_heads").unroll(module, target, torch.tensor([text]), hidden, steps))
    for step, features in enumerate(unrolled):
        for t in range(step, len(text) - 1):
            committed = t + 2 - step
            expected = feature_from_scratch(module, target, text[: t + 2], committed)
            torch.testing.assert_close(features[0, t], expected, atol=1e-4, rtol=1e-4)
