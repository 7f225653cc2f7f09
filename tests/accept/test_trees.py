"""Trees: the walk, reading a tree in a pass, SpecExec; against plain decoding, plain reading and enumeration.

Long because SpecExec is compared with one reference under all of its mutations.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acceptance.decoders import speculative
from acceptance.decoders import tree as tree_module
from acceptance.decoders.batch import Batch, Decoded
from acceptance.decoders.decoder import run
from acceptance.decoders.method import Models, Options
from acceptance.decoders.specexec import METHOD, SpecExec
from acceptance.decoders.tree import Tree, TreeDecoder, Walk, check_tree, walk
from acceptance.estimate.ranks import ranks_of
from acceptance.measure.scoring import Output, score
from acceptance.models import laws
from acceptance.models.context import Context
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from acceptance.trace.trace import PromptInfo, join
from simulator.ground.artefacts import UserError
from simulator.rounds.trees import grown_text_depths

from .oracles import FREE, GREEDY, Say, Text, branches, instead_of, logits_without_cache, plain, task_of
from .test_families import make as make_family
from .tiny_models import Pair, bundled_pair, bundled_prompts, random_model, related_pair

VOCABULARY = 5


def llamas() -> Pair:
    return related_pair("llama", 51, VOCABULARY)


def random_tree(rng: np.random.Generator, nodes: int, depth: int, vocabulary: int = VOCABULARY) -> Tree:
    """Any tree no deeper than this; siblings may hold the same token."""
    depths = [0]
    parents = []
    for _ in range(nodes if depth > 0 else 0):
        parent = int(rng.choice([n for n, d in enumerate(depths) if d < depth])) - 1
        parents.append(parent)
        depths.append(depths[parent + 1] + 1)
    return Tree(tokens=rng.integers(vocabulary, size=len(parents)), parents=np.array(parents, np.int64))


@dataclass
class Wild:
    """Proposes trees at random, of so many nodes at most; notes what the target's hidden states are."""

    nodes: int
    rng: np.random.Generator
    rooms: list[int] = field(default_factory=list)
    seen: list[tuple[list[int], Tree, torch.Tensor | None]] = field(default_factory=list)
    depth: int = 5

    def start(self, batch: Batch, prompts: Sequence[Sequence[int]]) -> None: ...

    def grow(self, batch: Batch, depth: int) -> Tree:
        self.rooms.append(depth)
        return random_tree(self.rng, int(self.rng.integers(self.nodes + 1)), min(depth, self.depth))

    def learn(self, batch: Batch, tree: Tree, walk: Walk, committed: int) -> None:
        before = int(batch.lengths[0]) - committed
        self.seen.append((batch.tokens[0, :before].tolist(), tree, walk.hidden))


def check_rounds(output: Decoded, budget: int, ends: Sequence[int]) -> None:
    """Each round begins where the one before it ended; what an end of sequence or the budget cuts is said."""
    at = 0
    for done in output.rounds:
        assert done.start == at
        assert 0 <= done.accepted <= done.depth <= budget - at - 1
        assert done.depth <= done.drafted
        assert done.committed == done.accepted + 1 or done.committed <= done.accepted
        room = budget - at - 1
        assert done.cut_by == ("eos" if done.committed <= done.accepted else "max" if room < Wild.depth else "")
        at += done.committed
    assert at == len(output.tokens)
    assert not set(output.tokens[:-1]) & set(ends)
    assert len(output.tokens) == budget or (len(output.tokens) < budget and output.tokens[-1] in ends)


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
        task, twin = (task_of([0], 9, rule) for _ in range(2))
        assert walk(logits, tree, task, 0) == Walk(path=[0, 2, 4, 5], following=1)
        twin.rngs[0].random(numbers)
        assert task.rngs[0].random() == twin.rngs[0].random()


@settings(deadline=None, max_examples=60)
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
    [output] = run(TreeDecoder(target, grower, [prompt], task_of([0], budget, rule, seed)))
    assert [output.tokens] == plain(target, [prompt], budget, rule, seed)
    check_rounds(output, budget, ends)
    assert grower.rooms == [budget - r.start - 1 for r in output.rounds]


