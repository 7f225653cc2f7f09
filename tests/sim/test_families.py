"""Every family that is read: parameters against transformers' models on the meta device, and caches by hand.

Long because it has the sizes of every family.
"""

import importlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from simulator.costs.families import FAMILIES
from simulator.costs.shapes import class_defaults, read_shape
from simulator.costs.work import ModelShape
from simulator.ground.artefacts import UserError

from .test_model_shapes import DRAWN_FAMILIES

hf.utils.logging.set_verbosity_error()
# Sizes with nothing equal by accident.
SIZES = {"num_hidden_layers": 4, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3}
SIZES |= {"intermediate_size": 52, "vocab_size": 97, "head_dim": 20, "pad_token_id": 0}
NO_HEAD_DIM = {k: v for k, v in SIZES.items() if k != "head_dim"}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 28}
ROUTED = EXPERTS | {"n_routed_experts": 5, "n_shared_experts": 2, "n_group": 1, "topk_group": 1}
LATENT = ROUTED | {"kv_lora_rank": 16, "q_lora_rank": 14, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8}
LATENT |= {"v_head_dim": 10, "num_key_value_heads": 6}
DELTA = {"linear_conv_kernel_dim": 3, "linear_key_head_dim": 8, "linear_value_head_dim": 12}
DELTA |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
SHARED = EXPERTS | {"num_experts": 5, "shared_expert_intermediate_size": 36}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 24, "mamba_n_groups": 2, "mamba_d_state": 10, "mamba_d_conv": 3}
INDEX = {"index_n_heads": 3, "index_head_dim": 16, "index_topk": 7}
MIXED = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
ALTERNATE = ["sliding_attention", "full_attention"] * 2
LOCAL = {"num_local_experts": 5, "num_experts_per_tok": 2}
T5 = {"d_model": 48, "d_kv": 10, "d_ff": 52, "num_layers": 3, "num_decoder_layers": 4, "num_heads": 6, "vocab_size": 97}
GPT = {"n_embd": 48, "n_layer": 4, "n_head": 6, "vocab_size": 97, "n_positions": 31}
WHISPER = {"d_model": 48, "encoder_layers": 3, "decoder_layers": 4, "encoder_attention_heads": 6, "vocab_size": 97}
WHISPER |= {"decoder_attention_heads": 8, "encoder_ffn_dim": 44, "decoder_ffn_dim": 52, "num_mel_bins": 20}
WHISPER |= {"max_source_positions": 15, "max_target_positions": 13, "pad_token_id": 0}
BART = {k: v for k, v in WHISPER.items() if not k.endswith(("_bins", "_positions"))} | {"max_position_embeddings": 15}
NEMOTRON = {"mamba_num_heads": 4, "mamba_head_dim": 24, "n_groups": 2, "ssm_state_size": 10, "conv_kernel": 3}
NEMOTRON |= ROUTED | {"moe_shared_expert_intermediate_size": 30}
NEMOTRON |= {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp", "linear_attention"]}
WINDOW = {"sliding_window": 6}
GEMMA4 = {"hidden_size_per_layer_input": 9, "vocab_size_per_layer_input": 31, "global_head_dim": 28}
GEMMA4 |= {"layer_types": ["sliding_attention", "full_attention"] * 2}
LFM2 = {"conv_L_cache": 3, "layer_types": ["conv", "full_attention", "conv", "full_attention"]}

# One or several files of each family, as changes to the sizes above; `None` stands for no such size.
FILES: dict[str, list[dict[str, Any]]] = {
    "apertus": [{}],
    "arcee": [{"mlp_bias": True}],
    "bamba": [NO_HEAD_DIM | MAMBA | {"attn_layer_indices": [1]}],
    "bloom": [{"hidden_size": 48, "n_layer": 4, "n_head": 6, "vocab_size": 97}],
    "cohere": [NO_HEAD_DIM],
    "cohere2": [NO_HEAD_DIM | WINDOW],
    "deepseek_v32": [LATENT | INDEX],
    "dots1": [ROUTED | WINDOW | {"first_k_dense_replace": 1, "attention_bias": True}],
    "ernie4_5": [{"use_bias": True}, {"tie_word_embeddings": False}],
    "ernie4_5_moe": [
        {
            "moe_num_experts": 5,
            "moe_k": 2,
            "moe_intermediate_size": 28,
            "moe_layer_interval": step,
            "use_bias": step == 2,
        }
        for step in (1, 2)
    ],
    "exaone4": [WINDOW],
    "exaone_moe": [WINDOW | EXPERTS | {"num_experts": 5, "num_shared_experts": 2, "n_group": 1, "topk_group": 1}],
    "hy_v3": [EXPERTS | {"num_experts": 5, "num_shared_experts": 2}],
    "falcon": [
        {"hidden_size": 48, "num_attention_heads": 6, "vocab_size": 97, "num_hidden_layers": 4} | changes
        for changes in (
            {"bias": True, "parallel_attn": False},
            {"new_decoder_architecture": True, "num_kv_heads": 3},
            {"multi_query": False, "alibi": True},
        )
    ],
    "falcon_h1": [
        MAMBA | {"mamba_d_ssm": 96, "mamba_rms_norm": normed, "attention_bias": normed} for normed in (False, True)
    ],
    "gemma3n_text": [
        WINDOW
        | {"laurel_rank": 11, "hidden_size_per_layer_input": 9, "vocab_size_per_layer_input": 31, "altup_num_inputs": 3}
        | {"num_kv_shared_layers": 1, "intermediate_size": [52] * 4, "activation_sparsity_pattern": None}
        | {"layer_types": ["sliding_attention", "full_attention"] * 2}
    ],
    "gemma4_text": [
        WINDOW | GEMMA4 | {"attention_k_eq_v": True, "num_global_key_value_heads": 2, "global_head_dim": 28},
        WINDOW | GEMMA4 | {"num_kv_shared_layers": 1, "use_double_wide_mlp": True, "hidden_size_per_layer_input": 0},
        WINDOW | GEMMA4 | {"enable_moe_block": True, "num_experts": 5, "top_k_experts": 2, "moe_intermediate_size": 28},
    ],
    "glm": [{"attention_bias": True}],
    "glm4": [{"attention_bias": True}],
    "glm4v_text": [NO_HEAD_DIM],
    "glm4v_moe_text": [NO_HEAD_DIM | ROUTED | {"first_k_dense_replace": 1}],
    "glm4_moe": [ROUTED | {"first_k_dense_replace": 1, "use_qk_norm": normed} for normed in (False, True)],
    "glm4_moe_lite": [LATENT],
    "glm_moe_dsa": [LATENT | INDEX],
    "gpt_bigcode": [GPT, GPT | {"multi_query": False}],
    "codegen": [GPT | {"rotary_dim": 4}],
    "gpt_oss": [LOCAL | WINDOW],
    "gptj": [GPT | {"rotary_dim": 4}],
    "granite": [{"attention_bias": True, "mlp_bias": True} | NO_HEAD_DIM],
    "granitemoe": [NO_HEAD_DIM | LOCAL],
    "granitemoehybrid": [
        NO_HEAD_DIM | MAMBA | LOCAL | {"layer_types": MIXED, "shared_intermediate_size": 36},
        NO_HEAD_DIM | MAMBA | {"layer_types": MIXED, "num_local_experts": 0, "shared_intermediate_size": 36},
    ],
    "granitemoeshared": [NO_HEAD_DIM | LOCAL | {"shared_intermediate_size": 36}],
    "helium": [{"attention_bias": True, "head_dim": 8}],
    "hunyuan_v1_dense": [{"attention_bias": True}],
    "hunyuan_v1_moe": [{"num_experts": 5, "moe_topk": [2] * 4}],
    "jamba": [NO_HEAD_DIM | {"num_experts": 5, "mamba_d_state": 10, "mamba_d_conv": 3, "mamba_dt_rank": 7}],
    "kimi_linear": [
        NO_HEAD_DIM
        | {k: v for k, v in LATENT.items() if not k.startswith("n_")}
        | {"num_experts": 5, "num_experts_per_token": 2, "num_shared_experts": 1, "q_lora_rank": None}
        | {"linear_head_dim": 9, "linear_num_heads": 5, "linear_conv_kernel_dim": 3}
    ],
    "laguna": [
        SHARED | WINDOW | {"gating": gated, "num_attention_heads_per_layer": [6, 9, 6, 9], "layer_types": ALTERNATE}
        for gated in (False, True)
    ],
    "lfm2": [NO_HEAD_DIM | LFM2, NO_HEAD_DIM | LFM2 | {"block_auto_adjust_ff_dim": False, "conv_bias": True}],
    "lfm2_moe": [NO_HEAD_DIM | LFM2 | EXPERTS | {"num_experts": 5, "num_dense_layers": 2}],
    "llama4_text": [LOCAL | {"intermediate_size_mlp": 60, "interleave_moe_layer_step": step} for step in (1, 2)],
    "mamba": [{"hidden_size": 48, "num_hidden_layers": 4, "vocab_size": 97, "state_size": 10, "time_step_rank": 7}],
    "falcon_mamba": [{"hidden_size": 48, "num_hidden_layers": 4, "vocab_size": 97, "state_size": 10, "expand": 3}],
    "mamba2": [
        {"hidden_size": 48, "num_hidden_layers": 4, "vocab_size": 97, "state_size": 10, "num_heads": 4}
        | {"head_dim": 24, "n_groups": 2, "use_bias": biased}
        for biased in (False, True)
    ],
    "minimax": [LOCAL | {"layer_types": MIXED}],
    "minimax_m2": [LOCAL],
    "ministral": [WINDOW],
    "ministral3": [{}],
    "mistral4": [LATENT | {"first_k_dense_replace": 1}],
    "mpt": [{"d_model": 48, "n_layers": 4, "n_heads": 6, "vocab_size": 97}],
    "mt5": [T5],
    "nemotron": [{"attention_bias": True, "mlp_bias": True}],
    "nemotron_h": [NEMOTRON, NEMOTRON | {"moe_latent_size": 22}],
    "olmo": [NO_HEAD_DIM],
    "olmo2": [NO_HEAD_DIM | {"attention_bias": True}],
    "olmo3": [NO_HEAD_DIM | WINDOW],
    "olmoe": [NO_HEAD_DIM | {"num_experts": 5, "num_experts_per_tok": 2}],
    # Known to engines and not to transformers, or built beside other towers alone.
    "bailing_moe": [],
    "bailing_moe_v2": [],
    "deepseek": [],
    "phi4_multimodal": [],
    "qwen2_5_omni_text": [],
    "qwen3_omni_moe_text": [],
    "phimoe": [NO_HEAD_DIM | LOCAL | {"attention_bias": True, "lm_head_bias": True}],
    "qwen2_vl_text": [NO_HEAD_DIM],
    "qwen2_5_vl_text": [NO_HEAD_DIM],
    "qwen3_vl_text": [{}],
    "qwen3_vl_moe_text": [EXPERTS | {"num_experts": 5, "decoder_sparse_step": 2}],
    "qwen3_5_text": [DELTA],
    "qwen3_5_moe_text": [DELTA | SHARED],
    "qwen3_next": [DELTA | SHARED | {"mlp_only_layers": [1]}],
    "seed_oss": [{"attention_bias": True}],
    "smollm3": [NO_HEAD_DIM],
    "solar_open": [ROUTED],
    "stablelm": [NO_HEAD_DIM | {"use_qkv_bias": True}],
    "starcoder2": [NO_HEAD_DIM, NO_HEAD_DIM | {"use_bias": False}],
    "bart": [BART, BART | {"tie_word_embeddings": False}],
    "mbart": [BART],
    "t5": [T5, T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}],
    "umt5": [T5],
    "whisper": [WHISPER],
}
# Families whose text model transformers builds without an output head.
WITHOUT_HEAD = (
    "mistral4",
    "glm4v_text",
    "glm4v_moe_text",
    "qwen2_vl_text",
    "qwen2_5_vl_text",
    "qwen3_vl_text",
    "qwen3_vl_moe_text",
)
OWN_KEYS = (
    "bart",
    "bloom",
    "codegen",
    "falcon",
    "falcon_mamba",
    "gptj",
    "gpt_bigcode",
    "mamba",
    "mamba2",
    "mbart",
    "mpt",
    "mt5",
    "t5",
    "umt5",
    "whisper",
)


