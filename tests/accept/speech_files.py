"""A tiny pair that hears, with all that Whisper's folders hold, and sound in files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .tiny_models import save_seq2seq

RATE = 16_000
WORDS = [*(f"w{i}" for i in range(14)), *("<sot>", "<en>", "<de>", "<transcribe>", "<translate>", "<notimes>")]
START, EN, DE, TRANSCRIBE, TRANSLATE, NO_TIMES = range(14, 20)
SPECIAL = [2, *range(START, NO_TIMES + 1)]
# As of a multilingual Whisper: the language is to be told, the task is forced.
SETTINGS = {
    "decoder_start_token_id": START,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "forced_decoder_ids": [[1, None], [2, TRANSCRIBE]],
    "lang_to_id": {"<|en|>": EN, "<|de|>": DE},
    "task_to_id": {"transcribe": TRANSCRIBE, "translate": TRANSLATE},
    "no_timestamps_token_id": NO_TIMES,
    "is_multilingual": True,
    "suppress_tokens": [5, *range(START, NO_TIMES + 1)],
    "begin_suppress_tokens": [9, 2],
}
ENGLISH = {k: v for k, v in SETTINGS.items() if k not in ("lang_to_id", "task_to_id")}
ENGLISH |= {"is_multilingual": False, "forced_decoder_ids": [[1, NO_TIMES]]}


def save_hearing(
    folder: Path, seed: int, settings: dict[str, Any] = SETTINGS, words: Sequence[str] = WORDS, **changes: Any
) -> Path:
    """A random Whisper that hears one second, in a folder with its feature extractor and generation config."""
    from transformers import WhisperFeatureExtractor

    save_seq2seq(folder, "whisper", seed, words, max_source_positions=50, **changes)
    WhisperFeatureExtractor(feature_size=5, chunk_length=1).save_pretrained(folder)
    told = {"suppress_tokens": None, "begin_suppress_tokens": None} | settings
    (folder / "generation_config.json").write_text(json.dumps(told))
    return folder


def tone(seconds: float, pitch: float, rate: int = RATE) -> Any:
    """A tone with some noise."""
    rng = np.random.default_rng(int(pitch))
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * pitch * time) + 0.05 * rng.standard_normal(len(time))).astype(np.float32)


def save_sound(path: Path, seconds: float = 0.5, pitch: float = 440, rate: int = RATE, channels: int = 1) -> Path:
    """A tone in a file of the kind that its name says."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    samples = tone(seconds, pitch, rate)
    soundfile.write(path, samples if channels == 1 else np.stack([samples] * channels, axis=1), rate)
    return path


def save_librispeech(folder: Path, texts: Sequence[str]) -> Path:
    """Sound and what is said in it, as LibriSpeech lays it out."""
    chapter = folder / "84" / "121123"
    names = [f"84-121123-{i:04}" for i in range(len(texts))]
    for i, name in enumerate(names):
        save_sound(chapter / f"{name}.flac", 0.3 + 0.15 * i, 200 + 170 * i, rate=RATE if i % 2 else 22_050)
    lines = (f"{name} {text}\n" for name, text in zip(names, texts, strict=True))
    (chapter / "84-121123.trans.txt").write_text("".join(lines))
    return folder
