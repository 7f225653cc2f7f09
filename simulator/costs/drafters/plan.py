"""What one round of any method of speculation runs: its passes, and how wide verification is; NumPy alone."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.costs.step import Floats
from simulator.costs.work import ModelShape
from simulator.ground.artefacts import UserError
from simulator.ground.limits import MAX_DRAFT_LENGTH

if TYPE_CHECKING:
    from simulator.ground.fields import Field

Ints = NDArray[np.int64]

# What the acceptance of a method is indexed by.
DEPTH, LENGTH, CHILD, POSITION = "depth", "draft length", "depth and child", "position in the block"
DRAFT_STEP, FIRST_PASS, BLOCK_PASS, BRANCHED = "draft step", "first draft", "draft block", "branched draft"


class DraftPass(NamedTuple):
    """A pass of a drafter over the device's sequences.

    shape: the layers and matrices that it reads, whose attention says what it reads and writes of the KV cache. rows:
    tokens of a sequence through the layers; head_rows: of them through the output head; times: how many such passes a
    round takes, one after another; all broadcast with draft lengths. launches: kernels, None: as many a layer as the
    profile says. is_part: it lies within the pass before it, and costs its kernels alone.
    """

    name: str
    shape: ModelShape
    rows: Ints
    head_rows: Ints
    times: Ints
    launches: int | None = None
    is_part: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftPlan:
    """A round of drafts: its passes in order, and the tokens of a sequence that verification computes.

    width: the last committed token, and every drafted one. accepts: what acceptance is indexed by. host_s: seconds of a
    sequence on the processor of the host. varies: whether a round drafts, and verifies, no more than it finds.
    """

    passes: tuple[DraftPass, ...]
    width: Ints
    accepts: str = DEPTH
    host_s: Floats | float = 0.0
    varies: bool = False


class Engines(NamedTuple):
    """What engines call a method; empty where one has none of it.

    vllm: the keys of its `speculative_config` that tell it. sglang: `--speculative-algorithm`. trtllm: `decoding_type`.
    llama_cpp: `--spec-type`. needs_model: whether the drafter is a checkpoint of its own.
    """

    vllm: Mapping[str, str | bool] = MappingProxyType({})
    sglang: str = ""
    trtllm: str = ""
    llama_cpp: str = ""
    needs_model: bool = True


NAMELESS = Engines()


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method of speculation, as its file describes it.

    name: as engines call it, and `--method`; also: other names of it. architectures: parts of the names of those that
    draft so, and keys that only their files have. example: an architecture of its files. rounds, reads: for people.
    plan: of a drafter at draft lengths. read: the shape of a drafter from its own file, filled, and from what is
    around it; is_stack: its file is of layers as models have them. usual: the drafter that a target has, or usually
    gets, where none is named. waits: whether drafts need the target's states. branches: whether engines grow trees of
    its drafts: what is found in a text is one continuation of it, and blocks come as chains. is_within: its weights
    come with the target's, and are stored as those are. is_weightless: no weights draft in it. for_encoders: whether it
    drafts for targets with an encoder, too. engines: what they call it.
    """

    name: str
    title: str
    rounds: str
    reads: str
    plan: Callable[[ModelShape, Ints], DraftPlan]
    usual: Callable[[ModelShape], ModelShape]
    also: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    example: str = ""
    read: "Callable[[Field, Field, str], ModelShape] | None" = None
    is_stack: bool = True
    waits: bool = True
    branches: bool = True
    is_within: bool = False
    is_weightless: bool = False
    for_encoders: bool = False
    engines: Engines = NAMELESS

    @property
    def is_block(self) -> bool:
        """Whether one pass drafts all tokens, of which there are no more than it was trained for."""
        return self.rounds.startswith("one pass")


class Tree(NamedTuple):
    """Drafts that branch: topk children of each of topk nodes a step; nodes: those verified, the root among them.

    levels: of a static tree, the children of every node by level; () where a tree grows as drafts are sure.
    """

    topk: int
    nodes: int
    levels: tuple[int, ...] = ()

    @property
    def sizes(self) -> Ints:
        """Nodes of each level of a static tree."""
        return np.cumprod(self.levels)


def bare(name: str, hidden_size: int, vocabulary: int) -> ModelShape:
    """Return a shape without layers and matrices: what drafts without weights, or has none but those that follow."""
    return ModelShape(
        name=name,
        family=name,
        layers=0,
        hidden_size=hidden_size,
        heads=0,
        vocabulary=vocabulary,
        tied_embeddings=True,
        embedding_size=0,
        matrices=(),
        vectors=0,
    )