def config_class(family: str) -> type[hf.PreTrainedConfig]:
    if family in CONFIG_MAPPING:
        return CONFIG_MAPPING[family]
    folder = family.removesuffix("_text")
    module = importlib.import_module(f"transformers.models.{folder}.configuration_{folder}")
    wanted = f"{family}_config".replace("_", "")
    return next(kind for name, kind in vars(module).items() if name.lower().replace("_", "") == wanted)


def real_parameters(family: str, config: hf.PreTrainedConfig) -> int:
    makers = {"whisper": hf.WhisperForConditionalGeneration}
    makers |= dict.fromkeys(("bart", "mbart", "t5", "mt5", "umt5"), hf.AutoModelForSeq2SeqLM)
    maker = makers.get(family, hf.AutoModel if family in WITHOUT_HEAD else hf.AutoModelForCausalLM)
    with torch.device("meta"):
        model = maker(config) if family == "whisper" else maker.from_config(config)
    tied = getattr(config, "tie_word_embeddings", False)
    head = config.vocab_size * config.hidden_size if family in WITHOUT_HEAD and not tied else 0
    return sum(p.numel() for p in model.parameters()) + head


def written(folder: Path, values: dict[str, Any], **beside: Any) -> ModelShape:
    (folder / "config.json").write_text(json.dumps(values | beside))
    return read_shape(folder)


