"""What a trace says of trees, against trees that were decoded, and chains that were counted."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acceptance.decoders.batch import Batch
from acceptance.decoders.decoder import run
from acceptance.decoders.tree import Tree, TreeDecoder, Walk
from acceptance.estimate.estimators import expected_rounds
from acceptance.estimate.ranks import ranks_of
from acceptance.measure.scoring import Output, score
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from acceptance.trace.trace import PromptInfo, Trace, join
from simulator.ground.ranks import CLASSES, LAST_PLACE, RankTrace
from simulator.rounds.trees import Path as Node
from simulator.rounds.trees import grown_text_depths, paths_of, static_depths, walk

from .oracles import FREE, GREEDY, task_of
from .tiny_models import trigram_pair
from .traces import make_trace

SHAPES: tuple[tuple[Node, ...], ...] = (paths_of((2,) * 3), ((0,), (1,), (2,), (0, 0), (0, 1), (0, 0, 0)))


def trace_of_decoded(pair: tuple[Model, Model], prompts: Sequence[list[int]], texts: Sequence[list[int]], rule):
    info = tuple(PromptInfo(source=str(i)) for i in range(len(prompts)))
    outputs = [
        Output(prompt=i, turn=0, before=p, tokens=t) for i, (p, t) in enumerate(zip(prompts, texts, strict=True))
    ]
    return join(score(*pair, outputs, info, rule, GREEDY))


class Shape:
    """Proposes the choices of a draft that a list of nodes names; reads its text anew for each."""

    def __init__(self, draft: Model, paths: tuple[Node, ...]) -> None:
        self.draft, self.paths, self.depth = draft, paths, max(map(len, paths))

    def start(self, batch: Batch, prompts: Sequence[Sequence[int]]) -> None: ...

    def grow(self, batch: Batch, depth: int) -> Tree:
        text = batch.tokens[0, : batch.lengths[0]].tolist()
        paths = [p for p in self.paths if len(p) <= depth]
        written: dict[Node, list[int]] = {(): []}
        for path in paths:
            before = written[path[:-1]]
            logits = self.draft.module(torch.tensor([[*text, *before]])).logits[0, -1]
            written[path] = [*before, int(logits.argsort(descending=True)[path[-1]])]
        tokens = np.array([written[p][-1] for p in paths], np.int64)
        parents = np.array([paths.index(p[:-1]) if len(p) > 1 else -1 for p in paths], np.int64)
        return Tree(tokens=tokens, parents=parents, passes=len(paths))

    def learn(self, batch: Batch, tree: Tree, walk: Walk, committed: int) -> None: ...


@pytest.mark.parametrize("paths", SHAPES)
@pytest.mark.parametrize("rule", [GREEDY, FREE])
def test_trees_of_one_shape_accept_what_the_ranks_of_their_text_say(
    paths: tuple[Node, ...], rule: SamplingRule
) -> None:
    """Round by round, exactly, of a greedy and of a sampling target. Negative control: the ranks one token on."""
    pair = trigram_pair(5, vocabulary=6, apart=2.0)
    prompts = [[0, 1], [2], [3, 4, 5], [1, 5]]
    decoded = [
        run(TreeDecoder(pair[0], Shape(pair[1], paths), [p], task_of([i], 40, rule)))[0] for i, p in enumerate(prompts)
    ]
    text = ranks_of(trace_of_decoded(pair, prompts, [d.tokens for d in decoded], rule), 0.0)
    assert text is not None
    depths, moved = static_depths(text, paths), static_depths(text._replace(place=np.roll(text.place, 1)), paths)
    starts = [(text.starts[i] + r.start, r.accepted) for i, d in enumerate(decoded) for r in d.rounds if not r.cut_by]
    assert len(starts) > 30
    assert [depths[at] for at, _ in starts] == [accepted for _, accepted in starts]
    assert [moved[at] for at, _ in starts] != [accepted for _, accepted in starts]


@given(st.integers(0, 2**32), st.integers(1, 5))
def test_a_tree_with_one_child_everywhere_is_the_chain(seed: int, k: int) -> None:
    """The rounds that the histogram of the same trace counts, of a greedy draft."""
    rng = np.random.default_rng(seed)
    outputs = [rng.random(n) < 0.7 for n in rng.integers(k, 30, size=4)]
    accept = np.concatenate(outputs)
    rank = np.where(accept, 0, rng.integers(1, 50, size=len(accept)))
    trace = make_trace(outputs, rank_q=rank, max_q=rng.random(len(accept)))
    text = ranks_of(trace, 0.0)
    assert text is not None
    depths = grown_text_depths(text, 1, k, k, rng)[-1]
    assert walk(depths, text.starts, k) == pytest.approx(expected_rounds(trace, k, "greedy").counts.sum(0))


def known(trace: Trace) -> RankTrace:
    text = ranks_of(trace, 0.0)
    assert text is not None
    return text


def test_what_a_draft_gives_its_choices_by_how_sure_it_is() -> None:
    rng = np.random.default_rng(0)
    size = 4000
    first = rng.uniform(0.5, 0.9, size)
    second = (1 - first) * 0.6
    rank = rng.integers(0, 4, size)
    own = np.select([rank == 0, rank == 1], [first, second], (1 - first - second) * 0.5)
    made = {"rank_q": rank, "max_q": first, "margin_q": np.log(first / second), "log_q": np.log(own)}
    more = {"log_q_rejected": np.log(own)}
    text = known(make_trace([rank == 0], **made, **more))
    middle = np.array([first[text.confidence == c].mean() for c in range(CLASSES)])
    assert (np.diff(middle) > 0).all()
    assert text.q[:, 0] == pytest.approx(middle)
    # Mean over the class; two and three take half of what the first two leave, each.
    assert text.q[:, 1] == pytest.approx(0.6 * (1 - middle), rel=1e-5)
    assert text.q[:, 2:4] == pytest.approx(np.repeat(0.2 * (1 - middle)[:, None], 2, 1), rel=0.05)
    assert (text.q[:, 4:] < 0.01).all()
    # Margins are of logits, before the temperature that they are divided by.
    colder = ranks_of(make_trace([rank == 0], **{**made, "margin_q": np.log(first / second) / 2}, **more), 0.5)
    assert colder is not None
    assert colder.q == pytest.approx(text.q, rel=1e-5)
    # A trace of version 2 does not know q: how often tokens were such a choice stands in.
    old = known(make_trace([rank == 0], rank_q=rank, max_q=first))
    assert old.q[:, :4].mean(0) == pytest.approx(np.sort(np.bincount(rank) / size)[::-1], abs=0.06)
    assert old.place.max() <= LAST_PLACE
    assert ranks_of(make_trace([[1, 0]], rank_q=[-1, -1]), 0.0) is None
