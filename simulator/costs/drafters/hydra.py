"""Hydra (arXiv 2402.05109): Medusa's heads one after another, each reading the tokens of those before it too."""

from dataclasses import replace

import numpy as np

from simulator.costs.config_json import MAX_COUNT
from simulator.costs.layers import HEAD, Drafting, Matrix
from simulator.costs.work import ModelShape
from simulator.ground.fields import Field

from .heads import products, sizes_of
from .plan import DRAFT_STEP, DraftPass, DraftPlan, Ints, Method, bare

# Heads and layers of each, in published files.
USUAL_HEADS, USUAL_LAYERS = 4, 1
# A head's first layer takes its inputs twice: through the activation, and past it.
FIRST, INNER = "hydra_mlp.0", "hydra_mlp.1"


def read(config: Field, outer: Field, architecture: str) -> ModelShape:
    """Return the shape of all heads; those that do not read each other's tokens are Medusa's."""
    if not config["grounded_heads"].flag(True):
        config["grounded_heads"].refuse("true: others are Medusa's heads")
    hidden, words = sizes_of(config)
    count, layers = (config[f"hydra_num_{what}"].whole(1, MAX_COUNT) for what in ("heads", "layers"))
    return heads(hidden, words, count, layers, architecture)


def heads(hidden: int, words: int, count: int, layers: int, architecture: str) -> ModelShape:
    """Return the shape of heads: the i-th joins i + 1 vectors; further layers of one are the same weights again."""
    first = tuple(Matrix((i + 2) * hidden, ((FIRST, 2 * hidden),), (i,)) for i in range(count))
    inner = Matrix(hidden, ((INNER, hidden),), tuple(range(count)), used=layers - 1)
    more = (inner,) if layers > 1 else ()
    ended = (Matrix(hidden, ((HEAD, words),)),) * count
    drafting = Drafting("hydra", architecture, count, state_size=hidden)
    return replace(bare("hydra", hidden, words), layers=layers, matrices=(*first, *more, *ended), drafting=drafting)


def plan(shape: ModelShape, draft_length: Ints) -> DraftPlan:
    """Return a pass a head, and what the inputs of later heads add to it."""
    k, inputs = np.asarray(draft_length, np.int64), shape.hidden_size
    one = np.ones_like(k)
    first, inner, ended = shape.matrices[0], [m for m in shape.matrices if m.parts[0][0] == INNER], shape.matrices[-1]
    head = products(shape, first, *(m._replace(layers=(0,)) for m in inner), ended)
    wider = products(shape, first._replace(inputs=inputs))
    each = DraftPass(DRAFT_STEP, head, one, one, np.maximum(k, 1), launches=shape.layers + 1)
    more = DraftPass("later input", wider, one, one, k * (k - 1) // 2, launches=0, is_part=True)
    return DraftPlan(passes=(each, more), width=k + 1)


def usual(target: ModelShape) -> ModelShape:
    """Return the heads that are usually trained for a target."""
    shape = heads(target.hidden_size, target.vocabulary, USUAL_HEADS, USUAL_LAYERS, METHOD.example)
    said = f"{USUAL_HEADS} heads such as published ones have, as no --draft-model says others"
    return replace(shape, name="hydra heads", assumed=said)


METHOD = Method(
    name="hydra",
    title="Hydra",
    architectures=("hydra",),
    keys=("hydra_num_heads",),
    example="HydraModel",
    rounds="K passes",
    reads="the target's last state",
    plan=plan,
    read=read,
    usual=usual,
    is_stack=False,
)
