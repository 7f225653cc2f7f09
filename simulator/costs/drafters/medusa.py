"""Medusa (arXiv 2401.10774): heads on the target's last state, each of a place ahead, all in one pass."""

from dataclasses import replace

import numpy as np

from simulator.costs.config_json import MAX_COUNT
from simulator.costs.layers import HEAD, Drafting, Matrix
from simulator.costs.work import ModelShape
from simulator.ground.fields import Field

from .heads import first_given, products, sizes_of
from .plan import POSITION, DraftPass, DraftPlan, Engines, Ints, Method, bare

# Heads and residual blocks of each, in published files.
USUAL_HEADS, USUAL_BLOCKS = 5, 1
BLOCK = "resblock"


def read(config: Field, outer: Field, architecture: str) -> ModelShape:
    """Return the shape of all heads, of fewer words or with one output matrix where the file says so."""
    hidden, words = sizes_of(config)
    count = first_given(config, "medusa_num_heads", "num_heads").whole(1, MAX_COUNT)
    blocks = first_given(config, "medusa_num_layers", "num_hidden_layers").whole(0, MAX_COUNT, default=USUAL_BLOCKS)
    own = 1 if config["original_lm_head"].flag(False) else count
    biases = count * blocks * hidden * config["medusa_fc_bias"].flag(False)
    ended = Matrix(hidden, ((HEAD, config["truncated_vocab_size"].whole(1, words, default=words)),))
    shape = heads(hidden, words, count, blocks, (ended,) * own, architecture)
    return replace(shape, vectors=biases)


def heads(hidden: int, words: int, count: int, blocks: int, ended: tuple[Matrix, ...], architecture: str) -> ModelShape:
    """Return the shape of heads, each of some residual blocks, and their output matrices."""
    block = (Matrix(hidden, ((BLOCK, hidden),), tuple(range(count * blocks))),) if blocks else ()
    drafting = Drafting("medusa", architecture, count, state_size=hidden)
    return replace(bare("medusa", hidden, words), layers=blocks, matrices=(*block, *ended), drafting=drafting)


def plan(shape: ModelShape, draft_length: Ints) -> DraftPlan:
    """Return one pass, to which each head but the first adds its kernels."""
    k, ended = np.asarray(draft_length, np.int64), shape.matrices[-1]
    one = np.ones_like(k)
    blocks = tuple(m._replace(layers=tuple(range(shape.layers))) for m in shape.matrices if m.parts[0][0] == BLOCK)
    head, kernels = products(shape, *blocks, ended), shape.layers + 1
    first = DraftPass("first head", head, one, one, one, launches=kernels)
    more = DraftPass("further head", head, one, one, np.maximum(k - 1, 0), launches=kernels, is_part=True)
    return DraftPlan(passes=(first, more), width=k + 1, accepts=POSITION)


def usual(target: ModelShape) -> ModelShape:
    """Return the heads that are usually trained for a target."""
    words = target.vocabulary
    ended = (Matrix(target.hidden_size, ((HEAD, words),)),) * USUAL_HEADS
    shape = heads(target.hidden_size, words, USUAL_HEADS, USUAL_BLOCKS, ended, METHOD.example)
    said = f"{USUAL_HEADS} heads such as published ones have, as no --draft-model says others"
    return replace(shape, name="medusa heads", assumed=said)


METHOD = Method(
    name="medusa",
    title="Medusa",
    architectures=("medusa",),
    keys=("medusa_num_heads",),
    example="MedusaModel",
    rounds="one pass",
    reads="the target's last state",
    plan=plan,
    read=read,
    usual=usual,
    is_stack=False,
    engines=Engines({"method": "medusa"}, trtllm="Medusa"),
)
