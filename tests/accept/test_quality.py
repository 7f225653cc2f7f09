"""Quality of an output under the target, and the next-token task: against NumPy, and closed forms."""

import hashlib
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from acceptance.bench import quality
from acceptance.decoders import baseline
from acceptance.models import laws
from acceptance.models.model import Model
from simulator.ground.artefacts import UserError

from .oracles import FREE, Say, greedy_without_cache
from .tiny_models import prompts_of, random_model, trigram_pair

VOCABULARY = 11
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def target() -> Model:
    return random_model("llama", 31, VOCABULARY)


def test_quality_is_what_the_target_says_token_by_token(target: Model) -> None:
    (output,) = prompts_of(9, [7], VOCABULARY)
    for size in (1, 6):
        (prompt,) = prompts_of(size, [size], VOCABULARY)
        laws_of_places = [Say(target, FREE, tuple(prompt))(tuple(output[:i])) for i in range(len(output))]
        chances = [law[token] for law, token in zip(laws_of_places, output, strict=True)]
        ranks = np.array([1 + (law > p).sum() for law, p in zip(laws_of_places, chances, strict=True)])
        found = quality.of_output(target, prompt, output)
        assert found.mean_logp_nats == pytest.approx(np.mean(np.log(chances)), abs=1e-5)
        assert found.mean_rank == pytest.approx(ranks.mean())
        assert found.argmax_share == pytest.approx((ranks == 1).mean())
        assert found.mean_rank > 1


def test_a_greedy_output_is_all_first_choices(target: Model) -> None:
    for prompt, budget in (([1, 2, 3], 12), ([5], 1)):
        output = greedy_without_cache(target, prompt, budget)
        found = quality.of_output(target, prompt, output)
        assert (found.mean_rank, found.argmax_share) == (1.0, 1.0)
        output[-1] = (output[-1] + 1) % VOCABULARY  # one position apart: its share of the total variation
        assert quality.of_output(target, prompt, output).argmax_share == pytest.approx(1 - 1 / budget)


@pytest.mark.statistical
def test_sampled_text_has_the_entropy_of_its_law() -> None:
    """E ln p is minus the entropy, enumerated: 600 outputs of one token, tolerance 4 standard errors."""
    model = trigram_pair(3)[0]
    law = Say(model, FREE, (2, 1))(())
    prompts = [[2, 1]] * 600
    drawn = baseline.decode(model, prompts, rule=FREE, max_new_tokens=1, rngs=laws.streams(7, range(600)))
    found = [quality.of_output(model, p, o).mean_logp_nats for p, o in zip(prompts, drawn, strict=True)]
    entropy = -(law * np.log(law)).sum()
    error = np.sqrt((law * np.log(law) ** 2).sum() - entropy**2) / np.sqrt(600)
    assert abs(np.mean(found) + entropy) < 4 * error


# The task.


def test_the_bundled_task_is_held_out_code_cut_between_tokens(tiny_tokenizer: Any) -> None:
    task = quality.load_task()
    assert (len(task.rows), task.skipped) == (256, ())
    assert quality.BUNDLED_TASK.stat().st_size < 200_000
    assert len({item.source for item in task.rows}) == len({item.prompt for item in task.rows}) == 256
    # The first items are of different files.
    assert len({item.source.partition(":")[0] for item in task.rows[:64]}) == 64
    for item in task.rows:
        path = item.source.partition(":")[0]
        assert int(hashlib.sha256(path.encode()).hexdigest(), 16) % 16 == 0
        prompt = tiny_tokenizer(item.prompt).input_ids
        reference = tiny_tokenizer(item.reference, add_special_tokens=False).input_ids
        assert (len(prompt), len(reference)) == (128, 32)
        assert tiny_tokenizer.decode([*prompt, *reference]) == item.prompt + item.reference


def test_a_task_of_no_use_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    for line, reason in (
        ('{"prompt": "a"}', "reference is missing, expected text"),
        ('{"reference": "a"}', "prompt is missing, expected text"),
        ("[]", "it is [], expected an object"),
        ("x", "not JSON"),
    ):
        path.write_text(line + "\n")
        with pytest.raises(UserError, match=re.escape(reason)):
            quality.load_task(path)
        path.write_text(line + "\n" + '{"prompt": "a", "reference": "b"}\n')
        found = quality.load_task(path)
        assert [(item.source, item.prompt) for item in found.rows] == [("task.jsonl:2", "a")]
        assert [s.reason for s in found.skipped] == [reason]


def test_the_script_cuts_the_same_task_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "task.jsonl"
    monkeypatch.syspath_prepend(EXAMPLES)
    command = ["--out", str(out), "--files", "3", "--cuts", "2"]
    done = CliRunner().invoke(import_module("cut_task").main, command)
    assert done.exit_code == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 6
    assert len({row["source"].partition(":")[0] for row in rows[:3]}) == 3
    parts = {row["prompt"] + row["reference"] for row in rows}
    assert not any(a != b and a in b for a in parts for b in parts)
    assert set(rows[0]) == {"prompt", "reference", "source"}
    again = CliRunner().invoke(import_module("cut_task").main, command)
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1)
