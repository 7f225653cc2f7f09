"""Methods of speculation held against each other: what `simulate --compare` and `sweep --method a,b` share."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.costs.parameters import BY_NAME, DeviceOptions, Load, key_of
from simulator.ground.artefacts import UserError, envelope, to_json
from simulator.ground.command import wrapped

from .options import SharedOptions, load_acceptance, with_drafted

if TYPE_CHECKING:
    from simulator.answers.comparison import Comparison, Contender
    from simulator.answers.schedule import Range
    from simulator.costs.drafters.plan import Method
    from simulator.costs.engines.settings import Recommended
    from simulator.costs.model_costs import ModelPair
    from simulator.costs.priced import Pricing
    from simulator.rounds.acceptance_law import AcceptanceModel

    from .accepting import Stated


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonOptions:
    """What a comparison takes besides `SharedOptions`.

    methods: names, as stated; None for all that apply. batches, draft_lengths: those to look at; None where nobody
    says. stated: values of the parameters that were stated, batch and draft length not among them. acceptance: alpha or
    a file of histograms, by method.
    """

    methods: tuple[str, ...] | None
    batches: tuple[int, ...] | None
    draft_lengths: tuple[int, ...] | None
    stated: Mapping[str, Any]
    acceptance: "Mapping[str, Stated]"
    plot: Path | None
    as_json: bool


def compare_methods(options: SharedOptions, wanted: ComparisonOptions) -> None:
    """Load, compare, draw and print."""
    import numpy as np

    from simulator.answers.comparison import compare
    from simulator.answers.comparison_plot import draw_comparison
    from simulator.answers.comparison_report import comparison_json, comparison_text, shown_batches
    from simulator.ground.pictures import check_format, save_figure

    check_format(wanted.plot)
    if options.overlap:
        raise UserError("--overlap: methods are compared one after another on one device, expected no such option")
    found, skipped = contenders(options, wanted)
    lengths = None if wanted.draft_lengths is None else np.array(wanted.draft_lengths)
    comparison = compare(found, draft_lengths=lengths)
    batches = shown_batches(comparison, wanted.batches)
    pair = found[0].pair
    where = f"{options.device.target_model or pair.target.name} on {pair.profile.name} ({pair.profile.status})"
    heading = f"{where}, context {int(np.max(pair.context)):,}"
    if options.load:
        heading = "{}, clients with {:,} tokens in and {:,} out".format(where, *(found[0].load or ())[1:])
    if wanted.plot:
        save_figure(wanted.plot, draw_comparison(comparison, heading))
    notes = [*ends_of(comparison, wanted.draft_lengths), *chains_of(comparison, options.device.topk)]
    notes += sizes_of(comparison, wanted.batches)
    if wanted.as_json:
        body = envelope("comparison", 1, parameters_of(options, wanted, pair))
        engines: dict[str, Any] = {"engines": comparison_for_all(options.device, comparison)}
        engines |= {"notes": [*options.said, *notes]}
        click.echo(to_json(body | comparison_json(comparison, batches, skipped) | engines), nl=False)
        return
    cautions = [*cautions_of(comparison), *notes]
    if cautions:
        click.echo(wrapped(f"warning: {caution}" for caution in cautions))
    told = comparison_for(options.engine, options.device, comparison)
    heading = wrapped([heading, *options.said])
    click.echo(f"{heading}\n\n{comparison_text(comparison, batches, skipped)}{told}")
    if wanted.plot:
        click.echo(f"wrote {wanted.plot}")


def load_of(pricing: "Pricing", wanted: ComparisonOptions) -> "tuple[Load, int, int] | None":
    """Return the load that is served, with the tokens of a prompt and of an answer."""
    point = pricing.point(wanted.stated)
    return pricing.load and (pricing.load, int(point.isl), int(point.osl))


def ends_of(comparison: "Comparison", draft_lengths: tuple[int, ...] | None) -> list[str]:
    """Say of which methods not all the draft lengths that were stated could be looked at."""
    last = max(draft_lengths or (0,))
    short = [f"{c.name} {c.longest}" for c in comparison.contenders if c.longest < last]
    return [f"no longer drafts are known of some methods than: {', '.join(short)}"] if short else []


def sizes_of(comparison: "Comparison", batches: tuple[int, ...] | None) -> list[str]:
    """Say which sizes that were stated no method has memory for at once, and so are not shown."""
    last = len(comparison.batches)
    beyond = ", ".join(f"{size:,}" for size in batches or () if size > last)
    size = key_of("batch", comparison.contenders[0].load)
    return [f"--{size} {beyond}: not shown, memory holds {last:,} at once at most"] if beyond else []


def chains_of(comparison: "Comparison", topk: int | None) -> list[str]:
    """Say of which methods --topk makes no trees."""
    chains = [c.name for c in comparison.contenders if topk is not None and c.pair.tree is None]
    return [f"--topk: drafts of {', '.join(chains)} do not branch, and are chains here"] if chains else []


def parameters_of(options: SharedOptions, wanted: ComparisonOptions, pair: "ModelPair") -> dict[str, Any]:
    """Return what all methods of a comparison share, under plain keys."""
    device, named = options.device, ("profile", "target_model", "params", "draft_model", "topk", "nodes")
    shared = {name: getattr(device, name) for name in named if getattr(device, name) is not None}
    shared |= {
        "dtype": pair.placed_target.storage.name,
        "kv_dtype": pair.placed_target.kv_format,
        "tp": pair.tp,
    }
    stated = {key_of(name, options.load): value for name, value in wanted.stated.items()}
    shared |= options.load.options if options.load else {}
    return shared | {"context": int(pair.context), "round_overhead_ms": float(pair.round_overhead_s) * 1e3} | stated


def told_by(device: DeviceOptions, comparison: "Comparison") -> "list[tuple[Range, str, Recommended | None]]":
    """Return the methods to take, and what to tell engines of each."""
    from simulator.answers.recommendation import of_comparison

    method = own_method(device)
    own = device.method if device.head or method is None else method.name
    return list(of_comparison(comparison, own, device.drafter))


def comparison_for_all(device: DeviceOptions, comparison: "Comparison") -> list[dict[str, Any]]:
    """Return the methods to take as engines take them, under plain keys."""
    from simulator.costs.engines.all import as_engines_take_it

    told = told_by(device, comparison)
    return [{"first": r.first, "last": r.last, "method": name} | as_engines_take_it(said) for r, name, said in told]


def comparison_for(engine: str | None, device: DeviceOptions, comparison: "Comparison") -> str:
    """Return the methods to take as an engine takes them, a block each; nothing where none is asked for."""
    if engine is None:
        return ""
    from simulator.costs.engines.all import lines_for

    blocks = (lines_for(engine, said, f"{name} at batch {r.first}") for r, name, said in told_by(device, comparison))
    return "".join("\n\n" + "\n".join(lines) for lines in blocks)


def cautions_of(comparison: "Comparison") -> list[str]:
    """Return what to know of the target before the numbers, once; what was assumed of drafters is said below them."""
    from simulator.costs.cautions import cautions

    def said(contender: "Contender") -> tuple[str, ...]:
        if contender.load is None:
            return cautions(contender.pair)
        load, isl, osl = contender.load
        return cautions(contender.pair, most_running=load.most_running, isl=isl, osl=osl)

    every = [caution for contender in comparison.contenders for caution in said(contender)]
    return list(dict.fromkeys(c for c in every if "as no --draft-model says" not in c))


def contenders(options: SharedOptions, wanted: ComparisonOptions) -> "tuple[tuple[Contender, ...], dict[str, str]]":
    """Return the methods that apply to a target, and why others do not.

    Raises:
        UserError: One that was stated does not apply, or none does.
    """
    from simulator.answers.comparison import Contender
    from simulator.costs.drafters.methods import method_named, methods
    from simulator.costs.placing import check_tree
    from simulator.costs.priced import load_pricing

    if options.device.profile is None or not (options.device.target_model or options.device.params):
        raise UserError("--compare: methods of a target on a device, expected --profile and --target-model beside it")
    own = own_method(options.device)
    names = wanted.methods or tuple(methods())
    chosen = list({m.name: m for m in map(method_named, names)}.values())
    if options.hist is not None and own is None:
        raise UserError(f"--hist: {options.hist} is of one drafter, expected --acceptance METHOD={options.hist}")
    for stray in (name for name in wanted.acceptance if name not in {m.name for m in chosen}):
        raise UserError(f"--acceptance: {stray} is none of the methods that are compared ({', '.join(names)})")
    if own is not None and own not in chosen:
        raise UserError(f"--draft-model: {options.device.draft_model} is of {own.name}, which --method does not name")
    found: list[Contender] = []
    skipped: dict[str, str] = {}
    check_tree(options.device)
    for method in chosen:
        device = replace(options.device, method=None if method == own else method.name)
        device = device if method == own else replace(device, draft_model=None, draft_params=None)
        device = device if method.branches else replace(device, topk=None, nodes=None, branching=None)
        is_able = False
        try:
            pricing = load_pricing(device)._replace(load=options.load)
            assert pricing.models is not None
            is_able = True
            alpha = float(wanted.stated.get("alpha", BY_NAME["alpha"].default))
            stated = wanted.acceptance.get(method.name)
            acceptance, source = acceptance_of(options, pricing.models, alpha, stated, is_own=method == own)
            pair, load = priced(with_drafted(pricing, acceptance), wanted), load_of(pricing, wanted)
            found.append(Contender(pair=pair, acceptance=acceptance, source=source, load=load))
        except UserError as error:
            is_named = method == own or method.name in wanted.acceptance
            # What a target cannot have is left out, also of the methods that were named.
            if is_named or (wanted.methods and is_able):
                raise UserError(f"{method.name}: {error}" if str(error)[:1] != "-" else str(error)) from error
            skipped[method.name] = str(error)
    if not found:
        reasons = list(dict.fromkeys(skipped.values()))
        raise UserError(reasons[0] if len(reasons) == 1 else f"--compare: no method applies ({'; '.join(reasons[:3])})")
    short = {
        name: why.removeprefix("--method: ").removeprefix(f"--method {name}: ").partition(", expected")[0]
        for name, why in skipped.items()
    }
    return tuple(found), short


def own_method(device: DeviceOptions) -> "Method | None":
    """Return the method of the drafter that is named, None where none is."""
    from simulator.costs.priced import load_pricing

    if device.draft_model is None and device.draft_params is None:
        return None
    models = load_pricing(replace(device, method=None)).models
    return models.method if models else None


def priced(pricing: "Pricing", wanted: ComparisonOptions) -> Any:
    """Return the costs of a method at what was stated."""
    costs = pricing.costs(pricing.point({**wanted.stated, "draft_length": 1, "batch": 1}))
    assert pricing.models is not None
    return costs


def acceptance_of(
    options: SharedOptions, models: "ModelPair", alpha: float, stated: "Stated | None", *, is_own: bool
) -> "tuple[AcceptanceModel, str]":
    """Return what a method accepts: as stated or measured of it or of its own drafter, or a prior; and which.

    Raises:
        UserError: Nobody says.
    """
    from simulator.rounds.acceptance_law import HistogramAcceptance, IidAcceptance

    name = models.method.name
    no_tail = not options.extrapolate or models.method.is_block
    device = replace(options.device, method=name, draft_model=None, draft_params=None)
    options = replace(options, device=device, extrapolate=not no_tail)
    if isinstance(stated, Path):
        options = replace(options, hist=stated, measured=None, stated=frozenset())
    elif isinstance(stated, float):
        alpha, options = stated, replace(options, hist=None, hist_as=None, measured=None, stated=frozenset({"alpha"}))
    elif stated is not None:
        options = replace(options, hist=None, hist_as=None, measured=None, published=stated, stated=frozenset())
    elif not is_own:
        options = replace(options, hist=None, hist_as=None, measured=None)
    model = load_acceptance(options, 1, models, (alpha,))
    if isinstance(model, HistogramAcceptance) and model.assumed:
        return model, model.assumed_as
    if model is not None and (options.hist is not None or options.published is not None):
        return model, f"measured ({options.hist or options.accepts_as})"
    if "alpha" not in options.stated:
        raise UserError(f"nobody says what it accepts, expected --acceptance {name}=ALPHA, =FILE or =PAIR")
    return model or IidAcceptance(alpha), f"stated, alpha {alpha:g}"


def method_names(device: DeviceOptions) -> tuple[str, ...]:
    """Return the methods that `--method` names, several behind commas."""
    if device.method is None:
        return ()
    names = tuple(name.strip() for name in device.method.split(","))
    if not all(names):
        raise UserError(f"--method: {device.method!r} is not allowed, expected a name, or several with commas between")
    return names
