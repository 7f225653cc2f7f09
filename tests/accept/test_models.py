"""Loading pairs: devices, precision, vocabularies, and one clear line for whatever is wrong."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from acceptance.models import load as models
from acceptance.models.model import Pair
from simulator.ground.artefacts import UserError


def load(pair: tuple[Path, Path] | tuple[str, str], **changes: object) -> Pair:
    return models.load_pair(*map(str, pair), **({"device": "cpu", "dtype": "float32"} | changes))


def test_a_pair_knows_its_vocabulary_its_ends_and_its_context(random_pair: tuple[Path, Path]) -> None:
    pair = load(random_pair)
    assert pair.same_vocabulary
    assert (pair.target.vocabulary, pair.draft.vocabulary) == (41, 41)
    assert pair.target.ends == ()
    assert pair.context_lengths == (128, 128)


def test_logits_beyond_the_smaller_vocabulary_do_not_count(tmp_path: Path, random_pair: tuple[Path, Path]) -> None:
    """Models of one tokenizer are padded to sizes of their own."""
    padded = shutil.copytree(random_pair[1], tmp_path / "padded")
    model = LlamaForCausalLM.from_pretrained(padded)
    model.resize_token_embeddings(64)
    model.save_pretrained(padded)
    pair = load((random_pair[0], padded))
    assert (pair.target.vocabulary, pair.draft.vocabulary) == (41, 41)


def test_different_vocabularies_are_one_clear_error(random_pair: tuple[Path, Path], other_vocabulary: Path) -> None:
    with pytest.raises(UserError) as error:
        load((random_pair[0], other_vocabulary))
    for text in (
        "--draft",
        str(other_vocabulary),
        "vocabulary differs",
        "'w0' is 2 and 1",
        "expected the same",
        "--cross-tokenizer",
    ):
        assert text in str(error.value)


@pytest.mark.parametrize("name", ["/no/such/folder", "./absent", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(random_pair: tuple[Path, Path], name: str) -> None:
    with pytest.raises(UserError, match=f"--target {name}: no such folder"):
        models.load_pair(name, str(random_pair[1]), device="cpu", dtype="float32")


def test_a_folder_without_a_model_is_one_line(tmp_path: Path, random_pair: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=r"--draft .*: cannot be loaded") as error:
        models.load_pair(str(random_pair[0]), str(tmp_path), device="cpu", dtype="float32")
    assert "\n" not in str(error.value)


def test_a_truncated_weight_file_is_one_line(tmp_path: Path, random_pair: tuple[Path, Path]) -> None:
    broken = shutil.copytree(random_pair[1], tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"--draft .*: cannot be loaded") as error:
        models.load_pair(str(random_pair[0]), str(broken), device="cpu", dtype="float32")
    assert "\n" not in str(error.value)


def test_weights_that_are_no_numbers_are_not_measured(tmp_path: Path, random_pair: tuple[Path, Path]) -> None:
    broken = shutil.copytree(random_pair[1], tmp_path / "nan")
    model = LlamaForCausalLM.from_pretrained(broken)
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    model.save_pretrained(broken)
    with pytest.raises(UserError, match=r"--draft .*: cannot be loaded \(its weights hold NaN or infinity\)"):
        models.load_pair(str(random_pair[0]), str(broken), device="cpu", dtype="float32")


def test_any_cpu_is_a_cpu() -> None:
    assert models.pick_dtype("auto", "cpu:0") == "float32"
    assert models.pick_dtype("auto", "cuda:0") == "bfloat16"


def test_an_absent_device_is_named() -> None:
    with pytest.raises(UserError, match="'meta' is not here"):
        models.pick_device("meta")
    with pytest.raises(UserError, match=r"--device: 'cuda:7' is not here, expected auto or one of cpu"):
        models.pick_device("cuda:7")
    with pytest.raises(UserError, match="'toaster' is not here"):
        models.pick_device("toaster")


def test_quantization_needs_a_gpu(random_pair: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="--quantization 4bit: needs a CUDA device, but --device is cpu"):
        load(random_pair, quantization="4bit")


def test_quantization_is_told_to_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot run without a GPU is at least asked for as transformers wants it."""
    monkeypatch.setattr(models, "require", lambda _: None)
    options = models.model_options(["cuda:1"], "bfloat16", "4bit")
    assert options["quantization_config"].load_in_4bit
    assert options["quantization_config"].bnb_4bit_compute_dtype is models.DTYPES["bfloat16"]
    assert options["device_map"] == {"": "cuda:1"}
    assert models.model_options(["cpu"], "float32", None) == {"dtype": models.DTYPES["float32"]}


@pytest.mark.parametrize(
    ("name", "asked"), [("org/model", ("org/model", {})), ("org/model@v1.2", ("org/model", {"revision": "v1.2"}))]
)
def test_a_hub_id_may_name_a_revision(name: str, asked: tuple) -> None:
    seen = []
    models.load_part("--target", name, lambda *a, **k: seen.append((*a, k)))
    assert seen == [asked]


def test_a_folder_with_an_at_sign_is_a_folder(tmp_path: Path) -> None:
    seen = []
    folder = tmp_path / "model@home"
    folder.mkdir()
    models.load_part("--target", str(folder), lambda *a, **k: seen.append((*a, k)))
    assert seen == [(str(folder), {})]


def test_models_of_one_vocabulary_share_the_shorter_context(tmp_path: Path, random_pair: tuple[Path, Path]) -> None:
    short = shutil.copytree(random_pair[1], tmp_path / "short")
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    assert load((random_pair[0], short)).context_lengths == (64, 64)
