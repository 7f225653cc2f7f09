"""Drafters that are no models of their own, what does not fit a pair, and models of which a few numbers are stated."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.cautions import cautions
from simulator.costs.drafters.methods import methods
from simulator.costs.layers import Drafting
from simulator.costs.parameters import DeviceOptions, Point
from simulator.costs.priced import load_pricing
from simulator.costs.shapes import read_shape, shape_of
from simulator.costs.stated import amount
from simulator.costs.work import ModelShape
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field

from .builders import result

# A head for a target of 64 numbers a token and 500 words: attention 4 and 2 heads of 16, inner size 96, 80 words.
HEAD = {"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96}
HEAD |= {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 500}
HEAD |= {"draft_vocab_size": 80, "max_position_embeddings": 2048}
ATTENTION, OUT, FFN = 64 * (64 + 32 + 32), 64 * 64, 3 * 64 * 96
FLASH = {k: v for k, v in HEAD.items() if k != "draft_vocab_size"} | {"architectures": ["DFlashDraftModel"]}
FLASH |= {
    "model_type": "qwen3",
    "num_hidden_layers": 3,
    "block_size": 8,
    "dflash_config": {"target_layer_ids": [1, 5, 9, 13]},
}


def read(values: dict[str, Any]) -> ModelShape:
    return shape_of(Field(values), "a drafter")


def test_an_eagle_3_head_reads_three_states_and_two_inputs_and_has_a_head_of_its_own() -> None:
    shape = read(HEAD)
    weights = 3 * 64 * 64 + 2 * ATTENTION + OUT + FFN + 64 * 80
    # Norms of input, states, feed-forward part and output; the embeddings are the target's.
    assert (shape.active_parameters, shape.parameters) == (weights, weights + 4 * 64)
    assert shape.vocabulary == 500
    assert (shape.drafting.architecture, shape.drafting.method) == ("LlamaForCausalLMEagle3", "eagle3")
    layers = {k: v for k, v in HEAD.items() if k not in ("architectures", "draft_vocab_size")}
    other = {"speculators_model_type": "eagle3", "architectures": ["Eagle3Speculator"], "draft_vocab_size": 80}
    assert read(other | {"transformer_layer_config": layers, "target_hidden_size": None}).parameters == shape.parameters
    # The layers are those of its architecture, whatever model it drafts for.
    assert read(HEAD | {"model_type": "kimi_k2"}).parameters == shape.parameters
    mixture = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    moe = read(HEAD | mixture | {"architectures": ["Qwen3MoEForCausalLMEagle3"]})
    assert moe.active_parameters == weights - FFN + 4 * 64 + 2 * 3 * 64 * 32


@pytest.mark.parametrize("architectures", [["LlamaForCausalLM"], ["Qwen3ForCausalLM"], None])
def test_a_head_that_only_its_keys_tell_is_that_head_and_said(architectures: Any) -> None:
    plain = {k: v for k, v in HEAD.items() if k != "draft_vocab_size"} | {"architectures": architectures}
    known = read(HEAD)
    for key, value in (
        ("draft_vocab_size", 80),
        ("target_hidden_size", 64),
        ("eagle_config", {}),
        ("dflash_config", {}),
    ):
        found = read(plain | {"draft_vocab_size": 80, key: value, "block_size": 8})
        name = "DFlash" if key == "dflash_config" else "EAGLE-3"
        assert found.assumed.startswith(f"read as {name}, as ")
        assert found.parameters == (known.parameters if name == "EAGLE-3" else found.parameters)
    # Without such a key it is a language model, and nothing is said.
    if architectures:
        other = read(plain | {"model_type": "llama"})
        assert (other.drafting, other.assumed) == (None, "")
        assert other.parameters > known.parameters
        assert other.layers == 1
    flat = HEAD | {"architectures": ["Eagle3LlamaForCausalLM"], "model_type": "eagle"}
    assert read(flat).parameters == known.parameters
    within = {"architectures": ["EagleModel"], "model_type": "eagle", "model": plain}
    assert read(within).drafting.architecture == "EagleModel"


def test_a_head_is_held_against_the_states_that_it_reads(tmp_path: Path) -> None:
    wide = HEAD | {"target_hidden_size": 4096, "vocab_size": 128_256}
    (tmp_path / "head.json").write_text(json.dumps(wide))
    assert read(wide).parameters == read(HEAD | {"vocab_size": 128_256}).parameters + 3 * (4096 - 64) * 64
    for target, said in (
        ("llama-3.1-8b", []),
        ("llama-3.1-70b", ["head reads states of its target, but their sizes "]),
    ):
        options = DeviceOptions(profile="h100-sxm", target_model=target, draft_model=str(tmp_path / "head.json"))
        found = cautions(load_pricing(options).costs(Point(context=100)), 4)
        assert len([c for c in found if "sizes differ" in c]) == len(said)


def test_one_layer_of_the_targets_size_may_be_a_head_and_that_is_said(tmp_path: Path) -> None:
    sizes = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256}
    layer = {k: v for k, v in HEAD.items() if k != "draft_vocab_size"} | {"architectures": ["LlamaForCausalLM"]} | sizes
    for layers, count in ((1, 1), (2, 0)):
        (tmp_path / "one.json").write_text(json.dumps(layer | {"num_hidden_layers": layers}))
        options = DeviceOptions(profile="h100-sxm", target_model="llama-3.1-8b", draft_model=str(tmp_path / "one.json"))
        found = cautions(load_pricing(options).costs(Point(context=100)), 4)
        assert (
            len([c for c in found if c.startswith("one has one layer of its target's size: a head says so")]) == count
        )


def test_the_list_names_what_is_read_and_how_it_drafts(output) -> None:
    first, _, head, *lines = output("specsim", "drafters", "list").splitlines()
    assert first.startswith(f"{len(methods())} methods are priced")
    own = {"medusa_num_heads": 3, "hydra_num_heads": 3, "hydra_num_layers": 1, "n_predict": 3, "inner_dim": 96}
    of_block = {"gru_hidden_dim": 8, "emb_dim": 4, "conv_kernel_size": 2, "conv_group_size": 16}
    of_block |= {"selector_rank": 4, "selector_top_k": 2, "target_layer_ids": [1]}
    blocks = FLASH | {"dflash_config": of_block}
    assert (head.split()[0], [line.split()[0] for line in lines]) == ("--method", list(methods()))
    assert max(map(len, (first, *lines))) <= 100
    listed = json.loads(output("specsim", "drafters", "list", "--json"))["drafters"]
    assert [row["rounds"] for row in listed if row["name"] == "eagle3"] == ["K passes"]
    for method in methods().values():
        if method.architectures:
            values = blocks if method.name in ("dflash", "dflash2", "domino", "dspark") else HEAD | own
            drafting = read(values | {"architectures": [method.example]}).drafting
            assert (drafting.architecture, drafting.method) == (method.example, method.name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draft_vocab_size": 501}, "draft_vocab_size is 501, expected a whole number from 1 to 500"),
        ({"parallel_drafting": "yes"}, "parallel_drafting is 'yes', expected true or false"),
        ({"architectures": ["FooEagle7"]}, "the drafter 'FooEagle7' is not priced"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": ["x"]}}, r"ids\[0\] is 'x', expected a whole number"),
        (
            FLASH | {"draft_vocab_size": None, "dflash_config": {"target_layer_ids": []}},
            "is \\[\\], expected at least one",
        ),
        (FLASH | {"draft_vocab_size": None, "dflash_config": {"target_layer_ids": [-1]}}, "ids\\[0\\] is -1, expected"),
        ({"architectures": ["MedusaModel"], "medusa_num_heads": 2, "truncated_vocab_size": 501}, "from 1 to 500"),
    ],
)
def test_a_file_that_makes_no_drafter_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(HEAD | changes)


def test_a_head_on_the_last_state_alone_joins_nothing_and_an_empty_list_is_none() -> None:
    weights = read(HEAD).parameters
    alone = {"use_aux_hidden_state": False, "eagle_aux_hidden_state_layer_ids": []}
    assert read(HEAD | {"eagle_config": alone}).parameters == weights - 3 * 64 * 64
    assert read(HEAD | {"eagle_config": alone | {"use_aux_hidden_state": True}}).parameters == weights
    # A head of the first kind that says it has fewer words has an output head of its own.
    first = HEAD | {"architectures": ["LlamaForCausalLMEagle"]}
    assert read(first).parameters == read(first | {"draft_vocab_size": None}).parameters + 64 * 80


def test_a_state_of_a_layer_that_the_target_lacks_is_said(tmp_path: Path) -> None:
    for last, count in ((36, 0), (999, 1)):
        (tmp_path / "flash.json").write_text(json.dumps(FLASH | {"dflash_config": {"target_layer_ids": [1, last]}}))
        options = DeviceOptions(profile="h100-sxm", target_model="qwen3-8b", draft_model=str(tmp_path / "flash.json"))
        found = cautions(load_pricing(options).costs(Point(context=100)), 4)
        assert len([c for c in found if c == "flash reads a state of layer 999, but qwen3-8b has 36"]) == count


def test_a_drafter_is_not_sized_by_what_nobody_states_of_its_target(run, tmp_path: Path) -> None:
    sizes = {"hidden_size": 4096, "vocab_size": 128_256, "num_hidden_layers": 32}
    for lacking in ("hidden_size", "vocab_size"):
        (tmp_path / f"{lacking}.json").write_text(json.dumps({k: v for k, v in sizes.items() if k != lacking}))
    for name, method in methods().items():
        for lacking in ("hidden_size", "vocab_size"):
            options = DeviceOptions(
                profile="h200", params="8.03B", method=name, target_model=str(tmp_path / f"{lacking}.json")
            )
            if method.is_weightless:
                assert load_pricing(options).models
                continue
            with pytest.raises(UserError, match=f"--method: nobody states {lacking} of .*, or --draft-model"):
                load_pricing(options)
    found = result(run, "--profile", "h200", "--params", "8.03B", "--compare")
    assert {each["method"] for each in found["methods"]} == {n for n, m in methods().items() if m.is_weightless}


def test_an_eagle_head_of_the_first_kind_borrows_the_output_head() -> None:
    shape = read(HEAD | {"architectures": ["LlamaForCausalLMEagle"], "draft_vocab_size": None})
    weights = 2 * 64 * 64 + ATTENTION + OUT + FFN
    assert (shape.active_parameters, shape.parameters) == (weights + 64 * 500, weights + 4 * 64)


def test_a_block_drafter_takes_one_pass_a_round_and_ends_at_its_block(tmp_path: Path) -> None:
    shape = read(FLASH)
    weights = 4 * 64 * 64 + 3 * (ATTENTION + OUT + FFN)
    assert (shape.active_parameters, shape.parameters) == (weights + 64 * 500, weights + 3 * (2 * 64 + 2 * 16) + 2 * 64)
    # As many states as layers where the file does not list them; dense where it counts no experts.
    latent = {"model_type": "deepseek_v3", "kv_lora_rank": 8, "q_lora_rank": None, "qk_nope_head_dim": 12}
    latent |= {
        "qk_rope_head_dim": 4,
        "v_head_dim": 16,
        "architectures": ["DeepseekDFlashDraftModel"],
        "dflash_config": {},
    }
    attention = 64 * 4 * 16 + 64 * (8 + 4) + 8 * 4 * (12 + 16) + 4 * 16 * 64
    assert read(FLASH | latent).active_parameters == 3 * 64 * 64 + 3 * (attention + FFN) + 64 * 500
    (tmp_path / "flash.json").write_text(
        json.dumps(FLASH | {"vocab_size": 151936, "hidden_size": 4096, "head_dim": 128})
    )
    options = DeviceOptions(profile="h100-sxm", target_model="qwen3-8b", draft_model=str(tmp_path / "flash.json"))
    pricing = load_pricing(options)
    pair = pricing.costs(Point(draft_length=7))
    lengths = np.arange(1, 8)
    cost = pair.round_cost(lengths)
    assert np.ptp(cost.draft_s) < 2e-3 * cost.draft_s[0]
    assert (cost.draft_s == cost.draft_step_s).all()
    # All five places go through the layers, four through the output head.
    assert (
        cost.draft_s[3] == pair.placed_draft.parts(1, 5, 1024, 4).total_s < pair.placed_draft.parts(1, 5, 1024).total_s
    )
    # The head lies with the target, and is read all the same.
    own = pair.placed_draft.moved_bytes(1, 5, 1024) - 2 * 4096 * 151936
    assert pair.placed_draft.memory_bytes(1, 1024) < own
    assert pair.longest == 7
    with pytest.raises(UserError, match=r"^--draftN: 8 is above 7, a block of flash, expected 1 to 7$"):
        pricing.costs(Point(draft_length=8))


def test_a_block_whose_tokens_are_corrected_one_by_one_costs_a_product_each(tmp_path: Path) -> None:
    own = {"target_layer_ids": [1, 5, 9, 13], "projector_type": "dspark", "markov_rank": 6}
    values = FLASH | {"architectures": ["DSparkDraftModel"], "dflash_config": own}
    shape, flash = read(values), read(FLASH)
    # A table and a matrix of rank 6 for 500 words; a token of a block besides is its own first one.
    assert shape.parameters == flash.parameters + 2 * 6 * 500
    assert shape.active_parameters == flash.active_parameters
    assert shape.drafting == Drafting("dspark", "dspark", 8, state_size=64, deepest=13)
    (tmp_path / "spark.json").write_text(
        json.dumps(values | {"vocab_size": 151_936, "hidden_size": 4096, "head_dim": 128})
    )
    options = DeviceOptions(profile="h100-sxm", target_model="qwen3-8b", draft_model=str(tmp_path / "spark.json"))
    pair = load_pricing(options).costs(Point(batch=4))
    cost = pair.round_cost(np.arange(1, 9))
    # On this device a launch takes 2 us and a byte 0.373 ps: a product reads its weights and writes 4 rows of words.
    a_product = 2e-6 + 2 * (6 + 4) * 151_936 * 3.73134e-13
    np.testing.assert_allclose(cost.draft_s - cost.draft_step_s, np.arange(1, 9) * a_product, rtol=0.02)


def test_parallel_drafts_of_other_kinds_take_one_pass_of_twice_the_tokens() -> None:
    layers = HEAD | {"architectures": ["PEagleDraftModel"], "num_hidden_layers": 4}
    shape = read(layers)
    assert shape.active_parameters == 3 * 64 * 64 + 5 * ATTENTION + 4 * (OUT + FFN) + 64 * 80
    places = methods()["peagle"].plan(shape, np.asarray(4)).passes
    assert [(p.rows, p.head_rows, p.times) for p in places] == [(8, 4, 1)]
    pard = read({**HEAD, "architectures": ["LlamaForCausalLM"], "pard_token": 3})
    assert (pard.drafting.method, pard.drafting.reads_states) == ("pard", False)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"architectures": ["SomeDraftModel"]}, "SomeDraftModel"),
        ({"architectures": ["DFlashDraftModel"], "dflash_config": {"projector_type": "dflare"}}, "dflare"),
        ({"architectures": ["SomeSpeculator"]}, "SomeSpeculator"),
    ],
)
def test_a_drafter_that_is_not_priced_is_named(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(UserError, match=f"the drafter '{name}' is not priced, expected one that `drafters list` shows"):
        read(HEAD | changes)


def test_a_head_is_no_target_and_does_not_draft_ahead(tmp_path: Path) -> None:
    (tmp_path / "head.json").write_text(json.dumps(HEAD))
    models = {"profile": "h100-sxm", "target_model": "llama-3.1-8b", "draft_model": str(tmp_path / "head.json")}
    with pytest.raises(UserError, match="--overlap: LlamaForCausalLMEagle3 waits for the target's states"):
        load_pricing(DeviceOptions(**models, placement="separate", overlap=True))
    swapped = models | {"target_model": models["draft_model"], "draft_model": "llama-68m"}
    with pytest.raises(
        UserError, match=r"--target-model: head is a drafter \(LlamaForCausalLMEagle3\), expected a model"
    ):
        load_pricing(DeviceOptions(**swapped))


PAIRS = [
    (
        "llama-2-7b",
        "llama-68m",
        32_768,
        ["beyond the 4,096 tokens that the target llama-2-7b", "2,048 tokens that the draft"],
    ),
    ("llama-3.1-8b", "llama-3.2-1b", 131_068, []),
    ("llama-3.1-8b", "llama-3.2-1b", 131_069, ["131,072 tokens that the target", "131,072 tokens that the draft"]),
    ("llama-3.2-1b", "llama-3.1-8b", 100, ["the draft llama-3.1-8b is larger than its target llama-3.2-1b: 8.03 B"]),
    ("qwen2.5-72b", "qwen2.5-0.5b", 100, ["vocabularies differ (152,064 and 151,936 tokens)"]),
]


def test_what_does_not_fit_a_pair_is_said_before_its_numbers(run) -> None:
    for target, draft, context, expected in PAIRS:
        options = DeviceOptions(profile="h100-sxm", target_model=target, draft_model=draft)
        found = cautions(load_pricing(options).costs(Point(context=context)), 4)
        assert len(found) == len(expected)
        assert all(words in caution for words, caution in zip(expected, found, strict=True))
    models = ("--profile", "h100-sxm", "--target-model", "llama-2-7b", "--draft-model", "llama-68m", "--context", 9000)
    assert len(result(run, *models)["warnings"]) == 2
    swept = run("sweep", *models, "--draftN", "2,4", "--replications", 0, "--json")
    assert len(json.loads(swept.stdout)["warnings"]) == 2
    for command, more in (("simulate", ()), ("sweep", ("--draftN", "2,4"))):
        text = run(command, *models, *more, "--replications", 4).stdout
        assert text.count("warning: context 9,000 is beyond the ") == 2
        assert max(map(len, text.splitlines())) <= 100 or command == "simulate"


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        (None, 4096),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512}, 4096),
        ({"rope_type": "linear", "factor": 4.0}, 16384),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),
        ({"rope_type": "dynamic", "factor": 2.0}, 8192),
        ({"rope_type": "longrope", "factor": 2.0}, 4096),
        ({"full_attention": {"rope_type": "default"}}, 4096),
    ],
)
def test_scaled_positions_reach_further(scaling: Any, longest: int) -> None:
    values = {k: v for k, v in HEAD.items() if k != "architectures"} | {"max_position_embeddings": 4096}
    assert read(values | {"rope_scaling": scaling}).longest_context == longest
    assert read(values | {"rope_parameters": scaling}).longest_context == longest


STATED = {"profile": "h100-sxm", "draft_model": "llama-3.2-1b"}


def test_a_model_of_stated_numbers_weighs_and_keeps_what_they_say(run) -> None:
    pair = load_pricing(DeviceOptions(**STATED, params="8.03B", kv_bytes_per_token="128KiB", tp=4)).models
    assert (pair.target.parameters, pair.target.kv_bytes_per_token("bfloat16")) == (8_030_000_000, 131_072)
    dense, real = pair.target, read_shape("llama-3.1-8b")
    for size in ((1, 1, 1000), (8, 5, 8000)):
        # The real model reads its embeddings by rows, half a billion weights of eight.
        assert dense.bytes_moved(*size, "bfloat16") == pytest.approx(real.bytes_moved(*size, "bfloat16"), rel=0.08)
        assert dense.flops(*size) == pytest.approx(real.flops(*size), rel=0.1)
    moe = load_pricing(DeviceOptions(**STATED, params="30.5B", active_params="3.3B")).models.target
    assert moe.parameters == 30_500_000_000
    assert moe.active_parameters == pytest.approx(3.3e9, rel=1e-3)
    assert 60 < moe.experts < 300
    answer = result(run, "--profile", "h100-sxm", "--params", "8.03B", "--draft-params", "600M", "--dtype", "fp8")
    assert answer["parameters"]["params"] == "8.03B"
    assert any("assumed layers and sizes as usual" in warning for warning in answer["warnings"])


def test_the_commands_of_the_page_on_models_run_as_printed(run) -> None:
    page = (Path(__file__).parents[2] / "docs/models.md").read_text()
    commands = [line.split() for line in page.splitlines() if line.startswith("    simulate ")]
    assert len(commands) == 2
    for command in commands:
        assert run(*command, "--replications", 2).returncode == 0


def test_a_family_that_no_reader_knows_is_stated_beside_its_file(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 10, "hidden_size": 512, "vocab_size": 1000}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "brand_new"} | sizes))
    with pytest.raises(UserError, match=r"model_type is 'brand_new', expected one of \d+ families, such as .*--params"):
        load_pricing(DeviceOptions(**STATED, target_model=str(tmp_path)))
    said = {"quantization_config": {"quant_method": "fp8"}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "brand_new"} | sizes | said))
    shape = load_pricing(DeviceOptions(**STATED, target_model=str(tmp_path), params="40M")).models.target
    assert (shape.layers, shape.hidden_size, shape.vocabulary, shape.storage.name) == (10, 512, 1000, "fp8")


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"params": "many"}, "--params: 'many' is not allowed, expected weights such as 8.03B"),
        ({"params": "8.03"}, "--params: '8.03' is not allowed, 8.03 weights; 8.03B?"),
        ({"params": "8K"}, "--params: '8K' is not allowed, 8,000 weights; expected 100,000 or more"),
        ({"params": "1M", "active_params": "1"}, "--active-params: '1' is not allowed, 1 weights; 1B?"),
        (
            {"params": "1B", "active_params": "2B"},
            "--active-params: 2,000,000,000 is above the 1,000,000,000 of --params",
        ),
        ({"active_params": "2B"}, "--active-params: without weights beside it, expected --params too"),
        (
            {"params": "1B", "kv_bytes_per_token": "-4"},
            "--kv-bytes-per-token: '-4' is not allowed, expected bytes such as",
        ),
        ({"params": "1B", "draft_model": None}, "--params: a model alone, nothing drafts for it; expected --method"),
        ({"params": "1B", "profile": None}, "--draft-model: llama-3.2-1b without a device, expected --profile NAME"),
    ],
)
def test_numbers_at_odds_are_one_line(stated: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        load_pricing(DeviceOptions(**STATED | stated))
    assert str(refusal.value).startswith(message)


@given(number=st.integers(1, 10**6), unit=st.sampled_from(["", "k", "M", "B", "KiB", "mib"]))
def test_counts_are_read_with_their_units(number: int, unit: str) -> None:
    widths = {"": 1, "k": 1000, "M": 10**6, "B": 10**9, "KiB": 1024, "mib": 2**20}
    assert amount("--x", f"{number}{unit}", 10**16, "a count") == number * widths[unit]
