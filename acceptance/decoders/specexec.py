"""SpecExec: a draft model grows the tree of the most probable continuations within a budget of nodes.

Svirschevski et al. 2024 (arXiv 2406.02532), algorithm 2: a parallel Dijkstra search over -log q. Every draft pass reads
the best nodes that it has not read yet, side by side behind a tree mask; of all their children and of what was there
before, the best stay.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from acceptance.models.context import Context
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from acceptance.results.settings import ALGORITHMS

from .batch import Batch, Floats, Ints, read_prompts, unread
from .method import Begin, Method, Models, Options
from .nodes import NOT_READ, Nodes, children, no_nodes
from .tree import Tree, TreeDecoder, Walk, check_tree


class SpecExec:
    """Proposes the nodes of the largest cumulative q that k draft passes find; depends on no random number."""

    def __init__(
        self,
        model: Model,
        rule: SamplingRule,
        *,
        k: int,
        tree_budget: int,
        parallel_branches: int,
        branch_prune_threshold: float = 0.0,
    ) -> None:
        """Take a draft model that reads trees (`check_tree`), and a rule whose temperature is that of q; greedy: 1.

        k: draft passes a round, and so the depth, at most. tree_budget: nodes at most. parallel_branches: nodes that a
        pass reads at most. branch_prune_threshold: least q of a node over the largest among its siblings; 0 keeps all.
        """
        self.model, self.temperature = model, 1.0 if rule.is_greedy else rule.temperature
        self.depth, self.tree_budget, self.parallel_branches = k, tree_budget, parallel_branches
        self.branch_prune_threshold = branch_prune_threshold

    def start(self, batch: Batch, prompts: Sequence[Sequence[int]]) -> None:
        """Read the prompt but its last token."""
        # Trees move columns of the cache, which one of fixed size cannot.
        model = replace(self.model, graphs=False)
        context = read_prompts(model, prompts, batch.tokens.shape[1], beside=batch.target)
        assert isinstance(context, Context)
        self.context = context

    def grow(self, batch: Batch, depth: int) -> Tree:
        """Read the last committed token, then the best nodes, pass by pass; every pass adds one level at most."""
        most, passes, nodes = min(self.depth, depth), 0, no_nodes()
        read_parents = nodes.parents
        if most > 0:
            tokens, valid = unread(batch, self.context)
            logits = self.context.read(tokens, valid, tokens.shape[1])[0, -1:]
            nodes, passes = self.children(logits, np.array([-1]), np.zeros(1)), 1
        self.before = self.context.live.shape[1]
        while passes < most:
            chosen = nodes.frontier(self.parallel_branches, self.tree_budget, batch.target.model.ends)
            if not len(chosen):
                break
            parents = nodes.parents[chosen]
            nodes.places[chosen] = len(read_parents) + np.arange(len(chosen))
            read_parents = np.concatenate((read_parents, np.where(parents < 0, -1, nodes.places[parents])))
            tokens = torch.from_numpy(nodes.tokens[chosen])[None].to(self.model.device)
            logits = self.context.read_tree(tokens, read_parents)[0]
            more = self.children(logits, chosen, nodes.scores[chosen])
            nodes, passes = nodes.with_children(more).best(self.tree_budget), passes + 1
        self.places = nodes.places
        return nodes.tree(passes)

    def children(self, logits: torch.Tensor, parents: Ints, scores: Floats) -> Nodes:
        """Return the nodes behind others, by the logits there [parents, vocabulary]; no more than could stay."""
        log_q = (logits.float() / self.temperature).log_softmax(-1)
        return children(log_q, parents, scores, self.tree_budget, threshold=self.branch_prune_threshold)

    def learn(self, batch: Batch, tree: Tree, walk: Walk, committed: int) -> None:
        """Keep what was read of the path, but not the last committed token, which the next round begins with."""
        path = self.places[walk.path[: committed - 1]]
        self.context.keep(self.before, self.before + path[path != NOT_READ])


def begin(models: Models, options: Options) -> Begin:
    """Check that both models read trees."""
    assert models.draft is not None
    target, draft = models.target, models.draft
    check_tree("--target", target)
    check_tree("--draft", draft)
    limits = {name: getattr(options, name) for name in ALGORITHMS["specexec"].knobs}
    return lambda prompts, task: TreeDecoder(target, SpecExec(draft, options.draft_rule, **limits), prompts, task)


METHOD = Method(
    name="specexec",
    summary="tree of the most probable drafts within a budget, verified in one target pass",
    batched=False,
    needs=("draft",),
    begin=begin,
)
