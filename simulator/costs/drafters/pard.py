"""PARD (arXiv 2504.18583): a language model that was taught to draft all tokens of a round in one pass."""

from dataclasses import replace

import numpy as np

from simulator.costs.families import language_model
from simulator.costs.layers import Drafting
from simulator.costs.work import ModelShape
from simulator.ground.fields import Field

from . import draft_model
from .plan import DraftPlan, Engines, Ints, Method, block


def read(config: Field, outer: Field, architecture: str) -> ModelShape:
    """Return the shape of the language model that it is."""
    return replace(language_model(config), drafting=Drafting("pard", architecture, reads_states=False))


def plan(shape: ModelShape, draft_length: Ints) -> DraftPlan:
    """Return one pass: what was just accepted, which engines pad, and a place for each token but the first."""
    return block(shape, np.maximum(2 * draft_length, 1), draft_length)


def usual(target: ModelShape) -> ModelShape:
    """Return the model that would draft token by token, taught to draft in parallel."""
    return replace(draft_model.usual(target), drafting=Drafting("pard", METHOD.example, reads_states=False))


METHOD = Method(
    name="pard",
    title="PARD",
    also=("pard2",),
    keys=("pard_token",),
    example="a model with pard_token",
    rounds="one pass",
    reads="tokens alone",
    plan=plan,
    usual=usual,
    read=read,
    waits=False,
    branches=False,
    engines=Engines({"method": "draft_model", "parallel_drafting": True}, trtllm="PARD"),
)