def test_every_family_is_counted_here_or_with_sizes_that_are_drawn() -> None:
    assert set(FILES) | set(DRAWN_FAMILIES) == set(FAMILIES)


@pytest.mark.parametrize("family", sorted(FILES))
def test_parameters_are_those_of_the_real_model(family: str, tmp_path: Path) -> None:
    for changes in FILES[family]:
        sizes = {} if family in OWN_KEYS else NO_HEAD_DIM if NO_HEAD_DIM.items() <= changes.items() else SIZES
        config = config_class(family)(**sizes | changes)
        config.to_json_file(tmp_path / "config.json", use_diff=False)
        shape = read_shape(tmp_path)
        assert shape.parameters == real_parameters(family, config), changes
        assert shape.active_parameters < shape.parameters
        # What the class has for it, a text model within a wrapper leaves out.
        stated = json.loads(config.to_json_string())
        wrapped = written(tmp_path, {"model_type": "a_wrapper", "text_config": stated})
        assert wrapped.parameters == shape.parameters
        assert (wrapped.attentions, wrapped.states) == (shape.attentions, shape.states)


def test_class_defaults_are_those_of_transformers() -> None:
    for family in class_defaults():
        config = config_class(family)
        for key, value in class_defaults()[family].items():
            # A name that the class has for another of its values is none of its own.
            assert key in {f.name for f in fields(config)}, (family, key)
            assert getattr(config, key) == value, (family, key)


