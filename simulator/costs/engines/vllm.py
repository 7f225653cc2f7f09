"""vLLM's `--speculative-config`: JSON, as its 0.32 takes it."""

import json
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from simulator.costs.drafters.methods import methods
from simulator.costs.drafters.plan import Method
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, Malformed, parse_json, text_of
from simulator.ground.limits import MAX_DRAFT_LENGTH

from .settings import (
    ACCEPTED,
    MOST_TEXT,
    NOT_FORECAST,
    NOTHING,
    EngineSettings,
    Recommended,
    Row,
    Stated,
    Written,
    gathered,
    refuse_key,
    refuse_word,
    stated_format,
)

OPTION = "--speculative-config"
MOST_BATCH = 1_000_000
# Methods by what stands in a drafter's name, in vLLM's order, where none is stated.
BY_NAME = {"eagle-": "eagle", "eagle3": "eagle3", "dflash": "dflash", "dspark": "dspark"}
# Names of drafters that are none.
NO_MODEL = ("ngram", "[ngram]", "ngram_gpu", "suffix")
# By vLLM where suffixes are looked up and no length is stated.
USUAL_SUFFIX = 24


def number(least: float, most: float) -> Callable[[Field], object]:
    """Return a check of a number."""
    return lambda field: field.number(least, most)


def whole(least: int) -> Callable[[Field], object]:
    """Return a check of a whole number."""
    return lambda field: field.whole(least, MOST_BATCH)


def word(*allowed: str) -> Callable[[Field], object]:
    """Return a check of one of some words."""
    return lambda field: field.choice(allowed)


# Keys that no option of ours is for: what is to be said of each that is stated, and what it may be.
OTHERS: dict[str, tuple[str, Callable[[Field], object]]] = {
    "enforce_eager": (NOT_FORECAST, Field.flag),
    "moe_backend": (NOTHING, Field.text),
    "attention_backend": (NOTHING, Field.text),
    "kv_cache_dtype": (NOT_FORECAST, Field.text),
    "max_model_len": (NOT_FORECAST, whole(1)),
    "revision": (NOTHING, Field.text),
    "code_revision": (NOTHING, Field.text),
    "index_share_for_mtp_iteration": (NOT_FORECAST, Field.flag),
    "disable_padded_drafter_batch": (NOTHING, Field.flag),
    "disable_eagle_block_drop": (NOTHING, Field.flag),
    "use_local_argmax_reduction": (NOT_FORECAST, Field.flag),
    "use_heterogeneous_vocab": (ACCEPTED, Field.flag),
    "prompt_lookup_max": (ACCEPTED, whole(1)),
    "prompt_lookup_min": (ACCEPTED, whole(1)),
    "suffix_decoding_max_tree_depth": (ACCEPTED, whole(1)),
    "suffix_decoding_max_cached_requests": (ACCEPTED, whole(0)),
    "suffix_decoding_max_spec_factor": (ACCEPTED, number(0, 1e6)),
    "suffix_decoding_min_token_prob": (ACCEPTED, number(0, 1)),
    "draft_load_config": (NOTHING, Field.object),
    "draft_sample_method": (ACCEPTED, word("greedy", "probabilistic")),
    "dspark_draft_topk": (NOT_FORECAST, whole(1)),
    "enable_adaptive_verification": (NOT_FORECAST, Field.flag),
}
# Keys that options of ours are for.
OURS: tuple[str, ...] = (
    "method",
    "model",
    "num_speculative_tokens",
    "num_speculative_tokens_per_batch_size",
    "parallel_drafting",
)
OURS += ("draft_tensor_parallel_size", "quantization", "rejection_sample_method", "synthetic_acceptance_rates")
OURS += ("synthetic_acceptance_length",)