def test_the_walk_hands_on_the_targets_hidden_states() -> None:
    target, grower = llamas()[0], Wild(9, np.random.default_rng(5))
    run(TreeDecoder(target, grower, [[1, 2, 3]], task_of([0], 10, FREE), keep_hidden=True))
    assert max(len(tree.tokens) for _, tree, _ in grower.seen) > 4
    for text, tree, hidden in grower.seen:
        for found, branch in zip(hidden, [(), *branches(tree)], strict=True):
            read = target.module(torch.tensor([[*text, *branch]]), output_hidden_states=True)
            torch.testing.assert_close(found, read.hidden_states[-1][0, -1], rtol=1e-4, atol=1e-4)


def test_trees_take_one_sequence_at_a_time() -> None:
    with pytest.raises(UserError, match=r"^--batch-size: 2 is not allowed with trees, expected 1$"):
        TreeDecoder(llamas()[0], Wild(1, np.random.default_rng(0)), [[1], [2]], task_of([0], 3))


# Reading a tree.

READS_TREES = ["llama", "gpt2", "qwen3", "phi3", "gemma", "opt, learned positions", "mixtral, experts"]
READS_TREES += ["deepseek, latent", "gemma2, hybrid window", "gemma3, hybrid window", "mistral"]
BY_COLUMNS = ["gpt_neo", "mpt"]


def make(family: str) -> Model:
    return random_model(family, 61, 30) if family in ("llama", "gpt2", "mistral") else make_family(family, 61)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", READS_TREES)
def test_a_tree_is_read_as_its_branches_are(family: str, attention: str) -> None:
    """At once and in parts, one tree behind another, each behind a path of the one before it."""
    model, rng = make(family), np.random.default_rng(1)
    # Of Gemma 2 there is one kind alone.
    model.module.set_attn_implementation("eager" if family.startswith("gemma2") else attention)
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

    def held() -> list[torch.Tensor]:
        return [part for layer in context.cache.layers for part in (layer.keys, layer.values)]

    context = Context(llamas()[0], 1)
    context.read(torch.arange(5)[None], np.ones((1, 5), bool), 1)
    context.read_tree(torch.tensor([[1, 2, 3, 0, 4]]), np.array([-1, 0, 0, 1, 3]))
    expected, places = [part[:, :, [*range(5), *columns]].clone() for part in held()], [p.data_ptr() for p in held()]
    context.keep(5, np.array(columns, np.int64))
    assert all(torch.equal(a, b) for a, b in zip(held(), expected, strict=True))
    assert [part.data_ptr() for part in held()] == places
    assert context.lengths.tolist() == [5 + len(columns)]


@pytest.mark.parametrize("family", [*BY_COLUMNS, "bloom, no positions"])
def test_a_model_that_reads_trees_otherwise_is_refused_in_a_line(family: str) -> None:
    with pytest.raises(UserError, match=r"^--draft: .*" + "positions go by columns" * (family in BY_COLUMNS)) as caught:
        check_tree("--draft", make(family))
    assert "\n" not in str(caught.value)


def test_a_method_checks_both_models_and_takes_lower_precision() -> None:
    good, bad = make("llama"), make("mpt")
    # What differs is held against the spread of the logits, however large those are.
    scaled = make("llama")
    scaled.module.lm_head.weight.data *= 1e4
    check_tree("--target", scaled)
    good.module.to(torch.bfloat16)
    check_tree("--target", good)
    for option, target, draft in (("--target", bad, good), ("--draft", good, bad)):
        with pytest.raises(UserError, match=f"^{option}: cannot read a tree in one pass"):
            METHOD.begin(Models(target=target, draft=draft), Options(draft_rule=GREEDY))


# SpecExec.


Shape = dict[str, Any]


def reference(q: Say, shape: Shape, depth: int, ends: Sequence[int]) -> tuple[set[Text], list[list[Text]]]:
    """The algorithm over dictionaries, the whole vocabulary at each node: the tree, and what each pass reads."""
    scores: dict[Text, float] = {}
    read: list[list[Text]] = []
    for _ in range(min(shape["k"], depth)):
        passed_over = {path for paths in read for path in paths}
        if len(scores) == shape["tree_budget"]:
            passed_over.add(min(scores, key=scores.__getitem__))
        worth = [path for path in scores if path not in passed_over and path[-1] not in ends]
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


