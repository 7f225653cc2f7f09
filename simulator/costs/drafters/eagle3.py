"""EAGLE-3 and 3.1 (arXiv 2503.01840): a layer on states of several layers of the target, one pass a token."""

from simulator.costs.layers import Drafting
from simulator.costs.work import ModelShape
from simulator.ground.fields import Field

from . import peagle
from .heads import JOIN, STATES_READ, USUAL_WORDS, draft_vocabulary, states_head, usual_head, without
from .plan import DraftPlan, Engines, Ints, Method, chain


def read(config: Field, outer: Field, architecture: str) -> ModelShape:
    """Return the shape of a head; its first layer reads the token's embedding beside the states."""
    if outer["parallel_drafting"].flag(False):
        return peagle.read(config, outer, architecture)
    head = states_head(config, outer)
    head.widen()
    return head.ended(Drafting("eagle3", architecture), draft_vocabulary(outer, head), own=True)


def plan(shape: ModelShape, draft_length: Ints) -> DraftPlan:
    """Return the passes of a round: the target's states are joined in the first alone."""
    return chain(shape, without(shape, JOIN), draft_length)


def usual(target: ModelShape) -> ModelShape:
    """Return the head that is usually trained for a target: one dense layer, a vocabulary of frequent words."""
    words = min(USUAL_WORDS, target.vocabulary)
    return usual_head(target, "EAGLE-3 head", METHOD.example, {"draft_vocab_size": words})


METHOD = Method(
    name="eagle3",
    title="EAGLE-3",
    also=("eagle3.1",),
    architectures=("eagle3", "eagle3.1", "eagle31"),
    keys=("draft_vocab_size", "target_hidden_size", "eagle_config", "eagle_aux_hidden_state_layer_ids"),
    example="LlamaForCausalLMEagle3",
    rounds="K passes",
    reads=f"states of {STATES_READ} target layers",
    plan=plan,
    read=read,
    usual=usual,
    engines=Engines({"method": "eagle3"}, "EAGLE3", "Eagle3", "draft-eagle3"),
)
