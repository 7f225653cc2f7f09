"""Constants of a profile multiplied by factors, by name: what fits move, what draws of a fit move, and a drafter's."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .engine import Engine
from .profile import Profile
from .step import Real

PASS_CONSTANTS = ("flop_scale", "mem_scale", "launch_s", "fixed_s", "overlap_exponent")
LINK_CONSTANTS = ("link_bytes_per_s", "link_latency_s")
ENGINE_CONSTANTS = (
    "host_layer_s",
    "load_layer_s",
    "load_layer_sequence_s",
    "front_s",
    "front_client_s",
    "first_passes",
    "round_sequence_s",
    "draft_round_s",
    "draft_flops",
    "attention_flops",
    "search_s",
)

# Engines that capture no graphs of a method's passes: vLLM 0.32 of a draft model by itself (its `standalone_ar`).
UNCAPTURED = {("vllm", "draft_model")}


def moved(profile: Profile, factors: Mapping[str, Real]) -> Profile:
    """Multiply constants of a profile, by name; factors of one shape [samples] give samples."""
    # A knot of a curve is a constant too.
    of_passes = {name: by for name, by in factors.items() if name.partition("[")[0] in PASS_CONSTANTS}
    passes = {}
    for dtype, cost in profile.passes.items():
        scaled = cost.scaled(of_passes)
        passes[dtype] = replace(scaled, uncertain=cost.uncertain, covariance=cost.covariance)
    link, engine = profile.link, profile.engine or Engine()
    if link:
        of_link = {name.removeprefix("link_"): factors[name] for name in LINK_CONSTANTS if name in factors}
        link = replace(link, **times(link, of_link))
    of_engine = {name: factors[name] for name in ENGINE_CONSTANTS if name in factors}
    overhead_s: Real = np.asarray(profile.round_overhead_s * factors.get("round_overhead_s", 1.0), np.float64)
    found = replace(profile, passes=passes, link=link, engine=replace(engine, **times(engine, of_engine)))
    return replace(found, round_overhead_s=overhead_s)


def times(of: Any, factors: Mapping[str, Real]) -> dict[str, Any]:
    """Return fields multiplied, by name."""
    return {name: getattr(of, name) * factor for name, factor in factors.items()}


def drafting(profile: Profile, server: str, method: str) -> Profile:
    """Return a profile as passes of a drafter have it, on a server as the user names it; "" where nobody does."""
    engine = profile.engine
    if engine is None:
        return profile
    if np.any(engine.draft_flops != 1.0) or np.any(engine.draft_round_s):  # of rounds that draft it says more
        return moved(profile, {"flop_scale": engine.draft_flops})
    is_slow = (server, method) in UNCAPTURED and not profile.is_timed
    return replace(profile, engine=engine.one_by_one()) if is_slow else profile
