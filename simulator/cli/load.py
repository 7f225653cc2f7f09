"""A served load on the command line: clients, prompts and answers, and how an engine takes them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from simulator.costs.kinds import is_models
from simulator.costs.parameters import BY_NAME, CHUNK, LOAD_NAMES, DeviceOptions, Load
from simulator.ground.artefacts import UserError, to_json
from simulator.ground.command import TYPED, Decorator, is_given, stacked
from simulator.ground.vocabulary import CLIENTS, flags_in

if TYPE_CHECKING:
    from simulator.answers.basis import Basis
    from simulator.answers.loads import LoadForecast
    from simulator.costs.parameters import Point
    from simulator.costs.priced import Pricing

    from .options import Measured
    from .simulate import SimulateOptions
    from .sweep import SweepOptions

LOAD_OPTIONS = stacked(
    click.option(
        "--chunk",
        type=click.IntRange(1, 10_000_000),
        help=f"Of a load: tokens of a pass at most.  [default: as the profile's rows, else {CHUNK}]",
    ),
    click.option(
        "--dp",
        type=click.IntRange(1, 1024),
        help="Of a load of a model of experts: groups of --tp devices with attention of their own.",
    ),
    click.option("--max-running", type=click.IntRange(1), help="Of a load: sequences that run at once at most."),
    click.option("--requests", type=click.IntRange(1), help="Of a load: requests in all; the first come at once."),
    click.option(
        "--prefix-hit",
        type=click.FloatRange(0, 1),
        help="Of a load: share of a prompt that lies in the cache already.  [default: as the profile's rows, else 0]",
    ),
    click.option(
        "--prompts-first/--no-prompts-first",
        default=None,
        help="Of a load: prompts in passes of their own, before decoding.  [default: as the profile's rows, else no]",
    ),
    click.option(
        "--same-length/--no-same-length",
        default=None,
        help="Of a load: all answers have one length, and end in step.  [default: as the profile's rows, else no]",
    ),
)
OWN = ("chunk", "max_running", "requests", "prefix_hit", "prompts_first", "same_length")
# Options of a device that say something of drafts alone.
OF_DRAFTS = ("draft_dtype", "draft_tp", "placement", "topk", "nodes", "branching")
# Options that have no part in a load, which has a closed form alone.
WITHOUT: tuple[str, ...] = ("total", "context", "replications", "overlap", "guesses", "csv", "events")
WITHOUT += ("baseline_tpot", "speculative_tpot")


def memory_option(help_: str) -> Decorator:
    """Add the option of the share of a device's memory that an engine uses."""
    bounds = click.FloatRange(0, 1, min_open=True)
    return click.option("--gpu-memory-utilization", type=bounds, help=f"{help_}  [default: 0.9]")


class Told(NamedTuple):
    """A load that options tell; None where they tell none. said: what of it nobody stated, in sentences."""

    load: Load | None
    said: tuple[str, ...] = ()


def load_of(context: click.Context, values: Mapping[str, Any], stated: Collection[str], rows: Load) -> Told:
    """Return the load that options tell: clients by that name, or lengths, make one; rows: as others were served.

    Raises:
        UserError: Options of a load without one, or others that have no part in it.
    """
    flags = {p.name: p.opts[0] for p in context.command.params}
    told = [f"--{name}" for name in LOAD_NAMES if name in stated]
    told = told or [flag for flag in flags_in(context.meta[TYPED][1]) if flag in CLIENTS][:1]
    if not told:
        for name in (name for name in (*OWN, "dp") if is_given(context, name)):
            raise UserError(f"{flags[name]}: of a load, expected {CLIENTS[0]}, --isl or --osl beside it")
        refuse_alone(values)
        return Told(None)
    if values["dp"] and has_drafts(values):
        raise UserError("--dp: drafts beside attention of several groups are not priced, expected no such option")
    for name in (name for name in WITHOUT if is_given(context, name) and values.get(name, True)):
        instead = f", or --batch in place of {told[0]}" if told[0] in CLIENTS else ""
        instead = "; sweep --out FILE writes loads" if name == "csv" else instead
        raise UserError(f"{flags[name]}: has no part in a load ({', '.join(told)}), expected no such option{instead}")
    return Told(rows.with_options({name: values[name] for name in OWN}), tuple(assumed_of(stated)))


