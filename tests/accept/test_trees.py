"""Trees: the walk, reading a tree in a pass, SpecExec; against plain decoding, plain reading and enumeration."""

import heapq
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import PretrainedConfig

import acceptance
from acceptance.decoders import tree as tree_module
from acceptance.decoders.baseline import Plain
from acceptance.decoders.batch import Batch, Decoded, Task
from acceptance.decoders.chain import Chain, FixedLength
from acceptance.decoders.decoder import Decoder, run
from acceptance.decoders.method import Models, Options
from acceptance.decoders.model_draft import ModelDraft
from acceptance.decoders.specexec import METHOD, SpecExec
from acceptance.decoders.tree import Tree, TreeDecoder, Walk, check_tree, walk
from acceptance.models import laws
from acceptance.models import load as models
from acceptance.models.context import Context
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from simulator.ground.artefacts import UserError

from .test_exactness import LEVEL, Plan, beginning, g_test, plan_of, tally
from .test_families import IDS, SHAPE
from .test_families import make as make_family
from .tiny_models import Say, Text, enumerate_texts, logits_without_cache, random_model, related_model

GREEDY, FREE = SamplingRule(temperature=0.0), SamplingRule(temperature=1.0)
VOCABULARY = 5


@cache
def llamas() -> tuple[Model, Model]:
    target = random_model("llama", 51, VOCABULARY)
    return target, related_model(target, 52, 0.25)


def task_of(rule: SamplingRule, budget: int, seed: int = 0) -> Task:
    return Task(rule=rule, max_new_tokens=budget, rngs=[np.random.default_rng(seed)])


def plain(model: Model, prompt: Sequence[int], task: Task) -> list[int]:
    return run(Plain(model, [prompt], task))[0].tokens


def random_tree(rng: np.random.Generator, nodes: int, depth: int, vocabulary: int = VOCABULARY) -> Tree:
    """Any tree no deeper than this; siblings may hold the same token."""
    depths = [0]
    parents = []
    for _ in range(nodes if depth > 0 else 0):
        parent = int(rng.choice([n for n, d in enumerate(depths) if d < depth])) - 1
        parents.append(parent)
        depths.append(depths[parent + 1] + 1)
    return Tree(tokens=rng.integers(vocabulary, size=len(parents)), parents=np.array(parents, np.int64))


def branches(tree: Tree) -> list[Text]:
    """The tokens from the committed one to each node."""
    found: list[Text] = []
    for token, parent in zip(tree.tokens.tolist(), tree.parents.tolist(), strict=True):
        found.append((*(found[parent] if parent >= 0 else ()), token))
    return found


@dataclass
class Wild:
    """Proposes trees at random, as large as it is told."""

    nodes: int
    rng: np.random.Generator
    told: list[int] = field(default_factory=list)
    depth: int = 5

    def start(self, batch: Batch, prompts: Sequence[Sequence[int]]) -> None: ...

    def grow(self, batch: Batch, depth: int) -> Tree:
        self.told.append(depth)
        return random_tree(self.rng, int(self.rng.integers(self.nodes + 1)), min(depth, self.depth))

    def learn(self, batch: Batch, tree: Tree, walk: Walk, committed: int) -> None: ...


def check_rounds(output: Decoded, budget: int, ends: Sequence[int], depth: int = Wild.depth) -> None:
    """Each round begins where the one before it ended; what an end of sequence or the budget cuts is said."""
    at = 0
    for done in output.rounds:
        assert done.start == at
        assert 0 <= done.accepted <= done.depth <= budget - at - 1
        assert done.depth <= done.drafted
        assert done.committed == done.accepted + 1 or done.committed <= done.accepted
        room = budget - at - 1
        assert done.cut_by == ("eos" if done.committed <= done.accepted else "max" if room < depth else "")
        at += done.committed
    assert at == len(output.tokens)
    assert not set(output.tokens[:-1]) & set(ends)
    assert len(output.tokens) == budget or (len(output.tokens) < budget and output.tokens[-1] in ends)


# The tree and the walk.


@given(st.integers(0, 2**32), st.integers(0, 30), st.integers(1, 6))
def test_depths_and_children_are_those_of_the_branches(seed: int, nodes: int, depth: int) -> None:
    tree = random_tree(np.random.default_rng(seed), nodes, depth, 3)
    paths = branches(tree)
    assert tree.leaves == sum(n not in tree.parents for n in range(nodes))
    assert tree.depths.tolist() == [len(p) for p in paths]
    children = tree.children()
    assert len(children) == nodes + 1
    for at, held in enumerate(children):
        parent = at if at < nodes else -1
        own = [n for n in range(nodes) if tree.parents[n] == parent]
        assert held == {t: min(n for n in own if tree.tokens[n] == t) for t in {int(tree.tokens[n]) for n in own}}


