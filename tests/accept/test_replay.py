"""`measure-acceptance replay`: drafts of the text itself over texts that are written."""

import json
from pathlib import Path

from tests.conftest import Run, assert_user_error


def test_the_command_tells_tokens_a_step_and_writes_what_simulate_reads(run: Run, tmp_path: Path) -> None:
    said = {"prompt_token_ids": [1, 2, 3, 1, 2], "output_token_ids": [3, 1, 2, 4, 5, 1, 2, 3]}
    lines = [said | {"category": category} for category in "ab"]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = ("replay", "said.jsonl", "--k", "2,9", "--method", "prompt-lookup,suffix", "--out-dir", "out")
    done = run("measure-acceptance", *told, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    # 3 1 are copied and 2 added; 3 1 copied in vain and 4 added; 5 and 1 without a draft; 2 copied and 3 added.
    looked = answer["rows"][0]
    assert (looked["k"], looked["steps"]) == (2, 2 * 5)
    assert looked["tokens_per_step"]["value"] == 1.6
    assert answer["categories"] == {c: answer["categories"]["a"] for c in "ab"}
    assert "suffix never drafted 9 tokens: no histogram of K = 9" in answer["notes"]
    hist = tmp_path / "out" / "prompt-lookup" / "accept_hist_k2.json"
    assert json.loads(hist.read_text())["by_draft_length"]
    priced = run("simulate", "--target-model", "llama-3.1-8b", "--method", "ngram", "--profile", "h100", "--hist", hist)
    assert priced.returncode == 0, priced.stderr
    assert_user_error(run("measure-acceptance", *told), "accept_hist_k2.json", "--force")
    bad = run("measure-acceptance", "replay", "said.jsonl", "--method", "eagle")
    assert_user_error(bad, "--method: 'eagle' is not known, expected one of suffix, prompt-lookup, anpd")
