"""The rounds of our own decoders as plans of drafts: the plan of each method, where they run what engines run.

Where they do not: a first pass of a draft model and of trees takes in what was committed and not read, as engines that
do not pad it to K + 1 tokens; a draft model reads its own last token in it where all were accepted; the prompt's last
state comes with the prompt; heads of Medusa draft no further than is left of an output, and without a draft none runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calibration.sources.methods import Rounds
from simulator.costs.drafters.methods import method_named
from simulator.costs.drafters.plan import (
    BLOCK_PASS,
    FIRST_PASS,
    DraftPlan,
    Ints,
    Tree,
    branched,
)
from simulator.costs.step import Floats
from simulator.costs.work import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafting:
    """What a plan is made of: the models' shapes, an arm's knobs, its rounds, and the host's seconds by levels."""

    target: ModelShape
    draft: ModelShape
    knobs: Mapping[str, Any]
    rounds: Rounds
    host: Callable[[Ints], Floats]

    @property
    def tree(self) -> Tree:
        """How trees branch."""
        return Tree(self.knobs["parallel_branches"], self.knobs["tree_budget"] + 1)


Builder = Callable[[Drafting], DraftPlan]


def before(values: Ints, first: int) -> Ints:
    """Return what the round before had, and of the first round what is stated."""
    return np.concatenate(([first], values[:-1]))


def draft_model(at: Drafting) -> DraftPlan:
    """A chain of a draft model."""
    drafted, accepted = at.rounds.drafted, at.rounds.accepted
    plan = method_named("draft_model").plan(at.draft, drafted)
    (step,) = plan.passes
    unread = 1 + before((accepted == drafted) & (drafted > 0), 0)
    first = step._replace(name=FIRST_PASS, rows=unread, times=np.minimum(drafted, 1))
    return replace(plan, passes=(first, step._replace(times=np.maximum(drafted - 1, 0))))


def eagle(at: Drafting) -> DraftPlan:
    """A chain of an EAGLE head, whose first pass takes in all that the round before verified, as engines pad it."""
    method = method_named("eagle")
    plan = method.plan(method.usual(at.target), at.rounds.drafted)
    first, step = plan.passes
    return replace(plan, passes=(first._replace(rows=before(at.rounds.drafted + 1, 0)), step))


def eagle_tree(at: Drafting) -> DraftPlan:
    """A tree of an EAGLE head, grown level by level; its deepest level may not have stayed."""
    method, drafted = method_named("eagle"), at.rounds.drafted
    depth = np.where(drafted > 0, at.rounds.passes + 1 - before(np.ones_like(drafted), 0), 0)
    plan = branched(method.plan(method.usual(at.target), depth), at.tree)
    first, *more = plan.passes
    passes = (first._replace(rows=before(at.rounds.accepted + 1, 0)), *more)
    return replace(plan, passes=passes, width=at.rounds.drafted + 1, host_s=at.host(depth))


def specexec(at: Drafting) -> DraftPlan:
    """A tree of a draft model, which reads its best nodes; those on the path that it has not read come first."""
    count = at.rounds.passes
    plan = branched(method_named("draft_model").plan(at.draft, count), at.tree)
    first, *more = plan.passes
    unread = 1 + before(np.minimum(at.rounds.accepted, 1), 0)
    first = first._replace(name=FIRST_PASS, rows=unread, times=np.minimum(count, 1))
    return replace(plan, passes=(first, *more), width=at.rounds.drafted + 1, host_s=at.host(count))


def medusa(at: Drafting) -> DraftPlan:
    """Heads on the target's last state, timed as the one pass that they are; levels of a tree, or tokens of a chain."""
    method, depth = method_named("medusa"), at.rounds.depth
    plan = method.plan(method.usual(at.target), depth)
    heads = plan.passes[0]._replace(name=BLOCK_PASS, head_rows=depth, times=np.minimum(depth, 1))
    return replace(plan, passes=(heads,), width=at.rounds.drafted + 1)


def look_up(at: Drafting) -> DraftPlan:
    """A search in the text, whatever it finds."""
    method, drafted = method_named("ngram"), at.rounds.drafted
    host_s = at.host(np.full_like(drafted, at.knobs["k"]))
    return replace(method.plan(method.usual(at.target), drafted), host_s=host_s)


PLANS: dict[str, Builder] = {
    "speculative": draft_model,
    "eagle": eagle,
    "eagle-tree": eagle_tree,
    "specexec": specexec,
    "medusa": medusa,
    "medusa-tree": medusa,
    **dict.fromkeys(("ngram", "anpd", "suffix", "prompt-lookup"), look_up),
}