def test_the_walk_follows_the_targets_own_tokens_and_draws_one_number_for_each() -> None:
    """Node 1 repeats its sibling's token: the first of the two is taken. Behind the last node the walk goes no more."""
    tree = Tree(tokens=np.array([2, 2, 0, 1, 3, 0]), parents=np.array([-1, -1, 0, 1, 2, 4]))
    logits = torch.full((7, 4), -torch.inf)
    logits[torch.arange(7), torch.tensor([2, 0, 1, 3, 3, 0, 1])] = 0.0
    for rule, numbers in ((GREEDY, 0), (FREE, 5)):
        task, twin = task_of(rule, 9, 3), np.random.default_rng(3)
        assert walk(logits, tree, task, 0) == Walk(path=[0, 2, 4, 5], following=1)
        twin.random(numbers)
        assert task.rngs[0].random() == twin.random()


def test_an_empty_tree_is_plain_decoding() -> None:
    tree = Tree(tokens=np.zeros(0, np.int64), parents=np.zeros(0, np.int64))
    assert walk(torch.tensor([[0.0, 1.0]]), tree, task_of(GREEDY, 1), 0) == Walk(path=[], following=1)


@settings(deadline=None, max_examples=120)
@given(
    seed=st.integers(0, 2**32),
    nodes=st.integers(0, 25),
    budget=st.integers(1, 12),
    rule=st.sampled_from([GREEDY, FREE, SamplingRule(temperature=0.7, top_k=4, top_p=0.9)]),
    ends=st.sampled_from([(), (1,), (0, 3)]),
)
def test_whatever_the_trees_the_output_is_plain_decodings(
    seed: int, nodes: int, budget: int, rule: SamplingRule, ends: tuple[int, ...]
) -> None:
    """Token by token from the same stream."""
    target, rng = replace(llamas()[0], ends=ends), np.random.default_rng(seed)
    prompt = rng.integers(VOCABULARY, size=rng.integers(1, 7)).tolist()
    grower = Wild(nodes, rng)
    decoder = TreeDecoder(target, grower, [prompt], task_of(rule, budget, seed))
    [output] = run(decoder)
    assert output.tokens == plain(target, prompt, task_of(rule, budget, seed))
    check_rounds(output, budget, ends)
    assert grower.told == [budget - r.start - 1 for r in output.rounds]


class Peeking(Wild):
    """Knows the target's random number: its trees hold nothing but the tokens to come, or all but them."""

    def __init__(self, target: Model, task: Task, says_them: bool) -> None:
        super().__init__(0, np.random.default_rng(0), depth=3)
        self.target, self.task, self.says_them = target, task, says_them

    def grow(self, batch: Batch, depth: int) -> Tree:
        twin = np.random.default_rng(0)
        twin.bit_generator.state = self.task.rngs[0].bit_generator.state
        text = batch.tokens[0, : batch.lengths[0]].tolist()
        told = replace(self.task, max_new_tokens=depth + 1, rngs=[twin])
        to_come = np.array(plain(self.target, text, told)[: min(3, depth)], np.int64)
        tokens = to_come if self.says_them else (to_come + 1) % VOCABULARY
        return Tree(tokens=tokens, parents=np.arange(len(tokens)) - 1)


@pytest.mark.parametrize("says_them", [True, False])
def test_even_a_tree_that_knows_the_next_number_changes_no_token(says_them: bool) -> None:
    """At every node the token is drawn first and looked up in the tree afterwards."""
    target = llamas()[0]
    task = task_of(FREE, 20, 8)
    [output] = run(TreeDecoder(target, Peeking(target, task, says_them), [[1, 2]], task))
    assert output.tokens == plain(target, [1, 2], task_of(FREE, 20, 8))
    assert {r.accepted for r in output.rounds} == ({3} if says_them else {0})


def test_an_output_stops_at_an_end_of_sequence_wherever_it_falls() -> None:
    met: Counter[str] = Counter()
    target = replace(llamas()[0], ends=(1, 4))
    for seed in range(60):
        [output] = run(TreeDecoder(target, Wild(25, np.random.default_rng(seed)), [[2, 0, 3]], task_of(FREE, 8, seed)))
        check_rounds(output, 8, target.ends)
        last = output.rounds[-1]
        if output.tokens[-1] in target.ends:
            met["path" if last.committed <= last.accepted else "following"] += 1
            met["before the path's end"] += last.committed < last.accepted
            met["behind a path"] += last.committed == last.accepted + 1 > 1
    assert min(met[place] for place in ("path", "following", "before the path's end", "behind a path")) > 0, met


