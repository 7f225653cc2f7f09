"""Summaries beside references: read from data sets as they are, scored by ROUGE, compared prompt by prompt."""

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from acceptance.bench import scores
from acceptance.bench.scores import rouge
from acceptance.results.journal import read_records
from acceptance.results.records import RECORD
from acceptance.results.summary import summarise
from acceptance.results.validate import problems
from acceptance.text.summaries import CHAT, PLAIN, load_summaries
from simulator.ground.artefacts import UserError

ROWS = [{"article": f"w{i} w{i + 1} w3", "highlights": f"w{i} w3\nw1 w2", "id": f"a{i}"} for i in range(6)]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def f1(found: Counter[object], wanted: Counter[object]) -> float:
    same = (found & wanted).total()
    return 2 * same / (found.total() + wanted.total()) if same else 0.0


def longest(a: list[str], b: list[str]) -> int:
    """The longest common subsequence, by definition."""
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + longest(a[1:], b[1:])
    return max(longest(a[1:], b), longest(a, b[1:]))


def test_scores_are_those_of_their_definitions() -> None:
    pairs = [("w1 w2 w3 w4 w2", "w2 w4 w1 w2"), ("w1", "w2"), ("w1 w2", "w1 w2"), ("", "w1")]
    score = rouge([reference for _, reference in pairs], lambda prompt, tokens: " ".join(f"w{t}" for t in tokens))
    for index, (text, reference) in enumerate(pairs):
        found = score(index, [int(word[1:]) for word in text.split()])
        a, b = text.split(), reference.split()
        assert found["rouge1"]["sum"] == pytest.approx(f1(Counter(a), Counter(b)))
        twos = (Counter(pairwise(words)) for words in (a, b))
        assert found["rouge2"]["sum"] == pytest.approx(f1(*twos))
        assert found["rougeL"]["sum"] == pytest.approx(2 * longest(a, b) / (len(a) + len(b)))
        assert {name: part["of"] for name, part in found.items()} == dict.fromkeys(found, 1)
    stemmed = rouge(["the cats sat"], lambda prompt, tokens: "the cat sat")
    assert stemmed(0, [1])["rouge1"]["sum"] == 1


def test_data_sets_are_read_as_they_are(tmp_path: Path) -> None:
    found = load_summaries(write(tmp_path / "cnn.jsonl", ROWS), PLAIN, limit=2)
    assert [p.turns for p in found.rows] == [("w0 w1 w3\n\nSummary:",), ("w1 w2 w3\n\nSummary:",)]
    assert (found.references, found.rows[1].source) == (("w0 w3\nw1 w2", "w1 w3\nw1 w2"), "a1")
    assert "article with highlights" in found.notes()[0]
    # XSum's names, in another case, in Parquet; SAMSum's in a list.
    import pyarrow
    from pyarrow import parquet

    rows = [{"Document": "a", "Summary": "b"}, {"Document": "c", "Summary": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    found = load_summaries(tmp_path / "train.parquet", CHAT)
    assert (found.rows[0].turns[0].endswith("\n\na"), found.references) == (True, ("b",))
    assert "skipped 1 of 2 records, row 2 (no reference under highlights" in found.notes()[1]
    (tmp_path / "samsum.json").write_text(json.dumps([{"dialogue": "A: hi", "summary": "greets"}]))
    assert load_summaries(tmp_path / "samsum.json", "{text}").rows[0].turns == ("A: hi",)
    named = load_summaries(tmp_path / "cnn.jsonl", "{text}", column="highlights", reference="article")
    assert named.references[0] == "w0 w1 w3"
    for how, reason in (
        ({"column": "text"}, "no text"),
        ({"reference": "gold"}, "no reference under gold"),
    ):
        with pytest.raises(UserError, match=re.escape(reason)):
            load_summaries(tmp_path / "cnn.jsonl", PLAIN, **how)
    with pytest.raises(UserError, match=re.escape("no place for the text, expected {text} in it")):
        load_summaries(tmp_path / "cnn.jsonl", "Sum it up:")


def test_a_run_tells_rouge_beside_speed_and_exact_methods_differ_by_nothing(
    run, user_error, random_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    write(tmp_path / "cnn.jsonl", ROWS)
    words = ["--target", random_pair[0], "--draft", random_pair[1], "--device", "cpu", "--max-new-tokens", 8]
    words += ["--task", "summarize", "--template"]
    named = ["--prompts", "cnn.jsonl", "--text-column", "article", "--reference-column", "highlights"]
    done = run("bench-decode", *words, "{text} w9", *named, "--method", "ngram,topk")
    assert done.returncode == 0, done.stderr
    shown = done.stdout.partition("beside references")[2].partition("\n\n")[0]
    rows = {line.split()[0]: line for line in shown.splitlines()[1:]}
    assert rows["ngram"].endswith("no difference")
    assert re.search(r" [+-]\d+\.\d \[[+-]\d+\.\d, [+-]\d+\.\d\]$", rows["topk"])
    assert "ROUGE: F1 x 100 of stemmed words" in " ".join(done.stdout.split())
    records = read_records(tmp_path / "decode.jsonl")[0]
    assert problems(tmp_path / "decode.jsonl", strict=True) == []
    # The interval is that of differences in pairs: of means over the same prompts.
    of = {name: [r["text_scores"]["rougeL"]["sum"] for r in records if r.get("method") == name and r["kind"] == RECORD]
          for name in ("baseline", "topk")}  # fmt: skip
    topk = next(s for s in summarise(records, 0) if s["method"] == "topk")
    mean = sum(a - b for a, b in zip(of["topk"], of["baseline"], strict=True)) / 6
    assert topk["text_scores_delta"]["rougeL"]["value"] == pytest.approx(mean)
    assert mean != 0
    assert topk["text_scores"]["rougeL"]["value"] == pytest.approx(sum(of["topk"]) / 6)
    # Another template is another run.
    user_error(run("bench-decode", *words, "{text}", *named, "--method", "ngram,topk"), "template is")
    user_error(run("bench-decode", *words, "{text}"), "--task summarize: --prompts is not given")
    user_error(run("bench-decode", "--template", "{text}"), "--template: is read by --task summarize alone")


def test_a_missing_library_is_named_before_models_are_loaded(
    run, user_error, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lacking = scores.ROUGE_SCORE._replace(import_name="rouge_not_there")
    monkeypatch.setattr(scores, "ROUGE_SCORE", lacking)
    write(tmp_path / "cnn.jsonl", ROWS)
    done = run("bench-decode", "--task", "summarize", "--prompts", "cnn.jsonl")
    user_error(done, "--task summarize: rouge_not_there is not installed", 'pip install "specsim[quality]"')
