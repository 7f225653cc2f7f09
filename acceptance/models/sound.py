"""What a pair that hears is given: features of sound, how its decoder begins, and what it may not write.

All of it as `generate` of transformers has it for Whisper without timestamps, so that greedy text is the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from simulator.ground.artefacts import UserError

from . import compat
from .load import load_part
from .model import ASR, Model, Pair

LANGUAGE, SPEECH_TASK = "--language", "--speech-task"
MAX_NAMED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Ear:
    """What makes features of sound.

    rate: samples a second that it takes. seconds: that it hears at most. language: of what is written, "" where the
    model does not say.
    """

    extractor: Any
    rate: int
    seconds: float
    language: str

    def features(self, samples: NDArray[np.float32]) -> torch.Tensor:
        """Return the features of a piece of sound, filled with silence up to `seconds`, [channels, frames]."""
        found = self.extractor(samples, sampling_rate=self.rate, return_tensors="pt")
        features: torch.Tensor = found.input_features[0]
        return features


def check_hears(target: Model, name: str, task: str | None) -> None:
    """Refuse a target that hears where there are texts alone, or one that reads text where there is sound."""
    hears = target.encodes and compat.feature_shape(target.module) is not None
    if hears and task != ASR:
        raise UserError(f"--target {name}: its encoder reads sound, expected --task {ASR} beside it, or one of text")
    if task == ASR and not hears:
        what = compat.kind(target.module)
        raise UserError(f"--task {ASR}: --target {name} is {what}, expected a model that hears, such as Whisper")


def hearing(pair: Pair, place: str, language: str | None, speech_task: str | None) -> Pair:
    """Return a pair that hears: with its target's features, first tokens and tokens that are not written.

    Args:
        pair: A target and a draft that read sound.
        place: Folder or hub id of the target, whose feature extractor it is.
        language: What is spoken, as "en" or "english"; None: what the model's generation config says.
        speech_task: "transcribe" or "translate"; None: the same.

    Raises:
        UserError: There is no such extractor, it does not fit the models, or the model needs to be told the language.
    """
    load = partial(transformers.AutoFeatureExtractor.from_pretrained, trust_remote_code=False)
    extractor = load_part("--target", place, load)
    rate, shape = int(extractor.sampling_rate), compat.feature_shape(pair.target.module)
    made = extractor.feature_size, getattr(extractor, "nb_max_frames", None)
    if made != shape:
        raise UserError(f"--target {place}: its feature extractor makes {made}, but its encoder reads {shape}")
    if (of_draft := compat.feature_shape(pair.draft.module)) != shape:
        raise UserError(f"--draft: reads features of {of_draft}, the target those of {shape}, expected the same")
    config = pair.target.module.generation_config
    first, said = first_tokens(pair.target, place, language, speech_task)
    told = {
        "first": first,
        "never": tuple(getattr(config, "suppress_tokens", None) or ()),
        "never_first": tuple(getattr(config, "begin_suppress_tokens", None) or ()),
    }
    ear = Ear(extractor=extractor, rate=rate, seconds=extractor.n_samples / rate, language=said)
    return replace(pair, target=barred(pair.target, told), draft=barred(pair.draft, told), ear=ear)


def barred(model: Model, told: Mapping[str, tuple[int, ...]]) -> Model:
    """Return a model that begins and is barred as it is told, of the tokens that it has rows for."""
    within = {name: tuple(t for t in tokens if 0 <= t < model.vocabulary) for name, tokens in told.items()}
    return replace(model, first=told["first"], never=within["never"], never_first=within["never_first"])


def first_tokens(
    target: Model, name: str, language: str | None, speech_task: str | None
) -> tuple[tuple[int, ...], str]:
    """Return how a decoder begins, and the language of what it writes, "" where nobody says.

    Where neither language nor task are told, it is as the generation config forces it; a model of several languages
    that forces none is not asked which it hears: that would be a pass before every text.
    """
    config = target.module.generation_config
    codes: dict[str, int] = {k.strip("<|>"): v for k, v in (getattr(config, "lang_to_id", None) or {}).items()}
    if not codes or getattr(config, "is_multilingual", None) is False:
        for option, value in ((LANGUAGE, language), (SPEECH_TASK, speech_task)):
            if value is not None:
                raise UserError(f"{option}: --target {name} knows one language and no other task, expected none")
        return without_times(config, target.first), "" if getattr(config, "is_multilingual", None) is None else "en"
    said = language or getattr(config, "language", None)
    task = speech_task or getattr(config, "task", None)
    tokens = target.first
    if said is None and task is None and len(tokens) > 1:
        of_tokens = {token: code for code, token in codes.items()}
        return without_times(config, tokens), of_tokens.get(tokens[1], "")
    few = ", ".join([*list(codes)[:MAX_NAMED], *(["..."] if len(codes) > MAX_NAMED else [])])
    if said is None:
        raise UserError(f"{LANGUAGE}: --target {name} knows {len(codes)} and is not told which, expected {few}")
    code = language_code(said)
    if code not in codes:
        raise UserError(f"{LANGUAGE}: --target {name} does not know {said!r}, expected one of {few}")
    tasks: dict[str, int] = getattr(config, "task_to_id", None) or {}
    task = task or "transcribe"
    if tasks and task not in tasks:
        raise UserError(f"{SPEECH_TASK}: --target {name} does not know {task!r}, expected {' or '.join(tasks)}")
    first = (tokens[0], codes[code], *([tasks[task]] if tasks else []))
    return without_times(config, first), "en" if task == "translate" else code


def language_code(said: str) -> str:
    """Return the code of a language that is called by its name or code."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    codes: dict[str, str] = TO_LANGUAGE_CODE
    return codes.get(said.lower(), said.lower().strip("<|>"))


def without_times(config: Any, first: tuple[int, ...]) -> tuple[int, ...]:
    """Return a decoder's first tokens with the one that turns time marks off, where a model has it."""
    token = getattr(config, "no_timestamps_token_id", None)
    return first if token is None or first[-1] == token else (*first, token)