def test_the_walk_hands_on_the_targets_hidden_states() -> None:
    target, rng, seen = llamas()[0], np.random.default_rng(5), []

    class Looking(Wild):
        def learn(self, batch: Batch, tree: Tree, walk: Walk, committed: int) -> None:
            before = int(batch.lengths[0]) - committed
            seen.append((batch.tokens[0, :before].tolist(), tree, walk.hidden))

    run(TreeDecoder(target, Looking(9, rng), [[1, 2, 3]], task_of(FREE, 10), keep_hidden=True))
    assert max(len(tree.tokens) for _, tree, _ in seen) > 4
    for text, tree, hidden in seen:
        for found, branch in zip(hidden, [(), *branches(tree)], strict=True):
            read = target.module(torch.tensor([[*text, *branch]]), output_hidden_states=True)
            torch.testing.assert_close(found, read.hidden_states[-1][0, -1], rtol=1e-4, atol=1e-4)


def test_trees_take_one_sequence_at_a_time() -> None:
    with pytest.raises(UserError, match=r"^--batch-size: 2 is not allowed with trees, expected 1$"):
        TreeDecoder(llamas()[0], Wild(1, np.random.default_rng(0)), [[1], [2]], task_of(GREEDY, 3))


# Reading a tree.

READS_TREES = ("llama", "gpt2", "qwen3", "phi3", "gemma", "opt, learned positions", "mixtral, experts")
READS_TREES = (*READS_TREES, "deepseek, latent")
REFUSED = {
    "gemma2, hybrid window": "slides over a window",
    "gemma3, hybrid window": "slides over a window",
    "mistral": "slides over a window",
    "gpt_neo": "slides over a window",
    "mpt": "slides over a window",
    "bloom, no positions": "",
}
OTHERS = {
    "gemma": ("GemmaConfig", SHAPE | {"head_dim": 8}),
    "gpt_neo": (
        "GPTNeoConfig",
        {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]},
    ),
    "mpt": ("MptConfig", {"d_model": 16, "n_layers": 2, "n_heads": 2}),
}


def make(family: str) -> Model:
    if family in ("llama", "gpt2", "mistral"):
        return random_model(family, 61, 30)
    if family not in OTHERS:
        return make_family(family, 61)
    torch.manual_seed(61)
    name, changes = OTHERS[family]
    config = getattr(transformers, name)(**IDS | changes)
    return Model(module=transformers.AutoModelForCausalLM.from_config(config).eval(), vocabulary=30)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", READS_TREES)
