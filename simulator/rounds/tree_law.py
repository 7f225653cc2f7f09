"""What rounds of trees accept, as a histogram for each depth: from the ranks of a text, or from rates of a chain."""

from dataclasses import replace

import numpy as np

from simulator.costs.drafters.plan import Tree
from simulator.costs.step import Floats
from simulator.ground.artefacts import UserError
from simulator.ground.histogram import AcceptanceHistogram
from simulator.ground.ranks import LAST_PLACE, parse_ranks

from .acceptance_law import HistogramAcceptance, IidAcceptance
from .priors import believed, further_choices
from .trees import (
    MOST_CANDIDATES,
    grown_text_depths,
    paths_of,
    rate_laws,
    static_depths,
    static_law,
    walk,
)

# Off a text nobody knows how sure the draft was: drawn alike in every forecast.
SEED = 0
# Levels of trees that are looked at, where nobody asks for more.
LEVELS = 16
ALONG = "trees grown along the text's ranks; beside the text, how sure the draft is is drawn from the text"

FROM_RATES = "further choices {}, the draft's confidence as of published trees"


def tree_acceptance(source: HistogramAcceptance, tree: Tree, longest: int) -> HistogramAcceptance:
    """Return what trees of each depth up to the longest accept, by what was measured of chains, or of their ranks.

    Raises:
        UserError: The trees have more choices than ranks tell of.
    """
    if tree.topk > LAST_PLACE:
        raise UserError(f"--topk: {tree.topk} is above {LAST_PLACE}, the last choice of a draft that ranks tell of")
    if tree.topk == 1:
        return chain_acceptance(source, tree.nodes - 1)
    if tree.levels:
        if longest > len(tree.levels):
            levels = len(tree.levels)
            raise UserError(f"--draftN: {longest} is above {levels}, the levels of --branching, expected 1 to {levels}")
        return static_acceptance(source, tree)
    measured = source.nearest(source.longest)
    # Ranks tell of trees deeper than the chains that were measured.
    longest = max(longest, LEVELS if measured.ranks is not None else source.longest)
    depth = min(longest, tree.nodes - 1)
    if measured.ranks is not None:
        found = of_text(measured, tree, depth)
    else:
        found = of_rates(measured, rates_of(source)[0][:depth], tree)
    more = longest - depth if len(found) == tree.nodes - 1 else 0
    return HistogramAcceptance((*found, *deeper(found[-1], more)))


def chain_acceptance(source: HistogramAcceptance, nodes: int) -> HistogramAcceptance:
    """Return what trees of one choice accept: as chains of each length, cut from what was measured as those are."""
    depth = min(source.longest, nodes)
    found = [source.nearest(k).cut(k) for k in range(1, depth + 1)]
    return HistogramAcceptance((*found, *deeper(found[-1], source.longest - depth)))


def static_acceptance(source: HistogramAcceptance, tree: Tree) -> HistogramAcceptance:
    """Return what static trees of each number of levels accept: exactly along a text's ranks, else by rates."""
    measured, found = source.nearest(source.longest), list[AcceptanceHistogram]()
    text = parse_ranks(measured.ranks) if measured.ranks is not None else None
    rates, caveat = rates_of(source)
    for depth in range(1, min(len(tree.levels), LEVELS if text else source.longest) + 1):
        paths = paths_of(tree.levels[:depth])
        if text is not None:
            counts = walk(static_depths(text, paths), text.starts, depth)
            found.append(replace(measured, counts=tuple(counts.tolist()), ranks=None))
        else:
            law = static_law(rates[:depth, : tree.topk], paths)
            size = 1.0 if measured.is_law else measured.samples
            said = "; ".join(c for c in (measured.caveat, caveat) if c)
            found.append(replace(measured, counts=tuple((size * law).tolist()), caveat=said))
    return HistogramAcceptance(tuple(found))


def rates_of(source: HistogramAcceptance) -> tuple[Floats, str]:
    """Return the rates of places by depth, [depths, places], where only first choices are known; and whose they are."""
    survival = np.array([source.law(source.longest)[k:].sum() for k in range(source.longest + 1)])
    first = np.divide(survival[1:], survival[:-1], out=np.zeros(len(survival) - 1), where=survival[:-1] > 0)
    further = further_choices()
    return np.column_stack((first, np.outer(1 - first, further.rates))), f"further choices {further.source}"


def deeper(last: AcceptanceHistogram, more: int) -> list[AcceptanceHistogram]:
    """Return what trees of so many more levels accept: the same, as a budget that is spent adds no level."""
    last = replace(last, levels=last.levels or last.draft_length)
    return [replace(last, counts=(*last.counts, *[0.0] * n)) for n in range(1, more + 1)]


def of_text(measured: AcceptanceHistogram, tree: Tree, depth: int) -> list[AcceptanceHistogram]:
    """Return the rounds that trees of each depth would have taken along a text."""
    assert measured.ranks is not None
    candidates = tree.topk + (depth - 1) * tree.topk**2
    text = parse_ranks(measured.ranks).some(MOST_CANDIDATES // candidates)
    depths = grown_text_depths(text, tree.topk, tree.nodes - 1, depth, np.random.default_rng(SEED))
    counts = [walk(of, text.starts, k) for k, of in enumerate(depths, 1)]
    caveat = "; ".join(c for c in (measured.caveat, ALONG) if c)
    told = [replace(measured, counts=tuple(c.tolist()), caveat=caveat, ranks=None) for c in counts if c.any()]
    if not told:
        raise UserError(f"{measured.ranks.path}: its outputs are no longer than a token, expected some that are")
    return told


def of_rates(measured: AcceptanceHistogram, rates: Floats, tree: Tree) -> list[AcceptanceHistogram]:
    """Return the rounds of trees of each depth where choices are accepted at rates by depth, [depths, places]."""
    further = further_choices()
    caveat = "; ".join(c for c in (measured.caveat, FROM_RATES.format(further.source)) if c)
    laws = rate_laws(rates, tree.topk, tree.nodes - 1, believed(rates))
    size = 1.0 if measured.is_law else measured.samples
    # The budget goes to shallow nodes where there are many: what is deeper is not there, and no number of rounds.
    levels = [int(np.flatnonzero(law)[-1]) for law in laws]
    return [
        replace(measured, counts=tuple((size * law).tolist()), caveat=caveat, levels=to)
        for law, to in zip(laws, levels, strict=True)
    ]


def tree_of_alpha(alpha: float, tree: Tree, longest: int) -> HistogramAcceptance:
    """Return what trees of each depth accept where a first choice is accepted at one rate, whatever came before."""
    stated = AcceptanceHistogram(tuple(IidAcceptance(alpha).law(max(longest, len(tree.levels))).tolist()), is_law=True)
    assumed = f"alpha {alpha:g} for first choices, and further ones {further_choices().source}"
    return tree_acceptance(HistogramAcceptance((replace(stated, assumed=assumed),)), tree, longest)
