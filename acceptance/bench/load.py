"""From options to a benchmark that is ready to run: prompts, models where they belong, methods bound to them."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from acceptance.decoders import heads, ngram
from acceptance.decoders.method import Models, Options
from acceptance.decoders.methods import METHODS, lacking
from acceptance.decoders.samplers import load_sampler
from acceptance.measure.plan import Plan, before_answer, logged, plan
from acceptance.measure.plan import Settings as MeasureSettings
from acceptance.models.bundled import BUNDLED, place_of
from acceptance.models.caveats import caveats, settings_left_aside
from acceptance.models.inflate import inflate
from acceptance.models.load import is_cpu, load_pair, pick_device
from acceptance.models.model import ASR, Pair
from acceptance.models.origin import folder_sha256, origin
from acceptance.models.sound import check_hears, hearing
from acceptance.models.source import encoder_of, read_tokens
from acceptance.results.settings import ALGORITHMS, BASELINE, KNOBS, LOOP, Arm, Settings, config_sha256, option_of
from acceptance.text.conversation import Framing, answer_text, check_template
from acceptance.text.prompts import Prompt
from acceptance.text.speech import Utterance
from acceptance.text.texts import load_texts
from simulator.ground.artefacts import UserError, file_sha256

from .answers import Answers
from .headless import check_gpus
from .items import Items, load_items
from .machine import Energy, MemoryPeak, make_deterministic, system_metadata
from .options import DecodeOptions
from .placement import Placement, available_gpus, place, weight_bytes
from .presets import Presets, check_method, check_methods
from .scores import Write
from .turns import Bench, Runnable

TRAINED = ("medusa", "eagle", "judge")
# Options that decide the numbers, as they were given.
DECIDING = (
    *("dataset", "dataset_format", "task", "max_prompts", "use_chat_template", "system_prompt", "max_new_tokens"),
    *("runs", "batch_size", "seed", "temperature", "top_k", "top_p", "quantization", "inflate_target"),
    *("deterministic", "cuda_graphs", "draft_stream"),
)


def prepare(options: DecodeOptions, presets: Presets | None) -> tuple[Bench, dict[str, Any], list[str]]:
    """Load everything.

    Returns:
        The benchmark, what decides its numbers, and notes on what was left out.
    """
    if options.deterministic:
        make_deterministic(options.seed)
    samplers = {name: load_sampler(name) for name in options.samplers if name != LOOP}
    arms = arms_of(options, presets)
    options = with_draft(options, arms)
    items, placement = load_items(options), placed(options)
    if options.processor_time:
        time_by_processor([*placement.target, *placement.draft])
    if options.require_headless:
        check_gpus([*placement.target, *placement.draft])
    pair = load_models(options, placement)
    check_encoder(options, pair)
    if options.task == ASR:
        pair = hearing(pair, place_of(options.target, "target"), options.language, options.speech_task)
    framing = Framing(chat_template=options.use_chat_template, system_prompt=options.system_prompt)
    check_template(pair.tokenizer, framing, "--target")
    rule, draft_rule = options.rules
    same = {"max_new_tokens": options.max_new_tokens, "seed": options.seed, "batch_size": options.batch_size}
    planned = plan(pair, items.prompts, MeasureSettings(rule=rule, draft_rule=draft_rule, framing=framing, **same))
    target = inflate(pair.target, options.inflate_target)
    texts = known_texts(options, pair, framing, arms)
    models = Models(target=target, draft=pair.draft, texts=texts, **trained_folders(options))
    settings = Settings(arms=arms, rule=rule, runs=options.runs, **same)
    own = {"draft_rule": draft_rule}
    chosen = [(arm, Options(sampler=samplers.get(arm.sampler), **own, **arm.knobs)) for arm in arms]  # type: ignore[arg-type]
    runnables = [bind(*both, models, settings, strict=False) for both in chosen]
    others = [n for n, r in enumerate(runnables) if r.arm.method != BASELINE]
    if others and all(runnables[n].begin is None for n in others):
        bind(*chosen[others[0]], models, settings, strict=True)
    bench = ready(runnables, pair, planned, items, framing, settings, placement)
    bench = replace(bench, score=items.score(options.task, asked_of(planned), pair, writer(pair, bench)))
    bench = replace(bench, time_parts=options.time_parts, processor_time=options.processor_time)
    if options.answers:
        name = Path(options.target.partition("@")[0]).name
        answers = Answers(folder=options.answers, name=name, pair=pair, framing=framing, prompts=asked_of(planned))
        bench = replace(bench, answers=replace(answers, beside=items.beside))
    parameters = described(options, placement, pair, planned, models, chosen)
    parameters |= {"draft_temperature": draft_rule.temperature}
    # A pipe is empty once it is read: items_sha256 tells what came of it.
    parameters |= {name: True for name in ("time_parts", "processor_time", "answers") if getattr(options, name)}
    if samplers:
        parameters["samplers"] = {name: sampler.is_exact for name, sampler in samplers.items()}
    parameters |= items.parameters_with(pair)
    if options.ngram_texts:
        parameters["ngram_texts_sha256"] = hashlib.sha256(repr(texts).encode()).hexdigest()
    parameters |= {"dataset_sha256": file_sha256(items.path) if items.path.is_file() else None}
    if left_aside := settings_left_aside(pair.target.module, rule):
        parameters["generation_config_left_aside"] = left_aside
    parameters["config_sha256"] = config_sha256(parameters)
    return bench, parameters, [*planned.notes(items.notes_with(pair)), *caveats(pair, rule)]


def with_draft(options: DecodeOptions, arms: Sequence[Arm]) -> DecodeOptions:
    """Have the target stand for a draft that nobody asks, where the bundled one is not of its kind."""
    asked = any("draft" in METHODS[arm.method].needs for arm in arms)
    return options if asked or options.draft != BUNDLED else replace(options, draft=options.target)


def time_by_processor(devices: Sequence[str]) -> None:
    """Have one thread do all work, whose time is then what a quiet machine's clock would show; refuses GPUs."""
    import torch

    if others := [device for device in devices if not is_cpu(device)]:
        raise UserError(f"--processor-time: models are on {others[0]}, expected cpu")
    torch.set_num_threads(1)


