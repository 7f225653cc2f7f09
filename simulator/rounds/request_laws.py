"""What rounds of each request of a simulation accept, from laws, histograms, rates, trees and recorded texts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from simulator.costs.step import Floats
from simulator.ground.fields import read_json
from simulator.ground.histogram import AcceptanceHistogram, design_effect_of, measured_on, variance
from simulator.ground.streams import stream
from simulator.ground.traces import read_outputs
from simulator.serving.draw_tables import Laws, Texts

from .acceptance_law import AcceptanceModel, Ints, iid_laws
from .length_law import rounds_by_length

if TYPE_CHECKING:
    from .acceptance_law import HistogramAcceptance

# Requests of so many qualities are told apart, as likely each.
QUALITIES = 64
# A survival is spread no further than to requests that accept everything or nothing.
LEAST_CONCENTRATION, MOST_CONCENTRATION = 1e-3, 1e6


def laws_of(model: AcceptanceModel, longest: int, *, concentration: float = np.inf, sharp: float = 0.0) -> Laws:
    """Return rounds that a law draws, at each draft length by its own.

    Args:
        model: The law.
        longest: The longest draft.
        concentration: Of the beta law that each P(A >= j) has across requests, infinite: all are alike.
        sharp: How far confidences tell drafts apart.
    """
    return spread(Laws(survivals(model, longest)[None], sharp=sharp), concentration)


def survivals(model: AcceptanceModel, longest: int) -> Floats:
    """Return P(A >= j) of drafts of each length, [d from 0 to longest, j from 1 to longest]."""
    found = np.zeros((longest + 1, longest))
    for k in range(1, longest + 1):
        found[k, :k] = at_least(model.law(k))
    return found


def at_least(law: Floats) -> Floats:
    """Return P(A >= j) for j in 1..K of P(A = a) for a in 0..K, [..., K + 1]."""
    return np.asarray(np.minimum(np.cumsum(law[..., ::-1], -1)[..., ::-1][..., 1:], 1.0), np.float64)


def spread(laws: Laws, concentration: float) -> Laws:
    """Return laws that differ from request to request, of the same mean.

    Each P(A >= j) has a beta law of that concentration across requests, where who is better at one place is at all. Of
    equally many requests each, the mean of so many parts of it.
    """
    if np.isinf(concentration):
        return laws
    from scipy.special import betainc, betaincinv

    kappa = min(max(concentration, LEAST_CONCENTRATION), MOST_CONCENTRATION)
    ends = np.linspace(0, 1, QUALITIES + 1)[:, None, None]

    def parts_of(mean: Floats, kappa: float) -> Floats:
        """Return the means of parts of a beta law, one behind the other, of means [rows, 1, ...]."""
        inside = (mean > 0) & (mean < 1)
        # Of P(A >= j) alone that is neither 0 nor 1.
        a = kappa * np.where(inside, mean, 0.5)
        at = ends.reshape(-1, *(1,) * (mean.ndim - 2))
        reached = betainc(a + 1, kappa - a, betaincinv(a, kappa - a, at))
        parts = np.where(inside, mean * np.diff(reached, axis=1) * QUALITIES, mean)
        # Rounding apart, what is reached at a place was reached at all before it.
        falling = np.minimum.accumulate(np.clip(parts, 0.0, 1.0), axis=-1)
        return np.asarray(falling.reshape(-1, *mean.shape[2:]), np.float64)

    if laws.found is None:
        return laws._replace(survival=parts_of(laws.survival[:, None], kappa))
    # Who finds more accepts more too: each of both is spread as far as makes both together as far.
    kappa = max((kappa + 1) * apart(laws) ** 2 - 1, LEAST_CONCENTRATION)
    found = parts_of(laws.found[:, None], kappa)
    return laws._replace(survival=parts_of(laws.survival[:, None], kappa), found=found)


def apart(laws: Laws) -> float:
    """Return how much further rounds are apart where finding and accepting are, than where their product is."""
    found, given = np.asarray(laws.found).mean(0), laws.survival.mean(0)[-1]
    both = np.sqrt(found * (1 - found)) * given + found * np.sqrt(given * (1 - given))
    product = np.sqrt(found * given * (1 - found * given))
    return float(both.sum() / product.sum()) if product.sum() > 0 else 1.0


def concentration_of(histogram: AcceptanceHistogram) -> float:
    """Return the concentration that makes rounds of one prompt as alike as they were measured; infinite: not known.

    The design effect of the mean tells the share of the variance that lies between prompts: 1 + (rounds - 1) * share.
    """
    each = 0.0 if histogram.prompts is None or histogram.is_law else histogram.samples / histogram.prompts
    share = (histogram.design_effect - 1) / (each - 1) if each > 1 else 0.0
    spread_at_1 = np.sqrt(histogram.survival * (1 - histogram.survival)).sum() ** 2
    between = min(share, 1.0) * variance(histogram.law)
    return float(spread_at_1 / between - 1) if between > 0 else np.inf


def found_laws(source: "HistogramAcceptance", longest: int) -> Laws:
    """Return rounds that draft what they find, and accept by its length; the longest stand for all beyond.

    source: with rounds by drafted length.
    """
    measured = source.nearest(source.longest)
    assert measured.by_length is not None
    counts = rounds_by_length(measured.by_length)
    k = min(longest, len(counts) - 1)
    rows = np.vstack((counts[:k], counts[k:].sum(0)))
    rows = np.column_stack((rows[:, :k], rows[:, k:].sum(1)))
    drafted = rows.sum(1)
    laws = np.divide(rows, drafted[:, None], out=np.eye(1, k + 1).repeat(k + 1, 0), where=drafted[:, None] > 0)
    return Laws(at_least(laws)[None], found=at_least(drafted / drafted.sum())[None])


def tree_laws(model: AcceptanceModel, widths: Ints) -> Laws:
    """Return rounds of trees, whose drafts are their nodes.

    widths: tokens that are verified at each depth, from 0 to the deepest that is grown.
    """
    nodes = np.asarray(widths, np.int64) - 1
    depths, each = survivals(model, len(nodes) - 1), np.arange(int(nodes.max()) + 1)
    found = np.zeros((len(each), max(len(each) - 1, 1)))
    found[:, : depths.shape[1]] = depths[np.searchsorted(nodes, each, side="right") - 1]
    return Laws(found[None])


def constant_laws(rates: ArrayLike, longest: int, *, drawn: bool = True) -> Laws:
    """Return requests that have a rate of their own, of each draft; drawn: each by chance, rather than in turn."""
    rates = np.asarray(rates, np.float64)
    laws = [at_least(iid_laws(rates, k, longest + 1)) for k in range(longest + 1)]
    return Laws(np.stack(laws, 1), drawn=drawn)


def even_laws(model: AcceptanceModel, longest: int) -> Laws:
    """Return rounds of the same mean and the least variance: each accepts the whole tokens next to the mean."""
    means = survivals(model, longest).sum(1)
    return Laws(np.clip(means[:, None] - np.arange(longest), 0.0, 1.0)[None])


def recorded_texts(sidecar: Path) -> dict[str, Texts]:
    """Return the texts of a trace by category: a request goes along one of them, whatever drafts it makes."""
    outputs = read_outputs(sidecar)
    return {name: Texts([o.likely for o in outputs if o.category == name]) for name in categories(outputs)}


def along(texts: Sequence[ArrayLike], longest: int, rng: np.random.Generator) -> list[Ints]:
    """Return rounds by accepted drafts, [K + 1] of each K from 1 on, of going along each text once with each.

    Every place is decided once: a draft there is accepted, or it is refused and its token written all the same.
    """
    counts = [np.zeros(k + 1, np.int64) for k in range(1, longest + 1)]
    for likely in map(np.asarray, texts):
        refused = np.append(np.flatnonzero(rng.random(len(likely)) >= likely), len(likely))
        for k, of_k in enumerate(counts, 1):
            for accepted in rounds_between(refused, k):
                of_k[accepted] += 1
    return counts


def rounds_between(refused: Ints, k: int) -> Iterator[int]:
    """Yield the drafts that rounds of K accept, which go on from place to place; the last place is the end."""
    place = 0
    for stop in refused[:-1].tolist():
        while place <= stop:
            accepted = min(stop - place, k)
            yield accepted
            place += accepted + 1


def recorded(sidecar: Path, texts: Iterable[Texts], longest: int, seed: int) -> "HistogramAcceptance":
    """Return what rounds along all texts of a trace accept, of each K up to the longest, as if they were counted."""
    from .acceptance_law import HistogramAcceptance

    likely = [text for of in texts for text in of.likely]
    about = measured_on(read_json(sidecar).object()) | {"prompts": len(likely)}
    counts = along(likely, longest, stream(seed, 0, "texts"))
    each = (AcceptanceHistogram(tuple(map(float, of_k)), **about) for of_k in counts)
    return HistogramAcceptance(tuple(replace(h, design_effect=design_effect_of({}, h)) for h in each))


def pooled(kinds: Sequence["HistogramAcceptance"]) -> "HistogramAcceptance":
    """Return the rounds of all kinds together, of each draft length that all were measured with."""
    from .acceptance_law import HistogramAcceptance

    shared = set.intersection(*({h.draft_length for h in kind.histograms} for kind in kinds))
    found = []
    for k in sorted(shared) or [min(kind.longest for kind in kinds)]:
        parts = [kind.nearest(k).cut(k) for kind in kinds]
        prompts = [part.prompts for part in parts if part.prompts]
        counts = tuple(float(n) for n in np.sum([part.counts for part in parts], 0))
        found.append(replace(parts[0], counts=counts, prompts=sum(prompts) if len(prompts) == len(parts) else None))
    return HistogramAcceptance(tuple(replace(h, ranks=None, by_length=None, drafted=None) for h in found))


def categories(outputs: Iterable[tuple[str, Floats]]) -> tuple[str, ...]:
    """Return the categories in the order in which they come."""
    return tuple(dict.fromkeys(name for name, _ in outputs))