def test_a_tree_is_read_as_its_branches_are(family: str, attention: str) -> None:
    """At once and in parts, one tree behind another, each behind a path of the one before it."""
    model, rng = make(family), np.random.default_rng(1)
    model.module.set_attn_implementation(attention)
    check_tree("--target", model)
    text = rng.integers(30, size=5).tolist()
    context = Context(model, 1)
    context.read(torch.tensor([text]), np.ones((1, 5), bool), 1)
    for parts in (1, 3, 2, 4):
        tree, before = random_tree(rng, 12, 5, 30), len(text)
        tokens = torch.from_numpy(tree.tokens)[None]
        cuts = np.linspace(0, 12, parts + 1).astype(int)
        found = [context.read_tree(tokens[:, a:b], tree.parents[:b])[0] for a, b in pairwise(cuts)]
        expected = torch.stack([logits_without_cache(model, [*text, *branch]) for branch in branches(tree)])
        torch.testing.assert_close(torch.cat(found), expected, rtol=1e-3, atol=1e-3)
        path, at = list[int](), int(tree.depths.argmax())
        while at >= 0:
            path.insert(0, at)
            at = int(tree.parents[at])
        context.keep(before, before + np.array(path))
        text += tree.tokens[path].tolist()
        assert context.lengths.tolist() == [len(text)]
    found = context.read(torch.tensor([[3]]), np.ones((1, 1), bool), 1)[0]
    torch.testing.assert_close(found[0], logits_without_cache(model, [*text, 3]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("columns", [[], [5], [7], [5, 6, 9], [6, 8], [5, 7, 8, 9], [5, 6, 7, 8, 9]])
def test_a_commit_moves_the_trees_own_columns_alone(columns: list[int]) -> None:
    """What was committed before stays where it is in memory."""
    context = Context(llamas()[0], 1)
    context.read(torch.arange(5)[None], np.ones((1, 5), bool), 1)
    context.read_tree(torch.tensor([[1, 2, 3, 0, 4]]), np.array([-1, 0, 0, 1, 3]))
    held = [part for layer in context.cache.layers for part in (layer.keys, layer.values)]
    expected = [part[:, :, [*range(5), *columns]].clone() for part in held]
    context.keep(5, np.array(columns, np.int64))
    found = [part for layer in context.cache.layers for part in (layer.keys, layer.values)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert [part.data_ptr() for part in found] == [part.data_ptr() for part in held]
    assert context.lengths.tolist() == [5 + len(columns)]


@pytest.mark.parametrize("family", REFUSED)
def test_a_model_that_reads_trees_otherwise_is_refused_in_a_line(family: str) -> None:
    with pytest.raises(UserError, match=f"^--draft: .*{REFUSED[family]}") as caught:
        check_tree("--draft", make(family))
    assert "\n" not in str(caught.value)


def test_lower_precision_is_no_reason_to_refuse() -> None:
    model = make("llama")
    model.module.to(torch.bfloat16)
    check_tree("--target", model)


# SpecExec.


@dataclass
class Watched:
    """A grower, and what it proposed behind which text."""

    grower: SpecExec
    seen: list[tuple[Text, int, Tree]] = field(default_factory=list)

    @property
    def depth(self) -> int:
        return self.grower.depth

    def start(self, batch: Batch, prompts: Sequence[Sequence[int]]) -> None:
        self.grower.start(batch, prompts)

    def grow(self, batch: Batch, depth: int) -> Tree:
        tree = self.grower.grow(batch, depth)
        self.seen.append((tuple(batch.tokens[0, : batch.lengths[0]].tolist()), depth, tree))
        return tree

    def learn(self, batch: Batch, tree: Tree, walk: Walk, committed: int) -> None:
        self.grower.learn(batch, tree, walk, committed)


Shape = dict[str, Any]


def reference(q: Say, shape: Shape, depth: int, ends: Sequence[int]) -> tuple[set[Text], list[list[Text]]]:
    """The algorithm over dictionaries, the whole vocabulary at each node: the tree, and what each pass reads."""
    scores: dict[Text, float] = {}
    read: list[list[Text]] = []
    for _ in range(min(shape["k"], depth)):
        known = {path for paths in read for path in paths}
        full = len(scores) == shape["tree_budget"]
        worth = [p for p in scores if p not in known and p[-1] not in ends and not (full and p == worst(scores))]
        chosen = [()] if not read else heapq.nlargest(shape["parallel_branches"], worth, key=scores.__getitem__)
        if not chosen:
            break
        read.append(chosen)
        for path in chosen:
            law = q(path)
            for token in np.flatnonzero(law >= shape.get("branch_prune_threshold", 0) * law.max()).tolist():
                scores[(*path, token)] = scores.get(path, 0.0) + float(np.log(law[token]))
        scores = dict(heapq.nlargest(shape["tree_budget"], scores.items(), key=lambda item: item[1]))
    return set(scores), read


def worst(scores: dict[Text, float]) -> Text:
    return min(scores, key=scores.__getitem__)


def best_of_all(q: Say, depth: int, budget: int) -> set[Text]:
    """The nodes of the largest q among all there are."""
    scores: dict[Text, float] = {}
    level: dict[Text, float] = {(): 0.0}
    for _ in range(depth):
        level = {(*p, t): s + float(np.log(m)) for p, s in level.items() for t, m in enumerate(q(p))}
        scores |= level
    return set(heapq.nlargest(budget, scores, key=scores.__getitem__))


def grown(shape: Shape, rule: SamplingRule, budget: int, ends: tuple[int, ...] = ()) -> tuple[Watched, Decoded]:
    target, draft = llamas()
    watched = Watched(SpecExec(draft, rule, **shape))
    decoder = TreeDecoder(replace(target, ends=ends), watched, [[1, 0, 2]], task_of(FREE, budget, 4))
    return watched, run(decoder)[0]


def as_reference(shape: Shape, rule: SamplingRule, budget: int, ends: tuple[int, ...] = ()) -> bool:
    """Whether the trees of all rounds are the reference's."""
    watched, output = grown(shape, rule, budget, ends)
    found = True
    for (text, depth, tree), done in zip(watched.seen, output.rounds, strict=True):
        q = Say(llamas()[1], replace(rule, temperature=rule.temperature or 1.0), text)
        expected, read = reference(q, shape, depth, ends)
        found &= set(branches(tree)) == expected and tree.passes == done.draft_passes == len(read)
        # Behind each node that was read, as many candidates as could stay.
        most = min(shape["tree_budget"], VOCABULARY)
        least = shape.get("branch_prune_threshold", 0)
        behind = [np.sort(q(path))[::-1][:most] for paths in read for path in paths]
        below = sum(int((law < least * law[0]).sum()) for law in behind)
        found &= tree.pruned == done.pruned == below
        found &= tree.over_budget == done.over_budget == most * len(behind) - below - len(expected)
        assert len(tree.tokens) <= shape["tree_budget"]
    return found


@pytest.mark.parametrize("budget", [1, 2, 7, 20, 60, 155])
@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_with_branches_enough_the_tree_is_the_best_there_is(budget: int, temperature: float) -> None:
    shape = {"k": 3, "tree_budget": budget, "parallel_branches": 200}
    watched, output = grown(shape, SamplingRule(temperature=temperature), 14)
    assert len(watched.seen) > 3
    for text, depth, tree in watched.seen:
        q = Say(llamas()[1], SamplingRule(temperature=temperature or 1.0), text)
        paths = branches(tree)
        assert len(set(paths)) == len(paths)
        assert set(paths) == best_of_all(q, min(3, depth), budget)
    assert output.tokens == plain(llamas()[0], [1, 0, 2], task_of(FREE, 14, 4))


shapes = st.fixed_dictionaries(
    {
        "k": st.integers(1, 6),
        "tree_budget": st.integers(1, 40),
        "parallel_branches": st.integers(1, 6),
        "branch_prune_threshold": st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    }
)


@settings(deadline=None, max_examples=60)
@given(shapes, st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.sampled_from([(), (3,)]))
def test_with_few_branches_the_tree_is_the_references(shape: Shape, temperature: float, ends: tuple[int, ...]) -> None:
    assert as_reference(shape, SamplingRule(temperature=temperature), 10, ends)


def test_with_one_branch_the_best_tree_is_missed() -> None:
    """The negative control of the two above: branches matter at this size."""
    watched, _ = grown({"k": 3, "tree_budget": 20, "parallel_branches": 1}, FREE, 14)
    missed = [set(branches(t)) != best_of_all(Say(llamas()[1], FREE, x), min(3, d), 20) for x, d, t in watched.seen]
    assert any(missed)


def test_pruning_keeps_siblings_near_the_best_alone() -> None:
    shape = {"k": 3, "tree_budget": 60, "parallel_branches": 60}
    sizes = []
    for threshold in (0.0, 0.1, 1.0):
        watched, _ = grown(shape | {"branch_prune_threshold": threshold}, FREE, 4)
        text, _, tree = watched.seen[0]
        sizes.append(len(tree.tokens))
        q = Say(llamas()[1], FREE, text)
        for path in branches(tree):
            assert q(path[:-1])[path[-1]] >= threshold * q(path[:-1]).max() * (1 - 1e-5)
    assert sizes[0] > sizes[1] > sizes[2] == 3  # first choices alone are a chain


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({}, (6, 5, 0, 0)),  # 3 behind the text, and 3 behind the best of them
        ({"branch_prune_threshold": 0.4}, (3, 2, 3, 0)),  # of 0.6, 0.3, 0.1 one goes, of 0.7, 0.2, 0.1 two
        ({"tree_budget": 4}, (4, 3, 0, 2)),  # 0.6, 0.3, 0.42 and 0.12 stay, 0.1 and 0.06 go
        ({"tree_budget": 2}, (2, 1, 0, 2)),  # no more than 2 are looked at either time
        ({"tree_budget": 2, "branch_prune_threshold": 0.4}, (2, 1, 1, 1)),  # of 0.6, 0.3, 0.42, 0.12 the last goes
        ({"k": 1}, (3, 3, 0, 0)),
        ({"parallel_branches": 2}, (9, 7, 0, 0)),
        ({"ends": (0,)}, (6, 5, 0, 0)),  # what ends the text has no children
    ],
)
def test_nodes_leaves_and_lost_candidates_by_hand(shape: Shape, expected: tuple[int, int, int, int]) -> None:
    """A draft that says 0, 1, 2 with 0.6, 0.3, 0.1 behind a 2, with 0.7, 0.2, 0.1 elsewhere."""
    draft = Table(0)
    draft.by_token, draft.by_position = torch.tensor([0.7, 0.2, 0.1]).log().expand(4, 3, 3).clone(), torch.zeros(16, 3)
    draft.by_token[:, 2] = torch.tensor([0.6, 0.3, 0.1]).log()
    shape = {"k": 2, "tree_budget": 20, "parallel_branches": 1} | shape
    ends = shape.pop("ends", ())
    grower = SpecExec(Model(module=draft, vocabulary=3), FREE, **shape)
    decoder = TreeDecoder(Model(module=tables()[0], vocabulary=3, ends=ends), grower, [[1, 2]], task_of(FREE, 9))
    tree = decoder.propose()
    assert (len(tree.tokens), tree.leaves, tree.pruned, tree.over_budget) == expected
    decoder.commit(tree, decoder.verify(tree))
    [done] = decoder.batch.outputs[0].rounds
    assert (done.drafted, done.leaves, done.pruned, done.over_budget) == expected


def test_what_cannot_come_next_is_no_node() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 1.0, -torch.inf, -torch.inf]])
    grower = SpecExec(llamas()[1], FREE, k=1, tree_budget=9, parallel_branches=1)
    found = grower.children(logits, np.array([-1]), np.zeros(1))
    assert found.tokens.tolist() == [2, 0]
    np.testing.assert_allclose(found.scores, logits.log_softmax(-1)[0, [2, 0]], rtol=1e-6)
    assert (found.pruned, found.over_budget) == (0, 0)


