"""DFlash (arXiv 2602.06036): a few layers on states of the target draft a block in one pass, tokens apart."""

from dataclasses import replace

import numpy as np

from simulator.costs.config_json import MAX_SIZE
from simulator.costs.layers import Drafting
from simulator.costs.work import ModelShape
from simulator.ground.fields import Field

from .heads import CORRECTOR, Head, corrector, draft_vocabulary, head_of, layer_ids, usual_head, without
from .plan import DEPTH, DraftPass, DraftPlan, Engines, Ints, Method, block

# Layers of such a drafter and places of its block, in published files.
USUAL_LAYERS, USUAL_BLOCK = 5, 16
# Parts of a file about the method, and what lists the layers whose states it reads.
PARTS = ("dflash_config", "dspark_config", "eagle_config")
LISTED = ("target_layer_ids", "dspark_target_layer_ids", "aux_hidden_state_layer_ids")


def setting(outer: Field, *keys: str) -> Field:
    """Return what a file says of the method by the first of some keys: in a part of its own, or outermost."""
    parts = [outer[part] for part in PARTS if outer[part].is_given]
    return next((p[key] for key in keys for p in (*parts, outer) if p[key].is_given), outer[keys[-1]])


def layers(config: Field, outer: Field) -> Head:
    """Return the layers, which read as many states as the file lists, or as there are layers."""
    if outer["moe_preset"].is_given:
        outer["moe_preset"].refuse("none: experts in such a drafter are not read")
    listed = setting(outer, *LISTED)
    ids = layer_ids(listed) if listed.is_given else ()
    if listed.is_given and not ids:
        listed.refuse("at least one layer of the target")
    head = head_of(config, outer, len(ids) or config["num_hidden_layers"].whole(1, MAX_SIZE))
    head.deepest = max(ids, default=0)
    return head


def block_size(outer: Field, *, anchor_drafts: bool) -> int:
    """Return the tokens of a block; whether the last committed one's place gives one too is its method's, or said."""
    places = setting(outer, "dspark_block_size", "block_size").whole(2, 10_000)
    return places - (not setting(outer, "sample_from_anchor").flag(anchor_drafts))


def ended(head: Head, outer: Field, method: str, architecture: str, longest: int) -> ModelShape:
    """Return the shape of a block's layers: the output head is the target's, or its own of fewer words."""
    words = draft_vocabulary(outer, head)
    return head.ended(Drafting(method, architecture, longest), words, own=words < head.vocabulary)


def corrected(shape: ModelShape, rows: Ints, draft_length: Ints, name: str) -> DraftPlan:
    """Return one pass, and the products that correct its tokens one after another."""
    one, each = np.ones_like(draft_length), corrector(shape)
    following = DraftPass(name, each, one, one, draft_length, launches=len(each.matrices), is_part=True)
    return replace(block(without(shape, CORRECTOR), rows, draft_length, following), accepts=DEPTH)


def read(config: Field, outer: Field, architecture: str) -> ModelShape:
    """Return the shape; one place of the block is the last committed token's, the output head is the target's."""
    return ended(layers(config, outer), outer, "dflash", architecture, block_size(outer, anchor_drafts=False))


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
    branches=False,
    engines=Engines({"method": "dflash"}, "DFLASH", "DFlash", "draft-dflash"),
)
