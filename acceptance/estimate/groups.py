"""What single categories of prompts, and single ranges of context, accept: the histograms of their rounds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acceptance.trace.trace import Trace
from simulator.ground.artefacts import UserError

from .estimators import Estimate, RoundCounts, alpha_by, bins_of, expected_rounds, metrics

CATEGORY, CONTEXT = "category", "context"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Positions of one kind. rounds, metrics: by draft length, of the rounds that start there; alpha: of a token."""

    name: str
    prompts: int
    tokens: int
    alpha: Estimate
    rounds: Mapping[int, RoundCounts]
    metrics: Mapping[int, dict[str, Any]]


def places(trace: Trace, by: str) -> dict[str, NDArray[np.bool_]]:
    """Return which positions are of each category, or of each range of tokens before them, doubling; by name.

    Raises:
        UserError: No prompt has a category.
    """
    if by == CATEGORY:
        category = trace.category
        named = {str(name): category == name for name in np.unique(category[category != ""])}
        if not named:
            raise UserError("--by: category, but no prompt of this trace has one, expected context")
        return named
    edges = bins_of(trace.context_length)
    used = np.unique(edges).tolist()
    last = int(trace.context_length.max(initial=0))
    ends = [*(edge - 1 for edge in used[1:]), max(last, used[-1])]
    return {f"{low}-{high}": edges == low for low, high in zip(used, ends, strict=True)}


def groups_of(trace: Trace, by: str, draft_lengths: tuple[int, ...], q_kind: str, seed: int = 0) -> tuple[Group, ...]:
    """Return what each group accepts, of draft lengths that some of its rounds could draft."""
    found = []
    for name, inside in places(trace, by).items():
        alpha = alpha_by(np.where(inside, 1, 0), trace, q_kind, np.random.default_rng(seed))[1][0]
        counted = {k: expected_rounds(trace, k, q_kind, inside=inside) for k in draft_lengths}
        rounds = {k: with_rounds(r) for k, r in counted.items() if r.counts.sum() > 0}
        found.append(
            Group(
                name=name,
                prompts=len(np.unique(trace.prompt[inside])),
                tokens=int(inside.sum()),
                alpha=alpha,
                rounds=rounds,
                metrics={k: metrics(r, alpha, seed) for k, r in rounds.items()},
            )
        )
    return tuple(found)


def with_rounds(rounds: RoundCounts) -> RoundCounts:
    """Return the counts of the prompts that have any: others are no units of this group."""
    there = (rounds.counts.sum(1) > 0) | (rounds.cut > 0)
    return RoundCounts(counts=rounds.counts[there], cut=rounds.cut[there])


def folder_name(name: str) -> str:
    """Return a name that a folder can have: letters, digits and marks that no shell reads."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")[:100] or "other"