def best_of_all(q: Say, depth: int, budget: int) -> set[Text]:
    """The nodes of the largest q among all there are."""
    scores: dict[Text, float] = {}
    level: dict[Text, float] = {(): 0.0}
    for _ in range(depth):
        level = {(*p, t): s + float(np.log(m)) for p, s in level.items() for t, m in enumerate(q(p))}
        scores |= level
    return set(heapq.nlargest(budget, scores, key=scores.__getitem__))


Seen = tuple[Text, int, Tree]  # a text, how deep a tree behind it may be, and the tree


def grown(shape: Shape, rule: SamplingRule, budget: int, ends: tuple[int, ...] = ()) -> tuple[list[Seen], Decoded]:
    """Decode, and note what was proposed behind which text."""
    (target, draft), seen = llamas(), list[Seen]()
    grower = SpecExec(draft, rule, **shape)

    def grow(batch: Batch, depth: int) -> Tree:
        tree = SpecExec.grow(grower, batch, depth)
        seen.append((tuple(batch.tokens[0, : batch.lengths[0]].tolist()), depth, tree))
        return tree

    grower.grow = grow  # type: ignore[method-assign]
    decoder = TreeDecoder(replace(target, ends=ends), grower, [[1, 0, 2]], task_of([0], budget, FREE, 4))
    return seen, run(decoder)[0]


def as_reference(shape: Shape, rule: SamplingRule, budget: int, ends: tuple[int, ...] = ()) -> bool:
    """Whether the trees of all rounds are the reference's."""
    seen, output = grown(shape, rule, budget, ends)
    found = True
    for (text, depth, tree), done in zip(seen, output.rounds, strict=True):
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
        assert (done.drafted, done.leaves) == (len(tree.tokens), tree.leaves)
        assert len(tree.tokens) <= shape["tree_budget"]
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_with_branches_enough_the_tree_is_the_best_there_is(temperature: float) -> None:
    q_rule = SamplingRule(temperature=temperature or 1.0)
    for budget, branch_count in ((1, 200), (2, 200), (7, 200), (20, 200), (60, 200), (155, 200), (20, 1)):
        shape = {"k": 3, "tree_budget": budget, "parallel_branches": branch_count}
        seen, output = grown(shape, SamplingRule(temperature=temperature), 14)
        assert len(seen) > 3
        assert all(len(set(branches(tree))) == len(tree.tokens) for _, _, tree in seen)
        best = [best_of_all(Say(llamas()[1], q_rule, text), min(3, depth), budget) for text, depth, _ in seen]
        # The negative control: branches matter at this size.
        assert (best == [set(branches(tree)) for _, _, tree in seen]) == (branch_count > 1)
        assert [output.tokens] == plain(llamas()[0], [[1, 0, 2]], 14, FREE, 4)


thresholds = st.sampled_from([0.0, 0.1, 0.5, 1.0])
sizes = {"k": st.integers(1, 6), "tree_budget": st.integers(1, 40), "parallel_branches": st.integers(1, 6)}
shapes = st.fixed_dictionaries(sizes | {"branch_prune_threshold": thresholds})


@settings(deadline=None, max_examples=40)
@given(shapes, st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.sampled_from([(), (3,)]))
def test_with_few_branches_the_tree_is_the_references(shape: Shape, temperature: float, ends: tuple[int, ...]) -> None:
    assert as_reference(shape, SamplingRule(temperature=temperature), 10, ends)


def test_what_cannot_come_next_is_no_node() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 1.0, -torch.inf, -torch.inf]])
    grower = SpecExec(llamas()[1], FREE, k=1, tree_budget=9, parallel_branches=1)
    found = grower.children(logits, np.array([-1]), np.zeros(1))
    assert found.tokens.tolist() == [2, 0]
    np.testing.assert_allclose(found.scores, logits.log_softmax(-1)[0, [2, 0]], rtol=1e-6)
    assert (found.pruned, found.over_budget) == (0, 0)


def test_caches_hold_no_more_than_what_is_committed_but_the_last() -> None:
    """Even where an end of sequence cuts the path."""
    target, draft = (replace(m, ends=(1, 4)) for m in llamas())
    for seed in range(6):
        grower = SpecExec(draft, FREE, **SHOWN)
        decoder = TreeDecoder(target, grower, [[1, 0, 2]], task_of([0], 30, FREE, seed))
        running = np.array([0])
        while len(running):
            tree = decoder.propose()
            running = decoder.commit(tree, decoder.verify(tree))
            assert decoder.batch.target.lengths == decoder.batch.lengths - 1
            assert decoder.batch.lengths - 2 <= grower.context.lengths <= decoder.batch.lengths - 1