def read(text: str) -> EngineSettings:
    """Read a speculative_config: JSON, or a file that holds it, with or without an @ before its name.

    Raises:
        UserError: It is none, or vLLM would not take it.
    """
    config = parsed(text)
    for key, field in config.items():
        if key not in (*OURS, *OTHERS):
            refuse_key(Field(None, config.path, key), (*OURS, *OTHERS), "vLLM")
        if key in OTHERS and field.is_given:
            OTHERS[key][1](field)
    check_lookup(config)
    options: dict[str, Stated] = {}
    model, told = config["model"].text() if config["model"].is_given else None, told_of_others(config)
    method = method_of(config, model)
    if method is not None:
        options["method"] = Stated(method.name, f"method {method.engines.vllm['method']}")
    if model is not None and model not in NO_MODEL:
        options["draft_model"] = Stated(model, f"model {model}")
    length, usual = config["num_speculative_tokens"], USUAL_SUFFIX if method and method.name == "suffix" else None
    if length.is_given:
        options["draft_length"] = Stated(length.whole(1, MAX_DRAFT_LENGTH), f"{length.where} {length.value}")
    longest = length.whole(1, MAX_DRAFT_LENGTH) if length.is_given else usual
    devices = config["draft_tensor_parallel_size"]
    if devices.is_given:
        options["draft_tp"] = Stated(devices.whole(1, 1024), f"draft_tensor_parallel_size {devices.value}")
    quantization = config["quantization"]
    if quantization.is_given:
        stored = stated_format(quantization.text())
        if stored:
            options["draft_dtype"] = Stated(stored, f"quantization {quantization.value}")
        else:
            told[NOTHING].append("quantization")
    return EngineSettings(
        option=OPTION,
        options=options,
        schedule=schedule_of(config, longest),
        survival=survival_of(config, longest),
        notes=gathered(told),
        alike=tuple(m.name for m in methods().values() if method and m.engines.vllm == method.engines.vllm),
        usual_length=usual,
    )


def parsed(text: str) -> Field:
    """Return the object that a text holds or names."""
    plain = text.strip()
    path = plain.removeprefix("@")
    if plain.startswith("{"):
        return from_text(plain, OPTION)
    if plain[:1] in ("[", '"') or not path.strip() or "{" in path or not path.isprintable():
        raise UserError(
            f"{OPTION}: {plain[:80]!r} is not allowed, expected a JSON object such as vLLM takes, or its file"
        )
    return from_text(text_of(path), f"{OPTION} {path}")


def from_text(text: str, called: str) -> Field:
    """Return the object that a text holds."""
    if len(text) > MOST_TEXT:
        raise UserError(f"{called}: {len(text):,} characters, expected at most {MOST_TEXT:,}")
    try:
        config = Field(parse_json(text), called)
    except Malformed as error:
        raise UserError(f"{called}: {error}") from None
    if not isinstance(config.value, dict):
        raise UserError(f"{called}: holds a JSON {type(config.value).__name__}, expected an object")
    return config


def check_lookup(config: Field) -> None:
    """Refuse a least length of what is looked up that is above the most."""
    least, most = config["prompt_lookup_min"], config["prompt_lookup_max"]
    if least.is_given and most.is_given and least.value > most.value:
        least.refuse(f"at most the {most.value} of prompt_lookup_max")


def told_of_others(config: Field) -> dict[str, list[str]]:
    """Return the keys that are stated and that no option of ours is for, by what is to be said of them."""
    told: dict[str, list[str]] = {NOTHING: [], NOT_FORECAST: [], ACCEPTED: []}
    for key, (what, _) in OTHERS.items():
        if config[key].value not in (None, False):
            told[what].append(key)
    return told


def method_of(config: Field, model: str | None) -> Method | None:
    """Return the method that is stated, or that the drafter's name tells; None where its own file has to."""
    stated, parallel = config["method"], config["parallel_drafting"].flag(False)
    lower = (model or "").lower()
    name = stated.text() if stated.is_given else next((m for part, m in BY_NAME.items() if part in lower), None)
    name = lower if name is None and lower in NO_MODEL else name
    if name is None and parallel:
        name = "draft_model"
    if name is None:
        if model is None:
            stated.refuse("a method, or a model beside it")
        return None
    name = "mtp" if name.endswith("_mtp") else name.strip("[]")
    of_name = [m for m in methods().values() if m.engines.vllm.get("method") == name]
    if not of_name:
        refuse_word(stated, sorted({str(m.engines.vllm["method"]) for m in methods().values() if m.engines.vllm}))
    at_once = [m for m in of_name if m.engines.vllm.get("parallel_drafting", False) is parallel]
    if parallel and not at_once and not of_name[0].is_block:
        have_it = [str(m.engines.vllm["method"]) for m in methods().values() if "parallel_drafting" in m.engines.vllm]
        config["parallel_drafting"].refuse(f"no such key beside method {name} ({' and '.join(have_it)} have it)")
    return (at_once or of_name)[0]


