"""Settings of serving engines on the command line: read in place of options, and printed to be pasted."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError
from simulator.ground.command import is_given, say, stacked, state

if TYPE_CHECKING:
    from simulator.answers.forecast import Forecast
    from simulator.answers.sweep_answers import Answer
    from simulator.costs.engines.settings import EngineSettings, Stated
    from simulator.costs.priced import Pricing
    from simulator.ground.histogram import AcceptanceHistogram
    from simulator.rounds.grid import Sweep

# As `simulator.costs.engines.all.WRITERS` has them.
NAMES = ("vllm", "sglang", "trtllm", "llama.cpp")
STATES = ("speculative_config", "from_sglang")

STATED_OPTIONS = stacked(
    click.option(
        "--speculative-config",
        metavar="JSON|FILE",
        help="vLLM's JSON, or a file of it, in place of options of a draft.",
    ),
    click.option("--from-sglang", metavar="FLAGS", help="SGLang's flags, or its whole command, in the same place."),
)
ENGINE_OPTIONS = stacked(
    STATED_OPTIONS,
    click.option("--engine", type=click.Choice(NAMES), help="Print what is best here as this engine takes it."),
)


def as_engines_state(values: Mapping[str, Any], *, many: bool) -> dict[str, Any]:
    """Return what click parsed, with what an engine's settings state in place of options that were not given.

    many: numeric parameters are text, of which one may be a list.

    Raises:
        UserError: The settings are wrong, or at odds with an option beside them.
    """
    context = click.get_current_context()
    filled = {name: value for name, value in values.items() if name not in STATES} | {"law": None, "head": None}
    given = [name for name in STATES if values[name] is not None]
    if not given:
        return filled
    if len(given) > 1:
        raise UserError("--from-sglang: beside --speculative-config, expected one of them")
    settings = read(given[0], str(values[given[0]]))
    for name, stated in told_by_file(settings).items():
        if name not in ("draft_length", "draft_model"):
            fill(context, filled, name, stated, settings)
    fill_drafter(context, filled, settings)
    fill_length(context, filled, settings, many=many)
    if settings.survival:
        filled["law"] = law_of(settings.survival)
    check_sharing(filled, settings)
    for note in settings.notes:
        say(f"{settings.option}: {note}", err=True)
    return filled


def read(name: str, text: str) -> "EngineSettings":
    """Read the settings of an engine."""
    from simulator.costs.engines import sglang, vllm

    return vllm.read(text) if name == "speculative_config" else sglang.read(text)


def flag_of(context: click.Context, name: str) -> str:
    """Return the option of a parameter."""
    return next(p.opts[0] for p in context.command.params if p.name == name)


def fill(
    context: click.Context, filled: dict[str, Any], name: str, stated: "Stated", settings: "EngineSettings"
) -> None:
    """Put a value in the place of an option; one that the user gave has to say the same."""
    if not is_given(context, name):
        filled[name] = stated.value
        context.set_parameter_source(name, click.core.ParameterSource.COMMANDLINE)
        state(context, flag_of(context, name), stated.value, settings.option, stated.said)
    elif not same(name, filled[name], stated.value):
        given = f"{flag_of(context, name)}: {filled[name]}"
        raise UserError(f"{given} beside {stated.said} of {settings.option}, expected one of them")


def same(name: str, given: Any, stated: str | float) -> bool:
    """Say whether an option says what an engine's settings do."""
    from simulator.costs.drafters.methods import method_named
    from simulator.ground.names import number_format

    if name == "method":
        return "," not in str(given) and method_named(str(given)).name == stated
    plain = number_format(str(given)) if name.endswith("dtype") else str(given).strip()
    return plain == str(stated)


def told_by_file(settings: "EngineSettings") -> "Mapping[str, Stated]":
    """Return options with the method that a drafter's file tells, of those that the engine calls alike."""
    method, drafter = settings.options.get("method"), settings.options.get("draft_model")
    if method is None or drafter is None or len(settings.alike) < 2 or not is_here(str(drafter.value)):
        return settings.options
    from simulator.costs.shapes import read_shape

    drafting = read_shape(str(drafter.value)).drafting
    is_one = drafting is not None and drafting.method in settings.alike
    return (
        {**settings.options, "method": method._replace(value=drafting.method)}
        if drafting and is_one
        else settings.options
    )


