"""Rounds of published rows that a profile prices, from the models' sizes alone: nothing is fitted (model §2)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calibration.published.cases import Case, Pair, Row
from simulator.costs.drafters import draft_model
from simulator.costs.drafters.methods import method_named, methods
from simulator.costs.drafters.plan import Tree
from simulator.costs.model_costs import ModelPair
from simulator.costs.profile import Profile
from simulator.costs.profile_file import load_profile
from simulator.costs.shapes import read_shape
from simulator.costs.step import RoundCost

Floats = NDArray[np.float64]


def priced_s(case: Case, rows: Sequence[Row]) -> tuple[Floats, Floats]:
    """Return the seconds of a round of each row, and of a plain step, [rows] each.

    Raises:
        UserError: The profile or a model is not found, or they do not go together.
    """
    assert case.profile is not None
    profile = load_profile(case.profile)
    costs: dict[tuple[Pair, int, tuple[int, int] | None], RoundCost] = {}
    found = []
    for row in rows:
        key = (placed(case.pairs[row.group], row), row.draft_length or 0, row.tree)
        if key not in costs:
            costs[key] = pair_of(profile, key[0], row.tree).round_cost(max(key[1], 1))
        found.append((row.is_plain, costs[key]))
    rounds_s = [float(cost.baseline_s if is_plain else cost.after_miss_s) for is_plain, cost in found]
    return np.array(rounds_s), np.array([float(cost.baseline_s) for _, cost in found])


def placed(pair: Pair, row: Row) -> Pair:
    """Return a pair as a row says that it ran."""
    batch = row.batch or row.concurrency or pair.batch
    context = pair.context if row.context is None else row.context
    return pair._replace(batch=batch, context=context, devices=row.tp or pair.devices)


def pair_of(profile: Profile, pair: Pair, tree: tuple[int, int] | None) -> ModelPair:
    """Return two models at work, in the formats that their files state."""
    target = read_shape(pair.target_model)
    if pair.draft_model in methods():
        method = method_named(pair.draft_model)
        draft = method.usual(target)
    else:
        draft = read_shape(pair.draft_model)
        method = method_named(draft.drafting.method) if draft.drafting else draft_model.METHOD
    return ModelPair(
        profile=profile,
        target=target,
        draft=draft,
        dtype=target.storage or "bfloat16",
        draft_dtype=pair.draft_dtype or draft.storage or "bfloat16",
        batch=pair.batch,
        context=pair.context,
        method=method,
        tree=Tree(*tree) if tree else None,
        devices=pair.devices,
        round_overhead_s=profile.round_overhead_s,
    )
