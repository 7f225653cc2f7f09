"""What `advise` asks: of a load, with the methods that an engine has, and what each of them accepts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from simulator.answers.latency import Limit
from simulator.cli.accepting import by_method
from simulator.cli.comparing import ComparisonOptions, contenders, method_names
from simulator.cli.options import SharedOptions
from simulator.cli.serving_options import Loads, server_of, traffic_of
from simulator.costs.parameters import Load
from simulator.ground.artefacts import UserError

if TYPE_CHECKING:
    from simulator.answers.advice import Asked
    from simulator.answers.comparison import Contender
    from simulator.cli.accepting import Stated
    from simulator.costs.model_costs import ModelPair, Placed

USUAL_LONGEST = 131_072
# Draft lengths up to which engines are set: of fewer that were published, the best of those would decide by itself.
FAR = 5
# Tokens to which what fits is rounded: more than blocks of any engine have.
WHOLE = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class AdviseOptions(SharedOptions):
    """The options of `advise`; values: all that were parsed, for what makes traffic and servers of them."""

    alpha: float
    values: Mapping[str, Any]
    loads: Loads
    limits: tuple[Limit, ...]
    attain: float
    explain_slow: bool
    write: Path | None
    as_json: bool


def asked_of(
    options: AdviseOptions, told: "Mapping[str, Stated]" = MappingProxyType({})
) -> "tuple[Asked, tuple[str, ...], tuple[Contender, ...], dict[str, str]]":
    """Return what is asked, what to know of it, and the methods that the engine has.

    told: what methods accept, besides what options say.
    """
    from simulator.answers.advice import Asked
    from simulator.answers.ways import usual_context

    device, values = options.device, options.values
    if device.profile is None or not (device.target_model or device.params):
        raise UserError("--profile: missing, expected a device and --target-model beside it")
    traffic, notes = traffic_of(values, options.loads, values["longest"] or USUAL_LONGEST)
    isl, osl = max(round(traffic.mean_prompt), 1), max(round(traffic.mean_output), 2)
    able, skipped = able_of(options, told, isl, osl)
    target = able[0].pair
    longest, short = values["longest"], tuple[str, ...]()
    if longest is None:
        longest, short = longest_of(able, min(usual_context(isl, osl), float(USUAL_LONGEST)))
    traffic = replace(traffic, longest=longest)
    profile = target.profile
    able = tuple(
        replace(
            of,
            pair=replace(
                of.pair,
                round_overhead_s=profile.round_overhead_s,
                round_overhead_error=profile.round_overhead_error,
                server=str(options.engine),
            ),
        )
        for of in able
    )
    asked = Asked(
        traffic=traffic,
        load=options.loads.values[0],
        server=server_of(values, longest),
        limits=options.limits,
        share=options.attain,
        engine=str(options.engine),
        spread=None,
        seed=options.seed,
        warmup=options.values["warmup"],
    )
    return (
        asked,
        (*notes, *short, *traffic.in_step(asked.load), *traffic.too_long(asked.load, options.seed)),
        able,
        skipped,
    )


def able_of(
    options: AdviseOptions, told: "Mapping[str, Stated]", isl: int, osl: int
) -> "tuple[tuple[Contender, ...], dict[str, str]]":
    """Return the methods that are compared at a load, and why others are not."""
    device, values = options.device, options.values
    stated = counted_by(options) | by_method(values["acceptance"]) | dict(told)
    for name, known in of_target(options).items():
        stated.setdefault(name, known)
    wanted = ComparisonOptions(
        methods=method_names(device) or None,
        batches=None,
        draft_lengths=None,
        stated={"isl": isl, "osl": osl} | ({"alpha": options.alpha} if "alpha" in options.stated else {}),
        acceptance=stated,
        plot=None,
        as_json=options.as_json,
    )
    own = device.draft_model or device.draft_params
    if own and wanted.methods is None:
        wanted = replace(wanted, methods=(own_name(options),))
    found, skipped = contenders(replace(options, load=Load(chunk=values["budget"])), wanted)
    why = {of.name: why_not(of, options, is_named=wanted.methods is not None or of.name in stated) for of in found}
    able = tuple(of for of in found if not why[of.name])
    skipped |= {name: said for name, said in why.items() if said}
    if not able:
        reason = next(iter(why.values()))
        raise UserError(f"--method: {', '.join(why)}: {reason}")
    return able, skipped


def longest_of(able: "tuple[Contender, ...]", context: float) -> tuple[int, tuple[str, ...]]:
    """Return the tokens of a request at most where nobody says: the model's, or as many as memory holds; and that.

    context: tokens that a sequence has on average, by which memory is divided.
    """
    from simulator.costs.room import room

    target = able[0].pair.placed_target
    longest = able[0].pair.target.longest_context or USUAL_LONGEST
    models: list[Placed | ModelPair] = [target, *(of.pair for of in able)]
    fitting = min(min(float(room(of, context)) * context for of in models), float(longest))
    fits = max(int(fitting) // WHOLE * WHOLE - WHOLE, 2) if fitting < longest else longest
    if fits == longest or min(float(room(of, longest)) for of in models) >= 1:
        return fits, ()
    said = f"memory holds {fits:,} of the {longest:,} tokens that a request of {able[0].pair.target.name} may have"
    return fits, (f"{said}: the engine wants --max-model-len {fits} or less",)


def own_name(options: AdviseOptions) -> str:
    """Return the method of the drafter that is named."""
    from simulator.cli.comparing import own_method

    method = own_method(options.device)
    assert method is not None
    return method.name


def counted_by(options: AdviseOptions) -> "dict[str, Stated]":
    """Return what a watched server accepts, by the one method that is named."""
    from simulator.rounds.acceptance_law import HistogramAcceptance
    from simulator.rounds.pairs import Published

    watched, names = options.values["watched"], method_names(options.device)
    if watched is None or watched.counted.imported is None or len(names) != 1:
        return {}
    histogram = watched.counted.imported.histogram
    return {names[0]: Published(str(options.values["server"]), names[0], HistogramAcceptance((histogram,)))}


def of_target(options: AdviseOptions) -> "dict[str, Stated]":
    """Return what published drafters of this very target accept, the mean of all, by method.

    Where none of them drafts far, what is accepted further on is a tail, said as such: trees grow from figures alone.
    """
    from simulator.answers.basis import same_model
    from simulator.costs.drafters.methods import method_named
    from simulator.rounds.pairs import curves, in_one
    from simulator.rounds.tail import with_tail

    target, named = str(options.device.target_model), method_names(options.device)
    if options.device.draft_model or options.hist is not None or "alpha" in options.stated:
        return {}
    there = [c for c in curves() if same_model(c.target, target) and (not named or c.method in named)]
    found: dict[str, Stated] = {}
    for method in dict.fromkeys(c.method for c in there):
        known = in_one(method, [c for c in there if c.method == method])
        is_short = known.acceptance.longest < FAR and not method_named(method).is_block
        if is_short and options.device.topk is None:
            known = known._replace(acceptance=with_tail(known.acceptance, FAR))
        found[method] = known
    return found


def why_not(of: "Contender", options: AdviseOptions, *, is_named: bool) -> str:
    """Say why a method is not served; empty where it is."""
    engines = of.pair.method.engines
    if not getattr(engines, str(options.engine).replace(".", "_")):
        return f"{options.engine} has it not"
    if engines.needs_model and not is_named:
        return "no drafter of this target is known (--method or --draft-model names one)"
    return ""
