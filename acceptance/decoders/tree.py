"""Trees: many continuations proposed at once, one target pass over all of them with a tree attention mask.

At every node, from the last committed token on, the target's own next token is drawn; while a child holds that token
the walk goes on. So any tree that depends on the past alone leaves the output's law exact, and with one random number a
token the output is, token by token, what plain decoding draws from the same stream. One sequence at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from acceptance.models import laws
from acceptance.models.check import MAX_DISAGREEMENT
from acceptance.models.context import Context, padded
from acceptance.models.model import Model
from acceptance.models.source import encode, read_whole, some_prompts
from simulator.ground.artefacts import UserError

from .baseline import next_tokens
from .batch import Batch, Ints, Round, Task, commit, start
from .decoder import still_running


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Proposed continuations of one sequence.

    tokens: [nodes]. parents: index of each node's parent, lower than its own; -1 behind the last committed token.
    passes: forward passes of the draft it took. pruned: candidates that were looked at and were below the threshold.
    over_budget: those above it for which the budget had no room.
    """

    tokens: Ints
    parents: Ints
    passes: int = 0
    pruned: int = 0
    over_budget: int = 0

    @property
    def leaves(self) -> int:
        """Nodes without a child."""
        return len(self.parents) - len(np.unique(self.parents[self.parents >= 0]))

    @property
    def depths(self) -> Ints:
        """Tokens from the last committed one to each node, [nodes]."""
        depths = np.zeros(len(self.parents) + 1, np.int64)
        for node, parent in enumerate(self.parents):
            depths[node] = depths[parent] + 1  # depths[-1] is that of the committed token, 0
        return depths[:-1]

    def children(self) -> list[dict[int, int]]:
        """Return for each node, and last for the committed token, which child holds which token."""
        children: list[dict[int, int]] = [{} for _ in range(len(self.parents) + 1)]
        for node, (token, parent) in enumerate(zip(self.tokens.tolist(), self.parents.tolist(), strict=True)):
            children[parent].setdefault(token, node)
        return children


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Nodes that were accepted, from the first; the token behind them; the target's hidden states at the last
    committed token and at every node, [1 + nodes, d], where they are kept.
    """

    path: list[int]
    following: int
    hidden: torch.Tensor | None = None


class Grower(Protocol):
    """Proposes trees. Keeps its own caches. depth: levels of a tree where the budget of the output leaves room."""

    depth: int

    def start(self, batch: Batch, prompts: Sequence[Sequence[int]]) -> None:
        """Take note of the prompt, of which the target has read all but the last token."""

    def grow(self, batch: Batch, depth: int) -> Tree:
        """Propose a tree no deeper than this; depends on the committed tokens alone."""

    def learn(self, batch: Batch, tree: Tree, walk: Walk, committed: int) -> None:
        """Take note of a round that is committed, and forget what was rejected."""


class TreeDecoder:
    """A decoder whose proposals are trees."""

    def __init__(
        self,
        target: Model,
        grower: Grower,
        prompts: Sequence[Sequence[int]],
        task: Task,
        *,
        keep_hidden: bool = False,
    ) -> None:
        """Read the prompt."""
        if len(prompts) != 1:
            raise UserError(f"--batch-size: {len(prompts)} is not allowed with trees, expected 1")
        self.task, self.grower = task, grower
        # Trees move columns of the cache, which one of fixed size cannot.
        moving = replace(target, graphs=False)
        self.batch = start(moving, prompts, task.max_new_tokens, keep_hidden=keep_hidden)
        assert isinstance(self.batch.target, Context)
        self.context = self.batch.target
        grower.start(self.batch, prompts)

    def propose(self) -> Tree:
        """Grow a tree within the budget."""
        return self.grower.grow(self.batch, int(self.batch.budget[0]) - 1)

    def verify(self, tree: Tree) -> Walk:
        """Let the target read the last committed token and the tree, and walk down from it."""
        context = self.context
        last = self.batch.tokens[0, self.batch.lengths[0] - 1]
        tokens = torch.from_numpy(np.concatenate(([last], tree.tokens)))[None].to(context.model.device)
        logits = context.read_tree(tokens, np.concatenate(([-1], tree.parents + 1)))[0]
        self.task.mark("verify")
        return walk(logits, tree, self.task, self.batch.index[0], None if context.hidden is None else context.hidden[0])

    def commit(self, tree: Tree, walked: Walk) -> Ints:
        """Append the path, keep its columns of the cache alone, note the round."""
        batch, begin = self.batch, len(self.batch.outputs[self.batch.index[0]].tokens)
        room = int(batch.budget[0]) - 1
        new = np.array([[*tree.tokens[walked.path], walked.following]])
        committed, ended = commit(batch, new, np.array([len(walked.path)]), batch.target.model.ends)
        self.task.mark("other")
        before = int(self.context.lengths[0]) - len(tree.tokens)
        # The path as far as it is committed: the last committed token is for the next round to read.
        self.context.keep(before, before + np.array(walked.path[: int(committed[0]) - 1], np.int64))
        self.task.mark("kv")
        self.grower.learn(batch, tree, walked, int(committed[0]))
        self.task.mark("draft")
        cut_by = "eos" if committed[0] <= len(walked.path) else "max" if self.grower.depth > room else ""
        batch.outputs[batch.index[0]].rounds.append(
            Round(
                start=begin,
                drafted=len(tree.tokens),
                accepted=len(walked.path),
                committed=int(committed[0]),
                cut_by=cut_by,
                draft_passes=tree.passes,
                depth=int(tree.depths.max(initial=0)),
                leaves=tree.leaves,
                pruned=tree.pruned,
                over_budget=tree.over_budget,
            )
        )
        return still_running(batch, ended)

    def select(self, rows: Ints) -> None:
        """Keep only these rows: none, when the one there is has ended."""
        self.batch.select(rows)


def walk(logits: torch.Tensor, tree: Tree, task: Task, prompt: int, hidden: torch.Tensor | None = None) -> Walk:
    """Draw the target's next token at node after node while a child holds it.

    logits: behind the last committed token and every node, [1 + nodes, vocabulary].
    """
    children, at = tree.children(), -1
    path: list[int] = []
    first_choices = laws.likeliest(logits).tolist() if task.rule.is_greedy else None
    while True:
        if first_choices is None:
            token = int(next_tokens(logits[at + 1][None], task.rule, [task.rngs[prompt]]))
        else:
            token = first_choices[at + 1]
        at = children[at].get(token, -1)
        if at < 0:
            return Walk(path=path, following=token, hidden=hidden)
        path.append(at)


def check_tree(option: str, model: Model) -> None:
    """Refuse a model that does not read a tree as it reads its branches."""
    try:
        share = tree_disagreement(model)
    except Exception as error:  # a model's own code raises what it likes
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise UserError(f"{option}: cannot read a tree in one pass ({reason})") from None
    if not share < MAX_DISAGREEMENT:
        raise UserError(f"{option}: reads a tree otherwise than its branches (by {share:.0%}), expected a chain method")


@torch.inference_mode()
def tree_disagreement(model: Model) -> float:
    """Return how far reading a tree is from reading its branches: mean difference over the logits' spread."""
    model, rng = model.unbarred, np.random.default_rng(0)
    text = rng.integers(model.vocabulary, size=12).tolist()
    before, nodes, parents = text[:6], text[6:], np.array([-1, 0, 0, 1, 2, -1])
    encoded = encode(model, some_prompts(model, [text], rng))
    context = Context(model, 1, encoded=encoded)
    if context.counts_columns:
        raise UserError("its positions go by columns")
    context.read(*padded([before], model.device), 1)
    logits = context.read_tree(torch.tensor([nodes], device=model.device), parents)[0].float()
    plain = []
    for node in range(len(nodes)):
        at, branch = node, list[int]()
        while at >= 0:
            branch.insert(0, nodes[at])
            at = int(parents[at])
        plain.append(read_whole(model, [*before, *branch], encoded)[-1, : model.vocabulary].float())
    expected = torch.stack(plain)
    return float((logits - expected).abs().mean() / expected.std().clamp(min=1e-9))
