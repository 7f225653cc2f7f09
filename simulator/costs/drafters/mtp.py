"""MTP (arXiv 2404.19737, 2412.19437): layers trained with the target, one pass a token, its embeddings and head."""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from simulator.costs.config_json import predictors
from simulator.costs.families import language_model
from simulator.costs.layers import HEAD, Attention, Drafting, Matrix
from simulator.costs.work import ModelShape
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field

from .plan import DRAFT_STEP, FIRST_PASS, DraftPass, DraftPlan, Engines, Ints, Method

# Joins the token's embedding and the state before it.
JOIN = "eh_proj"
# Families whose modules are dense as their first layer, though the last has experts.
DENSE = ("ernie4_5_moe",)
# What makes a family's only layer one that attends to all tokens, with experts.
LAST_LAYER = {"num_hidden_layers": 1, "first_k_dense_replace": 0, "full_attention_interval": 1, "layer_types": None}
LAST_LAYER |= {"mlp_layer_types": None}
ATTENTION, FED = "self_attn.", "mlp"
# Models after which vLLM called the method, before it was one.
CALLED = ("deepseek", "mimo", "glm4_moe", "ernie", "exaone_moe", "qwen3_next", "qwen3_5", "longcat_flash", "step3p5")


def read(config: Field, outer: Field, architecture: str) -> ModelShape:
    """Return the shape of modules in a file of their own, which has the sizes of the target's or theirs."""
    shape = language_model(config.but(**LAST_LAYER))
    count = predictors(outer) or predictors(config) or 1
    return modules(shape, count, architecture, outer["draft_vocab_size"].whole(1, shape.vocabulary, default=0))


def modules(target: ModelShape, count: int, architecture: str, words: int = 0) -> ModelShape:
    """Return modules built as the target's last layer that attends; words: of a head of their own, 0: the target's."""
    every, h = tuple(range(count)), target.hidden_size
    own = (*of_last(target, ATTENTION), *of_last(target, FED))
    joined = Matrix(2 * h, ((JOIN, h),), every)
    head = Matrix(h, ((HEAD, words or target.vocabulary),), is_borrowed=not words)
    return replace(
        target,
        layers=count,
        matrices=(joined, *(m._replace(layers=every) for m in own), head),
        # Norms of the layer, of both inputs and of the output.
        vectors=count * ((target.vectors - h) // max(1, target.layers) + 3 * h),
        attentions=tuple(a._replace(layers=count) for a in attending(target)),
        states=(),
        tables=0,
        row_size=0,
        tied_embeddings=True,
        predictors=0,
        drafting=Drafting("mtp", architecture, state_size=h, modules=count),
    )


def of_last(target: ModelShape, part: str) -> tuple[Matrix, ...]:
    """Return a part's matrices in the last layer that has it."""
    own = [m for m in target.matrices if m.layers and m.parts[0][0].startswith(part)]
    places = {i for m in own for i in m.layers}
    at = min(places, default=0) if target.family in DENSE else max(places, default=0)
    return tuple(m for m in own if at in m.layers)


def attending(target: ModelShape) -> tuple[Attention, ...]:
    """Return the kinds of attention of one layer: of all tokens, where a target has that."""
    whole = tuple(a for a in target.attentions if a.window is None and not a.fixed)
    return whole or target.attentions[-1:]


@lru_cache(maxsize=64)
def module(shape: ModelShape) -> ModelShape:
    """Return one of several modules."""
    matrices = tuple(m._replace(layers=m.layers[:1]) for m in shape.matrices)
    attentions = tuple(a._replace(layers=1) for a in shape.attentions)
    return replace(shape, layers=1, matrices=matrices, vectors=shape.vectors // shape.layers, attentions=attentions)


def plan(shape: ModelShape, draft_length: Ints) -> DraftPlan:
    """Return a pass a token; the first of each module takes in what was verified, as its KV cache keeps step."""
    k, count = np.asarray(draft_length, np.int64), shape.layers
    one, own = np.ones_like(k), module(shape) if count > 1 else shape
    first = np.clip(k, 1, count)
    taken_in = DraftPass(FIRST_PASS, own, k + 1, one, first)
    return DraftPlan(passes=(taken_in, DraftPass(DRAFT_STEP, own, one, one, np.maximum(k - first, 0))), width=k + 1)


def usual(target: ModelShape) -> ModelShape:
    """Return the modules of a target.

    Raises:
        UserError: It has none.
    """
    if not target.predictors:
        raise UserError(
            f"--method: mtp, but {target.name} has no module that predicts further tokens, "
            "expected another method, or --draft-model"
        )
    found = modules(target, target.predictors, METHOD.example)
    return replace(found, name=f"mtp of {target.name}", longest_context=None, assumed="", stated_name="")


METHOD = Method(
    name="mtp",
    title="MTP",
    also=("nextn", *(f"{family}_mtp" for family in CALLED)),
    architectures=("mtp", "nextn"),
    example="DeepSeekMTPModel",
    rounds="K passes",
    reads="the target's last state",
    is_within=True,
    engines=Engines({"method": "mtp"}, "NEXTN", "MTP", "draft-mtp", needs_model=False),
    plan=plan,
    read=read,
    usual=usual,
)
