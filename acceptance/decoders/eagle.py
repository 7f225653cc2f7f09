"""EAGLE (Li et al. 2024, arXiv 2401.15077): one decoder layer goes on with the target's hidden states, token by token.

In drafting it feeds on its own; after every round it reads what was committed anew, with the target's. As a chain, or
as a tree that grows where its own probability is largest (EAGLE-2, arXiv 2406.16858).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from acceptance.models import laws
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule

from . import heads
from .batch import Batch, Flags, Floats, Ints
from .chain import Draws, Proposal, Verdict
from .method import Begin, Method, Models, Options, chains
from .nodes import children, no_nodes
from .tree import Tree, TreeDecoder, Walk, check_tree


class Reader:
    """The head's KV cache. Entry t, made of the target's f_t and token t + 1, stands in column t + 1 of its row.

    So rows of unequal luck need no packing: what is drafted stands behind what is read, and the next round writes over
    it. Column 0 takes what does not count.
    """

    def __init__(self, target: Model, module: heads.Eagle, batch: Batch, spare: int = 0) -> None:
        """Read the prompts, of which the target has read all but the last token. Trees take `spare` columns more."""
        self.target, self.module, self.voice = target, module, heads.Voice(target, module)
        self.embed = target.module.get_input_embeddings()
        rows, longest = batch.tokens.shape
        shape = (rows, longest + 1 + spare, module.key.out_features // module.head_size, module.head_size)
        weight = module.key.weight
        self.keys, self.values = weight.new_zeros(shape), weight.new_zeros(shape)
        self.read = np.zeros(rows, np.int64)
        self.known = batch.lengths > 1
        hidden = heads.hidden_of_prompts(batch)
        counts = batch.lengths[:, None] - 1
        self.note(hidden, np.arange(hidden.shape[1]) >= hidden.shape[1] - counts)
        self.last = hidden[:, -1]
        self.catch_up(batch)

    def note(self, hidden: torch.Tensor, valid: Flags) -> None:
        """Take the target's hidden states, [rows, n, d], at the tokens behind those read; valid: which count."""
        self.noted, self.valid = hidden, valid

    def catch_up(self, batch: Batch) -> int:
        """Read what was noted; `last` is then the head's own feature behind it, [rows, d]. Return passes."""
        counts = self.valid.sum(1)
        if not counts.any():
            return 0
        positions = np.maximum(self.read[:, None] + self.valid.cumsum(1) - 1, 0)
        tokens = batch.tokens[np.arange(len(counts))[:, None], positions + 1]
        columns = np.where(self.valid, positions + 1, 0)
        features = self.step(torch.from_numpy(tokens), self.noted, positions, columns, causal(columns))
        at = self.valid.shape[1] - 1 - self.valid[:, ::-1].argmax(1)
        self.last = features[torch.arange(len(counts)), torch.from_numpy(at)]
        self.read, self.known, self.valid = self.read + counts, self.known | (counts > 0), self.valid[:, :0]
        return 1

    @torch.inference_mode()
    def step(
        self, tokens: torch.Tensor, features: torch.Tensor, positions: Ints, columns: Ints, sees: Flags
    ) -> torch.Tensor:
        """Write entries and return the features behind them, [rows, n, d].

        features: before each token, [rows, n, d]; positions: theirs, [rows, n]. columns: where entries go, [rows, n].
        sees: which columns each attends to, its own among them, [rows, n, up to the last].
        """
        device = self.keys.device
        embeddings = self.embed(tokens.to(device))
        state, queries, keys, values = self.module.project(embeddings, features, torch.from_numpy(positions).to(device))
        row, column = torch.arange(len(columns), device=device)[:, None], torch.from_numpy(columns).to(device)
        self.keys[row, column], self.values[row, column] = keys, values
        width = sees.shape[2]
        mask = torch.from_numpy(sees).to(device)
        attended = heads.attend(queries, self.keys[:, :width], self.values[:, :width], mask)
        return self.module.finish(state, attended)

    @torch.inference_mode()
    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Read tokens from features, [..., size of the voice]."""
        return self.voice.logits(features)

    def select(self, rows: Ints) -> None:
        """Keep only these rows."""
        index = torch.from_numpy(rows).to(self.keys.device)
        for name in ("keys", "values", "last", "noted"):
            setattr(self, name, getattr(self, name)[index])
        for name in ("read", "known", "valid"):
            setattr(self, name, getattr(self, name)[rows])


def causal(columns: Ints) -> Flags:
    """Let each entry see those up to its own column; what does not count sees itself alone, [rows, n, width]."""
    width = np.arange(int(columns.max()) + 1)
    sees: Flags = (width <= columns[..., None]) & ((width > 0) | (columns[..., None] == 0))
    return sees


class EagleDraft:
    """Proposes chains."""

    def __init__(self, target: Model, module: heads.Eagle, rule: SamplingRule, *, keep_logits: bool = False) -> None:
        """Take a head of this target, and what it samples from. keep_logits: hand on logits in place of laws."""
        self.target, self.module, self.rule, self.keep_logits = target, module, rule, keep_logits

    def start(self, batch: Batch, prompts: Sequence[Sequence[int]]) -> None:
        """Read the prompts; one of a single token drafts nothing in its first round."""
        self.reader = Reader(self.target, self.module, batch)

    def propose(self, batch: Batch, lengths: Ints, numbers: Floats) -> Proposal:
        """Draft one token after another."""
        reader = self.reader
        caught_up = reader.catch_up(batch)
        lengths = np.where(reader.known, lengths, 0)
        if not lengths.max():
            return replace(heads.no_proposal(len(lengths)), passes=np.full(len(lengths), caught_up))
        drafted: list[torch.Tensor] = []
        draws = Draws(self.rule, keep_logits=self.keep_logits)
        features = reader.last
        for step in range(int(lengths.max())):
            if step:
                positions = (reader.read + step - 1)[:, None]
                columns = np.where((step < lengths)[:, None], positions + 1, 0)
                entries = (drafted[-1][:, None], features[:, None], positions, columns, causal(columns))
                features = reader.step(*entries)[:, 0]
            places = draws.choose(reader.logits(features), numbers[:, step])
            drafted.append(reader.voice.said(places))
        return Proposal(
            tokens=torch.stack(drafted, 1),
            lengths=lengths,
            passes=np.maximum(lengths - 1, 0) + caught_up,
            **draws.parts(reader.voice.widened),
        )

    def learn(self, batch: Batch, verdict: Verdict, committed: Ints) -> None:
        """Note the target's own features of what was committed."""
        hidden = verdict.seen.hidden
        assert hidden is not None
        self.reader.note(hidden, np.arange(hidden.shape[1]) <= verdict.accepted[:, None])

    def select(self, rows: Ints) -> None:
        """Keep only these rows."""
        self.reader.select(rows)


