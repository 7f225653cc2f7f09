"""Medusa (Cai et al. 2024, arXiv 2401.10774): heads on the target's last hidden state draft all tokens in one pass.

As a chain: every head's first choice, or a token drawn from its law. As a tree: a fixed shape of ranks, its tokens the
heads' own. The heads do not see each other's choices.
"""

import heapq
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from acceptance.models import laws
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from simulator.ground.artefacts import UserError

from . import heads
from .batch import Batch, Floats, Ints
from .chain import Proposal, Verdict, drawn_from
from .method import Begin, Method, Models, Options, chains
from .tree import Tree, TreeDecoder, Walk, check_tree


class MedusaDraft:
    """Proposes chains."""

    def __init__(self, target: Model, module: heads.Medusa, rule: SamplingRule, *, keep_logits: bool = False) -> None:
        """Take heads of this target, and what they sample from. keep_logits: hand on logits in place of laws."""
        self.module, self.rule, self.voice = module, rule, heads.Voice(target, module)
        self.keep_logits = keep_logits

    def start(self, batch: Batch, prompts: Sequence[Sequence[int]]) -> None:
        """Note the target's hidden state at the last token that it has read; a prompt of one token has none yet."""
        self.known = batch.lengths > 1
        self.hidden = heads.hidden_of_prompts(batch)[:, -1]

    @torch.inference_mode()
    def propose(self, batch: Batch, lengths: Ints, numbers: Floats) -> Proposal:
        """Draft one token a head."""
        lengths = np.minimum(np.where(self.known, lengths, 0), len(self.module.heads))
        passes, longest = (lengths > 0).astype(np.int64), int(lengths.max())
        if not longest:
            return heads.no_proposal(len(lengths))
        logits = self.voice.logits(self.module(self.hidden, longest))
        if self.rule.is_greedy:
            return Proposal(tokens=self.voice.said(laws.likeliest(logits)), lengths=lengths, passes=passes)
        law = laws.probabilities(logits, self.rule)
        tokens = self.voice.said(laws.draw(law, laws.uniforms_like(logits, numbers[:, :longest])))
        kept = logits if self.keep_logits else law
        parts = drawn_from(kept, self.rule, self.voice.widened, are_logits=self.keep_logits)
        return Proposal(tokens=tokens, lengths=lengths, passes=passes, **parts)

    def learn(self, batch: Batch, verdict: Verdict, committed: Ints) -> None:
        """Note the hidden state at the last accepted token."""
        hidden = verdict.seen.hidden
        assert hidden is not None
        self.hidden = hidden[torch.arange(len(hidden)), torch.from_numpy(verdict.accepted)]
        self.known[:] = True

    def select(self, rows: Ints) -> None:
        """Keep only these rows."""
        self.hidden, self.known = self.hidden[torch.from_numpy(rows)], self.known[rows]


class MedusaTree:
    """Proposes trees of one shape."""

    def __init__(self, target: Model, module: heads.Medusa, paths: Sequence[Sequence[int]]) -> None:
        """Take heads of this target. Paths are the ranks that lead to each node, a parent before its children."""
        self.module, self.voice = module, heads.Voice(target, module)
        self.paths = [tuple(path) for path in paths if max(path) < self.voice.size]
        self.depth = max(map(len, self.paths), default=0)

    def start(self, batch: Batch, prompts: Sequence[Sequence[int]]) -> None:
        """Note the target's hidden state at the last token that it has read; a prompt of one token has none yet."""
        self.known, self.hidden = batch.lengths[0] > 1, heads.hidden_of_prompts(batch)[0, -1]

    @torch.inference_mode()
    def grow(self, batch: Batch, depth: int) -> Tree:
        """Fill the shape, as deep as is asked for."""
        paths = [path for path in self.paths if len(path) <= depth] if self.known else []
        if not paths:
            return heads.no_tree()
        deepest, ranks = max(map(len, paths)), max(map(max, paths)) + 1
        logits = self.voice.logits(self.module(self.hidden, deepest))
        ranked = self.voice.said(logits.topk(ranks, dim=-1).indices).tolist()
        node_of = {path: node for node, path in enumerate(paths)}
        return Tree(
            tokens=np.array([ranked[len(path) - 1][path[-1]] for path in paths]),
            parents=np.array([node_of.get(path[:-1], -1) for path in paths]),
            passes=1,
        )

    def learn(self, batch: Batch, tree: Tree, walk: Walk, committed: int) -> None:
        """Note the hidden state at the last accepted node."""
        assert walk.hidden is not None
        self.known, self.hidden = np.True_, walk.hidden[walk.path[-1] + 1 if walk.path else 0]


def choose_tree(accuracy: Any, nodes: int) -> list[list[int]]:
    """Choose the tree of so many nodes with the largest expected acceptance (Medusa §2.3.3).

    A node is the path of ranks that leads to it; that it is accepted has the product of its ranks' accuracies as its
    probability, the heads being taken as independent. accuracy: how often head i's r-th choice is right, [heads, r].
    Paths come from the most probable down, so that the first n are the best tree of n nodes.
    """
    depth, ranks = np.shape(accuracy)
    chosen: list[list[int]] = []
    reachable = [(-float(accuracy[0][rank]), [rank]) for rank in range(ranks)]
    heapq.heapify(reachable)
    while reachable and len(chosen) < nodes:
        weight, path = heapq.heappop(reachable)
        chosen.append(path)
        if len(path) < depth:
            for rank in range(ranks):
                heapq.heappush(reachable, (weight * float(accuracy[len(path)][rank]), [*path, rank]))
    return chosen


def tree_of(option: str, config: dict[str, Any], options: Options) -> list[list[int]]:
    """Return the part of the heads' tree that depth and budget leave.

    Raises:
        UserError: A node's parent is not before it.
    """
    paths = config.get("tree", [])
    known: set[tuple[int, ...]] = {()}
    for path in paths:
        if tuple(path[:-1]) not in known or not path:
            raise UserError(f"{option}: tree holds {path}, expected its parent before it")
        known.add(tuple(path))
    return [path for path in paths if len(path) <= options.k][: options.tree_budget]


def begin_chain(models: Models, options: Options) -> Begin:
    """Load the heads; K is at most their number."""
    assert models.medusa is not None
    module, _ = heads.load("medusa", models.medusa, models.target)
    sampler, most = options.sampler, min(options.k, len(module.heads))
    drafter = partial(MedusaDraft, models.target, module, options.draft_rule, keep_logits=sampler is not None)
    return chains(models.target, drafter, most, sampler=sampler, keep_hidden=True)


def begin_tree(models: Models, options: Options) -> Begin:
    """Load the heads and their tree."""
    assert models.medusa is not None
    check_tree("--target", models.target)
    module, config = heads.load("medusa", models.medusa, models.target)
    paths = tree_of(f"--medusa {models.medusa}", config, options)
    return lambda prompts, task: TreeDecoder(
        models.target, MedusaTree(models.target, module, paths), prompts, task, keep_hidden=True
    )


METHODS = (
    Method(
        name="medusa",
        summary="heads on the target's hidden state, a chain of their choices (Cai et al. 2024)",
        batched=True,
        needs=("medusa",),
        begin=begin_chain,
    ),
    Method(
        name="medusa-tree",
        summary="the same heads, a fixed tree of their best choices",
        batched=False,
        needs=("medusa",),
        begin=begin_tree,
    ),
)
