"""Models in GGUF files: what is loaded of them is the model that was written, and what is none is refused in a line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from acceptance.models import gguf as files
from acceptance.models.gguf import in_one_name, joined, parted
from acceptance.models.load import load_pair
from acceptance.models.origin import origin
from acceptance.results.journal import read_records
from simulator.ground.artefacts import UserError, file_sha256
from simulator.ground.tested import numbers
from tests.conftest import Run, assert_user_error

from .tiny_models import random_model

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")

WORDS = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *"abcdefgh", "ab", "▁a"]
TEMPLATE = "{% for m in messages %}{{ 'a' + m['content'] }}{% endfor %}b"
ENDS = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2, "head_dim": 32}
SHAPE |= {"num_key_value_heads": 1, "sliding_window": 8, "max_position_embeddings": 64}
PROMPT = "abcdefgh" * 3 + "ab"
Types = gguf.GGMLQuantizationType


def gemma(seed: int = 0) -> Any:
    """A random Gemma 3: tied embeddings, five of its six layers see a sliding window."""
    return random_model("gemma3_text", seed, len(WORDS), **SHAPE, **ENDS, initializer_range=0.2).module


def write_gguf(path: Path, module: Any, kind: Any) -> Path:
    """Write a Gemma 3 as llama.cpp's converter does, and give the module the weights that are left of it."""
    config = module.config
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(config.sliding_window)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(WORDS)
    writer.add_token_scores([0.0] * 261 + [-float(i) for i in range(len(WORDS) - 261)])
    writer.add_token_types([3, 3, 3, 2] + [6] * 256 + [1] * (len(WORDS) - 260))
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, config.num_hidden_layers)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            stem, _, part = name.rpartition(".")
            values = weight.numpy().copy()
            if values.ndim == 1:
                writer.add_tensor(f"{names.get_name(stem)}.{part}", values + 1)
                continue
            packed = gguf.quantize(values, kind)
            writer.add_tensor(f"{names.get_name(stem)}.{part}", packed, raw_dtype=kind)
            weight.copy_(torch.from_numpy(gguf.dequantize(packed, kind).astype(np.float32)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A file, and the model that is in it."""
    module = gemma()
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.ndim == 1:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", module, Types.Q8_0), module


@pytest.mark.parametrize("kind", [Types.F32, Types.F16, Types.Q8_0])
def test_the_model_of_a_file_has_the_logits_of_the_one_that_was_written(kind: Any, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", module := gemma(), kind)
    pair = load_pair(str(path), str(path), device="cpu", dtype="float32")
    assert pair.target.module is pair.draft.module, "one that drafts for itself is loaded once"
    tokens = torch.randint(len(WORDS), (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(pair.target.module(tokens).logits, module(tokens).logits, rtol=1e-5, atol=1e-5)
    assert (pair.target.vocabulary, pair.target.ends) == (len(WORDS), (1,))
    if numbers(transformers.__version__) >= (5, 23, 0):  # 5.0 leaves it out, whatever the file says
        assert pair.tokenizer("ab").input_ids[0] == 2
    assert pair.tokenizer.decode(pair.tokenizer(PROMPT).input_ids, skip_special_tokens=True) == PROMPT
    framed = pair.tokenizer.apply_chat_template([{"role": "user", "content": "cd"}], tokenize=False)
    assert framed == "acdb"


def test_it_can_be_saved_and_is_then_read_as_any_other(written: tuple[Path, Any], tmp_path: Path) -> None:
    pair = load_pair(str(written[0]), str(written[0]), device="cpu", dtype="float32")
    pair.target.module.save_pretrained(tmp_path / "saved")
    pair.tokenizer.save_pretrained(tmp_path / "saved")
    again = load_pair(str(tmp_path / "saved"), str(written[0]), device="cpu", dtype="bfloat16")
    assert again.same_vocabulary
    weights = [m.module.state_dict() for m in (again.target, again.draft)]
    assert {weight.dtype for weight in weights[1].values()} == {torch.bfloat16}
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_a_file_is_named_in_its_folder_or_alone_and_greedy_text_is_that_of_generate(
    run: Run, written: tuple[Path, Any], tmp_path: Path
) -> None:
    """The prompt is three times as long as the sliding window, so drafts are rolled back beyond it."""
    path, module = written
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": PROMPT[i:]}) + "\n" for i in range(3)))
    told = ("--prompts", "prompts.jsonl", "--max-new-tokens", 12, "--device", "cpu", "--dtype", "float32")
    done = run("bench-decode", "--target", path.parent, "--gguf", path.name, "--method", "ngram", *told)
    assert done.returncode == 0, done.stderr
    header, *records = read_records(tmp_path / "decode.jsonl")[0]
    same = [r["identical_to_baseline"] for r in records if r.get("method") == "ngram" and r["kind"] == "decode_record"]
    assert same == [True] * 3
    assert header["parameters"]["models"]["target"] == {"name": str(path), "sha256": file_sha256(path)}
    pair = load_pair(str(path), str(path), device="cpu", dtype="float32")
    done = run("measure-acceptance", "--gguf", path, "--draft-gguf", path, "--k", 2, *told, "--check-loop", 3, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["loop_check"]["identical"] == 3
    ids = torch.tensor([pair.tokenizer(PROMPT).input_ids])
    expected = module.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
    from acceptance.trace.trace import load_trace

    trace, _ = load_trace(tmp_path / "trace.json")
    assert trace.token[: len(expected)].tolist() == expected


def test_names() -> None:
    assert joined("bundled", "a.gguf") == "a.gguf"
    assert joined("me/model@v2", "a.gguf") == "me/model/a.gguf@v2"
    assert parted("me/model") == ("me/model", "")
    assert parted("me/model/sub/a.gguf@v2") == ("me/model@v2", "sub/a.gguf")
    assert in_one_name({"target": "me/m", "gguf": "a.gguf", "k": 3}) == {"target": "me/m/a.gguf", "k": 3}
    assert origin("me/model/a.gguf", "target", gemma())["name"] == "me/model/a.gguf"


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda _: b"{}", "no GGUF file, which begins with the letters GGUF"),
        (cut, "the file is damaged or cut short"),
        (lambda content: content[:40], "the file is damaged or cut short"),
        (lambda content: content.replace(b"gemma3", b"gemmo3"), "gemmo3"),
        (lambda content: content.replace(b"blk.3.ffn_up.weight", b"blk.3.ffn_xx.weight"), "it lacks 1 weights, model."),
        (None, "no such file"),
    ],
)
def test_what_is_no_model_is_refused_in_a_line(
    spoil: Callable[[bytes], bytes] | None, told: str, run: Run, written: tuple[Path, Any], tmp_path: Path
) -> None:
    if spoil:
        (tmp_path / "bad.gguf").write_bytes(spoil(written[0].read_bytes()))
    done = run("bench-decode", "--target", "./bad.gguf", "--method", "ngram", "--device", "cpu")
    assert_user_error(done, "--target ./bad.gguf: ", told)
    assert len(done.stderr) < 260, done.stderr


def test_options_that_do_not_go_together_are_refused(
    run: Run, written: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written[0]
    for words, told in (
        (("--target", path, "--gguf", path), f"--gguf {path}: --target {path} names a file already"),
        (("--gguf", "model.bin"), "--gguf model.bin: expected a file of the name *.gguf"),
        (("--target", path, "--quantization", "4bit"), f"--target {path} is dequantised, expected no GGUF file"),
    ):
        assert_user_error(run("bench-decode", *words, "--method", "ngram", "--device", "cpu"), told)
    monkeypatch.setattr(files, "GGUF", files.GGUF._replace(import_name="no_such_library"))
    with pytest.raises(UserError, match=r'no_such_library is not installed; .* pip install "specsim\[gguf\]"'):
        load_pair(str(path), str(path))
