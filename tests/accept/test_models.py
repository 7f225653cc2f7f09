"""Loading pairs: devices, precision, vocabularies, and one clear line for whatever is wrong."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError
from transformers import LlamaForCausalLM

from acceptance.models import hub
from acceptance.models import load as models
from acceptance.models.model import Pair
from acceptance.models.origin import folder_sha256
from simulator.ground.artefacts import UserError


def load(pair: tuple[Path, Path] | tuple[str, str], **changes: object) -> Pair:
    return models.load_pair(*map(str, pair), **({"device": "cpu", "dtype": "float32"} | changes))


def test_a_pair_knows_its_vocabulary_its_ends_and_its_context(pair: Pair) -> None:
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
    texts = ("--draft", str(other_vocabulary), "vocabulary differs", "'w0' is 2 and 1", "expected the same")
    for text in (*texts, "--cross-tokenizer"):
        assert text in str(error.value)


def test_a_folder_that_is_not_there_is_named(random_pair: tuple[Path, Path]) -> None:
    for name in ("/no/such/folder", "./absent", "a/b/c"):
        with pytest.raises(UserError, match=f"--target {name}: no such folder"):
            load((name, random_pair[1]))


def test_a_name_is_asked_for_once_and_loaded_from_the_cache_where_the_hub_is_away(
    monkeypatch: pytest.MonkeyPatch, random_pair: tuple[Path, Path]
) -> None:
    asked: list[str] = []
    cached: str | None = None
    answers: dict[str, type[Exception] | None] = {
        "me/misspelt": RepositoryNotFoundError,
        "me/gated": GatedRepoError,
        "me/away": ConnectionError,
        "me/odd": EntryNotFoundError,
        "me/there": None,
    }

    def ask(url: str, timeout: float) -> None:
        asked.append(url)
        name = "/".join(url.split("/")[3:5])
        if error := answers[name]:
            raise error.__new__(error)

    monkeypatch.setattr(hub, "get_hf_file_metadata", ask)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: cached)
    for name, message in (
        ("me/misspelt", "no such model on the hub, or a private one"),
        ("me/gated", "gated on the hub"),
        ("me/away", r"nor in the local cache, and the hub cannot be reached \(ConnectionError\)"),
    ):
        with pytest.raises(UserError, match=rf"^--target {name}: .*{message}[^\n]*$"):
            load((name, random_pair[1]))
    assert len(asked) == 3
    cached = "config.json"
    local = {"local_files_only": True}
    for name, expected in (("me/away", local), ("me/there", {}), ("me/odd", {})):
        found = models.load_part("--draft", f"{name}@v2", lambda found, **where: (found, where))
        assert found == (name, expected | {"revision": "v2"})
    assert all("/v2/" in url for url in asked[3:])
    models.load_part("--target", "me/there@v2", lambda _, **where: where)
    assert len(asked) == 6


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path, random_pair: tuple[Path, Path]) -> None:
    (empty := tmp_path / "empty").mkdir()
    truncated, broken = (shutil.copytree(random_pair[1], tmp_path / name) for name in ("truncated", "nan"))
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    model = LlamaForCausalLM.from_pretrained(broken)
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    model.save_pretrained(broken)
    for folder, reason in (
        (empty, "(cannot be loaded|vocabulary differs)"),  # transformers 5.0 makes a tokenizer of nothing
        (truncated, "cannot be loaded"),
        (broken, r"cannot be loaded \(its weights hold NaN or infinity\)"),
    ):
        with pytest.raises(UserError, match=rf"\A.*--draft .*: {reason}.*\Z"):
            load((random_pair[0], folder))


def test_any_cpu_is_a_cpu_and_an_absent_device_is_named() -> None:
    devices = ("cpu:0", "cuda:0", "mps")
    assert [models.pick_dtype("auto", device) for device in devices] == ["float32", "bfloat16", "float16"]
    assert models.pick_dtype("bfloat16", "mps") == "bfloat16"
    for device, rest in (("meta", ""), ("cuda:7", ", expected auto or one of cpu"), ("toaster", "")):
        with pytest.raises(UserError, match=f"--device: '{device}' is not here{rest}"):
            models.pick_device(device)


def test_quantization_needs_a_gpu_and_is_passed_to_the_loader(
    random_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot run without a GPU is at least asked for as transformers wants it."""
    with pytest.raises(UserError, match="--quantization 4bit: needs a CUDA device, but --device is cpu"):
        load(random_pair, quantization="4bit")
    monkeypatch.setattr(models, "require", lambda _: None)
    options = models.model_options(["cuda:1"], "bfloat16", "4bit")
    assert options["quantization_config"].load_in_4bit
    assert options["quantization_config"].bnb_4bit_compute_dtype is models.DTYPES["bfloat16"]
    assert options["device_map"] == {"": "cuda:1"}
    assert models.model_options(["cpu"], "float32", None) == {"dtype": models.DTYPES["float32"]}


def test_a_folder_with_an_at_sign_is_a_folder(tmp_path: Path) -> None:
    (folder := tmp_path / "model@home").mkdir()
    assert models.load_part("--target", str(folder), lambda *a, **k: (*a, k)) == (str(folder), {})


def test_what_we_measure_into_a_models_folder_leaves_it_the_same_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = folder_sha256(tmp_path)
    for name in ("trace.json", "trace.npz", "accept_hist_k3.json", "unfinished.jsonl", "probe.json", "probe.npz"):
        (tmp_path / name).write_text("{}")
        assert folder_sha256(tmp_path) == before, name
    # What a model may be of counts, by whatever name of its own.
    for name in ("weights.npz", "judge.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
        assert folder_sha256(tmp_path) != before, name
        before = folder_sha256(tmp_path)


def test_models_of_one_vocabulary_share_the_shorter_context(tmp_path: Path, random_pair: tuple[Path, Path]) -> None:
    short = shutil.copytree(random_pair[1], tmp_path / "short")
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    assert load((random_pair[0], short)).context_lengths == (64, 64)