def refuse_alone(values: Mapping[str, Any]) -> None:
    """Refuse a target on a device that nothing drafts for, where no load is told."""
    named = values["target_model"] or (values["params"] and f"a model of {values['params']} weights")
    if named and values["profile"] and not has_drafts(values):
        option = "--target-model" if values["target_model"] else "--params"
        raise UserError(
            f"{option}: {named} alone, nothing drafts for it; expected --method or --draft-model beside it, "
            f"or {CLIENTS[0]} (--isl, --osl) for plain serving"
        )


def check_models(device: DeviceOptions) -> None:
    """Refuse a load without a device, or without a model that serves it."""
    if device.profile is None or not (device.target_model or device.params):
        missing = "--profile" if device.profile is None else "--target-model"
        told = "of a load (--concurrency, --isl, --osl), expected --profile and --target-model"
        raise UserError(f"{missing}: missing {told}")


def has_drafts(values: Mapping[str, Any]) -> bool:
    """Whether options name anything that drafts."""
    return any(values.get(name) for name in ("draft_model", "draft_params", "method", "compare"))


def assumed_of(stated: Collection[str]) -> Iterator[str]:
    """Say which numbers of a load nobody stated."""
    words = {
        "batch": f"{{:,}} client ({CLIENTS[0]})",
        "isl": "{:,} tokens in (--isl)",
        "osl": "{:,} tokens out (--osl)",
    }
    assumed = [text.format(int(BY_NAME[name].default)) for name, text in words.items() if name not in stated]
    if assumed:
        yield f"assumed: {', '.join(assumed)}"


def refuse_rest(options: "SimulateOptions", *, alone: bool) -> None:
    """Refuse what says nothing of one load; alone: of a target that nothing drafts for."""
    for option, given in {"--plot": options.plot, "--engine": options.engine}.items():
        if given is not None:
            raise UserError(f"{option}: has no part in one load, expected no such option; sweep draws many")
    if alone:
        refuse_drafts(options)


def refuse_drafts(options: "SimulateOptions | SweepOptions") -> None:
    """Refuse what is of drafts, beside a target that nothing drafts for."""
    of_drafts = {"--draftN": "draft_length", "--alpha": "alpha", "--round-overhead": "round_overhead_ms"}
    given = {option: name in options.stated for option, name in of_drafts.items()}
    given |= {"--acceptance": bool(options.acceptance), "--hist": options.accepts_as is not None}
    given |= {"--extrapolate": options.extrapolate}
    given |= {f"--{name.replace('_', '-')}": getattr(options.device, name) is not None for name in OF_DRAFTS}
    for option, is_stated in given.items():
        if is_stated:
            raise UserError(f"{option}: of drafts, expected --method or --draft-model beside it")


class LoadForecasted(NamedTuple):
    """A forecast of a load, and what it is told with; heading: what was forecast, in words."""

    answer: "LoadForecast"
    parameters: Mapping[str, Any]
    basis: "Basis"
    said: Sequence[str]
    heading: str

    def document(self) -> dict[str, Any]:
        """Return what --json prints."""
        from simulator.answers.loads_report import load_json

        basis = self.basis
        if self.answer.draft_length is None:  # nothing drafts, though something weightless stands beside it
            basis = basis._replace(acceptance="none", condition="", acceptance_text="", caveat="")
        return load_json(self.answer, self.parameters, basis, self.said)

    def text(self, *, why: bool) -> str:
        """Return what is printed for people."""
        from simulator.answers.loads_report import load_text

        return load_text(self.answer, self.heading, self.basis, self.said, why=why)

    def reasons(self) -> list[str]:
        """Say where the time goes, and what would change it."""
        from simulator.answers.loads_report import why_lines

        return why_lines(self.answer)


def run_load(options: "SimulateOptions") -> None:
    """Load, forecast a load, and print."""
    told = load_forecasted(options)
    click.echo(to_json(told.document()) if options.as_json else told.text(why=options.why), nl=not options.as_json)


