"""Number formats that files of models name, in bytes by hand; modules left out, formats that are not read."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.costs.formats import GGUF_BITS, bytes_per_weight, matcher
from simulator.costs.parameters import DeviceOptions
from simulator.costs.priced import load_pricing
from simulator.costs.shapes import CATALOGUE, read_shape
from simulator.costs.work import ModelShape, stored
from simulator.ground.artefacts import UserError
from simulator.ground.names import GGUF

from .builders import result

# A made-up decoder: two layers of attention 64 -> 64 (heads of 16, 4 and 2) and 64 -> 96, untied words of 100.
TINY = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 100}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
ATTENTION, FFN, OUTER, NORMS = 2 * (64 * 64 * 3), 2 * (64 * 96 * 3), 2 * 100 * 64, 5 * 64
INNER = ATTENTION + FFN
MIXTURE = TINY | {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MIXTURE |= {"head_dim": 16}
EXPERTS, ROUTERS = 2 * 4 * 3 * 64 * 32, 2 * 4 * 64


def compressed(weights: dict[str, Any], activations: Any = None, **more: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ["lm_head"]} | more


def torchao(kind: str, **settings: Any) -> dict[str, Any]:
    return {"quant_method": "torchao", "quant_type": {"default": {"_type": kind, "_data": settings}}}


OF_64 = {"_type": "PerGroup", "_data": {"group_size": 64}}
FP8_WEIGHTS = {"num_bits": 8, "type": "float", "strategy": "channel"}
INT4_WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
FP4_WEIGHTS = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}

# What a file says, bits of a weight of the layers, and the format whose arithmetic a device of all kinds uses.
FORMATS: list[tuple[dict[str, Any], float, str]] = [
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8 + 32 / 16384, "fp8"),
    ({"quant_method": "fp8"}, 8, "fp8"),
    ({"quant_method": "fbgemm_fp8"}, 8, "fp8"),
    ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, 4 + 20 / 128, "int4"),
    ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "zero_point": False}, 4 + 16 / 64, "int4"),
    ({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}, 4 + 20 / 32, "int4"),
    ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8, "int4"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4 + 32 / 64, "int4"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 4 + 8.125 / 64, "int4"),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8, "int8"),
    (compressed(FP8_WEIGHTS, {"num_bits": 8, "type": "float"}), 8, "fp8"),
    (compressed(FP8_WEIGHTS), 8, "bfloat16"),
    (compressed(INT4_WEIGHTS), 4 + 16 / 32, "int4"),
    (compressed(FP4_WEIGHTS, {"num_bits": 4, "type": "float"}), 4.5, "nvfp4"),
    (compressed({"num_bits": 8, "type": "int", "strategy": "channel"}, {"num_bits": 8, "type": "int"}), 8, "int8"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, 4.5, "nvfp4"),
    ({"quant_method": "modelopt", "quant_algo": "FP8"}, 8, "fp8"),
    ({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": 128}, 4 + 16 / 128, "int4"),
    (
        {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4", "qscheme": "per_group"}}},
        4.25,
        "mxfp4",
    ),
    ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Float8WeightOnlyConfig"}}}, 8, "fp8"),
    (torchao("Float8DynamicActivationInt4WeightConfig"), 4 + 16 / 128, "fp8"),
    (torchao("Int4WeightOnlyConfig", group_size=32), 4 + 20 / 32, "int4"),
    (torchao("Int8DynamicActivationIntxWeightConfig", weight_dtype="int4", weight_granularity=OF_64), 4.3125, "int4"),
    (
        {"quant_method": "torchao", "quant_type": "int4_weight_only", "quant_type_kwargs": {"group_size": 64}},
        4.3125,
        "int4",
    ),
    ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}}, 4.5, "int4"),
]


def written(folder: Path, values: dict[str, Any], **beside: Any) -> ModelShape:
    (folder / "config.json").write_text(json.dumps(values))
    for name, content in beside.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return read_shape(folder)


def bytes_of(shape: ModelShape) -> float:
    assert shape.storage is not None
    return shape.weight_bytes(shape.storage)


def test_bytes_of_what_files_say_by_hand(tmp_path: Path) -> None:
    for said, bits, arithmetic in FORMATS:
        shape = written(tmp_path, TINY | {"quantization_config": said})
        assert bytes_of(shape) == pytest.approx(INNER * bits / 8 + 2 * (OUTER + NORMS), rel=1e-12), said
        assert shape.storage.format.arithmetic[0] == arithmetic, said
    plain = written(tmp_path, TINY)
    assert (plain.storage, plain.unread) == (None, "")


def test_mlx_quantizes_embeddings_and_head_and_names_modules_of_other_bits(tmp_path: Path) -> None:
    said = {
        "group_size": 64,
        "bits": 4,
        "model.layers.0.mlp.down_proj": {"group_size": 64, "bits": 8},
        "lm_head": False,
    }
    down = 64 * 96
    expected = (INNER - down + OUTER / 2) * 4.5 + down * 8.5 + 16 * (OUTER / 2 + NORMS)
    for key in ("quantization", "quantization_config"):
        assert bytes_of(written(tmp_path, TINY | {key: said})) == pytest.approx(expected / 8, rel=1e-12)
    # A module outside of layers, by whatever path; where head and embeddings are one, it is the head as well.
    for name, own, bits in (("model.embed_tokens", {"bits": 6}, 6.5), ("language_model.model.embed_tokens", False, 16)):
        said = {"group_size": 64, "bits": 4, name: own}
        apart, tied = (
            written(tmp_path, TINY | {"tie_word_embeddings": t, "quantization": said}) for t in (False, True)
        )
        rest = INNER * 4.5 + 16 * NORMS
        assert bytes_of(apart) == pytest.approx((rest + OUTER / 2 * (4.5 + bits)) / 8, rel=1e-12)
        assert bytes_of(tied) == pytest.approx((rest + OUTER / 2 * bits) / 8, rel=1e-12)
        assert stored(tied, tied.storage).always_bytes == pytest.approx(bytes_of(tied), rel=1e-12)


def test_a_file_that_names_wider_or_narrower_numbers_is_priced_in_them_and_says_so(tmp_path: Path) -> None:
    for key, value, size in (
        ("dtype", "float32", 4),
        ("torch_dtype", "torch.float32", 4),
        ("dtype", "float8_e4m3fn", 1),
    ):
        shape = written(tmp_path, TINY | {key: value})
        assert bytes_of(shape) == INNER * size + (OUTER + NORMS) * (4 if size == 4 else 2)
        assert shape.assumed.endswith(f"{size} byte{'s' * (size > 1)} a weight, as dtype in its file says")
    for value in ("bfloat16", "float16", "auto", None, {"": 1}):
        shape = written(tmp_path, TINY | {"dtype": value})
        assert (shape.storage, shape.assumed) == (None, "")


@pytest.mark.parametrize(
    ("said", "left_out"),
    [
        ({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.self_attn", "lm_head"]}, ATTENTION / 2),
        ({"quant_method": "fp8", "ignored_layers": ["model.layers.1.mlp.down_proj"]}, 64 * 96),
        ({"quant_method": "fp8", "modules_to_not_convert": ["mlp"]}, FFN),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["*self_attn*", "lm_head"]}, ATTENTION),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["model.layers.0.*"]}, INNER / 2),
        (compressed(FP8_WEIGHTS, ignore=["re:.*self_attn.*"]), ATTENTION),
        (compressed(FP8_WEIGHTS, ignore=["re:.*feed_forward.*"]), FFN),
        (compressed(FP8_WEIGHTS, ignore=["re:.*layers\\.1\\..*down_proj$"]), 64 * 96),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1, "dynamic": {"-:.*self_attn.*": {}}}, ATTENTION),
    ],
)
def test_modules_left_out_stay_at_16_bits(tmp_path: Path, said: dict[str, Any], left_out: float) -> None:
    shape = written(tmp_path, TINY | {"quantization_config": said})
    assert bytes_of(shape) == INNER - left_out + 2 * (left_out + OUTER + NORMS)


def test_mxfp4_is_of_experts_alone_and_routers_stay_as_they_are(tmp_path: Path) -> None:
    mxfp4 = written(tmp_path, MIXTURE | {"quantization_config": {"quant_method": "mxfp4"}})
    norms = NORMS + 2 * 2 * 16
    assert bytes_of(mxfp4) == EXPERTS * 4.25 / 8 + 2 * (ATTENTION + ROUTERS + OUTER + norms)
    fp8 = written(tmp_path, MIXTURE | {"quantization_config": {"quant_method": "fp8"}})
    assert bytes_of(fp8) == EXPERTS + ATTENTION + 2 * (ROUTERS + OUTER + norms)
    # One token reads 2 of the 4 experts of a layer, in their own format.
    quarter = mxfp4.bytes_moved(1, 1, 0, mxfp4.storage) - fp8.bytes_moved(1, 1, 0, fp8.storage)
    assert quarter == EXPERTS / 2 * (4.25 / 8 - 1) + ATTENTION


def test_a_file_beside_the_config_tells_weights_and_cache(tmp_path: Path) -> None:
    said = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16}}
    said["quantization"]["exclude_modules"] = ["lm_head", "*self_attn*"]
    shape = written(tmp_path, TINY, hf_quant_config=said)
    assert bytes_of(shape) == FFN * 4.5 / 8 + 2 * (ATTENTION + OUTER + NORMS)
    assert (shape.storage.name, shape.kv_dtype) == ("NVFP4", "fp8")
    assert shape.kv_bytes_per_token(shape.kv_dtype) == 2 * 2 * 2 * 16
    mixed = {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None}
    mixed["quantized_layers"] = {
        "model.layers.0.mlp": {"quant_algo": "FP8"},
        "model.layers.1.mlp": {"quant_algo": "NVFP4"},
    }
    shape = written(tmp_path, TINY, hf_quant_config={"quantization": mixed})
    assert bytes_of(shape) == FFN / 2 * (1 + 4.5 / 8) + 2 * (ATTENTION + OUTER + NORMS)


@pytest.mark.parametrize(
    ("name", "said", "bits"),
    [
        ("quantize_config", {"bits": 4, "group_size": 128, "desc_act": True, "sym": True}, 4 + 20 / 128),
        ("quant_config", {"w_bit": 4, "q_group_size": 128, "zero_point": True, "version": "GEMM"}, 4 + 20 / 128),
    ],
)
def test_older_quantizers_write_a_file_of_their_own(
    tmp_path: Path, name: str, said: dict[str, Any], bits: float
) -> None:
    shape = written(tmp_path, TINY, **{name: said})
    assert bytes_of(shape) == pytest.approx(INNER * bits / 8 + 2 * (OUTER + NORMS), rel=1e-12)


def test_a_file_beside_goes_before_what_a_text_model_had(tmp_path: Path) -> None:
    wrapped = {"model_type": "kimi_k25", "text_config": TINY | {"quantization_config": compressed(INT4_WEIGHTS)}}
    assert written(tmp_path, wrapped).storage.name == "compressed-tensors int4 in groups of 32"
    assert written(tmp_path, wrapped, hf_quant_config={"quantization": {"quant_algo": "FP8"}}).storage.name == "FP8"


def test_the_cache_may_be_stated_with_compressed_tensors(tmp_path: Path) -> None:
    said = compressed(FP8_WEIGHTS, kv_cache_scheme={"num_bits": 8, "type": "float"})
    assert written(tmp_path, TINY | {"quantization_config": said}).kv_dtype == "fp8"


UNREAD = [
    ({"quant_method": "aqlm"}, "quantization_config names 'aqlm'"),
    ({"quant_method": "modelopt", "quant_algo": "W3A7"}, "quantization_config names 'W3A7'"),
    (compressed(FP8_WEIGHTS, sparsity_config={"format": "sparse-24-bitmask"}), "sparse weights ('sparse-24-bitmask')"),
    (compressed({"num_bits": 5, "type": "float"}), "floats of 5 bits"),
]
MODELS = {"profile": "h100-sxm", "draft_model": "llama-68m"}


def test_groups_of_several_formats_are_called_so(tmp_path: Path) -> None:
    four = {"targets": ["re:.*mlp.*"], "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}}
    eight = {"targets": ["re:.*self_attn.*"], "weights": FP8_WEIGHTS, "input_activations": FP8_WEIGHTS}
    for groups, name in (
        ({"a": eight, "b": four}, "compressed-tensors in mixed precision"),
        ({"a": eight, "b": eight | {"targets": ["re:.*mlp.*"]}}, "compressed-tensors fp8"),
    ):
        said = {"quant_method": "compressed-tensors", "config_groups": groups}
        assert written(tmp_path, TINY | {"quantization_config": said}).storage.name == name


def test_a_format_that_is_not_read_is_named_and_never_priced_as_another(tmp_path: Path) -> None:
    for said, words in UNREAD:
        written(tmp_path, TINY | {"quantization_config": said})
        with pytest.raises(UserError, match="which is not read, expected --dtype beside it") as refusal:
            load_pricing(DeviceOptions(**MODELS, target_model=str(tmp_path)))
        assert words in str(refusal.value)
        assert load_pricing(DeviceOptions(**MODELS, target_model=str(tmp_path), dtype="int4")).models.dtype == "int4"


def test_what_a_user_states_goes_before_the_file_and_is_said(run, tmp_path: Path) -> None:
    written(tmp_path, TINY | {"max_position_embeddings": 4096, "quantization_config": {"quant_method": "fp8"}})
    models = (
        "--profile",
        "h100-sxm",
        "--target-model",
        str(tmp_path),
        "--draft-model",
        "llama-68m",
        "--replications",
        2,
    )
    own, asked = result(run, *models), result(run, *models, "--dtype", "bfloat16")
    assert own["parameters"]["dtype"] == "fp8"
    assert (own["parameters"]["draft_dtype"], asked["parameters"]["dtype"]) == ("bfloat16", "bfloat16")
    said = f"{tmp_path.name} is stored in fp8, priced in bfloat16 as --dtype states"
    assert said in asked["warnings"]
    assert said not in own["warnings"]
    text = " ".join(run("simulate", *models, "--dtype", "bfloat16").stdout.split())
    assert text.index(f"warning: {said}") < text.index("speedup")


def test_a_device_without_the_format_computes_in_another_and_says_so(run, tmp_path: Path) -> None:
    written(tmp_path, TINY | {"quantization_config": {"quant_method": "fp8"}})
    done = run("simulate", "--profile", "a100-80gb", "--target-model", str(tmp_path), "--draft-model", "llama-68m")
    assert "target in fp8 (arithmetic in bfloat16) on 1 device" in done.stdout


def test_names_of_modules_are_matched_by_their_parts() -> None:
    module = "layers.3.mlp.experts.0.gate_proj"
    for pattern in (
        "mlp.experts",
        "model.layers.3",
        "model.language_model.layers.3.mlp",
        "*experts*",
        "gate_proj",
        "re:.*mlp.*",
    ):
        assert matcher((pattern,))(module), pattern
    for pattern in ("gate", "layers.30", "model.layers.1.mlp", "re:mlp", "*attn*", "lm_head"):
        assert not matcher((pattern,))(module), pattern
    for pattern in ("block_sparse_moe.experts", "layers.3.ffn.experts", "re:.*ffn\\.experts.*", "*.ffn.*"):
        assert matcher((pattern,))(module), pattern
    assert matcher(("head",))("lm_head")


def test_formats_of_blocks_count_their_scales() -> None:
    widths = {"mxfp4": 4.25, "nvfp4": 4.5, "mxfp8": 8.25, "awq": 4 + 20 / 128, "int4": 4, "fp8": 8, "bfloat16": 16}
    assert {name: 8 * bytes_per_weight(name) for name in widths} == widths


odd = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 200)
    | st.floats(0, 20)
    | st.sampled_from(["fp8", "int", "group", "re:(", "*"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["weights", "bits", "type"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(deadline=None)
@given(said=st.sampled_from([said for said, *_ in (*FORMATS, *UNREAD)]), data=st.data(), value=odd)
def test_any_value_of_a_quantization_gives_bytes_or_one_line(
    said: dict[str, Any], data: st.DataObject, value: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = [
        *said,
        "ignore",
        "modules_to_not_convert",
        "kv_cache_scheme",
        "sparsity_config",
        "dynamic",
        "exclude_modules",
    ]
    changed = said | {data.draw(st.sampled_from(keys)): value}
    folder = tmp_path_factory.mktemp("odd")
    found = shape_or_message(folder, TINY | {"quantization_config": changed})
    if isinstance(found, str):
        assert "\n" not in found
        assert found.startswith(str(folder))
    elif found.storage:
        assert 0 < bytes_of(found) <= 2 * found.parameters


def shape_or_message(folder: Path, values: dict[str, Any]) -> ModelShape | str:
    try:
        return written(folder, values)
    except UserError as error:
        return str(error)


def test_no_shape_of_the_catalogue_is_in_a_format_that_is_not_read() -> None:
    assert not any(read_shape(path.stem).unread for path in CATALOGUE.glob("*.json"))


def test_types_of_gguf_files_weigh_what_files_of_llama_cpp_do(run) -> None:
    shape = read_shape("llama-3.1-8b")
    # Sizes in GiB of Llama-3.1-8B, as the page of llama-quantize has them.
    for names, gib in (
        ("Q4_K_M q4_k_m Q4_K q4-k-m", 4.58),
        ("Q8_0", 7.95),
        ("IQ4_XS", 4.17),
        ("Q6_K", 6.14),
        ("Q2_K", 2.95),
    ):
        for name in names.split():
            assert shape.weight_bytes(name) / 2**30 == pytest.approx(gib, abs=0.01), name
    for device in ("h100", "m4-max", "rtx-4090"):
        pair = ("--target-model", "llama-3.1-8b", "--draft-model", "llama-3.2-1b", "--dtype", "Q4_K_M")
        found = result(run, "--profile", device, *pair, "--draft-dtype", "q8_0")["parameters"]
        assert (found["dtype"], found["draft_dtype"]) == ("Q4_K_M", "Q8_0")
    assert len(GGUF_BITS) == len(GGUF) == len({*GGUF} & GGUF_BITS.keys())
