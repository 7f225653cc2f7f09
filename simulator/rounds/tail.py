"""What lies beyond the measured draft length: a discrete Weibull tail, P(A >= j) = q^(j^b) (Nakagawa and Osaki 1975).

What was measured stays as it is; the tail adds what lies beyond, at most as likely as the last measured place. b above
1: each token is accepted less often than the one before it, as of heads; below 1: more often. b = 1 is one alpha.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from simulator.costs.step import Floats
from simulator.ground.histogram import AcceptanceHistogram

if TYPE_CHECKING:
    from .acceptance_law import HistogramAcceptance

LEAST_SHAPE, MOST_SHAPE = 0.25, 4.0
# Of log(-log P(A >= j)): nearer to 0 and 1 than this nobody counts.
EDGE = 1e-9
# Spread of ln(accepted beyond K / forecast), 4 to 8, of the published curves of chains that reach so far.
SPREAD = 0.22
# Further than so many times what was measured nobody looks for the best K.
FURTHER = 2


class Weibull(NamedTuple):
    """P(A >= j) = q^(j^b); q and b broadcast, [...]."""

    q: Floats
    b: Floats

    def survival(self, j: ArrayLike) -> Floats:
        """P(A >= j) at places from 1 on, [..., places]."""
        places = np.asarray(j, np.float64)
        return np.asarray(self.q[..., None] ** places ** self.b[..., None], np.float64)


def fit(survival: ArrayLike) -> Weibull:
    """Fit a line through log(-log P(A >= j)) over log j, of places that some rounds reached and not all; [..., k].

    One such place, or none, tells of no shape: b = 1.
    """
    s = np.asarray(survival, np.float64)
    inside = (s > EDGE) & (s < 1 - EDGE)
    x, count = np.log(np.arange(1, s.shape[-1] + 1.0)), inside.sum(-1)
    y = np.log(-np.log(np.clip(s, EDGE, 1 - EDGE)))
    share = inside / np.maximum(count, 1)[..., None]
    x_mean, y_mean = (share * x).sum(-1), (share * y).sum(-1)
    spread = (share * (x - x_mean[..., None]) ** 2).sum(-1)
    slope = (share * (x - x_mean[..., None]) * y).sum(-1) / np.where(spread > 0, spread, 1.0)
    b = np.where(count > 1, np.clip(slope, LEAST_SHAPE, MOST_SHAPE), 1.0)
    q = np.exp(-np.exp(y_mean - b * x_mean))
    nowhere = np.where(s[..., 0] >= 1 - EDGE, 1.0, 0.0)
    return Weibull(np.asarray(np.where(count > 0, q, nowhere)), np.asarray(b))


def beyond(survival: Floats, longest: int, times: ArrayLike = 1.0) -> Floats:
    """Return P(A >= j) at places k + 1..longest behind those of a survival, [..., longest - k].

    times: by what the tail is larger or smaller than its law, [...].
    """
    k = survival.shape[-1]
    tail = fit(survival).survival(np.arange(k + 1, longest + 1)) * np.asarray(times)[..., None]
    return np.asarray(np.minimum(tail, survival[..., -1:]), np.float64)


def extended(histogram: AcceptanceHistogram, longest: int) -> AcceptanceHistogram:
    """Return a histogram with a tail up to a draft length; the same where it reaches so far."""
    k = histogram.draft_length
    if longest <= k:
        return histogram
    survival = histogram.survival
    law = fit(survival)
    places = np.concatenate(([1.0], survival, beyond(survival, longest), [0.0]))
    formula = f"P(A >= j) = {float(law.q):.3g}^(j^{float(law.b):.3g})"
    told = f"beyond K = {k} extrapolated, {formula}"
    return replace(
        histogram,
        counts=tuple((-np.diff(places) * histogram.samples).clip(0).tolist()),
        caveat="; ".join(filter(None, [histogram.caveat, told])),
        measured_to=k,
        ranks=None,
    )


def with_tail(model: "HistogramAcceptance", longest: int) -> "HistogramAcceptance":
    """Return what is measured with one more histogram, whose tail goes up to `longest`, at least twice as far."""
    last = model.nearest(model.longest)
    return model._replace(histograms=(*model.histograms, extended(last, max(longest, FURTHER * last.draft_length))))
