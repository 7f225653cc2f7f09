"""MLP speculators (arXiv 2404.19124) and Arctic's: a state that each drafted token moves on, a few products each."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from simulator.costs.config_json import MAX_COUNT, MAX_SIZE
from simulator.costs.layers import HEAD, Drafting, Matrix
from simulator.costs.work import ModelShape
from simulator.ground.fields import Field

from .heads import products, sizes_of
from .plan import DRAFT_STEP, FIRST_PASS, DraftPass, DraftPlan, Ints, Method, bare

# Tokens that published files predict, and the inner size for a target of less and of more than this size of states.
USUAL_TOKENS, USUAL_INNER, WIDER_INNER, WIDER_FROM = 4, 3072, 8192, 8192
ENTRY, STEP, LATER = "proj.0", "proj.1", "ln"
GATES = 4


def sizes(value: Field, default: int) -> list[int]:
    """Return the sizes of matrices in a row: a number, or numbers in a text, joined by points."""
    if isinstance(value.value, str):
        stated = [int(n) if n.isdecimal() else n for n in value.text().split(".")]
        return [replace(value, value=n).whole(1, MAX_SIZE) for n in stated]
    return [value.whole(0, MAX_SIZE, default=default) or default]


def row(name: str, inputs: int, outputs: list[int], at: tuple[int, ...]) -> Iterator[Matrix]:
    """Yield matrices that are multiplied one after another."""
    for i, out in enumerate(outputs):
        yield Matrix(inputs, ((f"{name}.{i}", out),), at)
        inputs = out


def read(config: Field, outer: Field, architecture: str) -> ModelShape:
    """Return the shape: a way in from the target's state, one from the state before, and a head, for each token."""
    words, tokens = config["vocab_size"].whole(1, MAX_SIZE), config["n_predict"].whole(1, MAX_COUNT)
    embedding = sizes(config["emb_dim"], 0) if config["emb_dim"].is_given else [sizes_of(config)[0]]
    state = config["input_hidden_dim"].whole(1, MAX_SIZE, default=embedding[0])
    is_arctic = config["input_hidden_dim"].is_given
    inner = sizes(config["inner_dim"], embedding[0])
    into = sizes(config["proj_dim"], inner[0]) if is_arctic else inner[:1]
    is_tied, tables = config["tie_weights"].flag(False), 1
    if config["method"].value == "sum_lstm":
        into = [GATES * into[0]]
        tables = 1 if config["tie_lstm_embs"].flag(False) else GATES
    own = embedding if is_arctic else inner[:1]
    return speculator(state, words, tokens, (own, into, inner), architecture, tables=tables, is_tied=is_tied)


def speculator(
    state: int,
    words: int,
    tokens: int,
    rows: tuple[list[int], list[int], list[int]],
    architecture: str,
    *,
    tables: int = 1,
    is_tied: bool = False,
) -> ModelShape:
    """Return the shape; rows: sizes of what an embedding, a state, and their sum go through, one after another."""
    embedding, into, inner = rows
    stages = (0,) if is_tied else tuple(range(tokens))
    later = (1,) if is_tied else tuple(range(1, tokens))
    matrices = [*row(ENTRY, state, into, (0,)), *(m for m in row(STEP, inner[-1], into, later) if later)]
    matrices += row(LATER, inner[0], inner[1:], stages)
    matrices += row("emb", embedding[0], embedding[1:], stages)
    matrices += [Matrix(inner[-1], ((HEAD, words),))] * len(stages)
    norms = len(stages) * 2 * sum(inner)
    table = len(stages) * tables * words * embedding[0]
    drafting = Drafting("mlp_speculator", architecture, tokens, state_size=state)
    found = replace(bare("mlp_speculator", state, words), layers=1, matrices=tuple(matrices), vectors=norms)
    return replace(found, tables=table, row_size=tables * embedding[0], drafting=drafting)


def plan(shape: ModelShape, draft_length: Ints) -> DraftPlan:
    """Return a pass a token; the first one's way in is from the target's state."""
    k = np.asarray(draft_length, np.int64)
    one, named = np.ones_like(k), {m.parts[0][0]: m for m in shape.matrices}
    shared = [m._replace(layers=m.layers[:1]) for name, m in named.items() if not name.startswith("proj.")]
    entry, step = (
        products(shape, *(m._replace(layers=(0,)) for name, m in named.items() if name.startswith(way)), *shared)
        for way in (ENTRY, STEP)
    )
    first = DraftPass(FIRST_PASS, entry, one, one, one, launches=len(entry.matrices))
    more = DraftPass(DRAFT_STEP, step, one, one, np.maximum(k - 1, 0), launches=len(step.matrices))
    return DraftPlan(passes=(first, more), width=k + 1)


def usual(target: ModelShape) -> ModelShape:
    """Return the speculator that is usually trained for a target."""
    inner = [WIDER_INNER if target.hidden_size >= WIDER_FROM else USUAL_INNER]
    rows = inner, inner, inner
    shape = speculator(target.hidden_size, target.vocabulary, USUAL_TOKENS, rows, METHOD.example)
    said = "sizes such as published ones have, as no --draft-model says others"
    return replace(shape, name="an MLP speculator", assumed=said)


METHOD = Method(
    name="mlp_speculator",
    title="MLP speculator",
    also=("arctic", "mlp"),
    architectures=("mlpspeculator", "lstmspeculator", "mlpvariantspeculator"),
    example="MLPSpeculatorPreTrainedModel",
    rounds="K passes",
    reads="the target's last state",
    plan=plan,
    read=read,
    usual=usual,
    is_stack=False,
)
