"""Trees of drafts: which nodes there are, and how deep a text goes in them (model §3). Runs no model.

A node is the path of choices to it: (0, 2) is the third choice behind the first. It is accepted where the text's tokens
are those choices, one after another; so what trees accept follows from the places of tokens among the draft's choices,
known from a text (`RankTrace`) or as rates by depth.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.costs.step import Floats
from simulator.ground.ranks import CLASSES, RankTrace

Ints = NDArray[np.int64]
Path = tuple[int, ...]

# Candidates of trees that are looked at together, and in all: whole outputs of a longer text stand for it.
AT_ONCE, MOST_CANDIDATES = 1 << 20, 1 << 24
NOWHERE = -1
# Choices beside each other from which finding the best is faster than sorting all.
WIDE = 256


def paths_of(levels: Sequence[int]) -> tuple[Path, ...]:
    """Return the nodes of the tree whose nodes have so many children, level by level."""
    return tuple(path for to in range(1, len(levels) + 1) for path in product(*map(range, levels[:to])))


def check_tree(paths: Sequence[Path]) -> None:
    """Refuse nodes of which one is there twice, or without the node before it.

    Raises:
        ValueError: Names the node.
    """
    there = {()} | set(paths)
    for path in paths:
        if not path or min(path) < 0 or path[:-1] not in there:
            raise ValueError(f"node {path} has no node {path[:-1]} before it")
    if len(there) != len(paths) + 1:
        raise ValueError("a node is there twice")


def static_law(rates: Floats, paths: Sequence[Path]) -> Floats:
    """Return P(A = a) of a tree, [D + 1], where rates of places by depth, [D, R], hold whatever came before.

    P(A >= d) is the sum of the products of rates along each path of d nodes; E[A] is that over all nodes.
    """
    survival = np.zeros(len(rates))
    for path in paths:
        survival[len(path) - 1] += np.prod(rates[np.arange(len(path)), list(path)])
    return law_of(survival)


def law_of(survival: Floats) -> Floats:
    """Return P(A = a) for a in 0..K from P(A >= j) for j in 1..K."""
    return np.asarray(np.maximum(-np.diff(survival, prepend=1.0, append=0.0), 0.0), np.float64)


def static_depths(text: RankTrace, paths: Sequence[Path]) -> Ints:
    """Return how deep the text goes in a tree from each of its tokens on, within its output, [tokens]."""
    check_tree(paths)
    number = {(): 0} | {path: i for i, path in enumerate(sorted(paths, key=len), 1)}
    wide, levels = max(max(p) for p in paths) + 1, max(map(len, paths))
    child = np.full((len(number) + 1, wide + 1), NOWHERE)
    for path in paths:
        child[number[path[:-1]], path[-1]] = number[path]
    place = np.minimum(text.place, wide)
    ends = np.repeat(text.starts[1:], np.diff(text.starts))
    at, depth = np.zeros(len(place), np.int64), np.zeros(len(place), np.int64)
    start = np.arange(len(place))
    for level in range(levels):
        token = start + level
        goes_on = (at >= 0) & (token < ends)
        at = np.where(goes_on, child[at, place[np.minimum(token, len(place) - 1)]], NOWHERE)
        depth += at >= 0
    return depth


class Grown(NamedTuple):
    """Trees grown by confidence, one a root: what they might hold, before a budget of nodes.

    scores: of candidates, level by level, [roots, candidates]; ends: where each level ends among them, [levels]. on:
    the candidate that the text's token is at each level, NOWHERE where it is none, [roots, levels].
    """

    scores: Floats
    ends: Ints
    on: Ints


def grow(
    rates_at: Callable[[int, int, Ints], Floats], place_at: Callable[[int], Ints], topk: int, depth: int, roots: int
) -> Grown:
    """Grow trees as EAGLE-2 and SGLang do: at every level the topk best nodes get their topk best children.

    Where topk is no less than the budget of nodes, what is best among all is what a best-first search finds (SpecExec).

    Args:
        rates_at: Of a level, how many nodes are expanded and, of each root, which of them the text's tokens lead to,
            NOWHERE for none: what the draft gives its choices behind each of them, falling, [roots, nodes, choices].
        place_at: Of a level: places of the text's next tokens, above all choices where there are none, [roots].
        topk: Children, and nodes that get some.
        depth: Levels.
        roots: How many trees.
    """
    row, scores, on = np.arange(roots), list[Floats](), np.full((roots, depth), NOWHERE)
    expanded, followed, before = np.ones((roots, 1)), np.zeros(roots, np.int64), 0
    ends = np.zeros(depth, np.int64)
    for level in range(depth):
        rates = rates_at(level, expanded.shape[1], followed)
        found = (expanded[:, :, None] * rates).reshape(roots, -1)
        place = place_at(level)
        hit = (followed >= 0) & (place < rates.shape[2])
        child = np.where(hit, followed * rates.shape[2] + place, NOWHERE)
        on[:, level] = np.where(hit, before + child, NOWHERE)
        scores.append(found)
        before += found.shape[1]
        ends[level] = before
        best = best_of(found, topk)
        expanded, is_followed = found[row[:, None], best], (best == child[:, None]) & hit[:, None]
        followed = np.where(is_followed.any(1), is_followed.argmax(1), NOWHERE)
    return Grown(np.concatenate(scores, axis=1), ends, on)


def best_of(scores: Floats, count: int) -> Ints:
    """Return the places of the best of each row, best first, [rows, count]; of equals the earlier."""
    if scores.shape[1] <= max(WIDE, count):
        return np.argsort(-scores, axis=1, kind="stable")[:, :count]
    last = np.partition(scores, -count, axis=1)[:, -count, None]
    is_best = scores >= last
    spare = np.count_nonzero(is_best, axis=1) - count
    if (tied := spare > 0).any():
        is_last = scores[tied] == last[tied]
        is_best[tied] &= ~is_last | (is_last[:, ::-1].cumsum(1)[:, ::-1] > spare[tied, None])
    some = np.nonzero(is_best)[1].reshape(-1, count)
    order = np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable")
    return np.asarray(np.take_along_axis(some, order, 1), np.int64)


def grown_depths(grown: Grown, nodes: int) -> Ints:
    """Return how many levels the text goes in trees of each depth that keep the best nodes, [depths, roots].

    No child is better than its parent, and of equals the earlier stays: what is kept is a tree.
    """
    roots, depth = grown.on.shape
    better = np.zeros((depth, depth, roots), np.int64)
    order = np.arange(grown.scores.shape[1])
    for level in range(depth):
        at = grown.on[:, level, None]
        own = np.take_along_axis(grown.scores, np.maximum(at, 0), 1)
        ahead = (grown.scores > own) | ((grown.scores == own) & (order < at))
        counted = np.add.reduceat(ahead, np.concatenate(([0], grown.ends[:-1])), axis=1, dtype=np.int64)
        better[level] = counted.cumsum(1).T
    is_kept = (better < nodes) & (grown.on.T[:, None] >= 0)
    reached = np.arange(depth)[:, None] <= np.arange(depth)  # a level there is in a tree of this depth
    return np.asarray((is_kept & reached[:, :, None]).sum(0), np.int64)


def rate_laws(rates: Floats, topk: int, nodes: int, believed: Floats | None = None) -> list[Floats]:
    """Return P(A = a) of such a tree of each depth from 1 on, where rates by depth hold.

    Args:
        rates: Of places by depth, whatever came before, [D, R].
        topk: Children, and nodes that get some.
        nodes: Those of the best that are kept.
        believed: What the draft takes for rates, by which it grows; None: the same.
    """
    believed = rates if believed is None else believed
    scores, trues, depths, laws = (list[NDArray[Any]]() for _ in range(4))
    score = true = np.ones(1)
    for level, (said, real) in enumerate(zip(believed[:, :topk], rates[:, :topk], strict=True)):
        found, met = np.outer(score, said).ravel(), np.outer(true, real).ravel()
        best = np.argsort(-found, kind="stable")[:topk]
        score, true = found[best], met[best]
        scores, trues, depths = [*scores, found], [*trues, met], [*depths, np.full(len(found), level)]
        kept = np.argsort(-np.concatenate(scores), kind="stable")[:nodes]
        survival = np.bincount(np.concatenate(depths)[kept], np.concatenate(trues)[kept], level + 1)
        laws.append(law_of(np.asarray(survival, np.float64)))
    return laws


def wandered(text: RankTrace) -> Floats:
    """Return how sure the draft is behind a token that was not its first choice: shares of classes, [CLASSES]."""
    behind = np.ones(len(text.place), bool)
    behind[text.starts[:-1]] = False
    behind[1:] &= text.place[:-1] > 0
    counts = np.bincount(text.confidence[behind], minlength=CLASSES).astype(np.float64)
    # Where the text holds none such: of all its tokens.
    counts = counts if counts.any() else np.bincount(text.confidence, minlength=CLASSES).astype(np.float64)
    return np.asarray(counts / counts.sum(), np.float64)


def grown_text_depths(text: RankTrace, topk: int, nodes: int, depth: int, rng: np.random.Generator) -> Ints:
    """Return how deep the text goes in trees grown from each of its tokens, of each depth from 1 on, [depths, tokens].

    Along the text the draft's confidence is known. Off it, it is drawn from what it is behind tokens that the draft did
    not expect: that is what is approximate. nodes: without the root.
    """
    shares, size = wandered(text).cumsum(), len(text.place)
    ends = np.repeat(text.starts[1:], np.diff(text.starts))
    q, none = text.q[:, :topk], text.q.shape[1]
    parts = []
    step = max(1, AT_ONCE // (topk + (depth - 1) * topk * topk))
    for first in range(0, size, step):
        start = np.arange(first, min(first + step, size))
        last = ends[start]

        def rates_at(level: int, count: int, followed: Ints, start: Ints = start) -> Floats:
            drawn = np.minimum(np.searchsorted(shares, rng.random((len(start), count))), CLASSES - 1)
            there = np.flatnonzero(followed >= 0)
            drawn[there, followed[there]] = text.confidence[np.minimum(start[there] + level, size - 1)]
            return np.asarray(q[drawn])

        def place_at(level: int, start: Ints = start, last: Ints = last) -> Ints:
            token = start + level
            return np.where(token < last, text.place[np.minimum(token, size - 1)], none)

        parts.append(grown_depths(grow(rates_at, place_at, topk, depth, len(start)), nodes))
    return np.concatenate(parts, axis=1)


def walk(depths: Ints, starts: Ints, k: int) -> Floats:
    """Return rounds by accepted drafts, [k + 1], of outputs decoded one after another; as for chains those are counted
    whose k drafted levels all lie within the output. depths: accepted by a round that starts at a token, [tokens].
    """
    following, counts = (np.arange(len(depths)) + depths + 1).tolist(), np.zeros(k + 1)
    accepted = depths.tolist()
    for at, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        while at + k <= end:
            counts[accepted[at]] += 1
            at = following[at]
    return counts
