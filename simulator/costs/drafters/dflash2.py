"""DFlash 2: DFlash with convolutions around each part of a layer, and a choice among the likeliest tokens by rank."""

from simulator.costs.config_json import MAX_SIZE
from simulator.costs.layers import Matrix
from simulator.costs.work import ModelShape
from simulator.ground.fields import Field

from .dflash import USUAL_LAYERS, block_size, ended, layers, plan, setting
from .heads import usual_head
from .plan import Engines, Method

# In published files.
USUAL = {"block_size": 8, "conv_kernel_size": 2, "conv_group_size": 16, "selector_rank": 256, "selector_top_k": 16}
# A convolution before attention and the feed-forward part, and one behind each.
PARTS, SIDES = 2, 2


def read(config: Field, outer: Field, architecture: str) -> ModelShape:
    """Return the shape; what is chosen among are rows of two tables."""
    keys = ("conv_kernel_size", "conv_group_size", "selector_rank", "selector_top_k")
    head, (taps, group, rank, chosen) = layers(config, outer), (setting(outer, k).whole(1, MAX_SIZE) for k in keys)
    for part in ("attention_conv", "mlp_conv"):
        head.matrix(head.hidden, {part: SIDES * taps * max(1, head.hidden // group)}, head.all)
    head.vectors += head.layers * PARTS * SIDES * taps * head.hidden
    head.matrices.append(Matrix(head.hidden, (("candidate_selector", rank),)))
    head.tables, head.row_size = 2 * head.vocabulary * rank, 2 * rank * chosen
    return ended(head, outer, "dflash2", architecture, block_size(outer, anchor_drafts=False))


def usual(target: ModelShape) -> ModelShape:
    """Return the drafter that is usually trained for a target."""
    own = {"num_hidden_layers": USUAL_LAYERS, "dflash_config": USUAL}
    return usual_head(target, "DFlash 2 drafter", METHOD.example, own)


METHOD = Method(
    name="dflash2",
    title="DFlash 2",
    architectures=("dflash2",),
    example="DFlash2DraftModel",
    rounds="one pass",
    reads="the same, pairs of tokens",
    plan=plan,
    read=read,
    usual=usual,
    branches=False,
    engines=Engines({"method": "dflash"}, "DFLASH"),
)