# What a file of each kind keeps of a sequence, by hand: bytes a token in 16 bits while no window is full, bytes of the
# states, and the tokens that 1,000 tokens of context hold in all layers. Sizes of SIZES: 4 layers, 3 key heads of 20.
KEPT: dict[str, tuple[str, dict[str, Any], float, float, float]] = {
    "grouped": ("llama", SIZES, 4 * 2 * 3 * 20 * 2, 0, 4 * 1000),
    "sliding": ("gpt_oss", SIZES | LOCAL | WINDOW, 4 * 2 * 3 * 20 * 2, 0, 2 * 1000 + 2 * 5),
    "chunked": ("llama4_text", SIZES | LOCAL | {"attention_chunk_size": 6}, 4 * 240, 0, 1 * 1000 + 3 * 5),
    "latent": ("deepseek_v3", SIZES | LATENT, 4 * (16 + 8) * 2, 0, 4 * 1000),
    # Beside the latent vectors a small key of every token, of which 7 are chosen.
    "latent, chosen": ("deepseek_v32", SIZES | LATENT | INDEX, 4 * (16 + 8 + 16) * 2, 0, 4 * 1000 + 4 * 1000),
    # Two of four layers: keys of 2 x 8, values of 4 x 12; a state is 4 heads of 8 x 12 in 32 bits, and what a
    # convolution of 3 over 2 x 16 + 48 channels keeps, 2 tokens of 16 bits.
    "linear": (
        "qwen3_next",
        SIZES | DELTA | SHARED | {"layer_types": MIXED},
        2 * 240,
        2 * (4 * 96 * 4 + 80 * 2 * 2),
        2000,
    ),
    # 4 heads of 24 channels x 10 numbers of state, and 96 + 2 x 2 x 10 channels of convolution.
    "mamba": ("mamba2", FILES["mamba2"][0], 0, 4 * (96 * 10 * 4 + 104 * 3 * 2) + 4 * 96 * 0 + 4 * 32 * 3 * 2, 0),
    "mamba beside attention": (
        "falcon_h1",
        SIZES | MAMBA | {"mamba_d_ssm": 96},
        4 * 240,
        4 * (960 * 4 + 136 * 2 * 2),
        4000,
    ),
    "one thing a layer": (
        "nemotron_h",
        SIZES | NEMOTRON | {"num_hidden_layers": 5},
        240,
        2 * (960 * 4 + 136 * 2 * 2),
        1000,
    ),
    "short convolutions": ("lfm2", NO_HEAD_DIM | LFM2, 2 * 2 * 3 * 8 * 2, 2 * 48 * 2 * 2, 2000),
    # Layers without keys of their own read those of others.
    "shared": ("gemma3n_text", SIZES | FILES["gemma3n_text"][0], 3 * 240, 0, 2 * 1000 + 2 * 5),
}