# What the draft's cache must not do. Each of these shows in the trees alone: the output stays exact.


def runs_with(patch: pytest.MonkeyPatch, change: Callable) -> None:
    """Let every pass over a tree have other positions or another mask."""

    @instead_of(patch, Context, "run")
    def run_(right, context, tokens, positions, mask, keep):  # type: ignore[no-untyped-def]
        if mask is not None:
            positions, mask = change(positions, mask, np.arange(mask.shape[-1] - tokens.shape[1], mask.shape[-1]))
        return right(context, tokens, positions, mask, keep)


def siblings_are_seen(patch: pytest.MonkeyPatch) -> None:
    """Every node sees all columns up to its own."""

    def change(positions, mask, own):  # type: ignore[no-untyped-def]
        later = torch.arange(mask.shape[-1]) > torch.from_numpy(own)[:, None]
        return positions, torch.zeros_like(mask).masked_fill(later, torch.finfo(mask.dtype).min)

    runs_with(patch, change)


def positions_by_column(patch: pytest.MonkeyPatch) -> None:
    runs_with(patch, lambda positions, mask, own: (own[None], mask))


def kept_columns_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """The last column that is kept is the one behind it."""

    @instead_of(patch, Context, "keep")
    def keep(right, context, before, columns):  # type: ignore[no-untyped-def]
        moved = columns.copy()
        moved[-1:] = np.minimum(moved[-1:] + 1, context.live.shape[1] - 1)
        right(context, before, moved)


def earlier_nodes_are_not_seen(patch: pytest.MonkeyPatch) -> None:
    """Of a tree read in several passes, each pass sees the sequence and its own nodes alone."""

    @instead_of(patch, Context, "read_tree")
    def read_tree(right, context, tokens, parents):  # type: ignore[no-untyped-def]
        earlier = len(parents) - tokens.shape[1]
        return right(context, tokens, np.where(parents < earlier, -1, parents))


SHOWN = {"k": 4, "tree_budget": 20, "parallel_branches": 4}
IN_THE_CACHE = [siblings_are_seen, positions_by_column, kept_columns_off_by_one]


def test_a_known_bug_shows_in_the_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_reference(SHOWN, FREE, 20)
    for mutate in (*IN_THE_CACHE, earlier_nodes_are_not_seen):
        with monkeypatch.context() as patch:
            mutate(patch)
            assert not as_reference(SHOWN, FREE, 20), mutate.__name__


