"""A load served step for step, from a program: ways of serving it, and what they come to."""

from collections.abc import Sequence
from dataclasses import replace

from simulator.costs.priced import Pricing
from simulator.ground.artefacts import UserError
from simulator.rounds.acceptance_law import AcceptanceModel, IidAcceptance
from simulator.serving.fleet import ONE, Replicas

from .live_policies import live_policies
from .load_curve import Point, curve
from .played import playing
from .scene import Arm, Scene, Traffic
from .ways import Server, accepting, drafted_way, plain_way, usual_context, with_rounds_of


def ways_of(
    pricing: Pricing,
    traffic: Traffic,
    server: Server,
    acceptance: AcceptanceModel,
    policies: Sequence[str] = ("static:k=4",),
    replicas: Replicas = ONE,
) -> tuple[Arm, ...]:
    """Return ways of serving two models: plain decoding, and speculation under each policy.

    Args:
        pricing: A device and both models.
        traffic: What clients send, by whose mean lengths memory is divided.
        server: How an engine is set.
        acceptance: What rounds accept.
        policies: How draft lengths are chosen, as `simulate-serving --policy` names them.
        replicas: How many such servers there are, and what stands before and between them.

    Raises:
        UserError: Models are missing or do not fit into memory, or a policy is not allowed.
    """
    models, profile = pricing.models, pricing.profile
    if models is None or profile is None:
        raise UserError("pricing: without models, expected a profile, a target and what drafts for it")
    models, isl, osl = with_rounds_of(profile, models), traffic.mean_prompt, traffic.mean_output
    context = min(usual_context(isl, osl), server.longest)
    plain = plain_way(models.placed_target, server, context, accepting([IidAcceptance(0.0)], models, 1))
    drafted = [drafted_way(live, models, server, [acceptance], isl, osl) for live in live_policies(policies)]
    return tuple(replace(way, replicas=replicas) for way in (plain, *drafted))


def serve(scene: Scene, loads: Sequence[float], seeds: Sequence[int] = (0,)) -> list[Point]:
    """Return what the ways of a scene come to at each load, of as many runs as there are seeds."""
    ways = range(len(scene.arms))
    with playing(scene, lambda _: None, len(loads) * len(ways) * len(seeds)) as play:
        return curve(ways, loads, seeds, play)
