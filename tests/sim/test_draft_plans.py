"""What a round of each method runs: passes, what they read, and how wide verification is; a method is one file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.costs import drafters
from simulator.costs.drafters import draft_model
from simulator.costs.drafters.methods import methods
from simulator.costs.drafters.plan import Tree, branched, longest_of
from simulator.costs.formats import storage_of
from simulator.costs.shapes import read_shape, shape_of
from simulator.costs.work import ModelShape, stored
from simulator.ground.fields import Field

from .builders import GLM, result


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


OF_DOMINO = {"target_layer_ids": [1, 9, 17, 25, 33], "projector_type": "domino", "gru_hidden_dim": 1024, "emb_dim": 256}
DOMINO = SIXTEEN | {"dflash_config": OF_DOMINO}
OF_DFLASH2 = {"target_layer_ids": [1, 9, 17, 25, 33], "block_size": 8, "conv_kernel_size": 2, "conv_group_size": 16}
OF_DFLASH2 |= {"selector_rank": 256, "selector_top_k": 16}
DFLASH2 = BLOCKS | {"architectures": ["DFlash2DraftModel"], "dflash_config": OF_DFLASH2}
SIZES = {"hidden_size": 4096, "vocab_size": 32_000}
MEDUSA = SIZES | {"architectures": ["MedusaModel"], "model_type": "medusa", "num_heads": 5, "num_hidden_layers": 1}
HYDRA = {"hydra_num_heads": 4, "hydra_num_layers": 1, "base_model_name_or_path": "lmsys/vicuna-7b-v1.3"}
MLP = {"architectures": ["MLPSpeculatorPreTrainedModel"], "model_type": "mlp_speculator", "emb_dim": 4096}
MLP |= {"inner_dim": 3072, "n_predict": 4, "vocab_size": 128_256}
LSTM = {"architectures": ["ArcticLSTMSpeculatorPreTrainedModel"], "input_hidden_dim": 4096, "inner_dim": "4096"}
LSTM |= {"proj_dim": "4096", "emb_dim": "4096", "method": "sum_lstm", "tie_weights": True, "tie_lstm_embs": True}
LSTM |= {"n_predict": 3, "vocab_size": 128_256}


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
        # A GRU of 3 x 1024 over token and state, and two products of rank 256, for each token.
        (DOMINO, 15, 964.7 + 83.9 + 622.3 + 15 * (5.12 * 3.072 + 5.12 * 0.256 + 38.9)),
        # Two convolutions a layer, whose kernels are projected: 2 x 2 taps of 256 groups; the selector.
        (DFLASH2, 7, 964.7 + 83.9 + 622.3 + 5 * 2 * 4.096 * 1.024 + 1.05),
        (MEDUSA, 5, 5 * (16.78 + 131.1)),
        # The i-th head joins i + 1 vectors of 4,096, twice.
        (HYDRA, 4, 4 * 131.1 + 2 * 16.78 * (2 + 3 + 4 + 5)),
        (MLP, 4, 4 * 394.0 + 3.072 * (4.096 + 3 * 3.072)),
        (LSTM, 3, 3 * (525.3 + 4 * 16.78)),
    ],
    ids=[
        *("llama-8b", "llama-70b", "qwen3-8b", "qwen3-30b-a3b", "p-eagle", "dflash", "dspark", "domino", "dflash-2"),
        *("medusa", "hydra", "mlp", "lstm"),
    ],
)
def test_a_round_reads_the_weights_that_a_hand_counts(
    values: dict[str, Any], draft_length: int, millions: float
) -> None:
    shape = read(values)
    plan = methods()[shape.drafting.method].plan(shape, np.asarray(draft_length))
    passes = [(int(p.times), stored(p.shape, storage_of("bfloat16")).always_bytes / 2e6) for p in plan.passes]
    assert sum(times * size for times, size in passes) == pytest.approx(millions, rel=0.005)
    assert plan.width == draft_length + 1


def test_speculators_have_a_table_for_each_token_unless_they_are_tied() -> None:
    assert [read(values).tables // 128_256 for values in (MLP, LSTM)] == [4 * 3072, 4096]


def test_the_first_pass_takes_in_what_was_verified_and_is_never_free() -> None:
    shape = read(ON_LLAMA_8B)
    for draft_length in (0, 1, 5):
        first, further = methods()["eagle3"].plan(shape, np.asarray(draft_length)).passes
        assert (first.rows, first.head_rows, first.times) == (draft_length + 1, 1, 1)
        assert (further.rows, further.times) == (1, max(draft_length - 1, 0))
        assert first.shape.parameters - further.shape.parameters == 3 * 4096**2


def test_a_further_layer_of_hydra_is_the_same_weights_again() -> None:
    one, three = (read(HYDRA | {"hydra_num_layers": layers}) for layers in (1, 3))
    inner = 4096**2
    assert three.parameters - one.parameters == 4 * inner
    assert three.active_parameters - one.active_parameters == 4 * 2 * inner


def test_a_tree_widens_all_passes_but_the_first() -> None:
    shape = read(ON_LLAMA_8B)
    plan = branched(methods()["eagle3"].plan(shape, np.arange(1, 6)), Tree(topk=3, nodes=6))
    assert [p.rows.tolist() for p in plan.passes] == [[2, 3, 4, 5, 6], [3] * 5]
    # One level has three nodes and the root.
    assert plan.width.tolist() == [4, 6, 6, 6, 6]
    # Heads that do not wait for each other give their likeliest tokens at once; a corrector works on each branch.
    heads = methods()["medusa"].plan(read(MEDUSA), np.asarray(5))
    tree = branched(heads, Tree(topk=3, nodes=6))
    assert (tree.passes, int(tree.width)) == (heads.passes, 6)
    corrected = branched(methods()["domino"].plan(read(DOMINO), np.asarray(5)), Tree(topk=3, nodes=6))
    assert [int(p.rows) for p in corrected.passes] == [6, 3]
    one_kind = branched(draft_model.METHOD.plan(read_shape("llama-68m"), np.asarray(4)), Tree(topk=3, nodes=6))
    assert [(int(p.times), int(p.rows), int(p.head_rows)) for p in one_kind.passes] == [(1, 1, 1), (3, 3, 3)]
    # Every level but the first has four candidates: two of each of two nodes. What the host does is not less.
    wide = branched(replace(heads, width=np.arange(2, 6), host_s=1e-3), Tree(topk=2, nodes=12))
    assert (wide.width.tolist(), wide.host_s) == ([3, 7, 11, 12], 1e-3)


# Modules of targets: parameters in billions, and those that a token reads, in millions, without the head.
DEEPSEEK = 102.8 + 11.0 + 37.7 + 4.13 + 16.8 + 117.4 + 1.84 + 44.04
QWEN_NEXT = 8.39 + 2.048 * (8.192 + 1.024) + 8.39 + 1.05 + 3.15 + 0.002


@pytest.mark.parametrize(
    ("target", "always", "an_expert", "experts", "per_token", "kv"),
    [("deepseek-v3", DEEPSEEK, 44.04, 256, 8, 576), ("qwen3-next-80b-a3b", QWEN_NEXT, 3.146, 512, 10, 1024)],
)
def test_a_module_is_the_targets_last_layer_and_what_joins_its_inputs(
    target: str, always: float, an_expert: float, experts: int, per_token: int, kv: int
) -> None:
    of = read_shape(target)
    shape = methods()["mtp"].usual(of)
    assert (of.predictors, shape.kv_bytes_per_token("bfloat16")) == (1, 2 * kv)
    assert shape.parameters / 1e6 == pytest.approx(always + experts * an_expert, rel=0.002)
    read_by_one = always + per_token * an_expert + of.hidden_size * of.vocabulary / 1e6
    assert shape.active_parameters / 1e6 == pytest.approx(read_by_one, rel=0.002)
    # Of its rows, the first pass reads the experts that they touch together.
    first, further = methods()["mtp"].plan(shape, np.asarray(3)).passes
    assert (first.rows, first.times, further.rows, further.times) == (4, 1, 1, 2)
    moved = [p.shape.bytes_moved(8, p.rows, 0, "bfloat16", logit_rows=1) for p in (first, further)]
    union = (1 - per_token / experts) ** 8 - (1 - per_token / experts) ** 32
    assert moved[0] - moved[1] == pytest.approx(2e6 * union * experts * an_expert, rel=0.05)


def test_modules_take_turns_and_lie_in_memory_together(tmp_path: Path, run) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GLM))
    target = read_shape(tmp_path)
    three, one = methods()["mtp"].usual(target), methods()["mtp"].usual(replace(target, predictors=1))
    assert target.predictors == 3
    assert three.parameters == 3 * one.parameters
    assert (longest_of(three), longest_of(one)) == (3, None)
    assert three.kv_bytes_per_token("bfloat16") == 3 * one.kv_bytes_per_token("bfloat16")
    for draft_length, times in ((1, (1, 0)), (2, (2, 0)), (6, (3, 3))):
        passes = methods()["mtp"].plan(three, np.asarray(draft_length)).passes
        assert tuple(p.times for p in passes) == times
        assert {p.shape.parameters for p in passes} == {one.parameters}
    models = ("--profile", "h100-sxm", "--target-model", tmp_path, "--method", "mtp", "--replications", 2)
    assert run("simulate", *models, "--draftN", 6).returncode == 0
    refused = run("simulate", *models, "--draftN", 4)
    assert refused.stderr.endswith(
        "is above the 3 modules of mtp of " + f"{tmp_path.name}, expected 1 to 3, or a multiple of 3\n"
    )
    apart = run("simulate", *models, "--draftN", 3, "--placement", "separate")
    assert apart.stderr == "simulate: --placement: mtp is part of the target, expected no such option\n"
    # They are stored as the rest of the target is, and its own folder may be named as the drafter's.
    stored_as_fp8 = result(run, *models, "--draftN", 3, "--dtype", "fp8")["models"]
    assert {stored_as_fp8[role]["weight_format"] for role in ("target", "draft")} == {"fp8"}
    named = result(run, *models, "--draftN", 3, "--draft-model", tmp_path)["models"]["draft"]
    assert named["parameters"] == three.parameters
    # A file of the modules alone has the same, whatever it calls its layers.
    for architecture, layers in (("Glm4MoeMTPModel", 3), ("Glm4MoeForCausalLMNextN", 0), ("GlmMTP", 1)):
        alone = read(GLM | {"architectures": [architecture], "num_hidden_layers": layers})
        assert (alone.parameters, alone.drafting.modules) == (three.parameters, 3)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-8b", "minimax-m2", "gemma-2-9b"])
def test_a_module_of_layers_that_are_alike_is_one_of_them_and_a_join(name: str) -> None:
    target = replace(read_shape(name), predictors=1)
    a_layer = (target.parameters - target.look_up_size - target.head_size) / target.layers
    shape = methods()["mtp"].usual(target)
    assert shape.parameters == pytest.approx(a_layer + 2 * target.hidden_size**2 + 3 * target.hidden_size, rel=1e-4)


def test_a_module_of_ernie_is_dense_though_its_last_layers_are_not() -> None:
    ernie = {k: v for k, v in GLM.items() if k not in ("n_routed_experts", "n_shared_experts")}
    ernie |= {"architectures": ["Ernie4_5_MoeForCausalLM"], "model_type": "ernie4_5_moe", "moe_num_experts": 4}
    ernie |= {"moe_k": 2, "moe_layer_start_index": 1, "moe_layer_interval": 1, "num_nextn_predict_layers": 1}
    target = shape_of(Field(ernie), "ernie")
    shape = methods()["mtp"].usual(target)
    assert (target.experts, shape.experts) == (4, 0)
    # Inputs joined, query, key, value, output, and three of the feed-forward part; the head is the target's.
    assert shape.active_parameters == 64 * (128 + 64 + 64 + 64 + 3 * 96) + 64 * 500


def test_a_target_without_modules_is_refused_in_one_line(run) -> None:
    refused = run("simulate", "--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--method", "mtp")
    assert refused.returncode == 2
    assert refused.stderr == (
        "simulate: --method: mtp, but llama-3.1-8b has no module that predicts further tokens, "
        "expected another method, or --draft-model\n"
    )


@pytest.mark.parametrize(
    ("method", "width", "host_ms", "passes"),
    [("ngram", 5, 0.016, []), ("ngram_gpu", 5, 0, ["search"]), ("suffix", 5, 0.176, []), ("lookahead", 57, 0, [])],
)
def test_what_drafts_without_weights_has_none_in_any_answer(
    method: str, width: int, host_ms: float, passes: list[str], run
) -> None:
    models = ("--profile", "h200-sglang", "--target-model", "qwen3-8b", "--method", method, "--batch", 8)
    answer = result(run, *models, "--replications", 2)
    found = answer["models"]
    assert list(found["passes"]) == ["plain step", *passes, "verification"]
    assert found["passes"]["verification"]["tokens"] == width
    assert found["draft"]["weight_bytes"] == 0
    target = read_shape("qwen3-8b")
    alone = target.weight_bytes("bfloat16") + float(target.kv_bytes(8, 1024, "bfloat16"))
    assert found["memory"]["bytes_per_device"] == pytest.approx(alone)
    assert not [w for w in answer["warnings"] if method in w or "weights" in w]
    text = run("simulate", *models, "--why", "--replications", 2).stdout
    assert "drafts without weights" in text
    assert "0.00 B" not in text
    assert (f"{host_ms:.3f} ms of the host" in text) == (host_ms > 0)
    refused = run("simulate", *models, "--placement", "separate")
    assert refused.stderr == f"simulate: --placement: {method} drafts without weights, expected no such option\n"


def test_a_small_model_drafts_as_its_folder_says_where_its_file_does_not(tmp_path: Path) -> None:
    plain = {k: v for k, v in ON_LLAMA_8B.items() if k != "draft_vocab_size"} | {"architectures": ["LlamaForCausalLM"]}
    for folder, layers, method in (
        ("EAGLE-llama", 1, "eagle"),
        ("x-EAGLE3", 1, "eagle3"),
        ("EAGLE3-x", 32, None),
        ("EAGLE7-x", 1, None),
        ("draft2", 1, None),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(plain | {"num_hidden_layers": layers}))
        shape = read_shape(tmp_path / folder)
        assert (shape.drafting and shape.drafting.method) == method
        assert ("as its folder's name tells" in shape.assumed) == (method is not None)
        assert ("though eagle7 is in its folder's name" in shape.assumed) == (folder == "EAGLE7-x")


# Files as they are published: what they say of the states read, words, places of a block, and modules.
FILES = {
    "SpecForge, Inkling": (
        BLOCKS
        | {"architectures": ["DSparkDraftModel"], "block_size": 7, "dspark_config": {"markov_rank": 128}}
        | {"dflash_config": {"projector_type": "dspark", "target_layer_ids": [5, 17, 35]}},
        ("dspark", 7, 3, 151_936, True),
    ),
    "speculators, DFlash": (
        {"architectures": ["DFlashDraftModel"], "model_type": "speculators", "speculators_model_type": "dflash"}
        | {"block_size": 8, "aux_hidden_state_layer_ids": [3, 13, 23, 32], "draft_vocab_size": 32_000}
        | {
            "transformer_layer_config": {k: v for k, v in BLOCKS.items() if k not in ("architectures", "dflash_config")}
        },
        ("dflash", 7, 4, 32_000, False),
    ),
    "vLLM, DSpark of Kimi": (
        BLOCKS
        | {"architectures": ["K3DSparkModel"], "block_size": 7, "dflash_config": None, "target_layer_ids": [1, 9]},
        ("dspark", 7, 2, 151_936, True),
    ),
    "vLLM, a DSpark block whose first place gives no token": (
        SEVEN | {"sample_from_anchor": False},
        ("dspark", 6, 5, 151_936, True),
    ),
    "EAGLE-3 of two layers": (
        ON_LLAMA_8B | {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [2, 29]}},
        ("eagle3", None, 2, 32_000, False),
    ),
    "vLLM, EAGLE": (
        ON_LLAMA_8B | {"architectures": ["EagleLlamaModel"], "draft_vocab_size": None},
        ("eagle", None, 2, 128_256, True),
    ),
    "SpecForge, MTP of its own words": (
        ON_QWEN_8B | {"architectures": ["Qwen3ForCausalLMMTP"], "model_type": "qwen3"},
        ("mtp", None, 2, 32_000, False),
    ),
    "MTP by its model_type": (
        ON_QWEN_8B
        | {"architectures": None, "model_type": "mimo_mtp", "num_hidden_layers": 0, "draft_vocab_size": None},
        ("mtp", None, 2, 151_936, True),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_engines_and_trainers_are_read_as_they_are(name: str) -> None:
    values, (method, longest, states, words, is_borrowed) = FILES[name]
    shape = read(values)
    found = {m.parts[0][0]: m for m in shape.matrices}
    joined, head = found.get("fc") or found["eh_proj"], found["lm_head"]
    assert (shape.drafting.method, shape.drafting.longest) == (method, longest)
    assert (joined.inputs // 4096, head.outputs, head.is_borrowed) == (states, words, is_borrowed)


def test_a_draft_is_as_long_as_its_file_says_and_no_longer_than_its_drafter_makes(tmp_path: Path, run) -> None:
    ways = {"algorithm": "eagle3", "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 6}]}
    files = {"eagle3": (ON_LLAMA_8B | {"speculators_config": ways}, 6), "medusa": (MEDUSA | {"num_heads": 3}, 3)}
    for name, (values, length) in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
        models = ("--profile", "h200", "--target-model", "llama-3.1-8b", "--draft-model", f"{name}.json")
        assert result(run, *models, "--replications", 2)["parameters"]["draftN"] == length
        # Stated, it is what is stated, as far as that goes.
        assert result(run, *models, "--draftN", 2, "--replications", 2)["parameters"]["draftN"] == 2
    refused = run("simulate", *models, "--draftN", 4)
    assert refused.stderr == "simulate: --draftN: 4 is above 3, a block of medusa, expected 1 to 3\n"
