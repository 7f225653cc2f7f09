"""The command `replay-policies`: parse, load, replay, print."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from acceptance.estimate.engines import NAMES, NAMES_IN_WORDS
from simulator.cli.options import DEVICE_OPTIONS, parameter_options
from simulator.costs.parameters import LOAD_NAMES, PARAMETERS, UNIT_NAMES, DeviceOptions, Point
from simulator.ground.artefacts import UserError, check_outputs, to_json, write_json
from simulator.ground.command import FILE, command, is_given, progress, say
from simulator.ground.read_as import AS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from acceptance.estimate.engines.named import EnginePolicy
    from calibration.replay.replay import Row, Work
    from simulator.costs.priced import Pricing
    from simulator.rounds.acceptance_law import AcceptanceModel

TRACE = "trace.json"
# Outputs that a law writes, for each that runs at once.
OUTPUTS_A_SLOT = 8
USUAL = ("static:k=1", "static:k=2", "static:k=4", *(name for name in NAMES if name != "static"))
COSTS = "--profile and models, or --workmem and its like"
COST_NAMES = (*UNIT_NAMES, "round_overhead_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """The options as they were given; point: numbers, of which the user stated `stated`."""

    policies: tuple[str, ...]
    trace: Path | None
    hist: Path | None
    hist_as: str | None
    q_kind: str | None
    device: DeviceOptions
    point: Point
    stated: frozenset[str]
    replications: int
    seed: int
    as_json: bool
    out: Path | None
    force: bool

    def __post_init__(self) -> None:
        """Refuse what can be refused before anything is read."""
        sources = {"--trace": self.trace, "--hist": self.hist}
        given = [flag for flag, path in sources.items() if path is not None]
        given += ["--alpha"] * ("alpha" in self.stated)
        if len(given) > 1:
            raise UserError(f"{given[0]} and {given[1]}: expected one of --trace, --hist and --alpha")
        if self.hist_as and self.hist is None:
            raise UserError("--as: nothing to measure by, expected --hist FILE beside it")
        if self.trace is None and self.q_kind:
            raise UserError("--q-kind: a law is of one kind of draft, expected --trace beside it")
        if self.trace is not None and "total" in self.stated:
            raise UserError("--total: a trace's outputs have lengths of their own, expected no such option")
        if self.out and self.out.suffix != ".json":
            raise UserError(f"--out {self.out}: suffix {self.out.suffix!r}, expected .json")
        if len(set(self.policies)) < len(self.policies):
            raise UserError("--policy: one is stated twice, expected each once")
        check_outputs({"--out": self.out}, self.force, sources)

    @property
    def slots(self) -> int:
        """Sequences that run at once."""
        return int(self.point.batch)

    @property
    def knows_costs(self) -> bool:
        """Whether anything is said of what steps cost."""
        return self.device.profile is not None or bool(self.stated & set(COST_NAMES))


@command("replay-policies")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME[:SETTING=VALUE,...]",
    help=f"One of {NAMES_IN_WORDS}; repeatable.",
)
@click.option("--trace", type=FILE, help="A trace.json of measure-acceptance, or its folder.")
@click.option("--hist", type=FILE, help="In place of a trace: a histogram, or a folder of them, each K from its own.")
@click.option("--as", "hist_as", type=click.Choice(AS), help="What the numbers of --hist are.")
@click.option(
    "--q-kind", type=click.Choice(("sampled", "greedy")), help="Draft of the trace.  [default: as it was measured]"
)
@parameter_options(many=False, without=("draft_length", *LOAD_NAMES))
@DEVICE_OPTIONS
@click.option("--replications", default=4, type=click.IntRange(1, 10_000), help="Tosses of a trace's coins.")
@click.option("--seed", default=0, type=click.IntRange(0), help="Seed of every random stream.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--out", type=FILE, help="Write the result as .json.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@click.pass_context
def replay_policies(context: click.Context, /, **values: Any) -> None:
    """Replay how engines choose draft lengths, batch by batch, over a trace or a law of acceptance.

    Outputs fill --batch slots as these become free. Each policy says what it drafts, verifies and wastes; with costs
    also the time of a token, and the speedup over plain decoding of the same outputs.
    """
    stated = frozenset(p.name for p in PARAMETERS if p.name in values and is_given(context, p.name))
    point = Point(**{p.name: values.pop(p.name) for p in PARAMETERS if p.name in values})
    device = DeviceOptions(**{f.name: values.pop(f.name) for f in fields(DeviceOptions) if f.name in values})
    run(ReplayOptions(point=point, stated=stated, device=device, **values))


def run(options: ReplayOptions) -> None:
    """Load, replay, write and print."""
    from calibration.replay.prices import step_price
    from calibration.replay.replay import rows_of
    from calibration.replay.report import replay_json, replay_text
    from simulator.costs.priced import load_pricing

    pricing = load_pricing(options.device)
    found = loaded(options)
    most_drafted = None if pricing.models is None else pricing.models.longest
    limits = {"the longest of --hist": found.longest, "a block of the drafter": most_drafted}
    limits["the longest of the profile"] = max(pricing.decoding.draft_lengths) if pricing.decoding else None
    policies, left_out = chosen(options, found, limits)
    stated = {name: getattr(options.point, name) for name in options.stated - {"batch", "total", "alpha"}}
    pricing.refuse_unused(stated)
    price, point = None, options.point
    if options.knows_costs:
        longest = max(policy.longest for policy in policies.values())
        point = replace(pricing.point(stated), alpha=point.alpha)
        price = step_price(pricing, point, options.slots, longest)
    with progress("replay", len(policies) + 1) as bar:
        rows = rows_of(found.work, policies, price, options.slots, bar.update)
    too_many = misfit(pricing, options)
    if too_many:  # what cannot run is not fast
        rows = [replace(row, ms_per_token=None, speedup=None) for row in rows]
    notes = list(filter(None, [too_many, *(warm_up_note(policies[row.name], row) for row in rows[1:])]))
    condition = condition_of(found.law, pricing, point, options)
    parameters = parameters_of(options, pricing, point, tuple(policies))
    payload = replay_json(rows, parameters, notes, condition=condition, left_out=left_out)
    if options.out:
        write_json(options.out, payload)
    if options.as_json:
        click.echo(to_json(payload), nl=False)
        return
    notes = [*notes[bool(too_many) :], *(f"left out: {name}: {why}" for name, why in left_out.items())]
    say(replay_text(rows, found.heading + where(options, pricing), notes, condition, too_many))
    if options.out:
        click.echo(f"wrote {options.out}")


class Loaded(NamedTuple):
    """What is replayed over: whether its draft is greedy, what it is in words, whose acceptance, its longest draft."""

    work: "Work"
    greedy: bool
    heading: str
    law: "AcceptanceModel"
    longest: int | None


def loaded(options: ReplayOptions) -> Loaded:
    """Return what is replayed over."""
    from calibration.replay.replay import Drawn, Text
    from simulator.ground.histogram import AcceptanceHistogram, load_histograms, measured_on
    from simulator.rounds.acceptance_law import HistogramAcceptance, IidAcceptance

    slots = f"{options.slots} at once"
    if options.trace is not None:
        from acceptance.trace.trace import load_trace

        path = options.trace / TRACE if options.trace.is_dir() else options.trace
        trace, parameters = load_trace(path)
        greedy = parameters["draft_temperature"] == 0
        if greedy and options.q_kind == "sampled":
            raise UserError("--q-kind: sampled, but the draft of the trace is greedy, expected greedy")
        kind = "greedy" if greedy else options.q_kind or "sampled"
        what = f"{len(trace.starts) - 1} outputs of {path}, {trace.size:,} tokens, {slots}, {kind} draft"
        work = Text(trace=trace, q_kind=kind, seed=options.seed, replications=options.replications)
        each = trace.accept(kind).astype(float)
        counts = (float((1 - each).sum()), float(each.sum()))
        law = HistogramAcceptance((AcceptanceHistogram(counts, **measured_on({"parameters": parameters})),))
        return Loaded(work, kind == "greedy", what, law, None)
    outputs, total = OUTPUTS_A_SLOT * options.slots, int(options.point.total)
    sized: dict[str, Any] = {"outputs": outputs, "tokens": total, "seed": options.seed}
    what = f"{outputs} outputs of {total:,} tokens, {slots}, acceptance"
    if options.hist is None:
        alpha = float(options.point.alpha)
        iid = IidAcceptance(alpha)
        return Loaded(Drawn(acceptance=iid, **sized), True, f"{what} {alpha:g} of each draft", iid, None)
    law = HistogramAcceptance(load_histograms(options.hist, options.hist_as))
    return Loaded(Drawn(acceptance=law, **sized), True, f"{what} of {options.hist}", law, law.longest)


def chosen(
    options: ReplayOptions, found: Loaded, limits: "Mapping[str, int | None]"
) -> "tuple[dict[str, EnginePolicy], dict[str, str]]":
    """Return the policies by name; where none was named, all that can be replayed with what is known, and why others
    are left out.

    limits: the longest drafts of which anything is known, by what knows them.
    """
    from acceptance.estimate.engines.named import policy_of

    policies: dict[str, EnginePolicy] = {}
    left_out: dict[str, str] = {}
    for name in options.policies or USUAL:
        try:
            policy = policy_of(name, greedy=found.greedy, most=options.slots)
            found.work.check(policy, name)
            check_length(policy, name, limits)
            if policy.asks_costs and not options.knows_costs:
                raise UserError(f"--policy {name}: weighs drafts by what steps cost, expected {COSTS}")
        except UserError as error:
            if options.policies:
                raise
            left_out[name] = str(error).removeprefix(f"--policy {name}: ")
            continue
        policies[name] = policy
    return policies, left_out


def check_length(policy: "EnginePolicy", name: str, limits: "Mapping[str, int | None]") -> None:
    """Refuse a policy whose drafts may be longer than anything is known of."""
    from acceptance.estimate.engines.named import LENGTHS

    for what, most in limits.items():
        if most is not None and policy.longest > most:
            drafts = f"drafts up to {policy.longest}, above {most}, {what}"
            setting = LENGTHS[name.partition(":")[0].strip()]
            raise UserError(f"--policy {name}: {drafts}, expected {setting} of at most {most}")


def where(options: ReplayOptions, pricing: "Pricing") -> str:
    """Say what prices the steps."""
    if not options.knows_costs:
        return ""
    if pricing.profile is None or pricing.models is None:
        return "; steps priced by " + ("burn units" if pricing.profile is None else pricing.profile.name)
    pair = f"{pricing.models.target.name} drafted by {pricing.models.draft.name}"
    return f"\n{pair}, context {options.point.context}, on {options.device.profile} ({pricing.profile.status})"


def condition_of(law: "AcceptanceModel", pricing: "Pricing", point: Point, options: ReplayOptions) -> str:
    """Return what has to hold for the answer to, as of any other forecast; empty for what was measured."""
    from simulator.answers.basis import basis_of
    from simulator.costs.priced import knobs

    stated = options.stated if options.knows_costs else options.stated | {"draft_cost"}
    return basis_of(
        pricing.costs(replace(point, draft_length=1)) if options.knows_costs else knobs(point),
        law,
        draft_length=1,
        alpha=float(point.alpha),
        stated=stated,
        profile=pricing.profile,
    ).condition


def warm_up_note(policy: "EnginePolicy", row: "Row") -> str:
    """Say where a replay is no longer than what a policy takes to begin; empty where it is."""
    if row.steps / row.replays > policy.warm_up:
        return ""
    return (
        f"{row.name}: begins after {policy.warm_up} steps, and this text has {row.steps // row.replays}; expected a "
        "longer trace, or a shorter beginning (warm_up_refits=0)"
    )


def misfit(pricing: "Pricing", options: ReplayOptions) -> str:
    """Say where so many sequences do not fit into memory; empty where they do."""
    if pricing.models is None:
        return ""
    from simulator.costs.room import largest_batch

    fits = largest_batch(replace(pricing.models, context=options.point.context))
    if fits is None or fits >= options.slots:
        return ""
    return f"does not fit: {options.slots} sequences of {options.point.context} tokens, memory holds {fits}"


def parameters_of(options: ReplayOptions, pricing: "Pricing", point: Point, names: tuple[str, ...]) -> dict[str, Any]:
    """Return what the numbers hang on."""
    device = {f.name: getattr(options.device, f.name) for f in fields(DeviceOptions) if f.name != "overlap"}
    counted = {name: getattr(point, name) for name in pricing.names} if options.knows_costs else {}
    return {
        **{name: value for name, value in device.items() if value is not None},
        **{
            p.key: counted[p.name]
            for p in PARAMETERS
            if p.name in counted and p.name not in ("draft_length", "total", "alpha")
        },
        "batch": options.slots,
        "policies": list(names),
        "trace": options.trace and str(options.trace),
        "hist": options.hist and str(options.hist),
        "alpha": float(options.point.alpha) if options.trace is None and options.hist is None else None,
        "total": int(options.point.total) if options.trace is None else None,
        "q_kind": options.q_kind,
        "replications": options.replications,
        "seed": options.seed,
    }


if __name__ == "__main__":
    replay_policies(prog_name="replay-policies")
