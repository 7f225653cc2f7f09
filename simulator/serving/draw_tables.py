"""What categories of requests accept, joined into the arrays that `draws` takes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.costs.step import Floats

from .draws import CATEGORY, LAW, ROUNDS, TEXT, WALK, Acceptance, Ints


class Laws(NamedTuple):
    """Rounds that are drawn, each request by one of some rows.

    survival: P(A >= j) of rounds of d drafts, [rows, d from 0 to longest, j from 1 to longest]. found: P(D >= j),
    [rows, longest]; None: rounds draft K tokens. sharp: how far confidences tell drafts apart, 0 to 1. drawn: whether a
    request draws its row, rather than take it in turn.
    """

    survival: Floats
    found: Floats | None = None
    sharp: float = 0.0
    drawn: bool = True


class Walks(NamedTuple):
    """Rounds as they were recorded, each request with one of some walks, repeated from the front.

    taken: accepted drafts of each walk's rounds. proposed: offered ones, of each walk; None: K. drawn: as of `Laws`.
    """

    taken: Sequence[ArrayLike]
    proposed: Sequence[ArrayLike] | None = None
    drawn: bool = False


class Texts(NamedTuple):
    """Texts, each place of which has a probability of being accepted if all before it are; drawn: as of `Laws`."""

    likely: Sequence[ArrayLike]
    drawn: bool = False


Category = Laws | Walks | Texts


def acceptance_of(categories: Sequence[Category]) -> Acceptance:
    """Return what all categories accept."""
    longest = max((c.survival.shape[2] for c in categories if isinstance(c, Laws)), default=1)
    laws = [wider(c, longest) for c in categories if isinstance(c, Laws)]
    walks = [walk for c in categories if not isinstance(c, Laws) for walk in walks_of(c)]
    rows = sum(len(law.survival) for law in laws)
    sharp = [c.sharp if isinstance(c, Laws) else 0.0 for c in categories]
    at_survival = len(categories)
    at_found = at_survival + rows * (longest + 1) * longest
    # Where the next walk begins among whole numbers, and among others.
    places = [len(categories) * CATEGORY + len(walks) * WALK, at_found + rows * longest]
    begins = list[int]()
    for walk in walks:
        for values in walk:
            into = int(values.dtype == np.float64)
            begins += [places[into], len(values)]
            places[into] += len(values)
    numbers = [values for walk in walks for values in walk]
    said = [[LAW, c.found is not None] if isinstance(c, Laws) else walked(c) for c in categories]
    many = [len(c.survival) if isinstance(c, Laws) else len(c[0]) for c in categories]
    first = [
        sum(n for n, c in zip(many[:i], categories[:i], strict=True) if isinstance(c, Laws) is isinstance(of, Laws))
        for i, of in enumerate(categories)
    ]
    table = [
        [how, at, n, c.drawn, varies] for (how, varies), at, n, c in zip(said, first, many, categories, strict=True)
    ]
    floats = [np.array(sharp), *(law.survival for law in laws), *(law.found for law in laws if law.found is not None)]
    return Acceptance(
        ints=joined([np.array(table), np.array(begins), *(v for v in numbers if v.dtype == np.int64)]).astype(np.int64),
        floats=joined([*floats, *(v for v in numbers if v.dtype == np.float64)]).astype(np.float64),
        longest=longest,
        at_walks=len(categories) * CATEGORY,
        at_survival=at_survival,
        at_found=at_found,
    )


def walked(category: Walks | Texts) -> list[int]:
    """Return how a category of walks accepts, and whether its drafts vary."""
    return [TEXT, 0] if isinstance(category, Texts) else [ROUNDS, int(category.proposed is not None)]


def walks_of(category: Walks | Texts) -> list[tuple[Ints | Floats, Ints]]:
    """Return what each walk accepts, and what it offers."""
    if isinstance(category, Texts):
        return [(np.asarray(text, np.float64).ravel(), np.zeros(1, np.int64)) for text in category.likely]
    pairs = zip(category.taken, category.proposed or category.taken, strict=True)
    return [(np.asarray(taken, np.int64).ravel(), np.asarray(offered, np.int64).ravel()) for taken, offered in pairs]


def wider(laws: Laws, longest: int) -> Laws:
    """Return laws up to a longest draft: longer ones than they tell of accept no more."""
    more = longest - laws.survival.shape[2]
    survival = np.pad(np.asarray(laws.survival, np.float64), ((0, 0), (0, more), (0, 0)), mode="edge")
    found = np.zeros((len(survival), longest - more)) if laws.found is None else np.asarray(laws.found, np.float64)
    further = ((0, 0), (0, more))
    return laws._replace(survival=np.pad(survival, ((0, 0), *further)), found=np.pad(found, further))


def joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return all parts as one, one behind another."""
    return np.concatenate([part.ravel() for part in parts])


def mean_offered(category: Category, longest: int) -> Floats:
    """Return the drafts of a round on average, by K from 0 to longest."""
    if isinstance(category, Laws) and category.found is not None:
        places = np.pad(category.found.mean(0), (0, longest))[:longest]
        return np.append(0.0, np.cumsum(places))
    if isinstance(category, Walks) and category.proposed is not None:
        return cut_means(category.proposed, longest)
    return np.arange(longest + 1.0)


def mean_accepted(category: Category, longest: int) -> Floats:
    """Return the accepted drafts of a round on average, by K from 0 to longest; of texts as begun at every place."""
    if isinstance(category, Walks):
        return cut_means(category.taken, longest)
    if isinstance(category, Texts):
        return np.asarray(np.mean([runs_along(np.asarray(text, np.float64), longest) for text in category.likely], 0))
    law = wider(category, max(longest, category.survival.shape[2]))
    each = law.survival.sum(2)[:, : longest + 1]
    if category.found is None:
        return np.asarray(each.mean(0))
    assert law.found is not None
    # P(D >= d) for d from 0 on: at K a round drafts what it finds, or K where it finds more.
    at_least = np.column_stack((np.ones(len(each)), law.found))[:, : longest + 1]
    shorter = (at_least[:, :-1] - at_least[:, 1:]) * each[:, :-1]
    before = np.column_stack((np.zeros(len(each)), np.cumsum(shorter, 1)))
    return np.asarray((before + at_least * each).mean(0))


def mean_of_rounds(accepted: Floats, tokens: ArrayLike) -> Floats:
    """Return the accepted drafts of a round on average, [K], of kinds of requests, [kinds, K].

    tokens: what each kind writes. Who accepts less takes more rounds for as many.
    """
    share = np.asarray(tokens, np.float64) / np.sum(tokens)
    return np.asarray(1 / (share @ (1 / (1 + np.asarray(accepted)))) - 1)


def cut_means(walks: Sequence[ArrayLike], longest: int) -> Floats:
    """Return the mean of recorded numbers that are cut at K, by K."""
    k = np.arange(longest + 1)
    return np.asarray(np.mean([np.minimum(np.asarray(walk)[:, None], k).mean(0) for walk in walks], 0))


def runs_along(likely: Floats, longest: int) -> Floats:
    """Return how many of K drafts are accepted from a place of a text on average, by K."""
    again = np.resize(likely, len(likely) + longest)
    reached = np.cumprod([again[place : place + len(likely)] for place in range(longest)], 0)
    return np.append(0.0, np.cumsum(reached.mean(1)))
