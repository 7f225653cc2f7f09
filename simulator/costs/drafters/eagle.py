"""EAGLE (arXiv 2401.15077): a layer on the target's last state and the token's embedding, one pass a token."""

from simulator.costs.layers import Drafting
from simulator.costs.work import ModelShape
from simulator.ground.fields import Field

from .heads import draft_vocabulary, head_of, usual_head
from .plan import DraftPlan, Engines, Ints, Method, chain


def read(config: Field, outer: Field, architecture: str) -> ModelShape:
    """Return the shape of a head; its output head is the target's, unless it has fewer words of its own.

    The joining matrix is read for every token.
    """
    head = head_of(config, outer, 2)
    words = draft_vocabulary(outer, head)
    return head.ended(Drafting("eagle", architecture), words, own=words < head.vocabulary)


def plan(shape: ModelShape, draft_length: Ints) -> DraftPlan:
    """Return the passes of a round."""
    return chain(shape, shape, draft_length)


METHOD = Method(
    name="eagle",
    title="EAGLE",
    also=("eagle2",),
    architectures=("eagle", "eagle1", "eagle2"),
    example="LlamaForCausalLMEagle",
    rounds="K passes",
    reads="the target's last state",
    plan=plan,
    read=read,
    usual=lambda target: usual_head(target, "EAGLE head", "LlamaForCausalLMEagle", {}),
    engines=Engines({"method": "eagle"}, "EAGLE"),
)