class EagleTree:
    """Grows trees: level by level the most probable nodes get children; of all, the most probable stay."""

    def __init__(
        self, target: Model, module: heads.Eagle, rule: SamplingRule, *, depth: int, branches: int, budget: int
    ) -> None:
        """Take a head of this target.

        So many nodes (`branches`) of each level get so many children; `budget` nodes stay.
        """
        self.target, self.module, self.depth = target, module, depth
        self.branches, self.budget = branches, budget
        # Every choice of a point mass is as probable as another: 0 or 1.
        self.rule = SamplingRule(temperature=1.0) if rule.is_greedy else rule

    def start(self, batch: Batch, prompts: Sequence[Sequence[int]]) -> None:
        """Read the prompt; one of a single token gets no tree in its first round."""
        self.reader = Reader(self.target, self.module, batch, spare=self.depth * self.branches)

    def grow(self, batch: Batch, depth: int) -> Tree:
        """Give children to the best nodes of each level, then take the best of all."""
        reader, depth = self.reader, min(depth, self.depth)
        passes = reader.catch_up(batch)
        if not reader.known[0] or depth < 1:
            return replace(heads.no_tree(), passes=passes)
        grown = Grown(reader)
        for level in range(depth):
            if level:
                grown.read_best(self.branches)
            grown.add_level(self.rule, self.branches)
        return grown.nodes.best(self.budget).tree(passes + depth - 1)

    def learn(self, batch: Batch, tree: Tree, walk: Walk, committed: int) -> None:
        """Note the target's own features of what was committed."""
        assert walk.hidden is not None
        hidden = walk.hidden[[0, *(node + 1 for node in walk.path)]][None]
        self.reader.note(hidden, np.ones(hidden.shape[:2], bool))