@pytest.mark.parametrize("seed", range(6))
def test_caches_hold_no_more_than_what_is_committed_but_the_last(seed: int) -> None:
    """Even where an end of sequence cuts the path."""
    target, draft = (replace(m, ends=(1, 4)) for m in llamas())
    grower = SpecExec(draft, FREE, k=4, tree_budget=20, parallel_branches=4)
    decoder = TreeDecoder(target, grower, [[1, 0, 2]], task_of(FREE, 30, seed))
    running = np.array([0])
    while len(running):
        tree = decoder.propose()
        found = decoder.verify(tree)
        running = decoder.commit(tree, found)
        assert decoder.batch.target.lengths == decoder.batch.lengths - 1
        assert decoder.batch.lengths - 2 <= grower.context.lengths <= decoder.batch.lengths - 1


# What the draft's cache must not do. Each of these shows in the trees alone: the output stays exact.

Mutate = Callable[[pytest.MonkeyPatch], None]


def siblings_are_seen(patch: pytest.MonkeyPatch) -> None:
    """Every node sees all columns up to its own."""
    right = Context.run

    def run_(context, tokens, positions, mask, keep):  # type: ignore[no-untyped-def]
        if mask is not None:
            width = mask.shape[-1]
            mask = torch.zeros_like(mask).masked_fill(
                torch.arange(width) > torch.arange(width - mask.shape[-2], width)[:, None], torch.finfo(mask.dtype).min
            )
        return right(context, tokens, positions, mask, keep)

    patch.setattr(Context, "run", run_)