@pytest.mark.parametrize("kind", KEPT)
def test_what_is_kept_of_a_sequence_by_hand(kind: str, tmp_path: Path) -> None:
    family, values, a_token, states, held = KEPT[kind]
    shape = written(tmp_path, {"model_type": family, **values})
    assert shape.kv_bytes_per_token("bfloat16") == a_token
    assert shape.state_bytes == states
    assert sum(a.layers * float(a.held(1000)) for a in shape.attentions) == held
    # States are kept from the first token on, and divided as heads are.
    kept = shape.kv_bytes(3, 1, "bfloat16")
    assert kept == 3 * (states + a_token)
    assert (shape.kv_bytes(3, 1, "bfloat16", 2) < kept) == ("latent" not in kind)
    # A pass reads states and writes them anew.
    moved = shape.bytes_moved(1, 1, 0, "bfloat16") - shape.bytes_moved(0, 1, 0, "bfloat16")
    assert moved >= 2 * states + a_token


def test_cross_attention_keeps_what_the_encoder_read_whatever_is_written(tmp_path: Path) -> None:
    shape = written(tmp_path, {"model_type": "whisper", **WHISPER})
    # Four layers: of each token keys and values of 48 numbers, and of 15 frames as many from the start.
    assert shape.kv_bytes_per_token("bfloat16") == 4 * 2 * 48 * 2
    assert shape.kv_bytes(1, 0, "bfloat16") == 15 * 4 * 2 * 48 * 2
    assert shape.kv_bytes(1, 10, "bfloat16") == 25 * 4 * 2 * 48 * 2
    # Decoding reads neither the encoder nor the keys and values of what it has read.
    encoder = 3 * (4 * 48 * 48 + 2 * 48 * 44) + 4 * 2 * 48 * 48
    read = 4 * (4 * 48 * 48 + 2 * 48 * 48 + 2 * 48 * 52) + 97 * 48
    assert shape.active_parameters == read
    idle = encoder + 3 * 48 * (20 + 48) + shape.encoder.vectors + shape.tables
    assert shape.bytes_moved(0, 1, 0, "bfloat16") == shape.weight_bytes("bfloat16") - 2 * idle


def test_only_as_many_tokens_are_read_as_an_index_chooses(tmp_path: Path) -> None:
    latent = written(tmp_path, {"model_type": "deepseek_v32", **SIZES | LATENT | INDEX})
    near, far = (latent.bytes_moved(1, 1, context, "bfloat16") for context in (1000, 2000))
    # The small keys are all read; of the latent vectors 7.
    assert far - near == 1000 * 4 * 16 * 2


def test_a_family_by_another_name_is_told_by_its_architecture(tmp_path: Path) -> None:
    values = SIZES | LATENT | {"first_k_dense_replace": 1}
    known = written(tmp_path, {"model_type": "deepseek_v3", **values})
    for name in ("kimi_k2", "of_tomorrow"):
        other = written(tmp_path, {"model_type": name, "architectures": ["DeepseekV3ForCausalLM"], **values})
        assert replace(other, assumed="") == known
        told = "model_type 'of_tomorrow' is not known, read as deepseek_v3, as its architecture tells"
        assert other.assumed == (told if name == "of_tomorrow" else "")
    wrapped = {"model_type": "kimi_k25", "text_config": {"model_type": "kimi_k2", **values}, "vision_config": {}}
    # The class of such a text model has a longest context, which the file leaves out.
    assert replace(written(tmp_path, wrapped), longest_context=None) == known


def test_what_a_wrapper_leaves_out_is_what_its_class_has(tmp_path: Path) -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 3840, "intermediate_size": 15360, "num_attention_heads": 16}
    text |= {"num_key_value_heads": 8, "num_hidden_layers": 48, "sliding_window": 1024}
    wrapped = written(tmp_path, {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 9}})
    assert wrapped.parameters == 11_766_034_176
    assert (wrapped.vocabulary, wrapped.tied_embeddings) == (262_208, True)
    assert {(a.layers, a.window) for a in wrapped.attentions} == {(8, None), (40, 1024)}


