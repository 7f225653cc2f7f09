"""What a pair that hears is given: features of sound, how its decoder begins, and what it may not write.

All of it as `generate` of transformers has it for Whisper without timestamps, so that greedy text is the same.
"""

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
    if (other := compat.feature_shape(pair.draft.module)) != shape:
        raise UserError(f"--draft: reads features of {other}, the target those of {shape}, expected the same")
    first, said = first_tokens(pair.target, f"--target {place}", language, speech_task)
    of_draft, draft = first, pair.target
    if not pair.same_vocabulary:
        draft = pair.draft
        told = (language or said, speech_task) if languages(draft.module.generation_config) else (None, None)
        of_draft, _ = first_tokens(draft, "--draft", *told)
    ear = Ear(extractor=extractor, rate=rate, seconds=extractor.n_samples / rate, language=said)
    models = barred(pair.target, pair.target, first), barred(pair.draft, draft, of_draft)
    return replace(pair, target=models[0], draft=models[1], ear=ear)


def barred(model: Model, told: Model, first: tuple[int, ...]) -> Model:
    """Return a model that begins with these tokens, and is barred from what another's generation config bars."""
    names = ("suppress_tokens", "begin_suppress_tokens")
    lists = [getattr(told.module.generation_config, name, None) or () for name in names]
    never, never_first = (tuple(t for t in tokens if 0 <= t < model.vocabulary) for tokens in lists)
    return replace(model, first=first, never=never, never_first=never_first)


def first_tokens(model: Model, name: str, language: str | None, speech_task: str | None) -> tuple[tuple[int, ...], str]:
    """Return how a decoder begins, and the language of what it writes, "" where nobody says.

    Where neither language nor task are told, it is as the generation config forces it; a model of several languages
    that forces none is not asked which it hears: that would be a pass before every text.
    """
    config = model.module.generation_config
    codes = languages(config)
    if not codes:
        own = "" if getattr(config, "is_multilingual", None) is None else "en"
        for option, value, known in ((LANGUAGE, language, own), (SPEECH_TASK, speech_task, "transcribe")):
            if value is not None and language_code(value) != known:
                raise UserError(f"{option}: {name} knows one language and no other task, expected {known or 'none'}")
        return without_times(config, model.first), own
    said = language or getattr(config, "language", None)
    task = speech_task or getattr(config, "task", None)
    tokens = model.first
    if said is None and task is None and len(tokens) > 1:
        of_tokens = {token: code for code, token in codes.items()}
        return without_times(config, tokens), of_tokens.get(tokens[1], "")
    few = ", ".join([*list(codes)[:MAX_NAMED], *(["..."] if len(codes) > MAX_NAMED else [])])
    if said is None:
        raise UserError(f"{LANGUAGE}: {name} knows {len(codes)} and is not told which, expected {few}")
    code = language_code(said)
    if code not in codes:
        raise UserError(f"{LANGUAGE}: {name} does not know {said!r}, expected one of {few}")
    tasks: dict[str, int] = getattr(config, "task_to_id", None) or {}
    task = task or "transcribe"
    if tasks and task not in tasks:
        raise UserError(f"{SPEECH_TASK}: {name} does not know {task!r}, expected {' or '.join(tasks)}")
    first = (tokens[0], codes[code], *([tasks[task]] if tasks else []))
    return without_times(config, first), "en" if task == "translate" else code


def languages(config: Any) -> dict[str, int]:
    """Return the tokens of the languages that a model can be told, by their codes; none where it knows one."""
    if getattr(config, "is_multilingual", None) is False:
        return {}
    return {name.strip("<|>"): token for name, token in (getattr(config, "lang_to_id", None) or {}).items()}


def language_code(said: str) -> str:
    """Return the code of a language that is called by its name or code."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    codes: dict[str, str] = TO_LANGUAGE_CODE
    return codes.get(said.lower(), said.lower().strip("<|>"))


def without_times(config: Any, first: tuple[int, ...]) -> tuple[int, ...]:
    """Return a decoder's first tokens with the one that turns time marks off, where a model has it."""
    token = getattr(config, "no_timestamps_token_id", None)
    return first if token is None or first[-1] == token else (*first, token)