def schedule_of(config: Field, longest: int | None) -> tuple[Row, ...]:
    """Return draft lengths by batch size: from 1, rising, none above the longest."""
    listed = config["num_speculative_tokens_per_batch_size"]
    if not listed.is_given:
        return ()
    rows: list[Row] = []
    for row in listed.elements():
        three = row.elements()
        if len(three) != 3:
            row.refuse("[first batch size, last, draft length]")
        first, last = three[0].whole(1, MOST_BATCH), three[1].whole(1, MOST_BATCH)
        if first > last:
            row.refuse("a first batch size that is not above the last")
        rows.append((first, last, min(three[2].whole(0, MAX_DRAFT_LENGTH), longest or MAX_DRAFT_LENGTH)))
    rows.sort()
    if not rows or rows[0][0] != 1:
        listed.refuse("a first range that begins at batch size 1")
    if any(after[0] <= before[1] for before, after in pairwise(rows)):
        listed.refuse("ranges that do not overlap")
    return tuple(rows)


def at_batch(schedule: tuple[Row, ...], batch: int) -> int:
    """Return the draft length at a batch size; in a gap, and behind the last range, that of the range before."""
    return next(k for first, _, k in reversed(schedule) if first <= batch)


def survival_of(config: Field, longest: int | None) -> tuple[float, ...]:
    """Return P(A >= j) for j from 1 to the draft length, where vLLM is to accept at these rates."""
    how = config["rejection_sample_method"]
    rates, mean = config["synthetic_acceptance_rates"], config["synthetic_acceptance_length"]
    is_synthetic = how.is_given and how.choice(("standard", "synthetic", "block")) == "synthetic"
    if not is_synthetic:
        for field in (rates, mean):
            if field.is_given:
                field.refuse('no such key without rejection_sample_method "synthetic"')
        return ()
    if longest is None:
        config["num_speculative_tokens"].refuse("the draft length of the acceptance beside it")
    if rates.is_given == mean.is_given:
        how.refuse("one of synthetic_acceptance_rates and synthetic_acceptance_length beside it")
    if mean.is_given:
        length = mean.number(1, longest + 1) - 1
        full = math.floor(length)
        return tuple(([1.0] * full + [length - full] + [0.0] * longest)[:longest])
    found = tuple(rate.number(0, 1) for rate in rates.elements())
    if len(found) != longest or any(b > a for a, b in pairwise(found)):
        rates.refuse(f"{longest} numbers that do not rise, as num_speculative_tokens says")
    return found


def lengths_of(said: Recommended) -> dict[str, Any]:
    """Return the keys of draft lengths: between multiples of modules that take turns, only a schedule has one."""
    most, rows = said.longest, said.rows
    if most > said.modules and most % said.modules:
        most, rows = most + -most % said.modules, rows or ((1, MOST_BATCH, most),)
    schedule = {"num_speculative_tokens_per_batch_size": [list(row) for row in rows]} if rows else {}
    return {"num_speculative_tokens": most} | schedule


def written(said: Recommended) -> Written:
    """Return a recommendation as vLLM takes it; it has no trees, and takes no `num_speculative_tokens` of 0."""
    if not said.method.engines.vllm:
        return Written(None, notes=(f"vLLM has no {said.method.title}",))
    if said.branches:
        return Written(None, notes=("vLLM drafts no trees, expected chains: no --topk",))
    if said.longest == 0:
        return Written(None)
    config: dict[str, Any] = dict(said.method.engines.vllm)
    notes = list[str]()
    if said.draft is not None:
        config["model"] = said.draft
    if said.lacks:
        notes.append(f'"model", {said.lacks}, is yours to add')
    config |= lengths_of(said)
    if said.draft_devices not in (None, 1, said.devices):
        notes.append(f"vLLM shares a draft among 1 or all {said.devices} devices, not {said.draft_devices}")
    elif said.draft_devices not in (None, said.devices):
        config["draft_tensor_parallel_size"] = said.draft_devices
    if said.draft_format:
        config["quantization"] = said.draft_format
    return Written(config, (f"{OPTION} '{json.dumps(config)}'",), tuple(notes))
