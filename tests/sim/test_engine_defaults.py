"""What engines do where their settings say little: usual lengths, drafters without a file, and how that is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from simulator.costs.drafters.methods import methods
from simulator.costs.engines import vllm
from simulator.costs.shapes import CATALOGUE, read_shape

ON_LLAMA = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--replications", 2, "--total", 64)
GOOD = {"method": "eagle3", "num_speculative_tokens": 4}


def answered(run, *words: object) -> tuple[dict[str, Any], str]:
    """What `simulate --json` answers, and what it says besides."""
    done = run("simulate", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def refused(done: Any, expected: str) -> None:
    """A call ended with one short line, which says this."""
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert expected in done.stderr
    assert len(done.stderr) < 200


def test_what_is_wrong_with_a_setting_is_told_in_the_engines_words(run) -> None:
    for option, text, expected in (
        (
            "--speculative-config",
            json.dumps(GOOD | {"num_speculative_tokens": 20}),
            "num_speculative_tokens 20 is above",
        ),
        ("--from-sglang", "--speculative-algorithm DFLASH --speculative-num-draft-tokens 40", "tokens 40: 39 is above"),
    ):
        refused(run("simulate", *ON_LLAMA, option, text), f"{expected} k = 1")
    for model, text in (("/data/head", "/data/head: no such file or folder"), ("none.json", "none.json: no such file")):
        config = json.dumps({"model": model, "num_speculative_tokens": 4})
        refused(run("simulate", *ON_LLAMA, "--speculative-config", config), f"--speculative-config: model {text}")
    mtp = run("simulate", *ON_LLAMA, "--speculative-config", '{"method": "mtp", "num_speculative_tokens": 1}')
    refused(mtp, "--speculative-config: method mtp, but llama-3.1-8b has no module")


@pytest.mark.parametrize(
    ("option", "text", "k"),
    [
        ("--speculative-config", '{"method": "suffix"}', vllm.USUAL_SUFFIX),
        ("--from-sglang", "--speculative-algorithm NGRAM --speculative-num-draft-tokens 12", 11),
        ("--speculative-config", '{"method": "dflash", "model": "a/b"}', 15),
        ("--speculative-config", '{"method": "medusa", "model": "a/b"}', 4),
    ],
)
def test_a_deployment_of_defaults_is_forecast_and_may_be_shortened(run, option: str, text: str, k: int) -> None:
    found, _ = answered(run, *ON_LLAMA, option, text)
    assert found["parameters"]["draftN"] == k
    assert ("beyond K = 8 extrapolated" in found["parameters"].get("acceptance_caveat", "")) == (k > 4 and k != 15)
    if "tokens" not in text:
        assert answered(run, *ON_LLAMA, option, text, "--draftN", 3)[0]["parameters"]["draftN"] == 3


def test_vllm_takes_as_many_tokens_as_a_target_has_modules(run) -> None:
    on_v3 = ("--profile", "h200", "--tp", 16, "--target-model", "deepseek-v3", "--replications", 2, "--total", 64)
    assert answered(run, *on_v3, "--speculative-config", '{"method": "mtp"}')[0]["parameters"]["draftN"] == 1
    flags = "--speculative-algorithm NEXTN"
    refused(run("simulate", *on_v3, "--from-sglang", flags), "no draft length, expected --speculative-num-steps")


@pytest.mark.parametrize("name", ["x", "/models/qwen3-8b", "./none", "a/b", "/data/head"])
def test_a_head_of_which_no_file_is_here_is_priced_as_usual(run, name: str) -> None:
    found, notes = answered(run, *ON_LLAMA, "--speculative-config", json.dumps(GOOD | {"model": name}))
    assert found["warnings"] == answered(run, *ON_LLAMA, "--speculative-config", json.dumps(GOOD))[0]["warnings"]
    assert f"no file of {name} is here" in notes


def test_a_language_model_is_no_head(run, tmp_path: Path) -> None:
    expected = "Qwen/Qwen3-0.6B: a language model (qwen3-0.6b), which does not draft as eagle3, expected the drafter's"
    words = ("simulate", *ON_LLAMA)
    refused(run(*words, "--speculative-config", json.dumps(GOOD | {"model": "Qwen/Qwen3-0.6B"})), expected)
    refused(run(*words, "--draft-model", "Qwen/Qwen3-0.6B", "--method", "eagle3"), expected)
    (tmp_path / "lm.json").write_text((CATALOGUE / "qwen3-0.6b.json").read_text())
    told = "lm.json: a language model of 28 layers, which does not draft as medusa, expected the drafter's"
    refused(run(*words, "--draft-model", "lm.json", "--method", "medusa"), told)
    # Modules that a target has, and a model that was taught to draft at once, are read from such a file.
    for model, method in (("deepseek-v3", "mtp"), ("llama-3.2-1b", "pard")):
        assert read_shape(model, methods()[method]).drafting.method == method
