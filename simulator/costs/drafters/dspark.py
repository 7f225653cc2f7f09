"""DSpark: DFlash's block, whose tokens get a bias of low rank by the token before, one after another."""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from simulator.costs.config_json import MAX_SIZE
from simulator.costs.layers import Drafting, Matrix
from simulator.costs.work import ModelShape
from simulator.ground.fields import Field

from .dflash import USUAL_LAYERS, block_size, layers, own_settings
from .heads import usual_head, without
from .plan import DraftPass, DraftPlan, Engines, Ints, Method, block

# Of the bias, where the file does not say.
MARKOV_RANK = 256
MARKOV = "markov_head"
USUAL_BLOCK = 7


def read(config: Field, outer: Field, architecture: str) -> ModelShape:
    """Return the shape; every place of the block gives a token, the last committed one's too."""
    head, rank = layers(config, outer), own_settings(outer)["markov_rank"].whole(1, MAX_SIZE, default=MARKOV_RANK)
    head.matrices.append(Matrix(rank, ((MARKOV, head.vocabulary),), used=0))
    head.tables, head.row_size = head.vocabulary * rank, rank
    return head.ended(Drafting("dspark", architecture, block_size(outer)), head.vocabulary, own=False)


@lru_cache(maxsize=64)
def bias(shape: ModelShape) -> ModelShape:
    """Return what is read for the bias of a token alone."""
    matrix = next(m for m in shape.matrices if m.parts[0][0] == MARKOV)._replace(used=1)
    return replace(shape, matrices=(matrix,), layers=0, vectors=0, attentions=(), states=(), embedding_size=0)


def plan(shape: ModelShape, draft_length: Ints) -> DraftPlan:
    """Return one pass, and a product for each token."""
    one = np.ones_like(draft_length)
    following = DraftPass("token bias", bias(shape), one, one, draft_length, launches=1, is_part=True)
    return block(without(shape, MARKOV), np.maximum(draft_length, 1), draft_length, following)


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
    reads="the same, and the token before",
    plan=plan,
    read=read,
    usual=usual,
    engines=Engines({"method": "dspark"}, "DSPARK", llama_cpp="draft-dspark"),
)
