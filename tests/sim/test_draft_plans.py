"""What a round of each method runs: passes, what they read, and how wide verification is; a method is one file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.costs import drafters
from simulator.costs.drafters import draft_model
from simulator.costs.drafters.methods import methods
from simulator.costs.drafters.plan import Tree, branched
from simulator.costs.formats import storage_of
from simulator.costs.shapes import read_shape, shape_of
from simulator.costs.work import ModelShape, stored
from simulator.ground.fields import Field

from .builders import result


def read(values: dict[str, Any]) -> ModelShape:
    return shape_of(Field(values), "a drafter")


TOY = """
from simulator.costs.drafters.plan import Method, block
from simulator.costs.shapes import read_shape

METHOD = Method(
    name="toy",
    title="a toy",
    rounds="one pass",
    reads="tokens alone",
    plan=lambda shape, draft_length: block(shape, draft_length, draft_length),
    usual=lambda target: read_shape("llama-68m"),
    waits=False,
)
"""


def test_a_new_method_is_one_file(tmp_path: Path, monkeypatch, run) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(drafters, "__path__", [*drafters.__path__, str(tmp_path)])
    models = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--draftN", 3, "--replications", 2)
    answer = result(run, *models, "--method", "toy")
    assert answer["parameters"]["method"] == "toy"
    passes = {name: (one["tokens"], one["times"]) for name, one in answer["models"]["passes"].items()}
    assert passes == {"plain step": (1, 1), "draft block": (3, 1), "verification": (4, 1)}
    text = run("simulate", *models, "--method", "toy", "--why").stdout
    assert "Draft block (a toy, 3 tokens): " in text
    swept = run("sweep", *models[:4], "--method", "toy", "--draftN", "2,3", "--replications", 0, "--json")
    assert swept.returncode == 0
    assert '"toy"' in run("specsim", "drafters", "list", "--json").stdout


# Heads of published files, and the numbers that a round of K = 7 reads of them (15 for DFlash), counted by hand.
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLMEagle3"], "num_hidden_layers": 1}
LLAMA |= {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "draft_vocab_size": 32_000}
ON_LLAMA_8B = LLAMA | {"hidden_size": 4096, "intermediate_size": 14_336, "vocab_size": 128_256}
ON_LLAMA_70B = LLAMA | {"hidden_size": 8192, "intermediate_size": 28_672, "vocab_size": 128_256}
ON_LLAMA_70B |= {"num_attention_heads": 64}
ON_QWEN_8B = LLAMA | {"hidden_size": 4096, "intermediate_size": 12_288, "vocab_size": 151_936}
ON_QWEN_30B = LLAMA | {"hidden_size": 2048, "intermediate_size": 12_288, "vocab_size": 151_936}
ON_QWEN_30B |= {"num_key_value_heads": 4, "head_dim": 64}
FOUR = ON_QWEN_8B | {"architectures": ["PEagleDraftModel"], "num_hidden_layers": 4}
BLOCKS = ON_QWEN_8B | {"model_type": "qwen3", "num_hidden_layers": 5, "draft_vocab_size": None}
BLOCKS |= {"dflash_config": {"target_layer_ids": [1, 9, 17, 25, 33]}}
SIXTEEN = BLOCKS | {"architectures": ["DFlashDraftModel"], "block_size": 16}
SEVEN = BLOCKS | {"architectures": ["DSparkDraftModel"], "block_size": 7}


@pytest.mark.parametrize(
    ("values", "draft_length", "millions"),
    [
        # fc 3 h h once; q, k, v from 2 h, o, and three of the feed-forward part; the head of 32,000 words.
        (ON_LLAMA_8B, 7, 50.3 + 7 * (8.192 * (4.096 + 2.048) + 16.78 + 176.2 + 131.1)),
        (ON_LLAMA_70B, 7, 201.3 + 7 * (16.384 * (8.192 + 2.048) + 67.1 + 704.6 + 262.1)),
        (ON_QWEN_8B, 7, 50.3 + 7 * (8.192 * 6.144 + 16.78 + 151.0 + 131.1)),
        (ON_QWEN_30B, 7, 12.6 + 7 * (4.096 * 2.56 + 4.19 + 75.5 + 65.5)),
        (FOUR, 7, 50.3 + 4 * (4.096 * 6.144 + 16.78 + 151.0) + 4.096 * 6.144 + 131.1),
        (SIXTEEN, 15, 5 * (16.78 + 4.096 * 6.144 + 16.78 + 151.0) + 622.3),
        (SEVEN, 7, 5 * (16.78 + 4.096 * 6.144 + 16.78 + 151.0) + 622.3 + 7 * 38.9),
    ],
    ids=["llama-8b", "llama-70b", "qwen3-8b", "qwen3-30b-a3b", "p-eagle", "dflash", "dspark"],
)
def test_a_round_reads_the_weights_that_a_hand_counts(
    values: dict[str, Any], draft_length: int, millions: float
) -> None:
    shape = read(values)
    plan = methods()[shape.drafting.method].plan(shape, np.asarray(draft_length))
    passes = [(int(p.times), stored(p.shape, storage_of("bfloat16")).always_bytes / 2e6) for p in plan.passes]
    assert sum(times * size for times, size in passes) == pytest.approx(millions, rel=0.005)
    assert plan.width == draft_length + 1


def test_the_first_pass_takes_in_what_was_verified_and_is_never_free() -> None:
    shape = read(ON_LLAMA_8B)
    for draft_length in (0, 1, 5):
        first, further = methods()["eagle3"].plan(shape, np.asarray(draft_length)).passes
        assert (first.rows, first.head_rows, first.times) == (draft_length + 1, 1, 1)
        assert (further.rows, further.times) == (1, max(draft_length - 1, 0))
        assert first.shape.parameters - further.shape.parameters == 3 * 4096**2


def test_a_tree_widens_all_passes_but_the_first() -> None:
    shape = read(ON_LLAMA_8B)
    plan = branched(methods()["eagle3"].plan(shape, np.arange(1, 6)), Tree(topk=3, nodes=6))
    assert [p.rows.tolist() for p in plan.passes] == [[2, 3, 4, 5, 6], [3] * 5]
    assert (plan.width == 6).all()
    one_kind = branched(draft_model.METHOD.plan(read_shape("llama-68m"), np.asarray(4)), Tree(topk=3, nodes=6))
    assert [(int(p.times), int(p.rows)) for p in one_kind.passes] == [(1, 1), (3, 3)]