def fill_drafter(context: click.Context, filled: dict[str, Any], settings: "EngineSettings") -> None:
    """Name the drafter: its file, or what is usual for a target where it has none here."""
    stated = settings.options.get("draft_model")
    if stated is None:
        return
    from simulator.costs.drafters.methods import method_named

    name = str(stated.value)
    is_head = filled["method"] is not None and method_named(filled["method"]).name != "draft_model"
    if not is_head or is_given(context, "draft_model") or is_here(name):
        fill(context, filled, "draft_model", stated, settings)
        return
    filled["head"] = name
    title = method_named(filled["method"]).title
    say(
        f"{settings.option}: no file of {name} is here, priced as is usual for {title} (--draft-model)",
        err=True,
    )


def is_here(name: str) -> bool:
    """Say whether a model's file is here, or was meant to be; a path that leads nowhere names none of the catalogue."""
    from simulator.costs.shapes import CATALOGUE, find_model

    if name.endswith(".json"):
        return True
    try:
        path, _ = find_model(name)
    except UserError:
        return False
    return path.parent != CATALOGUE or not name.startswith((".", "/", "~"))


def fill_length(context: click.Context, filled: dict[str, Any], settings: "EngineSettings", *, many: bool) -> None:
    """Put a draft length in its place: as stated, at the batch size that is forecast, or of a drafter's block."""
    from simulator.costs.engines.settings import Stated

    stated = settings.options.get("draft_length")
    if settings.schedule and "policy" in filled:
        if filled["policy"]:
            raise UserError(f"--policy: beside the schedule of {settings.option}, expected one of them")
        filled["policy"] = (f"vllm-by-batch:ranges={[list(row) for row in settings.schedule]}",)
        return
    if settings.schedule:
        stated = scheduled(context, filled, settings)
    elif stated is None and not is_given(context, "draft_length"):
        is_vllm = settings.option == "--speculative-config"
        usual = settings.usual_length or length_of_drafter(filled, counts_modules=is_vllm)
        if usual is None:
            key = "num_speculative_tokens" if is_vllm else steps_of(filled["method"])
            raise UserError(f"{settings.option}: no draft length, expected {key} or --draftN beside it")
        stated = Stated(usual, f"a usual length of {usual}")
    if stated is not None:
        as_typed = stated._replace(value=str(stated.value)) if many else stated
        fill(context, filled, "draft_length", as_typed, settings)


def steps_of(method: str) -> str:
    """Return SGLang's flag of the draft length of a method."""
    from simulator.costs.drafters.methods import method_named
    from simulator.costs.engines.sglang import BY_STEPS

    by_steps = method_named(method).engines.sglang in BY_STEPS
    return "--speculative-num-steps" if by_steps else "--speculative-num-draft-tokens"


def scheduled(context: click.Context, filled: Mapping[str, Any], settings: "EngineSettings") -> "Stated":
    """Return the draft length of a schedule at the batch sizes that are forecast, which have one alike."""
    from simulator.costs.engines.settings import Stated
    from simulator.costs.engines.vllm import at_batch
    from simulator.ground.ranges import parse_values

    typed = filled["batch"]
    sizes = [typed] if isinstance(typed, int) else parse_values("--batch", str(typed)).tolist()
    is_load = any(is_given(context, name) for name in ("isl", "osl"))
    if filled.get("compare") or "," in (filled["method"] or "") or is_load:
        # Methods are compared at all batch sizes, and a load runs all up to its own.
        sizes = [first for first, _, _ in settings.schedule if not is_load or first <= max(sizes)]
    lengths = {int(size): at_batch(settings.schedule, int(size)) for size in sizes if size >= 1}
    found = set(lengths.values())
    if len(found) > 1:
        first_of = {k: size for size, k in reversed(lengths.items())}
        said = ", ".join(f"K = {k} at batch {size}" for size, k in sorted((size, k) for k, size in first_of.items()))
        raise UserError(
            f"{settings.option}: its schedule says {said}; expected batch sizes of one K here, or no schedule"
        )
    if found <= {0}:
        raise UserError(f"{settings.option}: drafts nothing at batch {typed}, expected a --batch at which it does")
    return Stated(found.pop(), f"the schedule at batch {typed}")


