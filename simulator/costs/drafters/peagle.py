"""P-EAGLE: an EAGLE-3 head of a few layers that drafts all tokens of a round in one pass."""

import numpy as np

from simulator.costs.layers import Drafting
from simulator.costs.work import ModelShape
from simulator.ground.fields import Field

from .heads import STATES_READ, USUAL_WORDS, draft_vocabulary, states_head, usual_head
from .plan import DraftPlan, Engines, Ints, Method, block

# Layers of such heads in published files.
USUAL_LAYERS = 4


def read(config: Field, outer: Field, architecture: str) -> ModelShape:
    """Return the shape of a head."""
    head = states_head(config, outer)
    head.widen()
    return head.ended(Drafting("peagle", architecture), draft_vocabulary(outer, head), own=True)


def plan(shape: ModelShape, draft_length: Ints) -> DraftPlan:
    """Return one pass: what was just accepted, which engines pad, and a place for each token but the first."""
    return block(shape, np.maximum(2 * draft_length, 1), draft_length)


def usual(target: ModelShape) -> ModelShape:
    """Return the head that is usually trained for a target."""
    own = {"num_hidden_layers": USUAL_LAYERS, "draft_vocab_size": min(USUAL_WORDS, target.vocabulary)}
    return usual_head(target, "P-EAGLE head", METHOD.example, own)


METHOD = Method(
    name="peagle",
    title="P-EAGLE",
    also=("p-eagle", "p_eagle"),
    architectures=("peagle", "peagle3"),
    example="PEagleDraftModel",
    rounds="one pass",
    reads=f"states of {STATES_READ} target layers",
    plan=plan,
    read=read,
    usual=usual,
    branches=False,
    engines=Engines({"method": "eagle3", "parallel_drafting": True}),
)
