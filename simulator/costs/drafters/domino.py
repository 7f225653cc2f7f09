"""Domino: DFlash's block, whose tokens get a bias by all before them in it, which a recurrent unit (GRU) sums up."""

from simulator.costs.config_json import MAX_SIZE
from simulator.costs.layers import Matrix
from simulator.costs.work import ModelShape
from simulator.ground.fields import Field

from .dflash import USUAL_BLOCK, USUAL_LAYERS, block_size, corrected, ended, layers, setting
from .heads import CORRECTOR, draft_vocabulary, usual_head
from .plan import DraftPlan, Engines, Ints, Method

# In published files.
USUAL_STATE, USUAL_RANK = 1024, 256
GATES = 3


def read(config: Field, outer: Field, architecture: str) -> ModelShape:
    """Return the shape; with shifted labels every place of the block gives a token."""
    head, is_shifted = layers(config, outer), setting(outer, "shift_label").flag(False)
    state, rank = (setting(outer, key).whole(1, MAX_SIZE) for key in ("gru_hidden_dim", "emb_dim"))
    joined, longest = head.hidden + state, block_size(outer, anchor_drafts=is_shifted)
    for inputs, part, outputs in (
        (joined, f"{CORRECTOR}.gru", GATES * state),
        (joined, f"{CORRECTOR}.down", rank),
        (rank, f"{CORRECTOR}.up", draft_vocabulary(outer, head)),
    ):
        head.matrices.append(Matrix(inputs, ((part, outputs),), used=0))
    return ended(head, outer, "domino", architecture, longest)


def plan(shape: ModelShape, draft_length: Ints) -> DraftPlan:
    """Return one pass over the last committed token and the places behind it, and the bias of each token."""
    return corrected(shape, draft_length + 1, draft_length, "token bias")


def usual(target: ModelShape) -> ModelShape:
    """Return the drafter that is usually trained for a target."""
    settings = {"projector_type": "domino", "gru_hidden_dim": USUAL_STATE, "emb_dim": USUAL_RANK}
    own = {"num_hidden_layers": USUAL_LAYERS, "block_size": USUAL_BLOCK, "dflash_config": settings}
    return usual_head(target, "Domino drafter", METHOD.example, own)


METHOD = Method(
    name="domino",
    title="Domino",
    architectures=("domino",),
    example="DominoDraftModel",
    rounds="one pass, then K products",
    reads="the same, all tokens before",
    plan=plan,
    read=read,
    usual=usual,
    branches=False,
    engines=Engines(sglang="DFLASH"),
)
