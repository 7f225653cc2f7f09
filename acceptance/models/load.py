"""Models through torch and transformers: find a device, load a target and its draft that fit together."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stderr
from functools import partial
from io import StringIO
from typing import Any

import torch
import transformers

from simulator.ground.artefacts import UserError
from simulator.ground.dependency import Dependency, require

from . import compat, gguf
from .bundled import BUNDLED, place_of
from .check import check_cache, check_reading
from .hub import where_to_load
from .model import STAND_IN, Model, Pair, end_tokens, token_count, vocabulary_of
from .source import check_kinds, share_encoder

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
QUANTIZATIONS = {"8bit": {"load_in_8bit": True}, "4bit": {"load_in_4bit": True}}
NO_SAFETENSORS = "no weights in safetensors; a .bin is a pickle, which can hold any program: --allow-pickle takes it"
ACCELERATE = Dependency(import_name="accelerate", purpose="a model over several GPUs", extra="multi-gpu")
BITSANDBYTES = Dependency(import_name="bitsandbytes", purpose="--quantization", extra="quantization")


def pick_device(device: str) -> str:
    """Resolve "auto", and refuse a device that torch does not know or have.

    Raises:
        UserError: Names the option, the device and what there is.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise UserError(f"--device: {device!r} is not here, expected auto or one of {', '.join(there)}") from None
    return device


def thread_count() -> int:
    """Return how many threads torch computes with: other counts round differently."""
    return int(torch.get_num_threads())


def pick_dtype(dtype: str, device: str) -> str:
    """Resolve "auto": float32 on a CPU, float16 on Apple's GPUs, where older systems lack bfloat16, else bfloat16."""
    if dtype != "auto":
        return dtype
    return {"cpu": "float32", "mps": "float16"}.get(torch.device(device).type, "bfloat16")


def is_cpu(device: str) -> bool:
    """Say whether a device is the processor, by whatever index."""
    return str(torch.device(device).type) == "cpu"


def load_part(option: str, name: str, load: Callable[..., Any]) -> Any:
    """Load a model or tokenizer from a folder, or from the hub as NAME or NAME@REVISION.

    Raises:
        UserError: One line: the option, the name, and the first line of what went wrong.
    """
    try:
        place, where = where_of(name)
    except ValueError as error:
        raise UserError(f"{option} {name}: {error}") from None
    try:
        return load(place, **where)
    except UserError:
        raise
    except Exception as error:  # transformers, safetensors and a model's own code raise what they like
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
        reason = (gguf.fault(name) if gguf.FILE in where else "") or reason
        raise UserError(f"{option} {name}: cannot be loaded ({reason})") from None


def where_of(name: str) -> tuple[str, dict[str, Any]]:
    """Return the folder or the hub's name of a model, and the arguments of from_pretrained that say where to look.

    Raises:
        ValueError: It is not there; says why in a few words.
    """
    name, file = gguf.parted(name)
    where: dict[str, Any] = {gguf.FILE: file} if file else {}
    if os.path.isdir(name):  # noqa: PTH112
        return name, where
    name, _, revision = name.partition("@")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError("no such folder")
    where |= where_to_load(name, revision or None, *filter(None, [file]))
    return name, where | ({"revision": revision} if revision else {})


def vocabulary_difference(target_tokenizer: Any, draft_tokenizer: Any) -> str:
    """Say how many tokens two tokenizers have and on which they differ; empty when they map text to the same ids."""
    target, draft = target_tokenizer.get_vocab(), draft_tokenizer.get_vocab()
    if target == draft:
        return ""
    token = min(t for t in target.keys() | draft.keys() if target.get(t) != draft.get(t))
    return f"{len(draft)} and {len(target)} tokens; {token!r} is {draft.get(token)} and {target.get(token)}"


def load_tokenizer(option: str, name: str) -> Any:
    """Return the tokenizer of a model."""
    return load_part(option, name, partial(transformers.AutoTokenizer.from_pretrained, trust_remote_code=False))


