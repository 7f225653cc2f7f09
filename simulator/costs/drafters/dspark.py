"""DSpark: DFlash's block, whose tokens get a bias of low rank by the token before, one after another."""

import numpy as np

from simulator.costs.config_json import MAX_SIZE
from simulator.costs.layers import Matrix
from simulator.costs.work import ModelShape
from simulator.ground.fields import Field

from .dflash import USUAL_LAYERS, block_size, corrected, ended, layers, setting
from .heads import CORRECTOR, draft_vocabulary, usual_head
from .plan import DraftPlan, Engines, Ints, Method

# Of the bias, where the file does not say.
MARKOV_RANK = 256
USUAL_BLOCK = 7


def read(config: Field, outer: Field, architecture: str) -> ModelShape:
    """Return the shape; every place of the block gives a token, the last committed one's too."""
    head, rank = layers(config, outer), setting(outer, "markov_rank").whole(1, MAX_SIZE, default=MARKOV_RANK)
    # What the bias is gated by, or the state that it comes from: inputs and outputs.
    kinds = {"vanilla": (), "gated": (head.hidden + rank, rank), "rnn": (head.hidden + 2 * rank, 3 * rank)}
    kind = setting(outer, "markov_head_type")
    sizes = kinds[kind.choice(tuple(kinds)) if kind.is_given else "vanilla"]
    head.matrices += [Matrix(sizes[0], ((f"{CORRECTOR}.gate", sizes[1]),), used=0)] if sizes else []
    head.matrices.append(Matrix(rank, ((CORRECTOR, draft_vocabulary(outer, head)),), used=0))
    head.tables, head.row_size = head.vocabulary * rank, rank
    return ended(head, outer, "dspark", architecture, block_size(outer, anchor_drafts=True))


def plan(shape: ModelShape, draft_length: Ints) -> DraftPlan:
    """Return one pass, and a product for each token."""
    return corrected(shape, np.maximum(draft_length, 1), draft_length, "token bias")


def usual(target: ModelShape) -> ModelShape:
    """Return the drafter that is usually trained for a target."""
    own = {"num_hidden_layers": USUAL_LAYERS, "block_size": USUAL_BLOCK}
    return usual_head(target, "DSpark drafter", METHOD.example, own)


METHOD = Method(
    name="dspark",
    title="DSpark",
    architectures=("dspark",),
    example="DSparkDraftModel",
    rounds="one pass, then K products",
    reads="the same, the token before",
    plan=plan,
    read=read,
    usual=usual,
    branches=False,
    engines=Engines({"method": "dspark"}, "DSPARK", llama_cpp="draft-dspark"),
)
