"""The ways of serving that `simulate-serving` compares: methods, what each accepts, and policies of draft lengths."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from simulator.answers.basis import Basis, basis_of, together
from simulator.answers.live_policies import MOST, Live, live_policies
from simulator.answers.load_uncertainty import Served
from simulator.answers.scene import Arm, Scene
from simulator.answers.ways import Kind, accepting, drafted_way, plain_way, usual_context, with_rounds_of
from simulator.costs.cautions import cautions
from simulator.costs.drafters.plan import check_lengths
from simulator.costs.priced import load_pricing
from simulator.ground.artefacts import UserError
from simulator.ground.read_as import HISTOGRAMS, groups_of
from simulator.rounds.acceptance_law import AcceptanceModel, HistogramAcceptance, IidAcceptance
from simulator.rounds.request_laws import pooled, recorded, recorded_texts
from simulator.serving.draw_tables import Texts
from simulator.serving.settings import VLLM

from .accepting import by_method
from .comparing import ComparisonOptions, contenders, method_names
from .fleet_options import served_by
from .options import load_checked, with_drafted
from .serving_options import server_of, traffic_of

if TYPE_CHECKING:
    from simulator.costs.model_costs import ModelPair
    from simulator.costs.priced import Pricing

    from .simulate_serving import ServingOptions

# Tokens of a request at most, where neither an option nor the model says.
USUAL_LONGEST = 131_072
TREES = "vLLM verifies no trees: scheduled by its rules, with the nodes of a tree as drafts"


class Drafter(NamedTuple):
    """What drafts for a target.

    acceptance: on the whole. kinds: of requests, by names, each with its own; empty: all are alike. source: what says
    so, None where nobody does. usual: K where nobody says.
    """

    models: "ModelPair"
    acceptance: AcceptanceModel
    kinds: Mapping[str, Kind]
    source: str | None
    usual: int


def scene_of(options: "ServingOptions") -> tuple[Scene, Basis, tuple[str, ...], tuple[Served, ...]]:
    """Return what is compared, what it rests on, what to know before the numbers, and what a closed form needs."""
    pricing, drafters = drafters_of(options)
    target = pricing.models
    assert target is not None
    longest = options.values["longest"] or target.target.longest_context or USUAL_LONGEST
    traffic, notes = traffic_of(options.values, options.loads, longest)
    if drafters and (names := list(drafters[0].kinds)):
        traffic = traffic.sorted_into(names)
        if traffic.kinds == len(names) > 1:
            notes += (f"each request accepts as one of {', '.join(names)}, as likely each: no --workload says which",)
    isl, osl = traffic.mean_prompt, traffic.mean_output
    server, context = server_of(options.values, longest), min(usual_context(isl, osl), longest)
    notes += traffic.in_step(options.loads.values[-1]) + traffic.too_long(options.loads.values[0], options.seed)
    ways = [(drafter, policy) for drafter in drafters for policy in policies_of(options, drafter)]
    if len(ways) > MOST:
        raise UserError(f"--method: {len(ways)} ways of serving with --policy or --draftN, expected at most {MOST}")
    arms, spread = list[Arm](), options.values["spread"]
    plain = plain_way(target.placed_target, server, context, accepting([IidAcceptance(0.0)], target, 1))
    arms.append(served_by(options.values, plain, target.placed_target, isl))
    for drafter, policy in ways:
        kinds: Sequence[Kind] = [*drafter.kinds.values()] or [drafter.acceptance]
        way = drafted_way(policy, drafter.models, server, kinds, isl, osl, spread)
        arms.append(served_by(options.values, way, drafter.models, isl))
    branch = arms[0].settings.scheduler == VLLM and any(drafter.models.tree for drafter in drafters)
    notes += (TREES,) if branch else ()
    said = dict.fromkeys(
        caution
        for models, k in ((target, None), *((d.models, p.longest) for d, p in ways))[bool(ways) :]
        for caution in cautions(replace(models, context=int(context), batch=1), k)
    )
    scene = Scene(traffic=traffic, arms=tuple(arms), limits=options.limits, warmup=options.warmup)
    chunk, seed = options.values["budget"], options.seed
    decoding = arms[0].replicas.servers - arms[0].replicas.readers
    served = tuple(Served(d.models, d.acceptance, p.longest, isl, osl, chunk, seed, decoding) for d, p in ways)
    return scene, resting(options, pricing, drafters, ways), (*said, *notes), served


def resting(
    options: "ServingOptions", pricing: "Pricing", drafters: Sequence[Drafter], ways: Sequence[tuple[Drafter, Live]]
) -> Basis:
    """Say what the comparison rests on."""
    assert pricing.models is not None
    alone = Drafter(pricing.models, IidAcceptance(options.alpha), {}, None, 1)
    return together(
        {
            drafter.models.method.name: basis_of(
                drafter.models,
                drafter.acceptance,
                draft_length=max((policy.longest for of, policy in ways if of is drafter), default=drafter.usual),
                alpha=drafter.acceptance.alpha if isinstance(drafter.acceptance, IidAcceptance) else options.alpha,
                # Of several methods each has its own.
                stated=options.stated | ({"alpha"} if len(drafters) > 1 else set()),
                profile=pricing.profile,
            )
            for drafter in drafters or [alone]
        }
    )


def policies_of(options: "ServingOptions", drafter: Drafter) -> list[Live]:
    """Return how its draft lengths are chosen: each a way of serving.

    Raises:
        UserError: Nothing is known of drafts so long, or this method cannot make them.
    """
    lengths = options.draft_lengths or (drafter.usual,)
    if len(lengths) > MOST:
        raise UserError(f"--draftN: {len(lengths)} draft lengths, expected at most {MOST} ways of serving")
    found = live_policies(options.policy or tuple(f"static:k={k}" for k in lengths))
    longest = getattr(drafter.acceptance, "longest", None)
    for policy in found:
        if longest is not None and policy.longest > longest:
            source = drafter.source or "what is known"
            raise UserError(
                f"{'--policy ' + policy.name if options.policy else '--draftN'}: drafts up to {policy.longest}, above "
                f"k = {longest} of {source}, expected at most {longest}, or --draftN {policy.longest} --extrapolate "
                "beside it"
            )
        check_lengths(drafter.models.draft, [policy.longest])
        if policy.cuts and drafter.models.tree is not None:
            raise UserError(
                f"--policy {policy.name}: cuts drafts of chains, expected no --topk or --branching beside it"
            )
    return found


def drafters_of(options: "ServingOptions") -> "tuple[Pricing, list[Drafter]]":
    """Return what a target costs, and what drafts for it.

    Raises:
        UserError: Models are wrong, an option is of drafts and nothing drafts, or nobody says what is accepted.
    """
    device = options.device
    if device.profile is None or not (device.target_model or device.params):
        raise UserError("--profile: missing, expected a device and --target-model beside it")
    alone = not (device.draft_model or device.draft_params or device.method)
    drafting = {"--draftN": "draft_length" in options.stated, "--acceptance": options.accepts_as is not None}
    drafting |= {"--policy": bool(options.policy), "--trace": options.trace is not None}
    if options.policy and "draft_length" in options.stated and not options.extrapolate:
        raise UserError("--draftN: beside --policy, which says how long drafts are; expected one of them")
    for option, of_draft in drafting.items():
        if alone and of_draft:
            raise UserError(f"{option}: of drafts, expected --method or --draft-model beside it")
    if len(names := method_names(device)) > 1:
        return several(options, names)
    # What drafts without weights stands beside a target of which no drafts are asked for.
    pricing = load_pricing(replace(device, method="ngram") if alone else device)
    return (pricing, []) if alone else (pricing, [one(options, pricing)])


def one(options: "ServingOptions", pricing: "Pricing") -> Drafter:
    """Return the drafter of one method, with kinds of requests where what was measured tells them apart."""
    assert pricing.models is not None
    kinds: Mapping[str, Kind] = {}
    longest, hist = max(options.draft_lengths, default=1), options.hist
    measured: AcceptanceModel | None
    source: str | None
    if options.trace is not None:
        kinds, measured = along_trace(options, pricing)
        source = str(options.trace)
    elif hist is not None and hist.is_dir() and not any(hist.glob(HISTOGRAMS)) and (names := groups_of(hist)):
        of = {name: replace(options, hist=hist / name) for name in names}
        found = {name: load_checked(each, longest, pricing.models, (options.alpha,)) for name, each in of.items()}
        counted = [kind for kind in found.values() if isinstance(kind, HistogramAcceptance)]
        if len(counted) < len(found):
            raise UserError(
                f"--no-measured: beside histograms of {len(found)} kinds of requests, expected no such option"
            )
        kinds, measured, source = dict(zip(names, counted, strict=True)), pooled(counted), str(hist)
    else:
        measured, source = load_checked(options, longest, pricing.models, (options.alpha,)), options.accepts_as
    pricing = with_drafted(pricing, measured)
    usual = min(pricing.usual_length, getattr(measured, "longest", pricing.usual_length))
    return drafter_of(pricing, measured or IidAcceptance(options.alpha), kinds, source, usual)


def along_trace(options: "ServingOptions", pricing: "Pricing") -> tuple[Mapping[str, Kind], HistogramAcceptance]:
    """Return recorded texts by category, and what rounds along them accept on the whole."""
    models = pricing.models
    assert options.trace is not None
    assert models is not None
    if options.accepts_as is not None or "alpha" in options.stated:
        option = options.accepts_as or "--alpha"
        raise UserError(f"--trace: {options.trace} beside {option}, expected one of them")
    if models.varies or models.tree is not None:
        raise UserError(f"--trace: of chains of one length, expected --hist with {models.method.name}")
    texts = recorded_texts(options.trace)
    stated = [*options.draft_lengths, *(policy.longest for policy in live_policies(options.policy))]
    longest = max(stated, default=pricing.usual_length)
    if options.values["workload"] is None:
        # Of requests without categories any may go along any of the texts.
        texts = {"": Texts([text for of in texts.values() for text in of.likely])}
    return texts, recorded(options.trace, texts.values(), longest, options.seed)


def several(options: "ServingOptions", names: Sequence[str]) -> "tuple[Pricing, list[Drafter]]":
    """Return the drafters of several methods, each with its own acceptance."""
    if options.trace is not None:
        raise UserError(f"--trace: {options.trace} is of one method, expected one --method")
    stated = {"alpha": options.alpha} if "alpha" in options.stated else {}
    wanted = ComparisonOptions(
        methods=tuple(names),
        batches=None,
        draft_lengths=None,
        stated=stated,
        acceptance=by_method(options.values["acceptance"]),
        plot=None,
        as_json=False,
    )
    found, skipped = contenders(options, wanted)
    for name, why in skipped.items():
        raise UserError(f"--method: {name}: {why}")
    pricing = load_pricing(replace(options.device, method="ngram", draft_model=None, draft_params=None))
    drafters = []
    for contender in found:
        of = pricing._replace(models=contender.pair)
        usual = min(of.usual_length, contender.longest)
        drafters.append(drafter_of(of, contender.acceptance, {}, contender.source, usual))
    return pricing, drafters


def drafter_of(
    pricing: "Pricing", acceptance: AcceptanceModel, kinds: Mapping[str, Kind], source: str | None, usual: int
) -> Drafter:
    """Return a drafter whose rounds cost what the profile says besides passes."""
    models, profile = pricing.models, pricing.profile
    assert models is not None
    assert profile is not None
    return Drafter(with_rounds_of(profile, models), acceptance, kinds, source, usual)