class Grown:
    """A tree under way. Only nodes that get children are read, into columns behind those of the committed tokens."""

    def __init__(self, reader: Reader) -> None:
        """Begin behind what is committed; the root is node -1."""
        self.reader, self.committed, self.nodes = reader, int(reader.read[0]), no_nodes()
        self.frontier, self.features = np.array([-1]), reader.last
        self.level = self.frontier
        self.read = 0

    def add_level(self, rule: SamplingRule, branches: int) -> None:
        """Give every node of the frontier its most probable children."""
        log_q = laws.probabilities(self.reader.logits(self.features), rule).log().clamp(max=0)
        scores = np.append(self.nodes.scores, 0.0)[self.frontier]  # the last for node -1
        first = len(self.nodes.tokens)
        more = children(log_q, self.frontier, scores, branches)
        tokens = self.reader.voice.said(torch.from_numpy(more.tokens).to(log_q.device)).cpu().numpy()
        self.nodes = self.nodes.with_children(replace(more, tokens=tokens))
        self.level = np.arange(first, len(self.nodes.tokens))

    def read_best(self, branches: int) -> None:
        """Read the best nodes of the level, in one pass: they are the frontier."""
        nodes, best = self.nodes, self.nodes.ranked(self.level)[:branches]
        first = self.read - len(self.frontier)
        before = self.features[np.append(nodes.places, first)[nodes.parents[best]] - first]
        nodes.places[best] = self.read + np.arange(len(best))
        columns = self.committed + 1 + nodes.places[best]
        sees = np.zeros((len(best), int(columns[-1]) + 1), bool)
        sees[:, 1 : self.committed + 1] = True
        paths = [nodes.path(node) for node in best.tolist()]
        for row, path in zip(sees, paths, strict=True):
            row[self.committed + 1 + nodes.places[path]] = True
        positions = np.array([[self.committed + len(path) - 1 for path in paths]])
        entries = (torch.from_numpy(nodes.tokens[best])[None], before[None], positions, columns[None], sees[None])
        self.frontier, self.features = best, self.reader.step(*entries)[0]
        self.read += len(best)


def begin_chain(models: Models, options: Options) -> Begin:
    """Load the head."""
    assert models.eagle is not None
    module, _ = heads.load("eagle", models.eagle, models.target)
    sampler = options.sampler
    drafter = partial(EagleDraft, models.target, module, options.draft_rule, keep_logits=sampler is not None)
    return chains(models.target, drafter, options.k, sampler=sampler, keep_hidden=True)


def begin_tree(models: Models, options: Options) -> Begin:
    """Load the head."""
    assert models.eagle is not None
    check_tree("--target", models.target)
    module, _ = heads.load("eagle", models.eagle, models.target)
    limits = {"depth": options.k, "branches": options.parallel_branches, "budget": options.tree_budget}
    grower = partial(EagleTree, models.target, module, options.draft_rule, **limits)
    return lambda prompts, task: TreeDecoder(models.target, grower(), prompts, task, keep_hidden=True)


METHODS = (
    Method(
        name="eagle",
        summary="a decoder layer that goes on with the target's hidden states, a chain (Li et al. 2024)",
        batched=True,
        needs=("eagle",),
        begin=begin_chain,
    ),
    Method(
        name="eagle-tree",
        summary="the same layer, a tree that grows where it is sure (EAGLE-2)",
        batched=False,
        needs=("eagle",),
        begin=begin_tree,
    ),
)
