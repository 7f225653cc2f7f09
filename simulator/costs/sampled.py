"""A pair of models on draws of what its profile leaves open."""

from dataclasses import replace

import numpy as np

from .engine import LOAD
from .fitted import ServingFit
from .model_costs import ModelPair
from .moved import moved
from .profile import Profile
from .step import Floats


def sampled(pair: ModelPair, rng: np.random.Generator, samples: int) -> ModelPair:
    """Draw the profile anew within its uncertainty; a leading axis of samples.

    Number formats are drawn independently where they were fitted. What a data sheet leaves open is the same for
    all of them: parameters of one name share their draws. What was fitted to rows of a server is drawn together.
    """
    profile = pair.profile
    if profile.fitted is not None:
        return sampled_fit(pair, profile.fitted, rng, samples)
    drawn, overhead = drawn_profile(profile, rng, samples, pair.round_overhead_error)
    is_sure = profile.is_timed and not profile.timed
    is_sure &= not (pair.placed_target.is_untimed or pair.placed_draft.is_untimed)
    draft, verify = (0.0, 0.0) if is_sure else rng.standard_normal((2, 2, samples))
    known = replace(pair, profile=drawn, round_overhead_factors=overhead)
    return replace(known, draft_normals=draft, verify_normals=verify)


def drawn_profile(
    profile: Profile, rng: np.random.Generator, samples: int, round_error: float = 0.0
) -> tuple[Profile, Floats]:
    """Draw a profile that was fitted to no rows within its uncertainty, and what a round costs besides as a factor."""
    link_error = profile.link.error if profile.link else 0.0
    errors = (profile.launches_per_layer_error, round_error, link_error)
    launches, overhead, slower = (np.exp(error * rng.standard_normal(samples)) for error in errors)
    if not profile.is_timed:
        names = dict.fromkeys(name for cost in profile.passes.values() for name in cost.uncertain)
        normals = {name: rng.standard_normal(samples) for name in names}
        passes = {dtype: cost.moved(normals) for dtype, cost in profile.passes.items()}
    else:
        passes = {dtype: cost.sample(rng, samples) for dtype, cost in profile.passes.items()}
    # So many more launches cost as much as launches that take so much longer.
    passes = {dtype: cost.scaled({"launch_s": launches}) for dtype, cost in passes.items()}
    link = profile.link and profile.link.slower(slower)
    engine = profile.engine
    if engine and engine.host_error:
        host, load = np.exp(engine.host_error * rng.spawn(1)[0].standard_normal((2, samples)))
        engine = engine.slower(host).slower(load, LOAD)
    return replace(profile, passes=passes, link=link, engine=engine), overhead


def sampled_fit(pair: ModelPair, fit: ServingFit, rng: np.random.Generator, samples: int) -> ModelPair:
    """Draw what was fitted to rows together, and what rows did not tell of as its sheet knows it."""
    factors, profile = fit.drawn(rng, samples), pair.profile
    overhead = np.exp(pair.round_overhead_error * rng.standard_normal(samples))
    if "round_overhead_s" in factors and pair.round_overhead_error:
        overhead = factors["round_overhead_s"]
    drawn = moved(profile, factors)
    if profile.link and "link_bytes_per_s" not in factors:
        drawn = replace(drawn, link=profile.link.slower(np.exp(profile.link.error * rng.standard_normal(samples))))
    known = replace(pair, profile=drawn, round_overhead_factors=overhead)
    draft, verify = rng.standard_normal((2, 2, samples))
    return replace(known, draft_normals=draft, verify_normals=verify)
