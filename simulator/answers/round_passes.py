"""The passes of a round on two models: what each computes, how many there are, and what their time goes to."""

from typing import NamedTuple

from simulator.costs.model_costs import ModelPair
from simulator.costs.parts import PassParts

PLAIN, VERIFY = "plain step", "verification"


class Pass(NamedTuple):
    """A pass of a round: tokens of a sequence that it computes, how many such a round takes, and seconds of one."""

    tokens: int
    times: int
    parts: PassParts

    @property
    def ms(self) -> float:
        """All of it."""
        return float(self.parts.total_s) * 1e3


def passes(pair: ModelPair, draft_length: int) -> dict[str, Pass]:
    """Return a plain step, the passes of a round's drafts, and verification, by name; scalars only."""
    plan, target = pair.plan(draft_length), pair.placed_target
    found = {PLAIN: Pass(1, 1, target.parts(pair.batch, 1, pair.context))}
    for of in plan.passes:
        parts = pair.placed_draft.pass_parts(of, pair.batch, pair.context)
        found |= {of.name: Pass(int(of.rows), int(of.times), parts)} if of.times else {}
    width = int(plan.width)
    return found | {VERIFY: Pass(width, 1, target.parts(pair.batch, width, pair.context))}