@pytest.mark.parametrize(("outer", "inner"), [(False, True), (True, False), (True, True), (None, True)])
def test_embeddings_are_tied_as_the_wrapper_says_whose_head_it_is(tmp_path: Path, outer: Any, inner: bool) -> None:
    values = SIZES | {"model_type": "qwen3_vl_text", "tie_word_embeddings": inner}
    own = {} if outer is None else {"tie_word_embeddings": outer}
    for wrapped in (
        {"model_type": "qwen3_vl", "text_config": values},
        {"thinker_config": {"text_config": values} | own},
    ):
        assert written(tmp_path, wrapped | own).tied_embeddings == (inner if outer is None else outer)
    # Of remote code the text model is a whole one.
    assert written(tmp_path, {"llm_config": values} | own).tied_embeddings == inner


def test_numbers_beyond_all_bounds_where_nothing_is_read_are_no_fault(tmp_path: Path) -> None:
    values = {"model_type": "nemotron_h", **SIZES | NEMOTRON | {"num_hidden_layers": 5}}
    expected = written(tmp_path, values)
    (tmp_path / "config.json").write_text(json.dumps(values | {"time_step_limit": [0.0, float("inf")]}))
    assert "Infinity" in (tmp_path / "config.json").read_text()
    assert read_shape(tmp_path) == expected


def test_sizes_by_other_names_are_the_same(tmp_path: Path) -> None:
    names = {"n_embed": 48, "n_layer": 4, "num_attention_heads": 6, "vocab_size": 97}
    known = written(tmp_path, {"model_type": "bloom", "hidden_size": 48, "n_layer": 4, "n_head": 6, "vocab_size": 97})
    assert written(tmp_path, {"model_type": "bloom", **names}) == known
    convolutions = {"model_type": "lfm2", **{k: v for k, v in NO_HEAD_DIM.items() if k != "intermediate_size"}, **LFM2}
    found = written(tmp_path, convolutions | {"block_ff_dim": 52, "tie_embedding": True})
    assert found == written(tmp_path, convolutions | {"intermediate_size": 52})


def test_mixtures_that_engines_alone_know_by_hand(tmp_path: Path) -> None:
    sizes = SIZES | EXPERTS | {"num_experts": 5, "num_shared_experts": 2, "first_k_dense_replace": 1}
    shape = written(tmp_path, {"model_type": "bailing_moe_v2", "use_qk_norm": True, **sizes})
    attention = 4 * (48 * (120 + 2 * 60) + 120 * 48)
    ffn = 3 * 48 * 52 + 3 * (5 * 3 * 48 * 28 + 5 * 48 + 3 * 48 * 56)
    assert shape.parameters == attention + ffn + 2 * 97 * 48 + (2 * 4 + 1) * 48 + 4 * 2 * 20


@pytest.mark.parametrize("family", ["gpt_oss", "gemma4_text", "olmo3", "exaone_moe", "minimax", "qwen3_next", "hy_v3"])
def test_a_family_without_its_lists_of_layers_goes_by_its_rule(family: str, tmp_path: Path) -> None:
    changes = {k: v for k, v in FILES[family][0].items() if not k.endswith("layer_types")}
    for layers in (4, 13):
        config = config_class(family)(**SIZES | changes | {"num_hidden_layers": layers})
        values = json.loads(config.to_json_string(use_diff=False))
        listed = written(tmp_path, values)
        assert written(tmp_path, {k: v for k, v in values.items() if not k.endswith("layer_types")}) == listed


def test_kimi_linear_counts_its_layers_from_one(tmp_path: Path) -> None:
    known = written(tmp_path, {"model_type": "kimi_linear", **FILES["kimi_linear"][0], "layer_types": MIXED})
    own = {k: v for k, v in FILES["kimi_linear"][0].items() if not k.startswith("linear_")}
    own["linear_attn_config"] = {"full_attn_layers": [2, 4], "kda_layers": [1, 3], "head_dim": 9, "num_heads": 5}
    own["linear_attn_config"]["short_conv_kernel_size"] = 3
    assert written(tmp_path, {"model_type": "kimi_linear", **own}) == known


def test_sizes_beyond_all_models_are_refused_before_they_are_built(tmp_path: Path) -> None:
    files = {"whisper": WHISPER | {"encoder_layers": 10**9}, "t5": T5 | {"num_layers": 10**9}}
    files["gemma3n_text"] = SIZES | FILES["gemma3n_text"][0] | {"altup_num_inputs": 10**9}
    for family, values in files.items():
        with pytest.raises(UserError, match="expected a whole number from 1 to 10000"):
            written(tmp_path, {"model_type": family, **values})
