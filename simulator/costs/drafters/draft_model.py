"""A language model of its own drafts token by token (arXiv 2211.17192, 2302.01318)."""

from dataclasses import replace

import numpy as np

from simulator.costs.work import ModelShape
from simulator.ground.artefacts import UserError

from .plan import DRAFT_STEP, DraftPass, DraftPlan, Engines, Ints, Method

# Times that a draft is smaller than its target, at least, where none is named.
SMALLER = 8


def plan(shape: ModelShape, draft_length: Ints) -> DraftPlan:
    """Return a pass a token, all alike: what the first reads besides was committed, and adds little (model §2)."""
    k = np.asarray(draft_length, np.int64)
    one = np.ones_like(k)
    return DraftPlan(passes=(DraftPass(DRAFT_STEP, shape, one, one, np.maximum(k, 1)),), width=k + 1)


def usual(target: ModelShape) -> ModelShape:
    """Return the smallest model of the catalogue that shares the target's vocabulary, an eighth of it at most.

    Raises:
        UserError: There is none.
    """
    from simulator.costs.shapes import catalogue, read_shape

    shapes = (read_shape(name) for name in catalogue())
    alike = [s for s in shapes if (s.vocabulary, s.kind) == (target.vocabulary, target.kind)]
    fitting = [s for s in alike if SMALLER * s.parameters <= target.parameters]
    if not fitting:
        raise UserError(f"--method: no small model of {target.name}'s vocabulary is known, expected --draft-model too")
    found = min(fitting, key=lambda s: s.parameters)
    return replace(found, assumed="the smallest known model of the same vocabulary, as no --draft-model says another")


METHOD = Method(
    name="draft_model",
    title="draft model",
    also=("draft", "standalone"),
    example="as any other model",
    rounds="K passes",
    reads="tokens alone",
    plan=plan,
    usual=usual,
    waits=False,
    for_encoders=True,
    engines=Engines({"method": "draft_model"}, "STANDALONE", "Draft_Target", "draft-simple"),
)