def positions_by_column(patch: pytest.MonkeyPatch) -> None:
    right = Context.run

    def run_(context, tokens, positions, mask, keep):  # type: ignore[no-untyped-def]
        if mask is not None:
            width = mask.shape[-1]
            positions = np.arange(width - tokens.shape[1], width)[None]
        return right(context, tokens, positions, mask, keep)

    patch.setattr(Context, "run", run_)


def kept_columns_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """The last column that is kept is the one behind it."""
    right = Context.keep

    def keep(context, before, columns):  # type: ignore[no-untyped-def]
        moved = columns.copy()
        moved[-1:] = np.minimum(moved[-1:] + 1, context.live.shape[1] - 1)
        right(context, before, moved)

    patch.setattr(Context, "keep", keep)


def earlier_nodes_are_not_seen(patch: pytest.MonkeyPatch) -> None:
    """Of a tree read in several passes, each pass sees the sequence and its own nodes alone."""
    right = Context.read_tree

    def read_tree(context, tokens, parents):  # type: ignore[no-untyped-def]
        earlier = len(parents) - tokens.shape[1]
        return right(context, tokens, np.where(parents < earlier, -1, parents))

    patch.setattr(Context, "read_tree", read_tree)


SHOWN = {"k": 4, "tree_budget": 20, "parallel_branches": 4}


def test_the_draft_without_a_bug_grows_the_references_trees() -> None:
    assert as_reference(SHOWN, FREE, 20)