def load_tokenizers(target: str, draft: str, cross_tokenizer: bool) -> tuple[Any, Any]:
    """Return the target's tokenizer and the draft's: the same object where their vocabularies are the same.

    Raises:
        UserError: One cannot be loaded, or they differ and `cross_tokenizer` was not asked for.
    """
    tokenizer = load_tokenizer("--target", target)
    of_draft = tokenizer if draft == target else load_tokenizer("--draft", draft)
    difference = vocabulary_difference(tokenizer, of_draft)
    if difference and not cross_tokenizer:
        if draft == place_of(BUNDLED, "draft"):
            other = f"the {BUNDLED} draft has another vocabulary than --target {target} ({difference})"
            raise UserError(f"--draft: none is given, and {other}; expected a draft of the target's own tokenizer")
        raise UserError(
            f"--draft {draft}: vocabulary differs from --target {target} ({difference}), expected the same tokenizer, "
            "or --cross-tokenizer text for an approximation by strings"
        )
    if difference and not (tokenizer.is_fast and of_draft.is_fast):
        raise UserError("--cross-tokenizer text: needs fast tokenizers, which know where in the text a token stands")
    return tokenizer, of_draft if difference else tokenizer


def model_options(devices: Sequence[str], dtype: str, quantization: str | None) -> dict[str, Any]:
    """Return the arguments of from_pretrained for precision and place.

    Raises:
        UserError: Quantization without a GPU, or a library that is missing.
    """
    device, options = devices[0], {"dtype": DTYPES[dtype]} | spread(devices)
    if quantization is None:
        return options
    if not device.startswith("cuda"):
        raise UserError(f"--quantization {quantization}: needs a CUDA device, but --device is {device}")
    require(BITSANDBYTES)
    how: dict[str, Any] = dict(QUANTIZATIONS[quantization])
    if quantization == "4bit":
        how["bnb_4bit_compute_dtype"] = DTYPES[dtype]
    return {"device_map": {"": device}} | options | {"quantization_config": transformers.BitsAndBytesConfig(**how)}


