"""DFlash (arXiv 2602.06036): a few layers on states of the target draft a block in one pass, tokens apart."""

import numpy as np

from simulator.costs.config_json import MAX_SIZE
from simulator.costs.layers import Drafting
from simulator.costs.work import ModelShape
from simulator.ground.fields import Field

from .heads import CORRECTOR, Head, corrector, draft_vocabulary, head_of, usual_head, without
from .plan import DraftPass, DraftPlan, Engines, Ints, Method, block

# Layers of such a drafter and places of its block, in published files.
USUAL_LAYERS, USUAL_BLOCK = 5, 16


def own_settings(outer: Field) -> Field:
    """Return what a file says of the method: a part of its own, or the file."""
    return outer["dflash_config"] if outer["dflash_config"].is_given else outer


def layers(config: Field, outer: Field) -> Head:
    """Return the layers, which read as many states as the file lists, or as there are layers."""
    listed = own_settings(outer)["target_layer_ids"]
    states = len(listed.elements()) if listed.is_given else config["num_hidden_layers"].whole(1, MAX_SIZE)
    return head_of(config, outer, states)


def block_size(outer: Field) -> int:
    """Return the places of a block."""
    own = own_settings(outer)["block_size"]
    return (own if own.is_given else outer["block_size"]).whole(2, 10_000)


def ended(head: Head, outer: Field, method: str, architecture: str, longest: int) -> ModelShape:
    """Return the shape of a block's layers: the output head is the target's, or some of its rows."""
    return head.ended(Drafting(method, architecture, longest), draft_vocabulary(outer, head), own=False)


def corrected(shape: ModelShape, rows: Ints, draft_length: Ints, name: str) -> DraftPlan:
    """Return one pass, and the products that correct its tokens one after another."""
    one, each = np.ones_like(draft_length), corrector(shape)
    following = DraftPass(name, each, one, one, draft_length, launches=len(each.matrices), is_part=True)
    return block(without(shape, CORRECTOR), rows, draft_length, following)


def read(config: Field, outer: Field, architecture: str) -> ModelShape:
    """Return the shape; one place of the block is the last committed token's, the output head is the target's."""
    return ended(layers(config, outer), outer, "dflash", architecture, block_size(outer) - 1)


def plan(shape: ModelShape, draft_length: Ints) -> DraftPlan:
    """Return one pass over the last committed token and a place for each drafted one."""
    return block(shape, draft_length + 1, draft_length)


def usual(target: ModelShape) -> ModelShape:
    """Return the drafter that is usually trained for a target."""
    own = {"num_hidden_layers": USUAL_LAYERS, "block_size": USUAL_BLOCK}
    return usual_head(target, "DFlash drafter", METHOD.example, own)


METHOD = Method(
    name="dflash",
    title="DFlash",
    architectures=("dflash",),
    keys=("dflash_config",),
    example="DFlashDraftModel",
    rounds="one pass",
    reads="states that its file lists",
    plan=plan,
    read=read,
    usual=usual,
    engines=Engines({"method": "dflash"}, "DFLASH", "DFlash", "draft-dflash"),
)