def without_weights(name: str, plan: Callable[[ModelShape, Ints], DraftPlan], engines: Engines, **more: Any) -> Method:
    """Return a method that no weights draft in."""
    return Method(
        name=name,
        plan=plan,
        usual=lambda target: bare(name, target.hidden_size, target.vocabulary),
        waits=False,
        branches=False,
        is_weightless=True,
        example="no file",
        engines=engines._replace(needs_model=False),
        **more,
    )


def longest_of(draft: ModelShape) -> int | None:
    """Return the longest draft that a drafter makes in one go, by its block, heads or modules; None: any."""
    drafting = draft.drafting
    turns = drafting.modules if drafting and drafting.modules > 1 else None
    return drafting.longest or turns if drafting else None


def usual_length(draft: ModelShape, default: int) -> int:
    """Return the draft length where nobody says one: of the drafter's file, else a default, as far as it goes."""
    drafting = draft.drafting
    return min(drafting.usual or default if drafting else default, longest_of(draft) or MAX_DRAFT_LENGTH)


def check_lengths(draft: ModelShape, draft_lengths: Iterable[int]) -> None:
    """Refuse drafts longer than the drafter makes; modules that take turns do so in whole turns, as in vLLM."""
    drafting = draft.drafting
    longest, turns = (drafting.longest, drafting.modules) if drafting else (None, 1)
    for k in draft_lengths:
        if longest is not None and k > longest:
            raise UserError(f"--draftN: {k} is above {longest}, a block of {draft.name}, expected 1 to {longest}")
        if k > turns > 1 and k % turns:
            allowed = f"expected 1 to {turns}, or a multiple of {turns}"
            raise UserError(f"--draftN: {k} is above the {turns} modules of {draft.name}, {allowed}")


def chain(first: ModelShape, further: ModelShape, draft_length: ArrayLike) -> DraftPlan:
    """Return a chain: a first pass that takes in all that was just verified, and a token a pass behind it.

    Engines pad that pass to K + 1 tokens, and run it even where no token is wanted: the drafter's KV cache keeps step.
    """
    k = np.asarray(draft_length, np.int64)
    one = np.ones_like(k)
    taken_in = DraftPass(FIRST_PASS, first, k + 1, one, one)
    return DraftPlan(passes=(taken_in, DraftPass(DRAFT_STEP, further, one, one, np.maximum(k - 1, 0))), width=k + 1)


def block(shape: ModelShape, rows: Ints, draft_length: ArrayLike, *more: DraftPass) -> DraftPlan:
    """Return one pass for all tokens of a round, and what follows it."""
    k = np.asarray(draft_length, np.int64)
    whole = DraftPass(BLOCK_PASS, shape, rows, np.maximum(k, 1), np.ones_like(k))
    return DraftPlan(passes=(whole, *more), width=k + 1, accepts=POSITION)


def branched(plan: DraftPlan, tree: Tree) -> DraftPlan:
    """Return the plan of a tree: all passes but the first take topk tokens, and its nodes are verified.

    Of few levels there are fewer: topk at the first, and as many of each of topk nodes at the others. Where no token
    waits for another of its block, the same passes give all of them.
    """
    if tree.levels:
        return static(plan, tree)
    is_block = plan.accepts == POSITION
    passes = list(plan.passes) if is_block else []
    for number, p in enumerate(() if is_block else plan.passes):
        one = np.minimum(p.times, 1)
        first, times = (p._replace(name=FIRST_PASS, times=one), p.times - one) if number == 0 else (None, p.times)
        passes += [first] if first else []
        # What was just verified does not branch.
        rows, name = p.rows + tree.topk - 1, BRANCHED if first and p.name == FIRST_PASS else p.name
        wide = p._replace(name=name, rows=rows, head_rows=p.head_rows * tree.topk, times=times)
        passes += [wide] if np.any(times) else []
    width = np.minimum(tree.nodes, 1 + tree.topk + np.maximum(plan.width - 2, 0) * tree.topk**2)
    return DraftPlan(passes=tuple(passes), width=width, accepts=CHILD, host_s=plan.host_s)


def static(plan: DraftPlan, tree: Tree) -> DraftPlan:
    """Return the plan of a static tree: a pass for each level over the nodes of the one before; all are verified."""
    steps, first = plan.width - 1, plan.passes[0]._replace(name=FIRST_PASS, times=np.minimum(plan.passes[0].times, 1))
    one, passes = plan.passes[-1], [first]
    for level, size in enumerate(tree.sizes[:-1].tolist(), 1):
        times = (steps > level).astype(np.int64)
        # What was just verified does not branch.
        passes.append(
            one._replace(
                name=f"level {level + 1}", rows=0 * one.rows + size, head_rows=0 * one.rows + size, times=times
            )
        )
    width = np.concatenate(([1], 1 + np.cumsum(tree.sizes)))[np.minimum(steps, len(tree.levels))]
    return DraftPlan(passes=tuple(passes), width=width, accepts=CHILD, host_s=plan.host_s)