def spread(devices: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of from_pretrained that lay a model over several GPUs, layer by layer; nothing for one.

    Raises:
        UserError: The library that does it is missing.
    """
    if len(devices) == 1:
        return {}
    require(ACCELERATE)
    chosen = {torch.device(d).index for d in devices}
    free = {i: torch.cuda.mem_get_info(i)[0] if i in chosen else 0 for i in range(torch.cuda.device_count())}
    return {"device_map": "balanced", "max_memory": free}


def class_of(name: str, **where: Any) -> Any:
    """Return the class that loads a model: of causal ones, or of those with an encoder, of text or of sound."""
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **where)
    except Exception:  # the class of most says what the matter is
        return transformers.AutoModelForCausalLM
    if not getattr(config, "is_encoder_decoder", False):
        return transformers.AutoModelForCausalLM
    of_sound = type(config) in transformers.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING
    return transformers.AutoModelForSpeechSeq2Seq if of_sound else transformers.AutoModelForSeq2SeqLM


def load_module(name: str, *, device: str, options: Mapping[str, Any], allow_pickle: bool = False, **where: Any) -> Any:
    """Load a language model; runs no stranger's code, and reads no pickle unless that is allowed.

    Raises:
        ValueError: Its weights hold NaN or infinity, are a pickle, or lack some.
    """
    load, is_gguf = class_of(name, **where).from_pretrained, gguf.FILE in where
    how = {"trust_remote_code": False, "use_safetensors": None if allow_pickle or is_gguf else True}
    try:
        with redirect_stderr(StringIO()) if is_gguf else nullcontext():  # its progress bar heeds no setting
            module, found = load(name, **how, **options, **where, output_loading_info=True)
    except OSError as error:
        if allow_pickle or "safetensors" not in str(error):
            raise
        raise ValueError(NO_SAFETENSORS) from None
    module = module.eval()
    if is_gguf:
        module = gguf.dequantised(module, found["missing_keys"])
    if "device_map" not in options:
        module = module.to(device)
    if not all(torch.isfinite(p).all() for p in module.parameters() if p.is_floating_point()):
        raise ValueError("its weights hold NaN or infinity")
    return module


def read_beyond(module: Any, rows: int) -> None:
    """Have a model read STAND_IN in place of the tokens that it has no row for."""

    def stand_in(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        tokens, *others = inputs
        return (torch.where(tokens < rows, tokens, STAND_IN), *others)

    for table in compat.token_tables(module):
        table.register_forward_pre_hook(stand_in)


def as_model(name: tuple[str, str], module: Any, size: int) -> Model:
    """Return a module as a model; name: its option, and what it is called.

    Raises:
        UserError: It does not say how its decoder begins.
    """
    first: tuple[int, ...] = ()
    if compat.encodes(module):
        try:
            first = compat.first_tokens_of(module)
        except ValueError as error:
            raise UserError(f"{' '.join(name)}: {error}") from None
    return Model(module=module, vocabulary=size, ends=tuple(end_tokens(module)), first=first)


def as_models(
    named: Sequence[tuple[str, str]], modules: Sequence[Any], tokenizers: tuple[Any, Any]
) -> tuple[Model, Model]:
    """Return a target and a draft that go together; named: the option of each, and what it is called.

    Raises:
        UserError: One of them has an encoder and the other has none, or one reads otherwise with a cache than without.
    """
    rows, same = [vocabulary_of(m) for m in modules], tokenizers[0] is tokenizers[1]
    needed = [max(token_count(tokenizers[0]), rows[0]), token_count(tokenizers[1])]
    sizes = list(rows)
    if same:
        needed[1], sizes[1] = needed[0], min(rows)
    for module, there, tokens in zip(modules, rows, needed, strict=True):
        if there < tokens:
            read_beyond(module, there)
    target, draft = (as_model(*each) for each in zip(named, modules, sizes, strict=True))
    check_kinds(target, draft, (named[0][1], named[1][1]))
    if target.encodes and not same and compat.feature_shape(target.module) is None:
        raise UserError(
            f"--cross-tokenizer text: --target {named[0][1]} reads text with an encoder, expected a decoder alone"
        )
    if target.encodes:
        share_encoder(*modules)
    for name, model in zip(named, (target, draft), strict=True):
        check_reading(*name, model)
    return target, draft


def load_pair(
    target: str,
    draft: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantization: str | None = None,
    cross_tokenizer: bool = False,
    allow_pickle: bool = False,
    target_devices: Sequence[str] = (),
    draft_devices: Sequence[str] = (),
) -> Pair:
    """Load both models, and check that they share a vocabulary.

    Args:
        target, draft: Folder or hub id of each, with @REVISION if not the newest; or a GGUF file in one.
        device: torch device, or "auto".
        dtype: One of DTYPES, or "auto".
        quantization: One of QUANTIZATIONS.
        cross_tokenizer: Allow a draft with another tokenizer.
        allow_pickle: Allow weights in a .bin where there are none in safetensors.
        target_devices, draft_devices: Where each goes, if not to `device`.

    Raises:
        UserError: A model cannot be loaded, or the vocabularies differ.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    device = pick_device(device)
    places = [[pick_device(d) for d in devices] or [device] for devices in (target_devices, draft_devices)]
    dtype = pick_dtype(dtype, places[0][0])
    for option, given in (("--target", target), ("--draft", draft)):
        if quantization and gguf.is_named(given):
            raise UserError(f"--quantization {quantization}: {option} {given} is dequantised, expected no GGUF file")
    options = [model_options(devices, dtype, quantization) for devices in places]
    tokenizer, draft_tokenizer = load_tokenizers(target, draft, cross_tokenizer)

    named = (("--target", target), ("--draft", draft))
    # One that drafts for itself is in memory once.
    count = 1 if target == draft and places[0] == places[1] else 2
    modules = [
        load_part(*name, partial(load_module, device=place[0], options=arguments, allow_pickle=allow_pickle))
        for name, place, arguments in zip(named[:count], places, options, strict=False)
    ] * (3 - count)
    for name, module in zip(named, modules, strict=True):
        check_cache(*name, module)
    models = as_models(named, modules, (tokenizer, draft_tokenizer))
    return Pair(
        target=models[0],
        draft=models[1],
        tokenizer=tokenizer,
        draft_tokenizer=draft_tokenizer,
        device=places[0][0],
        dtype=dtype,
    )