@pytest.mark.parametrize(
    "mutate",
    [siblings_are_seen, positions_by_column, kept_columns_off_by_one, earlier_nodes_are_not_seen],
    ids=lambda m: m.__name__,
)
def test_a_known_bug_shows_in_the_trees(mutate: Mutate, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    assert not as_reference(SHOWN, FREE, 20)


@pytest.mark.parametrize("branch_count", [1, 3, 40])
def test_draft_passes_are_counted_and_nothing_is_read_twice(branch_count: int) -> None:
    shape = {"k": 4, "tree_budget": 24, "parallel_branches": branch_count}
    columns: list[int] = []
    hook = llamas()[1].module.register_forward_pre_hook(
        lambda m, args, told: columns.append(told["input_ids"].shape[1]), with_kwargs=True
    )
    watched, output = grown(shape, FREE, 30)
    hook.remove()
    assert columns[:1] == [2]  # the prompt
    del columns[:1]
    assert len(columns) == sum(r.draft_passes for r in output.rounds)
    expected, before, already = list[int](), 2, set[Text]()
    for text, depth, _ in watched.seen:
        new, read = text[before:], reference(Say(llamas()[1], FREE, text), shape, depth, ())[1]
        known = sum(new[:n] in already for n in range(1, len(new)))  # of the path, by the round before
        expected += [len(new) - known, *map(len, read[1:])][: len(read)]
        before, already = len(text), {path for paths in read[1:] for path in paths}
    assert columns == expected
    assert max(r.draft_passes for r in output.rounds) == 4


# SpecExec on the bundled pair, and as a method.

PAIR = Path(acceptance.__file__).parent / "tiny_pair"


def test_a_tree_accepts_more_than_a_chain_of_as_many_draft_passes() -> None:
    """Greedy, on four prompts: at least 1.3 times as many tokens a round (1.6 times when this was written)."""
    pair = models.load_pair(str(PAIR / "target"), str(PAIR / "draft"), device="cpu", dtype="float32")
    texts = [json.loads(line)["prompt"] for line in (PAIR / "prompts.jsonl").read_text().splitlines()[:4]]
    begin = METHOD.begin(Models(target=pair.target, draft=pair.draft), Options(draft_rule=GREEDY, k=4, tree_budget=32))

    def chain(prompts: list[list[int]], task: Task) -> Decoder:
        return Chain(pair.target, ModelDraft(pair.draft, GREEDY), prompts, task, lengths=FixedLength(4))

    found: dict[str, list[Decoded]] = {"tree": [], "chain": []}
    for text in texts:
        prompt = pair.tokenizer(text)["input_ids"][-100:]
        for name, method in (("tree", begin), ("chain", chain)):
            found[name] += run(method([prompt], task_of(GREEDY, 48)))
    assert [d.tokens for d in found["tree"]] == [d.tokens for d in found["chain"]]
    accepted, passes = (
        {n: np.mean([getattr(r, what) for d in ds for r in d.rounds]) for n, ds in found.items()}
        for what in ("accepted", "draft_passes")
    )
    assert passes["tree"] < passes["chain"] * 1.05
    assert accepted["tree"] > 1.3 * accepted["chain"]


def test_the_method_checks_that_both_models_read_trees() -> None:
    good, bad = make("llama"), make("mistral")
    options = Options(draft_rule=GREEDY)
    for option, target, draft in (("--target", bad, good), ("--draft", good, bad)):
        with pytest.raises(UserError, match=f"^{option}: cannot read a tree in one pass"):
            METHOD.begin(Models(target=target, draft=draft), options)


# The joint law of the first tokens.


class Table(torch.nn.Module):
    """Logits from tables: by the column before the query that it sees last, by its token, by its position.

    So a wrong mask, a wrong column in the cache and a wrong position all change the law, as in a transformer.
    """

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, seed: int, noise: float = 0.0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        by_token, by_position = (torch.randn(shape, generator=random) for shape in ((4, 3, 3), (16, 3)))
        self.by_token = 0.7 * by_token + noise * torch.randn((4, 3, 3), generator=random)
        self.by_position = 0.4 * by_position
        self.config = PretrainedConfig(num_hidden_layers=1, vocab_size=3)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> SimpleNamespace:
        columns, new = input_ids.float()[:, None, :, None], input_ids.shape[1]
        if past_key_values is not None:
            columns, _ = past_key_values.update(columns, columns, 0)
        seen = columns[0, 0, :, 0].long()
        index = torch.arange(len(seen))
        own = index[-new:, None]
        sees = own > index if attention_mask is None else (attention_mask[0, 0] == 0) & (own > index)
        last = torch.where(sees, index, -1).amax(1)
        previous = torch.where(last < 0, 3, seen[last])
        positions = own[:, 0] if position_ids is None else position_ids[0]
        return SimpleNamespace(logits=(self.by_token[previous, input_ids[0]] + self.by_position[positions])[None])


@dataclass(frozen=True, kw_only=True)
class Case:
    """How SpecExec decodes."""

    name: str
    temperature: float = 1.0
    top_p: float = 1.0
    shape: tuple[int, int, int] = (3, 6, 2)
    ends: tuple[int, ...] = ()

    @property
    def rule(self) -> SamplingRule:
        return SamplingRule(temperature=self.temperature, top_p=self.top_p)

    def models(self) -> tuple[Model, Model]:
        return tuple(Model(module=m, vocabulary=3, ends=self.ends) for m in tables())  # type: ignore[return-value]

    def law(self) -> dict[int, dict[Text, float]]:
        return {0: enumerate_texts(Say(self.models()[0], self.rule, PROMPT), self.ends, 3)}

    def sample(self, outputs: int, seed: int) -> list[tuple[int, Decoded]]:
        (target, draft), (k, budget, count) = self.models(), self.shape
        found = []
        for i in range(outputs):
            grower = SpecExec(draft, self.rule, k=k, tree_budget=budget, parallel_branches=count)
            task = Task(rule=self.rule, max_new_tokens=4, rngs=laws.streams(seed, [i]))
            found.append((0, run(TreeDecoder(target, grower, [PROMPT], task))[0]))
        return found


@cache
def tables() -> tuple[Table, Table]:
    return Table(3), Table(3, noise=0.5)


PROMPT: Text = (0, 1, 1)
CASES = [
    Case(name="plain"),
    Case(name="cold-nucleus", temperature=0.7, top_p=0.9),
    Case(name="wide-end", temperature=1.5, shape=(2, 12, 12), ends=(1,)),
]
# Outputs of a case: they find a law at the total variation DISTANCE from the target's with a probability of POWER.
OUTPUTS, DISTANCE, POWER = 3200, 0.08, 0.9
FAMILY = len(CASES) + 6


def power(plan: Plan) -> float:
    """As `Plan.power`, for another distance and family."""
    noncentrality = 4 * plan.outputs * max(0.0, DISTANCE - plan.pooled) ** 2
    return float(stats.ncx2.sf(stats.chi2.isf(LEVEL / FAMILY, plan.freedom), plan.freedom, noncentrality))


@cache
def sampled(case: Case) -> list[tuple[int, Decoded]]:
    """Outputs of the loop as it is."""
    return case.sample(OUTPUTS, seed=CASES.index(case))


@pytest.mark.statistical
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_first_tokens_follow_the_targets_law_jointly(case: Case) -> None:
    outputs = sampled(case)
    assert len({r.accepted for _, d in outputs for r in d.rounds}) > 2
    assert g_test(tally(outputs, beginning), case.law()) > LEVEL / FAMILY
    assert power(plan_of(case.law(), OUTPUTS)) > POWER


def one_number_for_a_whole_path(patch: pytest.MonkeyPatch) -> None:
    right = tree_module.walk

    def walk_(logits, tree, task, prompt, hidden=None):  # type: ignore[no-untyped-def]
        number = task.rngs[prompt].random()
        same = SimpleNamespace(random=lambda: number)
        return right(logits, tree, replace(task, rngs=[same]), prompt, hidden)

    patch.setattr(tree_module, "walk", walk_)


def every_child_on_its_own(patch: pytest.MonkeyPatch) -> None:
    """Each child is accepted with p of its token, one after another; behind the last the token is drawn from p."""

    def walk_(logits, tree, task, prompt, hidden=None):  # type: ignore[no-untyped-def]
        children, rng, at, path = tree.children(), task.rngs[prompt], -1, []
        while True:
            law = laws.probabilities(logits[at + 1], task.rule).double()
            taken = next((n for token, n in children[at].items() if rng.random() < law[token]), None)
            if taken is None:
                following = int(laws.draw(law, torch.tensor(rng.random(), dtype=torch.float64)))
                return Walk(path=path, following=following)
            path.append(at := taken)

    patch.setattr(tree_module, "walk", walk_)


@pytest.mark.statistical
@pytest.mark.parametrize(
    "mutate",
    [
        siblings_are_seen,
        positions_by_column,
        kept_columns_off_by_one,
        one_number_for_a_whole_path,
        every_child_on_its_own,
    ],
    ids=lambda m: m.__name__,
)
def test_a_known_bug_in_the_loop_is_caught(mutate: Mutate, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    assert g_test(tally(CASES[0].sample(1000, seed=0), beginning), CASES[0].law()) < LEVEL / FAMILY


@pytest.mark.statistical
def test_the_loop_without_a_bug_passes_with_the_same_numbers() -> None:
    assert g_test(tally(sampled(CASES[0])[:1000], beginning), CASES[0].law()) > LEVEL / FAMILY