@pytest.mark.parametrize("branch_count", [1, 3, 40])
def test_draft_passes_are_counted_and_nothing_is_read_twice(branch_count: int) -> None:
    shape = {"k": 4, "tree_budget": 24, "parallel_branches": branch_count}
    columns: list[int] = []
    hook = llamas()[1].module.register_forward_pre_hook(
        lambda module, args, inputs: columns.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    seen, output = grown(shape, FREE, 30)
    hook.remove()
    assert columns.pop(0) == 2  # the prompt
    assert len(columns) == sum(r.draft_passes for r in output.rounds)
    expected, before, already = list[int](), 2, set[Text]()
    for text, depth, _ in seen:
        new, read = text[before:], reference(Say(llamas()[1], FREE, text), shape, depth, ())[1]
        known = sum(new[:n] in already for n in range(1, len(new)))  # of the path, by the round before
        expected += [len(new) - known, *map(len, read[1:])][: len(read)]
        before, already = len(text), {path for paths in read[1:] for path in paths}
    assert columns == expected
    assert max(r.draft_passes for r in output.rounds) == 4


# SpecExec on the bundled pair, and as a method.


def test_a_tree_accepts_more_than_a_chain_of_as_many_draft_passes_and_what_ranks_tell() -> None:
    """Greedy, on four prompts: at least 1.3 times as many tokens a round (1.6 times when this was written).

    The ranks of the same text tell tokens a round within 5 %; of all 48 prompts it was 0.6 to 3.3 % too few. Negative
    control: with confidence turned round, they do not.
    """
    pair = Models(target=bundled_pair().target, draft=bundled_pair().draft)
    tree = METHOD.begin(pair, Options(draft_rule=GREEDY, k=4, tree_budget=32))
    chain = speculative.METHOD.begin(pair, Options(draft_rule=GREEDY, k=4))
    prompts = [prompt[-100:] for prompt in bundled_prompts()[:4]]
    trees, chains = ([run(method([p], task_of([0], 48)))[0] for p in prompts] for method in (tree, chain))
    assert [d.tokens for d in trees] == [d.tokens for d in chains]
    rounds, of_chains = ([r for d in found for r in d.rounds] for found in (trees, chains))
    assert np.mean([r.draft_passes for r in rounds]) < 1.05 * np.mean([r.draft_passes for r in of_chains])
    assert np.mean([r.accepted for r in rounds]) > 1.3 * np.mean([r.accepted for r in of_chains])
    both = enumerate(zip(prompts, trees, strict=True))
    outputs = [Output(prompt=i, turn=0, before=p, tokens=d.tokens) for i, (p, d) in both]
    info = tuple(PromptInfo(source=str(i)) for i in range(4))
    text = ranks_of(join(score(pair.target, pair.draft, outputs, info, GREEDY, GREEDY)), 0.0)
    assert text is not None
    at = np.array([text.starts[i] + r.start for i, d in enumerate(trees) for r in d.rounds if not r.cut_by])
    means = [
        1 + grown_text_depths(some, 32, 32, 4, np.random.default_rng(0))[-1][at].mean()
        for some in (text, text._replace(confidence=text.confidence.max() - text.confidence))
    ]
    decoded = 1 + np.mean([r.accepted for r in rounds if not r.cut_by])
    assert means[0] == pytest.approx(decoded, rel=0.05)
    assert means[1] != pytest.approx(decoded, rel=0.05)


# The loop with SpecExec, and what it must not do.


def one_number_for_a_whole_path(patch: pytest.MonkeyPatch) -> None:
    @instead_of(patch, tree_module, "walk")
    def walk_(right, logits, tree, task, prompt, hidden=None):  # type: ignore[no-untyped-def]
        number = task.rngs[prompt].random()
        same = SimpleNamespace(random=lambda: number)
        return right(logits, tree, replace(task, rngs=[same]), prompt, hidden)


def every_child_on_its_own(patch: pytest.MonkeyPatch) -> None:
    """Each child is accepted with p of its token, one after another; behind the last the token is drawn from p."""

    @instead_of(patch, tree_module, "walk")
    def walk_(right, logits, tree, task, prompt, hidden=None):  # type: ignore[no-untyped-def]
        children, rng, at, path = tree.children(), task.rngs[prompt], -1, []
        while True:
            law = laws.probabilities(logits[at + 1], task.rule).double()
            taken = next((n for token, n in children[at].items() if rng.random() < law[token]), None)
            if taken is None:
                following = int(laws.draw(law, torch.tensor(rng.random(), dtype=torch.float64)))
                return Walk(path=path, following=following)
            path.append(at := taken)


def is_plain(rule: SamplingRule, ends: tuple[int, ...], seed: int) -> bool:
    """Whether the output is, token by token, what plain decoding draws from the same stream."""
    target, draft = (replace(m, ends=ends) for m in llamas())
    decoder = TreeDecoder(target, SpecExec(draft, rule, **SHOWN), [[0, 1, 1]], task_of([0], 20, rule, seed))
    return [run(decoder)[0].tokens] == plain(target, [[0, 1, 1]], 20, rule, seed)


def test_specexec_writes_what_plain_decoding_draws_and_a_known_bug_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    nucleus, hot = SamplingRule(temperature=0.7, top_p=0.9), SamplingRule(temperature=1.5)
    for rule, ends in ((GREEDY, ()), (FREE, ()), (nucleus, ()), (hot, (1,))):
        assert all(is_plain(rule, ends, seed) for seed in range(10))
    for mutate in (*IN_THE_CACHE, one_number_for_a_whole_path, every_child_on_its_own):
        with monkeypatch.context() as patch:
            mutate(patch)
            assert not all(is_plain(FREE, (), seed) for seed in range(20)), mutate.__name__
