"""`measure-acceptance` of models that run here."""

from typing import TYPE_CHECKING

from acceptance.models.bundled import load_libraries, place_of

from .options import MeasureOptions
from .ready import Ready, load_items, stated

if TYPE_CHECKING:
    from acceptance.measure.loop_check import LoopCheck
    from acceptance.measure.plan import Plan, Settings
    from acceptance.models.model import Pair
    from acceptance.trace.trace import Trace


def prepare(options: MeasureOptions) -> Ready:
    """Load items and models."""
    items = load_items(options)
    libraries = load_libraries()
    from acceptance.measure.cross_tokenizer import LABEL
    from acceptance.measure.plan import Settings, plan
    from acceptance.models.caveats import caveats, settings_left_aside
    from acceptance.models.load import load_pair, thread_count
    from acceptance.models.origin import origin
    from acceptance.models.sound import check_hears, hearing
    from acceptance.models.source import encoder_of
    from acceptance.text.conversation import Framing, check_template

    pair = load_pair(
        place_of(options.target, "target"),
        place_of(options.draft, "draft"),
        device=options.device,
        dtype=options.dtype,
        quantization=options.quantization,
        allow_pickle=options.allow_pickle,
        cross_tokenizer=options.cross_tokenizer is not None,
    )
    check_hears(pair.target, options.target, options.task)
    if options.task:
        pair = hearing(pair, place_of(options.target, "target"), options.language, options.speech_task)
    framing = Framing(chat_template=options.use_chat_template, system_prompt=options.system_prompt)
    check_template(pair.tokenizer, framing, "--target")
    check_template(pair.draft_tokenizer, framing, "--draft")
    rule, draft_rule = options.rules
    settings = Settings(
        rule=rule,
        draft_rule=draft_rule,
        framing=framing,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
        batch_size=options.batch_size,
    )
    planned = plan(pair, items.rows, settings)
    parameters = stated(options) | libraries
    parameters |= {
        "prompts_read_as": getattr(items, "read_as", None),
        "generation_config_left_aside": settings_left_aside(pair.target.module, rule),
        "draft_temperature": draft_rule.temperature,
        "device": pair.device,
        "dtype": pair.dtype,
        "prompt_count": len(planned.items),
        "items_sha256": planned.sha256,
        "models": {
            "target": origin(options.target, "target", pair.target.module),
            "draft": origin(options.draft, "draft", pair.draft.module),
        },
        "threads": thread_count(),
        "approximation": None if pair.same_vocabulary else LABEL,
        **encoder_of(pair),
    }
    notes = [*planned.notes(items.notes()), *caveats(pair, rule)]
    return ready(pair, planned, settings, options, parameters, notes)


def ready(
    pair: "Pair",
    planned: "Plan",
    settings: "Settings",
    options: MeasureOptions,
    parameters: dict[str, object],
    notes: list[str],
) -> Ready:
    """Return the measurement of a pair."""
    from acceptance.measure.measure import batches_of, measure_pair, turns_left_out

    indices = [i for _, batch in batches_of(len(planned.items), settings.batch_size, options.part) for i in batch]
    own = [planned.items[i] for i in indices]

    def check(trace: "Trace", q_kind: str) -> "LoopCheck":
        from acceptance.measure.loop_check import run as check_loop

        longest = max(options.draft_lengths)
        return check_loop(pair, planned, trace, settings, longest, options.check_loop or 0, q_kind)

    return Ready(
        count=len(own),
        together=settings.batch_size,
        parameters=parameters,
        notes=notes,
        measure=lambda unfinished, progress: measure_pair(
            pair, planned, settings, unfinished=unfinished, progress=progress, shard=options.part
        ),
        left_out=lambda trace: [*filter(None, [turns_left_out(own, trace)])],
        check=check if options.check_loop else None,
    )
