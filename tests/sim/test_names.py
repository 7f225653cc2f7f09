"""Models, devices and number formats by the names that people use, through the one resolver."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.formats import FORMATS, format_of
from simulator.costs.profile_file import find_profile, load_profile, presets
from simulator.costs.shapes import catalogue, config_file, find_model, read_shape
from simulator.ground.artefacts import UserError
from simulator.ground.names import NUMBER_FORMATS, nearest

from .test_cli_models import ON_H100


@pytest.mark.parametrize("name", catalogue())
def test_a_model_is_found_in_any_case_with_vendor_suffix_and_marks(name: str) -> None:
    for text in (
        name.upper(),
        f"vendor/{name}",
        name.replace("-", "_"),
        f"vendor/{name.title()}-Instruct",
        f"{name}@main",
    ):
        path, found = find_model(text)
        assert (path.stem, found.name, found.said) == (name, name, "")


@pytest.mark.parametrize("name", presets())
def test_a_device_is_found_in_any_case_with_its_maker_and_marks(name: str) -> None:
    for text in (name.upper(), name.replace("-", " "), f"NVIDIA {name.replace('-', '_')}", name.replace("-", "")):
        assert find_profile(text).name == name
        assert find_profile(text).said == ""


DEVICES = [
    ("H100-SXM", "h100-sxm", False),
    ("h100", "h100-sxm", True),
    ("NVIDIA H100 80GB HBM3", "h100-sxm", True),
    ("NVIDIA A100-SXM4-80GB", "a100-80gb", True),
    ("rtx4090", "rtx-4090", False),
    ("NVIDIA GeForce RTX 4090", "rtx-4090", False),
    ("4090", "rtx-4090", True),
    ("a100sxm", "a100-80gb", True),
    ("mi300xoam", "mi300x", True),
    ("Tesla T4", "t4", False),
    ("TPU v6e", "tpu-v6e", False),
    ("ironwood", "tpu-v7", True),
]


@pytest.mark.parametrize(("text", "name", "says"), DEVICES)
def test_a_device_is_found_by_what_people_call_it(text: str, name: str, says: bool) -> None:
    profile = load_profile(text)
    assert profile.name == name
    assert (profile.assumed != "") == says
    if says:
        assert profile.assumed.startswith(f"{text}: taken as {name}")


def test_what_names_several_devices_or_another_is_not_guessed(run, user_error) -> None:
    user_error(run("profiles", "show", "rtx"), "rtx: means several devices, expected one of rtx-3090, rtx-4060, ")
    # An L40 is no L40S, nor a laptop's card that of a desktop.
    for text in ("l40", "rtx-4060-laptop", "m4", "rtx 4070 ti", "h100-nvl"):
        user_error(run("profiles", "show", text), f"{text}: no such file, nor a device", "nearest: ", "profiles list")


MODELS = [
    ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b", ""),
    ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.3-70b", ""),
    ("google/gemma-2-9b-it", "gemma-2-9b", ""),
    ("gpt-2", "gpt2", ""),
    # What was taken for granted is said: a size or version left out, a date, another model of the same sizes.
    ("mixtral", "mixtral-8x7b", "stands for mixtral"),
    ("lmsys/vicuna-7b-v1.5", "vicuna-7b", "stands for lmsys/vicuna-7b-v1.5"),
    ("Qwen/Qwen3-30B-A3B-Thinking-2507", "qwen3-30b-a3b", "stands for Qwen/Qwen3-30B-A3B-Thinking-2507"),
    ("deepseek-ai/DeepSeek-V3-0324", "deepseek-v3", "stands for deepseek-ai/DeepSeek-V3-0324"),
    ("deepseek-ai/DeepSeek-R1", "deepseek-v3", "stands for deepseek-ai/DeepSeek-R1"),
    ("Qwen/Qwen3-8B-FP8", "qwen3-8b", "stands for Qwen/Qwen3-8B-FP8, in fp8 as that says"),
    ("Qwen/Qwen2.5-Coder-7B-Instruct", "qwen2.5-7b", "stands for Qwen/Qwen2.5-Coder-7B-Instruct"),
    ("Qwen/Qwen2.5-Math-7B", "qwen2.5-7b", "stands for Qwen/Qwen2.5-Math-7B"),
]


@pytest.mark.parametrize(("text", "name", "said"), MODELS)
def test_a_model_is_found_by_what_people_call_it(text: str, name: str, said: str) -> None:
    assert find_model(text)[1] == (name, said)
    assert config_file(text)[1] == read_shape(text).name == name
    assert (read_shape(text).stated_name, read_shape(name).stated_name) == (text, "")


def test_another_model_of_the_same_sizes_has_a_longest_context_of_its_own_or_leaves_it_open() -> None:
    for text, longest in (
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", 262_144),
        ("microsoft/Phi-3-mini-128k-instruct", 131_072),
        ("meta-llama/Meta-Llama-3-8B", 8192),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", 131_072),
        ("RedHatAI/Llama-3.1-8B-FP8", 131_072),
        ("Qwen/Qwen2.5-Math-7B-Instruct", 4096),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", 32_768),
        ("Qwen/Qwen2.5-7B", 131_072),
        ("someone/Qwen3-8B-SFT", None),
    ):
        assert read_shape(text).longest_context == longest, text


# Bytes of the weights by hand, in units of 1e9: numbers in the layers, then those of embeddings and output head.
LLAMA, QWEN = (6.9797, 1.0507), (6.5257, 1.0899)
NAMED = [
    ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", "GPTQ int8 in groups of 128", (8 + 24 / 128) / 8 * QWEN[0] + 2 * QWEN[1]),
    ("Llama-3.1-8B-Instruct-GPTQ-8bit", "GPTQ int8 in groups of 128", (8 + 24 / 128) / 8 * LLAMA[0] + 2 * LLAMA[1]),
    ("Llama-3.1-8B_GPTQ-4bit-32g", "GPTQ int4 in groups of 32", (4 + 20 / 32) / 8 * LLAMA[0] + 2 * LLAMA[1]),
    ("Llama-3.1-8B-AWQ-INT8", "AWQ int8 in groups of 128", (8 + 24 / 128) / 8 * LLAMA[0] + 2 * LLAMA[1]),
    ("Qwen/Qwen2.5-7B-Instruct-AWQ", "awq", (4 + 20 / 128) / 8 * QWEN[0] + 2 * QWEN[1]),
    ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "gptq", (4 + 20 / 128) / 8 * QWEN[0] + 2 * QWEN[1]),
    ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", "int8", LLAMA[0] + 2 * LLAMA[1]),
    ("Llama-3.1-8B-Instruct-quantized.w4a16", "int4 in groups of 128", (4 + 16 / 128) / 8 * LLAMA[0] + 2 * LLAMA[1]),
    ("RedHatAI/Llama-3.1-8B-Instruct-FP8-dynamic", "fp8", LLAMA[0] + 2 * LLAMA[1]),
    ("Llama-3.1-8B-W8A8-FP8", "fp8", LLAMA[0] + 2 * LLAMA[1]),
    ("unsloth/Llama-3.1-8B-bnb-4bit", "bitsandbytes 4-bit", (4 + 8.125 / 64) / 8 * LLAMA[0] + 2 * LLAMA[1]),
    ("mlx-community/Llama-3.1-8B-4-bit", "MLX 4 bits in groups of 64", (4 + 32 / 64) / 8 * sum(LLAMA)),
    ("Llama 3.1 8B int4", "int4", 4 / 8 * LLAMA[0] + 2 * LLAMA[1]),
    ("Llama-3.1-8B-bf16", "bfloat16", 2 * sum(LLAMA)),
    ("Llama-3.1-8B-Instruct-qat-Q8_0-gguf", "Q8_0", 8.5008 / 8 * sum(LLAMA)),
    ("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", "Q4_K_M", 4.8944 / 8 * sum(LLAMA)),
    ("Meta-Llama-3.1-8B-Instruct.i1-Q4_K_M.gguf", "Q4_K_M", 4.8944 / 8 * sum(LLAMA)),
    ("Llama-3.1-8B-Instruct-f16-GGUF", "float16", 2 * sum(LLAMA)),
    ("Llama-3.1-8B-i4", "int4", 4 / 8 * LLAMA[0] + 2 * LLAMA[1]),
]


PARTS = [
    "gptq",
    "awq",
    "int8",
    "int0",
    "16bit",
    "w4a16",
    "w0a0",
    "fp8",
    "bf16",
    "mlx",
    "bnb",
    "6bit",
    "g128",
    "0g",
    "-1",
    "kv",
    "block",
    "awq.",
    "Q4_K_M",
    "mxfp6",
    "i1",
    "gguf",
    "99bit",
    "half",
    "4",
]


@pytest.mark.parametrize(("text", "format_name", "gigabytes"), NAMED)
def test_a_number_format_in_a_name_is_priced(text: str, format_name: str, gigabytes: float) -> None:
    shape = read_shape(text)
    assert shape.storage is not None
    assert shape.storage.name == format_name
    assert shape.weight_bytes(shape.storage) / 1e9 == pytest.approx(gigabytes, rel=1e-3)
    assert f"in {format_name} as that says" in shape.assumed
    # Four bits stand where the name says nothing else, and that is said.
    assert ("4 bits as usual" in shape.assumed) == (format_name == "awq")


def test_a_name_of_several_formats_or_one_that_no_one_reads_is_not_priced_as_another(run, user_error) -> None:
    for name, why in (
        ("qwen3-8b-gptq-int4-w8a8", "several number formats (gptq, int4, w8a8)"),
        ("qwen3-8b-awq-fp8", "several number formats (awq, fp8)"),
        ("qwen3-8b-3bit", "'int3'"),
        ("qwen3-8b-w3a16", "'W3A16'"),
    ):
        args = ("simulate", "--profile", "h100-sxm", "--target-model", name, "--draft-model", "qwen3-0.6b")
        user_error(run(*args), f"{name} names {why}, which is not read, expected --dtype beside it")
        said = " ".join(run(*args, "--dtype", "int8").stdout.split())
        assert f"{name} names {why}, priced in int8 as --dtype states" in said


@pytest.mark.parametrize(
    "name",
    [
        "TheBloke/Llama-2-7B-GGUF",
        "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF",
        "mradermacher/Meta-Llama-3.1-8B-Instruct-i1-GGUF",
        "ggml-org/gpt-oss-20b-GGUF",
        "Llama 3.1 8B gguf",
    ],
)
def test_a_gguf_whose_name_tells_no_type_is_refused_until_one_is_stated(name: str, run, user_error) -> None:
    args = ("simulate", "--profile", "h100-sxm", "--target-model", name, "--draft-model", "llama-68m")
    why = f"{name} is a GGUF of a type that its name does not tell"
    user_error(run(*args), f"{why}, which is not read, expected --dtype beside it")
    assert f"{why}, priced in Q4_K_M as --dtype states" in " ".join(run(*args, "--dtype", "Q4_K_M").stdout.split())


@given(
    st.lists(st.sampled_from(PARTS), max_size=6), st.sampled_from(["", "x/", "mlx-community/"]), st.sampled_from("-_. ")
)
def test_any_name_of_formats_gives_bytes_or_is_refused(parts: list[str], vendor: str, between: str) -> None:
    with suppress(UserError):
        shape = read_shape(f"{vendor}qwen3-8b{between}{between.join(parts)}")
        assert shape.storage is None or shape.weight_bytes(shape.storage) > 0
        assert not (shape.storage and shape.unread)


def test_published_weights_are_stored_as_their_makers_store_them() -> None:
    for text, billions in (
        ("deepseek-v3", 672.9),
        ("deepseek-ai/DeepSeek-R1", 672.9),
        ("deepseek-ai/DeepSeek-V3.1", 672.9),
        ("deepseek-ai/DeepSeek-V3-bf16", 1342.05),
        ("moonshotai/Kimi-K2-Instruct-0905", 1028.9),
        ("moonshotai/Kimi-K2-Thinking", 594.2),
        # A name that says no more than the maker's file leaves that as it is; a quantizer's own is another.
        ("moonshotai/Kimi-K2-Thinking-INT4", 594.2),
        ("someone/Kimi-K2-Thinking-w4a16", 594.2),
        ("someone/Kimi-K2-Thinking-GPTQ-Int4-32g", 597.0),
        ("deepseek-ai/DeepSeek-V3-FP8", 672.9),
        ("MiniMaxAI/MiniMax-M2", 230.0),
        ("openai/gpt-oss-120b", 65.2),
        ("someone/gpt-oss-120b-MXFP4", 65.2),
    ):
        shape = read_shape(text)
        assert shape.storage is not None
        assert shape.weight_bytes(shape.storage) / 1e9 == pytest.approx(billions, rel=2e-3), text


def test_a_name_of_several_lists_them_and_a_miss_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^gemma-3: means several models, expected one of gemma-3-12b, gemma-3-1b, "):
        find_model("gemma-3")
    for text, near in (
        ("lama-3.1-8b", "llama-3.1-8b"),
        ("org/qwen3-9b", "qwen3-8b"),
        ("deepseek-v2", "deepseek-v2-lite"),
    ):
        with pytest.raises(UserError) as error:
            find_model(text)
        message = str(error.value)
        assert message.startswith(f"{text}: no such file or folder, nor a model of `shapes list` (nearest: ")
        assert near in message
        assert message.count(",") <= 5
    with pytest.raises(UserError, match=r"^!: no such file or folder, nor a model of `shapes list` \(nearest: "):
        find_model("!")
    assert len(nearest("", presets())) <= 3


def test_number_formats_by_their_other_names() -> None:
    names = {"BF16": "bfloat16", "torch.float16": "float16", "fp8_e4m3": "fp8", "W4A16": "int4", "MXFP4": "mxfp4"}
    for text, name in {**NUMBER_FORMATS, **names}.items():
        assert format_of(text).name == name
    for name in FORMATS:
        assert format_of(name.upper()).name == name
    for text in ("fp3", "", "int"):
        with pytest.raises(UserError, match="is not known, expected one of 39, nearest: "):
            format_of(text)


def test_what_a_name_was_taken_for_is_said_before_the_numbers(output) -> None:
    words = (
        "--profile",
        "h100",
        "--target-model",
        "Qwen/Qwen3-8B-FP8",
        "--draft-model",
        "Qwen/Qwen3-0.6B",
        "--dtype",
        "bf16",
    )
    text = output("simulate", *words, "--replications", 2)
    assert "warning: h100: taken as h100-sxm (others: h100-pcie)\n" in text
    payload = json.loads(output("simulate", "--profile", "a100", *ON_H100[2:], "--replications", 2, "--json"))
    assert any(w.startswith("a100: taken as a100-80gb") for w in payload["warnings"])


def test_shapes_are_listed_in_a_hundred_columns(output) -> None:
    head, *lines = output("shapes", "list").splitlines()
    assert head.split()[:3] == ["name", "family", "weights"]
    assert [line.split()[0] for line in lines] == list(catalogue())
    assert max(map(len, lines)) <= 100
    (row,) = (line.split() for line in lines if line.startswith("llama-3.1-8b "))
    # 2 x 8 heads x 128 x 32 layers x 2 bytes of KV cache a token.
    assert row == ["llama-3.1-8b", "llama", "8.03", "B", "7.5", "B", "128", "KiB", "32", "131,072", "128,256"]
    shapes = json.loads(output("shapes", "list", "--json"))["shapes"]
    assert {s["name"]: s["parameters"] for s in shapes}["llama-3.1-8b"] == 8_030_261_248