def load_forecasted(options: "SimulateOptions") -> LoadForecasted:
    """Load and forecast."""
    from simulator.answers.basis import basis_of
    from simulator.answers.loads import forecast_load
    from simulator.answers.verdict import searched_draft_lengths
    from simulator.rounds.acceptance_law import EquivalentAcceptance, HistogramAcceptance, IidAcceptance
    from simulator.rounds.experiment import Setting

    alone, pricing, measured = loaded(options)
    stated = {name: getattr(options.point, name) for name in options.stated}
    if isinstance(measured, HistogramAcceptance):
        stated.setdefault("draft_length", min(pricing.usual_length, measured.longest))
    point = pricing.point(stated)
    k, isl, osl, pair = int(point.draft_length), int(point.isl), int(point.osl), pricing.costs(point)
    acceptance = measured or IidAcceptance(float(point.alpha))
    if isinstance(measured, EquivalentAcceptance):
        point = replace(point, alpha=measured.alpha(k))
    searched = searched_draft_lengths(Setting(total=osl, draft_length=k, costs=pair, acceptance=acceptance))
    assert is_models(pair) and options.load is not None  # noqa: PT018 - for the types
    length, looked_at = (None, searched[:1]) if alone else (k, searched)
    found = forecast_load(pair, options.load, isl, osl, acceptance, length, looked_at, options.seed)
    basis = basis_of(
        pair, acceptance, draft_length=k, alpha=float(point.alpha), stated=options.stated, profile=pricing.profile
    )
    parameters = served_parameters(options, pricing, point, measured, alone=alone)
    return LoadForecasted(found, parameters, basis, options.said, heading(options, found))


def served_parameters(
    options: "SimulateOptions", pricing: "Pricing", point: "Point", measured: "Measured | None", *, alone: bool
) -> dict[str, Any]:
    """Return what a forecast of a load hangs on, as its files have it."""
    from simulator.rounds.acceptance_law import HistogramAcceptance

    from .simulate import parameters_of

    assert options.load is not None
    unused: tuple[str, ...] = ("alpha",) if isinstance(measured, HistogramAcceptance) else ()
    unused = ("draft_length", "alpha", "round_overhead_ms") if alone else unused
    named = {name: getattr(point, name) for name in pricing.names if name not in unused}
    parameters = parameters_of(options, pricing, named, measured) | {"load": options.load.options}
    parameters = {name: value for name, value in parameters.items() if name not in WITHOUT}
    return parameters | (dict.fromkeys(("method", "draft_dtype", "draft_tp", "placement")) if alone else {})


def loaded(options: "SimulateOptions") -> "tuple[bool, Pricing, Measured | None]":
    """Return whether a target stands alone, the costs of a load, and what was measured of acceptance."""
    from simulator.costs.priced import load_pricing

    from .engine_settings import checked
    from .options import load_checked, with_drafted

    device = options.device
    check_models(device)
    alone = not (device.draft_model or device.draft_params or device.method)
    refuse_rest(options, alone=alone)
    # What drafts without weights stands beside a target of which no drafts are asked for.
    pricing = checked(load_pricing(replace(device, method="ngram") if alone else device), options.engine)
    longest = int(options.point.draft_length) if "draft_length" in options.stated else 1
    measured = None if alone else load_checked(options, longest, pricing.models, (float(options.point.alpha),))
    return alone, with_drafted(pricing, measured)._replace(load=options.load), measured


def heading(options: "SimulateOptions", found: "LoadForecast") -> str:
    """Say what was forecast."""
    from simulator.answers.loads_report import clients_in_words

    device, pair = options.device, found.pair
    drafted = "" if found.draft_length is None else f", drafted by {device.drafter or pair.draft.name}"
    target, devices = device.target_model or pair.target.name, f"{pair.devices} x " * (pair.devices > 1)
    tokens = f"{found.isl:,} tokens in and {found.osl:,} out, passes of {found.load.chunk:,} tokens at most"
    return (
        f"{clients_in_words(found)}, {tokens}\n{target}{drafted}, on {devices}{device.profile} ({pair.profile.status})"
    )
