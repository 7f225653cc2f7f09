"""Answers saved for MT-Bench's judges: read as FastChat reads them, both turns each arm's own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acceptance.bench.answers import KEYS, read_answers
from acceptance.models.model import Pair
from acceptance.results.validate import problems
from simulator.ground.artefacts import UserError

from .oracles import greedy_without_cache

QUESTIONS = [
    {"question_id": 81 + i, "category": "writing", "turns": [f"w{i} w{i + 1}", f"w{i + 2} w7 w{i}"]} for i in range(3)
]
BUDGET = 6


def as_fastchat_reads(folder: Path) -> dict[str, dict[Any, dict[str, Any]]]:
    """By model and question, the last line of each: what its load_model_answers makes of a folder."""
    models: dict[str, dict[Any, dict[str, Any]]] = {}
    for path in sorted((folder / "model_answer").glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        models[path.name[: -len(".jsonl")]] = {line["question_id"]: line for line in lines}
        assert [line["question_id"] for line in lines] == sorted({line["question_id"] for line in lines})
    return models


@pytest.fixture
def bench(run, random_pair: tuple[Path, Path], tmp_path: Path) -> Callable[..., Any]:
    (tmp_path / "question.jsonl").write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    told = ["--target", random_pair[0], "--draft", random_pair[1], "--device", "cpu", "--prompts", "question.jsonl"]
    told += [
        "--format",
        "mt-bench",
        "--max-new-tokens",
        BUDGET,
        "--answers",
        "mt_bench",
        "--method",
        "ngram,topk",
        "--rank",
        30,
    ]
    return lambda *more: run("bench-decode", *told, *more)


def test_both_turns_are_saved_as_judges_read_them(bench, pair: Pair, tmp_path: Path) -> None:
    done = bench("--runs", 2, "--batch-size", 2)
    assert done.returncode == 0, done.stderr
    assert "wrote answers of 3 models to mt_bench/model_answer" in " ".join(done.stdout.split())
    assert problems(tmp_path / "decode.jsonl", strict=True) == []
    models = as_fastchat_reads(tmp_path / "mt_bench")
    assert list(models) == ["target-baseline", "target-ngram", "target-topk"]

    def answer(said: list[str]) -> str:
        tokens = pair.tokenizer("".join(said)).input_ids
        return str(pair.tokenizer.decode(greedy_without_cache(pair.target, tokens, BUDGET)))

    for question in QUESTIONS:
        line = models["target-baseline"][question["question_id"]]
        assert set(line) == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
        assert (line["model_id"], isinstance(line["tstamp"], float)) == ("target-baseline", True)
        first = answer(question["turns"][:1])
        second = answer([question["turns"][0], " ", first, "\n", question["turns"][1]])
        assert line["choices"] == [{"index": run, "turns": [first, second]} for run in range(2)]
        # Of an exact method the same in both turns; of a lossy one, its second turn is behind its own first.
        assert models["target-ngram"][question["question_id"]]["choices"] == line["choices"]
    assert any(models["target-topk"][q]["choices"] != models["target-baseline"][q]["choices"] for q in (81, 82, 83))
    ids = [line["answer_id"] for lines in models.values() for line in lines.values()]
    assert len(set(ids)) == len(ids) == 9


def test_a_run_that_goes_on_has_all_answers_and_other_files_stay(bench, user_error, tmp_path: Path) -> None:
    folder, out = tmp_path / "mt_bench" / "model_answer", tmp_path / "decode.jsonl"
    assert bench().returncode == 0
    whole, records = as_fastchat_reads(tmp_path / "mt_bench"), out.read_bytes()
    # Ended within the second prompt's records, whose answers were there: they are written anew, one line each.
    out.write_bytes(b"".join(records.splitlines(keepends=True)[:6]))
    (folder / "other-model.jsonl").write_text("")
    assert bench().returncode == 0
    again = as_fastchat_reads(tmp_path / "mt_bench")
    assert again.pop("other-model") == {}
    for lines in (line for models in (whole, again) for line in models.values()):
        for line in lines.values():
            del line["tstamp"]
    assert whole == again
    (folder / "target-ngram.jsonl").unlink()
    user_error(bench(), "target-ngram.jsonl: lacks 3 answers to what is measured already", "--force")
    out.unlink()
    user_error(bench(), "target-baseline.jsonl: exists already (--force overwrites it)")
    assert not out.exists()
    assert bench("--force", "--max-prompts", 1).returncode == 0


@pytest.mark.parametrize(
    "changed", [{"choices": 5}, {"choices": [5]}, {"choices": [{"turns": []}]}, {"question_id": [1]}, {"tstamp": ...}]
)
def test_lines_that_are_no_answers_are_named(tmp_path: Path, changed: dict[str, Any]) -> None:
    line = dict.fromkeys(KEYS, 1) | {"choices": [{"index": 0, "turns": ["w1"]}]}
    path = tmp_path / "model.jsonl"
    path.write_text(json.dumps(line) + "\n")
    assert read_answers(path) == {1: line}
    line = {name: value for name, value in (line | changed).items() if value is not ...}
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match="line 1 is no answer to a question of MT-Bench"):
        read_answers(path)


def test_a_turn_that_does_not_fit_is_told_and_keeps_its_place(bench, tmp_path: Path) -> None:
    long = {"question_id": 90, "category": "writing", "turns": ["w1", " ".join(["w2"] * 125)]}
    (tmp_path / "question.jsonl").write_text(json.dumps(long) + "\n")
    done = bench()
    assert done.returncode == 0
    assert "answers without a text: 3, 90, turn 2: " in " ".join(done.stdout.split())
    turns = as_fastchat_reads(tmp_path / "mt_bench")["target-ngram"][90]["choices"][0]["turns"]
    assert (len(turns), turns[1]) == (2, "ERROR")