def length_of_drafter(filled: Mapping[str, Any], *, counts_modules: bool) -> int | None:
    """Return the longest draft of a drafter whose file says so, or of what a target has or usually gets.

    counts_modules: whether an engine takes the number of a target's modules for one.
    """
    from simulator.costs.drafters.methods import method_named
    from simulator.costs.shapes import read_shape
    from simulator.rounds.priors import prior

    method, known = None if filled["method"] is None else method_named(filled["method"]), None
    is_told = method is not None and (method.is_block or method.is_within)
    if filled["draft_model"] is not None:
        drafting = read_shape(filled["draft_model"], method).drafting
    elif method is None or not is_told or filled["target_model"] is None or filled["params"] is not None:
        return None
    else:
        drafting, known = method.usual(read_shape(filled["target_model"])).drafting, prior(method.name)
    if drafting is None:
        return None
    longest = drafting.longest or (drafting.modules if counts_modules and drafting.method == "mtp" else None)
    return longest if longest is None or known is None else min(longest, known.draft_length)


def law_of(survival: Iterable[float]) -> "AcceptanceHistogram":
    """Return P(A = a) from P(A >= j)."""
    from simulator.ground.histogram import AcceptanceHistogram

    ends = [1.0, *survival, 0.0]
    law = tuple(high - low for high, low in pairwise(ends))
    return AcceptanceHistogram(law, caveat="acceptance as it is to be synthesised", is_law=True)


def check_sharing(filled: Mapping[str, Any], settings: "EngineSettings") -> None:
    """Refuse a draft on devices of which vLLM gives it none."""
    stated, devices = settings.options.get("draft_tp"), filled["tp"] or 1
    if stated is not None and stated.value not in (1, devices):
        either = f"1 or the {devices} of --tp" if devices > 1 else "1, or --tp beside it"
        raise UserError(f"{settings.option}: {stated.said}, expected {either}")


def checked(pricing: "Pricing", engine: str | None) -> "Pricing":
    """Return costs; those that are of no method are refused where an engine's words for it are asked for."""
    if engine is not None and pricing.models is None:
        raise UserError(f"--engine: {engine} without models, expected --profile and --target-model beside it")
    if engine is None or pricing.models is None:
        return pricing
    return pricing._replace(models=replace(pricing.models, server=engine))


def forecast_for(engine: str | None, draft: str | None, forecast: "Forecast") -> str:
    """Return what a forecast of models recommends as an engine takes it; draft: what the user calls the drafter."""
    if engine is None:
        return ""
    from simulator.answers.recommendation import recommended
    from simulator.costs.engines.all import lines_for
    from simulator.costs.kinds import is_models

    pair = forecast.setting.costs
    assert is_models(pair)
    batch = int(pair.batch)
    lines = lines_for(engine, recommended(pair, draft, forecast.ranges, batch), f"at batch {batch}")
    return "\n\n" + "\n".join(lines)


def sweep_for(engine: str, draft: str | None, task: "Sweep", answers: "Iterable[Answer]") -> str:
    """Return what a sweep recommends, as an engine takes it: over ranges of batch sizes, or at each answer."""
    from simulator.answers.recommendation import of_pair, of_sweep
    from simulator.costs.engines.all import lines_for

    pair = task.pricing.models
    assert pair is not None
    told = [(values, said) for values, _, said in of_sweep(task, draft)]
    if not told:
        lengths = [(answer.values, answer.draft_length) for answer in answers]
        told = [(v, None if k is None else of_pair(pair, draft, (), k)) for v, k in lengths]
    blocks = (lines_for(engine, said, ", ".join(f"{k} {v:,.10g}" for k, v in at.items())) for at, said in told)
    return "\n".join("\n" + "\n".join(lines) for lines in blocks)