def ready(
    runnables: Sequence[Runnable],
    pair: Pair,
    planned: Plan,
    items: Items,
    framing: Framing,
    settings: Settings,
    placement: Placement,
) -> Bench:
    """Return a benchmark of prompts in tokens."""
    prompts = asked_of(planned)
    # A reference goes on with a text, it does not begin one.
    texts = [items.references[p.source] for p in prompts] if items.references else []
    references = [tuple(pair.tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
    devices = tuple(dict.fromkeys((*placement.target, *placement.draft)))
    before = tuple(before_answer(pair, framing, p)[0] for p in prompts)
    return Bench(
        arms=tuple(runnables),
        target=pair.target,
        prompts=before,
        infos=planned.infos,
        references=tuple(references),
        settings=settings,
        devices=devices,
        dtype=pair.dtype,
        memory=MemoryPeak(devices),
        energy=Energy(devices),
        sound_s=tuple(p.sound.seconds for p in prompts if isinstance(p, Utterance)),
    )


def asked_of(planned: Plan) -> tuple[Prompt, ...]:
    """Return the prompts of a plan."""
    return tuple(item for item in planned.items if isinstance(item, Prompt))


def writer(pair: Pair, bench: Bench) -> Write:
    """Return what makes text of the tokens behind a prompt."""
    return lambda index, tokens: answer_text(pair.tokenizer, bench.prompts[index], tokens)


def placed(options: DecodeOptions) -> Placement:
    """Return where the models go."""
    return place(
        options.placement,
        device=picked_device("device", options.device),
        target_device=options.target_device and picked_device("target_device", options.target_device),
        draft_device=options.draft_device and picked_device("draft_device", options.draft_device),
        gpus=available_gpus(),
        target_bytes=weight_bytes(place_of(options.target, "target")),
        draft_bytes=weight_bytes(place_of(options.draft, "draft")),
    )


def picked_device(name: str, given: str) -> str:
    """Return the device of an option."""
    try:
        device = pick_device(given)
        # torch takes cpu with any index: there is one.
        return "cpu" if is_cpu(device) else device
    except UserError as error:
        raise UserError(str(error).replace("--device", option_of(name), 1)) from None


def load_models(options: DecodeOptions, placement: Placement) -> Pair:
    """Load target and draft, each on its devices.

    Raises:
        UserError: A model cannot be loaded, vocabularies differ; CUDA graphs without CUDA, or of a model over several
            devices.
    """
    graphs = options.cuda_graphs
    for name, devices in (("target", placement.target), ("draft", placement.draft)):
        if graphs and not (len(devices) == 1 and devices[0].startswith("cuda")):
            raise UserError(f"--cuda-graphs: the {name} is on {', '.join(devices)}, expected one CUDA device")
    if graphs and options.batch_size > 1:
        raise UserError(f"--cuda-graphs: --batch-size is {options.batch_size}, expected 1")
    if options.draft_stream and not placement.draft[0].startswith("cuda"):
        raise UserError(f"--draft-stream: the draft is on {placement.draft[0]}, expected a CUDA device")
    try:
        pair = load_pair(
            place_of(options.target, "target"),
            place_of(options.draft, "draft"),
            device=placement.target[0],
            dtype=options.dtype,
            quantization=options.quantization,
            allow_pickle=options.allow_pickle,
            target_devices=placement.target,
            draft_devices=placement.draft,
        )
    except UserError as error:
        # An option of another command.
        raise UserError(str(error).partition(", or --cross-tokenizer")[0]) from None
    draft = replace(pair.draft, graphs=graphs, own_stream=options.draft_stream)
    return replace(pair, target=replace(pair.target, graphs=graphs), draft=draft)


def known_texts(options: DecodeOptions, pair: Pair, framing: Framing, arms: Sequence[Arm]) -> list[list[int]]:
    """Return, in tokens, what n-gram stores know before they begin.

    Raises:
        UserError: The file cannot be read, or no method has such a store.
    """
    if options.ngram_texts is None:
        return []
    if not any(arm.method in ngram.OF_STORES for arm in arms):
        raise UserError(f"--ngram-texts: no method reads it, expected {' or '.join(ngram.OF_STORES)} in --method")
    outputs = (logged(pair, text, 0, framing).output for text in load_texts(options.ngram_texts).rows)
    return [[*read_tokens(output.before), *output.tokens] for output in outputs]


def check_encoder(options: DecodeOptions, pair: Pair) -> None:
    """Refuse what is made for a decoder alone, of a target that has an encoder; and one that hears of texts."""
    check_hears(pair.target, options.target, options.task)
    if not pair.target.encodes:
        return
    asked = {name: getattr(options, name) for name in (*TRAINED, "cuda_graphs")}
    asked["inflate_target"] = options.inflate_target > 1
    for name in (name for name, value in asked.items() if value):
        raise UserError(f"{option_of(name)}: --target {options.target} has an encoder, expected a decoder alone")


def trained_folders(options: DecodeOptions) -> dict[str, Path | None]:
    """Return where what was trained on the target is; the bundled target's own comes with it."""
    from acceptance.decoders.judge import judge

    bundled = {"medusa": heads.BUNDLED / "medusa", "eagle": heads.BUNDLED / "eagle", "judge": judge.BUNDLED}
    folders: dict[str, Path | None] = {"medusa": options.medusa, "eagle": options.eagle, "judge": options.judge}
    for name, given in folders.items():
        if given and not given.exists():
            raise UserError(f"{option_of(name)} {given}: no such folder")
        if not given and options.target == BUNDLED and bundled[name].exists():
            folders[name] = bundled[name]
    return folders


def arms_of(options: DecodeOptions, presets: Presets | None) -> tuple[Arm, ...]:
    """Return what is compared, the baseline first.

    A knob is the preset method's, else the command line's or the experiment's, else the method's default.
    """
    if presets:
        check_methods(presets)
    preset_methods = presets.methods if presets else {}
    arms: dict[str, Arm] = {}
    for part in options.method.split(","):
        name = part.strip()
        check_method("--method", name, preset_methods)
        named = METHODS if name == "all" else [name]
        chosen = [preset_methods.get(n) or Arm(name=n, method=n) for n in named]
        arms |= {a.name: replace(a, knobs={**options.knobs, **a.knobs}) for a in chosen}
    if options.samplers != (LOOP,) and not any(arm.takes_sampler for arm in arms.values()):
        takers = ", ".join(name for name, algorithm in ALGORITHMS.items() if algorithm.sampler)
        raise UserError(f"--sampler: no method of --method takes one, expected {takers}")
    by_sampler = [a.by(s) for a in arms.values() for s in (options.samplers if a.takes_sampler else (LOOP,))]
    arms = {arm.name: arm for arm in by_sampler}
    if len(arms) < len(by_sampler):
        twice = next(arm.name for arm in by_sampler if arms[arm.name] is not arm)
        raise UserError(f"--sampler: two arms are named {twice}, expected another name in --config")
    if not any(arm.method == BASELINE for arm in arms.values()):
        arms = {BASELINE: Arm(name=BASELINE, method=BASELINE)} | arms
    return tuple(sorted(arms.values(), key=lambda arm: arm.method != BASELINE))


def bind(arm: Arm, chosen: Options, models: Models, settings: Settings, *, strict: bool) -> Runnable:
    """Return an arm that can begin, or why it cannot. Strict refuses what these models cannot do, rather than skip it.

    Raises:
        UserError: The method cannot work with these models.
    """
    method, sampler = METHODS[arm.method], chosen.sampler
    is_exact = method.is_exact and (sampler is None or sampler.is_exact)
    if settings.batch_size > 1 and not (method.batched and (sampler is None or sampler.batched)):
        reason = f"takes one sequence at a time, --batch-size is {settings.batch_size}"
        return Runnable(arm=arm, is_exact=is_exact, begin=None, reason=reason)
    try:
        if missing := lacking(method, models):
            needs = " and ".join(missing)
            paths = " and ".join(f"{option_of(n)} FOLDER" for n in method.needs if getattr(models, n) is None)
            refused = f"--method: {arm.name!r} is not allowed without {needs}, expected {paths}"
            raise UserError(refused if strict else f"needs {needs}")
        begin = method.begin(models, chosen)
    except UserError as error:
        if strict:
            raise
        return Runnable(arm=arm, is_exact=is_exact, begin=None, reason=str(error))
    return Runnable(arm=arm, is_exact=is_exact, begin=begin)


def described(
    options: DecodeOptions,
    placement: Placement,
    pair: Pair,
    planned: Plan,
    models: Models,
    chosen: Sequence[tuple[Arm, Options]],
) -> dict[str, Any]:
    """Return everything that decides the numbers."""
    modules = {"target": (options.target, pair.target.module), "draft": (options.draft, pair.draft.module)}
    known = {name: origin(given, name, module) for name, (given, module) in modules.items()}
    trained = {name: getattr(models, name) for name in TRAINED}
    known |= {name: {"name": str(path), "sha256": folder_sha256(path)} for name, path in trained.items() if path}
    knobs = [{name: getattr(o, name) for name in KNOBS} for _, o in chosen]
    methods = [
        {"name": a.name, "method": a.method, "knobs": k} | ({} if a.sampler == LOOP else {"sampler": a.sampler})
        for (a, _), k in zip(chosen, knobs, strict=True)
    ]
    return {name: getattr(options, name) for name in DECIDING} | {
        "methods": methods,
        "models": known,
        "prompt_count": len(planned.items),
        "items_sha256": planned.sha256,
        "placement": asdict(placement),
        "device": placement.target[0],
        "dtype": pair.dtype,
        "system": system_metadata([*placement.target, *placement.draft]),
        **encoder_of(pair),
    }
