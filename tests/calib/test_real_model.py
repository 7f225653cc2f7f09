"""What docs/validation.md tells of a real model: gains as measured, and as `simulate` forecasts of other prompts."""

import json
import lzma
from pathlib import Path

import pytest

import calibration
from tests.conftest import Run

FILES = Path(calibration.__file__).parent / "measured" / "xeon-2-core" / "gemma"
DOCS = FILES.parents[3] / "docs" / "validation.md"


def gain_of(method: str) -> float:
    """Seconds a token of plain decoding over a method's, prompts left out, of prompts that all decoded."""
    with lzma.open(FILES / "decode.jsonl.xz", "rt") as lines:
        records = [r for r in map(json.loads, lines) if r["kind"] == "decode_record"]
    arms = {r["method"] for r in records}
    by_prompt: dict[int, set[str]] = {}
    for record in records:
        by_prompt.setdefault(record["prompt_index"], set()).add(record["method"])
    whole = {prompt for prompt, there in by_prompt.items() if there == arms}
    assert len(whole) == 14
    own, plain = ([r for r in records if r["method"] == m and r["prompt_index"] in whole] for m in (method, "baseline"))
    seconds = [sum(r["decode_s"] for r in rows) / sum(r["generated_tokens"] for r in rows) for rows in (plain, own)]
    return seconds[0] / seconds[1]


def test_the_page_says_what_an_eagle_head_gained_and_what_its_parts_forecast(run: Run, tmp_path: Path) -> None:
    (tmp_path / "gemma-3-270m").mkdir()
    (tmp_path / "gemma-3-270m" / "config.json").write_bytes((FILES / "target.json").read_bytes())
    (tmp_path / "eagle.jsonl.xz").write_bytes((FILES / "eagle.jsonl.xz").read_bytes())
    done = run("validate", "eagle.jsonl.xz", "--methods")
    assert done.returncode == 0, done.stderr
    told = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("gemma-3-270m  eagle")]
    said = [line.split() for line in DOCS.read_text().splitlines() if line.startswith("eagle   ")]
    # The table of the command has tokens a round behind K, that of the page the error from other prompts at the end.
    assert [[*row[:2], *row[3:]] for row in told] == [row[:-1] for row in said]
    assert len(told) == 3


@pytest.mark.parametrize(("method", "k"), [("anpd", 4), ("prompt-lookup", 4), ("prompt-lookup", 8), ("suffix", 8)])
def test_the_page_says_what_was_measured_and_what_is_forecast(method: str, k: int, run: Run) -> None:
    words = next(line for line in DOCS.read_text().splitlines() if line.split()[:2] == [method, str(k)]).split()
    measured, forecast = float(words[2].rstrip("x")), float(words[5].rstrip("x"))
    assert gain_of(f"{method}-k{k}") == pytest.approx(measured, abs=0.006)
    name = "suffix" if method == "suffix" else "ngram"
    told = ("--profile", FILES / "profile.json", "--target-model", FILES / "target.json", "--dtype", "bfloat16")
    hist = FILES / "replayed" / method / f"accept_hist_k{k}.json"
    done = run("simulate", *told, "--hist", hist, "--method", name, "--draftN", k, "--context", 256, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["headline"].partition("x as fast")[0].split()[-1]
    assert float(said) == pytest.approx(forecast, abs=0.006)
